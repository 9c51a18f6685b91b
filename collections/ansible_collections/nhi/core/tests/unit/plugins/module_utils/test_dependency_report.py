# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where services run, how long restarts took, and what a person is told before touching one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.dependency_report import dependency_report, named
from ansible_collections.nhi.core.plugins.module_utils.errors import StateError
from ansible_collections.nhi.core.plugins.module_utils.graph import parse_graph
from ansible_collections.nhi.core.plugins.module_utils.graph_places import discrepancies, places
from ansible_collections.nhi.core.plugins.module_utils.impact import downtimes
from ansible_collections.nhi.core.plugins.module_utils.restart_history import Estimate, RestartHistory
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    make_document,
    make_guest,
    make_service,
)

NOW = datetime(2026, 11, 23, 15, tzinfo=UTC)


def lab(*guests: dict[str, Any], services: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    document = make_document(guests)
    document["infrastructure"]["services"] = services or []
    return document


def service(**entries: dict[str, Any]) -> Any:
    return parse_graph({"services": entries, "time_zone": "UTC"})


def test_a_service_is_found_on_its_guest_by_name_or_vmid_with_what_the_catalogue_calls_it() -> None:
    db, web = make_guest(102, name="postgres"), make_guest(110, name="web")
    document = lab(db, web, services=[make_service(db, "postgresql", health="unhealthy"), make_service(web, "nginx")])
    found = places(service(data={"guest": "postgres"}, site={"vmid": 110}, lost={}, away={"guest": "gone"}), document)
    assert (found["data"].guest, found["data"].offered, found["data"].health) == ("postgres", "postgresql", "unhealthy")
    assert (found["site"].guest, found["site"].offered, found["site"].running) == ("web", "nginx", True)
    assert (found["lost"].guest, found["lost"].running, found["lost"].health) == (None, None, "unknown")
    assert (found["away"].guest, found["away"].running) == ("gone", None)


def test_of_several_services_on_a_guest_only_a_name_tells_which_is_which() -> None:
    guest = make_guest(103, name="observability")
    graph = service(observability={}, grafana={"guest": "observability"}, loki={"guest": "observability"})
    found = places(graph, lab(guest, services=[make_service(guest, "grafana", health="unhealthy")]))
    assert found["grafana"].health == "unhealthy"
    assert (found["loki"].offered, found["loki"].health) == (None, "unknown")
    # The guest answers, which says nothing of what runs on it but for the service of its name.
    assert found["observability"].health == "healthy"


@pytest.mark.parametrize(
    ("changes", "health"),
    [
        ({"status": "stopped"}, "stopped"),
        ({"status": "unknown"}, "unknown"),
        ({"freshness": "stale"}, "unknown"),
        ({}, "healthy"),
    ],
)
def test_health_is_what_is_known_now(changes: dict[str, Any], health: str) -> None:
    guest = make_guest(105, name="redis", **changes)
    document = lab(guest, services=[make_service(guest, "redis")])
    assert places(service(redis={}), document)["redis"].health == health


def test_what_is_on_one_side_only_is_told() -> None:
    told = discrepancies(
        service(db={"guest": "gone"}, web={}, site={"vmid": 999}),
        lab(make_guest(105, name="redis"), make_guest(900, name="golden", template=True)),
    )
    assert [line.split(":", maxsplit=1)[0] for line in told] == [
        "db is said to run on gone, which is no known guest",
        "site is said to run on 999, which is no known guest",
        "Guest redis is not in the dependency graph, so nobody knows what needs it",
    ]
    assert "no state of the lab yet" in discrepancies(service(), None)[0]


def entry(name: str, seconds: float | None, outcome: str = "restarted") -> dict[str, Any]:
    return {"service": name, "downtime_seconds": seconds, "outcome": outcome}


def test_an_estimate_is_the_middle_of_restarts_that_went_well(tmp_path: Path) -> None:
    history = RestartHistory(tmp_path)
    assert history.estimates(["db"]) == {"db": Estimate()}
    for took in (90.0, 2.0, 3.0, 10.0):
        history.add(entry("db", took))
    history.add(entry("db", 30.0, "gate_failed"))
    history.add(entry("web", 1.0))
    assert history.estimates(["db", "x"]) == {"db": Estimate(6.5, 90.0, 4), "x": Estimate()}
    for _time in range(20):
        history.add(entry("db", 5.0))
    assert history.estimates(["db"])["db"].longest_seconds == 5.0
    assert str(history.estimates(["db"])["db"]) == "about 5.0 s (at most 5.0 s in 20)"


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path: Path) -> None:
    history = RestartHistory(tmp_path)
    history.add(entry("db", 1.0))
    with history.path.open("a") as file:
        file.write('{"service": "db", "downti')
    history.add(entry("db", 3.0))
    assert [e["downtime_seconds"] for e in history.entries()] == [1.0, 3.0]


def test_a_history_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "restarts").write_text("a file")
    with pytest.raises(StateError, match=r"history.jsonl can not be written: .*correct state_dir"):
        RestartHistory(tmp_path).add(entry("db", 1.0))


def test_a_dependent_is_away_as_long_as_anything_is_that_it_needs() -> None:
    graph = service(db={}, cache={}, api={"depends_on": ["db"]}, web={"depends_on": ["api", "cache"]}, mail={})
    assert downtimes(graph, {"db": 3.0, "cache": 1.5}) == {"db": 3.0, "cache": 1.5, "api": 3.0, "web": 4.5}
    assert downtimes(graph, {"db": None, "cache": 1.5})["web"] is None


def test_the_report_of_a_restart_has_order_downtime_window_and_approval() -> None:
    graph = service(
        db={"can_restart_without_approval": True, "restart_safe_hours": [2]},
        api={"depends_on": ["db"]}, web={"depends_on": ["api"], "restart_safe_hours": ["02:30-04:00"]}, mail={},
    )  # fmt: skip
    report = dependency_report(
        graph, None, ["web", "db"], {"db": Estimate(3.0, 4.0, 2), "web": Estimate(1.0, 1.0, 1)}, NOW
    )
    restart = report["restart"]
    assert restart["services"] == ["db", "web"]
    assert restart["stop_order"] == ["web", "api", "db"]
    assert restart["start_order"] == ["db", "api", "web"]
    assert restart["duration_seconds"] == 4.0
    assert restart["needs_approval"] == ["web"]
    assert restart["dependents"][0]["downtime_seconds"] == 3.0
    assert restart["safe_window"]["start"] == "2026-11-24T02:30:00+00:00"
    assert restart["summary"][-2:] == [
        "Downtime of db: about 3.0 s (at most 4.0 s in 2).", "Downtime of web: about 1.0 s (at most 1.0 s in 1).",
    ]  # fmt: skip
    assert dependency_report(graph, None, ["mail", "db"], {}, NOW)["restart"]["duration_seconds"] is None
    assert dependency_report(graph, None, [], {})["restart"] is None


def test_names_may_come_as_people_write_them() -> None:
    assert named(["redis, nginx", "redis", " ", "db,"]) == ["redis", "nginx", "db"]
