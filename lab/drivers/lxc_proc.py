"""What this host's /proc and cgroups say about containers: who runs, and how much each uses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.drivers.base import Interface
from lab.drivers.lxc_config import Controllers

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Counters:
    """Numbers since the container's start; bytes, nanoseconds, seconds."""

    uptime: int = 0
    cpu_ns: int = 0
    mem: int = 0
    swap: int = 0
    netin: int = 0
    netout: int = 0
    diskread: int = 0
    diskwrite: int = 0


def controllers() -> Controllers:
    """Which cgroup version this host uses, and what it can limit."""
    unified = _read(CGROUPS / "cgroup.controllers")
    if unified:
        return Controllers(2, frozenset(unified.split()))
    mounted = {entry.name for entry in CGROUPS.iterdir()} if CGROUPS.exists() else set()
    names = {name for entry in mounted for name in entry.split(",")}
    return Controllers(1, frozenset(names - {"systemd", "unified"}))


class Containers:
    """Finds a lab's running containers by what their monitors call themselves; safe between threads."""

    def __init__(self, lxcpath: Path) -> None:
        self._lxcpath = lxcpath
        self._monitors: dict[str, int] = {}  # only to look there first

    def monitor(self, name: str) -> int | None:
        """PID of the process that keeps the container; it outlives the container by a moment."""
        title = f"[lxc monitor] {self._lxcpath} {name}"
        known = self._monitors.get(name)
        if known is not None and _title(known) == title:
            return known
        found = next((pid for pid in _pids() if _title(pid) == title), None)
        if found is not None:
            self._monitors[name] = found
        return found

    def init(self, name: str) -> int | None:
        """PID of the container's init, its monitor's only child; None: the container does not run."""
        monitor = self.monitor(name)
        children = _read(PROC / f"{monitor}/task/{monitor}/children").split() if monitor else []
        return next((int(pid) for pid in children if (_stat(int(pid)) or ["Z"])[0] != "Z"), None)

    def wait_for_end(self, name: str, timeout: float = 10.0) -> bool:
        """Wait until the container and its monitor are gone; False when they still are not."""
        deadline = time.monotonic() + timeout
        while self.monitor(name) is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def counters(init: int) -> Counters:
    """Read all numbers of a running container; what the host does not count is 0."""
    numbers = _counters_v2(cgroup(init, "")) if controllers().version == 2 else _counters_v1(init)
    netin, netout = _traffic(init)
    return Counters(uptime=_uptime(init), netin=netin, netout=netout, **numbers)


