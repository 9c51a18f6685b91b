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
from ansible_collections.nhi.core.plugins.module_utils.graph import graph_digest, load_graph, parse_graph
from ansible_collections.nhi.core.plugins.module_utils.graph_schema import GRAPH_SCHEMA
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

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
        ([], "is not of type 'object'"),
        ({}, "'services' is a required property"),
        ({"services": []}, r"services: \[\] is not of type 'object'"),
        ({"services": {}, "timezone": "UTC"}, "'timezone' was unexpected"),
        ({"services": {}, "time_zone": "Mars/Olympus"}, "time zone 'Mars/Olympus' is not known here"),
        (document(a={"depends_on": ["b"]}), "a depends on b, which is not among the services"),
        (document(a={"depends_on": [{"service": "b"}]}), "a depends on b, which is not among the services"),
        (document(a={"depends_on": [{"port": 1}]}), "depends_on/0: 'service' is a required property"),
        (document(a={"depends_on": [{"service": "b", "port": 0}]}, b={}), "0 is less than the minimum of 1"),
        (document(a={"required_by": ["b"]}), "a is required by b"),
        (document(a={"required_by": ["b"]}, b={}), "b does not list it in depends_on"),
        (document(a={"required_by": []}, b={"depends_on": ["a"]}), "required_by of a does not list it"),
        (document(a={"criticality": "huge"}), "'huge' is not one of .*'low', 'medium', 'high', 'critical'"),
        (document(a={"restart_safe_hours": [24]}), "24 is greater than the maximum of 23"),
        (document(a={"restart_safe_hours": [True]}), "restart_safe_hours/0: True is not of type"),
        (document(a={"restart_safe_hours": ["2am"]}), "restart_safe_hours/0: '2am' does not match"),
        (document(a={"can_restart_without_approval": 1}), "1 is not of type 'boolean'"),
        (document(a={"depends_on": "b"}), "'b' is not of type 'array'"),
        (document(a={"vmid": "100"}), "services/a/vmid: '100' is not of type"),
        (document(a={"unit": "--help"}), "services/a/unit: '--help' does not match"),
        (document(a={"unit": "a b"}), "services/a/unit: 'a b' does not match"),
        (document(a={"need": []}), "'need' was unexpected"),
        (document(a=[]), r"services/a: \[\] is not of type 'object'"),  # type: ignore[arg-type]
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


def test_safe_hours_of_several_services_are_those_of_all() -> None:
    graph = parse_graph(document(a={"restart_safe_hours": [2, 3]}, b={"restart_safe_hours": ["03:00-05:30"]}, c={}))
    assert [str(graph.safe_hours(names)) for names in ("a", "ab", "c", "")] == [
        "02:00-04:00", "03:00-04:00", "always", "always",
    ]  # fmt: skip


def test_an_edge_may_name_port_and_use() -> None:
    needs = ["db", "cache", {"service": "db", "port": 5432, "use": "sql"}]
    service = parse_graph(document(web={"depends_on": needs}, db={}, cache={})).services["web"]
    assert service.depends_on == ("db", "cache")
    assert [need.label for need in service.needs] == ["sql :5432", ""]


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


@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20), st.data())
def test_a_graph_with_a_cycle_is_always_refused_with_one_that_is_in_it(
    length: int, edges: list[tuple[int, int]], data: st.DataObject
) -> None:
    members = data.draw(st.permutations(range(10)))[:length]
    needs: dict[str, set[str]] = {f"s{n}": set() for n in range(10)}
    for a, b in [*edges, *zip(members, [*members[1:], members[0]], strict=True)]:
        needs[f"s{a}"].add(f"s{b}")
    with pytest.raises(GraphError, match="in a circle: ") as e:
        parse_graph(chain(**{n: sorted(of) for n, of in needs.items()}))
    cycle = str(e.value).split("circle: ")[1].split(";")[0].split(" -> ")
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1
    assert all(b in needs[a] for a, b in pairwise(cycle))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.sampled_from(["", "a", "b", "02:00-03:00", "low", "x y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["service", "port", "use", "a"]), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
ENTRY = st.dictionaries(
    st.sampled_from([*GRAPH_SCHEMA["properties"]["services"]["additionalProperties"]["properties"], "x"]),
    JSON,
    max_size=3,
)


@given(st.dictionaries(st.sampled_from(["a", "b"]), ENTRY | JSON, max_size=2))
def test_whatever_the_schema_refuses_is_refused_and_nothing_else_fails(services: dict[str, Any]) -> None:
    document = {"services": services}
    valid = Draft202012Validator(GRAPH_SCHEMA).is_valid(document)
    said = ""
    try:
        parse_graph(document)
    except GraphError as e:
        said = str(e)
    assert valid != ("does not follow its schema" in said)


def test_the_schema_itself_is_valid() -> None:
    Draft202012Validator.check_schema(GRAPH_SCHEMA)


def test_the_digest_changes_with_anything_in_the_graph() -> None:
    documents: list[dict[str, Any]] = [
        {"services": {"a": {}}}, {"services": {"a": {"restart_safe_hours": [2]}}},
        {"services": {"a": {"can_restart_without_approval": True}}}, {"services": {"a": {}}, "time_zone": "UTC"},
        {"services": {"a": {}}, "time_zone": "Europe/Berlin"},
    ]  # fmt: skip
    assert len({"none", graph_digest(None), *(graph_digest(parse_graph(document)) for document in documents)}) == 6
