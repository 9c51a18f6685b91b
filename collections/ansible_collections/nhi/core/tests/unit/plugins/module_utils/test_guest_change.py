# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a guest that is there: corrected, started, stopped, destroyed, or left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    GuestChangeError,
    NHIError,
    PreflightError,
)
from ansible_collections.nhi.core.plugins.module_utils.graph import parse_graph
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import GuestLab


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    return GuestLab(tmp_path)


def test_drift_is_corrected_in_place_and_only_where_it_is(lab: GuestLab) -> None:
    lab.pve.add(105, "redis", running=True, memory=256, tags="old", description="Old.\n\nnhi: op-1\n", protection=1)
    wish = {"name": "redis", "memory": 512, "tags": ["new"], "description": "New.", "protection": False, "onboot": True}
    outcome = lab.run({**wish, "disk": 8})
    config = lab.pve.guests[105]["config"]
    assert {k: config[k] for k in ("memory", "tags", "description", "protection", "onboot")} == {
        "memory": 512, "tags": "new", "description": "New.\n\nnhi: op-1", "protection": 0, "onboot": 1,
    }  # fmt: skip
    assert config["rootfs"].endswith("size=8G")
    assert outcome.plan.before["memory"] == 256
    assert outcome.plan.restart_required == []
    assert not lab.run({**wish, "disk": 8}).plan.changed


def test_a_running_machine_needs_a_restart_for_cores_and_memory(lab: GuestLab) -> None:
    lab.pve.add(110, "webapp", "qemu", running=True)
    assert lab.run({"name": "webapp", "memory": 1024, "cores": 2}).plan.restart_required == ["cores", "memory"]


