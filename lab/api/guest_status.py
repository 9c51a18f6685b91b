"""Starting and ending guests."""

from __future__ import annotations

from lab.core import BRIDGE, Lab
from lab.guests.kinds import KINDS
from lab.guests.networks import bridges
from lab.guests.specs import spec_of
from lab.model import Guest
from lab.server.call import Call
from lab.server.errors import failure
from lab.server.router import guest_route
from lab.tasks import Task, TaskError, Work

SHUTDOWN_SECONDS = 60


def start_work(lab: Lab, node: str, kind: str, vmid: int, *, skiplock: bool = False) -> Work:
    """The worker that starts a guest; it looks for the guest itself."""

    async def work(task: Task) -> None:
        async with lab.config_lock(KINDS[kind], vmid):
            guest = lab.guest(node, kind, vmid)
            if not skiplock:
                lab.check_lock(guest)
            await launch(lab, task, guest)

    return work


async def launch(lab: Lab, task: Task, guest: Guest) -> None:
    """Start a guest whose configuration is locked by the caller."""
    if guest.is_template:
        label = "a CT if it's a template" if guest.kind == "lxc" else "a vm if it's a template"
        raise TaskError(f"you can't start {label}")
    for bridge, _ in bridges(guest.config):
        if bridge != BRIDGE:
            raise TaskError(f"bridge '{bridge}' does not exist")
    forget_boot(lab, guest.vmid)
    await task.drive(lab.driver.start, spec_of(guest), task.log)


def forget_boot(lab: Lab, vmid: int) -> None:
    """What waited for the guest's end or start waits no more."""
    guest = lab.store.guests.get(vmid)
    if guest and guest.booted:
        guest.booted = {}
        lab.store.guests.save(vmid)


async def _is_running(call: Call) -> bool:
    found = call.lab.store.guests.get(call.vmid)
    if found is None or found.kind != call.kind or found.node != call.node:
        return False
    return (await call.lab.usage(call.vmid)).running


@guest_route("POST", "/{vmid}/status/start")
async def start(call: Call) -> str:
    skiplock = call.skips_lock()
    if await _is_running(call):
        raise failure(f"{KINDS[call.kind].label} {call.vmid} already running")
    return _begin(call, "start", start_work(call.lab, call.node, call.kind, call.vmid, skiplock=skiplock))


@guest_route("POST", "/{vmid}/status/stop")
async def stop(call: Call) -> str:
    call.skips_lock()
    await _require_running(call)

    async def work(task: Task) -> None:
        async with call.lab.config_lock(KINDS[call.kind], call.vmid):
            await task.drive(call.lab.driver.stop, call.vmid, task.log)
            forget_boot(call.lab, call.vmid)

    return _begin(call, "stop", work)


@guest_route("POST", "/{vmid}/status/shutdown")
async def shutdown(call: Call) -> str:
    skiplock = call.skips_lock()
    await _require_running(call)
    timeout = int(call.params.get("timeout", SHUTDOWN_SECONDS))
    force = bool(call.params.get("forceStop"))

    async def work(task: Task) -> None:
        async with call.lab.config_lock(KINDS[call.kind], call.vmid):
            if not skiplock:
                call.lab.check_lock(call.lab.guest(call.node, call.kind, call.vmid))
            await _shut_down(call.lab, task, call.vmid, timeout, force)

    return _begin(call, "shutdown", work)


async def _shut_down(lab: Lab, task: Task, vmid: int, timeout: int, force: bool) -> None:
    try:
        await task.drive(lab.driver.shutdown, vmid, timeout, task.log)
    except TaskError as error:
        if not force:
            raise
        task.log(f"{error} - terminating now with SIGKILL")
        await task.drive(lab.driver.stop, vmid, task.log)
    forget_boot(lab, vmid)


@guest_route("POST", "/{vmid}/status/reboot")
async def reboot(call: Call) -> str:
    if not await _is_running(call):
        raise failure(f"VM {call.vmid} not running")
    timeout = int(call.params.get("timeout", SHUTDOWN_SECONDS))

    async def work(task: Task) -> None:
        async with call.lab.config_lock(KINDS[call.kind], call.vmid):
            guest = call.lab.guest(call.node, call.kind, call.vmid)
            call.lab.check_lock(guest)
            await _shut_down(call.lab, task, call.vmid, timeout, force=False)
            await launch(call.lab, task, guest)

    return _begin(call, "reboot", work)


@guest_route("POST", "/{vmid}/status/reset", kinds=("qemu",))
async def reset(call: Call) -> str:
    call.skips_lock()
    if not await _is_running(call):
        raise failure(f"VM {call.vmid} not running")

    async def work(task: Task) -> None:
        async with call.lab.config_lock(KINDS[call.kind], call.vmid):
            await task.drive(call.lab.driver.stop, call.vmid, task.log)
            await launch(call.lab, task, call.lab.guest(call.node, call.kind, call.vmid))

    return _begin(call, "reset", work)


async def _require_running(call: Call) -> None:
    """Containers refuse at once; ending a machine that is already off is fine, but it must exist."""
    if call.kind == "qemu":
        call.lab.guest(call.node, call.kind, call.vmid)
    elif not await _is_running(call):
        raise failure(f"CT {call.vmid} not running")


def _begin(call: Call, action: str, work: Work) -> str:
    kind = f"{KINDS[call.kind].task_prefix}{action}"
    return call.lab.tasks.start(call.node, kind, str(call.vmid), call.auth_id, work)
