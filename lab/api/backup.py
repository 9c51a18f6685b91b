"""vzdump: backups of guests onto a storage."""

from __future__ import annotations

import re
import time
from typing import Any

from lab.api.storage import backup_path
from lab.core import Lab
from lab.guests.kinds import KINDS
from lab.model import Backup, Guest
from lab.server.call import Call
from lab.server.errors import ApiError, bad_parameter, failure, forbidden
from lab.server.router import route
from lab.tasks import Task, TaskError

DEFAULT_STORAGE = "local"
ENDINGS = {"lxc": "tar", "qemu": "vma"}
COMPRESSIONS = {"0": "", "1": ".lzo", "gzip": ".gz", "lzo": ".lzo", "zstd": ".zst"}
ROOT_ONLY = ("tmpdir", "dumpdir", "script", "job-id")
SYS_MODIFY = ("bwlimit", "ionice", "performance")


@route("POST", "/nodes/{node}/vzdump")
async def vzdump(call: Call) -> str:
    """Guests on other nodes are left out; when none is left the answer is OK in place of a task."""
    _check_options(call)
    storage = call.lab.storage(str(call.params.get("storage", DEFAULT_STORAGE)), call.node)
    if "backup" not in storage.content:
        raise bad_parameter("storage", f"storage '{storage.storage}' does not support backups")
    call.require(f"/storage/{storage.storage}", "Datastore.AllocateSpace")
    guests = _wanted(call)
    for guest in guests:
        call.require(f"/vms/{guest.vmid}", "VM.Backup")
    if not guests:
        return "OK"
    task_id = str(guests[0].vmid) if len(guests) == 1 else ""

    async def work(task: Task) -> None:
        async with call.lab.backup_lock(call.node, task.log):
            failed = [guest.vmid for guest in guests if not await _back_up(call, task, guest, storage.storage)]
        if failed:
            raise TaskError("job errors")

    return call.lab.tasks.start(call.node, "vzdump", task_id, call.auth_id, work)


def _check_options(call: Call) -> None:
    if not call.is_root:
        for name in ROOT_ONLY:
            if name in call.params:
                raise bad_parameter(name, "Only root may set this option.")
        if any(name in call.params for name in SYS_MODIFY):
            call.require("/", "Sys.Modify")
        if "prune-backups" in call.params and "storage" in call.params:
            call.require(f"/storage/{call.params['storage']}", "Datastore.Allocate")
    chosen = [name for name in ("vmid", "all", "pool") if call.params.get(name)]
    if not chosen:
        raise bad_parameter("vmid", "property is missing and it is not optional")
    if len(chosen) > 1:
        raise bad_parameter(chosen[1], f"option conflicts with option '{chosen[0]}'")


def _wanted(call: Call) -> list[Guest]:
    here = [guest for guest in call.lab.store.guests.values() if guest.node == call.node]
    here.sort(key=lambda guest: guest.vmid)
    excluded = _vmids(call.params.get("exclude", ""))
    if call.params.get("all"):
        return [g for g in here if g.vmid not in excluded and call.has(f"/vms/{g.vmid}", "VM.Backup")]
    if call.params.get("pool"):
        return [g for g in here if g.pool == call.params["pool"] and g.vmid not in excluded]
    wanted = _vmids(call.params["vmid"])
    return [g for g in here if g.vmid in wanted]


def _vmids(text: Any) -> set[int]:
    return {int(item) for item in re.split(r"[,;\s]+", str(text)) if item}


async def _back_up(call: Call, task: Task, guest: Guest, storage: str) -> bool:
    """One guest; a failure is told in the log and does not keep the others from their turn."""
    kind = KINDS[guest.kind]
    task.log(f"INFO: Starting Backup of VM {guest.vmid} ({guest.kind})")
    try:
        async with call.lab.config_lock(kind, guest.vmid):
            current = call.lab.guest(guest.node, guest.kind, guest.vmid)
            call.lab.check_lock(current)
            call.lab.check_space(storage)
            await _write_archive(call, task, current, storage)
    except (TaskError, ApiError) as error:
        task.log(f"ERROR: Backup of VM {guest.vmid} failed - {error}")
        return False
    task.log(f"INFO: Finished Backup of VM {guest.vmid}")
    return True


