"""What the driver is told about a guest, made from its configuration."""

from __future__ import annotations

from urllib.parse import unquote

from lab.drivers.base import GuestSpec
from lab.guests.networks import nics
from lab.guests.volumes import disk_mib
from lab.model import Guest
from lab.server.properties import loose


def cores_of(guest: Guest) -> int:
    """0: a container without a limit."""
    default = 1 if guest.kind == "qemu" else 0
    config = guest.effective
    return int(config.get("cores", default)) * int(config.get("sockets", 1))


def memory_mib_of(guest: Guest) -> int:
    return int(loose(str(guest.effective.get("memory", 512)), "current")["current"])


def spec_of(guest: Guest, *, ssh_keys: str = "", password: str = "") -> GuestSpec:
    """Keys and password of a container are given only when it is made; a machine's are in its configuration."""
    config = guest.effective
    machine = guest.kind == "qemu"
    features = loose(str(config.get("features", "")))
    return GuestSpec(
        vmid=guest.vmid,
        kind=guest.kind,
        hostname=guest.name or f"{'VM' if machine else 'CT'}{guest.vmid}",
        cores=cores_of(guest),
        memory_mib=memory_mib_of(guest),
        disk_mib=disk_mib(config),
        nics=nics(guest.kind, config),
        nameserver=str(config.get("nameserver", "")),
        ssh_keys=unquote(str(config.get("sshkeys", ""))) if machine else ssh_keys,
        user=str(config.get("ciuser", "root")) if machine else "root",
        password=str(config.get("cipassword", "")) if machine else password,
        features=tuple(sorted(name for name, value in features.items() if value == "1")),
    )
