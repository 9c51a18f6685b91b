# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies on storages for backups, and what is inside: only GETs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from .errors import PreflightError, ProxmoxError
from .guest import Check
from .guest_archive import Archive, parse_archive
from .guest_backup import Backup, backups_of
from .guest_config import flag
from .guest_placement import check_bridge, choose_node, choose_storage
from .guest_reader import Api, Cluster, bridges, storages
from .guest_spec import LXC

_VOLID = re.compile(r"(?P<storage>[A-Za-z][A-Za-z0-9._-]*):backup/\S+")


def backup_storage(api: Api, node: str, wanted: str | None) -> str:
    """The storage for backups of a node; PreflightError where there is a choice that nobody made."""
    rows = storages(api, node)
    chosen = choose_storage(rows, wanted, "backup", 0, node)
    fit = sorted(str(r["storage"]) for r in rows if "backup" in str(r.get("content") or "").split(","))
    if wanted is None and len(fit) > 1:
        raise PreflightError(f"backups can go to {' or '.join(fit)}: set storage to say where")
    return chosen


def read_backups(api: Api, node: str, storage: str, vmid: int | None = None) -> list[Backup]:
    """The backups on a storage, of one VMID or of all that this token may see, newest first."""
    return backups_of(api.get(("nodes", node, "storage", storage, "content"), {"content": "backup", "vmid": vmid}))


def every_backup(api: Api, cluster: Cluster, storage: str | None, vmid: int | None) -> tuple[list[Backup], list[str]]:
    """Backups on all storages, newest first, and a line for each storage that could not be read."""
    places = backup_places(cluster)
    if storage is not None:
        check_takes_backups(cluster, storage)
        places = [(node, name) for node, name in places if name == storage]
    found: dict[str, Backup] = {}
    unread: list[str] = []
    for node, name in places:
        try:
            found.update({b.volid: b for b in read_backups(api, node, name, vmid)})
        except ProxmoxError as e:
            unread.append(f"The backups on {name} of {node} are not in the list: {e}")
    return sorted(found.values(), key=lambda b: (b.taken_at, b.volid), reverse=True), unread


def backup_places(cluster: Cluster) -> list[tuple[str, str]]:
    """Node and name of every storage that takes backups; one that nodes share only once."""
    rows = [r for r in cluster.rows if r.get("type") == "storage" and r.get("status") == "available"]
    rows = [r for r in rows if "backup" in str(r.get("content") or "").split(",")]
    by_key = {(None if flag(r.get("shared")) else r["node"], r["storage"]): r for r in rows}
    return sorted((str(r["node"]), str(r["storage"])) for r in by_key.values())


def check_takes_backups(cluster: Cluster, storage: str) -> str:
    """Refuse a storage that takes backups on no node."""
    names = sorted({name for _node, name in backup_places(cluster)})
    if storage not in names:
        what = ", ".join(names) or "none that this token may see"
        raise PreflightError(f"storage {storage} does not take backups; storages that do: {what}")
    return storage


def read_archive(api: Api, node: str, backup: Backup) -> Archive:
    """The guest inside a backup."""
    text = api.get(("nodes", node, "vzdump", "extractconfig"), {"volume": backup.volid})
    return parse_archive(backup.type, str(text))


def storage_of(volid: str) -> str:
    """The storage of a backup's volume ID."""
    match = _VOLID.fullmatch(volid)
    if not match:
        raise PreflightError(
            f"'{volid}' is not a backup: write it as STORAGE:backup/FILE, as nhi_vm_backup and Proxmox VE list them"
        )
    return match["storage"]


def node_with(cluster: Cluster, storage: str, wanted: str | None) -> str:
    """A node that has the storage; the one with the most free memory, or the wanted one."""
    having = {r["node"] for r in cluster.rows if r.get("type") == "storage" and r.get("storage") == storage}
    if not having:
        raise PreflightError(f"storage {storage} does not exist, or this token may not see it: correct backup")
    if wanted is not None and wanted not in having:
        raise PreflightError(f"storage {storage} is not on node {wanted}: it is on {', '.join(sorted(having))}")
    return choose_node([r for r in cluster.rows if r.get("type") != "node" or r["node"] in having], wanted)


def find_backup(api: Api, cluster: Cluster, volid: str, wanted: str | None) -> tuple[str, list[Backup]]:
    """The node that has a backup, or would have it, and all backups there; a local storage is another on each node."""
    storage = storage_of(volid)
    node = node_with(cluster, storage, wanted)
    listed = read_backups(api, node, storage)
    if any(b.volid == volid for b in listed):
        return node, listed
    for other in sorted(_others_with(cluster, storage, node)):
        there = read_backups(api, other, storage)
        if any(b.volid == volid for b in there):
            if wanted is not None:
                raise PreflightError(
                    f"{volid} is on {other}, not on {wanted}: restore it there as another guest, or keep backups on a"
                    " storage that both nodes share"
                )
            return other, there
    return node, listed


def _others_with(cluster: Cluster, storage: str, node: str) -> set[str]:
    """Nodes that are online and have a storage of that name of their own."""
    online = {r["node"] for r in cluster.rows if r.get("type") == "node" and r.get("status") == "online"}
    rows = [r for r in cluster.rows if r.get("type") == "storage" and r.get("storage") == storage]
    return {str(r["node"]) for r in rows if r["node"] in online - {node} and not flag(r.get("shared"))}


def checked_site(api: Api, node: str, archive: Archive, storage: str | None, *, replaces: bool = False) -> list[Check]:
    """Whether the node has what the guest inside a backup needs."""
    content = "rootdir" if archive.type == LXC else "images"
    disks, nets = storages(api, node), bridges(api, node)
    looks: list[tuple[str, Callable[[], str]]] = []
    for name, gib in archive.space(storage).items():
        # A guest that is replaced gives its own disks up first.
        looks.append(("storage", partial(choose_storage, disks, name, content, 0 if replaces else gib, node)))
    looks += [("bridge", partial(check_bridge, nets, bridge, node)) for bridge in archive.bridges]
    return [checked(name, look)[1] for name, look in looks]


def checked(name: str, look: Callable[[], str]) -> tuple[str | None, Check]:
    """What was looked for, or None, and the check that says which."""
    try:
        found = look()
    except PreflightError as e:
        return None, Check(name, passed=False, message=str(e))
    return found, Check(name, passed=True, message=f"{name} {found} can be used")
