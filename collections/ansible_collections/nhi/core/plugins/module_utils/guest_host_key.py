# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SSH host keys of guests, recorded without blind trust where Proxmox VE can vouch for them.

Proxmox VE makes the host keys of a new container itself and prints their fingerprints in the log of the task that
creates it. That log is read over the authenticated API, so a key that answers at the guest's address and has one of
these fingerprints is the guest's own. The key of a virtual machine is read the same way through its guest agent. Nobody
vouches for containers that are clones or were restored, and for machines whose agent can not be asked: their keys are
taken at first sight, which is said, and a changed one is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import GuestChangeError, NHIError, PermissionDeniedError, ProxmoxError, StateError
from .files import discard, explain, read_if_exists, sync_directory, write_new
from .guest_reader import Api, guest_path
from .guest_spec import KINDS, LXC
from .lock import FileLock

VERIFIED, FIRST_SIGHT, UNCHANGED, NO_KEY = "verified", "first_sight", "unchanged", "none"
_FINGERPRINT = re.compile(r"\bdone: (SHA256:[A-Za-z0-9+/]+)")
# The tasks after which a guest has the host keys that it has; only the first says which.
_CREATE = "vzcreate"
_MAKERS = (_CREATE, "vzclone", "vzrestore")
_LOG_LINES = 1000
_KEY_FILE, _KEY_TYPE = "/etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519"
_STARTING = "guest agent is not running"
_SCAN_SECONDS, _PATIENCE_SECONDS, _PAUSE_SECONDS = 5, 10.0, 0.3


@dataclass(frozen=True)
class HostKey:
    """A public key as it stands in known_hosts."""

    type: str
    key: str

    @property
    def fingerprint(self) -> str:
        """As OpenSSH and Proxmox VE print it."""
        try:
            raw = base64.b64decode(self.key, validate=True)
        except binascii.Error:
            return ""
        return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Known:
    """Who shows the keys, and where."""

    name: str
    vmid: int
    type: str
    node: str
    address: str

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.type]} {self.vmid} {self.name}"


@dataclass(frozen=True)
class Recorded:
    """What became of the keys of a guest."""

    status: str
    changed: bool = False
    warning: str | None = None


Scan = Callable[[str], Sequence[HostKey]]


class KnownHosts:
    """A file of OpenSSH's known_hosts; lines of others are kept as they are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def locked(self) -> FileLock:
        """For a read and the write that follows from it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StateError(f"{self.path.parent} can not be made: {explain(e)}; correct known_hosts") from e
        return FileLock(self.path.with_name(self.path.name + ".lock"), f"change {self.path.name}")

    def lines(self) -> list[str]:
        """As they are; none where there is no file."""
        try:
            return (read_if_exists(self.path) or b"").decode("utf-8", "surrogateescape").splitlines()
        except OSError as e:
            raise StateError(f"{self.path} can not be read: {explain(e)}; correct its owner") from e

    def keys(self, names: Iterable[str]) -> set[HostKey]:
        """What is recorded under any of these names."""
        wanted = set(names)
        fields = [line.split() for line in self.lines() if wanted & _names(line)]
        return {HostKey(line[1], line[2]) for line in fields if len(line) > 2}

    def replace(self, names: Sequence[str], keys: Iterable[HostKey]) -> bool:
        """Put these keys in the place of all lines with any of these names; whether the file differs now."""
        before = self.lines()
        kept = [line for line in before if not _names(line) & set(names)]
        after = kept + [f"{','.join(names)} {key.type} {key.key}" for key in sorted(keys, key=lambda k: k.type)]
        if sorted(after) == sorted(before):
            return False
        new = self.path.with_name(self.path.name + ".tmp")
        try:
            write_new(new, ("\n".join(after) + "\n" if after else "").encode("utf-8", "surrogateescape"), 0o600)
            new.replace(self.path)
            sync_directory(self.path.parent)
        except OSError as e:
            discard(new)
            raise StateError(f"{self.path} can not be written: {explain(e)}; make room or correct known_hosts") from e
        return True


def _names(line: str) -> set[str]:
    """The names that a line is for; a marker such as @revoked before them makes it a line that is left alone."""
    return set() if line.startswith(("#", "@")) or not line.strip() else set(line.split(maxsplit=1)[0].split(","))


def record_host_key(api: Api, guest: Known, file: KnownHosts, *, made_now: bool, scan: Scan | None = None) -> Recorded:
    """Record the keys that a guest shows, if they are its own as far as anybody can tell; GuestChangeError if not.

    ``made_now`` says that this run made the guest, so that what is recorded under its name and address is another's.
    """
    shown = set(_patiently(scan or scan_host_keys, guest.address))
    if not shown:
        return Recorded(NO_KEY, warning=f"{guest.label} shows no SSH host key at {guest.address}: none was recorded")
    with file.locked():
        names = [guest.name, guest.address]
        recorded = file.keys(names)
        if recorded & shown and not _differ(recorded, shown):
            return Recorded(UNCHANGED, file.replace(names, recorded))
        vouched = vouched_fingerprints(api, guest)
        if vouched.fingerprints:
            own = {key for key in shown if key.fingerprint in vouched.fingerprints}
            if not own:
                raise GuestChangeError(_mismatch(guest, file.path))
            return Recorded(VERIFIED, file.replace(names, own))
        if recorded and not made_now:
            raise GuestChangeError(
                f"{guest.label} shows another SSH host key at {guest.address} than the one in {file.path}, so it is"
                f" not trusted: find out why; if it was made anew on purpose, remove the lines of {guest.name} from"
                " that file and run the same again"
            )
        changed = file.replace(names, shown)
    warning = f"Nobody vouches for the SSH host key of {guest.label}: the one that answered was recorded at first sight"
    return Recorded(FIRST_SIGHT, changed, warning + (f" ({vouched.why_not})" if vouched.why_not else ""))


