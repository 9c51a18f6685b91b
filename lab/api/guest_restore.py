"""Guests from backups: containers with restore=1, machines with archive=."""

from __future__ import annotations

import re
import time
from typing import Any

from lab.api.guest_create import begin, building, check_bridges, check_free, may_allocate, start_after
from lab.api.guest_status import start_work
from lab.api.storage import backup_path
from lab.guests.allocation import relocate, usable_storage
from lab.guests.kinds import KINDS
from lab.guests.networks import complete
from lab.guests.options import check_options, configuration, normalize
from lab.guests.specs import spec_of
from lab.guests.volumes import DISK_OPTION, storages_of
from lab.model import Backup, Config, Guest
from lab.server.call import Call
from lab.server.errors import ApiError, failure, forbidden
from lab.server.formats import VOLUME_ID
from lab.tasks import Task, TaskError, Work


async def restore_container(call: Call) -> str:
    return await _restore(call, str(call.params["ostemplate"]))


async def restore_machine(call: Call) -> str:
    return await _restore(call, str(call.params["archive"]))


async def _restore(call: Call, volid: str) -> str:
    """force=1 replaces an existing guest: its files and configuration are gone once the task begins to write."""
    lab, pool = call.lab, str(call.params.get("pool", ""))
    replaced = lab.store.guests.get(call.vmid) if call.params.get("force") else None
    if replaced is None:
        check_free(call)
    else:
        await _check_replaceable(call, replaced)
    _may_restore(call, pool, replaced)
    backup = _readable_backup(call, volid)
    options = configuration(call)
    check_options(call, call.vmid, pool, options)
    check_bridges(call, options)
    config = _config(call, backup, options)
    guest = Guest(
        call.vmid, call.kind, call.node, config, int(time.time()), pool or (replaced.pool if replaced else "")
    )
    if replaced is None:
        lab.store.guests[call.vmid] = guest
    return begin(call, "restore", _work(call, backup, guest, replaced))


async def _check_replaceable(call: Call, guest: Guest) -> None:
    label = KINDS[call.kind].label
    if guest.kind != call.kind or guest.node != call.node:
        call.lab.check_vmid_unused(guest.vmid)
    if guest.config.get("protection"):
        raise failure(f"unable to restore {label} {guest.vmid} - protection mode enabled")
    call.lab.check_lock(guest)
    if (await call.lab.usage(guest.vmid)).running:
        state = "container is running" if call.kind == "lxc" else "vm is running"
        raise failure(f"unable to restore {label} {guest.vmid} - {state}")


def _may_restore(call: Call, pool: str, replaced: Guest | None) -> None:
    """To restore over a guest, VM.Backup on it is enough."""
    try:
        may_allocate(call, pool)
    except ApiError:
        if replaced is None or not call.has(f"/vms/{call.vmid}", "VM.Backup"):
            raise


def _readable_backup(call: Call, volid: str) -> Backup:
    if not VOLUME_ID.fullmatch(volid):
        raise failure("Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 581.")
    name = volid.partition(":")[0]
    call.lab.storage(name, call.node)
    backup = call.lab.backup(volid, call.node)
    if not call.has(f"/storage/{name}", "Datastore.Allocate"):
        owner = backup.vmid if backup else call.vmid
        if not (call.has(f"/storage/{name}", "Datastore.AllocateSpace") and call.has(f"/vms/{owner}", "VM.Backup")):
            raise forbidden(f"/vms/{owner}, VM.Backup")
    if backup is None:
        raise failure(f"unable to restore {KINDS[call.kind].label} {call.vmid} - volume '{volid}' does not exist")
    if backup.kind != call.kind:
        raise failure(
            f"unable to restore {KINDS[call.kind].label} {call.vmid} - '{volid}' is a backup of another type of guest"
        )
    return backup


def _config(call: Call, backup: Backup, options: dict[str, Any]) -> Config:
    """The archive's configuration with the wishes of the call over it."""
    target = str(call.params.get("storage", ""))
    if target:
        usable_storage(call, target)
    disks = [name for name in options if DISK_OPTION.fullmatch(name)]
    if disks:
        raise failure(f"unable to restore into '{disks[0]}': give storage= instead")
    config = relocate(call.lab, call.vmid, backup.config, target)
    for name in storages_of(config):
        usable_storage(call, name)
    if call.params.get("unique"):
        for name, value in config.items():
            if re.fullmatch(r"net\d+", name):
                config[name] = complete(call.kind, str(value), fresh_mac=True)
    return {**config, **normalize(call.kind, options), "lock": "create"}


def _work(call: Call, backup: Backup, guest: Guest, replaced: Guest | None) -> Work:
    lab, start = call.lab, bool(call.params.get("start"))

    async def work(task: Task) -> None:
        if replaced is not None:
            await _replace(call, task, replaced, guest)
        async with building(lab, guest, "restore"):
            archive = backup_path(lab, backup)
            if not archive.exists():
                raise TaskError(f"volume '{backup.volid}' does not exist")
            lab.check_space(*storages_of(guest.config))
            await task.drive(lab.driver.restore, spec_of(guest), archive, task.log)
        if start:
            start_after(task, lab, guest, start_work(lab, guest.node, guest.kind, guest.vmid))

    return work


async def _replace(call: Call, task: Task, old: Guest, new: Guest) -> None:
    lab = call.lab
    async with lab.config_lock(KINDS[old.kind], old.vmid):
        if lab.store.guests.get(old.vmid) is not old:
            raise TaskError(f"unable to restore {KINDS[old.kind].label} {old.vmid} - it changed meanwhile")
        await _check_replaceable(call, old)
        await task.drive(lab.driver.destroy, old.vmid, task.log)
        lab.store.guests[old.vmid] = new
