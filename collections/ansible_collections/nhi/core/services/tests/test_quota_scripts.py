# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quotas in a real Valkey: no day and no 60 seconds get more than the limit, whatever the order of events."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from ansible_collections.nhi.core.plugins.module_utils.quota import Limits, day_at
from ansible_collections.nhi.core.plugins.module_utils.quota_book import (
    Call,
    Reservation,
    ReserveCall,
    Scope,
    UsageCall,
    Verdict,
    Wish,
    at_least,
)
from ansible_collections.nhi.core.plugins.module_utils.redis_keys import cooldown_key, quota_book_key, quota_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .valkey_server import valkey

NOON = 2_111_400_000_000  # 2036-11-27T12:00Z: nothing may expire by the real clock
BOOK = quota_book_key("test")
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    with valkey() as running:
        yield running.client()


@pytest.fixture
def client(server: redis.Redis) -> redis.Redis:
    server.flushall()
    return server


def run(client: redis.Redis, call: Call) -> Any:
    return client.eval(call.script, len(call.keys), *call.keys, *call.args)


def reserve(client: redis.Redis, now: int, *wishes: Wish) -> Verdict:
    call = ReserveCall(f"r{next(numbers)}", wishes, now, book=BOOK, simulated=True)
    return call.verdict(run(client, call.call))


def scope(zone: str = "UTC", model: str = "sonnet", of_model: Limits | None = None, **limits: int) -> Scope:
    return Scope("claude", model, zone, Limits(**limits), of_model or Limits())


def usage(client: redis.Redis, now: int, zone: str = "UTC") -> tuple[int, int, int, int]:
    call = UsageCall("claude", ["sonnet"], zone, now, simulated=True)
    found, models = call.usages(run(client, call.call))
    assert models["sonnet"].requests_today == found.requests_today
    return found.requests_today, found.tokens_today, found.requests_in_window, found.tokens_in_window


