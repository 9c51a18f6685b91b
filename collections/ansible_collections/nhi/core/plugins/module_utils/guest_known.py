# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the last scan knows of guests, for the question whether a guest is still the same one."""

from __future__ import annotations

from pathlib import Path

from .errors import StateError
from .guest_identity import Known
from .state import StateStore


def read_known(state_dir: Path) -> Known:
    """The guests of state.json; a state that can not be read is told and compares nothing."""
    try:
        snapshot = StateStore(state_dir).read_or_none()
    except StateError as e:
        return Known(problem=str(e))
    if snapshot is None:
        return Known()
    document = snapshot.document
    return Known(document["infrastructure"]["guests"], document["meta"]["generated_at"])
