"""Snapshots: take, list, go back, remove."""

from __future__ import annotations

import time
from typing import Any

from lab.api.guest_config import shown
from lab.api.guest_create import begin
from lab.api.guest_status import launch
from lab.core import Lab
from lab.guests.kinds import KINDS
from lab.guests.specs import spec_of
from lab.guests.volumes import disk_options, storage_of, storages_of
from lab.model import Guest, Snapshot
from lab.server.call import Call
from lab.server.errors import failure
from lab.server.router import guest_route
from lab.tasks import Task, TaskError

RESERVED = {"current", "pending", "vzdump"}


def can_snapshot(lab: Lab, guest: Guest) -> bool:
    """Every disk lies on a storage that has snapshots; bind mounts lie on none."""
    for option in disk_options(guest.config):
        storage = lab.store.storages.get(storage_of(str(guest.config[option])))
        if storage is None or not storage.snapshots:
            return False
    return True


def _snapshot(guest: Guest, name: str) -> Snapshot:
    found = guest.snapshots.get(name)
    if found is None:
        raise failure(f"snapshot '{name}' does not exist")
    return found


@guest_route("GET", "/{vmid}/snapshot")
async def listing(call: Call) -> Any:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    rows: list[dict[str, Any]] = []
    for name, snapshot in guest.snapshots.items():
        row: dict[str, Any] = {"name": name, "description": snapshot.description, "snaptime": snapshot.snaptime}
        if snapshot.parent:
            row["parent"] = snapshot.parent
        if guest.kind == "qemu":
            row["vmstate"] = 0
        rows.append(row)
    running = (await call.lab.usage(guest.vmid)).running
    current: dict[str, Any] = {"name": "current", "description": "You are here!", "running": int(running)}
    current["digest"] = guest.digest
    if guest.parent:
        current["parent"] = guest.parent
    return [*rows, current]


@guest_route("POST", "/{vmid}/snapshot")
async def create(call: Call) -> str:
    name = str(call.params["snapname"])
    if name in RESERVED:
        raise failure(f"unable to use snapshot name '{name}' (reserved name)")
    description, node, kind, vmid = str(call.params.get("description", "")), call.node, call.kind, call.vmid

    async def work(task: Task) -> None:
        async with call.lab.config_lock(KINDS[kind], vmid):
            guest = call.lab.guest(node, kind, vmid)
            call.lab.check_lock(guest)
            _check_can_take(call.lab, guest, name)
            call.lab.check_space(*storages_of(guest.config))
            before = dict(guest.config)
            _lock(call.lab, guest, "snapshot")  # a failure in the middle leaves this lock, as on a real node
            await task.drive(call.lab.driver.snapshot, vmid, name, task.log)
            guest.snapshots[name] = Snapshot(before, int(time.time()), description, guest.parent)
            guest.parent = name
            _unlock(call.lab, guest)

    return begin(call, "snapshot", work)


def _check_can_take(lab: Lab, guest: Guest, name: str) -> None:
    if guest.is_template:
        raise TaskError("you can't take a snapshot if it's a template")
    if name in guest.snapshots:
        raise TaskError(f"snapshot name '{name}' already used")
    if not can_snapshot(lab, guest):
        raise TaskError("snapshot feature is not available")


def _lock(lab: Lab, guest: Guest, lock: str) -> None:
    guest.config["lock"] = lock
    lab.store.guests.save(guest.vmid)


def _unlock(lab: Lab, guest: Guest) -> None:
    guest.config.pop("lock", None)
    lab.store.guests.save(guest.vmid)


@guest_route("GET", "/{vmid}/snapshot/{snapname}")
async def index(call: Call) -> Any:
    return [{"cmd": "config"}, {"cmd": "rollback"}]


@guest_route("GET", "/{vmid}/snapshot/{snapname}/config")
async def read(call: Call) -> Any:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    snapshot = _snapshot(guest, str(call.params["snapname"]))
    return {**shown(snapshot.config), "description": snapshot.description, "snaptime": snapshot.snaptime}


@guest_route("PUT", "/{vmid}/snapshot/{snapname}/config")
async def describe(call: Call) -> None:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    snapshot = _snapshot(guest, str(call.params["snapname"]))
    snapshot.description = str(call.params.get("description", ""))
    call.lab.store.guests.save(guest.vmid)


@guest_route("DELETE", "/{vmid}/snapshot/{snapname}")
async def delete(call: Call) -> str:
    name, node, kind, vmid = str(call.params["snapname"]), call.node, call.kind, call.vmid

    async def work(task: Task) -> None:
        async with call.lab.config_lock(KINDS[kind], vmid):
            guest = call.lab.guest(node, kind, vmid)
            call.lab.check_lock(guest)
            gone = _snapshot(guest, name)
            _lock(call.lab, guest, "snapshot-delete")
            await task.drive(call.lab.driver.delete_snapshot, vmid, name, task.log)
            del guest.snapshots[name]
            for other in guest.snapshots.values():
                other.parent = gone.parent if other.parent == name else other.parent
            guest.parent = gone.parent if guest.parent == name else guest.parent
            _unlock(call.lab, guest)

    return begin(call, "delsnapshot", work)


@guest_route("POST", "/{vmid}/snapshot/{snapname}/rollback")
async def rollback(call: Call) -> str:
    """Stops the guest and brings back files and the whole configuration."""
    name, node, kind, vmid = str(call.params["snapname"]), call.node, call.kind, call.vmid
    start = bool(call.params.get("start"))

    async def work(task: Task) -> None:
        async with call.lab.config_lock(KINDS[kind], vmid):
            guest = call.lab.guest(node, kind, vmid)
            call.lab.check_lock(guest)
            snapshot = _snapshot(guest, name)
            _lock(call.lab, guest, "rollback")
            if (await call.lab.usage(vmid)).running:
                await task.drive(call.lab.driver.stop, vmid, task.log)
            await task.drive(call.lab.driver.rollback, vmid, name, task.log)
            guest.config, guest.parent, guest.booted = dict(snapshot.config), name, {}
            await task.drive(call.lab.driver.configure, spec_of(guest), task.log)
            _unlock(call.lab, guest)
            if start:
                await launch(call.lab, task, guest)

    return begin(call, "rollback", work)
