"""Guests that are only remembered: any system, no root, the same API."""

from __future__ import annotations

import ipaddress
import json
import threading
import time
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.database import Database
from lab.drivers import DriverSettings
from lab.drivers.base import DriverError, GuestSpec, Interface, Log, Nic, Usage
from lab.sshkey import new_host_keys

TEMPLATES = {"debian-12-standard_12.12-1_amd64.tar.zst": 126_515_062}
MIB = 1024 * 1024


@dataclass
class Memory:
    """One guest; `started` is 0 while it is stopped."""

    spec: GuestSpec
    template: str | None = None
    started: float = 0.0
    pid: int = 0
    snapshots: dict[str, Any] = field(default_factory=dict)
    host_keys: dict[str, str] = field(default_factory=dict)


def _spec_from(document: dict[str, Any]) -> GuestSpec:
    fields = {**document, "nics": tuple(Nic(**nic) for nic in document["nics"])}
    return GuestSpec(**{**fields, "features": tuple(fields["features"])})


class MemoryDriver:
    """Keeps its guests in a file, so that they go on "running" across restarts of the daemon."""

    name = "memory"

    def __init__(self, settings: DriverSettings) -> None:
        settings.directory.mkdir(parents=True, exist_ok=True)
        self._database = Database(settings.directory / "guests.db")
        self._network = ipaddress.ip_network(settings.subnet)
        self._guests: dict[int, Memory] = {}
        self._lock = threading.Lock()
        for key, value in self._database.load("guest"):
            self._guests[int(key)] = Memory(**{**value, "spec": _spec_from(value["spec"])})

    def up(self, log: Log) -> None:
        log(f"memory driver: {len(self._guests)} guests remembered, addresses are simulated")

    def down(self, log: Log) -> None:
        with self._lock:
            for vmid in list(self._guests):
                self._forget(vmid)
        log("memory driver: forgot all guests")

    def templates(self) -> dict[str, int]:
        return dict(TEMPLATES)

    def create(self, spec: GuestSpec, template: str | None, log: Log) -> None:
        if template is not None and template not in TEMPLATES:
            raise DriverError(f"template '{template}' does not exist")
        with self._lock:
            self._guests[spec.vmid] = Memory(_without_secrets(spec), template, host_keys=new_host_keys(spec.hostname))
            self._save(spec.vmid)
        log(f"extracting archive '{template}'" if template else "creating an empty disk")

    def destroy(self, vmid: int, log: Log) -> None:
        with self._lock:
            self._forget(vmid)

    def configure(self, spec: GuestSpec, log: Log) -> None:
        with self._lock:
            self._get(spec.vmid).spec = _without_secrets(spec)
            self._save(spec.vmid)

    def start(self, spec: GuestSpec, log: Log) -> None:
        with self._lock:
            guest = self._get(spec.vmid)
            guest.spec, guest.started, guest.pid = _without_secrets(spec), time.time(), 100_000 + spec.vmid
            self._save(spec.vmid)

    def stop(self, vmid: int, log: Log) -> None:
        with self._lock:
            self._get(vmid).started = 0.0
            self._save(vmid)

    def shutdown(self, vmid: int, timeout: int, log: Log) -> None:
        self.stop(vmid, log)

    def usage(self, vmid: int) -> Usage:
        with self._lock:
            guest = self._guests.get(vmid)
        if guest is None or not guest.started:
            return Usage(running=False, disk=0)
        uptime = max(1, int(time.time() - guest.started))
        noise = zlib.crc32(f"{vmid} {uptime // 10}".encode()) / 2**32
        return Usage(
            running=True, pid=guest.pid, uptime=uptime, cpu=round(0.05 * noise, 5),
            mem=int(guest.spec.memory_mib * MIB * (0.1 + 0.1 * noise)), disk=int(guest.spec.disk_mib * MIB * 0.2),
            netin=uptime * 586, netout=uptime * 412, diskread=MIB, diskwrite=uptime * 4096,
        )  # fmt: skip

    def interfaces(self, vmid: int) -> list[Interface]:
        with self._lock:
            guest = self._guests.get(vmid)
        if guest is None or not guest.started:
            return []
        shown = [Interface("lo", "00:00:00:00:00:00", ("127.0.0.1/8", "::1/128"))]
        return shown + [Interface(nic.name, nic.mac, self._addresses(vmid, nic)) for nic in guest.spec.nics]

    def _addresses(self, vmid: int, nic: Nic) -> tuple[str, ...]:
        v4 = nic.address
        if v4 == "dhcp":
            usable = self._network.num_addresses - 3
            offset = 2 + (vmid * 31 + zlib.crc32(nic.mac.encode())) % max(1, usable)
            v4 = f"{self._network.network_address + offset}/{self._network.prefixlen}"
        return tuple(address for address in (v4, nic.address6, link_local(nic.mac)) if "/" in address)

    def host_keys(self, vmid: int) -> dict[str, str]:
        with self._lock:
            return dict(self._get(vmid).host_keys)

    def read_file(self, vmid: int, path: str, limit: int) -> bytes:
        """Host keys and the host name are all that a remembered guest has."""
        with self._lock:
            guest = self._get(vmid)
            files = {f"/etc/ssh/{name}.pub": f"{key}\n" for name, key in guest.host_keys.items()}
        files["/etc/hostname"] = f"{guest.spec.hostname}\n"
        if path not in files:
            raise DriverError(f"Failed to open file '{path}': No such file or directory")
        return files[path].encode()[:limit]

    def clone(self, vmid: int, snapshot: str | None, spec: GuestSpec, log: Log) -> None:
        with self._lock:
            source = self._get(vmid)
            if snapshot is not None and snapshot not in source.snapshots:
                raise DriverError(f"snapshot '{snapshot}' does not exist")
            keys = new_host_keys(spec.hostname)
            self._guests[spec.vmid] = Memory(_without_secrets(spec), source.template, host_keys=keys)
            self._save(spec.vmid)

    def snapshot(self, vmid: int, name: str, log: Log) -> None:
        with self._lock:
            guest = self._get(vmid)
            guest.snapshots[name] = asdict(guest.spec)
            self._save(vmid)

    def rollback(self, vmid: int, name: str, log: Log) -> None:
        with self._lock:
            guest = self._get(vmid)
            if name not in guest.snapshots:
                raise DriverError(f"snapshot '{name}' does not exist")
            guest.spec = _spec_from(guest.snapshots[name])
            self._save(vmid)

    def delete_snapshot(self, vmid: int, name: str, log: Log) -> None:
        with self._lock:
            self._get(vmid).snapshots.pop(name, None)
            self._save(vmid)

    def backup(self, vmid: int, target: Path, log: Log) -> None:
        with self._lock:
            guest = self._get(vmid)
            document = {"spec": asdict(guest.spec), "template": guest.template, "host_keys": guest.host_keys}
        target.write_text(json.dumps(document) + "\n", encoding="utf-8")
        log(f"archive file size: {target.stat().st_size}B")

    def restore(self, spec: GuestSpec, archive: Path, log: Log) -> None:
        try:
            document = json.loads(archive.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DriverError(f"unable to restore '{archive.name}': {error}") from error
        with self._lock:
            keys = document.get("host_keys", {})
            self._guests[spec.vmid] = Memory(_without_secrets(spec), document["template"], host_keys=keys)
            self._save(spec.vmid)

    def resize(self, vmid: int, disk_mib: int, log: Log) -> None:
        with self._lock:
            guest = self._get(vmid)
            guest.spec = replace(guest.spec, disk_mib=disk_mib)
            self._save(vmid)

    def _get(self, vmid: int) -> Memory:
        try:
            return self._guests[vmid]
        except KeyError:
            raise DriverError(f"guest {vmid} is unknown to the memory driver") from None

    def _forget(self, vmid: int) -> None:
        self._guests.pop(vmid, None)
        self._database.delete("guest", str(vmid))

    def _save(self, vmid: int) -> None:
        self._database.put("guest", str(vmid), asdict(self._guests[vmid]))


def link_local(mac: str) -> str:
    """The IPv6 address that every interface gives itself."""
    numbers = [int(part, 16) for part in mac.split(":")]
    if len(numbers) != 6:
        return ""
    numbers[0] ^= 2
    identifier = bytes([*numbers[:3], 0xFF, 0xFE, *numbers[3:]])
    return f"{ipaddress.IPv6Address(bytes([0xFE, 0x80, *([0] * 6)]) + identifier)}/64"


def _without_secrets(spec: GuestSpec) -> GuestSpec:
    """Passwords and keys have no use here, so they are not written down."""
    return replace(spec, password="", ssh_keys="")
