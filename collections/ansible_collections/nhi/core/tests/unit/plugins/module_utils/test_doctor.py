# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor: a stuck lock told from a held one, and each ill of an installation found and explained."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.doctor import FAIL, OK, WARN, Finding, worst
from ansible_collections.nhi.core.plugins.module_utils.doctor_api import look_at_api
from ansible_collections.nhi.core.plugins.module_utils.doctor_files import look_at_files
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    NotFoundError,
    PermissionDeniedError,
    ProxmoxError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.freeze import freeze
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import take_snapshot
from ansible_collections.nhi.core.plugins.module_utils.journal import Journal
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock, Holder
from ansible_collections.nhi.core.plugins.module_utils.reservations import Choice, Reservations
from ansible_collections.nhi.core.plugins.module_utils.restart_jobs import RestartJobs
from ansible_collections.nhi.core.plugins.module_utils.restart_plan import RestartWish
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import make_document

NOW = 1_800_000_000.0
GUEST = {"type": "lxc", "vmid": 105, "name": "redis", "node": "pve", "status": "running"}
UPID = "UPID:pve:0001:0001:6B49D200:vzdump:105:root@pam:"


class Pve:
    """A node that answers what it is told to; an error as an answer is raised."""

    def __init__(self, lock: str = "", tasks: Any = (), **guest: Any) -> None:
        row = {**GUEST, **guest, **({"lock": lock} if lock else {})}
        self.answers: dict[str, Any] = {
            "/version": {"version": "9.2.3"},
            "/cluster/resources": [{"type": "node", "node": "pve", "status": "online"}, row],
            "nodes/pve/time": {"time": int(NOW)},
            "nodes/pve/tasks": list(tasks),
            "/access/permissions": {"/nodes/pve": {"Sys.Audit": 1}, "/": {"VM.Audit": 1}},
            f"nodes/pve/{row['type']}/105/status/current": {"lock": lock} if lock else {},
        }

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        answer = self.answers[path if isinstance(path, str) else "/".join(path)]
        if isinstance(answer, Exception):
            raise answer
        return answer


def task(kind: str = "vzdump", number: str = "105", **more: Any) -> dict[str, Any]:
    return {"upid": UPID, "type": kind, "id": number, "starttime": int(NOW) - 300, "user": "root@pam", **more}


def api(pve: Any, check: str) -> list[Finding]:
    found = list(look_at_api(pve, "nhi@pve!scan at pve:8006", lambda: NOW))
    return [finding for finding in found if finding.check.startswith(check)]


@pytest.mark.parametrize(
    ("kind", "lock", "command", "words"),
    [
        ("lxc", "backup", "pct unlock 105", "a backup was cut off"),
        ("qemu", "snapshot", "qm unlock 105", "remove the snapshot that is not complete"),
        ("qemu", "migrate", "qm unlock 105", "on one node only"),
        ("lxc", "rollback", "pct unlock 105", "roll back again before it is started"),
        ("lxc", "create", "pct unlock 105", "then destroy it, and make it again"),
        ("lxc", "something-new", "pct unlock 105", "something was cut off"),
    ],
)
def test_a_lock_with_no_task_alive_is_stuck_and_root_is_told_what_to_type(
    kind: str, lock: str, command: str, words: str
) -> None:
    (found,) = api(Pve(lock, type=kind), "lock of redis")
    assert found.verdict == FAIL
    assert f"on pve, as root: {command}" in found.advice
    assert words in found.line
    assert f"is locked ({lock}) and no task lives" in found.text


@pytest.mark.parametrize(
    ("lock", "tasks"),
    [
        ("backup", [task()]), ("backup", [task(number="")]), ("snapshot", [task("vzsnapshot")]),
        ("clone", [task("vzclone", "101")]), ("create", [task("qmclone", "101")]),
    ],
)  # fmt: skip
def test_a_lock_that_a_living_task_may_hold_is_left_alone(lock: str, tasks: list[dict[str, Any]]) -> None:
    (found,) = api(Pve(lock, tasks), "lock of redis")
    assert found.verdict == OK
    assert f"task {UPID} for 5 min" in found.text
    assert "unlock" not in found.line


