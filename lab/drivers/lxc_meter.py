"""Turns a container's counters into the numbers the API shows: shares need two readings, sizes need time."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from lab.drivers.base import Usage
from lab.drivers.lxc_guest import Guest
from lab.drivers.lxc_proc import counters
from lab.drivers.lxc_rootfs import tree_size

CPU_SECONDS = 1.0  # a share is taken over at least this time
DISK_SECONDS = 30.0  # how long a measured size is good for


@dataclass
class _Sample:
    init: int
    at: float
    cpu_ns: int
    cpu: float = 0.0
    disk: int = 0
    disk_at: float = 0.0


class Meter:
    """Remembers the last reading of each guest; safe between threads."""

    def __init__(self) -> None:
        self._samples: dict[int, _Sample] = {}
        self._lock = threading.Lock()

    def forget(self, vmid: int) -> None:
        """The guest is gone."""
        with self._lock:
            self._samples.pop(vmid, None)

    def read(self, guest: Guest, init: int, image_bytes: int) -> Usage:
        """Read a running guest; `image_bytes` is what it shares with others, and would need alone."""
        now = counters(init)
        spec = guest.record.spec
        with self._lock:
            sample = self._sample(spec.vmid, init, now.cpu_ns, now.uptime)
            elapsed = time.monotonic() - sample.at
            if elapsed >= CPU_SECONDS:
                share = (now.cpu_ns - sample.cpu_ns) / 1e9 / elapsed / (spec.cores or os.cpu_count() or 1)
                sample.cpu, sample.at, sample.cpu_ns = min(1.0, max(0.0, share)), time.monotonic(), now.cpu_ns
            measure = time.monotonic() - sample.disk_at > DISK_SECONDS or not sample.disk
            if measure:
                sample.disk_at = time.monotonic()
        if measure:
            sample.disk = image_bytes + tree_size(guest.rootfs.upper)
        return Usage(
            running=True, pid=init, uptime=now.uptime, cpu=sample.cpu, mem=now.mem, swap=now.swap, disk=sample.disk,
            netin=now.netin, netout=now.netout, diskread=now.diskread, diskwrite=now.diskwrite,
        )  # fmt: skip

    def _sample(self, vmid: int, init: int, cpu_ns: int, uptime: int) -> _Sample:
        """The last one, or for a container that was started since, its average so far."""
        sample = self._samples.get(vmid)
        if sample is None or sample.init != init:
            share = cpu_ns / 1e9 / max(uptime, 1) / (os.cpu_count() or 1)
            sample = self._samples[vmid] = _Sample(init, time.monotonic(), cpu_ns, min(1.0, share))
        return sample
