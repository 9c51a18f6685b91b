# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollback is a plan of calls that can be made, each with its reason, and never destroys what is new."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import wanted_from_params
from ansible_collections.nhi.core.plugins.module_utils.rollback_plan import RollbackPlan, plan_rollback
from ansible_collections.nhi.core.plugins.module_utils.state_diff import Span, compare_states
from ansible_collections.nhi.core.plugins.module_utils.state_document import Document
from ansible_collections.nhi.core.plugins.modules.nhi_vm import ARGUMENT_SPEC
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    full_document,
    make_document,
    make_guest,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
SPAN = Span(NOW - timedelta(hours=20), NOW, to_now=True)
MAC = "BC:24:11:00:00:01"


def plan_of(then: Document, now: Document) -> RollbackPlan:
    return plan_rollback(then, now, compare_states(then, now), SPAN)


def plan_between(before: dict[str, Any] | None, after: dict[str, Any] | None) -> RollbackPlan:
    return plan_of(*(make_document([guest] if guest else []) for guest in (before, after)))


def guest(**facts: Any) -> dict[str, Any]:
    return make_guest(105, name="redis-cache", **facts)


def accepted(options: dict[str, Any]) -> bool:
    """Whether nhi_vm takes these options."""
    known = {"state_dir": "/x", "api_host": "x", "api_user": "x", "api_token_id": "x", "api_token_secret": "x"}
    result = ArgumentSpecValidator(ARGUMENT_SPEC, mutually_exclusive=[("network", "networks")]).validate(
        {**known, **options}
    )
    assert result.error_messages == []
    wanted_from_params(result.validated_parameters)
    return True


def test_nothing_that_differs_is_nothing_to_do() -> None:
    plan = plan_of(full_document(), full_document())
    assert plan.as_data() == {"steps": [], "left_alone": [], "by_hand": []}
    assert list(plan.lines()) == ["Nothing has to be taken back by a module."]


def test_a_guest_that_is_gone_is_created_again_as_it_was() -> None:
    [step] = plan_between(guest(), None).steps
    assert (step.kind, step.vmid, step.needs) == ("recreate", 105, ("template", "network.gateway"))
    assert step.options == {
        "name": "redis-cache", "state": "started", "type": "lxc", "node": "pve", "vmid": 105, "cores": 2,
        "memory": 4096, "disk": 80, "tags": ["database"], "protection": False, "pool": "ai-lab",
        "network": {"ip": "10.86.0.106/24"},
    }  # fmt: skip
    assert "existed at" in step.reason
    assert "It will be empty" in step.notes[0]
    assert accepted(step.options)


def test_a_guest_that_was_created_since_is_left_alone() -> None:
    plan = plan_between(None, guest())
    assert plan.steps == []
    [left] = plan.left_alone
    assert (left["vmid"], left["guest"]) == (105, "redis-cache")
    assert left["text"].endswith("it is left alone, as it belongs to whoever made it")


@pytest.mark.parametrize(
    ("was", "now", "kind", "options"),
    [
        ({"cores": 1}, {"cores": 4}, "correct", {"cores": 1}),
        ({"memory_mib": 256}, {"memory_mib": 512}, "correct", {"memory": 256}),
        ({"tags": ["a"]}, {"tags": []}, "correct", {"tags": ["a"]}),
        ({"protection": True}, {"protection": False}, "correct", {"protection": True}),
        ({}, {"status": "stopped", "health": "stopped"}, "start", {"state": "started"}),
        ({"status": "stopped"}, {}, "stop", {"state": "stopped"}),
        ({"cores": 1}, {"status": "stopped"}, "correct", {"state": "started", "cores": 1}),
    ],
)
def test_a_changed_guest_is_corrected_if_it_is_still_the_same(
    was: dict[str, Any], now: dict[str, Any], kind: str, options: dict[str, Any]
) -> None:
    plan = plan_between(guest(**was), guest(**now, config_digest="new"))
    [step] = plan.steps
    assert (step.kind, plan.by_hand) == (kind, [])
    expected = {"vmid": 105, "type": "lxc", "name": "redis-cache", "mac": [MAC], "digest": "new"}
    assert step.options == {"name": "redis-cache", "state": "present", **options, "expect": expected}
    assert accepted(step.options)