async def _write_archive(call: Call, task: Task, guest: Guest, storage: str) -> None:
    lab, now = call.lab, int(time.time())
    config = {name: value for name, value in guest.config.items() if name != "lock"}
    backup = Backup(_free_volid(lab, guest, storage, now, call), guest.node, guest.vmid, guest.kind, now, config)
    target = backup_path(lab, backup)
    target.parent.mkdir(parents=True, exist_ok=True)
    guest.config["lock"] = "backup"
    lab.store.guests.save(guest.vmid)
    try:
        await task.drive(lab.driver.backup, guest.vmid, target, task.log)
        backup.size = target.stat().st_size
        backup.notes = _notes(call, guest)
        backup.protected = int(call.params.get("protected", 0))
        lab.store.backups[backup.volid] = backup
        task.log(f"INFO: archive file size: {backup.size} bytes, {backup.volid}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        guest.config.pop("lock", None)
        lab.store.guests.save(guest.vmid)


def _free_volid(lab: Lab, guest: Guest, storage: str, now: int, call: Call) -> str:
    """Named by the second; a second backup in the same second takes the next."""
    while True:
        stamp = time.strftime("%Y_%m_%d-%H_%M_%S", time.gmtime(now))
        ending = ENDINGS[guest.kind] + COMPRESSIONS[str(call.params.get("compress", "zstd"))]
        volid = f"{storage}:backup/vzdump-{guest.kind}-{guest.vmid}-{stamp}.{ending}"
        if volid not in lab.store.backups:
            return volid
        now += 1


def _notes(call: Call, guest: Guest) -> str:
    values = {"guestname": guest.name, "node": guest.node, "vmid": str(guest.vmid), "cluster": "lab"}
    template = str(call.params.get("notes-template", "")).replace("\\n", "\n")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values.get(match[1], match[0]), template)


@route("GET", "/nodes/{node}/vzdump/extractconfig")
async def extractconfig(call: Call) -> Any:
    """The configuration inside a backup, as text."""
    volid = str(call.params["volume"])
    backup = call.lab.backup(volid, call.node)
    if backup is None:
        raise failure(f"volume '{volid}' does not exist")
    storage = f"/storage/{volid.partition(':')[0]}"
    if not call.has(storage, "Datastore.Allocate"):
        if not call.has(storage, "Datastore.AllocateSpace", "Datastore.Audit"):
            raise forbidden(f"{storage}, Datastore.AllocateSpace|Datastore.Audit")
        call.require(f"/vms/{backup.vmid}", "VM.Backup")
    return Guest(backup.vmid, backup.kind, backup.node, backup.config, backup.ctime).rendered()


@route("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}")
async def delete_volume(call: Call) -> str:
    name = str(call.params["volume"])
    volid = name if ":" in name else f"{call.params['storage']}:{name}"
    store = call.lab.storage(volid.partition(":")[0], call.node).storage
    storage = f"/storage/{store}"
    backup = call.lab.backup(volid, call.node)
    if not call.has(storage, "Datastore.Allocate"):
        call.require(storage, "Datastore.AllocateSpace")
        if backup is not None:
            call.require(f"/vms/{backup.vmid}", "VM.Backup")
    if backup is None:
        raise failure(f"volume '{volid}' does not exist")
    if backup.protected:
        raise failure(f"can't remove volume '{volid}' - backup is protected")

    async def work(task: Task) -> None:
        backup_path(call.lab, backup).unlink(missing_ok=True)
        call.lab.store.backups.pop(volid, None)
        task.log(f"Removed volume '{volid}'")

    return call.lab.tasks.start(call.node, "imgdel", f"{backup.vmid}@{store}", call.auth_id, work)
