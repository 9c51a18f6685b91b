"""Reading and changing the configuration of guests, and removing guests."""

from __future__ import annotations

import re
from typing import Any

from lab.api.guest_create import begin, check_bridges
from lab.guests.allocation import allocate, new_disk, usable_storage
from lab.guests.kinds import KINDS
from lab.guests.options import check_options, normalize, privilege_of, require_on_guest
from lab.guests.specs import spec_of
from lab.guests.volumes import DISK_OPTION, storages_of
from lab.model import Config, Guest
from lab.server.call import Call
from lab.server.errors import bad_parameter, failure
from lab.server.router import guest_route, route
from lab.server.schema import load
from lab.tasks import Task, TaskError

NOT_OPTIONS = {"digest", "delete", "revert", "skiplock", "force", "background_delay", "import-working-storage"}
REQUIRED = {"lxc": {"arch", "hostname", "memory", "ostype", "rootfs", "swap"}, "qemu": set()}
READ_ONLY = {"lxc": {"unprivileged", "arch", "ostype"}, "qemu": {"meta", "smbios1"}}
# What a running guest takes over only at its next start; machines can be given networks and disks while they run.
NOT_LIVE = {
    "lxc": re.compile(r"features|cmode|console|tty|dev\d+|entrypoint|env|lxc\..+"),
    "qemu": re.compile(
        r"acpi|agent|args|audio0|bios|boot|cores|cpu|efidisk0|hostpci\d+|hugepages|kvm|machine|memory|numa\d*|ostype"
        r"|rng0|scsihw|serial\d+|sockets|tablet|tpmstate0|vcpus|vga|watchdog"
    ),
}
DETECTED = "detected modified configuration - file changed by other user? Try again."


@guest_route("GET", "/{vmid}/config")
async def read(call: Call) -> Any:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    snapshot = call.params.get("snapshot")
    if snapshot:
        if snapshot not in guest.snapshots:
            raise failure(f"snapshot '{snapshot}' does not exist")
        return {**shown(guest.snapshots[snapshot].config), "digest": guest.digest}
    return {**shown(guest.config), **lock_of(call, guest), "digest": guest.digest}


def shown(config: Config) -> Config:
    """A machine's password is never shown."""
    return {option: "**********" if option == "cipassword" else value for option, value in config.items()}


def lock_of(call: Call, guest: Guest) -> Config:
    lock = call.lab.lock_shown(guest)
    return {"lock": lock} if lock else {}


@guest_route("GET", "/{vmid}/pending")
async def pending(call: Call) -> Any:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    running = (await call.lab.usage(guest.vmid)).running
    waiting = guest.booted if running else {}
    new, old = shown(guest.config), shown(waiting)
    entries = [_pending_entry(option, new, old) for option in sorted({*new, *old})]
    return [*entries, {"key": "digest", "value": guest.digest}]


def _pending_entry(option: str, new: Config, old: Config) -> Config:
    """`value` is what holds now, `pending` what the next start brings, `delete` that it takes the option away."""
    entry: Config = {"key": option}
    if option not in old:
        return {**entry, "value": new[option]}
    if old[option] is not None:
        entry["value"] = old[option]
    return {**entry, "pending": new[option]} if option in new else {**entry, "delete": 1}


@guest_route("PUT", "/{vmid}/config")
async def update(call: Call) -> None:
    await _update(call)


@route("POST", "/nodes/{node}/qemu/{vmid}/config")
async def update_in_task(call: Call) -> str:
    call.kind = "qemu"
    call.lab.guest(call.node, call.kind, call.vmid)

    async def work(task: Task) -> None:
        await _update(call)

    return begin(call, "config", work)


async def _update(call: Call) -> None:
    """All checks first; then the whole change at once."""
    skiplock = call.skips_lock()
    changes = {name: value for name, value in call.options.items() if name not in NOT_OPTIONS}
    removals = _removals(call)
    if not changes and not removals and not call.params.get("revert"):
        raise failure("no options specified")
    _check_changes(call, changes, removals)
    async with call.lab.config_lock(KINDS[call.kind], call.vmid):
        guest = call.lab.guest(call.node, call.kind, call.vmid)
        if not skiplock:
            call.lab.check_lock(guest)
        if call.params.get("digest", guest.digest) != guest.digest:
            raise failure(DETECTED)
        _check_protected_disks(call, guest, removals)
        config = _changed(call, guest, changes, removals)
        running = (await call.lab.usage(guest.vmid)).running
        booted = waiting(call.kind, guest, config) if running else {}
        updated = Guest(**{**vars(guest), "config": config, "booted": booted})
        await call.lab.drive(call.lab.driver.configure, spec_of(updated), lambda line: None)
        guest.config, guest.booted = config, booted
        call.lab.store.guests.save(guest.vmid)


