# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How moments are written in options (module_utils/moments.py)."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``nhi.core.moment``."""

    DOCUMENTATION = r"""
options: {}
notes:
  - A moment is written as V(yesterday 14:00), V(2 hours ago), V(2026-11-26T14:00), V(now), or the name of a snapshot.
    It is local time of the host that the module runs on, unless it carries an offset.
"""
