# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option ``expect`` (``IDENTITY_OPTIONS`` in module_utils/guest_identity.py)."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``nhi.core.identity``."""

    DOCUMENTATION = r"""
options:
  expect:
    description:
      - Which guest is expected, as a check run returned it in C(identity). When the guest that is there differs in
        anything that is given, the run is refused and says in what.
    type: dict
    suboptions:
      vmid:
        description: Its VMID.
        type: int
      type:
        description: V(lxc) or V(qemu).
        type: str
      name:
        description: Its name.
        type: str
      created:
        description: When it was created. Only virtual machines record it.
        type: str
      operation:
        description: The operation of NHI that made it.
        type: str
      mac:
        description: MAC addresses. One of them must be the guest's still.
        type: list
        elements: str
      digest:
        description: Digest of its configuration, which changes with every correction.
        type: str
"""
