# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Differences that mean something, and scans on top of what others wrote."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.scan_changes import (
    changed_guests,
    difference,
    meaning,
    merge_infrastructure,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    full_document,
    make_document,
    make_guest,
)

EARLY, START, LATE = (f"2026-11-23T18:0{minute}:00.000000+00:00" for minute in (0, 1, 2))


def infrastructure(*guests: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = make_document(list(guests))
    found: dict[str, Any] = document["infrastructure"]
    return found


def guest(vmid: int, at: str, **facts: Any) -> dict[str, Any]:
    made: dict[str, Any] = make_guest(vmid, observed_at=at, **facts)
    return made


def merged(
    base: list[dict[str, Any]] | None, scanned: list[dict[str, Any]], current: list[dict[str, Any]]
) -> dict[int, str]:
    """Guests of a merge by VMID, with the names that tell whose facts they are."""
    old = None if base is None else infrastructure(*base)
    result = merge_infrastructure(old, infrastructure(*scanned), infrastructure(*current), START)
    return {item["vmid"]: item["name"] for item in result["guests"]}


@pytest.mark.parametrize("fact", ["cpu_usage", "memory_used_mib", "uptime_seconds", "observed_at", "disk_mib"])
def test_what_ticks_is_no_difference(fact: str) -> None:
    before, after = full_document(), full_document()
    after["infrastructure"]["guests"][0][fact] = EARLY if fact == "observed_at" else 7
    diff = difference(meaning(before), meaning(after))
    assert diff == {"before": {}, "after": {}}


@pytest.mark.parametrize("fact", ["status", "name", "node", "health", "config_digest", "address", "freshness"])
def test_what_counts_is_shown_as_it_was_and_as_it_is(fact: str) -> None:
    before, after = full_document(), full_document()
    target = after["infrastructure"]["guests"][0]
    was, target[fact] = target[fact], "other"
    diff = difference(meaning(before), meaning(after))
    vmid = str(target["vmid"])
    assert diff == {"before": {"guests": {vmid: {fact: was}}}, "after": {"guests": {vmid: {fact: "other"}}}}
    changes = changed_guests(diff, after)
    assert [(item["vmid"], item["change"], item["facts"]) for item in changes] == [(int(vmid), "changed", [fact])]


def test_guests_that_come_and_go_are_named() -> None:
    before, after = make_document([make_guest(101), make_guest(102)]), make_document([make_guest(102), make_guest(103)])
    changes = changed_guests(difference(meaning(before), meaning(after)), after)
    assert [(item["vmid"], item["change"], item["name"]) for item in changes] == [
        (101, "removed", make_guest(101)["name"]),
        (103, "added", make_guest(103)["name"]),
    ]


def test_the_latency_of_an_endpoint_is_no_difference() -> None:
    before = full_document()
    after = copy.deepcopy(before)
    after["infrastructure"]["services"][0]["endpoints"][0] |= {"latency_ms": 99.0, "observed_at": EARLY}
    assert difference(meaning(before), meaning(after))["after"] == {}


def test_a_scan_replaces_what_nobody_else_touched() -> None:
    old = guest(101, EARLY, name="old")
    assert merged([old], [guest(101, LATE, name="scanned")], [old]) == {101: "scanned"}


def test_a_later_observation_of_somebody_else_stands() -> None:
    theirs = guest(101, LATE, name="theirs")
    assert merged([guest(101, EARLY, name="old")], [guest(101, START, name="scanned")], [theirs]) == {101: "theirs"}


def test_what_somebody_added_meanwhile_stays_and_what_is_gone_goes() -> None:
    created, gone = guest(104, LATE, name="created"), guest(103, EARLY, name="gone")
    assert merged([gone], [guest(101, START, name="scanned")], [gone, created]) == {101: "scanned", 104: "created"}


def test_what_somebody_destroyed_meanwhile_is_not_brought_back() -> None:
    doomed = guest(102, EARLY, name="doomed")
    assert merged([doomed], [guest(102, START, name="scanned")], []) == {}


def test_a_first_scan_meets_somebody_elses_first_write() -> None:
    assert merged(None, [guest(101, START, name="scanned")], [guest(104, LATE, name="theirs")]) == {
        101: "scanned",
        104: "theirs",
    }
