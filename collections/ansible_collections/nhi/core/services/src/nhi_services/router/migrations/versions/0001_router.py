# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests, decisions, sums, deferred tasks."""

from __future__ import annotations

from nhi_services.router.migrate import apply_sql

revision = "0001_router"
down_revision = None


def upgrade() -> None:
    """Apply the file beside this one."""
    apply_sql("0001_router")
