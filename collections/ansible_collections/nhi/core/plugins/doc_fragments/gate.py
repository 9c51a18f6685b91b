# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules whose changes go through the gate (``GATE_ARGS`` in module_utils/_gate_args.py)."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``nhi.core.gate``."""

    DOCUMENTATION = r"""
options:
  policy:
    description:
      - File that says who may change what, and what needs the approval of an operator. C(policy.json) in O(state_dir)
        is read if it exists and this is not specified.
      - Where there is none, nothing is asked. One that can not be used allows nothing.
      - While a policy is in force, check mode returns a plan with a number.
    type: path
  plan_id:
    description:
      - Number of the plan that a dry run returned. This run does what that plan says or nothing, and refuses if
        anything has changed since.
      - A plan is good for one run of the same actor, within its time. Where the policy asks for it, an operator must
        have approved it with C(nhi approve).
    type: str
"""
