# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of modules whose work on a guest can not be taken back."""

from __future__ import annotations

from typing import Any

from ._gate_args import GATE_ARGS
from .guest_identity import IDENTITY_OPTIONS

GUARD_ARGS: dict[str, dict[str, Any]] = {
    **GATE_ARGS,
    "confirm": {"type": "str"},
    "allow_impact": {"type": "bool", "default": False},
    "allow_brain": {"type": "bool", "default": False},
    "brain_vmid": {"type": "int", "default": 100},
    "dependency_graph": {"type": "path"},
    "expect": {"type": "dict", "options": IDENTITY_OPTIONS},
}
