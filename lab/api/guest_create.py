"""What creating, restoring and cloning have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from lab.core import Lab
from lab.drivers.base import DriverError
from lab.guests.kinds import KINDS
from lab.guests.networks import bridges
from lab.model import Config, Guest
from lab.server.call import Call
from lab.server.errors import ApiError, forbidden
from lab.tasks import INTERRUPTED, OrderedFailure, Task, TaskError, Work


def check_free(call: Call, vmid: int | None = None) -> None:
    """The VMID must be unused; the fault "VMID taken" uses it up at the last moment."""
    wanted = call.vmid if vmid is None else vmid
    guests = call.lab.store.guests
    if wanted not in guests and call.lab.faults.take("vmid-taken", vmid=wanted, node=call.node):
        config: Config = {"arch": "amd64", "hostname": "intruder", "memory": 512, "ostype": "debian"}
        guests[wanted] = Guest(wanted, "lxc", call.node, config, int(time.time()))
    call.lab.check_vmid_unused(wanted)


def may_allocate(call: Call, pool: str, vmid: int | None = None) -> None:
    """VM.Allocate on the guest's path, or on the pool it will be in."""
    if pool and pool not in call.lab.store.pools:
        raise forbidden(f"pool '{pool}' does not exist")
    wanted = call.vmid if vmid is None else vmid
    allowed = call.has(f"/vms/{wanted}", "VM.Allocate") or (pool and call.has(f"/pool/{pool}", "VM.Allocate"))
    if not allowed:
        raise forbidden()


def check_bridges(call: Call, options: dict[str, Any]) -> None:
    """SDN.Use on every bridge, or on its VLAN where one is named."""
    for bridge, tag in bridges(options):
        path = f"/sdn/zones/localnetwork/{bridge}"
        call.require(f"{path}/{tag}" if tag else path, "SDN.Use")


def begin(call: Call, action: str, work: Work, node: str | None = None) -> str:
    kind = f"{KINDS[call.kind].task_prefix}{action}"
    return call.lab.tasks.start(node or call.node, kind, str(call.vmid), call.auth_id, work)


@asynccontextmanager
async def building(lab: Lab, guest: Guest, verb: str = "create", source: Guest | None = None) -> AsyncIterator[None]:
    """While a new guest is made: it (and what it is made from) is locked, and a failure leaves nothing of it behind.

    Only a machine that could not be restored stays, with its lock: nobody cleans up after that.
    """
    kind = KINDS[guest.kind]
    try:
        async with AsyncExitStack() as locks:
            for held in (source, guest) if source else (guest,):
                await locks.enter_async_context(lab.config_lock(kind, held.vmid))
            yield
            guest.config.pop("lock", None)
            lab.store.guests.save(guest.vmid)
    except (TaskError, ApiError, asyncio.CancelledError) as error:
        if (guest.kind, verb) != ("qemu", "restore"):
            await _remove(lab, guest)
        if isinstance(error, OrderedFailure):
            raise
        text = INTERRUPTED if isinstance(error, asyncio.CancelledError) else str(error).rstrip("\n")
        raise TaskError(f"unable to {verb} {kind.label} {guest.vmid} - {text}") from error


async def _remove(lab: Lab, guest: Guest) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(lab.executor, lab.driver.destroy, guest.vmid, lambda line: None)
    except DriverError:
        return  # what cannot be removed stays visible, with its lock
    if lab.store.guests.get(guest.vmid) is guest:
        lab.store.remove_guest(guest.vmid)


def start_after(task: Task, lab: Lab, guest: Guest, work: Work) -> None:
    """start=1: a task of its own, whose failure does not touch the first."""
    kind = f"{KINDS[guest.kind].task_prefix}start"
    lab.tasks.start(guest.node, kind, str(guest.vmid), task.record.user, work)
