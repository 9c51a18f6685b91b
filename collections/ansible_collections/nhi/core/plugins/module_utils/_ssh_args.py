# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of every module that logs in to guests; documented as the fragment ``nhi.core.ssh``."""

from __future__ import annotations

from typing import Any

SSH_ARGS: dict[str, dict[str, Any]] = {
    "ssh_user": {"type": "str", "default": "root"},
    "ssh_private_key": {"type": "path", "no_log": False},
    "known_hosts": {"type": "path"},
}
