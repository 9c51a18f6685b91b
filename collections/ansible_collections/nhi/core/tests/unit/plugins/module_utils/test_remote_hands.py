# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on guests from the wish to the end: refused, approved, frozen, run, written down; and logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.catalogue import CatalogueEntry, parse_entry
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AuditError,
    CommandTimeoutError,
    FrozenError,
    GuestShellError,
    NHIError,
    NotAllowedError,
    PlanError,
    PolicyError,
    PreflightError,
    StateError,
)
from ansible_collections.nhi.core.plugins.module_utils.freeze import freeze, unfreeze
from ansible_collections.nhi.core.plugins.module_utils.plan_store import PlanStore
from ansible_collections.nhi.core.plugins.module_utils.policy import parse_policy
from ansible_collections.nhi.core.plugins.module_utils.remote_hands import Ended, Foretold, Hands, LogsRead, Order, Site
from ansible_collections.nhi.core.plugins.module_utils.service_logs import LogWish
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.hands_lab import POLICY, HandsLab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandsLab:
    return HandsLab(tmp_path, monkeypatch)


def site(lab: HandsLab, catalogue: dict[str, CatalogueEntry] | None = None) -> Site:
    params = {"state_dir": str(lab.state_dir), "known_hosts": None, "ssh_user": "root", "ssh_private_key": None}
    return Site.of(params, catalogue or {})


def run(lab: HandsLab, command: str, target: str = "redis-cache", **more: Any) -> tuple[Ended, str, str]:
    out, err = bytearray(), bytearray()
    ended = Hands(site(lab)).execute(Order(target, tuple(command.split()), **more), out.extend, err.extend)
    return ended, out.decode(), err.decode()


def foretell(lab: HandsLab, command: str, target: str = "redis-cache") -> Foretold:
    return Hands(site(lab)).foretell(Order(target, tuple(command.split())))


def outcomes(lab: HandsLab) -> list[str]:
    return [entry["outcome"] for entry in lab.audit()]


def test_what_is_allowed_is_run_and_written_down_before_and_after(lab: HandsLab) -> None:
    ended, out, err = run(lab, "seven", target="redis")
    assert (ended.rc, out, err, ended.reads) == (7, "out\n", "err\n", True)
    before, after = lab.audit()
    assert (before["outcome"], after["outcome"], before["attempt"]) == ("allowed", "done", after["attempt"])
    assert (after["operation"], after["subject"], after["actor"]) == ("nhi_exec", "redis-cache", "aider")
    assert after["params"]["command"] == "seven"
    assert after["result"] == {"vmid": 105, "changed": False, "rc": 7, "stdout_bytes": 4, "stderr_bytes": 4}
    assert "out" not in json.dumps(after["result"]).replace("stdout", "")
    assert f"UserKnownHostsFile={lab.state_dir}/known_hosts" in lab.ssh.calls()
    assert "StrictHostKeyChecking=yes" in lab.ssh.calls()


