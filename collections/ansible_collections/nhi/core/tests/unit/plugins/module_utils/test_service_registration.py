# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Registering a deployed service: asked first, then written down, then scanned; or nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.nhi.core.plugins.module_utils import service_registration
from ansible_collections.nhi.core.plugins.module_utils.catalogue import parse_entry
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import SHIPPED
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.graph import find_graph, parse_graph
from ansible_collections.nhi.core.plugins.module_utils.probe import ProbeResult
from ansible_collections.nhi.core.plugins.module_utils.service_health import await_health, overall
from ansible_collections.nhi.core.plugins.module_utils.service_records import Deployed, Records, ServiceRecords
from ansible_collections.nhi.core.plugins.module_utils.service_registration import UnwellError, register, unregister

REDIS = Deployed(
    parse_entry(yaml.safe_load((SHIPPED / "redis.yml").read_text())), "redis-cache", "cache", "192.0.2.105"
)
GRAPH = parse_graph({"services": {"brain-vm": {}}})


def answers(health: str) -> Any:
    return lambda targets: {target: ProbeResult(health, "said so", 0.4) for target in targets}


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServiceRecords:
    """The files of one guest, whose service is well."""

    def well(entry: Any, address: str, patience: float) -> Any:
        return await_health(entry, address, patience, probe=answers("healthy"))

    monkeypatch.setattr(service_registration, "await_health", well)
    return ServiceRecords(tmp_path, "redis-cache")


def written(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_a_service_that_is_well_is_written_down_and_then_scanned(records: ServiceRecords, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    done = register(records, REDIS, GRAPH, 1.0, lambda: seen.append(written(tmp_path)))
    files = ["dependency_graph.d/redis-cache.json", "monitoring/targets/redis-cache.json"]
    assert seen == [files]
    assert (done.changed, done.registered, done.as_data()["health"]) == (True, True, "healthy")
    assert done.as_data()["url"] == "redis://192.0.2.105:6379"
    (target,) = json.loads((tmp_path / files[1]).read_text())
    assert target["targets"] == ["192.0.2.105:6379"]
    assert set(map(type, target["labels"].values())) == {str}
    again = register(records, REDIS, GRAPH, 1.0, lambda: None)
    assert (again.changed, again.registered) == (False, False)


def test_the_state_is_kept_before_something_is_registered_or_forgotten(records: ServiceRecords, tmp_path: Path) -> None:
    kept: list[tuple[str, int]] = []

    def keep(what: str) -> None:
        kept.append((what, len(written(tmp_path))))

    for _twice in range(2):
        register(records, REDIS, GRAPH, 1.0, lambda: None, keep=keep)
    for _twice in range(2):
        unregister(records, lambda: None, keep=keep)
    unregister(records, None, keep=keep)
    assert kept == [("redis on redis-cache registered", 0), ("redis-cache forgotten", 2)]


def test_it_is_part_of_the_graph_that_a_person_wrote_and_that_stays_as_it_is(
    records: ServiceRecords, tmp_path: Path
) -> None:
    hand = tmp_path / "dependency_graph.json"
    hand.write_text('{"services": {"brain-vm": {"required_by": []}}}')
    register(records, REDIS, find_graph(None, str(tmp_path)), 1.0, lambda: None)
    graph = find_graph(None, str(tmp_path))
    assert graph is not None
    assert [d.service.name for d in graph.dependents(["brain-vm"])] == ["redis-cache"]
    assert graph.services_on("redis-cache") == ("redis-cache",)
    assert hand.read_text() == '{"services": {"brain-vm": {"required_by": []}}}'


def test_what_the_graph_does_not_know_is_said_and_left_out(records: ServiceRecords) -> None:
    done = register(records, REDIS, None, 1.0, lambda: None)
    assert done.unknown_dependencies == ["brain-vm"]
    assert "does not know" in done.warnings[0]
    assert done.after.graph["services"]["redis-cache"]["depends_on"] == []


def test_a_service_that_is_unwell_is_not_written_down(
    records: ServiceRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def ill(entry: Any, address: str, _patience: float) -> Any:
        return await_health(entry, address, 0.0, probe=answers("unhealthy"))

    monkeypatch.setattr(service_registration, "await_health", ill)
    with pytest.raises(
        UnwellError, match=r"redis on redis-cache does not answer .*redis://192.0.2.105:6379 says said so"
    ):
        register(records, REDIS, GRAPH, 1.0, lambda: pytest.fail("scanned"))
    assert written(tmp_path) == []


def test_a_scan_that_fails_takes_the_registration_back(records: ServiceRecords, tmp_path: Path) -> None:
    def scan() -> None:
        raise NHIError("the API is gone")

    with pytest.raises(NHIError, match="the API is gone"):
        register(records, REDIS, GRAPH, 1.0, scan)
    assert written(tmp_path) == []


def test_check_mode_asks_nobody_and_writes_nothing(records: ServiceRecords, tmp_path: Path) -> None:
    done = register(records, REDIS, GRAPH, 1.0, None)
    assert (done.changed, done.registered, done.as_data()["health"]) == (True, False, "unknown")
    assert written(tmp_path) == []


def test_a_service_is_forgotten_once(records: ServiceRecords, tmp_path: Path) -> None:
    register(records, REDIS, GRAPH, 1.0, lambda: None)
    assert unregister(records, None).changed
    assert len(written(tmp_path)) == 2
    assert unregister(records, lambda: None).changed
    assert written(tmp_path) == []
    assert not unregister(records, lambda: None).changed


def test_what_is_replaced_is_announced_before_it_is_and_can_be_put_back(
    records: ServiceRecords, tmp_path: Path
) -> None:
    other = Records({"services": {}}, [{"targets": []}])
    records.write(other)
    heard: list[tuple[Records, Records]] = []
    register(records, REDIS, GRAPH, 1.0, lambda: None, lambda before: heard.append((before, records.read())))
    assert heard == [(other, other)]
    register(records, REDIS, GRAPH, 1.0, lambda: None, lambda _before: pytest.fail("nothing is replaced"))
    assert unregister(records, lambda: None, Records.from_data(other.as_data())).changed
    assert records.read() == other


def test_a_service_that_is_late_is_waited_for() -> None:
    said = iter(["unhealthy", "unhealthy", "healthy"])

    def probe(targets: Any) -> Any:
        return answers(next(said))(targets)

    endpoints = await_health(REDIS.entry, REDIS.address, 5.0, probe=probe)
    assert [e["health"] for e in endpoints] == ["healthy"]
    assert next(said, "asked no more") == "asked no more"


@pytest.mark.parametrize(
    ("healths", "expected"),
    [
        ([("redis", "healthy"), ("tcp", "unhealthy")], "unhealthy"),
        ([("redis", "healthy"), ("tcp", "unknown")], "unknown"),
        ([("redis", "healthy"), ("none", "unknown")], "healthy"),
        ([("none", "unknown")], "unknown"),
    ],
)
def test_a_service_is_as_well_as_the_worst_endpoint_that_can_be_asked(
    healths: list[tuple[str, str]], expected: str
) -> None:
    assert overall([{"probe": probe, "health": health} for probe, health in healths]) == expected
