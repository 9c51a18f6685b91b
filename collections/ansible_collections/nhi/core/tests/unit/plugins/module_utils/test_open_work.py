# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was begun and cut off: shown with what finishing it means, and finished as the next run would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import deployment
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.errors import FrozenError, PreflightError, StateError
from ansible_collections.nhi.core.plugins.module_utils.finish_work import Finished, Finisher
from ansible_collections.nhi.core.plugins.module_utils.freeze import freeze, unfreeze
from ansible_collections.nhi.core.plugins.module_utils.guest_recovery import settle
from ansible_collections.nhi.core.plugins.module_utils.journal import Journal
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder
from ansible_collections.nhi.core.plugins.module_utils.open_work import OpenWork, called, open_work
from ansible_collections.nhi.core.plugins.module_utils.restart_jobs import RestartJobs
from ansible_collections.nhi.core.plugins.module_utils.restart_plan import RestartWish
from ansible_collections.nhi.core.plugins.module_utils.restart_run import BEGIN, DONE, PLAN, Origin
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.restart_lab import Lab

TARGET = {"kind": "lxc", "node": "pve", "vmid": 106, "name": "nginx-web", "mark": None, "macs": []}
MADE = {"kind": "lxc", "node": "pve", "vmid": 120, "name": "cache-2"}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab.ready(tmp_path, monkeypatch)


def cut_off(state_dir: Path, operation: str, what: str, *steps: tuple[str, dict[str, Any]]) -> Journal:
    journal = Journal(state_dir, operation, what)
    for step, data in steps:
        journal.write(step, **data)
    journal.keep()
    journal.close()
    return journal


def creation(lab: Lab) -> None:
    """A creation that was cut off when its guest was there."""
    cut_off(
        lab.directory, "op-made", "cache-2 started", ("make", {"guest": MADE}), ("task", {"task": "UPID:x:vzcreate"})
    )
    lab.pve.add(120, "cache-2", description="nhi: op-made")


def stopped(lab: Lab) -> None:
    """A restart of a guest that was cut off between stop and start."""
    cut_off(lab.directory, "op-stop", "nginx-web restarted", ("stop", {"target": TARGET, "temporary": True}))
    lab.pve.guests[106]["running"] = False


def restart(lab: Lab) -> None:
    """A restart of two services that was cut off after the first."""
    services = ["nginx-web", "redis-cache"]
    origin = Origin(RestartWish(tuple(services)), by="aider").as_dict()
    cut_off(
        lab.directory / "restarts", "restart-1", "restart of nginx-web, redis-cache",
        (PLAN, {"services": services, "origin": origin}), (BEGIN, {"service": "redis-cache", "mark": "0"}),
        (DONE, {"service": "redis-cache"}),
    )  # fmt: skip


def job(lab: Lab) -> str:
    """A scheduled restart that was cut off while it was done."""
    jobs = RestartJobs(lab.directory)
    jobs.schedule(RestartWish(("redis-cache",)), datetime.now(UTC), None, "aider")
    claimed = jobs.claim(datetime.now(UTC))
    assert claimed
    return claimed.id


def unfinished_deployment(lab: Lab) -> None:
    """A deployment whose playbook was killed."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    holder = Holder.of_process(dead.pid, "deploy-1", "aider")
    dead.wait()
    deployment.begin(lab.directory, "redis-b", deployment.DEPLOYMENT, holder, "redis", "b")


def listed(lab: Lab) -> list[OpenWork]:
    return open_work(lab.directory, datetime.now(UTC))


class Player:
    """Stands for ansible-playbook."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.played: list[list[str]] = []
        self.fails = False

    def __call__(self, words: Sequence[str]) -> None:
        self.played.append(list(words))
        if self.fails:
            raise StateError("the playbook ended with 2")


def finisher(lab: Lab, play: Player | None = None) -> Finisher:
    return Finisher(
        lab.directory, lab.connect, lab.restarts(), play or Player(lab), lambda work: ["playbooks/x.yml", work.id]
    )


def finish(lab: Lab, *names: str, play: Player | None = None) -> list[Finished]:
    works = listed(lab)
    meant = [w for name in names for w in called(works, name)] if names else works
    return list(finisher(lab, play).finish(meant))


def test_what_is_open_is_shown_with_who_when_how_far_and_what_finishing_means(lab: Lab) -> None:
    creation(lab)
    stopped(lab)
    restart(lab)
    unfinished_deployment(lab)
    number = job(lab)
    works = {work.id: work for work in listed(lab)}
    assert list(works) == ["op-made", "op-stop", number, "restart-1", "redis-b"]
    assert not any(work.alive for work in works.values())
    assert works["op-made"].finishing == "undo: LXC 120 cache-2 is destroyed again, if it is there"
    assert works["op-stop"].finishing == "undo: LXC 106 nginx-web on pve is started again"
    assert works["restart-1"].finishing.endswith("(restarted redis-cache; not begun nginx-web)")
    assert works["redis-b"].finishing == "finish: ansible-playbook playbooks/service.yml -e service=redis -e purpose=b"
    assert works["op-stop"].step.startswith("stop at 20")
    assert (works[number].actor, works["redis-b"].actor) == ("aider", "aider")
    assert works["op-made"].process.startswith("pid ")
    assert [w.id for w in called(list(works.values()), "cache-2")] == ["op-made"]
    assert {w.id for w in called(list(works.values()), "nginx-web")} == {"op-stop", "restart-1"}
    with pytest.raises(
        PreflightError, match=r"nothing that is called nobody is open: there is op-made \(cache-2 started\)"
    ):
        called(list(works.values()), "nobody")