@pytest.mark.parametrize(
    ("state", "running", "verbs"),
    [
        ("started", False, ["start"]), ("started", True, []), ("stopped", True, ["shutdown"]), ("stopped", False, []),
        ("restarted", True, ["shutdown", "start"]), ("restarted", False, ["start"]), ("present", True, []),
    ],
)  # fmt: skip
def test_power_follows_the_state(lab: GuestLab, state: str, running: bool, verbs: list[str]) -> None:
    lab.pve.add(105, "redis", running=running, net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")
    outcome = lab.run({"name": "redis", "state": state})
    assert [path.rsplit("/", 1)[1] for _method, path in lab.pve.writes()] == verbs
    assert outcome.plan.changed == bool(verbs)


@pytest.mark.parametrize("state", ["stopped", "restarted"])
def test_a_guest_that_is_not_there_can_not_be_stopped_or_restarted(lab: GuestLab, state: str) -> None:
    with pytest.raises(PreflightError, match="redis does not exist"):
        lab.run({"name": "redis", "state": state})


def test_name_and_vmid_must_mean_the_same_guest(lab: GuestLab) -> None:
    lab.pve.add(105, "web")
    lab.pve.add(106, "redis")
    with pytest.raises(PreflightError, match="VMID 105 is LXC 105 web on pve, not redis"):
        lab.run({"name": "redis", "vmid": 105})
    with pytest.raises(PreflightError, match="redis is LXC 106 redis on pve, not VMID 107"):
        lab.run({"name": "redis", "vmid": 107})


def test_two_guests_of_one_name_are_both_named(lab: GuestLab) -> None:
    lab.pve.add(105, "redis")
    lab.pve.add(106, "redis", "qemu")
    with pytest.raises(PreflightError, match="LXC 105 redis on pve and VM 106 redis on pve"):
        lab.run({"name": "redis", "state": "absent"}, confirm="redis")
    lab.run({"name": "redis", "vmid": 106, "state": "absent"}, confirm="redis")
    assert list(lab.pve.guests) == [105]


GRAPH = parse_graph({"services": {
    "brain-vm": {}, "db": {"depends_on": ["brain-vm"], "guest": "postgres"},
    "web": {"depends_on": ["db"], "guest": "web", "criticality": "high"}, "log": {"depends_on": ["db"]},
}})  # fmt: skip


GONE = {"name": "postgres", "state": "absent"}


def test_absent_shows_what_would_go_and_refuses_while_dependents_may_run(lab: GuestLab) -> None:
    lab.pve.add(102, "postgres", running=True)
    lab.pve.add(103, "web", running=False)
    plan = lab.run(GONE, graph=GRAPH, check_mode=True).plan
    assert [a.kind for a in plan.actions] == ["stop", "destroy"]
    impact = plan.impact.as_dict()
    assert impact["services"] == ["db"]
    assert {d["name"]: d["active"] for d in impact["dependents"]} == {"web": False, "log": True}
    assert impact["criticality"] == "high"
    assert {c.name for c in plan.failed} == {"dependents", "confirmed"}
    with pytest.raises(PreflightError, match="log would stop working"):
        lab.run(GONE, graph=GRAPH, confirm="postgres")
    assert lab.pve.writes() == []
    lab.run(GONE, graph=GRAPH, confirm="postgres", allow_impact=True)
    assert list(lab.pve.guests) == [103]
    assert not lab.run(GONE, graph=GRAPH).plan.changed


@pytest.mark.parametrize("confirm", [None, "", "Postgres", "102"])
def test_nothing_is_destroyed_without_its_exact_name(lab: GuestLab, confirm: str | None) -> None:
    lab.pve.add(102, "postgres")
    with pytest.raises(PreflightError, match="needs confirm: postgres"):
        lab.run(GONE, confirm=confirm)
    assert lab.pve.writes() == []


@pytest.mark.parametrize(("vmid", "tags"), [(100, ""), (150, "brain;other")])
def test_the_brain_is_never_destroyed(lab: GuestLab, vmid: int, tags: str) -> None:
    lab.pve.add(vmid, "brain-vm", "qemu", tags=tags)
    wish: dict[str, Any] = {"confirm": "brain-vm", "allow_impact": True}
    with pytest.raises(PreflightError, match="is the Brain"):
        lab.run({"name": "brain-vm", "state": "absent"}, **wish)
    foretold = lab.run({"name": "brain-vm", "state": "absent"}, check_mode=True, **wish).plan
    assert [c.name for c in foretold.failed] == ["critical"]
    assert lab.pve.writes() == []


@pytest.mark.parametrize(
    ("config", "words"), [({"protection": 1}, "set protection: false"), ({"lock": "backup"}, "(backup)")]
)
def test_protected_and_locked_guests_stay(lab: GuestLab, config: dict[str, Any], words: str) -> None:
    lab.pve.add(102, "postgres", **config)
    with pytest.raises(PreflightError) as e:
        lab.run(GONE, confirm="postgres")
    assert words in str(e.value)
    assert lab.pve.writes() == []


def test_a_locked_guest_is_not_changed_but_may_be_looked_at(lab: GuestLab) -> None:
    lab.pve.add(102, "postgres", lock="snapshot")
    with pytest.raises(PreflightError, match=r"locked \(snapshot\).*pct unlock 102"):
        lab.run({"name": "postgres", "memory": 1024})
    assert not lab.run({"name": "postgres"}).plan.changed


def test_a_guest_that_was_replaced_between_plan_and_destroy_stays(lab: GuestLab) -> None:
    lab.pve.add(102, "postgres")
    looks = []

    def replaced_at_second_look() -> None:
        looks.append(1)
        if len(looks) == 2:
            lab.pve.add(102, "family-photos")

    lab.pve.hooks["GET /nodes/pve/lxc/102/config"] = replaced_at_second_look
    with pytest.raises(PreflightError, match="nothing was done"):
        lab.run(GONE, confirm="postgres")
    assert lab.pve.guests[102]["config"]["hostname"] == "family-photos"


def test_a_failing_destroy_starts_the_guest_again(lab: GuestLab) -> None:
    lab.pve.add(102, "postgres", running=True)

    def refuse() -> None:
        raise NHIError("disk is busy")

    lab.pve.hooks["DELETE /nodes/pve/lxc/102"] = refuse
    with pytest.raises(GuestChangeError, match=r"disk is busy.*LXC 102 postgres on pve runs again"):
        lab.run(GONE, confirm="postgres")
    assert lab.pve.guests[102]["running"]


def test_a_correction_that_fails_half_way_is_taken_back(lab: GuestLab) -> None:
    lab.pve.add(105, "redis", running=True, tags="old", nameserver="10.99.0.2")
    before = dict(lab.pve.guests[105]["config"])
    lab.pve.failing_tasks["resize"] = "no space left"
    wish = {"memory": 1024, "tags": [], "onboot": True, "disk": 8}
    with pytest.raises(GuestChangeError, match=r"no space left.*LXC 105 redis on pve has its former configuration"):
        lab.run({"name": "redis", **wish})
    after = lab.pve.guests[105]["config"]
    assert {k: v for k, v in after.items() if k != "rootfs"} == {k: v for k, v in before.items() if k != "rootfs"}


def test_a_restart_that_fails_leaves_the_guest_running_as_it_was(lab: GuestLab) -> None:
    lab.pve.add(105, "redis", running=True)
    first: list[int] = []

    def fail_once() -> None:
        if not first:
            first.append(1)
            raise NHIError("no memory left on the node")

    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = fail_once
    with pytest.raises(GuestChangeError, match=r"former configuration. Undone: LXC 105 redis on pve runs again"):
        lab.run({"name": "redis", "memory": 1024, "state": "restarted"})
    assert lab.pve.guests[105]["running"]
    assert lab.pve.guests[105]["config"]["memory"] == 512


def test_what_can_not_change_is_refused(lab: GuestLab) -> None:
    lab.pve.add(105, "redis")
    for wish, words in (
        ({"type": "qemu"}, "of type lxc"), ({"node": "pve2"}, "not on node pve2"), ({"disk": 2}, "can not shrink"),
        ({"unprivileged": False}, "unprivileged, which can not be changed"),
    ):  # fmt: skip
        with pytest.raises(PreflightError, match=words):
            lab.run({"name": "redis", **wish})
    lab.pve.add(106, "image", "qemu", template=1)
    with pytest.raises(PreflightError, match="is a template"):
        lab.run({"name": "image", "state": "started"})
    assert lab.pve.writes() == []
