# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of Redis for leases; the package redis is needed only where lock_backend is redis."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from .errors import LockBackendError

if TYPE_CHECKING:
    from .lock_settings import LockSettings

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError:  # pragma: no cover
    redis = None  # type: ignore[assignment]

# A server that does not answer must be found out well before a lease ends.
_PATIENCE_PER_TTL = 1 / 3
_LONGEST_PATIENCE_SECONDS = 3.0


class LockClient:
    """Runs scripts in Redis; whatever goes wrong is a LockBackendError without any password in it."""

    def __init__(self, settings: LockSettings) -> None:
        self._settings = settings
        if redis is None:
            raise LockBackendError(
                f"The lock backend redis ({settings.source}) needs the Python package redis: install it for the Python "
                "that runs NHI (pip install 'nhi-services[redis]', or python3-redis of Debian)."
            )
        patience = min(_LONGEST_PATIENCE_SECONDS, settings.ttl_seconds * _PATIENCE_PER_TTL)
        more = {"password": settings.password} if settings.password else {}
        try:
            self._redis = redis.Redis.from_url(
                settings.url,
                socket_timeout=patience,
                socket_connect_timeout=patience,
                # A connection that was closed while nobody used it is no failure; every script may be repeated.
                retry=Retry(NoBackoff(), 2, supported_errors=(redis.ConnectionError,)),
                **more,
            )
        except ValueError as error:
            raise LockBackendError(f"The url of Redis in {settings.source} can not be used: {error}.") from error

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a Lua script; LockBackendError when there is no answer, or a refusal."""
        try:
            return self._redis.eval(script, numkeys, *keys_and_args)
        except redis.RedisError as error:
            raise LockBackendError(
                f"Redis at {self._settings.address}, which keeps the locks ({self._settings.source}), can not be used: "
                f"{str(error).rstrip('.')}. Nothing was written; start or repair it, or, while only one Brain works, "
                "set backend to file."
            ) from error


@functools.lru_cache(maxsize=8)
def lock_client(settings: LockSettings) -> LockClient:
    """The client for these settings: its connections are used again by all locks of the process."""
    return LockClient(settings)
