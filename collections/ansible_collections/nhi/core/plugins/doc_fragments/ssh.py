# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that log in to guests (``SSH_ARGS`` in module_utils/_ssh_args.py)."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``nhi.core.ssh``."""

    DOCUMENTATION = r"""
options:
  ssh_user:
    description: User on the guests. Anybody but V(root) needs C(sudo) without a password there.
    type: str
    default: root
  ssh_private_key:
    description: File of the SSH key for the guests. What the SSH client finds itself is used if not specified.
    type: path
  known_hosts:
    description: File with the host keys of the guests, as M(nhi.core.nhi_vm) records them. Others are not logged in to.
    type: path
requirements:
  - OpenSSH client
"""