def _mismatch(guest: Known, path: Path) -> str:
    if guest.type != LXC:
        return (
            f"what answers to SSH at {guest.address} does not have the host key that the guest agent of {guest.label}"
            " reads, so it is not trusted: find out who has that address"
        )
    return (
        f"what answers to SSH at {guest.address} does not have the host keys that Proxmox VE made for"
        f" {guest.label}, so it is not trusted: find out who has that address; if the keys were made anew"
        f" on purpose, record them with `ssh-keyscan {guest.address} >> {path}`"
    )


def _differ(recorded: Iterable[HostKey], shown: Iterable[HostKey]) -> bool:
    """Whether a key is another one now; a server that shows fewer or more kinds is the same server."""
    now = {key.type: key.key for key in shown}
    return any(now.get(key.type, key.key) != key.key for key in recorded)


def forget_host_key(file: KnownHosts, name: str) -> bool:
    """Remove the lines of a guest that is gone; whether there were any."""
    if not any(name in _names(line) for line in file.lines()):
        return False
    with file.locked():
        return file.replace([name], [])


@dataclass(frozen=True)
class Vouched:
    """Fingerprints of keys that are the guest's own beyond doubt; ``why_not`` may say why there are none."""

    fingerprints: frozenset[str] = frozenset()
    why_not: str = ""


def vouched_fingerprints(api: Api, guest: Known) -> Vouched:
    """What Proxmox VE knows of the guest's keys: from the task that made them, or from the guest agent."""
    if guest.type == LXC:
        return Vouched(frozenset(created_fingerprints(api, guest)))
    return _read_by_agent(api, guest)


def _read_by_agent(api: Api, guest: Known) -> Vouched:
    """The key in a machine's own file; an agent that has not started yet is given a while."""
    path = guest_path(guest.type, guest.node, guest.vmid, "agent", "file-read")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            answer = api.get(path, {"file": _KEY_FILE}) or {}
        except PermissionDeniedError:
            needed = f"VM.GuestAgent.FileRead, before Proxmox VE 9 VM.Monitor, on /vms/{guest.vmid}"
            return Vouched(why_not=f"this token may not ask the guest agent: it lacks {needed}")
        except ProxmoxError as e:
            if _STARTING in f"{e.reason} {e}" and time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
                continue
            return Vouched(why_not=f"the guest agent could not be asked: {(e.reason or str(e)).strip()}")
        fields = str(answer.get("content") or "").split()
        key = HostKey(fields[0], fields[1]) if len(fields) > 1 else HostKey("", "")
        if not key.fingerprint or key.type != _KEY_TYPE:
            return Vouched(why_not=f"the guest agent finds no key in {_KEY_FILE}")
        return Vouched(frozenset({key.fingerprint}))


def created_fingerprints(api: Api, guest: Known) -> set[str]:
    """Fingerprints in the log of the task that made this container; none when nobody vouches for its keys."""
    try:
        tasks = api.get(("nodes", guest.node, "tasks"), {"vmid": guest.vmid, "source": "all"}) or []
        makers = [t for t in tasks if t.get("type") in _MAKERS]
        newest = max(makers, key=lambda t: int(t["starttime"]), default=None)
        if newest is None or newest["type"] != _CREATE:
            return set()
        log = api.get(("nodes", guest.node, "tasks", newest["upid"], "log"), {"limit": _LOG_LINES}) or []
    except ProxmoxError:
        # May not be ours to see; then nobody vouches.
        return set()
    return {match[1] for line in log if (match := _FINGERPRINT.search(str(line.get("t", ""))))}


def scan_host_keys(address: str) -> list[HostKey]:
    """The keys that a host shows now; none when it does not answer."""
    program = shutil.which("ssh-keyscan")
    if program is None:
        raise NHIError("ssh-keyscan is not there to read host keys with: install the package openssh-client")
    done = subprocess.run(
        [program, "-T", str(_SCAN_SECONDS), "--", address], capture_output=True, text=True, check=False
    )
    fields = [line.split() for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return [HostKey(line[1], line[2]) for line in fields if len(line) > 2]


def _patiently(scan: Scan, address: str) -> Sequence[HostKey]:
    """A guest that just started may listen before it answers."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found = scan(address)
        if found or time.monotonic() >= deadline:
            return found
        time.sleep(_PAUSE_SECONDS)
