# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left when a creation fails or is interrupted: nothing, or an honest sentence."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import guest_doubt
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    GuestChangeError,
    PermissionDeniedError,
    StateError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_wait import Patience
from ansible_collections.nhi.core.plugins.module_utils.interrupts import InterruptedRunError
from ansible_collections.nhi.core.plugins.module_utils.reservations import Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import REDIS, GuestLab


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    return GuestLab(tmp_path)


def test_a_failing_create_task_leaves_nothing(lab: GuestLab) -> None:
    lab.pve.failing_tasks["vzcreate"] = "unable to create CT 105 - no space left"
    with pytest.raises(GuestChangeError, match=r"no space left.*Undone: LXC 105 redis was destroyed again"):
        lab.run(REDIS)
    assert lab.pve.guests == {}
    assert lab.reserved() == []


def test_a_failing_start_destroys_what_was_made_and_nothing_else(lab: GuestLab) -> None:
    lab.pve.add(104, "other")
    lab.pve.failing_tasks["start"] = "bridge 'vmbr9' does not exist"
    with pytest.raises(GuestChangeError, match=r"vmbr9.*Undone: LXC 105 redis"):
        lab.run(REDIS)
    assert list(lab.pve.guests) == [104]


def test_a_guest_that_never_reports_an_address_is_undone(lab: GuestLab) -> None:
    lab.pve.reports_address = False
    with pytest.raises(GuestChangeError, match=r"reported no address within 0.3 s.*Undone"):
        lab.run(REDIS, patience=Patience(task=0.3))
    assert lab.pve.guests == {}
    lab.run(REDIS, patience=Patience(wait=False))
    assert list(lab.pve.guests) == [105]


def test_undoing_leaves_a_guest_alone_that_somebody_else_made(lab: GuestLab) -> None:
    def replaced() -> None:
        lab.pve.guests.clear()
        lab.pve.add(105, "theirs", description="nhi: op-theirs")
        raise UnreachableError("no answer")

    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = replaced
    with pytest.raises(GuestChangeError, match="LXC 105 theirs on pve, which this run did not make"):
        lab.run(REDIS)
    assert list(lab.pve.guests) == [105]


def test_a_create_whose_answer_was_lost_is_found_by_its_mark_and_not_repeated(lab: GuestLab) -> None:
    real = lab.pve._create

    def lost(kind: str, given: dict[str, Any]) -> str:
        real(kind, given)
        raise UnreachableError("lost its connection before the answer")

    lab.pve._create = lost  # type: ignore[method-assign]
    outcome = lab.run(REDIS)
    assert outcome.vm is not None
    assert (outcome.vm["vmid"], outcome.vm["status"]) == (105, "running")
    assert [c for c in lab.pve.writes() if c == ("POST", "/nodes/pve/lxc")] == [("POST", "/nodes/pve/lxc")]


def test_a_lost_create_that_another_client_won_goes_on_with_the_next_vmid(lab: GuestLab) -> None:
    real = lab.pve._create

    def lost(kind: str, given: dict[str, Any]) -> str:
        if 105 in lab.pve.guests:
            return real(kind, given)
        lab.pve.add(105, "theirs", description="nhi: op-theirs")
        raise UnreachableError("lost its connection before the answer")

    lab.pve._create = lost  # type: ignore[method-assign]
    outcome = lab.run(REDIS)
    assert outcome.vm is not None
    assert outcome.vm["vmid"] == 106
    assert lab.pve.guests[105]["config"]["hostname"] == "theirs"


def test_a_full_disk_before_the_create_call_stops_the_run_and_after_it_only_warns(
    lab: GuestLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Reservations, *_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    lab.pve.hooks["POST /nodes/pve/lxc"] = lambda: monkeypatch.setattr(Reservations, "_write", full)
    outcome = lab.run(REDIS)
    assert outcome.vm is not None
    assert outcome.vm["status"] == "running"
    assert "no space left on device" in outcome.plan.warnings[0]
    with pytest.raises(StateError, match="no space left on device; nothing was chosen"):
        lab.run({**REDIS, "name": "second"})
    assert list(lab.pve.guests) == [105]


def test_a_create_that_nobody_answered_and_nobody_did_says_to_look_again(
    lab: GuestLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_doubt, "DOUBT_SECONDS", 0.1)

    def lost() -> None:
        raise UnreachableError("POST /nodes/pve/lxc got no answer")

    lab.pve.hooks["POST /nodes/pve/lxc"] = lost
    with pytest.raises(GuestChangeError, match=r"LXC 105 redis was not there a while later: look once more"):
        lab.run(REDIS)


def test_a_missing_privilege_passes_through_and_leaves_nothing(lab: GuestLab) -> None:
    def refuse() -> None:
        raise PermissionDeniedError("op@pve!x lacks the privilege VM.Allocate on /vms/105", status=403)

    lab.pve.hooks["POST /nodes/pve/lxc"] = refuse
    with pytest.raises(PermissionDeniedError, match=r"VM.Allocate on /vms/105"):
        lab.run(REDIS)
    assert lab.reserved() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["POST /nodes/pve/lxc", "POST /nodes/pve/lxc/105/status/start"])
def test_an_interrupt_in_the_middle_undoes_and_says_so(lab: GuestLab, number: int, moment: str) -> None:
    lab.pve.hooks[moment] = lambda: os.kill(os.getpid(), number)
    with pytest.raises(GuestChangeError, match=r"interrupted by SIG.*Undone: LXC 105 redis"):
        lab.run(REDIS)
    assert lab.pve.guests == {}
    assert lab.reserved() == []


def test_an_interrupt_before_the_first_change_is_one_line(lab: GuestLab) -> None:
    lab.pve.hooks["GET /cluster/resources"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(InterruptedRunError, match="interrupted by SIGINT"):
        lab.run(REDIS)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_clone_that_fails_half_way_is_undone(lab: GuestLab) -> None:
    lab.pve.add(9000, "debian-cloud", "qemu", template=1, net0="virtio=BC:24:11:00:00:01,bridge=vmbr0")

    def refuse() -> None:
        raise PermissionDeniedError("lacks VM.Config.Memory", status=403)

    lab.pve.hooks["PUT /nodes/pve/qemu/105/config"] = refuse
    with pytest.raises(GuestChangeError, match=r"VM.Config.Memory.*Undone: VM 105 webapp"):
        lab.run({**REDIS, "name": "webapp", "type": "qemu", "template": "9000", "memory": 1024})
    assert list(lab.pve.guests) == [9000]
