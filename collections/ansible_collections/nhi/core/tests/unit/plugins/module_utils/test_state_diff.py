# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two states compared as an operator thinks of them, and joined with what the audit log says."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_view import AuditNote, LoggedAudit
from ansible_collections.nhi.core.plugins.module_utils.state_diff import Span, compare_states, same_guest, sentences
from ansible_collections.nhi.core.plugins.module_utils.state_document import Document
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    full_document,
    make_alert,
    make_guest,
    make_service,
)

TWO = datetime(2026, 11, 26, 14, 0, tzinfo=UTC)
THREE = TWO + timedelta(hours=1)
SPAN = Span(TWO, THREE)
FOUND_OUT = TWO + timedelta(minutes=32)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class FakeAudit:
    """An audit log that says one thing of one guest."""

    def __init__(self, guest: str, **note: Any) -> None:
        self.guest = guest
        self.note = AuditNote(**{"at": FOUND_OUT, "actor": "open-interpreter", "operation": "destroyed", **note})
        self.asked: list[tuple[int | None, str | None]] = []

    def about_guest(
        self, *, vmid: int | None, name: str | None, since: datetime, until: datetime
    ) -> Iterable[AuditNote]:
        self.asked.append((vmid, name))
        assert (since, until) == (TWO, THREE)
        return [self.note] if name == self.guest else []


def told(before: Document, after: Document, audit: Any = None, span: Span = SPAN) -> list[str]:
    changes = compare_states(before, after, audit, span.since, span.until)
    return list(sentences(changes, span, audited=audit is not None))


def guests(document: Document) -> list[dict[str, Any]]:
    return list(document["infrastructure"]["guests"])


def without_redis() -> Document:
    document = full_document()
    document["infrastructure"]["guests"].pop()
    document["infrastructure"]["services"].pop()
    return document


def changed(**facts: Any) -> Document:
    document = full_document()
    document["infrastructure"]["guests"][1].update(facts)
    return document


def test_a_guest_that_is_gone_is_told_with_who_destroyed_it() -> None:
    audit = FakeAudit("redis-cache", plan="plan-7f3a")
    [guest, service] = told(full_document(), without_redis(), audit)
    by = "destroyed 14:32 by open-interpreter, plan plan-7f3a"
    assert guest == f"guest 105 redis-cache existed at 14:00, not at 15:00: {by}"
    assert service == f"service redis on redis-cache existed at 14:00, not at 15:00: {by}"
    assert audit.asked == [(105, "redis-cache"), (None, "redis-cache")]


def test_what_the_audit_log_does_not_know_is_said() -> None:
    [guest, _service] = told(without_redis(), full_document(), FakeAudit("other"))
    assert guest == (
        "guest 105 redis-cache did not exist at 14:00, but does at 15:00: the audit log does not say by whom"
    )
    assert told(without_redis(), full_document())[0].endswith("but does at 15:00")


def test_a_refused_or_failed_operation_is_told_as_such() -> None:
    audit = FakeAudit("redis-cache", outcome="failed")
    assert told(full_document(), changed(memory_mib=512), audit)[0].endswith("by open-interpreter (failed)")


def test_moments_of_different_days_are_told_with_their_day() -> None:
    span = Span(TWO - timedelta(days=1), THREE, to_now=True)
    assert told(full_document(), without_redis(), span=span)[0] == (
        "guest 105 redis-cache existed at 2026-11-25 14:00, not now"
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"memory_mib": 512, "config_digest": "b"}, "memory 4096 -> 512 MiB"),
        ({"disk_mib": 1024, "config_digest": "b"}, "disk 81920 -> 1024 MiB"),
        ({"cores": 4, "status": "stopped", "health": "stopped"}, "cores 2 -> 4, health healthy -> stopped, status run"),
        ({"config_digest": "b"}, "its configuration"),
        ({"tags": []}, "tags database -> none"),
        ({"protection": None}, "protection no -> unknown"),
        ({"node": "pve2"}, "node pve -> pve2"),
        ({"freshness": "stale"}, "freshness fresh -> stale"),
        ({"name": "cache"}, "name redis-cache -> cache"),
    ],
)
def test_a_changed_guest_is_told_by_its_facts(facts: dict[str, Any], words: str) -> None:
    [sentence] = told(full_document(), changed(**facts))
    assert sentence.startswith(f"guest 105 redis-cache changed: {words}")


def test_a_new_address_is_told_once() -> None:
    address = {**guests(full_document())[1]["addresses"][0], "address": "10.86.0.200"}
    [sentence] = told(full_document(), changed(address="10.86.0.200", addresses=[address]))
    assert sentence == "guest 105 redis-cache changed: address 10.86.0.106 -> 10.86.0.200"


def test_what_ticks_and_how_an_address_was_found_out_is_no_difference() -> None:
    address = {**guests(full_document())[1]["addresses"][0], "source": "agent", "interface": "ens18"}
    after = changed(
        disk_mib=81000, cpu_usage=0.9, uptime_seconds=99, memory_used_mib=7, observed_at=None, addresses=[address]
    )
    after["meta"]["revision"] = 77
    after["alerts"][0]["message"] = "The guest is down for 5 min."
    after["infrastructure"]["storage"][0]["used_mib"] = 900
    assert compare_states(full_document(), after) == []