def test_a_day_has_its_limit_and_says_when_it_ends(client: redis.Redis) -> None:
    wish = Wish(scope(requests_per_day=2))
    for _number in range(2):
        assert reserve(client, NOON, wish).reservation
    refused = reserve(client, NOON + 5, wish)
    assert refused.reservation is None
    [why] = refused.refusals
    assert (why.reason, why.retry_ms) == ("requests_per_day", 12 * 3_600_000 - 5)
    assert reserve(client, NOON + why.retry_ms + 5, wish).reservation
    key = quota_key("claude", "2036-11-27")
    assert client.hget(key, "requests_made") == b"2"
    assert client.hget(key, "reset_at") == str(NOON // 1000 + 12 * 3600).encode()
    assert client.pttl(key) > 0


@pytest.mark.parametrize(
    ("limits", "tokens", "reason"),
    [
        ({"requests_per_day": 0}, 0, "requests_per_day"),
        ({"requests_per_minute": 0}, 0, "requests_per_minute"),
        ({"tokens_per_day": 99}, 100, "tokens_per_day"),
        ({"tokens_per_minute": 99}, 100, "tokens_per_minute"),
    ],
)
def test_each_limit_refuses_for_the_provider_and_for_the_model(
    client: redis.Redis, limits: dict[str, int], tokens: int, reason: str
) -> None:
    of_provider, of_model = (
        Scope("claude", "sonnet", provider_limits=Limits(**limits)),
        scope(of_model=Limits(**limits)),
    )
    for wanted, name in ((of_provider, reason), (of_model, f"model_{reason}")):
        verdict = reserve(client, NOON, Wish(wanted, tokens))
        assert [r.reason for r in verdict.refusals] == [name]
        assert verdict.reservation is None
    assert client.dbsize() == 0, "a refusal leaves nothing behind"


def test_the_first_candidate_with_room_is_taken_and_the_others_say_why_not(client: redis.Redis) -> None:
    full, cold, free = (
        Scope(name, f"{name}-model", "UTC", Limits(requests_per_day=n)) for name, n in (("a", 0), ("b", 9), ("c", 9))
    )
    client.set(cooldown_key("b"), "429", px=7000)
    verdict = reserve(client, NOON, Wish(full), Wish(cold), Wish(free))
    assert verdict.reservation is not None
    assert verdict.reservation.scope.model == "c-model"
    assert [(r.model, r.reason) for r in verdict.refusals] == [("a-model", "requests_per_day"), ("b-model", "cooldown")]
    assert 6000 < verdict.refusals[1].retry_ms <= 7000


def test_the_wait_that_is_told_is_true(client: redis.Redis) -> None:
    wish = Wish(scope(requests_per_minute=3, tokens_per_minute=1000), 200)
    for at in (0, 10_000, 20_000):
        verdict = reserve(client, NOON + at, wish)
        assert verdict.reservation
        run(client, verdict.reservation.started(NOON + at + 500))
        run(client, verdict.reservation.settle(200, 0, NOON + at + 900))
    now = NOON + 30_000
    refused = reserve(client, now, wish)
    assert [(r.reason, r.retry_ms) for r in refused.refusals] == [("requests_per_minute", 30_500)]
    assert reserve(client, now + 30_499, wish).reservation is None
    assert reserve(client, now + 30_500, wish).reservation
    heavy = reserve(client, now + 30_600, Wish(scope(tokens_per_minute=1000), 700))
    assert [(r.reason, r.retry_ms) for r in heavy.refusals] == [("tokens_per_minute", 19_900)]


def test_a_refund_gives_all_back_and_a_second_one_nothing(client: redis.Redis) -> None:
    verdict = reserve(client, NOON, Wish(scope(requests_per_day=5, requests_per_minute=5, tokens_per_minute=900), 300))
    assert verdict.reservation
    assert usage(client, NOON) == (1, 300, 1, 300)
    assert run(client, verdict.reservation.refund(NOON + 10)) == 1
    assert usage(client, NOON + 20) == (0, 0, 0, 0)
    assert run(client, verdict.reservation.refund(NOON + 30)) == 0
    assert run(client, verdict.reservation.settle(300, 0, NOON + 30)) == 0
    assert usage(client, NOON + 40) == (0, 0, 0, 0)


def test_tokens_are_corrected_once_to_what_was_used(client: redis.Redis) -> None:
    verdict = reserve(client, NOON, Wish(scope(tokens_per_day=5000, tokens_per_minute=900), 300))
    assert verdict.reservation
    assert run(client, verdict.reservation.settle(120, 50, NOON + 100)) == 1
    assert run(client, verdict.reservation.settle(120, 50, NOON + 110)) == 0
    assert usage(client, NOON + 200) == (1, 120, 1, 120)
    assert usage(client, NOON + 50 + 60_000) == (1, 120, 0, 0)


@pytest.mark.parametrize(("heard_after_ms", "days"), [(-2000, (1, 0)), (2000, (1, 1))])
def test_a_request_at_midnight_counts_for_the_days_for_which_the_provider_may_count_it(
    client: redis.Redis, heard_after_ms: int, days: tuple[int, int]
) -> None:
    zone = "America/Los_Angeles"
    midnight = day_at(zone, NOON).end_ms
    verdict = reserve(client, midnight - 5000, Wish(scope(zone, requests_per_day=10), 50))
    assert verdict.reservation
    assert verdict.reservation.both_days
    assert [usage(client, midnight + at, zone)[0] for at in (-1, 1)] == [1, 1]
    run(client, verdict.reservation.settle(80, 3000, midnight + heard_after_ms + 3000))
    assert tuple(usage(client, midnight + at, zone)[0] for at in (-1, 1)) == days
    assert [usage(client, midnight + at, zone)[1] for at in (-1, 1)] == [80 * day for day in days]


def test_a_slow_request_that_was_answered_the_next_day_counts_there_too(client: redis.Redis) -> None:
    midnight = day_at("UTC", NOON).end_ms
    verdict = reserve(client, midnight - 90_000, Wish(scope(requests_per_day=10), 50))
    assert verdict.reservation
    run(client, verdict.reservation.settle(60, 100, midnight + 1000))
    assert [usage(client, midnight + at)[0] for at in (-1, 1)] == [1, 1]


def test_a_clock_that_names_another_day_is_told(client: redis.Redis) -> None:
    call = ReserveCall("x", [Wish(scope(requests_per_day=5))], NOON - 86_400_000, book=BOOK)
    verdict = call.verdict(run(client, call.call))
    assert verdict.is_other_day
    again = ReserveCall("x", [Wish(scope(requests_per_day=5))], verdict.now_ms, book=BOOK)
    assert again.verdict(run(client, again.call)).reservation


def test_what_the_provider_says_was_used_stands_where_it_is_more(client: redis.Redis) -> None:
    wanted = scope(requests_per_day=10)
    now = int(client.time()[0]) * 1000
    assert run(client, at_least(wanted, now, requests=9)) == 1
    assert run(client, at_least(wanted, now, requests=4)) == 0
    taken = [reserve(client, now, Wish(wanted)).reservation for _number in range(3)]
    assert [bool(one) for one in taken] == [True, False, False]


def test_many_at_once_get_exactly_the_limit(client: redis.Redis) -> None:
    wanted = Wish(scope(requests_per_day=777, tokens_per_day=777 * 10), 10)
    pool = redis.ConnectionPool.from_url("redis://", **client.connection_pool.connection_kwargs)
    local = threading.local()

    def one(_number: int) -> bool:
        if not hasattr(local, "client"):
            local.client = redis.Redis(connection_pool=pool)
        return reserve(local.client, NOON, wanted).reservation is not None

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(one, range(2000))) == 777
    assert usage(client, NOON)[:2] == (777, 7770)


