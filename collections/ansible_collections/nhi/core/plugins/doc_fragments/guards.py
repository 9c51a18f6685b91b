# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules whose work on a guest can not be taken back (``GUARD_ARGS`` in module_utils/_guard_args.py)."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``nhi.core.guards``."""

    DOCUMENTATION = r"""
options:
  confirm:
    description: The name of the guest once more. Nothing of the guest is given up without it.
    type: str
  allow_impact:
    description:
      - Whether to go on although services that run, or may run, depend on the guest, or although it carries a service
        that the dependency graph calls critical.
    type: bool
    default: false
  allow_brain:
    description: Whether the Brain, which controls all other guests, may be meant too.
    type: bool
    default: false
  brain_vmid:
    description: VMID of the Brain. A guest with the tag C(brain) is the Brain too.
    type: int
    default: 100
  dependency_graph:
    description:
      - File that says which service depends on which. C(dependency_graph.json) in O(state_dir) is read if it exists
        and this is not specified.
    type: path
"""
