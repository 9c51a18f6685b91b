# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which privileges a plan needs, asked before the first change, so that a plan shown is a plan that may be done."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .guest import CLONE, CONFIGURE, DESTROY, PROTECT, REPLACE, RESIZE, START, STOP, Action, Check, Found
from .guest_archive import Archive
from .guest_config import Placement, storages_of
from .guest_creation import after_clone, create_lxc, create_qemu
from .guest_interfaces import bridges_of
from .guest_reader import Api
from .guest_spec import LXC, QEMU, Wanted

_OF_OTHERS = "VM.Config.Options"
# The first pattern that an option matches says which privilege it takes.
_OF_OPTION = {
    LXC: (
        (r"cores|cpu\w*", "VM.Config.CPU"),
        (r"memory|swap", "VM.Config.Memory"),
        (r"net\d+|nameserver|searchdomain|hostname", "VM.Config.Network"),
        (r"rootfs|mp\d+", "VM.Config.Disk"),
        # The only feature that a token may set is nesting, and that with this privilege.
        (r"features", "VM.Allocate"),
    ),
    QEMU: (
        (r"cores|cpu\w*|sockets|vcpus|numa\d*", "VM.Config.CPU"),
        (r"memory|balloon|shares", "VM.Config.Memory"),
        (r"net\d+", "VM.Config.Network"),
        (r"ipconfig\d+|nameserver|searchdomain", "VM.Config.Network|VM.Config.Cloudinit"),
        (r"ciuser|cipassword|sshkeys|cicustom|citype|ciupgrade", "VM.Config.Cloudinit"),
        (r"(?:ide|sata|scsi|virtio)\d+|efidisk0|tpmstate0", "VM.Config.Disk"),
        (r"acpi|bios|boot|bootdisk|kvm|machine|scsihw|serial\d+|tablet|vga", "VM.Config.HWType"),
    ),
}
_OF_ACTION = {
    RESIZE: "VM.Config.Disk",
    START: "VM.PowerMgmt",
    STOP: "VM.PowerMgmt",
    DESTROY: "VM.Allocate",
    PROTECT: _OF_OTHERS,
}
# Parameters that say how to make or change a guest, not what it is.
_NOT_OPTIONS = {
    "delete", "digest", "full", "newid", "ostemplate", "password", "pool", "ssh-public-keys", "storage", "unprivileged",
    "vmid",
}  # fmt: skip


def configuration_privileges() -> frozenset[str]:
    """Every privilege that some option of a guest takes."""
    named = {privilege for patterns in _OF_OPTION.values() for _pattern, privilege in patterns} | {_OF_OTHERS}
    return frozenset(privilege for either in named for privilege in either.split("|"))


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
    kind, kinds = wanted.type or LXC, {a.kind for a in actions}
    guest = (f"/vms/{place.vmid}", *((f"/pool/{wanted.pool}",) if wanted.pool else ()))
    needs = [Need("VM.Allocate", guest)]
    if CLONE in kinds:
        # A clone is first of all connected like its source, and lies where that lies.
        data = after_clone(wanted, place, place.source)
        needs.append(Need("VM.Clone", (f"/vms/{place.clone_of}",)))
        needs += _space_needs([place.storage] if place.storage else storages_of(place.source))
        needs += _bridge_needs(place.source)
    else:
        data = (create_lxc if kind == LXC else create_qemu)(wanted, place, "op")
        if kind == LXC and wanted.unprivileged is False:
            needs.append(Need("Sys.Modify", ("/",)))
    given = {option: value for option, value in data.items() if value is not None}
    needs += _option_needs(kind, given, guest)
    needs += [Need(_OF_ACTION[k], guest) for k in sorted(kinds) if k in _OF_ACTION]
    needs += [*_space_needs(storages_of(given)), *_bridge_needs(given)]
    return list(dict.fromkeys(needs))


def _option_needs(kind: str, options: Iterable[str], guest: tuple[str, ...]) -> list[Need]:
    return [Need(_privilege(kind, o), guest) for o in options if o and o not in _NOT_OPTIONS]


def _space_needs(storages: Iterable[str]) -> list[Need]:
    return [Need("Datastore.AllocateSpace", (f"/storage/{name}",)) for name in storages if name not in ("", "None")]


def _bridge_needs(config: Mapping[str, Any]) -> list[Need]:
    return [Need("SDN.Use", (_bridge_path(bridge, tag),)) for bridge, tag in bridges_of(config)]


def _privilege(kind: str, option: str) -> str:
    found = (privilege for pattern, privilege in _OF_OPTION[kind] if re.fullmatch(pattern, option))
    return next(found, _OF_OTHERS)


def _bridge_path(bridge: str, tag: int) -> str:
    """A VLAN of a bridge has a path of its own, below the bridge's."""
    return f"/sdn/zones/localnetwork/{bridge}" + (f"/{tag}" if tag else "")


def change_needs(found: Found, actions: Iterable[Action]) -> list[Need]:
    """What changing or destroying a guest that is there needs."""
    guest = (f"/vms/{found.vmid}",)
    needs: list[Need] = []
    for action in actions:
        if action.kind == CONFIGURE:
            data = {option: value for option, value in action.data.items() if value is not None}
            needs += _option_needs(found.type, [*data, *str(data.get("delete") or "").split(",")], guest)
            needs += [n for n in _bridge_needs(data) if n not in _bridge_needs(found.config)]
            needs += _space_needs(s for s in storages_of(data) if s not in storages_of(found.config))
        else:
            needs.append(Need(_OF_ACTION[action.kind], guest))
    return list(dict.fromkeys(needs))


def restore_needs(
    vmid: int, pool: str | None, archive: Archive, storage: str | None, actions: Iterable[Action]
) -> list[Need]:
    """What bringing a guest back needs beside reading the backup, which was read already."""
    kinds = {a.kind for a in actions}
    guest = (f"/vms/{vmid}", *((f"/pool/{pool}",) if pool else ()))
    if REPLACE in kinds:
        needs = [Need("VM.Backup|VM.Allocate", guest)]
        needs += [Need("VM.PowerMgmt", guest)] if kinds & {START, STOP} else []
    else:
        needs = [Need(p, guest) for p in ("VM.Allocate", "VM.Config.Network", "VM.Config.Options")]
    return [*needs, *_space_needs(archive.space(storage)), *_bridge_needs(archive.config)]


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
