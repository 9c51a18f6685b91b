# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part `api_providers` of state.json: what the router knows of each provider's quota, read at each scan."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from . import redis_keys
from .errors import QuotaError
from .quota_desk import QuotaRedis, all_providers
from .state_document import format_time, utc_now

Providers = Mapping[str, Mapping[str, Any]]


class ScannedRedis(QuotaRedis, Protocol):
    """What a scan asks beside the quotas."""

    def smembers(self, name: str) -> Any:
        """Members of a set."""


@dataclass(frozen=True)
class QuotaScan:
    """What is known of the quotas now; ``warning`` says why it is what was known before."""

    providers: Providers
    warning: str | None = None


def scan_quotas(connection: AbstractContextManager[ScannedRedis], known: Providers) -> QuotaScan:
    """Read all quotas. Where Redis can not be read, what was known stays, marked stale: a scan never fails by it."""
    try:
        with connection as client:
            members = client.smembers(redis_keys.PROVIDERS)
            names = sorted(name.decode() if isinstance(name, bytes) else str(name) for name in members)
            read = all_providers(client, names)
    except QuotaError as error:
        stale = {name: {**provider, "freshness": "stale"} for name, provider in known.items()}
        return QuotaScan(stale, f"{error} What was known of the quotas is kept, marked stale.")
    seen = {"freshness": "fresh", "observed_at": format_time(utc_now())}
    return QuotaScan({name: {**provider, **seen} for name, provider in read.items()})