@pytest.mark.parametrize(
    ("command", "target", "error", "said"),
    [
        ("rm -rf /", "redis-cache", NotAllowedError, "running rm on redis-cache is not allowed: .*; there is: uptime"),
        ("show --all", "redis-cache", NotAllowedError, "not allowed"),
        ("reload nginx", "redis-cache", NotAllowedError, "exec of redis-cache by aider needs an approval .ask luca"),
        ("uptime", "off", PreflightError, "LXC 106 off is stopped"),
        ("uptime", "web", PreflightError, "no SSH host key of LXC 107 web"),
        ("uptime", "nowhere", PreflightError, "no guest and no service called 'nowhere'"),
        ("", "redis-cache", PreflightError, "say which command"),
    ],
)
def test_what_is_refused_is_not_run_and_written_down(
    lab: HandsLab, command: str, target: str, error: type[NHIError], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(lab, command, target)
    assert lab.ssh.calls() == ""
    (entry,) = lab.audit()
    assert (entry["outcome"], entry["operation"], entry["subject"]) == ("refused", "nhi_exec", target)
    assert entry["reason"]


def test_operators_run_what_the_policy_lets_them(lab: HandsLab) -> None:
    lab.act_as("luca")
    ended, out, _err = run(lab, "echo $(id) ;")
    assert (out, ended.reads) == ("$(id) ;\n", False)
    assert lab.audit()[-1]["result"]["changed"] is True


@pytest.mark.parametrize("policy", [None, {**POLICY, "exec": [{"decision": "yes"}]}, {"schema_version": 9}])
def test_without_a_sound_policy_nobody_does_anything(lab: HandsLab, policy: dict[str, Any] | None) -> None:
    lab.policy(policy)
    lab.act_as("luca")
    with pytest.raises(PolicyError, match=r"nobody may run commands|nothing is allowed"):
        run(lab, "uptime")
    with pytest.raises(PolicyError):
        Hands(site(lab)).logs("redis", LogWish())
    assert lab.ssh.calls() == ""
    assert outcomes(lab) == ["refused", "refused"]


def test_without_a_state_nobody_is_known(lab: HandsLab) -> None:
    for file in lab.state_dir.glob("state.json*"):
        file.unlink()
    with pytest.raises(StateError, match="scan first"):
        run(lab, "uptime")


def test_a_freeze_stops_what_may_change_something_and_lets_be_read(lab: HandsLab) -> None:
    lab.act_as("luca")
    freeze(lab.state_dir, "luca", "move")
    with pytest.raises(FrozenError, match="only commands that the policy calls reads"):
        run(lab, "echo x")
    told = foretell(lab, "echo x")
    assert "frozen by luca" in (told.refusal or "")
    assert run(lab, "show x")[1] == "x\n"
    unfreeze(lab.state_dir)
    assert run(lab, "echo x")[1] == "x\n"


def test_a_plan_that_an_operator_approved_is_good_for_that_command_once(lab: HandsLab) -> None:
    told = foretell(lab, "reload nginx")
    assert told.plan is not None
    assert "needs an approval (ask luca)" in (told.refusal or "")
    plan = told.plan.plan_id
    with pytest.raises(NotAllowedError, match="waits for an approval"):
        run(lab, "reload nginx", plan_id=plan)
    PlanStore(lab.state_dir).approve(plan, "luca", parse_policy(POLICY), utc_now())
    for command, target in (("reload other", "redis-cache"), ("uptime", "redis-cache")):
        with pytest.raises(PlanError, match="no longer fits"):
            run(lab, command, target, plan_id=plan)
    assert run(lab, "reload nginx", plan_id=plan)[1] == "reloaded\n"
    with pytest.raises(PlanError, match="is used"):
        run(lab, "reload nginx", plan_id=plan)
    assert [entry["plan"] for entry in lab.audit()] == [plan] * 6
    assert lab.ssh.calls().count("reload") == 1


def test_secrets_in_a_command_are_in_no_plan_and_no_log(lab: HandsLab) -> None:
    told = foretell(lab, "login --password=hunter2")
    assert told.plan is not None
    plan = told.plan.plan_id
    PlanStore(lab.state_dir).approve(plan, "luca", parse_policy(POLICY), utc_now())
    lab.ssh.program("login", "true")
    other = json.loads(json.dumps(POLICY).replace("hunter2", "hunter3"))
    lab.policy(other)
    with pytest.raises(PlanError, match=r"the request changed .digest"):
        run(lab, "login --password=hunter3", plan_id=plan)
    lab.policy(POLICY)
    run(lab, "login --password=hunter2", plan_id=plan)
    lab.policy(None)
    kept = [path for path in lab.state_dir.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert kept == []


def test_what_needs_an_approval_gets_no_input(lab: HandsLab, tmp_path: Path) -> None:
    (tmp_path / "input").touch()
    with (tmp_path / "input").open("rb") as file, pytest.raises(NotAllowedError, match="gets no input"):
        run(lab, "reload nginx", stdin=file)


def test_foretelling_runs_nothing_and_writes_nothing(lab: HandsLab) -> None:
    before = sorted(lab.state_dir.rglob("*"))
    assert foretell(lab, "uptime").refusal is None
    assert "not allowed" in (foretell(lab, "rm x").refusal or "")
    assert "is stopped" in (foretell(lab, "uptime", "off").refusal or "")
    with pytest.raises(PreflightError, match="no guest"):
        foretell(lab, "uptime", "nowhere")
    assert (lab.ssh.calls(), sorted(lab.state_dir.rglob("*"))) == ("", before)


def test_nothing_is_run_that_the_log_is_not_told_of(lab: HandsLab) -> None:
    (lab.state_dir / "audit").write_text("in the way")
    with pytest.raises(AuditError, match="the audit log"):
        run(lab, "uptime")
    assert lab.ssh.calls() == ""


def test_a_command_that_took_too_long_and_a_way_that_is_shut_are_failures(lab: HandsLab) -> None:
    lab.ssh.program("uptime", "echo begun; sleep 30")
    with pytest.raises(CommandTimeoutError, match=r"did not end within 0.5 s"):
        run(lab, "uptime", timeout_seconds=0.5)
    assert lab.audit()[-1]["result"]["stdout_bytes"] == 6
    lab.ssh.refuse("Connection refused")
    with pytest.raises(GuestShellError, match=r"no SSH to root@10.86.0.106: Connection refused"):
        run(lab, "uptime")
    assert outcomes(lab) == ["allowed", "failed"] * 2
    assert "rc" not in lab.audit()[-1]["result"]


# Logs


def catalogue(**logs: Any) -> dict[str, CatalogueEntry]:
    raw = {key: value for key, value in read_catalogue()["redis"].raw.items() if key != "logs"}
    return {"redis": parse_entry({**raw, **({"logs": logs} if logs else {})})}


Read = Callable[..., LogsRead]


@pytest.fixture
def read(lab: HandsLab) -> Read:
    def read_logs(name: str = "redis", wish: LogWish | None = None, **logs: Any) -> LogsRead:
        return Hands(site(lab, catalogue(**logs))).logs(name, wish or LogWish())

    return read_logs


def test_the_journal_of_the_unit_is_read_and_that_is_written_down(lab: HandsLab, read: Read) -> None:
    lab.ssh.program("journalctl", 'echo "$@"')
    log = read()
    assert log.lines == ("--no-pager --quiet --output=short-iso --lines=100 --unit=redis-server",)
    assert (str(log.source), log.limited) == ("the journal of unit redis-server", False)
    entry = lab.audit()[-1]
    assert (entry["operation"], entry["subject"], entry["outcome"]) == ("nhi_logs", "redis-cache", "done")
    assert entry["result"] == {"vmid": 105, "changed": False, "lines": 1, "stdout_bytes": len(log.lines[0]) + 1}


def test_a_container_is_read_with_both_its_streams_in_order(lab: HandsLab, read: Read) -> None:
    lab.ssh.program("docker", 'shift; echo "$*"; echo err >&2; echo out')
    since = utc_now() - timedelta(hours=1)
    log = read(wish=LogWish(3, since), docker="cache")
    assert log.lines == (f"--tail=3 --timestamps --since={int(since.timestamp())} -- cache", "err", "out")
    assert log.limited
    lab.ssh.program("docker", "echo 'Error: No such container: cache' >&2; exit 1")
    with pytest.raises(GuestShellError, match="container cache on redis-cache can not be read: Error: No such"):
        read(docker="cache")


def test_a_file_is_read_from_a_moment_on(lab: HandsLab, read: Read, tmp_path: Path) -> None:
    now = utc_now()
    times = [(now - timedelta(minutes=minutes)).isoformat() for minutes in (90, 30)]
    (tmp_path / "log").write_text(f"{times[0]} old\n{times[1]} young\n  of it\n")
    wish = LogWish(100, now - timedelta(hours=1))
    assert read(wish=wish, file=f"{tmp_path}/log").lines == (f"{times[1]} young", "  of it")
    assert read(wish=LogWish(2), file=f"{tmp_path}/log").limited
    (tmp_path / "log").write_text("no time\n")
    with pytest.raises(PreflightError, match="has a time that could be read"):
        read(wish=wish, file=f"{tmp_path}/log")
    with pytest.raises(GuestShellError, match=r"can not be read: .*No such file"):
        read(file=f"{tmp_path}/nothing")


def test_lines_are_shown_as_they_come_while_it_is_followed(lab: HandsLab) -> None:
    lab.ssh.program("journalctl", 'echo "$@"; echo two')
    shown: list[str] = []
    Hands(site(lab, catalogue())).logs("redis", LogWish(follow=True), shown.append)
    assert shown[0].endswith("--follow")
    assert shown[1:] == ["two"]


def test_logs_are_refused_where_the_policy_does_not_speak_of_them(lab: HandsLab, read: Read) -> None:
    lab.policy({**POLICY, "exec": [rule for rule in POLICY["exec"] if "logs" not in rule]})
    with pytest.raises(NotAllowedError, match="reading logs on redis-cache is not allowed"):
        read()
    assert outcomes(lab) == ["refused"]
    for lines in (0, 10_001, -5):
        with pytest.raises(PreflightError, match="lines can not be shown"):
            read(wish=LogWish(lines))


def test_a_service_without_a_known_log_says_so(lab: HandsLab) -> None:
    with pytest.raises(PreflightError, match="nobody knows where redis keeps its log"):
        Hands(site(lab)).logs("redis", LogWish())
