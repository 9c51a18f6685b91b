"""POST /nodes/{node}/lxc: the call that is the compare-and-set for VMIDs."""

from __future__ import annotations

import base64
import binascii
import re
import time
from typing import Any
from urllib.parse import unquote

from lab.api.guest_create import begin, building, check_bridges, check_free, may_allocate, start_after
from lab.api.guest_restore import restore_container
from lab.api.guest_status import start_work
from lab.core import Lab
from lab.guests.allocation import allocate, new_disk, usable_storage
from lab.guests.options import check_options, configuration, normalize
from lab.guests.specs import spec_of
from lab.guests.volumes import storages_of
from lab.model import Config, Guest
from lab.server.call import Call
from lab.server.errors import failure
from lab.server.formats import VOLUME_ID
from lab.server.router import route
from lab.sshkey import fingerprint
from lab.tasks import Task, TaskError, Work

DEFAULT_STORAGE = "local"
DEFAULT_DISK_GIB = 4


@route("POST", "/nodes/{node}/lxc")
async def create(call: Call) -> str:
    call.kind = "lxc"
    if call.params.get("restore"):
        return await restore_container(call)
    options = configuration(call)
    keys = unquote(str(call.params.get("ssh-public-keys", "")))
    pool = str(call.params.get("pool", ""))
    unprivileged = bool(call.params.get("unprivileged", int(call.lab.config.pve_version >= 9)))
    check_free(call)
    check_ssh_keys(keys)
    may_allocate(call, pool)
    if not unprivileged and call.lab.config.pve_version >= 9:
        call.require("/", "Sys.Modify")
    if "ha-managed" in call.params:
        call.require("/", "Sys.Console")
    template = template_storage(call, str(call.params["ostemplate"]))
    check_options(call, call.vmid, pool, options, unprivileged=unprivileged)
    config = _with_disks(call, options)
    check_bridges(call, options)
    guest = Guest(call.vmid, "lxc", call.node, _initial(call, config, unprivileged), int(time.time()), pool)
    call.lab.store.guests[call.vmid] = guest
    password = str(call.params.get("password", ""))
    return begin(call, "create", _work(call, guest, template, keys, password))


def check_ssh_keys(keys: str) -> None:
    for line in filter(None, (line.strip() for line in keys.splitlines())):
        match = re.search(r"(?:ssh-\S+|ecdsa-sha2-\S+|sk-\S+)\s+(\S+)", line)
        if line.startswith("#"):
            continue
        try:
            if not match or not base64.b64decode(match[1], validate=True):
                raise failure("SSH public key validation error")
        except binascii.Error:
            raise failure("SSH public key validation error") from None


def template_storage(call: Call, volid: str) -> str:
    """The template's name, if its storage may be read."""
    if not VOLUME_ID.fullmatch(volid):
        raise failure("Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 581.")
    name, _, volume = volid.partition(":")
    call.lab.storage(name, call.node)
    call.lab.permissions.require_any(call.auth_id, f"/storage/{name}", ("Datastore.AllocateSpace", "Datastore.Audit"))
    return volume


def _with_disks(call: Call, options: dict[str, Any]) -> Config:
    """The options with every new disk's volume named; the storages are checked first."""
    config: Config = dict(options)
    default = str(call.params.get("storage", DEFAULT_STORAGE))
    disks = [name for name in options if re.fullmatch(r"rootfs|mp\d+", name)]
    if not disks:
        config["rootfs"] = f"{default}:{DEFAULT_DISK_GIB}"
    elif "rootfs" not in disks:
        raise failure("mount points configured, but 'rootfs' not set - aborting")
    for option in disks or ["rootfs"]:
        wanted = new_disk(str(config[option]), default)
        if wanted is None:
            raise failure(f"unable to use the existing volume of '{option}': give STORAGE:SIZE")
        usable_storage(call, wanted[0])
        config[option] = allocate(call.lab, call.vmid, config, option, *wanted)
    return config


def _initial(call: Call, config: Config, unprivileged: bool) -> Config:
    defaults: Config = {"arch": "amd64", "hostname": f"CT{call.vmid}", "memory": 512, "swap": 512, "ostype": "debian"}
    written = {**defaults, **normalize("lxc", config), "lock": "create"}
    return {**written, "unprivileged": 1} if unprivileged else written


async def _log_host_keys(lab: Lab, task: Task, guest: Guest) -> None:
    """A new container gets host keys of its own, and the log is where an operator learns their fingerprints."""
    for name, public in (await lab.drive(lab.driver.host_keys, guest.vmid)).items():
        task.log(f"Creating SSH host key '{name}' - this may take some time ...")
        task.log(f"done: {fingerprint(public)} root@{guest.name.partition('.')[0]}")


def _work(call: Call, guest: Guest, template: str, keys: str, password: str) -> Work:
    lab, start, volid = call.lab, bool(call.params.get("start")), str(call.params["ostemplate"])

    async def work(task: Task) -> None:
        kind, _, name = template.partition("/")
        async with building(lab, guest):
            if kind != "vztmpl" or name not in await task.drive(lab.driver.templates):
                raise TaskError(f"volume '{volid}' does not exist")
            lab.check_space(*storages_of(guest.config))
            spec = spec_of(guest, ssh_keys=keys, password=password)
            await task.drive(lab.driver.create, spec, name, task.log)
            await _log_host_keys(lab, task, guest)
        if start:
            start_after(task, lab, guest, start_work(lab, guest.node, "lxc", guest.vmid))

    return work
