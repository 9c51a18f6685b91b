"""The list of faults: conditions, counts, and two processes that share it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.faults import Fault, Faults, fault_from


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults.json")


def test_conditions_limit_where_a_fault_strikes(faults: Faults) -> None:
    faults.set(Fault("slow", node="pve2", path="/nodes/*/lxc"))
    assert faults.find("slow", node="pve2", path="/nodes/pve2/lxc")
    assert not faults.find("slow", node="pve", path="/nodes/pve/lxc")
    assert not faults.find("slow", node="pve2", path="/version")
    assert not faults.find("dead-agent", node="pve2", path="/nodes/pve2/lxc")


def test_a_count_is_used_up_by_taking_not_by_looking(faults: Faults) -> None:
    faults.set(Fault("slow", count=2))
    assert faults.find("slow")
    assert faults.find("slow")
    assert [bool(faults.take("slow")) for _ in range(3)] == [True, True, False]


def test_a_fault_without_count_stays(faults: Faults) -> None:
    faults.set(Fault("slow"))
    assert all(faults.take("slow") for _ in range(5))


def test_clearing_by_number_by_kind_and_all(faults: Faults) -> None:
    first = faults.set(Fault("slow"))
    faults.set(Fault("slow"))
    faults.set(Fault("dead-agent"))
    assert faults.clear(first.id) == 1
    assert faults.clear(kind="dead-agent") == 1
    assert [fault.kind for fault in faults.all()] == ["slow"]
    assert faults.clear() == 1
    assert faults.all() == []


def test_another_process_sees_changes_at_once(tmp_path: Path) -> None:
    daemon, command = Faults(tmp_path / "faults.json"), Faults(tmp_path / "faults.json")
    assert daemon.all() == []
    command.set(Fault("slow", count=1))
    assert daemon.take("slow")
    assert command.all() == []


@pytest.mark.parametrize(
    ("document", "text"),
    [({"kind": "nosuch"}, "unknown kind of fault: 'nosuch'"), ({"kind": "slow", "x": 1}, "unknown field")],
)
def test_nonsense_is_refused_with_what_is_known(document: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text) as refused:
        fault_from(document)
    assert "known: " in str(refused.value)
