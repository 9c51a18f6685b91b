# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nhi_quota's work on the counters that the router uses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.errors import QuotaError
from ansible_collections.nhi.core.plugins.module_utils.quota import Limits
from ansible_collections.nhi.core.plugins.module_utils.quota_desk import Quota, Terms, all_providers, published
from ansible_collections.nhi.core.plugins.module_utils.redis_keys import (
    cooldown_key,
    quota_aside_key,
    quota_samples_key,
    quota_terms_key,
)
from ansible_collections.nhi.core.plugins.modules import nhi_quota

from .valkey_server import valkey

numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    with valkey(append_only=False) as running:
        yield running.client()


@pytest.fixture
def quota(server: redis.Redis) -> Quota:
    server.flushall()
    terms = Terms("UTC", {"": Limits(requests_per_day=10, tokens_per_day=1000), "sonnet": Limits(requests_per_day=4)})
    mapping: dict[Any, Any] = dict(published(terms))
    server.hset(quota_terms_key("claude"), mapping=mapping)
    return Quota(server, "claude")


def reserve(quota: Quota, requests: int, tokens: int = 0, model: str = "") -> dict[str, Any]:
    return quota.reserve(quota.terms(), model, requests, tokens, lambda: f"m{next(numbers)}")


def module(quota: Quota, tmp_path: Any, *, check: bool = False, **params: Any) -> dict[str, Any]:
    given = {"model": "", "state": "read", "requests": None, "tokens": None, "limits": None, **params}
    with Attempt(tmp_path, "nhi_quota", "claude", {}, check_mode=check) as attempt:
        return nhi_quota.run(quota, given, attempt, check_mode=check)


def test_what_the_router_published_is_read(quota: Quota) -> None:
    reserve(quota, 2, 100, "sonnet")
    data = quota.read(quota.terms())
    assert data["used"] == {"requests_today": 2, "tokens_today": 200, "requests_in_window": 0, "tokens_in_window": 0}
    assert data["left"]["requests_per_day"] == 8
    assert data["models"]["sonnet"]["left"]["requests_per_day"] == 2
    assert 0 < data["resets_in_seconds"] <= 86_400


def test_what_routers_set_aside_is_neither_used_nor_left(quota: Quota, server: redis.Redis) -> None:
    server.hset(quota_aside_key("claude"), mapping={"a-1|sonnet": "2", "b-2|sonnet": "1"})
    quota.set_used(quota.terms(), 4, 100)
    data = quota.read(quota.terms())
    assert (data["used"]["requests_today"], data["used"]["tokens_today"], data["set_aside"]) == (4, 100, 3)
    assert data["left"]["requests_per_day"] == 10 - 4 - 3
    projection = quota.project(quota.terms())
    assert projection is not None
    assert projection["used"] == 4
    quota.reset(quota.terms())
    data = quota.read(quota.terms())
    assert (data["used"]["requests_today"], data["left"]["requests_per_day"]) == (0, 7), "it stays counted"
    assert data["models"]["sonnet"]["left"]["requests_per_day"] == 1


def test_all_are_reserved_or_none(quota: Quota) -> None:
    with pytest.raises(QuotaError, match="no room for 5 requests of 0 tokens: model_requests_per_day"):
        reserve(quota, 5, model="sonnet")
    assert quota.read(quota.terms())["used"]["requests_today"] == 0
    assert reserve(quota, 4, model="sonnet") == {"reserved": 4}


def test_limits_that_are_set_hold_until_they_are_reset(quota: Quota) -> None:
    quota.set_limits({"requests_per_day": 1})
    assert reserve(quota, 1)
    with pytest.raises(QuotaError, match="requests_per_day"):
        reserve(quota, 1)
    quota.reset(quota.terms())
    assert quota.read(quota.terms())["left"]["requests_per_day"] == 10
    with pytest.raises(QuotaError, match="is no limit"):
        quota.set_limits({"requests_per_week": 1})


def test_a_dry_run_tells_whether_there_is_room_and_changes_nothing(quota: Quota, tmp_path: Any) -> None:
    told = module(quota, tmp_path, check=True, state="reserved", requests=3, model="sonnet")
    assert (told["changed"], told["reserved"]) == (True, 3)
    assert module(quota, tmp_path, check=True, state="reserved", requests=5, model="sonnet")["reserved"] == 0
    assert module(quota, tmp_path, check=True, state="set", requests=9)["changed"]
    assert quota.read(quota.terms())["used"]["requests_today"] == 0


def test_setting_and_resetting_again_changes_nothing(quota: Quota, tmp_path: Any) -> None:
    steps: list[tuple[str, dict[str, Any]]] = [
        ("set", {"requests": 9, "limits": {"requests_per_day": 20}}), ("reset", {}),
    ]  # fmt: skip
    for state, more in steps:
        assert module(quota, tmp_path, state=state, **more)["changed"]
        assert not module(quota, tmp_path, state=state, **more)["changed"]
    assert module(quota, tmp_path)["changed"] is False


def test_the_projection_is_of_the_samples_that_the_router_took(quota: Quota, server: redis.Redis) -> None:
    quota.set_used(quota.terms(), 8, None)
    now = quota.now_ms()
    server.hset(quota_samples_key("claude"), str(now - 3_000_000), "2")
    projection = quota.project(quota.terms())
    assert projection is not None
    assert projection["limit"] == 10
    assert projection["per_hour"] in (0.0, 7.2), "the sample may be of yesterday just after midnight"


def test_a_scan_is_told_of_every_provider(quota: Quota, server: redis.Redis) -> None:
    server.set(cooldown_key("claude"), "429", px=5000)
    told = all_providers(server, ["claude"])
    assert told["claude"]["cooldown_seconds"] > 4
    assert told["claude"]["projection"]["limit"] == 10
