"""What stands behind the API: `lxc` makes real containers, `memory` only remembers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.drivers.base import Driver

NAMES = ("auto", "lxc", "memory")


@dataclass(frozen=True)
class DriverSettings:
    """What every driver is made from: its own directory and the private network of this lab."""

    directory: Path  # the driver's own; made by it
    subnet: str = "10.86.0.0/24"
    bridge: str = "nhilab0"
    cache: Path = Path("/var/cache/nhi-lab")  # shared by the labs of this host: container templates
    nameserver: str = ""  # for guests; empty: the host's


def choose(name: str) -> tuple[str, str]:
    """The driver that `auto` means here, and why."""
    if name != "auto":
        return name, "as asked"
    from lab.drivers.lxc_host import why_unusable

    reason = why_unusable()
    return ("memory", reason) if reason else ("lxc", "root on Linux with lxc")


def make(name: str, settings: DriverSettings) -> Driver:
    """The driver of that name (not `auto`); imported only when wanted."""
    if name == "lxc":
        from lab.drivers.lxc import LxcDriver

        return LxcDriver(settings)
    if name == "memory":
        from lab.drivers.memory import MemoryDriver

        return MemoryDriver(settings)
    raise ValueError(f"unknown driver: {name} (known: {', '.join(NAMES)})")