def test_an_address_is_set_back_where_the_guest_has_one_interface() -> None:
    entry = guest()["addresses"][0]
    other = {**entry, "address": "10.86.0.200"}
    [step] = plan_between(guest(), guest(address="10.86.0.200", addresses=[other])).steps
    assert step.options["network"] == {"ip": "10.86.0.106/24"}
    two = [other, {**entry, "address": "10.99.0.7", "mac": "BC:24:11:00:00:02"}]
    several = plan_between(guest(), guest(address="10.86.0.200", addresses=two))
    assert several.steps == []
    assert several.by_hand[0]["text"].endswith("no module takes back address")


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ({"node": "pve"}, {"node": "pve2"}, "no module takes back node"),
        ({"description": "A."}, {"description": "B."}, "no module takes back description"),
        ({"disk_mib": 1024}, {"disk_mib": 2048, "config_digest": "b"}, "no module takes back disk"),
        ({}, {"config_digest": "b"}, "no module takes back its configuration"),
        ({"cores": 0.5}, {"cores": 4}, "no module takes back cores"),
        ({"status": "paused"}, {}, "no module takes back status"),
        ({"memory_mib": 1}, {"memory_mib": 2, "freshness": "stale"}, "is not known for certain, so scan before"),
    ],
)
def test_what_no_module_can_take_back_is_left_to_a_person(was: dict[str, Any], now: dict[str, Any], words: str) -> None:
    plan = plan_between(guest(**was), guest(**now))
    assert plan.steps == []
    assert words in plan.by_hand[0]["text"]


def test_a_renamed_guest_is_corrected_under_its_new_name() -> None:
    plan = plan_between(guest(cores=1), {**guest(cores=4), "name": "cache"})
    assert plan.steps[0].options["name"] == "cache"
    assert "no module takes back name" in plan.by_hand[0]["text"]


def test_a_guest_whose_vmid_is_another_s_now_gets_a_new_one_and_the_other_stays() -> None:
    other = {**make_guest(105, name="web"), "addresses": [{**guest()["addresses"][0], "mac": "BC:24:11:00:00:99"}]}
    plan = plan_between(guest(), other)
    [step] = plan.steps
    assert "vmid" not in step.options
    assert "VMID 105 is another guest's now" in step.notes[1]
    assert [left["guest"] for left in plan.left_alone] == ["web"]


def test_a_guest_whose_name_is_another_s_now_is_left_to_a_person() -> None:
    plan = plan_of(make_document([guest()]), make_document([make_guest(110, name="redis-cache")]))
    assert plan.steps == []
    assert "another guest is called redis-cache now" in plan.by_hand[0]["text"]


def test_services_nodes_and_storage_are_told_and_alerts_are_not() -> None:
    then, now = full_document(), full_document()
    now["infrastructure"]["services"].clear()
    now["infrastructure"]["nodes"][0]["status"] = "offline"
    now["alerts"].clear()
    plan = plan_of(then, now)
    assert [entry["what"] for entry in plan.by_hand] == ["service redis on redis-cache", "node pve"]
    assert "playbooks/service.yml" in plan.by_hand[0]["text"]


def test_what_is_missing_comes_back_before_anything_is_stopped() -> None:
    then = make_document([make_guest(101, status="stopped"), make_guest(102, cores=1), make_guest(103)])
    now = make_document([make_guest(101), make_guest(102)])
    assert [step.kind for step in plan_of(then, now).steps] == ["recreate", "correct", "stop"]


def test_for_people_every_step_has_its_reason() -> None:
    then = make_document([guest(), make_guest(101, memory_mib=1)])
    now = make_document([make_guest(101), make_guest(120, name="new")])
    lines = list(plan_of(then, now).lines())
    assert lines[0] == "1. Create redis-cache (lxc) on pve again"
    assert lines[1].startswith("   because guest 105 redis-cache existed at ")
    assert "2. Set memory of guest 101 guest-101" in lines
    assert lines[-2] == "Left alone:"
    assert lines[-1].startswith("- guest 120 new did not exist at ")


FACTS = st.fixed_dictionaries(
    {
        "cores": st.sampled_from([None, 0.5, 1, 4]),
        "memory_mib": st.sampled_from([None, 256, 512]),
        "disk_mib": st.sampled_from([None, 1024, 2048]),
        "status": st.sampled_from(["running", "stopped", "paused"]),
        "name": st.sampled_from(["a", "b"]),
        "type": st.sampled_from(["lxc", "qemu"]),
        "addresses": st.sampled_from([[], guest()["addresses"]]),
        "config_digest": st.sampled_from([None, "x", "y"]),
        "template": st.booleans(),
        "freshness": st.sampled_from(["fresh", "stale"]),
    }
)
LABS = st.dictionaries(st.integers(100, 104), FACTS, max_size=4).map(
    lambda drawn: make_document([make_guest(vmid, **facts) for vmid, facts in drawn.items()])
)


@given(then=LABS, now=LABS)
def test_no_plan_destroys_anything_and_each_can_be_carried_out_as_data(then: Document, now: Document) -> None:
    plan = plan_of(then, now)
    names = {g["name"] for g in now["infrastructure"]["guests"]}
    for step in plan.steps:
        assert step.module == "nhi.core.nhi_vm"
        assert step.options["state"] in ("present", "started", "stopped")
        assert (step.options["name"] in names) == (step.kind != "recreate")
        assert accepted(step.options)
    assert json.loads(json.dumps(plan.as_data())) == plan.as_data()
    assert len(list(plan.lines())) > 0