@pytest.mark.parametrize(
    ("lock", "tasks"),
    [
        ("backup", [task(number="106")]), ("snapshot", [task(number="")]), ("backup", [task(endtime=1)]),
        ("clone", [task("vzstart", "101")]), ("backup", [task(number="1050")]),
    ],
)  # fmt: skip
def test_tasks_of_others_do_not_hide_a_stuck_lock(lock: str, tasks: list[dict[str, Any]]) -> None:
    (found,) = api(Pve(lock, tasks), "lock of redis")
    assert found.verdict == FAIL


def test_who_does_not_see_the_tasks_of_others_is_not_sure() -> None:
    pve = Pve("backup")
    pve.answers["/access/permissions"] = {"/": {"VM.Audit": 1}}
    (found,) = api(pve, "lock of redis")
    assert (found.verdict, "Sys.Audit on /nodes/pve" in found.advice) == (WARN, True)
    assert "if no task of the guest runs there, on pve, as root: pct unlock 105" in found.advice
    pve.answers["nodes/pve/tasks"] = UnreachableError("pve does not answer")
    (found,) = api(pve, "lock of redis")
    assert (found.verdict, "unlock" in found.line) == (WARN, False)


@pytest.mark.parametrize("now", [{}, NotFoundError("it is gone")])
def test_a_lock_that_went_while_tasks_were_listed_is_none(now: Any) -> None:
    pve = Pve("backup")
    pve.answers["nodes/pve/lxc/105/status/current"] = now
    assert [f.text for f in api(pve, "guest locks")] == ["no guest is locked"]


@pytest.mark.parametrize(("lock", "words"), [("suspended", "when it is started"), ("mounted", "pct unmount 105")])
def test_a_lock_that_is_meant_to_stay_is_explained(lock: str, words: str) -> None:
    (found,) = api(Pve(lock), "lock of redis")
    assert found.verdict == OK
    assert words in found.text


@pytest.mark.parametrize(("seconds", "verdict"), [(0, OK), (3, OK), (-3, OK), (9, WARN), (-9, WARN), (120, FAIL)])
def test_a_clock_that_goes_wrong_is_told(seconds: int, verdict: str) -> None:
    pve = Pve()
    pve.answers["nodes/pve/time"] = {"time": int(NOW) + seconds}
    assert [f.verdict for f in api(pve, "clock of pve")] == [verdict]


@pytest.mark.parametrize("error", [PermissionDeniedError("403"), ProxmoxError("595")])
def test_a_clock_that_can_not_be_asked_is_no_error(error: Exception) -> None:
    pve = Pve()
    pve.answers["nodes/pve/time"] = error
    assert [f.verdict for f in api(pve, "clock of pve")] == [WARN]


def test_an_api_that_does_not_answer_ends_the_questions_to_it() -> None:
    pve = Pve()
    assert "9.2.3 answers nhi@pve!scan at pve:8006, who sees 1 guests" in api(pve, "api")[0].text
    pve.answers["/version"] = UnreachableError("nothing listens on pve:8006")
    (found,) = api(pve, "")
    assert (found.check, found.verdict, found.advice) == ("api", FAIL, "nothing listens on pve:8006")


def test_a_node_that_is_away_is_told_and_not_asked() -> None:
    pve = Pve()
    pve.answers["/cluster/resources"][0]["status"] = "offline"
    assert [f.verdict for f in api(pve, "nodes")] == [FAIL]
    assert api(pve, "clock") == []


# The state directory


@pytest.fixture
def well(tmp_path: Path) -> Path:
    """A state directory in which all is well."""
    StateStore(tmp_path).write(make_document(), expected_checksum=None)
    take_snapshot(tmp_path, "for a test")
    (tmp_path / "policy.json").write_text(json.dumps({"schema_version": 1, "operators": ["luca"], "rules": []}))
    (tmp_path / "dependency_graph.json").write_text(json.dumps({"services": {"redis": {}}}))
    return tmp_path


def generated_at(state_dir: Path) -> datetime:
    return datetime.fromisoformat(StateStore(state_dir).read().document["meta"]["generated_at"])


