#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_vm
short_description: Create, correct, start, stop and destroy a guest of Proxmox VE
version_added: 0.1.0
description:
  - Brings one container or virtual machine into a wanted state and waits for it.
  - A guest is found by its name. A VMID and an address are chosen for a new one unless you give them, so that
    parallel runs never choose the same. The creating call itself decides who gets a VMID.
  - Everything that can be checked is checked before the first change, and all that fails is told together.
  - When a later step fails, or the run is interrupted, what this run made is destroyed again and nothing else.
  - Whatever the outcome, C(state.json) is brought up to date for this guest, and left alone for all others. Its health
    is what the last scan found, or unknown since it was started.
  - In check mode nothing is written. The plan is returned with its actions, checks, differences and impact.
  - A guest of that name that was made by somebody else is corrected like one made here. What can not be changed in
    place is refused. No guest is ever replaced unless O(replace) names it.
  - Options are named like those of M(community.proxmox.proxmox) and M(community.proxmox.proxmox_kvm) where they mean
    the same.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.identity
  - nhi.core.proxmox
  - nhi.core.state
  - nhi.core.gate
  - nhi.core.guest_network
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - O(state=restarted) restarts the guest each time.
options:
  name:
    description: Name of the guest, which is its host name too.
    type: str
    required: true
    aliases: [hostname]
  state:
    description:
      - V(present) and V(started) create the guest if it is missing. V(present) starts and stops nothing, not even a
        new guest.
      - V(stopped) and V(restarted) need a guest that is there. It is shut down, and stopped hard after
        O(shutdown_timeout).
      - V(absent) destroys the guest with its disks.
      - In every state but V(absent), given options that differ from the guest's configuration are corrected.
    type: str
    choices: [present, absent, started, stopped, restarted]
    default: present
  type:
    description:
      - Kind of guest. A new one is a container (V(lxc)) unless you say V(qemu), a virtual machine. A clone is of its
        source's kind.
    type: str
    choices: [lxc, qemu]
  template:
    description:
      - What a new guest is made from; it must exist.
      - For a container a short name such as V(debian-12), which means the newest template that begins so, a file name,
        or a volume ID such as V(local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst).
      - For a virtual machine the name or VMID of a template guest with cloud-init, which is cloned. Without it the
        machine gets an empty disk and no system.
      - Mutually exclusive with O(clone).
    type: str
    aliases: [ostemplate]
  clone:
    description:
      - Name or VMID of a guest that a new one is made a copy of, a container or a virtual machine. It must be a
        template or stopped, or O(snapname) must name one of its snapshots.
      - The clone has a name, notes and MAC addresses of its own, no protection, no fixed address and no tag of its
        source. Interfaces that are not in O(networks) are left without an address where the source's is a fixed one.
    type: str
    version_added: 0.2.0
  snapname:
    description: Snapshot of the guest in O(clone) that is copied, instead of the guest as it is now.
    type: str
    version_added: 0.2.0
  full:
    description:
      - Whether a clone gets disks of its own, which it does unless you say V(false). Only templates on some kinds of
        storage have linked clones.
    type: bool
    version_added: 0.2.0
  purpose:
    description: What the guest is for, one word. It becomes the tag C(purpose-WORD).
    type: str
  vmid:
    description:
      - VMID of the guest. For a guest that is there it must be the guest's own.
      - It says which guest is meant when two bear the same name.
    type: int
  vmid_range:
    description: Where the VMID of a new guest is chosen from.
    type: str
    default: 105-999
  node:
    description:
      - Node of the guest. If not specified, a new guest goes to the online node with the most free memory of those
        that have O(storage), and O(template) or the storage that it names.
      - Guests are never migrated.
    type: str
  cores:
    description: Number of CPU cores.
    type: int
  memory:
    description: Memory in MiB.
    type: int
  swap:
    description: Swap space of a container in MiB.
    type: int
    version_added: 0.2.0
  balloon:
    description: Memory in MiB that a virtual machine keeps when the node needs some back. V(0) turns that off.
    type: int
    version_added: 0.2.0
  cpu:
    description: CPU type of a virtual machine, for example V(host).
    type: str
    version_added: 0.2.0
  disk:
    description: Size of the root disk in GiB. It can grow, never shrink.
    type: int
  mount_volumes:
    description:
      - More volumes of a container. They can grow, never shrink. Volumes that are not listed are left alone.
    type: list
    elements: dict
    version_added: 0.2.0
    suboptions:
      id:
        description: Which mount point, V(mp0) to V(mp255).
        type: str
        required: true
      mountpoint:
        description: Where the container sees the volume.
        type: path
        required: true
      size:
        description: Size in GiB. A new volume needs one.
        type: int
      storage:
        description: Storage of a new volume. The root disk's is used if not specified.
        type: str
      options:
        description: More properties of the mount point, for example C(backup) or C(ro), as text.
        type: dict
      host_path:
        description:
          - A path of the node. It is refused, as Proxmox VE lets only V(root@pam) bind paths, never an API token.
        type: path
  storage:
    description:
      - Storage of a new guest's disk. The suitable one with the most free space is chosen if not specified.
    type: str
  tags:
    description: All tags of the guest, except the one that O(purpose) adds.
    type: list
    elements: str
  pool:
    description: Resource pool of a new guest. It must exist.
    type: str
  ssh_public_keys:
    description:
      - Keys that may log in to a new guest, as in C(authorized_keys). Not compared afterwards.
      - A clone of a container has the keys of its source, so they are refused there.
    type: list
    elements: str
    aliases: [pubkey, sshkeys]
  ciuser:
    description: Name of the user that cloud-init makes in a virtual machine and gives the keys to.
    type: str
  cipassword:
    description: Password that cloud-init gives the user of a new virtual machine. Not compared afterwards.
    type: str
    version_added: 0.2.0
  protection:
    description: Whether Proxmox VE refuses to destroy the guest.
    type: bool
  onboot:
    description: Whether the guest starts with its node.
    type: bool
  startup:
    description: When the guest starts with its node, and stops with it. Only what is given is compared and corrected.
    type: dict
    version_added: 0.2.0
    suboptions:
      order:
        description: Place in the order. Guests stop in the reverse order.
        type: int
      up:
        description: Seconds to wait after its start before the next guest starts.
        type: int
      down:
        description: Seconds its shutdown may take.
        type: int
  timezone:
    description: Time zone of a container, as V(Europe/Berlin), or V(host) for the node's.
    type: str
    version_added: 0.2.0
  description:
    description: Notes on the guest. A line naming the operation that made the guest is kept below them.
    type: str
  unprivileged:
    description: Whether root of a new container is nobody on the node, which is so unless you say V(false).
    type: bool
  nesting:
    description:
      - Whether a container may run containers and systemd's sandboxes. A new unprivileged one may unless you say
        V(false).
    type: bool
  features:
    description:
      - Features of a container, each as V(NAME) or V(NAME=VALUE). Those that are not listed are left alone.
      - No API token can change any but V(nesting), and none at all of a privileged container. A container that has
        them already is accepted; otherwise the error says what to run on the node.
    type: list
    elements: str
    version_added: 0.2.0
  wait:
    description:
      - Whether to wait, after a start, until the guest reports its address. Tasks are always waited for.
      - A virtual machine with a fixed address is not asked, as its image may have no guest agent.
    type: bool
    default: true
  wait_port:
    description: A TCP port of the guest to wait for as well, for example V(22).
    type: int
  wait_timeout:
    description: Longest time in seconds for each task and for the guest to become reachable.
    type: int
    default: 300
  shutdown_timeout:
    description: Seconds a guest is given to shut down before it is stopped hard.
    type: int
    default: 30
  confirm:
    description: The name of the guest once more. Nothing is destroyed without it.
    type: str
  allow_impact:
    description:
      - Whether to destroy a guest although services that run, or may run, depend on it, or although it carries a
        service that the dependency graph calls critical.
    type: bool
    default: false
  replace:
    description:
      - The name of the guest once more. If the guest can not be changed in place to what was asked for, another one of
        its name is made, and then the old one is destroyed with its data. A guest that fits stays, and so does one that
        can be changed in place.
      - That is so for another kind, node or storage, a smaller disk, O(unprivileged), volumes that are smaller or on
        another storage, another VMID, and for another O(template) or O(clone) where the guest's notes say what it was
        made from, as those of guests made here do.
      - The old guest is stopped and renamed to C(NAME-replaced-VMID), the new one made and waited for, and only then
        the old one is destroyed. Until that point a failure, an interrupt or a crash ends with the old guest as it was.
        From there on the new guest stays, and what could not be destroyed is left to the next run, which is warned of.
      - The new guest is made from the options alone. It gets another VMID, so leave out O(vmid). It gets the addresses
        of the old one where O(network) asks for them, says V(auto), or says nothing. It runs if that ran, and on the
        same node, unless O(node) or the guest that is cloned is another one's.
      - Everything is checked for both guests first, like for V(absent) and for a new guest; both disks need room.
        O(confirm) is not needed. The old guest's snapshots go with it, its backups stay under its VMID.
      - With O(state=present) and O(state=started) only.
    type: str
    version_added: 0.2.0
  made_by:
    description:
      - With V(absent), the operations of which one made the guest, as RV(operation) of those runs names them. A guest
        that was made by another one is left alone. It is how a failed deployment takes back its own guest and no other.
    type: list
    elements: str
  deployment:
    description:
      - Run of M(nhi.core.nhi_deployment) to whose record the operation is added before it makes a guest.
    type: str
  known_hosts:
    description:
      - File in which the SSH host keys of the guest are recorded once it runs, and from which they are removed with it.
      - The keys of a new container are compared with the fingerprints that Proxmox VE printed when it made them, those
        of a virtual machine with what its guest agent reads, which takes C(VM.GuestAgent.FileRead), before Proxmox VE 9
        C(VM.Monitor).
      - Nobody vouches for cloned and restored containers, and for machines whose agent can not be asked. Their keys are
        recorded at first sight, with a warning, and a key that changed afterwards fails the task.
      - Nothing is recorded in check mode, and none without this option.
    type: path
  dependency_graph:
    description:
      - File that says which service depends on which. C(dependency_graph.json) in O(state_dir) is read if it exists
        and this is not specified.
    type: path
  brain_vmid:
    description: VMID of the Brain. It is never destroyed, and neither is a guest with the tag C(brain).
    type: int
    default: 100
  address_quarantine:
    description:
      - Seconds for which V(auto) does not choose the address of a guest that was destroyed or has another address now,
        as others may still talk to it. A guest of the same name gets its own address back at once.
      - An address of O(network.ip) is given to the guest in any case, with a warning.
    type: int
    default: 300
  catalogue:
    description:
      - Entries of the service catalogue, as P(nhi.core.nhi_catalogue#lookup) returns them, so that C(state.json) tells
        where the guest's services listen.
      - Without them that is taken from other guests of the same service, as far as the state has any.
    type: list
    elements: dict
    default: []
  max_memory_overcommit:
    description:
      - How many times a node's memory the guests that run on it may be given together, counting the guest that is
        created, started or enlarged. V(0) is no limit.
      - A guest that is created is counted together with those that other runs with the same O(state_dir) are making,
        here and for cores and disks.
    type: float
    default: 1.5
  max_cpu_overcommit:
    description:
      - How many times a node's cores the guests that run on it may be given together. V(0) is no limit. A container
        that may use all cores counts as one, and no guest may have more cores than its node.
    type: float
    default: 32.0
  max_disk_overcommit:
    description:
      - How many times the size of a storage with thin provisioning its disks may have together. V(0) is no limit. Other
        storages never promise more than they have free.
    type: float
    default: 2.0
author:
  - NHI contributors (@nhi-lab)
seealso:
  - module: nhi.core.nhi_state_scan
"""

EXAMPLES = r"""
- name: Run a small container, with a VMID and an address that are free
  nhi.core.nhi_vm:
    name: redis-cache
    state: started
    template: debian-12
    purpose: cache
    cores: 1
    memory: 256
    disk: 2
    network:
      range: 192.0.2.105-192.0.2.199
      prefix: 24
      gateway: 192.0.2.1
    tags: [svc-redis]
    ssh_public_keys: ["{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"]
    state_dir: /var/lib/nhi
  register: redis

- name: Run a virtual machine with a fixed address, cloned from a template guest
  nhi.core.nhi_vm:
    name: webapp
    state: started
    type: qemu
    template: debian-12-cloud
    vmid: 110
    memory: 2048
    network: {bridge: vmbr0, ip: 192.0.2.110/24, gateway: 192.0.2.1}
    state_dir: /var/lib/nhi

- name: Run a container in two networks, one of them a VLAN, with a volume for its data
  nhi.core.nhi_vm:
    name: files
    state: started
    template: debian-12
    networks:
      - {bridge: vmbr0, ip: 192.0.2.120/24, gateway: 192.0.2.1, ip6: auto}
      - {bridge: vmbr1, tag: 30, ip: 198.51.100.120/24}
    mount_volumes:
      - {id: mp0, mountpoint: /srv, size: 20}
    startup: {order: 20, up: 10}
    state_dir: /var/lib/nhi

- name: Try an upgrade on a copy of a guest, as it was at a snapshot
  nhi.core.nhi_vm:
    name: files-trial
    state: started
    clone: files
    snapname: before-upgrade
    state_dir: /var/lib/nhi

- name: See what destroying PostgreSQL would break
  nhi.core.nhi_vm:
    name: postgres-lxc
    state: absent
    dependency_graph: /var/lib/nhi/dependency_graph.json
    state_dir: /var/lib/nhi
  check_mode: true
  register: plan

- name: Do exactly what was planned, and nothing if the guest is another one or was changed meanwhile
  nhi.core.nhi_vm:
    name: postgres-lxc
    state: absent
    confirm: postgres-lxc
    expect: "{{ plan.identity }}"
    state_dir: /var/lib/nhi

- name: See what replacing a container by one of another release would do
  nhi.core.nhi_vm:
    name: redis-cache
    state: started
    template: debian-13
    network: {range: 192.0.2.105-192.0.2.199, prefix: 24, gateway: 192.0.2.1}
    replace: redis-cache
    state_dir: /var/lib/nhi
  check_mode: true
  diff: true

- name: Replace it, unless it is of that release already
  nhi.core.nhi_vm:
    name: redis-cache
    state: started
    template: debian-13
    network: {range: 192.0.2.105-192.0.2.199, prefix: 24, gateway: 192.0.2.1}
    replace: redis-cache
    state_dir: /var/lib/nhi

- name: Destroy a guest
  nhi.core.nhi_vm:
    name: redis-cache
    state: absent
    confirm: redis-cache
    state_dir: /var/lib/nhi
"""

RETURN = r"""
vm:
  description: The guest as it is now, or in check mode as it would be. Null when there is none.
  returned: success
  type: dict
  contains:
    vmid: {description: Its VMID., type: int, returned: always, sample: 105}
    name: {description: Its name., type: str, returned: always, sample: redis-cache}
    type: {description: V(lxc) or V(qemu)., type: str, returned: always, sample: lxc}
    node: {description: Its node., type: str, returned: always, sample: pve}
    status: {description: V(running) or V(stopped)., type: str, returned: always, sample: running}
    address:
      {description: Where to reach it. Null while nobody knows., type: str, returned: always, sample: 192.0.2.105}
    cores: {description: CPU cores. Null for all of the node's., type: int, returned: always, sample: 1}
    memory: {description: Memory in MiB., type: int, returned: always, sample: 256}
    tags: {description: All tags., type: list, elements: str, returned: always, sample: [purpose-cache, svc-redis]}
    pool: {description: Resource pool., type: str, returned: always, sample: ai-lab}
    protection: {description: Whether it is protected., type: bool, returned: always, sample: false}
    onboot: {description: Whether it starts with its node., type: bool, returned: always, sample: true}
    description: {description: Notes., type: str, returned: always, sample: Redis for cache.}
    managed:
      description: Whether this module made the guest. One that somebody else made is corrected all the same.
      type: bool
      returned: always
      sample: true
    networks:
      description: All its interfaces.
      type: list
      elements: dict
      returned: always
      sample:
        - {index: 0, bridge: vmbr0, mac: 'BC:24:11:00:00:01', tag: null, mtu: null, rate: null, firewall: false,
           ip: 192.0.2.105/24, gateway: 192.0.2.1, ip6: null, gateway6: null}
vmid:
  description: VMID of the guest. Null when there is none.
  returned: success
  type: int
  sample: 105
replaced:
  description:
    - The guest whose place this one took, or in check mode would take. C(destroyed) is false in check mode, and where
      the old guest could not be destroyed and is left to the next run. Null when no guest is replaced.
  returned: success
  type: dict
  sample: {vmid: 105, name: redis-cache, type: lxc, node: pve, destroyed: true}
actions:
  description: What was done, or in check mode would be, step by step.
  returned: success
  type: list
  elements: dict
  sample: [{kind: start, text: Start LXC 105 redis-cache}]
preflight:
  description:
    - The checks made before the first change. In check mode those that fail are returned and warned about. In a real
      run they end the task, all in one message.
    - C(exists), C(identity), C(expected), C(critical), C(confirmed), C(protection), C(lock), C(dependents), C(type),
      C(unprivileged), C(node), C(replace), C(memory), C(cpu), C(disk), C(storage), C(template), C(bridge), C(pool),
      C(vmid), C(address) and C(privileges), those that concern what is done.
  returned: success
  type: list
  elements: dict
  sample: [{check: protection, message: '...', passed: true}]
impact:
  description:
    - What depends on the guest, directly or not, for V(absent), V(stopped) and V(restarted) states.
    - C(dependents) are in the order to stop them. One of unknown whereabouts counts as active.
    - C(safe_window) is when the guest's services and all dependents may be disturbed, from C(start) to C(end), which is
      now where C(open) is true. Both are null where their hours have nothing in common.
  returned: success
  type: dict
  sample:
    services: [postgres-lxc]
    dependents:
      - {name: webapp, criticality: medium, through: postgres-lxc, guest: null, active: true}
    stop_order: [webapp]
    start_order: [webapp]
    criticality: medium
    safe_window: {open: false, start: '2026-01-20T02:00:00+01:00', end: '2026-01-20T05:00:00+01:00',
                  time_zone: Europe/Berlin, hours: '02:00-05:00', limited_by: [webapp]}
restart_required:
  description: Options that take effect at the guest's next restart, whether this run or an earlier one changed them.
  returned: success
  type: list
  elements: str
  sample: [memory]
host_key:
  description:
    - How the guest's SSH host keys came to be known. V(verified) by what Proxmox VE printed when it made them or by
      the guest agent, V(first_sight), V(unchanged) since an earlier run, or V(none) when no SSH answers.
    - Null without O(known_hosts), in check mode, and when the guest does not run.
  returned: success
  type: str
  sample: verified
summary:
  description: The plan in sentences.
  returned: success
  type: list
  elements: str
  sample:
    - Destroy LXC 102 postgres-lxc on pve with its disks
    - 'webapp (medium) would stop working: it needs postgres-lxc.'
plan:
  description:
    - What a dry run was given to apply its plan by. Null where no policy is in force, where nothing would be done, and
      where a pre-flight check failed.
  returned: success
  type: dict
  sample:
    plan_id: plan-k3sx7qjv2mzt5ay4fwhd6ubcne
    decision: approve
    reason: no rule of the policy speaks of destroy by aider
    needs_approval: true
    expires_at: '2026-11-27T12:30:00+00:00'
how_to_apply:
  description: The same for a person. Empty where there is no plan.
  returned: success
  type: list
  elements: str
  sample: []
recovered:
  description:
    - What became of earlier operations that were cut off, by a crash for example. Each run settles them first, in check
      mode it only names them.
  returned: success
  type: list
  elements: str
  sample:
    - op-5f2b6c0c9d1d (redis-cache started by aider since 2026-11-23T18:00:00+00:00) was cut off.
      Undone, that is LXC 105 redis-cache was destroyed again.
identity:
  description:
    - What tells the guest from others, as it is after the run or in check mode now. Give it back as O(expect) to do
      later what was planned, and only that. Null for a guest that is not there.
  returned: success
  type: dict
  sample:
    {vmid: 105, type: lxc, name: redis-cache, created: null, operation: op-5f2b6c0c9d1e, mac: ['BC:24:11:00:00:05'],
     digest: 1f0e...}
operation:
  description: Identifier of this run. A guest that it made bears it in its notes.
  returned: success
  type: str
  sample: op-5f2b6c0c9d1e
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._audited import audited, told
from ansible_collections.nhi.core.plugins.module_utils._gate_args import GATE_ARGS, admission_from_params
from ansible_collections.nhi.core.plugins.module_utils._network_args import NETWORK_ARGS, NETWORK_EXCLUSIVE
from ansible_collections.nhi.core.plugins.module_utils._proxmox import (
    PROXMOX_ARGS,
    Endpoint,
    ProxmoxClient,
    endpoint_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.catalogue import load_catalogue
from ansible_collections.nhi.core.plugins.module_utils.deployment import step
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.graph import find_graph
from ansible_collections.nhi.core.plugins.module_utils.guest import CLONE, CREATE
from ansible_collections.nhi.core.plugins.module_utils.guest_capacity import Overcommit
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import as_result, plan_result, plan_warnings
from ansible_collections.nhi.core.plugins.module_utils.guest_host_key import (
    NO_KEY,
    Known,
    KnownHosts,
    Recorded,
    forget_host_key,
    record_host_key,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_identity import IDENTITY_OPTIONS, Identity
from ansible_collections.nhi.core.plugins.module_utils.guest_manager import GuestManager
from ansible_collections.nhi.core.plugins.module_utils.guest_reader import Api
from ansible_collections.nhi.core.plugins.module_utils.guest_recovery import settle
from ansible_collections.nhi.core.plugins.module_utils.guest_rescan import Rescan
from ansible_collections.nhi.core.plugins.module_utils.guest_run import Outcome, Settings
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import wanted_from_params
from ansible_collections.nhi.core.plugins.module_utils.guest_wait import Patience
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import Keeper

VOLUME_OPTIONS: dict[str, Any] = {
    "id": {"type": "str", "required": True},
    "mountpoint": {"type": "path", "required": True},
    "size": {"type": "int"},
    "storage": {"type": "str"},
    "options": {"type": "dict"},
    "host_path": {"type": "path"},
}
STARTUP_OPTIONS: dict[str, Any] = {"order": {"type": "int"}, "up": {"type": "int"}, "down": {"type": "int"}}

ARGUMENT_SPEC: dict[str, Any] = {
    **PROXMOX_ARGS,
    **STATE_ARGS,
    **NETWORK_ARGS,
    **GATE_ARGS,
    "name": {"type": "str", "required": True, "aliases": ["hostname"]},
    "state": {
        "type": "str",
        "choices": ["present", "absent", "started", "stopped", "restarted"],
        "default": "present",
    },
    "type": {"type": "str", "choices": ["lxc", "qemu"]},
    "template": {"type": "str", "aliases": ["ostemplate"]},
    "clone": {"type": "str"},
    "snapname": {"type": "str"},
    "full": {"type": "bool"},
    "purpose": {"type": "str"},
    "vmid": {"type": "int"},
    "vmid_range": {"type": "str", "default": "105-999"},
    "node": {"type": "str"},
    "cores": {"type": "int"},
    "memory": {"type": "int"},
    "swap": {"type": "int"},
    "balloon": {"type": "int"},
    "cpu": {"type": "str"},
    "disk": {"type": "int"},
    "mount_volumes": {"type": "list", "elements": "dict", "options": VOLUME_OPTIONS},
    "storage": {"type": "str"},
    "tags": {"type": "list", "elements": "str"},
    "pool": {"type": "str"},
    "ssh_public_keys": {"type": "list", "elements": "str", "no_log": False, "aliases": ["pubkey", "sshkeys"]},
    "ciuser": {"type": "str"},
    "cipassword": {"type": "str", "no_log": True},
    "protection": {"type": "bool"},
    "onboot": {"type": "bool"},
    "startup": {"type": "dict", "options": STARTUP_OPTIONS},
    "timezone": {"type": "str"},
    "description": {"type": "str"},
    "unprivileged": {"type": "bool"},
    "nesting": {"type": "bool"},
    "features": {"type": "list", "elements": "str"},
    "wait": {"type": "bool", "default": True},
    "wait_port": {"type": "int"},
    "wait_timeout": {"type": "int", "default": 300},
    "shutdown_timeout": {"type": "int", "default": 30},
    "confirm": {"type": "str"},
    "replace": {"type": "str"},
    "allow_impact": {"type": "bool", "default": False},
    "made_by": {"type": "list", "elements": "str"},
    "deployment": {"type": "str"},
    "known_hosts": {"type": "path"},
    "dependency_graph": {"type": "path"},
    "expect": {"type": "dict", "options": IDENTITY_OPTIONS},
    "max_memory_overcommit": {"type": "float", "default": 1.5},
    "max_cpu_overcommit": {"type": "float", "default": 32.0},
    "max_disk_overcommit": {"type": "float", "default": 2.0},
    "brain_vmid": {"type": "int", "default": 100},
    "address_quarantine": {"type": "int", "default": 300},
    "catalogue": {"type": "list", "elements": "dict", "default": []},
}


def settings_from_params(
    params: dict[str, Any], endpoint: Endpoint, tell: Callable[[str], None], *, check_mode: bool
) -> Settings:
    """What the options say about the run."""
    state_dir = Path(params["state_dir"])
    graph = find_graph(params["dependency_graph"], params["state_dir"])
    return Settings(
        state_dir=state_dir,
        check_mode=check_mode,
        graph=graph,
        brain_vmid=params["brain_vmid"],
        confirm=params["confirm"],
        replace=params["replace"],
        allow_impact=params["allow_impact"],
        made_by=params["made_by"],
        limits=Overcommit(*(params[f"max_{what}_overcommit"] for what in ("memory", "cpu", "disk"))),
        expect=Identity.from_params(params["expect"]),
        patience=Patience(params["wait"], params["wait_timeout"], params["shutdown_timeout"], params["wait_port"]),
        quarantine_seconds=max(0, params["address_quarantine"]),
        rescan=Rescan(state_dir, endpoint, "nhi_vm", load_catalogue(params["catalogue"])),
        tell=tell,
        admission=admission_from_params(params, ARGUMENT_SPEC, "nhi_vm", graph, check_mode=check_mode),
        keep=Keeper(state_dir, "nhi_vm", tell),
    )


def result_of(outcome: Outcome) -> dict[str, Any]:
    """What the module returns."""
    return as_result({
        **plan_result(outcome.plan),
        "vm": outcome.vm,
        "vmid": None if outcome.vm is None else outcome.vm["vmid"],
        "replaced": outcome.replaced,
        "restart_required": outcome.plan.restart_required,
        "operation": outcome.operation,
        "host_key": None,
    })  # fmt: skip


def settle_host_key(module: AnsibleModule, api: Api, outcome: Outcome) -> Recorded | None:
    """Record the host keys of a guest that runs, forget those of one that is gone; None where that was not asked."""
    if not module.params["known_hosts"] or module.check_mode:
        return None
    file, vm = KnownHosts(Path(module.params["known_hosts"])), outcome.vm
    if vm is None:
        return Recorded(NO_KEY, forget_host_key(file, module.params["name"]))
    if vm["status"] != "running" or not vm["address"]:
        # The keys of a guest that was replaced are nobody's any more.
        return Recorded(NO_KEY, forget_host_key(file, vm["name"])) if outcome.replaced else None
    guest = Known(vm["name"], vm["vmid"], vm["type"], vm["node"], vm["address"])
    made_now = any(action.kind in (CREATE, CLONE) for action in outcome.plan.actions)
    return record_host_key(api, guest, file, made_now=made_now)


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        mutually_exclusive=[*NETWORK_EXCLUSIVE, ("template", "clone")],
        supports_check_mode=True,
    )
    result: dict[str, Any] = {}
    try:
        with audited(module, "nhi_vm") as attempt:
            wanted = wanted_from_params(module.params)
            endpoint = endpoint_from_params(module.params)
            settings = settings_from_params(module.params, endpoint, module.warn, check_mode=module.check_mode)
            run = None if module.check_mode else module.params["deployment"]
            with (
                step(settings.state_dir, wanted.name, run) as deployment,
                attempt.watching(ProxmoxClient(endpoint)) as client,
            ):
                if deployment is not None:
                    settings = replace(settings, announce=deployment.makes)
                recovered = settle(
                    client,
                    settings.state_dir,
                    check_mode=module.check_mode,
                    tell=module.warn,
                    rescan=settings.rescan,
                    keep=settings.keep,
                )
                attempt.note(recovered=recovered)
                outcome = GuestManager(client, wanted, settings).run()
                result = result_of(outcome)
                attempt.note(**told(result))
                recorded = settle_host_key(module, client, outcome)
    except NHIError as e:
        # Where only the host key is wrong the guest is there: whoever made it wants to know which one it is.
        module.fail_json(msg=str(e), **result)
    warnings = plan_warnings(outcome.plan)
    if recorded is not None:
        result.update(host_key=recorded.status, changed=result["changed"] or recorded.changed)
        warnings += [recorded.warning] if recorded.warning else []
    for warning in warnings:
        module.warn(warning)
    module.exit_json(**result, recovered=recovered)


if __name__ == "__main__":
    main()
