# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to the Redis that keeps the quotas."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from .errors import QuotaError

try:
    import redis

    IMPORT_ERROR: str | None = None
except ImportError:  # pragma: no cover
    IMPORT_ERROR = traceback.format_exc()

_PATIENCE_SECONDS = 5.0


@contextlib.contextmanager
def open_redis(url: str, password: str | None) -> Iterator[Any]:
    """A client; whatever goes wrong is a QuotaError without the password."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix") or parts.password:
        raise QuotaError("redis_url must be redis://HOST:PORT/DB without a password: use redis_password for that")
    client = redis.Redis.from_url(
        url, password=password or None, socket_timeout=_PATIENCE_SECONDS, socket_connect_timeout=_PATIENCE_SECONDS
    )
    where = f"{parts.hostname or parts.path}:{parts.port or 6379}"
    try:
        yield client
    except redis.RedisError as error:
        said = str(error).rstrip(".")
        raise QuotaError(f"Redis at {where}, which keeps the quotas, can not be used: {said}.") from error
    finally:
        client.close()
