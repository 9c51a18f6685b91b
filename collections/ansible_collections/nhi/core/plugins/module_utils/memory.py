# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory this host, or the container that it is, may use."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import PreflightError

MEMINFO = Path("/proc/meminfo")
# Of cgroup version 2 and version 1. A container sees its own; one without a limit says "max" or a huge number.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """In MiB: what the system shows, the limit of its cgroup if there is one, and the smaller of both."""

    total_mib: int
    limit_mib: int | None

    @property
    def available_mib(self) -> int:
        """What programs here can count on together."""
        return self.total_mib if self.limit_mib is None else self.limit_mib


def read_memory(meminfo: Path = MEMINFO, limits: tuple[Path, ...] = LIMITS) -> Memory:
    """Ask the kernel; PreflightError where it does not say, as on other systems than Linux."""
    try:
        total = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        total = None
    if not total:
        raise PreflightError(f"{meminfo} does not say how much memory there is: give the size of the service in MiB")
    total_bytes = int(total[1]) * 1024
    found = []
    for path in limits:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text()))
    limit = min(found, default=total_bytes)
    return Memory(total_bytes // _MIB, limit // _MIB if limit < total_bytes else None)