def files(state_dir: Path, later: timedelta = timedelta(0)) -> dict[str, Finding]:
    """The worst finding of each check."""
    found: dict[str, Finding] = {}
    for finding in look_at_files(state_dir, None, datetime.now(UTC) + later):
        if finding.check not in found or worst([finding, found[finding.check]]) != found[finding.check].verdict:
            found[finding.check] = finding
    return found


def ill(state_dir: Path, later: timedelta = timedelta(0)) -> dict[str, str]:
    return {check: f.verdict for check, f in files(state_dir, later).items() if f.verdict != OK}


def gone() -> Holder:
    """A process that is no more."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    holder = Holder.of_process(dead.pid, "op-dead")
    dead.wait()
    return holder


def frozen(state_dir: Path) -> None:
    freeze(state_dir, "luca", "something is odd")


def cut_off(state_dir: Path) -> None:
    journal = Journal(state_dir, "op-dead", "redis started")
    journal.write("make", guest={"kind": "lxc", "node": "pve", "vmid": 105, "name": "redis"})
    journal.keep()
    journal.close()


def reserved(state_dir: Path) -> None:
    cut_off(state_dir)
    Reservations(state_dir).reserve("op-dead", "redis", datetime.now(UTC), lambda _held: Choice(105))
    path = state_dir / "reservations.json"
    ledger = json.loads(path.read_text())
    ledger["reservations"][0]["holder"] = asdict(gone())
    path.write_text(json.dumps(ledger))


def unwatched(state_dir: Path) -> None:
    RestartJobs(state_dir).schedule(RestartWish(("redis",)), datetime.now(UTC) + timedelta(hours=1), None, "me")


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda d: None, {}),
        (lambda d: (d / "state.json").write_text("{"), {"state": FAIL}),
        (lambda d: (d / "policy.json").write_text("{"), {"policy": FAIL}),
        (lambda d: (d / "policy.json").unlink(), {"policy": WARN}),
        (lambda d: (d / "dependency_graph.json").write_text('{"services": 1}'), {"graph": FAIL}),
        (lambda d: (d / "dependency_graph.json").unlink(), {"graph": WARN}),
        (lambda d: next((d / "state_history").glob("state_*.json")).write_text("{"), {"history": FAIL}),
        (frozen, {"freeze": WARN}),
        (cut_off, {"open work": WARN}),
        (reserved, {"open work": WARN, "reservations": WARN}),
        (lambda d: (d / "reservations.json").write_text("{"), {"reservations": FAIL}),
        (lambda d: (d / "audit").touch(), {"audit log": FAIL}),
        (unwatched, {"scheduled restarts": WARN}),
    ],
)  # fmt: skip
def test_each_ill_of_a_state_directory_is_found_and_no_other(
    well: Path, break_it: Callable[[Path], Any], expected: dict[str, str]
) -> None:
    later = generated_at(well) - datetime.now(UTC)
    break_it(well)
    assert ill(well, later) == expected


def test_what_nobody_keeps_up_to_date_is_told(well: Path) -> None:
    later = generated_at(well) - datetime.now(UTC)
    assert ill(well, later + timedelta(hours=1)) == {"state": WARN}
    taken = next((well / "state_history").glob("state_*.json")).stat().st_mtime - datetime.now(UTC).timestamp()
    assert ill(well, timedelta(seconds=taken, hours=3))["history"] == WARN


def test_a_lock_is_told_with_its_holder(well: Path) -> None:
    later = generated_at(well) - datetime.now(UTC)
    with FileLock(well / "infrastructure.lock", "make redis", actor="aider"):
        held = files(well, later)["locks"]
        assert (held.verdict, "make redis by aider" in held.text) == (OK, True)
        assert ill(well, timedelta(hours=2))["locks"] == WARN
    (well / "infrastructure.lock").write_text(json.dumps(asdict(gone())))
    assert "which is gone: the lock went with it" in files(well, later)["locks"].text
    assert "locks" not in ill(well, timedelta(hours=2))


def test_the_worst_decides() -> None:
    findings = [Finding("a", verdict, "x") for verdict in (OK, WARN, OK)]
    assert (worst([]), worst(findings), worst([*findings, Finding("b", FAIL, "y")])) == (OK, WARN, FAIL)
