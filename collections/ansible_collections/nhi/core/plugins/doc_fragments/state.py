# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options shared by every module that works on a state directory (``STATE_ARGS`` in module_utils/_state_args.py)."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``nhi.core.state``."""

    DOCUMENTATION = r"""
options:
  state_dir:
    description:
      - Directory that holds C(state.json), its checksum and its lock, and the audit log in C(audit).
      - Uses the E(NHI_STATE_DIR) environment variable if not specified.
    type: path
    required: true
"""