def test_another_guest_with_the_vmid_of_one_that_is_gone_is_two_changes() -> None:
    other = make_guest(105, name="web")
    other["addresses"][0]["mac"] = "BC:24:11:00:00:99"
    document = full_document()
    document["infrastructure"]["guests"][1] = other
    lines = told(full_document(), document)
    assert lines[:2] == [
        "guest 105 redis-cache existed at 14:00, not at 15:00",
        "guest 105 web did not exist at 14:00, but does at 15:00",
    ]


@pytest.mark.parametrize(
    ("facts", "same"),
    [
        ({}, True),
        ({"name": "cache"}, True),
        ({"type": "qemu"}, False),
        ({"addresses": [{"mac": "BC:24:11:00:00:99"}]}, False),
        ({"addresses": []}, True),
        ({"addresses": [], "name": "cache"}, False),
        ({"addresses": [{"mac": "bc:24:11:00:00:01"}], "name": "cache"}, True),
    ],
)
def test_a_guest_is_the_same_by_more_than_its_vmid(facts: dict[str, Any], same: bool) -> None:
    assert same_guest(make_guest(105), {**make_guest(105), **facts}) is same


def test_a_machine_made_anew_under_the_same_name_is_another() -> None:
    old, new = (make_guest(100, type="qemu", created_at=f"2026-11-2{day}T00:00:00+00:00") for day in (1, 2))
    assert not same_guest(old, new)


def test_services_nodes_storage_and_alerts_are_told() -> None:
    after = full_document()
    infrastructure = after["infrastructure"]
    infrastructure["services"][0]["health"] = "unhealthy"
    infrastructure["services"].append(make_service(guests(after)[0], "postgresql"))
    infrastructure["nodes"][0]["status"] = "offline"
    infrastructure["storage"].clear()
    after["alerts"] = [make_alert("disk-full:local", message="Storage local is 95 % full.")]
    assert told(full_document(), after) == [
        "service postgresql on guest-102 did not exist at 14:00, but does at 15:00",
        "service redis on redis-cache changed: health healthy -> unhealthy",
        "node pve changed: status online -> offline",
        "storage storage/pve/local existed at 14:00, not at 15:00",
        "alert raised: Storage local is 95 % full.",
        "alert ended: The guest is down.",
    ]


def test_the_same_for_programs_is_json_and_leaves_the_documents_alone() -> None:
    before, after = full_document(), without_redis()
    kept = copy.deepcopy(before)
    data = [change.as_data() for change in compare_states(before, after, FakeAudit("redis-cache"), TWO, THREE)]
    assert before == kept
    read = json.loads(json.dumps(data))[0]
    assert (read["kind"], read["change"], read["vmid"], read["after"]) == ("guest", "disappeared", 105, {})
    assert read["before"]["memory_mib"] == 4096
    assert read["audit"][0] == {
        "actor": "open-interpreter", "at": "2026-11-26T14:32:00.000000+00:00", "operation": "destroyed", "outcome": "",
        "plan": None,
    }  # fmt: skip


class TestLoggedAudit:
    def entry(self, **changes: Any) -> dict[str, Any]:
        return {
            "timestamp": "2026-11-26T14:32:00+00:00", "actor": "aider", "operation": "nhi_vm/absent", "outcome": "done",
            "plan": None, "attempt": "a1", "result": {"changed": True, "vmid": None}, **changes,
        }  # fmt: skip

    def notes(self, *entries: dict[str, Any]) -> list[str]:
        log = LoggedAudit(lambda name, _since, _until: entries if name == "redis-cache" else ())
        notes = log.about_guest(vmid=105, name="redis-cache", since=TWO, until=THREE)
        return [f"{note.operation} {note.outcome}" for note in notes]

    def test_an_attempt_is_told_once(self) -> None:
        begun = self.entry(outcome="allowed", result=None)
        assert self.notes(begun, self.entry()) == ["destroyed done"]

    def test_one_that_was_cut_off_is_told_as_begun(self) -> None:
        begun = self.entry(outcome="allowed", result=None)
        assert self.notes(begun) == ["destroyed begun, and no end was written down"]

    def test_a_run_that_found_nothing_to_do_is_left_out_and_a_refusal_is_not(self) -> None:
        idle = self.entry(result={"changed": False})
        assert self.notes(idle, self.entry(outcome="refused", result={})) == ["destroyed refused"]

    def test_a_guest_of_the_same_name_with_another_vmid_is_left_out(self) -> None:
        assert self.notes(self.entry(operation="nhi_vm/present", result={"changed": True, "vmid": 106})) == []

    def test_without_a_name_nobody_is_asked(self) -> None:
        assert list(LoggedAudit(lambda *_: [self.entry()]).about_guest(vmid=1, name=None, since=TWO, until=THREE)) == []