LIMITS = {"requests_per_day": 12, "requests_per_minute": 4, "tokens_per_day": 1000, "tokens_per_minute": 250}


class Provider:
    """Counts by its own clock what a router sends, which may arrive late, be lost, or come from one that was killed."""

    def __init__(self, client: redis.Redis, chance: random.Random) -> None:
        self.counted: list[tuple[int, int]] = []  # when it counted a request, and its tokens
        self.flying: list[tuple[int, Reservation]] = []
        self._client = client
        self._chance = chance

    def move(self, now: int) -> None:
        """Let some of what is under way come to its end."""
        for sent, one in [pair for pair in self.flying if self._chance.random() < 0.5]:
            self.flying.remove((sent, one))
            self._end(sent, one, now)

    def land(self, now: int) -> None:
        """Whatever is under way still may have been counted at any time."""
        self.counted += [(self._chance.randint(sent, now), one.tokens) for sent, one in self.flying]
        self.counted.sort()

    def _end(self, sent: int, one: Reservation, now: int) -> None:
        fate = self._chance.choice(["lost", "killed", "settled", "settled", "settled"])
        if fate == "lost":
            run(self._client, one.refund(now))
            return
        heard, used = self._chance.randint(sent, now), self._chance.randint(1, one.tokens)
        self.counted.append((self._chance.randint(sent, heard), used))
        if fate == "killed":
            return
        if self._chance.random() < 0.5:
            run(self._client, one.started(now))
            heard = now
        run(self._client, one.settle(used, now - heard, now))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_no_order_of_events_goes_over(client: redis.Redis, seed: int) -> None:
    client.flushall()
    chance = random.Random(seed)
    zone = chance.choice(["UTC", "America/Los_Angeles"])
    wanted = Wish(Scope("claude", "sonnet", zone, Limits(**LIMITS)), 50)
    midnight = day_at(zone, NOON).end_ms
    now = midnight - chance.choice([400_000, 70_000, 20_000])
    provider = Provider(client, chance)
    for _number in range(60):
        now += chance.choice([1, 200, 900, 5000, 20_000])
        provider.move(now)
        if reserved := reserve(client, now, wanted).reservation:
            provider.flying.append((now, reserved))
        assert min(usage(client, now, zone)) >= 0
    provider.land(now)
    begins = [at for at, _tokens in provider.counted]
    within = [[n for at, n in provider.counted if begin <= at < begin + 60_000] for begin in begins]
    assert max(map(len, within), default=0) <= LIMITS["requests_per_minute"]
    assert max(map(sum, within), default=0) <= LIMITS["tokens_per_minute"]
    days = [[n for at, n in provider.counted if (at >= midnight) == after] for after in (False, True)]
    assert max(map(len, days)) <= LIMITS["requests_per_day"]
    assert max(map(sum, days)) <= LIMITS["tokens_per_day"]
