"""The fault "guest-swapped": between two calls of a client somebody removes a guest and makes another with its VMID.

Everything that can stay the same does: VMID, node, pool, options, addresses, the name unless another is ordered,
and whether it runs. What gives the newcomer away is what a real one could not have kept: hardware addresses,
creation time, UUIDs, description and snapshots.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from lab.core import Lab
from lab.faults import Fault
from lab.guests.kinds import KINDS
from lab.guests.networks import complete
from lab.guests.specs import spec_of
from lab.model import Config, Guest

_GUEST = re.compile(r"/nodes/[^/]+/(?:lxc|qemu)/(\d+)(?:/.*)?")


async def swap_on_order(lab: Lab, facts: dict[str, Any]) -> None:
    """Swap the guest that a fault names for this call; without path and method it means any call on the guest."""
    for fault in lab.faults.all():
        vmid = fault.vmid if fault.path or fault.method else 0
        match = _GUEST.fullmatch(str(facts["path"]))
        wanted = {**facts, "vmid": vmid or (int(match[1]) if match else 0)}
        if fault.matches("guest-swapped", wanted) and wanted["vmid"] in lab.store.guests:
            taken = lab.faults.take("guest-swapped", **wanted)
            if taken:
                await _swap(lab, wanted["vmid"], taken)


async def _swap(lab: Lab, vmid: int, fault: Fault) -> None:
    async with lab.config_lock(KINDS[lab.store.guests[vmid].kind], vmid):
        old = lab.store.guests.get(vmid)
        if old is None:
            return
        was_running = (await lab.usage(vmid)).running
        if was_running:
            await lab.drive(lab.driver.stop, vmid, _unheard)
        await lab.drive(lab.driver.destroy, vmid, _unheard)
        new = _newcomer(old, fault.text)
        await lab.drive(lab.driver.create, spec_of(new), None, _unheard)
        lab.store.guests[vmid] = new
        if was_running and not new.is_template:
            await lab.drive(lab.driver.start, spec_of(new), _unheard)


def _newcomer(old: Guest, name: str) -> Guest:
    config: Config = {option: value for option, value in old.config.items() if option not in ("description", "lock")}
    for option, value in config.items():
        if re.fullmatch(r"net\d+", option):
            config[option] = complete(old.kind, str(value), fresh_mac=True)
    created = max(int(time.time()), old.created + 1)
    if name:
        config[KINDS[old.kind].name_option] = name
    if old.kind == "qemu":
        config["meta"] = re.sub(r"ctime=\d+", f"ctime={created}", str(config.get("meta", f"ctime={created}")))
        config["smbios1"], config["vmgenid"] = f"uuid={uuid.uuid4()}", str(uuid.uuid4())
    return Guest(old.vmid, old.kind, old.node, config, created, old.pool)


def _unheard(line: str) -> None:
    """Nobody reads the log of what happens behind a client's back."""