def _removals(call: Call) -> list[str]:
    """Options to delete; unknown ones are a parameter error."""
    names = [name for name in re.split(r"[,;\s]+", str(call.params.get("delete", ""))) if name]
    path = f"/nodes/{{node}}/{call.kind}/{{vmid}}/config"
    endpoint = load(call.lab.config.pve_version)["PUT", path]
    for name in names:
        if endpoint.rule(name) is None:
            raise bad_parameter("delete", f"unknown option '{name}'")
    return names


def _check_changes(call: Call, changes: dict[str, Any], removals: list[str]) -> None:
    for name in [*changes, *removals]:
        if name in READ_ONLY[call.kind]:
            raise failure(f"unable to modify read-only option: '{name}'")
    for name in removals:
        if name in REQUIRED[call.kind]:
            raise failure(f"unable to delete required option '{name}'")
        if not call.is_root:
            require_on_guest(call, call.vmid, "", privilege_of(call.kind, name))
    guest = call.lab.store.guests.get(call.vmid)
    unprivileged = guest is None or bool(guest.config.get("unprivileged"))
    check_options(call, call.vmid, "", changes, unprivileged=unprivileged)
    check_bridges(call, changes)


def _check_protected_disks(call: Call, guest: Guest, removals: list[str]) -> None:
    disks = [name for name in removals if DISK_OPTION.fullmatch(name)]
    if disks and guest.config.get("protection"):
        raise failure(
            f"can't remove {KINDS[guest.kind].label} {guest.vmid} drive '{disks[0]}' - protection mode enabled"
        )


def _reverted(call: Call, guest: Guest) -> Config:
    """revert=cores,memory: what waits for a start is taken back."""
    names = set(re.split(r"[,;\s]+", str(call.params.get("revert", ""))))
    return {name: value for name, value in guest.booted.items() if name in names and value is not None}


def waiting(kind: str, guest: Guest, config: Config) -> Config:
    """What of a running guest's new configuration has to wait for its next start: the values that hold until then."""
    before = {**dict.fromkeys(config), **guest.config, **guest.booted}
    names = (name for name in before if NOT_LIVE[kind].fullmatch(name))
    return {name: before[name] for name in names if str(before[name]) != str(config.get(name))}


def _changed(call: Call, guest: Guest, changes: dict[str, Any], removals: list[str]) -> Config:
    config: Config = {name: value for name, value in guest.config.items() if name not in removals}
    config |= _reverted(call, guest)
    written = normalize(call.kind, changes)
    if "tags" in changes and "tags" not in written:
        config.pop("tags", None)
    config.update(written)
    key = "volume" if call.kind == "lxc" else "file"
    for name in changes:
        wanted = new_disk(str(config[name]), "local", key) if DISK_OPTION.fullmatch(name) else None
        if wanted:
            usable_storage(call, wanted[0])
            call.lab.check_space(wanted[0])
            config[name] = allocate(call.lab, guest.vmid, config, name, *wanted, key)
    return config


@guest_route("DELETE", "/{vmid}")
async def destroy(call: Call) -> str:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    kind = KINDS[call.kind]
    if guest.config.get("protection"):
        raise failure(f"can't remove {kind.label} {guest.vmid} - protection mode enabled")
    skiplock = call.skips_lock()
    if not skiplock:
        _check_lock_to_destroy(call, guest)
    force = bool(call.params.get("force"))
    is_running = f"VM {guest.vmid} is running - destroy failed"
    if call.kind == "lxc":
        is_running = f"unable to destroy CT {guest.vmid} - container is running"
    if (await call.lab.usage(guest.vmid)).running and not force:
        raise failure(is_running)

    async def work(task: Task) -> None:
        async with call.lab.config_lock(kind, guest.vmid):
            current = call.lab.guest(call.node, call.kind, guest.vmid)
            if not skiplock:
                _check_lock_to_destroy(call, current)
            if (await call.lab.usage(guest.vmid)).running:
                if not force:
                    raise TaskError(is_running)
                task.log(f"forced to stop {kind.label} {guest.vmid} before destroying!")
                await task.drive(call.lab.driver.stop, guest.vmid, task.log)
            current.config["lock"] = "destroyed"
            call.lab.store.guests.save(guest.vmid)
            await task.drive(call.lab.driver.destroy, guest.vmid, task.log)
            for storage in storages_of(current.config):
                task.log(f"purged the guest's volumes from storage '{storage}'")
            call.lab.store.remove_guest(guest.vmid)

    return begin(call, "destroy", work)


def _check_lock_to_destroy(call: Call, guest: Guest) -> None:
    """A removal that was cut off can be asked for again."""
    if guest.lock != "destroyed":
        call.lab.check_lock(guest)
