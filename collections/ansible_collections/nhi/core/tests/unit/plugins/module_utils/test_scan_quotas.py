# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quotas in state.json: read at each scan, kept and marked when Redis does not answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import QuotaError
from ansible_collections.nhi.core.plugins.module_utils.quota_redis import open_redis
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import parse_time
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.scan_reports import Scan


class Quotas:
    """Answers as the scripts do in Redis: a provider with one limit, of which some is used."""

    def __init__(self, used: int = 3, lost: bool = False) -> None:
        self.used, self.lost = used, lost

    def smembers(self, _name: str) -> set[bytes]:
        if self.lost:
            raise QuotaError("Redis at 10.0.0.1:6379, which keeps the quotas, can not be used: refused.")
        return {b"claude"}

    def hgetall(self, name: str) -> dict[bytes, bytes]:
        return {b"zone": b"UTC", b"|requests_per_day": b"10"} if name == "api_terms:claude" else {}

    def eval(self, _script: str, _count: int, *_rest: Any) -> list[Any]:
        return [0, [b"requests_made", str(self.used).encode()], [self.used, 0]]

    def pttl(self, _name: str) -> int:
        return -2

    def time(self) -> tuple[int, int]:
        return (1_795_780_000, 0)


@contextlib.contextmanager
def connection(quotas: Quotas) -> Iterator[Any]:
    yield quotas


@pytest.fixture
def providers(tmp_path: Path) -> Callable[[], Any]:
    return lambda: StateStore(tmp_path).read().document["api_providers"]


def test_each_scan_writes_the_quotas(scan: Scan, providers: Callable[[], Any]) -> None:
    scan(quotas=connection(Quotas(used=3)))
    report = scan(quotas=connection(Quotas(used=4)))

    claude = providers()["claude"]
    assert (claude["used"]["requests_today"], claude["left"]["requests_per_day"]) == (4, 6)
    assert claude["freshness"] == "fresh"
    assert parse_time(claude["observed_at"]) > parse_time("2026-01-01T00:00:00+00:00")
    # A number that ticks is no change.
    assert (report.changed, report.warnings) == (False, ())


def test_a_redis_that_does_not_answer_leaves_what_was_known_marked_stale(
    scan: Scan, providers: Callable[[], Any]
) -> None:
    scan(quotas=connection(Quotas(used=3)))
    seen = providers()["claude"]["observed_at"]
    report = scan(quotas=connection(Quotas(lost=True)))

    claude = providers()["claude"]
    assert (claude["used"]["requests_today"], claude["freshness"], claude["observed_at"]) == (3, "stale", seen)
    assert "refused. What was known of the quotas is kept, marked stale." in report.warnings[0]
    assert report.diff["after"] == {"api_providers": {"claude": {"freshness": "stale"}}}


def test_without_a_redis_and_in_a_dry_run_the_quotas_stay_as_they_are(scan: Scan, providers: Callable[[], Any]) -> None:
    scan(quotas=connection(Quotas(used=3)))
    before = providers()
    scan()
    scan(quotas=connection(Quotas(used=9)), dry_run=True)

    assert providers() == before


def test_a_real_redis_that_is_not_there_does_not_fail_the_scan(scan: Scan, providers: Callable[[], Any]) -> None:
    pytest.importorskip("redis")
    report = scan(quotas=open_redis("redis://127.0.0.1:1/0", "s3cret"))

    assert providers() == {}
    assert "Redis at 127.0.0.1:1" in report.warnings[0]
    assert ".." not in report.warnings[0]
    assert "s3cret" not in report.warnings[0]
