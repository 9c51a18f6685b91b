# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lock of a state directory: the file lock always, and a lease in Redis beside it where several Brains work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .lease import Lease
from .lock import FileLock, Holder
from .lock_settings import lock_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

STATE_LOCK, INFRASTRUCTURE_LOCK, BUDGETS_LOCK = "state.lock", "infrastructure.lock", "budgets.lock"
# What several Brains can not be kept apart by on their own disks.
SHARED_LOCKS = (STATE_LOCK, INFRASTRUCTURE_LOCK, BUDGETS_LOCK)


class SharedLock:
    """An exclusive lock, used as a context manager; not re-entrant.

    Who holds it asks ``confirm`` just before publishing what was written under it.
    """

    def __init__(
        self,
        directory: Path | str,
        name: str,
        operation: str,
        *,
        actor: str | None = None,
        timeout: float = 30.0,
        on_wait: Callable[[Holder | None], None] | None = None,
        floor: Callable[[], int] = lambda: 0,
    ) -> None:
        """``floor`` tells, once the file lock is held, the highest fence that was seen in what the lock guards."""
        self._directory = Path(directory)
        self._name = name
        self._holder = (operation, actor)
        self._timeout = timeout
        self._on_wait = on_wait
        self._floor = floor
        self._file = FileLock(self._directory / name, operation, actor=actor, timeout=timeout, on_wait=on_wait)
        self._lease: Lease | None = None

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
        return self._file.held

    @property
    def fence(self) -> int | None:
        """The fencing number of this holder; None where the file lock is the only one."""
        return self._lease.fence if self._lease else None

    def acquire(self) -> None:
        """Take the lock, waiting up to the timeout; raises LockTimeoutError and LockBackendError."""
        settings = lock_settings(self._directory)
        began = time.monotonic()
        self._file.acquire()
        if settings.backend == "file":
            return
        try:
            from ._redis import lock_client

            lease = Lease(lock_client(settings), settings.lab, self._name, ttl_seconds=settings.ttl_seconds)
            lease.acquire(
                Holder.me(*self._holder),
                floor=self._floor(),
                timeout=max(0.0, self._timeout - (time.monotonic() - began)),
                on_wait=self._on_wait,
            )
        except BaseException:
            self._file.release()
            raise
        self._lease = lease

    def confirm(self) -> None:
        """Make sure that nobody else can have the lock: raises LockLostError, and LockBackendError if none can say."""
        if self._lease is not None:
            self._lease.confirm()

    def release(self) -> None:
        """Give the lock back."""
        lease, self._lease = self._lease, None
        try:
            if lease is not None:
                lease.release()
        finally:
            self._file.release()


def infrastructure_lock(
    directory: Path | str,
    operation: str,
    *,
    actor: str | None = None,
    timeout: float = 300.0,
    on_wait: Callable[[Holder | None], None] | None = None,
) -> SharedLock:
    """The lock of a whole change to the lab; the state's own lock is held only while state.json is written."""
    return SharedLock(directory, INFRASTRUCTURE_LOCK, operation, actor=actor, timeout=timeout, on_wait=on_wait)
