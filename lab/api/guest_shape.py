"""The numbers of a guest as lists and status show them."""

from __future__ import annotations

import os
from typing import Any

from lab.core import Lab
from lab.drivers.base import Usage
from lab.guests.specs import cores_of, memory_mib_of
from lab.guests.volumes import disk_mib
from lab.model import Guest

MIB = 1024 * 1024


def limits(guest: Guest) -> dict[str, int]:
    """What a guest may use at most."""
    cpus = cores_of(guest) or os.cpu_count() or 1
    return {"cpus": cpus, "maxmem": memory_mib_of(guest) * MIB, "maxdisk": disk_mib(guest.config) * MIB}


def resource_numbers(lab: Lab, guest: Guest, usage: Usage) -> dict[str, Any]:
    """For /cluster/resources."""
    maxima = limits(guest)
    shown = {
        "cpu": usage.cpu, "maxcpu": maxima["cpus"], "mem": usage.mem, "maxmem": maxima["maxmem"],
        "disk": usage.disk if guest.kind == "lxc" else 0, "maxdisk": maxima["maxdisk"],
        "diskread": usage.diskread, "diskwrite": usage.diskwrite, "netin": usage.netin, "netout": usage.netout,
        "uptime": usage.uptime,
    }  # fmt: skip
    if lab.config.pve_version >= 9 and usage.running:
        shown["memhost"] = usage.mem
    return shown


def status(lab: Lab, guest: Guest, usage: Usage) -> dict[str, Any]:
    """For the guest lists and status/current."""
    maxima = limits(guest)
    label = "VM" if guest.kind == "qemu" else "CT"
    shown: dict[str, Any] = {
        "vmid": guest.vmid, "name": guest.name or f"{label} {guest.vmid}",
        "status": "running" if usage.running else "stopped",
        "cpus": maxima["cpus"], "cpu": usage.cpu, "mem": usage.mem, "maxmem": maxima["maxmem"],
        "disk": usage.disk if guest.kind == "lxc" else 0, "maxdisk": maxima["maxdisk"],
        "netin": usage.netin, "netout": usage.netout, "diskread": usage.diskread, "diskwrite": usage.diskwrite,
        "uptime": usage.uptime,
    }  # fmt: skip
    if guest.kind == "lxc":
        swap = int(guest.config.get("swap", 512)) * MIB
        shown |= {"type": "lxc", "swap": usage.swap, "maxswap": swap}
    else:
        shown["qmpstatus"] = shown["status"]
    if usage.running and usage.pid:
        shown["pid"] = usage.pid
    if guest.is_template:
        shown["template"] = 1
    extra = {"lock": lab.lock_shown(guest), "tags": guest.config.get("tags", "")}
    return shown | {name: value for name, value in extra.items() if value}
