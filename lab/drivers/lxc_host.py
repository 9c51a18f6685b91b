"""Commands of this host, run so that none of them outlives the lab, and what the lxc driver needs to be here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.drivers.base import DriverError

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = {  # command: the Debian package it comes from
    "bash": "bash",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "lxc-start": "lxc",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "tar": "tar",
    "unshare": "util-linux",
    "zstd": "zstd",
}
CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 27: "CAP_MKNOD"}  # a root inside Docker lacks them

# A killed daemon takes the command with it (setpriv), and a killed command takes its children and its
# mounts with it (unshare: they live in namespaces of their own). So no helper, no mount is ever left over.
DIES_WITH_CALLER = ("setpriv", "--pdeathsig", "KILL", "--")
SANDBOX = (
    *DIES_WITH_CALLER,
    *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--"),
)
# What tar and its like say after the reason.
_EPILOGUES = ("due to previous errors", "exiting now", "Skipping to next header", "Child returned status 1")


def why_unusable() -> str | None:
    """Say in one line why containers cannot be made here; None when they can."""
    if not sys.platform.startswith("linux"):
        return "containers need Linux"
    if os.geteuid() != 0:
        return "containers need root"
    missing = sorted({package for command, package in PACKAGES.items() if not shutil.which(command)})
    if not DEBIAN_KEYRING.exists():
        missing.append("debian-archive-keyring")
    if missing:
        return f"packages are missing: apt-get install {' '.join(missing)}"
    lacking = lacking_capabilities(Path("/proc/self/status").read_text())
    if lacking:
        return f"this root lacks {', '.join(lacking)}: run on the host or in a privileged container"
    if "\toverlay\n" not in Path("/proc/filesystems").read_text() and not _loads("overlay"):
        return "the kernel has no overlay file system"
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "/sys/fs/cgroup cannot be written"
    return None


def run(argv: Sequence[str], what: str, *, stdin: bytes = b"", on_line: Callable[[str], None] | None = None) -> str:
    """Run a command and return its output; `what` begins the error of a failing one ("copying layer")."""
    try:
        if on_line is not None:
            return _run_by_line(argv, what, on_line)
        done = subprocess.run(argv, input=stdin, capture_output=True, check=False)
    except OSError as error:
        raise DriverError(f"{what} failed: {argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise DriverError(_failure(what, done.returncode, done.stderr.decode(errors="replace")))
    return done.stdout.decode(errors="replace")


def sandbox(
    script: str,
    *arguments: str | Path,
    what: str,
    stdin: bytes = b"",
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a bash script with its own mounts and processes, which end with it; it stops at the first error."""
    argv = [*SANDBOX, "bash", "-euo", "pipefail", "-c", script, "bash", *map(str, arguments)]
    return run(argv, what, stdin=stdin, on_line=on_line)


def succeeds(argv: Sequence[str]) -> bool:
    """Tell whether a command ends with success, whatever it prints."""
    # No pipes: a daemon that the command leaves behind would keep them open.
    quiet = subprocess.DEVNULL
    return subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=quiet, check=False).returncode == 0


def _run_by_line(argv: Sequence[str], what: str, on_line: Callable[[str], None]) -> str:
    lines: list[str] = []
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            on_line(line.rstrip())
    if process.returncode != 0:
        raise DriverError(_failure(what, process.returncode, "".join(lines)))
    return "".join(lines)


def _failure(what: str, code: int, text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.endswith(_EPILOGUES)]
    return f"{what} failed: {lines[-1] if lines else 'no message'} (exit code {code})"


def lacking_capabilities(status: str) -> list[str]:
    """What a /proc/PID/status shows that this process may not do and would have to."""
    effective = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return [name for bit, name in CAPABILITIES.items() if not effective >> bit & 1]


def _loads(module: str) -> bool:
    return bool(shutil.which("modprobe")) and succeeds(["modprobe", module])
