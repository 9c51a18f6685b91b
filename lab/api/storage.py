"""Storages and what lies on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lab import host
from lab.core import Lab
from lab.guests.volumes import disk_options, parse_size
from lab.model import Backup, Storage
from lab.server.call import Call
from lab.server.errors import bad_parameter, failure
from lab.server.properties import loose
from lab.server.router import route
from lab.server.schema import MISSING

TYPES = {"dir": ("path",), "lvmthin": ("thinpool", "vgname"), "nfs": ("export", "server")}
ALWAYS_SHARED = {"nfs"}
KEPT = ("path", "thinpool", "vgname")
AUDIT = ("Datastore.Audit", "Datastore.AllocateSpace")


def directory_of(lab: Lab, storage: Storage) -> Path:
    """Where the files of a directory storage are."""
    return lab.directory / "storage" / storage.storage


def space(lab: Lab, storage: Storage, node: str) -> tuple[int, int]:
    """(total, used) in bytes; the fault "storage full" shows here too."""
    numbers = host.read(lab.directory)
    total, used = numbers.disk_total, numbers.disk_used
    if lab.faults.find("storage-full", storage=storage.storage, node=node):
        used = total
    return total, used


def _visible(call: Call) -> list[Storage]:
    everything = call.lab.store.storages.values()
    return [storage for storage in everything if call.has(f"/storage/{storage.storage}", *AUDIT)]


def _summary(lab: Lab, storage: Storage, node: str) -> dict[str, Any]:
    total, used = space(lab, storage, node)
    return {
        "storage": storage.storage, "type": storage.type, "content": ",".join(storage.content),
        "shared": storage.shared, "enabled": 1, "active": 1, "total": total, "used": used, "avail": total - used,
        "used_fraction": round(used / total, 6),
    }  # fmt: skip


@route("GET", "/nodes/{node}/storage")
async def node_storages(call: Call) -> Any:
    wanted_content = {item for item in str(call.params.get("content", "")).replace(";", ",").split(",") if item}
    wanted = call.params.get("storage")
    return [
        _summary(call.lab, storage, call.node)
        for storage in _visible(call)
        if storage.is_on(call.node)
        and wanted in (None, storage.storage)
        and (not wanted_content or wanted_content & set(storage.content))
    ]


@route("GET", "/nodes/{node}/storage/{storage}/status")
async def storage_status(call: Call) -> Any:
    storage = call.lab.storage(call.params["storage"], call.node)
    summary = _summary(call.lab, storage, call.node)
    return {name: value for name, value in summary.items() if name not in ("storage", "used_fraction")}


def _config(storage: Storage) -> dict[str, Any]:
    shown: dict[str, Any] = {"storage": storage.storage, "type": storage.type, "content": ",".join(storage.content)}
    extra = {
        "path": storage.path, "thinpool": storage.thinpool, "vgname": storage.vgname, "shared": storage.shared,
        "nodes": ",".join(storage.nodes),
    }  # fmt: skip
    return shown | {name: value for name, value in extra.items() if value}


@route("GET", "/storage")
async def storages(call: Call) -> Any:
    wanted = call.params.get("type")
    return [_config(storage) for storage in _visible(call) if wanted in (None, storage.type)]


@route("POST", "/storage")
async def create_storage(call: Call) -> Any:
    """The lab plays a directory, a thin pool that can take snapshots, and a network storage that all nodes share."""
    name, kind = call.params["storage"], call.params["type"]
    if name in call.lab.store.storages:
        raise failure(f"create storage failed: storage ID '{name}' already defined")
    if kind not in TYPES:
        raise failure(f"create storage failed: the lab plays storages of type {' and '.join(TYPES)} only")
    for option in TYPES[kind]:
        if option not in call.params:
            raise bad_parameter(option, MISSING)
    content = sorted(set(re.split(r"[,;\s]+", call.params.get("content", "images"))))
    nodes = sorted(set(filter(None, re.split(r"[,;\s]+", str(call.params.get("nodes", ""))))))
    shared = int(kind in ALWAYS_SHARED or bool(call.params.get("shared")))
    known = {option: str(call.params[option]) for option in TYPES[kind] if option in KEPT}
    call.lab.store.storages[name] = Storage(name, kind, content, **known, shared=shared, nodes=nodes)
    return {"storage": name, "type": kind}


@route("DELETE", "/storage/{storage}")
async def delete_storage(call: Call) -> None:
    """Only the definition goes; what lies on it stays, as on a real node."""
    storage = call.lab.storage(call.params["storage"])
    del call.lab.store.storages[storage.storage]


@route("GET", "/storage/{storage}")
async def storage_config(call: Call) -> Any:
    return _config(call.lab.storage(call.params["storage"]))


@route("GET", "/nodes/{node}/storage/{storage}/content")
async def content(call: Call) -> Any:
    storage = call.lab.storage(call.params["storage"], call.node)
    wanted, vmid = call.params.get("content"), call.params.get("vmid")
    found: list[dict[str, Any]] = []
    if "vztmpl" in storage.content:
        found += await _templates(call.lab, storage)
    found += [shown_backup(backup) for backup in _backups(call, storage)]
    found += _images(call, storage)
    return [entry for entry in found if wanted in (None, entry["content"]) and vmid in (None, entry.get("vmid"))]


async def _templates(lab: Lab, storage: Storage) -> list[dict[str, Any]]:
    names = await lab.drive(lab.driver.templates)
    created = int(lab.started)
    return [
        {
            "volid": f"{storage.storage}:vztmpl/{name}", "content": "vztmpl", "ctime": created, "size": size,
            "format": "t" + name.rpartition(".t")[2].replace("ar.", ""),
        }
        for name, size in sorted(names.items())
    ]  # fmt: skip


def _backups(call: Call, storage: Storage) -> list[Backup]:
    everything = call.has(f"/storage/{storage.storage}", "Datastore.Allocate")
    return [
        backup
        for backup in call.lab.store.backups.values()
        if backup.volid.startswith(f"{storage.storage}:")
        and storage.holds(backup, call.node)
        and (everything or call.has(f"/vms/{backup.vmid}", "VM.Backup", "VM.Audit"))
    ]


def shown_backup(backup: Backup) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "volid": backup.volid, "content": "backup", "vmid": backup.vmid, "ctime": backup.ctime, "size": backup.size,
        "format": "tar.zst" if backup.kind == "lxc" else "vma.zst", "subtype": backup.kind,
    }  # fmt: skip
    if backup.notes:
        shown["notes"] = backup.notes
    if backup.protected:
        shown["protected"] = 1
    return shown


def _images(call: Call, storage: Storage) -> list[dict[str, Any]]:
    found = []
    for guest in call.lab.store.guests.values():
        if (guest.node != call.node and not storage.shared) or not call.has(f"/vms/{guest.vmid}", "VM.Audit"):
            continue
        for option in disk_options(guest.config):
            parts = loose(str(guest.config[option]))
            volid = parts.get("volume", parts.get("file", ""))
            if not volid.startswith(f"{storage.storage}:"):
                continue
            size = int(parse_size(parts.get("size", "0")) * 1024 * 1024)
            kind = "rootdir" if guest.kind == "lxc" else "images"
            found.append(
                {
                    "volid": volid,
                    "content": kind,
                    "vmid": guest.vmid,
                    "size": size,
                    "format": "raw",
                    "ctime": guest.created,
                }
            )
    return found


@route("GET", "/nodes/{node}/storage/{storage}/content/{volume}")
async def volume(call: Call) -> Any:
    backup = _find_backup(call)
    call.lab.permissions.require_any(call.auth_id, f"/storage/{call.params['storage']}", AUDIT)
    shown = {
        "path": str(backup_path(call.lab, backup)),
        "size": backup.size,
        "used": backup.size,
        "format": "raw",
        "notes": backup.notes,
    }
    return {name: value for name, value in shown.items() if value != ""}


def _find_backup(call: Call) -> Backup:
    name = str(call.params["volume"])
    volid = name if ":" in name else f"{call.params['storage']}:{name}"
    call.lab.storage(volid.partition(":")[0], call.node)
    backup = call.lab.backup(volid, call.node)
    if backup is None:
        raise failure(f"volume '{volid}' does not exist")
    return backup


def backup_path(lab: Lab, backup: Backup) -> Path:
    """The archive of a backup; a directory storage keeps it under `dump`."""
    storage, _, name = backup.volid.partition(":backup/")
    return directory_of(lab, lab.store.storages[storage]) / "dump" / name
