"""POST /nodes/{node}/qemu: machines; the driver makes them of the same stuff as containers."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from lab.api.guest_create import begin, building, check_bridges, check_free, may_allocate, start_after
from lab.api.guest_restore import restore_machine
from lab.api.guest_status import start_work
from lab.guests.allocation import allocate, new_disk, usable_storage
from lab.guests.options import check_options, configuration, normalize, require_on_guest
from lab.guests.specs import spec_of
from lab.guests.volumes import BOOT_ORDER, storages_of
from lab.model import Config, Guest
from lab.server.call import Call
from lab.server.properties import loose
from lab.server.router import route
from lab.tasks import Task, Work

QEMU_VERSION = "9.2.0"
DISK = re.compile(r"(?:ide|sata|scsi|virtio)\d+|efidisk0|tpmstate0")


@route("POST", "/nodes/{node}/qemu")
async def create(call: Call) -> str:
    call.kind = "qemu"
    if call.params.get("archive"):
        return await restore_machine(call)
    options = configuration(call)
    pool = str(call.params.get("pool", ""))
    check_free(call)
    may_allocate(call, pool)
    if "ha-managed" in call.params:
        call.require("/", "Sys.Console")
    if call.params.get("start") and call.lab.config.pve_version >= 9:
        require_on_guest(call, call.vmid, pool, "VM.PowerMgmt")
    check_options(call, call.vmid, pool, options)
    config = _with_disks(call, options)
    check_bridges(call, options)
    guest = Guest(call.vmid, "qemu", call.node, _initial(config), int(time.time()), pool)
    call.lab.store.guests[call.vmid] = guest
    return begin(call, "create", _work(call, guest))


def _initial(config: Config) -> Config:
    defaults: Config = {
        "meta": f"creation-qemu={QEMU_VERSION},ctime={int(time.time())}",
        "smbios1": f"uuid={uuid.uuid4()}",
        "vmgenid": str(uuid.uuid4()),
    }
    disk = next((name for name in BOOT_ORDER if name in config), None)
    if disk:
        defaults["boot"] = f"order={disk}"
    return {**defaults, **normalize("qemu", config), "lock": "create"}


def _with_disks(call: Call, options: dict[str, Any]) -> Config:
    """`local-lvm:8` becomes a volume, `local-lvm:cloudinit` the drive for cloud-init; the rest stays as it is."""
    config: Config = dict(options)
    for option in [name for name in options if DISK.fullmatch(name)]:
        value = str(options[option])
        file = loose(value, "file").get("file", "")
        name = file.partition(":")[0]
        wanted = new_disk(value, str(call.params.get("storage", "local")), "file")
        if wanted:
            usable_storage(call, wanted[0])
            size = wanted[1] or 4  # an imported disk (size 0) is the driver's default image
            config[option] = allocate(call.lab, call.vmid, config, option, wanted[0], size, "file")
        elif file.endswith(":cloudinit"):
            usable_storage(call, name)
            config[option] = f"{name}:vm-{call.vmid}-cloudinit,media=cdrom"
        elif ":" in file:
            call.lab.storage(name, call.node)
            call.lab.permissions.require_any(
                call.auth_id, f"/storage/{name}", ("Datastore.AllocateSpace", "Datastore.Audit")
            )
    return config


def _work(call: Call, guest: Guest) -> Work:
    lab, start = call.lab, bool(call.params.get("start"))

    async def work(task: Task) -> None:
        async with building(lab, guest):
            lab.check_space(*storages_of(guest.config))
            await task.drive(lab.driver.create, spec_of(guest), None, task.log)
        if start:
            start_after(task, lab, guest, start_work(lab, guest.node, "qemu", guest.vmid))

    return work


@route("GET", "/nodes/{node}/qemu/{vmid}/cloudinit")
async def cloudinit(call: Call) -> Any:
    """What the next start hands to the machine; nothing is ever pending here."""
    guest = call.lab.guest(call.node, "qemu", call.vmid)
    keys = [
        key for key in sorted(guest.config) if re.fullmatch(r"ci\w+|sshkeys|ipconfig\d+|nameserver|searchdomain", key)
    ]
    return [{"key": key, "value": "**********" if key == "cipassword" else guest.config[key]} for key in keys]
