# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of the keys in Redis: a contract of all programs that use one, so each is built here and nowhere else.

``lab`` keeps apart labs that share a Redis.
"""

from __future__ import annotations

from typing import Final

PREFERRED_PROVIDER: Final = "orchestrator:preferred_provider"
# Providers that a router knows: a set.
PROVIDERS: Final = "api_providers"
ROUTER_INSTANCES: Final = "router:instances"
GPU_SEMAPHORE: Final = "semaphore:gpu"
GPU_HEARTBEAT: Final = "semaphore:gpu:heartbeat"


def gpu_queue_key(priority: str) -> str:
    """Jobs that wait for the GPU, by priority (high, medium, low): a list, the next at its head."""
    return f"gpu_queue:{priority}"


def gpu_result_key(job: str) -> str:
    """What came of a job: a text with an expiry, set by the worker and taken by whoever waits."""
    return f"gpu_result:{job}"


def gpu_cancelled_key(job: str) -> str:
    """That nobody waits for a job any more: a text with an expiry, which a worker looks at before and during it."""
    return f"gpu_cancelled:{job}"


def quota_key(provider: str, date: str) -> str:
    """What was used of a provider on a day of its own: a hash with an expiry (blueprint 4.2)."""
    return f"api_quota:{provider}:{date}"


def quota_window_key(provider: str, model: str | None = None) -> str:
    """Requests of the last 60 seconds: a sorted set; its tokens are in the hash beside it."""
    return f"api_window:{provider}:{model}" if model else f"api_window:{provider}"


def quota_terms_key(provider: str) -> str:
    """What the router's configuration says of a provider: limits and zone, a hash."""
    return f"api_terms:{provider}"


def quota_limits_key(provider: str) -> str:
    """Limits that hold now, where they differ from the configuration: a hash."""
    return f"api_limits:{provider}"


def quota_aside_key(provider: str) -> str:
    """Requests that routers keep for the time that Redis is lost, counted as used: a hash by INSTANCE|MODEL."""
    return f"api_aside:{provider}"


def quota_samples_key(provider: str) -> str:
    """What had been used of a day's requests every five minutes, for projections: a hash by Unix time in ms."""
    return f"api_samples:{provider}"


def quota_book_key(owner: str) -> str:
    """Reservations that their owner has not settled: a hash of id to candidate, moment, whether for two days."""
    return f"api_pending:{owner}"


def spend_key(date: str) -> str:
    """Micro-USD spent or set aside on a day (UTC), by agent: a hash with an expiry; ``*`` is all of it."""
    return f"api_spend:{date}"


def spend_book_key(owner: str) -> str:
    """Micro-USD set aside that their owner has not settled, by id: a hash with an expiry."""
    return f"api_spend_pending:{owner}"


def spend_mark_key(spend_id: str) -> str:
    """That something spent while Redis was lost has been counted: a text with an expiry."""
    return f"api_spend_counted:{spend_id}"


def cooldown_key(provider: str, model: str | None = None) -> str:
    """Why a provider or model is not asked for a while: a text with an expiry."""
    return f"api_cooldown:{provider}:{model}" if model else f"api_cooldown:{provider}"


def lock_key(lab: str, name: str) -> str:
    """Who holds a lock of the state directory, until when: a hash with an expiry."""
    return f"lock:{lab}:{name}"


def lock_fence_key(lab: str, name: str) -> str:
    """The highest fencing number that was given out for a lock; never expires."""
    return f"{lock_key(lab, name)}:fence"
