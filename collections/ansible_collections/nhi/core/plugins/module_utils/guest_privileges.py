# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which privileges a plan needs, asked before the first change, so that a plan shown is a plan that may be done."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .guest import CLONE, CONFIGURE, CREATE, DESTROY, PROTECT, REPLACE, RESIZE, START, STOP, Action, Check, Found
from .guest_config import Placement, storages_of
from .guest_interfaces import bridges_of
from .guest_reader import Api
from .guest_spec import DEFAULT_BRIDGE, QEMU, Wanted

_OF_OPTION = (
    (re.compile(r"cores|cpu"), "VM.Config.CPU"),
    (re.compile(r"memory|swap|balloon"), "VM.Config.Memory"),
    (re.compile(r"(?:net|ipconfig)\d+|nameserver|searchdomain"), "VM.Config.Network"),
    (re.compile(r"ciuser|cipassword|sshkeys"), "VM.Config.Cloudinit"),
    (re.compile(r"mp\d+"), "VM.Config.Disk"),
    (re.compile(r"features"), "VM.Allocate"),
)
_OF_ACTION = {
    RESIZE: "VM.Config.Disk",
    START: "VM.PowerMgmt",
    STOP: "VM.PowerMgmt",
    DESTROY: "VM.Allocate",
    PROTECT: "VM.Config.Options",
}
_NOT_OPTIONS = {"digest", "delete"}


@dataclass(frozen=True)
class Need:
    """One privilege, which any one of the paths may give. ``A|B`` is either of two."""

    privilege: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.privilege.replace('|', ' or ')} on {' or '.join(self.paths)}"

    def met_by(self, held: Mapping[str, frozenset[str]]) -> bool:
        """Whether privileges held by path are enough."""
        return any(p in held[path] for path in self.paths for p in self.privilege.split("|"))


def creation_needs(wanted: Wanted, place: Placement, actions: Iterable[Action]) -> list[Need]:
    """What making a guest needs. A guest made in a pool has the pool's privileges from the first moment."""
    guest = (f"/vms/{place.vmid}", *((f"/pool/{wanted.pool}",) if wanted.pool else ()))
    privileges = ["VM.Allocate"]
    kinds = {a.kind for a in actions}
    if CREATE in kinds or CONFIGURE in kinds:
        privileges += ["VM.Config.Disk"] if CREATE in kinds else []
        privileges += ["VM.Config.Network", "VM.Config.Options"]
        given: dict[str, Any] = {
            "cores": wanted.cores,
            "memory": wanted.memory_mib,
            "swap": wanted.swap_mib,
            "cpu": wanted.cpu,
        }
        given |= {"ciuser": wanted.ciuser or wanted.cipassword, "balloon": wanted.balloon_mib}
        given |= {"sshkeys": wanted.type == QEMU and wanted.ssh_public_keys, "mp0": wanted.volumes}
        privileges += [_privilege(option) for option, value in given.items() if value]
    needs = [Need(p, guest) for p in privileges]
    needs += [Need(_OF_ACTION[k], guest) for k in sorted(kinds) if k in _OF_ACTION]
    if CLONE in kinds:
        needs.append(Need("VM.Clone", (f"/vms/{place.clone_of}",)))
    disks = {place.storage} if place.storage else set(storages_of(place.source))
    disks |= {volume.storage for volume in wanted.volumes if volume.storage}
    needs += [Need("Datastore.AllocateSpace", (f"/storage/{name}",)) for name in sorted(filter(None, disks))]
    # A clone is first of all connected like its source.
    nets = [*bridges_of(place.source), *((n.bridge or DEFAULT_BRIDGE, n.tag or 0) for n in wanted.networks)]
    needs += [Need("SDN.Use", (_bridge_path(bridge, tag),)) for bridge, tag in nets]
    return list(dict.fromkeys(needs))


def _privilege(option: str) -> str:
    return next((privilege for shape, privilege in _OF_OPTION if shape.fullmatch(option)), "VM.Config.Options")


def _bridge_path(bridge: str, tag: int) -> str:
    """A VLAN of a bridge has a path of its own, below the bridge's."""
    return f"/sdn/zones/localnetwork/{bridge}" + (f"/{tag}" if tag else "")


def change_needs(found: Found, actions: Iterable[Action]) -> list[Need]:
    """What changing or destroying a guest that is there needs."""
    guest = (f"/vms/{found.vmid}",)
    privileges: list[str] = []
    more: list[Need] = []
    for action in actions:
        if action.kind == CONFIGURE:
            deleted = str(action.data.get("delete") or "").split(",")
            options = [o for o in (*action.data, *deleted) if o and o not in _NOT_OPTIONS]
            privileges += [_privilege(option) for option in options]
            old = set(bridges_of(found.config))
            new = [net for net in bridges_of(action.data) if net not in old]
            more += [Need("SDN.Use", (_bridge_path(bridge, tag),)) for bridge, tag in new]
            disks = [s for s in storages_of(action.data) if s not in storages_of(found.config)]
            more += [Need("Datastore.AllocateSpace", (f"/storage/{name}",)) for name in disks]
        else:
            privileges.append(_OF_ACTION[action.kind])
    return [*(Need(p, guest) for p in dict.fromkeys(privileges)), *dict.fromkeys(more)]


def restore_needs(
    vmid: int, pool: str | None, disks: Iterable[str], bridges: Iterable[str], actions: Iterable[Action]
) -> list[Need]:
    """What bringing a guest back needs beside reading the backup, which was read already."""
    kinds = {a.kind for a in actions}
    guest = (f"/vms/{vmid}", *((f"/pool/{pool}",) if pool else ()))
    if REPLACE in kinds:
        needs = [Need("VM.Backup|VM.Allocate", guest)]
        needs += [Need("VM.PowerMgmt", guest)] if kinds & {START, STOP} else []
    else:
        needs = [Need(p, guest) for p in ("VM.Allocate", "VM.Config.Network", "VM.Config.Options")]
    needs += [Need("Datastore.AllocateSpace", (f"/storage/{name}",)) for name in disks]
    needs += [Need("SDN.Use", (f"/sdn/zones/localnetwork/{name}",)) for name in bridges]
    return needs


def check_privileges(api: Api, needs: Iterable[Need]) -> Check:
    """Ask what this token may do; the failed check names every privilege that is missing, with its path."""
    held: dict[str, frozenset[str]] = {}
    missing = []
    for need in needs:
        for path in need.paths:
            if path not in held:
                held[path] = frozenset(api.get("/access/permissions", {"path": path}).get(path) or ())
        if not need.met_by(held):
            missing.append(str(need))
    return Check.of(
        "privileges",
        passed=not missing,
        good="the token has every privilege this needs",
        bad=f"the token lacks {', '.join(missing)}: give its user and the token itself a role that has"
        f" {'it' if len(missing) == 1 else 'them'} there",
    )
