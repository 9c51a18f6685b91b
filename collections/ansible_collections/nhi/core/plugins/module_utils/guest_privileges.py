# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which privileges a plan needs, asked before the first change, so that a plan shown is a plan that may be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .guest import CLONE, CONFIGURE, CREATE, DESTROY, PROTECT, REPLACE, RESIZE, START, STOP, Action, Check, Found
from .guest_config import Placement
from .guest_reader import Api
from .guest_spec import DEFAULT_BRIDGE, Wanted

_OF_OPTION = {
    "cores": "VM.Config.CPU",
    "memory": "VM.Config.Memory",
    "net0": "VM.Config.Network",
    "ipconfig0": "VM.Config.Network",
    "nameserver": "VM.Config.Network",
    "features": "VM.Allocate",
}
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
        privileges += [_OF_OPTION[o] for o, v in (("cores", wanted.cores), ("memory", wanted.memory_mib)) if v]
    needs = [Need(p, guest) for p in privileges]
    needs += [Need(_OF_ACTION[k], guest) for k in sorted(kinds) if k in _OF_ACTION]
    if CLONE in kinds:
        needs.append(Need("VM.Clone", (f"/vms/{place.clone_of}",)))
    if place.storage:
        needs.append(Need("Datastore.AllocateSpace", (f"/storage/{place.storage}",)))
    needs.append(Need("SDN.Use", (f"/sdn/zones/localnetwork/{wanted.network.bridge or DEFAULT_BRIDGE}",)))
    return list(dict.fromkeys(needs))


def change_needs(found: Found, actions: Iterable[Action]) -> list[Need]:
    """What changing or destroying a guest that is there needs."""
    guest = (f"/vms/{found.vmid}",)
    privileges: list[str] = []
    for action in actions:
        if action.kind == CONFIGURE:
            deleted = str(action.data.get("delete") or "").split(",")
            options = [o for o in (*action.data, *deleted) if o and o not in _NOT_OPTIONS]
            privileges += [_OF_OPTION.get(o, "VM.Config.Options") for o in options]
        else:
            privileges.append(_OF_ACTION[action.kind])
    return [Need(p, guest) for p in dict.fromkeys(privileges)]


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
