"""A lab of its own for the tests of the lxc driver: free bridge and subnet, and a look at what it leaves."""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from lab.drivers import DriverSettings
from lab.drivers.base import GuestSpec, Nic
from lab.drivers.lxc import LOCKS

REPOSITORY = Path(__file__).parents[2]


def free_settings(directory: Path) -> DriverSettings:
    """An instance that collides with no other on this host, nor with one of another test process."""
    routes = json.loads(output("ip", "-4", "-j", "route", "show"))
    used = [ipaddress.IPv4Network(route["dst"], strict=False) for route in routes if route["dst"] != "default"]
    candidates = list(ipaddress.IPv4Network("10.87.0.0/16").subnets(new_prefix=24))
    start = os.getpid() % len(candidates)
    for subnet in candidates[start:] + candidates[:start]:
        if not any(subnet.overlaps(network) for network in used):
            return DriverSettings(directory, str(subnet), f"nhit{os.getpid()}")
    raise AssertionError("no free subnet in 10.87.0.0/16")


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def python(script: str, settings: DriverSettings, *arguments: object) -> subprocess.Popen[bytes]:
    """Another process with a driver of the same lab, as a later or a doomed daemon has it."""
    prelude = (
        "import sys\nfrom pathlib import Path\nfrom lab.drivers import DriverSettings, make\n"
        "from lab.tests.lxc_world import Shell\n"
        f"shell = Shell(DriverSettings(Path({str(settings.directory)!r}), {settings.subnet!r}, {settings.bridge!r}))\n"
        "driver = shell.driver\n"
    )
    argv = [sys.executable, "-c", prelude + script, *map(str, arguments)]
    return subprocess.Popen(argv, cwd=REPOSITORY)


def traces(settings: DriverSettings) -> list[str]:
    """Everything on this host that names the instance."""
    found = [
        f"path {path}" for path in (settings.directory, LOCKS / str(settings.directory).lstrip("/")) if path.exists()
    ]
    found += [f"link {line}" for line in output("ip", "-o", "link").splitlines() if settings.bridge in line]
    for table in ("nat", "filter"):
        rules = output("iptables", "-w", "-t", table, "-S").splitlines()
        found += [f"rule {rule}" for rule in rules if f"nhi-lab:{settings.bridge}" in shlex.split(rule)]
    mounts = Path("/proc/mounts").read_text().splitlines()
    found += [f"mount {mount}" for mount in mounts if str(settings.directory) in mount]
    # Groups of other labs come and go meanwhile, of which find complains.
    search = ["find", "/sys/fs/cgroup", "-ignore_readdir_race", "-name", f"lxc.*.{settings.bridge}-*"]
    cgroups = subprocess.run(search, capture_output=True, text=True, check=False).stdout
    found += [f"cgroup {path}" for path in cgroups.splitlines()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, member = (process / "cmdline").read_text(), (process / "cgroup").read_text()
            ended = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"  # only not yet reaped
        except OSError:
            continue
        ours = str(settings.directory) in command and "lab.tests" not in command
        if not ended and (ours or f".{settings.bridge}-" in member):
            found.append(f"process {process.name} {command!r}")
    return found


class Shell:
    """Makes guests of one lab and logs in to them."""

    def __init__(self, settings: DriverSettings) -> None:
        from lab.drivers.lxc import LxcDriver

        self.settings = settings
        self.driver = LxcDriver(settings)
        self.key = settings.directory.parent / "key"
        if not self.key.exists():
            self.key.parent.mkdir(parents=True, exist_ok=True)
            output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        self.log: list[str] = []

    def address(self, vmid: int) -> str:
        network = ipaddress.IPv4Network(self.settings.subnet)
        return f"{network[vmid % 200 + 10]}/{network.prefixlen}"

    def spec(self, vmid: int, **changes: object) -> GuestSpec:
        """A small container with a static address."""
        gateway = str(ipaddress.IPv4Network(self.settings.subnet)[1])
        nic = Nic("eth0", f"BC:24:11:00:00:{vmid % 256:02X}", "vmbr0", self.address(vmid), gateway)
        values: dict[str, object] = {
            "vmid": vmid, "kind": "lxc", "hostname": f"guest{vmid}", "cores": 1, "memory_mib": 256,
            "nics": (nic,), "ssh_keys": self.key.with_suffix(".pub").read_text(),
        }  # fmt: skip
        return GuestSpec(**{**values, **changes})  # type: ignore[arg-type]

    def make(self, vmid: int, **changes: object) -> GuestSpec:
        """Create, start and wait for SSH."""
        spec = self.spec(vmid, **changes)
        self.driver.create(spec, None, self.log.append)
        self.driver.start(spec, self.log.append)
        self.wait(spec.nics[0].address)
        return spec

    def wait(self, address: str, seconds: float = 20.0) -> float:
        """Wait until sshd introduces itself; returns how long that took."""
        started = time.monotonic()
        while True:
            try:
                with socket.create_connection((address.partition("/")[0], 22), 1) as connection:
                    if connection.recv(4) == b"SSH-":
                        return time.monotonic() - started
            except OSError:
                if time.monotonic() - started > seconds:
                    raise
                time.sleep(0.02)

    def ssh(self, address: str, command: str, user: str = "root", *, check: bool = True) -> str:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=10")
        argv = ["ssh", "-i", str(self.key), *(word for option in options for word in ("-o", option))]
        done = subprocess.run(
            [*argv, f"{user}@{address.partition('/')[0]}", command], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()
