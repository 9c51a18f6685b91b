"""Numbers of the machine that plays the nodes; fixed ones where the system does not tell."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

_STARTED = time.time()
_FALLBACK_MEMORY = 32 * 1024**3


@dataclass(frozen=True)
class Host:
    """Bytes and seconds."""

    cpus: int
    cpu: float
    memory_total: int
    memory_used: int
    swap_total: int
    swap_used: int
    disk_total: int
    disk_used: int
    uptime: int
    loadavg: tuple[float, float, float]
    kernel: str
    cpu_model: str


def read(directory: Path) -> Host:
    """The state of this machine; the disk is the one under the lab's directory."""
    memory = _meminfo()
    total = memory.get("MemTotal", _FALLBACK_MEMORY)
    disk = shutil.disk_usage(directory)
    load = os.getloadavg()
    cpus = os.cpu_count() or 1
    return Host(
        cpus=cpus,
        cpu=round(min(1.0, load[0] / cpus), 6),
        memory_total=total,
        memory_used=total - memory.get("MemAvailable", total // 2),
        swap_total=memory.get("SwapTotal", 0),
        swap_used=memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
        disk_total=disk.total,
        disk_used=disk.used,
        uptime=_uptime(),
        loadavg=load,
        kernel=platform.release(),
        cpu_model=platform.processor() or platform.machine(),
    )


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}


def _uptime() -> int:
    try:
        return int(float(Path("/proc/uptime").read_text(encoding="ascii").split()[0]))
    except FileNotFoundError:
        return int(time.time() - _STARTED)
