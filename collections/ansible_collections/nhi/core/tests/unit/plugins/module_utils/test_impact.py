# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stops with a service, in which order, and when that disturbs nobody."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import GraphError
from ansible_collections.nhi.core.plugins.module_utils.graph import parse_graph
from ansible_collections.nhi.core.plugins.module_utils.impact import Impact, assess, outlook
from hypothesis import given
from hypothesis import strategies as st

AFTERNOON = datetime(2026, 1, 19, 14, tzinfo=UTC)
LAB: dict[str, Any] = {"time_zone": "Europe/Berlin", "services": {
    "db": {"criticality": "critical", "guest": "postgres"},
    "api": {"depends_on": ["db"], "criticality": "high", "restart_safe_hours": [1, 2, 3]},
    "web": {"depends_on": ["api"], "guest": "web", "restart_safe_hours": ["02:30-06:00"]},
    "mail": {},
}}  # fmt: skip


def test_dependents_tell_whether_they_run_and_what_they_lose() -> None:
    impact = assess(parse_graph(LAB), ["db"], {"postgres": True, "web": False}, AFTERNOON)
    assert impact.stop_order == ("web", "api")
    assert impact.active == ("api",)
    assert {d["name"]: (d["through"], d["guest"]) for d in impact.dependents} == {
        "web": ("api", "web"), "api": ("db", None),
    }  # fmt: skip
    assert (impact.critical, impact.criticality) == (("db",), "high")


def test_the_window_is_one_for_the_service_and_for_all_that_stop_with_it() -> None:
    graph = parse_graph(LAB)
    assert assess(graph, ["db"], {}, AFTERNOON).as_dict()["safe_window"] == {
        "open": False, "start": "2026-01-20T02:30:00+01:00", "end": "2026-01-20T04:00:00+01:00",
        "time_zone": "Europe/Berlin", "hours": "02:30-04:00", "limited_by": ["api", "web"],
    }  # fmt: skip
    assert str(outlook(graph, ["web"], AFTERNOON)) == "2026-01-20 02:30 to 06:00 (Europe/Berlin)"
    assert outlook(graph, ["mail"], AFTERNOON).open


def test_hours_without_anything_in_common_are_never() -> None:
    apart = {"services": {"a": {"restart_safe_hours": [2]}, "b": {"depends_on": ["a"], "restart_safe_hours": [3]}}}
    impact = assess(parse_graph(apart), ["a"], {}, AFTERNOON)
    assert impact.outlook is not None
    assert (impact.outlook.window, impact.outlook.open) == (None, False)
    assert impact.as_dict()["safe_window"]["start"] is None


def test_a_person_reads_order_and_window() -> None:
    assert assess(parse_graph(LAB), ["db"], {}, AFTERNOON).sentences() == [
        "web (medium) would stop working: it needs api.",
        "api (high) would stop working: it needs db.",
        "Stop first web -> api, and start in the opposite order afterwards.",
        "Next safe window: 2026-01-20 02:30 to 04:00 (Europe/Berlin), by the hours of api, web.",
    ]
    assert assess(parse_graph(LAB), ["mail"], {}, AFTERNOON).sentences() == []
    assert assess(parse_graph(LAB), [], {}) == Impact()


def test_a_service_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(GraphError, match="has no service dbb: it has api, db, mail, web"):
        assess(parse_graph(LAB), ["dbb"], {})


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20), st.sets(st.integers(0, 8), max_size=3))
def test_order_respects_every_edge_and_the_impact_is_exactly_what_can_be_reached(
    edges: list[tuple[int, int]], chosen: set[int]
) -> None:
    needs: dict[str, set[str]] = {f"s{n}": set() for n in range(9)}
    for a, b in edges:
        if a != b:
            needs[f"s{max(a, b)}"].add(f"s{min(a, b)}")
    graph = parse_graph({"services": {name: {"depends_on": sorted(of)} for name, of in needs.items()}})
    names = {f"s{n}" for n in chosen}
    impact = assess(graph, names, {})
    reached = set(names)
    for _round in needs:
        reached |= {name for name, of in needs.items() if of & reached}
    assert set(impact.stop_order) == reached - names
    order = [*impact.stop_order]
    assert all(order.index(name) < order.index(of) for name in order for of in needs[name] if of in order)
    start = impact.services
    assert all(start.index(of) < start.index(name) for name in start for of in needs[name] if of in start)
