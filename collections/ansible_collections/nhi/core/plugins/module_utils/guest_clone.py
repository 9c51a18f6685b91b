# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new guest is cloned from, and everything that Proxmox VE would refuse of it, found out beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import PreflightError
from .guest_config import bound_paths, flag, has_cloud_init_drive, root_disk, storages_of
from .guest_creation import clone_drift
from .guest_placement import choose_clone_source, choose_node
from .guest_reader import Api, guest_path
from .guest_spec import KINDS, LXC, Wanted

Row = Mapping[str, Any]


@dataclass(frozen=True)
class CloneSource:
    """The guest to clone as it was read; ``config`` is that of the snapshot if one was named."""

    kind: str
    node: str
    vmid: int
    name: str
    config: Mapping[str, Any]
    running: bool
    lock: str | None
    snapshots: Sequence[str]
    linkable: bool
    shared: bool  # whether all its disks lie on shared storage

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.kind]} {self.vmid} {self.name}"

    @property
    def template(self) -> bool:
        return flag(self.config.get("template"))


def read_source(api: Api, rows: Sequence[Row], wanted: Wanted) -> CloneSource:
    """Find and read the guest that is to be cloned; PreflightError when it is not certain which one is meant."""
    guests = [r for r in rows if r.get("type") in KINDS]
    row = choose_clone_source(guests, wanted)
    kind, node, vmid = str(row["type"]), str(row["node"]), int(row["vmid"])
    config = api.get(guest_path(kind, node, vmid, "config"))
    lock, template = config.get("lock"), config.get("template", 0)
    snapshots = []
    if wanted.snapname:
        listed = api.get(guest_path(kind, node, vmid, "snapshot"))
        snapshots = sorted(str(s["name"]) for s in listed if s["name"] != "current")
        if wanted.snapname in snapshots:
            config = api.get(guest_path(kind, node, vmid, "config"), {"snapshot": wanted.snapname})
    linkable = True
    if wanted.full is False:
        linkable = flag(api.get(guest_path(kind, node, vmid, "feature"), {"feature": "clone"}).get("hasFeature"))
    status = api.get(guest_path(kind, node, vmid, "status", "current"))
    return CloneSource(
        kind=kind,
        node=node,
        vmid=vmid,
        name=str(row.get("name") or vmid),
        config={**config, "template": template},
        running=status.get("status") == "running",
        lock=lock or None,
        snapshots=snapshots,
        linkable=linkable,
        shared=all(_shared(rows, node, name) for name in storages_of(config)),
    )


def _shared(rows: Iterable[Row], node: str, storage: str) -> bool:
    return any(
        flag(r.get("shared"))
        for r in rows
        if (r.get("type"), r.get("node"), r.get("storage")) == ("storage", node, storage)
    )


def choose_clone_node(rows: Sequence[Row], source: CloneSource, wanted: Wanted) -> str:
    """Where the clone goes: anywhere if all disks are shared, else to the source's node."""
    target_shared = wanted.storage is None or any(
        flag(r.get("shared")) for r in rows if r.get("type") == "storage" and r.get("storage") == wanted.storage
    )
    if source.shared and target_shared:
        return choose_node(rows, wanted.node)
    node = choose_node(rows, source.node)
    if wanted.node is not None and wanted.node != node:
        local = wanted.storage if source.shared else ", ".join(storages_of(source.config))
        raise PreflightError(
            f"{source.label} can not be cloned to node {wanted.node}: storage {local} is local to {node}."
            f" Clone it on {node} and migrate the clone, or use shared storage"
        )
    return node


def clone_problems(source: CloneSource, wanted: Wanted) -> list[str]:
    """Everything for which Proxmox VE would refuse the clone, or make another guest than was asked for."""
    # The size of the root disk has a message of its own.
    difference = clone_drift(replace(wanted, type=source.kind, disk_gib=None), source.config)
    impossible = [text for _name, text in difference.problems]
    return [*_state_problems(source, wanted), *_wish_problems(source, wanted), *impossible]


def _state_problems(source: CloneSource, wanted: Wanted) -> list[str]:
    problems = []
    if source.lock:
        problems.append(f"{source.label} is locked ({source.lock}): wait for that operation to end")
    if wanted.snapname and wanted.snapname not in source.snapshots:
        problems.append(
            f"{source.label} has no snapshot {wanted.snapname}; its snapshots: {', '.join(source.snapshots) or 'none'}"
        )
    elif source.running and not wanted.snapname:
        problems.append(
            f"{source.label} is running, and a running guest is cloned from a snapshot only: set snapname"
            " (nhi_vm_snapshot makes one), or stop it"
        )
    if wanted.full is False and not source.template:
        problems.append(f"{source.label} is not a template, and only templates have linked clones: set full: true")
    elif not source.linkable:
        problems.append(
            f"the storage of {source.label} ({', '.join(storages_of(source.config))}) can not make linked clones:"
            " set full: true"
        )
    return problems


def _wish_problems(source: CloneSource, wanted: Wanted) -> list[str]:
    problems = []
    if wanted.type and wanted.type != source.kind:
        problems.append(f"{source.label} is of type {source.kind}, and so is its clone: correct type or leave it out")
    bound = bound_paths(source.config)
    if bound:
        paths = ", ".join(f"{name} ({path})" for name, path in sorted(bound.items()))
        problems.append(f"{source.label} has paths of its node as mount points, which can not be cloned: {paths}")
    if source.kind == LXC and wanted.ssh_public_keys:
        problems.append(
            f"ssh_public_keys can not be put into a clone of a container, which has the keys that {source.label} has:"
            " leave the option out"
        )
    name, present = root_disk(source.config, source.kind)
    if wanted.disk_gib and present is not None and wanted.disk_gib < present:
        problems.append(
            f"the disk {name} of {'template ' if source.template else ''}{source.name} has {present:g} GiB and a clone"
            f" can not shrink to {wanted.disk_gib} GiB: set disk to {present:g} or more, or leave it out"
        )
    return problems


def clone_warnings(source: CloneSource, wanted: Wanted) -> list[str]:
    """What the clone will not do although nobody refuses it."""
    if source.kind == LXC or has_cloud_init_drive(source.config):
        return []
    fixed = any(n.ip not in (None, "dhcp") or n.ip6 not in (None, "dhcp", "auto") for n in wanted.networks)
    given = {
        "an address": fixed,
        "ssh_public_keys": bool(wanted.ssh_public_keys),
        "ciuser": wanted.ciuser is not None,
        "cipassword": wanted.cipassword is not None,
        "nameserver": bool(wanted.nameserver),
        "searchdomain": bool(wanted.searchdomain),
    }
    lost = [what for what, said in given.items() if said]
    if not lost:
        return []
    warning = (
        f"{source.label} has no cloud-init drive, so its clone never hears of {', '.join(lost)}: add one to it"
        f" (qm set {source.vmid} --ide2 STORAGE:cloudinit), in an image that has cloud-init"
    )
    return [warning]
