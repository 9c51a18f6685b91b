# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import GraphError
from ansible_collections.nhi.core.plugins.module_utils.graph import load_graph, parse_graph
from hypothesis import given
from hypothesis import strategies as st

SHIPPED = Path(__file__).parents[8] / "infrastructure" / "dependency_graph.json"


def document(**services: dict[str, Any]) -> dict[str, Any]:
    return {"services": services}


def chain(**needs: list[str]) -> dict[str, Any]:
    return document(**{name: {"depends_on": of} for name, of in needs.items()})


def test_dependents_are_transitive_and_in_stop_order() -> None:
    graph = parse_graph(chain(brain=[], db=["brain"], web=["db"], cache=["brain"]))
    found = graph.dependents(["brain"])
    names = [d.service.name for d in found]
    assert set(names) == {"db", "web", "cache"}
    assert names.index("web") < names.index("db")
    assert {d.service.name: d.through for d in found} == {"db": "brain", "web": "db", "cache": "brain"}


def test_start_order_puts_what_is_needed_first() -> None:
    graph = parse_graph(chain(web=["db", "cache"], db=["brain"], cache=[], brain=[]))
    assert graph.start_order(["web", "db", "brain"]) == ("brain", "db", "web")
    assert graph.stop_order(["web", "db", "brain"]) == ("web", "db", "brain")


def test_a_cycle_is_printed_in_reading_order() -> None:
    with pytest.raises(GraphError) as e:
        parse_graph(chain(a=["b"], b=["c"], c=["a"]))
    cycle = str(e.value).split("circle: ")[1].split(";")[0].split(" -> ")
    assert cycle[0] == cycle[-1]
    needs = {"a": "b", "b": "c", "c": "a"}
    assert all(needs[x] == y for x, y in pairwise(cycle))


@pytest.mark.parametrize(
    ("doc", "words"),
    [
        ([], "services"),
        ({"services": []}, "services"),
        (document(a={"depends_on": ["b"]}), "a depends on b"),
        (document(a={"required_by": ["b"]}), "a is required by b"),
        (document(a={"required_by": ["b"]}, b={}), "b does not list it in depends_on"),
        (document(a={"required_by": []}, b={"depends_on": ["a"]}), "required_by of a does not list it"),
        (document(a={"criticality": "huge"}), "low, medium, high, critical"),
        (document(a={"restart_safe_hours": [24]}), "0 to 23"),
        (document(a={"can_restart_without_approval": 1}), "true or false"),
        (document(a={"depends_on": "b"}), "list of service names"),
        (document(a={"vmid": "100"}), "vmid of a"),
        (document(a={"need": []}), "unknown key need"),
        (document(a=[]), "must be an object"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_document_is_refused_with_what_is_wrong(doc: Any, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        parse_graph(doc)


def test_services_are_found_by_guest_name_service_name_or_vmid() -> None:
    graph = parse_graph(document(db={"guest": "postgres-lxc"}, web={}, brain={"vmid": 100}))
    assert graph.services_on("postgres-lxc") == ("db",)
    assert graph.services_on("web") == ("web",)
    assert graph.services_on("whatever", 100) == ("brain",)
    assert graph.services_on("db") == ()


def test_restart_window_needs_both_the_permission_and_the_hour() -> None:
    graph = parse_graph(document(
        a={"can_restart_without_approval": True, "restart_safe_hours": [2, 3]},
        b={"can_restart_without_approval": True},
        c={"restart_safe_hours": [2]},
    ))  # fmt: skip
    assert [graph.services[n].may_restart_at(2) for n in "abc"] == [True, True, False]
    assert [graph.services[n].may_restart_at(9) for n in "abc"] == [False, True, False]


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    with pytest.raises(GraphError, match="does not exist"):
        load_graph(path)
    path.write_text("{")
    with pytest.raises(GraphError, match=r"graph.json can not be read as JSON"):
        load_graph(path)
    path.write_text('{"services": {"a": {}, "a": {}}}')
    with pytest.raises(GraphError, match=r"graph.json: a is defined twice"):
        load_graph(path)
    path.write_bytes(b"\xff")
    with pytest.raises(GraphError, match=r"graph.json"):
        load_graph(path)


@pytest.mark.skipif(not SHIPPED.exists(), reason="the example lab is not part of an installed collection")
def test_the_example_graph_is_valid_and_knows_what_postgres_carries() -> None:
    graph = load_graph(SHIPPED)
    assert {d.service.name for d in graph.dependents(["postgres-lxc"])} == {"grafana", "webapp", "log-processor"}
    assert len(graph.dependents(["brain-vm"])) == len(graph.services) - 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
def test_orders_respect_every_edge_of_any_graph_without_cycles(edges: list[tuple[int, int]]) -> None:
    # An edge from a higher to a lower number can not close a circle.
    needs: dict[str, set[str]] = {f"s{n}": set() for n in range(10)}
    for a, b in edges:
        if a != b:
            needs[f"s{max(a, b)}"].add(f"s{min(a, b)}")
    graph = parse_graph(json.loads(json.dumps(chain(**{n: sorted(of) for n, of in needs.items()}))))
    order = graph.start_order(graph.services)
    assert sorted(order) == sorted(needs)
    assert all(order.index(of) < order.index(n) for n in needs for of in needs[n])
    for name in needs:
        reached = {d.service.name for d in graph.dependents([name])}
        assert {n for n in needs if name in needs[n]} <= reached
        assert all(needs[n] & (reached | {name}) for n in reached)


def test_registered_services_are_part_of_the_graph_and_the_person_is_right(tmp_path: Path) -> None:
    hand, overlay = tmp_path / "dependency_graph.json", tmp_path / "dependency_graph.d"
    hand.write_text(json.dumps(chain(brain=[], web=["cache"], cache=["brain"])))
    overlay.mkdir()
    for name, needed in {"redis-cache": ["brain", "forgotten"], "cache": []}.items():
        (overlay / f"{name}.json").write_text(json.dumps({"services": {name: {"depends_on": needed}}}))
    graph = load_graph(hand, overlay)
    assert graph.services["redis-cache"].depends_on == ("brain",)
    assert graph.services["cache"].depends_on == ("brain",)
    assert graph.required_by("brain") == ("cache", "redis-cache")


def test_a_person_may_depend_on_what_is_registered(tmp_path: Path) -> None:
    hand, overlay = tmp_path / "dependency_graph.json", tmp_path / "dependency_graph.d"
    hand.write_text('{"services": {"shop": {"depends_on": ["redis-cache"]}}}')
    with pytest.raises(GraphError, match="shop depends on redis-cache, which is not among the services"):
        load_graph(hand, overlay)
    overlay.mkdir()
    (overlay / "redis-cache.json").write_text('{"services": {"redis-cache": {}}}')
    assert load_graph(hand, overlay).required_by("redis-cache") == ("shop",)
    (overlay / "redis-cache.json").write_text("[]")
    with pytest.raises(GraphError, match=r"redis-cache\.json registers no services"):
        load_graph(hand, overlay)
