"""The contract between the API (lab.server) and what makes guests real (lab.drivers.*).

Every method may block for seconds: the API calls it in a worker thread, one call per guest at a time.
A driver keeps what it needs to find its guests again after a restart of the daemon; it never writes
the API's own store. A failure raises DriverError with one line: the text of the failing task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Log = Callable[[str], None]


class DriverError(Exception):
    """One line that becomes `TASK ERROR: <text>`."""


@dataclass(frozen=True)
class Nic:
    """One network interface of a guest; address is CIDR ("10.86.0.101/24"), "dhcp", "manual" or ""."""

    name: str  # eth0
    mac: str  # BC:24:11:00:00:01, upper case
    bridge: str  # vmbr0, the name the API shows
    address: str = ""
    gateway: str = ""
    address6: str = ""  # CIDR, "auto", "dhcp", "manual" or ""
    gateway6: str = ""


@dataclass(frozen=True)
class GuestSpec:
    """What the driver needs to know of a guest; made anew by the API for every call."""

    vmid: int
    kind: str  # "lxc" or "qemu"
    hostname: str
    cores: int = 0  # 0: no limit
    memory_mib: int = 512
    disk_mib: int = 4096
    nics: tuple[Nic, ...] = ()
    nameserver: str = ""
    ssh_keys: str = ""  # authorized_keys lines
    user: str = "root"  # qemu: ciuser
    password: str = ""
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Numbers of a guest right now; bytes and seconds."""

    running: bool
    pid: int | None = None
    uptime: int = 0
    cpu: float = 0.0  # 0..1 of all its cores
    mem: int = 0
    swap: int = 0
    disk: int = 0
    netin: int = 0
    netout: int = 0
    diskread: int = 0
    diskwrite: int = 0


@dataclass(frozen=True)
class Interface:
    """What `ip addr` inside the guest would say."""

    name: str
    mac: str
    addresses: tuple[str, ...] = field(default=())  # CIDR, IPv4 and IPv6


class Driver(Protocol):
    """See the module docstring."""

    name: str

    def up(self, log: Log) -> None:
        """Make bridge, NAT and template cache ready. Idempotent; also adopts what a crash left."""

    def down(self, log: Log) -> None:
        """Remove every container, mount, bridge, namespace and NAT rule of this lab. Idempotent."""

    def templates(self) -> dict[str, int]:
        """Names of the container templates ("debian-12-standard_12_amd64.tar.zst") to their size in bytes."""

    def create(self, spec: GuestSpec, template: str | None, log: Log) -> None:
        """Make the (stopped) guest from a template; None: an empty or default image (qemu without import)."""

    def destroy(self, vmid: int, log: Log) -> None:
        """Remove the stopped guest with its snapshots. Idempotent."""

    def configure(self, spec: GuestSpec, log: Log) -> None:
        """Take over a changed configuration; live where possible, otherwise at the next start."""

    def start(self, spec: GuestSpec, log: Log) -> None: ...

    def stop(self, vmid: int, log: Log) -> None:
        """Kill it."""

    def shutdown(self, vmid: int, timeout: int, log: Log) -> None:
        """Ask it to end; DriverError when it has not after timeout seconds."""

    def usage(self, vmid: int) -> Usage: ...

    def interfaces(self, vmid: int) -> list[Interface]:
        """Empty when it does not run."""

    def host_keys(self, vmid: int) -> dict[str, str]:
        """The public SSH host keys of a guest that was just made, by file name (without `.pub`)."""

    def read_file(self, vmid: int, path: str, limit: int) -> bytes:
        """The first `limit` bytes of a file inside the running guest; DriverError when it cannot be read."""

    def clone(self, vmid: int, snapshot: str | None, spec: GuestSpec, log: Log) -> None:
        """Full copy of the guest (or of its snapshot) as the new, stopped guest `spec`."""

    def snapshot(self, vmid: int, name: str, log: Log) -> None: ...

    def rollback(self, vmid: int, name: str, log: Log) -> None:
        """The stopped guest's files are again what they were."""

    def delete_snapshot(self, vmid: int, name: str, log: Log) -> None: ...

    def backup(self, vmid: int, target: Path, log: Log) -> None:
        """Write the guest's files as one archive."""

    def restore(self, spec: GuestSpec, archive: Path, log: Log) -> None:
        """Make the (stopped) guest from such an archive."""

    def resize(self, vmid: int, disk_mib: int, log: Log) -> None:
        """Grow the disk."""
