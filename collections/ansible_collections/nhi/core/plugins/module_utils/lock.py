# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks between the processes of one Brain: flock on a file that is never truncated on open and never deleted.

The kernel releases the lock when its holder dies, however it dies. What is written in the file is only for people
who wait: who holds the lock, since when and for what.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import socket
import threading
import time
import weakref
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .errors import LockTimeoutError, NHIError
from .files import explain
from .sudo_caller import sudo_caller

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_METADATA_LIMIT = 4096
_MOMENT_SECONDS = 0.01


def current_actor() -> str:
    """Who asks: NHI_ACTOR where an agent or a schedule set it, else the user, seen through sudo."""
    for variable in ("NHI_ACTOR", "SUDO_USER"):
        if name := os.environ.get(variable, "").strip():
            return name
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def current_person() -> str:
    """Who is at the keyboard, for decisions that only a person may take: no variable but sudo's can say otherwise."""
    if os.getuid() == 0 and (name := os.environ.get("SUDO_USER", "").strip()):
        return name
    # `sudo -u nhi nhi approve PLAN`: the control user acts, but another one decides.
    if vouched := sudo_caller():
        return vouched
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _process_start(pid: int) -> str | None:
    """When the kernel says that a process started; empty where it does not say, None when there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # After the program's name, which may hold anything: state, parent, ..., and 20th the ticks since boot.
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if facts[0] in "ZX" else f"{boot}/{facts[19]}"
    except (OSError, IndexError):
        return ""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the lock file tells."""

    operation: str
    actor: str
    pid: int
    host: str
    since: str
    started: str = ""  # tells a process from a later one of the same number; empty where that can not be told

    @classmethod
    def me(cls, operation: str, actor: str | None = None) -> Holder:
        """This process."""
        return cls.of_process(os.getpid(), operation, actor)

    @classmethod
    def of_process(cls, pid: int, operation: str, actor: str | None = None) -> Holder:
        """A process of this host, such as the parent of those that do its work."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        started = _process_start(pid) or ""
        return cls(operation, actor or current_actor(), pid, socket.gethostname(), now, started)

    @classmethod
    def parse(cls, raw: bytes) -> Holder | None:
        """What a lock file says; None when it is empty, half-written or not ours."""
        try:
            data = json.loads(raw)
            texts = [str(data[field]) for field in ("operation", "actor", "host", "since")]
            return cls(texts[0], texts[1], int(data["pid"]), texts[2], texts[3], str(data.get("started") or ""))
        except (ValueError, KeyError, TypeError):
            return None

    def is_gone(self) -> bool:
        """True when the process certainly ended: the file still names a holder that was killed."""
        if self.host != socket.gethostname():
            return False
        started = _process_start(self.pid)
        return started is None or bool(self.started and started and started != self.started)

    def __str__(self) -> str:
        return f"{self.operation} by {self.actor} (pid {self.pid} on {self.host}, since {self.since})"


class FileLock:
    """An exclusive lock, used as a context manager; not re-entrant."""

    def __init__(
        self,
        path: Path | str,
        operation: str,
        *,
        actor: str | None = None,
        timeout: float = 30.0,
        on_wait: Callable[[Holder | None], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self._operation = operation
        self._actor = actor
        self._timeout = timeout
        self._on_wait = on_wait
        self._descriptor: int | None = None
        self._queued: int | None = None
        self._held = False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """True between acquire and release in the process that acquired it."""
        return self._held

    def acquire(self) -> None:
        """Take the lock, waiting up to the timeout; LockTimeoutError names the holder."""
        if self._descriptor is not None:
            raise RuntimeError(f"{self.path} is already taken by this object")
        self._descriptor = self._open()
        _OPEN.add(self)
        try:
            self._wait(self._descriptor)
            self._held = True
            self._describe(self._descriptor)
        except BaseException:
            self._unlock()
            self.forget()
            raise

    def release(self) -> None:
        """Give the lock back; the file stays, without a name in it."""
        try:
            if self._held and self._descriptor is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
        finally:
            self._unlock()
            self.forget()

    def _unlock(self) -> None:
        # Not by closing alone: the thread that waited has the file open as well.
        self._held = False
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def forget(self) -> None:
        """Close the descriptor; in a forked child this leaves the parent's lock alone."""
        descriptor, self._descriptor, self._held = self._descriptor, None, False
        _OPEN.discard(self)
        if descriptor is not None:
            os.close(descriptor)

    def forget_in_child(self) -> None:
        """The same in a child that was forked while a thread waited for the lock."""
        if self._queued is not None:
            os.close(self._queued)
            self._queued = None
        self.forget()

    def holder(self) -> Holder | None:
        """Who holds the lock now, as far as the file tells."""
        try:
            with self.path.open("rb") as file:
                holder = Holder.parse(file.read(_METADATA_LIMIT))
        except OSError:
            return None
        return None if holder is None or holder.is_gone() else holder

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if isinstance(error, PermissionError) and self.path.exists():
                return self._open_of_other_user()
            raise self._unusable(error) from error

    def _open_of_other_user(self) -> int:
        # flock needs no write permission; only our name stays out of the file.
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> NHIError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Make room" if full else "Check that the directory exists and that this user may write to it"
        return NHIError(f"The lock {self.path} can not be opened: {explain(error)}. {hint}.")

    def _wait(self, descriptor: int) -> None:
        if self._try(descriptor):
            return
        if self.holder() is None:
            # Perhaps one who gave up waiting, and lets go at once.
            time.sleep(_MOMENT_SECONDS)
            if self._try(descriptor):
                return
        if self._on_wait is not None:
            self._on_wait(self.holder())
        if self._timeout <= 0 or not self._queue(descriptor):
            who = self.holder() or "a process that left no name"
            raise LockTimeoutError(
                f"{self.path.name} is held by {who}; gave up after {self._timeout:g} s. "
                "Wait for it to finish and run again; the lock ends with its process."
            )

    def _queue(self, descriptor: int) -> bool:
        """Wait in the kernel, where nobody is passed by: whoever asks again and again may meet it taken each time.

        That wait has no timeout of its own, so a thread does it, on a descriptor of its own; one that is given up on
        lets go of the lock as soon as it gets it.
        """
        self._queued = mine = os.dup(descriptor)
        given_up = threading.Event()
        failed: list[OSError] = []

        def lock() -> None:
            try:
                fcntl.flock(mine, fcntl.LOCK_EX)
                if given_up.is_set():
                    fcntl.flock(mine, fcntl.LOCK_UN)
            except OSError as error:
                failed.append(error)
            finally:
                os.close(mine)

        thread = threading.Thread(target=lock, daemon=True)
        try:
            thread.start()
            thread.join(self._timeout)
            if failed:
                raise self._no_locks(failed[0]) from failed[0]
            return not thread.is_alive()
        finally:
            self._queued = None
            given_up.set()

    def _try(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._no_locks(error) from error
        return True

    def _no_locks(self, error: OSError) -> NHIError:
        return NHIError(
            f"{self.path} can not be locked: {explain(error)}. Keep the state on a file system that has locks."
        )

    def _describe(self, descriptor: int) -> None:
        # A full disk or a read-only descriptor costs those who wait a name, not us the lock.
        metadata = json.dumps(asdict(Holder.me(self._operation, self._actor))).encode()
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, metadata, 0)


_OPEN: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    # flock belongs to the open file, which a forked child shares: kept there, the lock would outlive its holder.
    for lock in list(_OPEN):
        lock.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
