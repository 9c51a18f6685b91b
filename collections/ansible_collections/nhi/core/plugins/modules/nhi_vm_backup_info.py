#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_vm_backup_info
short_description: List the backups of guests of Proxmox VE
version_added: 0.1.0
description:
  - Lists the backups of one guest, or of all, on one storage or on all of the cluster, newest first.
  - Only backups that the token may see are listed.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.attributes.info_module
  - nhi.core.proxmox
options:
  name:
    description: Name of a guest that is there. All backups of its VMID are listed, also those of a former owner.
    type: str
    aliases: [vm_name]
  vmid:
    description: VMID of a guest, which need not be there any more.
    type: int
    aliases: [vm_id]
  storage:
    description: The storage to look at. All that take backups if not specified.
    type: str
author:
  - NHI contributors (@nhi-lab)
seealso:
  - module: nhi.core.nhi_vm_backup
"""

EXAMPLES = r"""
- name: List the backups of a guest
  nhi.core.nhi_vm_backup_info:
    name: postgres-lxc
  register: found

- name: Restore the newest beside the original
  nhi.core.nhi_vm_backup:
    name: postgres-drill
    state: restored
    backup: "{{ found.backups[0].volid }}"
    state_dir: infrastructure
"""

RETURN = r"""
backups:
  description: The backups, newest first.
  returned: success
  type: list
  elements: dict
  contains:
    volid:
      description: Its volume ID.
      type: str
      returned: always
      sample: local:backup/vzdump-lxc-102-2026_11_23-02_00_00.tar.zst
    storage: {description: The storage it lies on., type: str, returned: always, sample: local}
    vmid: {description: VMID of the guest it was made of., type: int, returned: always, sample: 102}
    type: {description: V(lxc) or V(qemu)., type: str, returned: always, sample: lxc}
    taken_at: {description: When it was made., type: str, returned: always, sample: '2026-11-23T02:00:00+00:00'}
    size: {description: Its size in bytes., type: int, returned: always, sample: 126515062}
    notes: {description: Its notes., type: str, returned: always, sample: postgres-lxc}
    protected: {description: Whether it is protected., type: bool, returned: always, sample: false}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._proxmox import (
    PROXMOX_ARGS,
    ProxmoxClient,
    endpoint_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.guest_backup import Backup, guest_from_params
from ansible_collections.nhi.core.plugins.module_utils.guest_backup_reader import every_backup
from ansible_collections.nhi.core.plugins.module_utils.guest_reader import read_cluster
from ansible_collections.nhi.core.plugins.module_utils.guest_work import the_guest
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable, printable_lines, printable_parts

ARGUMENT_SPEC: dict[str, Any] = {
    **PROXMOX_ARGS,
    "name": {"type": "str", "aliases": ["vm_name"]},
    "vmid": {"type": "int", "aliases": ["vm_id"]},
    "storage": {"type": "str"},
}


def find(client: ProxmoxClient, params: dict[str, Any]) -> tuple[list[Backup], list[str]]:
    """The backups that were asked for, and what could not be read."""
    cluster = read_cluster(client)
    vmid = params["vmid"]
    if params["name"] is not None:
        vmid = the_guest(client, cluster, guest_from_params(params)).vmid
    return every_backup(client, cluster, params["storage"], vmid)


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        with ProxmoxClient(endpoint_from_params(module.params)) as client:
            backups, unread = find(client, module.params)
    except NHIError as e:
        module.fail_json(msg=str(e))
    for line in unread:
        module.warn(printable(line))
    module.exit_json(changed=False, backups=printable_parts([b.as_dict() for b in backups], printable_lines))


if __name__ == "__main__":
    main()
