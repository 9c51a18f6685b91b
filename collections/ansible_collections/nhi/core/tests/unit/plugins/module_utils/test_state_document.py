# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a state document is: bytes, order, fingerprint, ages, look-ups."""

from __future__ import annotations

import copy
import json
import random
from datetime import timedelta
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import StateError, StateInvalidError
from ansible_collections.nhi.core.plugins.module_utils.state_document import (
    age_seconds,
    as_stale,
    canonical_bytes,
    counts,
    document_age_seconds,
    format_time,
    freshness_at,
    parse_time,
    stamped,
    topology_fingerprint,
)
from ansible_collections.nhi.core.plugins.module_utils.state_path import look_up
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    AT_NOON,
    NOON,
    full_document,
    make_document,
    make_guest,
)
from hypothesis import given
from hypothesis import strategies as st


def test_equal_documents_are_equal_bytes_whatever_the_order_of_keys_and_items() -> None:
    first = make_document(make_guest(vmid) for vmid in range(100, 120))
    second = copy.deepcopy(first)
    random.Random(1).shuffle(second["infrastructure"]["guests"])
    second["infrastructure"]["guests"] = [
        dict(reversed(list(guest.items()))) for guest in second["infrastructure"]["guests"]
    ]
    assert canonical_bytes(stamped(first, 1)) == canonical_bytes(stamped(second, 1))


def test_bytes_end_with_a_newline_and_are_indented_by_two() -> None:
    raw = canonical_bytes(full_document())
    assert raw.startswith(b'{\n  "alerts": [\n')
    assert raw.endswith(b"}\n")


@given(st.text(st.characters(codec=None), max_size=30))
def test_any_text_survives_a_round_trip(text: str) -> None:
    raw = canonical_bytes(make_document([make_guest(100, description=text)]))
    raw.decode("utf-8")
    assert json.loads(raw)["infrastructure"]["guests"][0]["description"] == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_has_no_form_for_is_refused(value: object) -> None:
    with pytest.raises(StateInvalidError, match="can not be written as JSON"):
        canonical_bytes({"x": value})


def test_stamping_leaves_the_given_document_alone() -> None:
    document = make_document([make_guest(102), make_guest(101)])
    before = copy.deepcopy(document)
    result = stamped(document, 7)
    assert document == before
    assert result["meta"]["revision"] == 7
    assert [guest["vmid"] for guest in result["infrastructure"]["guests"]] == [101, 102]


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_usage": 0.9},
        {"uptime_seconds": 999},
        {"memory_used_mib": 1},
        {"status": "stopped"},
        {"health": "unhealthy"},
        {"observed_at": None, "freshness": "unknown"},
    ],
)
def test_what_ticks_leaves_the_fingerprint_alone(changes: dict[str, Any]) -> None:
    assert topology_fingerprint(make_document([make_guest(1)])) == topology_fingerprint(
        make_document([make_guest(1, **changes)])
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"type": "qemu"},
        {"node": "pve2"},
        {"config_digest": "f" * 40},
        {"addresses": []},
    ],
)
def test_what_identifies_or_connects_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    assert topology_fingerprint(make_document([make_guest(1)])) != topology_fingerprint(
        make_document([make_guest(1, **changes)])
    )


def test_the_fingerprint_depends_on_the_graph_but_not_on_the_order_of_guests() -> None:
    document = make_document([make_guest(1), make_guest(2)])
    turned = make_document([make_guest(2), make_guest(1)])
    assert topology_fingerprint(document) == topology_fingerprint(turned)
    assert topology_fingerprint(document, {"a": {}}) != topology_fingerprint(document)


def test_times_are_utc_with_offset_and_read_back() -> None:
    assert AT_NOON == "2026-11-23T12:00:00.000000+00:00"
    assert parse_time(AT_NOON) == NOON


def test_an_age_is_never_negative_and_unknown_without_a_time() -> None:
    assert age_seconds(AT_NOON, NOON + timedelta(seconds=90)) == 90
    assert age_seconds(AT_NOON, NOON - timedelta(seconds=90)) == 0
    assert age_seconds(None, NOON) is None
    assert document_age_seconds(make_document(), NOON + timedelta(minutes=1)) == 60


@pytest.mark.parametrize(
    ("changes", "age", "expected"),
    [
        ({}, 10, "fresh"),
        ({}, 61, "stale"),
        ({"freshness": "stale"}, 10, "stale"),
        ({"freshness": "unknown"}, 10, "unknown"),
        ({"observed_at": None}, 10, "unknown"),
    ],
)
def test_freshness_ages(changes: dict[str, Any], age: int, expected: str) -> None:
    assert freshness_at(make_guest(1, **changes), NOON + timedelta(seconds=age), 60) == expected


def test_a_stale_copy_keeps_its_old_time() -> None:
    guest = make_guest(1)
    stale = as_stale(guest)
    assert (stale["freshness"], stale["observed_at"]) == ("stale", AT_NOON)
    assert guest["freshness"] == "fresh"
    assert as_stale(make_guest(1, observed_at=None))["freshness"] == "unknown"


def test_counts_cover_every_list() -> None:
    assert counts(full_document()) == {"nodes": 1, "guests": 2, "storage": 1, "services": 1, "alerts": 1}


def test_a_path_finds_a_value_and_null_where_there_is_none() -> None:
    document = full_document()
    assert look_up(document, "infrastructure.guests[?name=='redis-cache'].vmid | [0]") == 105
    assert look_up(document, "infrastructure.nothing") is None


@pytest.mark.parametrize("path", ["", "a[", "infrastructure.guests[name=redis-cache]", "nothing(@)", "length(`1`)"])
def test_a_wrong_path_is_one_line(path: str) -> None:
    with pytest.raises(StateError, match="is not a JMESPath expression") as caught:
        look_up(full_document(), path)
    assert "\n" not in str(caught.value)


def test_format_time_converts_to_utc() -> None:
    assert format_time(NOON.astimezone()) == AT_NOON