def test_looking_changes_nothing(lab: Lab) -> None:
    creation(lab)
    restart(lab)
    before = {path: path.read_bytes() for path in lab.directory.rglob("*") if path.is_file()}
    assert listed(lab)
    assert {path: path.read_bytes() for path in lab.directory.rglob("*") if path.is_file()} == before


def test_what_a_living_process_works_on_is_left_to_it(lab: Lab) -> None:
    journal = Journal(lab.directory, "op-live", "nginx-web restarted")
    journal.write("stop", target=TARGET, temporary=True)
    lab.pve.guests[106]["running"] = False
    (work,) = listed(lab)
    assert work.alive
    (one,) = finish(lab)
    assert not one.done
    assert "wait for its end" in one.text
    assert lab.pve.writes() == []
    journal.close()


def test_everything_is_finished_as_the_next_run_would(lab: Lab) -> None:
    creation(lab)
    stopped(lab)
    restart(lab)
    number = job(lab)
    ended = {one.work.id: one for one in finish(lab)}
    assert all(one.done for one in ended.values()), ended
    assert "Undone: LXC 120 cache-2 was destroyed again" in ended["op-made"].text
    assert 120 not in lab.pve.guests
    assert lab.pve.guests[106]["running"]
    assert lab.done() == ["redis-cache", "nginx-web"], "the job's service, then what the restart had not done"
    assert [j["status"] for j in lab.jobs() if j["id"] == number] == ["done"]
    assert listed(lab) == []
    operations = [(e["operation"], e["outcome"], e["subject"]) for e in find(lab.directory, Query())]
    assert operations[:4] == [("recover", o, s) for s in ("cache-2", "nginx-web") for o in ("allowed", "done")]


def test_only_what_is_named_is_finished(lab: Lab) -> None:
    creation(lab)
    stopped(lab)
    (one,) = finish(lab, "cache-2")
    assert one.work.id == "op-made"
    assert [work.id for work in listed(lab)] == ["op-stop"]
    assert not lab.pve.guests[106]["running"]


def test_nothing_is_finished_while_changes_are_frozen(lab: Lab) -> None:
    creation(lab)
    stopped(lab)
    freeze(lab.directory, "luca", "something is odd")
    with pytest.raises(FrozenError, match="something is odd"):
        finish(lab)
    told: list[str] = []
    settle(lab.pve, lab.directory, check_mode=False, tell=told.append)
    assert "the next real run settles it once changes are possible again" in told[0]
    assert lab.pve.writes() == []
    unfreeze(lab.directory)
    assert all(one.done for one in finish(lab))


def test_what_can_not_be_settled_stays_open_and_the_rest_is_done(lab: Lab) -> None:
    creation(lab)
    stopped(lab)
    lab.pve.failing_tasks["start"] = "bridge vmbr9 does not exist"
    ended = {one.work.id: one for one in finish(lab)}
    assert (ended["op-made"].done, ended["op-stop"].done) == (True, False)
    assert "vmbr9" in ended["op-stop"].text
    assert [work.id for work in listed(lab)] == ["op-stop"]


def test_a_deployment_is_finished_by_its_playbook(lab: Lab) -> None:
    unfinished_deployment(lab)
    play = Player(lab)
    assert [one.done for one in finish(lab, "redis", play=play)] == [True]
    assert play.played == [["playbooks/x.yml", "redis-b"]]
    play.fails = True
    (one,) = finish(lab, play=play)
    assert (one.done, one.text) == (False, "the playbook ended with 2")


def test_a_scheduled_restart_whose_journal_is_open_is_shown_once(lab: Lab) -> None:
    number = job(lab)
    origin = Origin(RestartWish(("redis-cache",)), by="aider", job=number).as_dict()
    cut_off(
        lab.directory / "restarts", "restart-2", "restart of redis-cache",
        (PLAN, {"services": ["redis-cache"], "origin": origin}), (BEGIN, {"service": "redis-cache", "mark": "0"}),
    )  # fmt: skip
    (work,) = listed(lab)
    assert work.id == number
    assert "in the middle of redis-cache" in work.finishing
    assert [one.done for one in finish(lab)] == [True]
    assert (lab.done(), listed(lab)) == (["redis-cache"], [])


def test_a_scheduled_restart_that_somebody_did_again_is_done(lab: Lab) -> None:
    number = job(lab)
    lab.request("redis-cache")
    assert listed(lab) == []
    assert [(j["id"], j["status"]) for j in lab.jobs()] == [(number, "done")]
    lab.restarts().run_due()
    assert lab.done() == ["redis-cache"]


def test_outside_its_hours_a_restart_is_not_finished(lab: Lab) -> None:
    origin = Origin(RestartWish(("minio",)), by="aider").as_dict()
    cut_off(
        lab.directory / "restarts", "restart-3", "restart of minio", (PLAN, {"services": ["minio"], "origin": origin})
    )
    (one,) = finish(lab)
    assert (one.done, "outside its safe window" in one.text) == (False, True)
    lab.ahead = timedelta(hours=12)
    assert [one.done for one in finish(lab)] == [True]
    assert lab.done() == ["minio"]


def test_what_waits_for_its_hour_is_not_open(lab: Lab) -> None:
    lab.request("minio")
    assert listed(lab) == []


def test_a_restart_that_was_cut_off_long_ago_goes_on_when_it_is_named(lab: Lab) -> None:
    restart(lab)
    path = lab.directory / "restarts/journal/restart-1.jsonl"
    day = (datetime.now(UTC) - timedelta(days=1)).isoformat()[:10]
    path.write_text(path.read_text().replace(datetime.now(UTC).isoformat()[:10], day))
    assert [one.done for one in finish(lab, "restart-1")] == [True]
    assert (lab.done(), listed(lab)) == (["nginx-web"], [])
