"""What the driver is told about a guest, made from its configuration."""

from __future__ import annotations

from urllib.parse import unquote

from lab.drivers.base import GuestSpec
from lab.guests.networks import nics
from lab.guests.volumes import disk_mib
from lab.model import Guest
from lab.server.properties import loose


def spec_of(guest: Guest, *, ssh_keys: str = "", password: str = "") -> GuestSpec:
    """Keys and password of a container are given only when it is made; a machine's are in its configuration."""
    config = guest.config
    machine = guest.kind == "qemu"
    cores = int(config.get("cores", 1 if machine else 0)) * int(config.get("sockets", 1))
    memory = loose(str(config.get("memory", 512)), "current")["current"]
    features = loose(str(config.get("features", "")))
    return GuestSpec(
        vmid=guest.vmid,
        kind=guest.kind,
        hostname=guest.name or f"{'VM' if machine else 'CT'}{guest.vmid}",
        cores=cores,
        memory_mib=int(memory),
        disk_mib=disk_mib(config),
        nics=nics(guest.kind, config),
        nameserver=str(config.get("nameserver", "")),
        ssh_keys=unquote(str(config.get("sshkeys", ""))) if machine else ssh_keys,
        user=str(config.get("ciuser", "root")) if machine else "root",
        password=str(config.get("cipassword", "")) if machine else password,
        features=tuple(sorted(name for name, value in features.items() if value == "1")),
    )
