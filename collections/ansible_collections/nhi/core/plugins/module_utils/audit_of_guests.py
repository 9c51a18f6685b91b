# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log of a state directory, as the history asks it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .audit_log import directory_of
from .audit_reader import entries_about
from .audit_view import AuditReader, LoggedAudit


def audit_of(state_dir: Path | str) -> AuditReader | None:
    """The audit log of a state directory; None where there is none."""
    return LoggedAudit(partial(entries_about, state_dir)) if directory_of(state_dir).is_dir() else None
