"""Clone, template, resize, and what a guest's storage can do."""

from __future__ import annotations

import re
import time
from typing import Any

from lab.api.guest_create import begin, building, check_free, may_allocate
from lab.api.guest_snapshot import can_snapshot
from lab.core import Lab
from lab.guests.allocation import grown, relocate, usable_storage
from lab.guests.kinds import KINDS
from lab.guests.networks import bridges, complete
from lab.guests.specs import spec_of
from lab.guests.volumes import disk_options, storage_of, storages_of
from lab.model import Config, Guest
from lab.server.call import Call
from lab.server.errors import bad_parameter, failure
from lab.server.router import guest_route
from lab.tasks import Task


@guest_route("POST", "/{vmid}/clone")
async def clone(call: Call) -> str:
    lab = call.lab
    source = lab.guest(call.node, call.kind, call.vmid)
    new_id, snapname = int(call.params["newid"]), call.params.get("snapname")
    pool, target = str(call.params.get("pool", "")), str(call.params.get("target", call.node))
    may_allocate(call, pool, new_id)
    if target not in lab.config.nodes:
        raise failure(f"no such cluster node '{target}'")
    lab.check_lock(source)
    _check_source(call, source, running=(await lab.usage(source.vmid)).running)
    _check_storages(call, source)
    if target != call.node:
        _check_target(call, source, target)
    _check_new_id(call, new_id)
    guest = _copy(call, source, new_id, target, pool)
    lab.store.guests[new_id] = guest

    async def work(task: Task) -> None:
        async with building(lab, guest, "clone", source):
            lab.check_space(*storages_of(guest.config))
            await task.drive(lab.driver.clone, source.vmid, snapname, spec_of(guest), task.log)

    return begin(call, "clone", work)


def _check_new_id(call: Call, new_id: int) -> None:
    taken = call.lab.store.guests.get(new_id)
    if call.kind == "qemu" and taken and taken.kind == "qemu":
        raise failure(f"unable to create VM {new_id}: config file already exists")
    check_free(call, new_id)


def _check_source(call: Call, source: Guest, *, running: bool) -> None:
    snapname = call.params.get("snapname")
    if snapname and snapname not in source.snapshots:
        raise failure(f"snapshot '{snapname}' does not exist")
    if call.kind == "lxc" and running and not snapname:
        raise failure("Cannot do full clones on a running container without snapshots")
    if not call.params.get("full", 1) and not source.is_template:
        raise bad_parameter("full", "Linked clone feature is only available for templates")


def _check_storages(call: Call, source: Guest) -> None:
    target = call.params.get("storage")
    if target:
        usable_storage(call, str(target))
    else:
        for name in storages_of(source.config):
            call.require(f"/storage/{name}", "Datastore.AllocateSpace")
    for bridge, tag in bridges(source.config):
        call.require(f"/sdn/zones/localnetwork/{bridge}{'/' + tag if tag else ''}", "SDN.Use")


def _check_target(call: Call, source: Guest, target: str) -> None:
    """A clone is made where its source is, so another node must see the disks that it will use."""
    wanted = str(call.params.get("storage", ""))
    if wanted and not call.lab.storage(wanted, target).shared:
        raise failure(f"can't clone to non-shared storage '{wanted}'")
    if not all(call.lab.storage(name, target).shared for name in storages_of(source.config)):
        label = KINDS[call.kind].label
        raise failure(f"can't clone {label} to node '{target}' ({label} uses local storage)")


def _copy(call: Call, source: Guest, new_id: int, node: str, pool: str) -> Guest:
    """The configuration of the clone: no lock, no template, new addresses, its own volumes."""
    snapname = call.params.get("snapname")
    origin: Config = source.snapshots[snapname].config if snapname else source.config
    config = relocate(call.lab, new_id, origin, str(call.params.get("storage", "")))
    for name in ("lock", "template"):
        config.pop(name, None)  # all else is copied, protection too
    for name, value in config.items():
        if re.fullmatch(r"net\d+", name):
            config[name] = complete(call.kind, str(value), fresh_mac=True)
    option = KINDS[call.kind].name_option
    config[option] = call.params.get(option, _default_name(source, new_id))
    if "description" in call.params:
        config["description"] = call.params["description"]
    config["lock"] = "create" if call.kind == "lxc" else "clone"
    return Guest(new_id, call.kind, node, config, int(time.time()), pool)


def _default_name(source: Guest, new_id: int) -> str:
    return f"CT{new_id}" if source.kind == "lxc" else f"Copy-of-VM-{source.name or source.vmid}"


@guest_route("POST", "/{vmid}/template")
async def template(call: Call) -> str:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    call.lab.check_lock(guest)
    label = KINDS[call.kind].label
    if guest.is_template:
        raise failure(f"unable to convert {label} {guest.vmid}: it is a template already")
    if (await call.lab.usage(guest.vmid)).running:
        raise failure(f"you can't convert a {label} to template if the {label} is running")
    if guest.snapshots:
        raise failure(f"unable to create template, because {label} contains snapshots")

    async def work(task: Task) -> None:
        async with call.lab.config_lock(KINDS[call.kind], guest.vmid):
            guest.config["template"] = 1
            for option in disk_options(guest.config):
                value = str(guest.config[option])
                guest.config[option] = value.replace(f":vm-{guest.vmid}-", f":base-{guest.vmid}-")
            call.lab.store.guests.save(guest.vmid)

    return begin(call, "template", work)


@guest_route("PUT", "/{vmid}/resize")
async def resize(call: Call) -> str:
    lab, kind, option = call.lab, KINDS[call.kind], str(call.params["disk"])
    guest = lab.guest(call.node, call.kind, call.vmid)
    lab.check_lock(guest)
    if call.params.get("digest", guest.digest) != guest.digest:
        raise failure("detected modified configuration - file changed by other user? Try again.")
    if option not in guest.config:
        raise failure(f"disk '{option}' does not exist")
    storage = storage_of(str(guest.config[option]))
    if storage:
        call.require(f"/storage/{storage}", "Datastore.AllocateSpace")
    grown(str(guest.config[option]), str(call.params["size"]))

    async def work(task: Task) -> None:
        async with lab.config_lock(kind, guest.vmid):
            lab.check_space(*filter(None, [storage]))
            value, size = grown(str(guest.config[option]), str(call.params["size"]))
            if option == disk_options(guest.config)[0]:
                await task.drive(lab.driver.resize, guest.vmid, round(size), task.log)
            guest.config[option] = value
            lab.store.guests.save(guest.vmid)

    return lab.tasks.start(call.node, "resize", str(guest.vmid), call.auth_id, work)


@guest_route("GET", "/{vmid}/feature")
async def feature(call: Call) -> Any:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    wanted = call.params["feature"]
    has = can_snapshot(call.lab, guest) if wanted == "snapshot" else await _can_copy(call.lab, guest)
    shown: dict[str, Any] = {"hasFeature": int(has)}
    return {**shown, "nodes": list(call.lab.config.nodes)} if call.kind == "qemu" else shown


async def _can_copy(lab: Lab, guest: Guest) -> bool:
    return guest.kind == "qemu" or bool(guest.snapshots) or not (await lab.usage(guest.vmid)).running
