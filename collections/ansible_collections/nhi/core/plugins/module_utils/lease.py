# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lock in Redis with an owner, an end and a fencing number: for several Brains that work on one lab.

A lease ends by itself when its holder can not renew it. The holder may not know that yet (its network is cut, it was
suspended), so whatever it writes must be confirmed with Redis just before it is published, and carries the number:
each holder gets a higher one than all before, and what stands under a higher number is never replaced.

The number is the greatest of: the last one plus one, what the caller has seen plus one, and the clock of Redis in
milliseconds. Only counting would begin anew when Redis loses its data, or goes back to a copy of yesterday.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .errors import LockBackendError, LockLostError, LockTimeoutError, NHIError
from .lock import Holder
from .redis_keys import lock_fence_key, lock_key

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.25
# Above this, numbers of Lua and of JSON are no longer exact.
HIGHEST_FENCE = 2**53 - 1

# A repeated call whose first answer was lost finds its own token, and answers the same.
_ACQUIRE = """
local owner = redis.call('HGET', KEYS[1], 'token')
if owner and owner ~= ARGV[1] then
    return {0, redis.call('HGET', KEYS[1], 'holder')}
end
local fence = redis.call('HGET', KEYS[1], 'fence')
if not owner then
    local now = redis.call('TIME')
    local last = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(ARGV[3]))
    fence = string.format('%.0f', math.max(last + 1, now[1] * 1000 + math.floor(now[2] / 1000)))
    redis.call('SET', KEYS[2], fence)
    redis.call('HSET', KEYS[1], 'token', ARGV[1], 'fence', fence, 'holder', ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1, fence}
"""
_KEEP = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
return redis.call('DEL', KEYS[1])
"""
_LOOK = (
    "return {redis.call('HGET', KEYS[1], 'holder'), redis.call('HGET', KEYS[1], 'fence'), redis.call('PTTL', KEYS[1])}"
)


class RedisClient(Protocol):
    """What a lease needs of a client of Redis; every failure is a LockBackendError."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a Lua script."""


@dataclass(frozen=True)
class HeldLease:
    """A lease as Redis tells of it; expires_in_seconds is None where it has no end."""

    holder: Holder | None
    fence: int
    expires_in_seconds: float | None


def look(client: RedisClient, lab: str, name: str) -> HeldLease | None:
    """Who holds a lock in Redis now, or None; raises LockBackendError."""
    holder, fence, left = client.eval(_LOOK, 1, lock_key(lab, name))
    if fence is None:
        return None
    return HeldLease(_holder_in(holder), int(fence), left / 1000 if left >= 0 else None)


class Lease:
    """One lock in Redis, held by one process; renewed by a thread at a third of its length until it is released."""

    def __init__(self, client: RedisClient, lab: str, name: str, *, ttl_seconds: float) -> None:
        self.name = name
        self._client = client
        self._keys = (lock_key(lab, name), lock_fence_key(lab, name))
        self._ttl_ms = int(ttl_seconds * 1000)
        self._token = ""
        self._fence: int | None = None
        self._pid = 0
        self._ends = 0.0
        self._lost: NHIError | None = None
        self._stop = threading.Event()

    @property
    def fence(self) -> int:
        """The fencing number of this holder; RuntimeError while the lease is not held."""
        if self._fence is None:
            raise RuntimeError(f"the lease of {self.name} is not held")
        return self._fence

    def acquire(
        self,
        holder: Holder,
        *,
        floor: int,
        timeout: float,
        on_wait: Callable[[Holder | None], None] | None = None,
    ) -> None:
        """Take the lock, waiting up to the timeout, with a fence above floor.

        Raises LockTimeoutError, which names the holder, and LockBackendError.
        """
        self._token, self._pid, self._lost = secrets.token_hex(16), os.getpid(), None
        deadline, pause, reported = time.monotonic() + timeout, _FIRST_PAUSE_SECONDS, False
        text = json.dumps(asdict(holder))
        while True:
            asked = time.monotonic()
            taken, answer = self._client.eval(_ACQUIRE, 2, *self._keys, self._token, self._ttl_ms, floor, text)
            if taken:
                break
            other = _holder_in(answer)
            if not reported and on_wait is not None:
                on_wait(other)
                reported = True
            left = deadline - time.monotonic()
            if left <= 0:
                raise LockTimeoutError(
                    f"{self.name} is held by {other or 'a process that left no name'}; gave up after {timeout:g} s. "
                    "Wait for it to finish and run again; the lock in Redis ends within "
                    f"{self._ttl_ms / 1000:g} s after its process, or after the network to it is cut."
                )
            time.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self._fence, self._ends = int(answer), asked + self._ttl_ms / 1000
        self._stop = threading.Event()
        threading.Thread(target=self._renew, args=(self._stop,), name=f"renew {self.name}", daemon=True).start()

    def confirm(self) -> None:
        """Make sure that the lock is still ours, for the length of the lease from now; to be asked before each write.

        Raises LockLostError when it is not, and LockBackendError when Redis can not say.
        """
        if self._pid != os.getpid() or self._fence is None:
            raise RuntimeError(f"the lease of {self.name} is not held by this process")
        if self._lost is None:
            self._keep()
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Give the lock back if it is still ours; one that Redis can not be told of ends by itself."""
        token, mine = self._token, self._pid == os.getpid()
        self._stop.set()
        self._token, self._fence = "", None
        if not token or not mine:
            return
        try:
            self._client.eval(_RELEASE, 1, self._keys[0], token)
        except LockBackendError:
            return

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self._ttl_ms / 3000) and self._lost is None:
            try:
                self._keep()
            except LockBackendError as error:
                if time.monotonic() >= self._ends and not stop.is_set():
                    self._lost = self._loss(f"Redis could not be asked since before it ended: {error}")

    def _keep(self) -> None:
        token, asked = self._token, time.monotonic()
        if self._client.eval(_KEEP, 1, self._keys[0], token, self._ttl_ms):
            self._ends = asked + self._ttl_ms / 1000
        elif token == self._token:
            self._lost = self._loss("it ended and may be another's, or Redis lost its data")

    def _loss(self, why: str) -> LockLostError:
        return LockLostError(f"The lock {self.name} in Redis is no longer held by this run ({why}). Run again.")


def _holder_in(raw: Any) -> Holder | None:
    return Holder.parse(raw) if isinstance(raw, bytes) else None
