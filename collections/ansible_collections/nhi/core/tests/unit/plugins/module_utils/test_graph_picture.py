# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The graph as a picture: everything is on it, nothing lies on top of another, no name can break out."""

from __future__ import annotations

from itertools import combinations
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from ansible_collections.nhi.core.plugins.module_utils.graph import DependencyGraph, parse_graph
from ansible_collections.nhi.core.plugins.module_utils.graph_layout import Box, Layout, layers, layout
from ansible_collections.nhi.core.plugins.module_utils.graph_picture import mermaid, svg
from ansible_collections.nhi.core.plugins.module_utils.graph_places import Place
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from hypothesis import given, settings
from hypothesis import strategies as st

NS = "{http://www.w3.org/2000/svg}"
SHOP: dict[str, Any] = {"services": {
    "db": {"criticality": "critical", "guest": "postgres"},
    "web": {"depends_on": [{"service": "db", "port": 5432, "use": "sql"}, "cache"]},
    "cache": {"depends_on": ["db"]},
}}  # fmt: skip
HEALTH = {"db": Place("postgres", health="healthy"), "web": Place(health="unhealthy"), "cache": Place(health="stopped")}


def texts(drawn: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(drawn).iter(f"{NS}text")]


def test_the_svg_shows_every_service_with_its_health_and_every_edge_with_its_use() -> None:
    drawn = svg(parse_graph(SHOP), HEALTH)
    shown = texts(drawn)
    for words in ("db", "healthy · postgres", "web", "unhealthy", "cache", "stopped", "sql :5432", "critical service"):
        assert words in shown
    root = ET.fromstring(drawn)
    tips = {e.findtext(f"{NS}title") for e in root.iter(f"{NS}path") if e.find(f"{NS}title") is not None}
    assert tips == {"web needs db (sql :5432)", "web needs cache", "cache needs db"}
    classes = [e.get("class", "") for e in root.iter(f"{NS}rect")]
    assert {"box healthy critical", "box unhealthy", "box stopped"} <= set(classes)
    assert root.get("aria-label") == "Dependency graph of 3 services: 1 healthy, 1 unhealthy, 1 stopped"
    assert "prefers-color-scheme:dark" in drawn


def test_mermaid_shows_the_same() -> None:
    lines = [line.strip() for line in mermaid(parse_graph(SHOP), HEALTH).splitlines()]
    assert lines[0] == "flowchart LR"
    assert 's0[["db<br/>healthy · postgres"]]:::healthy' in lines
    assert 's2["web<br/>unhealthy"]:::unhealthy' in lines
    assert 's0 -- "sql :5432" --> s2' in lines
    assert "s1 --> s2" in lines


@pytest.mark.parametrize(
    "evil", ['"]:::x; click s0 "javascript:1"', "<script>alert(1)</script>", "a&b`#c\n--> s9", "]]>", "a\x1b[2J\0b"]
)
def test_a_name_is_only_text_in_either_picture(evil: str) -> None:
    graph = parse_graph({"services": {evil: {"guest": evil}, "b": {"depends_on": [{"service": evil, "use": evil}]}}})
    found = {evil: Place("x" + evil, health="healthy"), "b": Place()}
    shown = texts(svg(graph, found))
    assert any(printable(evil)[:20] in text for text in shown)
    assert not list(ET.fromstring(svg(graph, found)).iter(f"{NS}script"))
    drawn = mermaid(graph, found).splitlines()
    assert len(drawn) == 1 + 2 + 1 + 4
    assert all(line.count('"') in (0, 2) for line in drawn)
    assert "<script" not in "".join(drawn)


def test_an_empty_graph_is_a_picture_too() -> None:
    assert "Dependency graph of 0 services" in svg(parse_graph({"services": {}}), {})


def test_what_is_needed_stands_left_of_what_needs_it() -> None:
    needs = {"a": [], "b": ["a"], "c": ["a", "b"], "d": []}
    assert layers(needs, ["a", "d", "b", "c"]) == {"a": 0, "d": 0, "b": 1, "c": 2}


EDGES = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=40)


def graph_of(edges: list[tuple[int, int]]) -> DependencyGraph:
    needs: dict[str, set[str]] = {f"s{n}": set() for n in range(15)}
    for a, b in edges:
        if a != b:
            needs[f"s{max(a, b)}"].add(f"s{min(a, b)}")
    return parse_graph({"services": {name: {"depends_on": sorted(of)} for name, of in needs.items()}})


def laid_out(graph: DependencyGraph) -> Layout:
    order = graph.start_order(graph.services)
    needs = {name: graph.services[name].depends_on for name in order}
    return layout(needs, order, {n: 80 + 9 * len(n) for n in order}, dict.fromkeys(order, 40.0))


def apart(a: Box, b: Box) -> bool:
    return a.x + a.width < b.x or b.x + b.width < a.x or a.y + a.height < b.y or b.y + b.height < a.y


@given(EDGES)
@settings(max_examples=60, deadline=None)
def test_no_box_lies_on_another_and_no_line_goes_through_one(edges: list[tuple[int, int]]) -> None:
    graph = graph_of(edges)
    drawn = laid_out(graph)
    assert set(drawn.boxes) == set(graph.services)
    assert all(apart(a, b) for a, b in combinations(drawn.boxes.values(), 2))
    assert {(line.needed, line.name) for line in drawn.lines} == {
        (needed, name) for name, service in graph.services.items() for needed in service.depends_on
    }
    for line in drawn.lines:
        assert [x for x, _y in line.points] == sorted(x for x, _y in line.points)
        for (x1, y1), (x2, y2) in list(zip(line.points, line.points[1:], strict=False))[1::2]:
            assert y1 == y2
            assert all(
                not (b.x < x2 and x1 < b.x + b.width and b.y <= y1 <= b.y + b.height) for b in drawn.boxes.values()
            )
    assert all(b.x >= 0 and b.x + b.width <= drawn.width + 0.1 and b.y >= 0 for b in drawn.boxes.values())
    assert all(b.y + b.height <= drawn.height for b in drawn.boxes.values())


@given(EDGES)
@settings(max_examples=20, deadline=None)
def test_every_line_ends_at_a_place_of_its_own(edges: list[tuple[int, int]]) -> None:
    drawn = laid_out(graph_of(edges))
    ends = [line.points[-1] for line in drawn.lines]
    assert len(set(ends)) == len(ends)
    for line in drawn.lines:
        box = drawn.boxes[line.name]
        assert box.y < line.points[-1][1] < box.y + box.height