def cgroup(init: int, controller: str) -> Path:
    """The container's own directory in a controller's tree (version 2: controller "")."""
    for line in _read(PROC / str(init) / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            parts = path.strip("/").split("/")
            depth = next((i for i, part in enumerate(parts) if part.startswith("lxc.payload.")), len(parts) - 1)
            root = CGROUPS / names if controller else CGROUPS
            return root.joinpath(*parts[: depth + 1])
    return CGROUPS / "nowhere"


def interfaces(init: int) -> list[Interface]:
    """What `ip addr` says inside."""
    argv = ["nsenter", "--target", str(init), "--net", "ip", "-j", "addr"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:  # it ended between the question who it is and this one
        return []
    return [
        Interface(
            link["ifname"],
            link.get("address", ""),
            tuple(f"{info['local']}/{info['prefixlen']}" for info in link.get("addr_info", ()) if "local" in info),
        )
        for link in json.loads(done.stdout)
        if link
    ]


def thaw(pid: int) -> None:
    """Let a frozen container go on, whoever froze it and however far he got."""
    for file, wanted in (
        (cgroup(pid, "freezer") / "freezer.state", "THAWED"),
        (cgroup(pid, "") / "cgroup.freeze", "0"),
    ):
        if _read(file).strip() not in ("", wanted):
            file.write_text(wanted)


def end_all(names: str, timeout: float = 10.0) -> int:
    """Kill every process of the containers whose name matches, their monitors too; returns how many there were."""
    killed: set[int] = set()
    deadline = time.monotonic() + timeout
    while (found := set(_members(names))) and time.monotonic() < deadline:
        for pid in found:
            thaw(pid)  # with cgroups of version 1 a frozen process does not even die
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        killed |= found
        time.sleep(0.05)
    return len(killed)


def remove_cgroups(names: str) -> None:
    """Remove the empty cgroups that killed monitors left, innermost first."""
    pattern = _cgroup_pattern(names)
    for root, directories, _ in os.walk(CGROUPS):
        for name in [name for name in directories if pattern.search(f"/{name}")]:
            directories.remove(name)
            for inner, _, _ in os.walk(Path(root) / name, topdown=False):
                try:
                    os.rmdir(inner)
                except OSError:  # a process is still ending in it; the kernel keeps it, harmlessly
                    break


def _cgroup_pattern(names: str) -> re.Pattern[str]:
    """lxc adds a number to the name when an older cgroup of that name is still there."""
    return re.compile(rf"/lxc\.(payload|monitor)\.({names})(-\d+)?(/|$)", re.MULTILINE)


def _members(names: str) -> Iterator[int]:
    pattern = _cgroup_pattern(names)
    for pid in _pids():
        if pattern.search(_read(PROC / str(pid) / "cgroup")) and (_stat(pid) or ["Z"])[0] != "Z":
            yield pid


def _counters_v2(directory: Path) -> dict[str, int]:
    cpu = _pairs(directory / "cpu.stat")
    read, written = 0, 0
    for line in _read(directory / "io.stat").splitlines():
        values = dict(word.split("=") for word in line.split()[1:] if "=" in word)
        read, written = read + int(values.get("rbytes", 0)), written + int(values.get("wbytes", 0))
    memory = _number(directory / "memory.current") - _pairs(directory / "memory.stat").get("inactive_file", 0)
    return {
        "cpu_ns": cpu.get("usage_usec", 0) * 1000, "mem": max(0, memory),
        "swap": _number(directory / "memory.swap.current"), "diskread": read, "diskwrite": written,
    }  # fmt: skip


def _counters_v1(init: int) -> dict[str, int]:
    memory = cgroup(init, "memory")
    stat = _pairs(memory / "memory.stat")
    transferred = {"Read": 0, "Write": 0}
    for line in _read(cgroup(init, "blkio") / "blkio.throttle.io_service_bytes").splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in transferred:
            transferred[words[1]] += int(words[2])
    used = _number(memory / "memory.usage_in_bytes") - stat.get("total_inactive_file", 0)
    return {
        "cpu_ns": _number(cgroup(init, "cpuacct") / "cpuacct.usage"), "mem": max(0, used),
        "swap": stat.get("total_swap", 0), "diskread": transferred["Read"], "diskwrite": transferred["Write"],
    }  # fmt: skip


def _traffic(init: int) -> tuple[int, int]:
    received, sent = 0, 0
    for line in _read(PROC / str(init) / "net/dev").splitlines()[2:]:
        name, _, values = line.partition(":")
        if name.strip() != "lo":
            columns = values.split()
            received, sent = received + int(columns[0]), sent + int(columns[8])
    return received, sent


def _uptime(init: int) -> int:
    stat = _stat(init)
    now = _read(PROC / "uptime").split()
    return max(0, int(float(now[0]) - int(stat[19]) / TICKS)) if stat and now else 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name: state, parent, ...; the name may hold anything."""
    return _read(PROC / str(pid) / "stat").rpartition(")")[2].split()


def _title(pid: int) -> str:
    return _read(PROC / str(pid) / "cmdline").replace("\0", " ").rstrip()


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]


def _pairs(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int:
    text = _read(path).strip()
    return int(text) if text.isdigit() else 0


def _read(path: Path) -> str:
    """A file of the kernel's; empty when what it told of is gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
