# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi plans`, `approve`, `reject`, `freeze`: what an operator sees and decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.change_gate import Change, Gate
from ansible_collections.nhi.core.plugins.module_utils.policy import parse_policy
from nhi_services import plan_command
from nhi_services.cli import main

POLICY = {"schema_version": 1, "operators": ["luca"], "rules": [{"operations": ["create"], "decision": "allow"}]}
CHANGE = Change(
    "redis-cache", ("destroy",), {"summary": ["Destroy container 105 redis-cache.", "web \x1b[31mwould stop."]},
    targets=({"vmid": 105, "name": "redis-cache"},),
)  # fmt: skip


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings = tmp_path / "nhi.toml"
    settings.touch()
    monkeypatch.setenv("NHI_CONFIG", str(settings))
    monkeypatch.setenv("NHI_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(plan_command, "current_person", lambda: "luca")
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    return tmp_path


@pytest.fixture
def plan_id(state_dir: Path) -> str:
    return (
        Gate(state_dir, parse_policy(POLICY), "aider", {"name": "redis-cache", "state": "absent"}).issue(CHANGE).plan_id
    )


def test_a_plan_is_listed_shown_and_approved(state_dir: Path, plan_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plans"]) == 0
    listed = capsys.readouterr().out
    assert plan_id in listed
    assert "waiting" in listed
    assert "Destroy container 105 redis-cache." in listed
    assert main(["plans", plan_id]) == 0
    shown = capsys.readouterr().out
    assert "aider" in shown
    assert 'state: "absent"' in shown
    assert "\x1b" not in shown, "what comes from elsewhere plays with the terminal"
    assert main(["approve", plan_id]) == 0
    assert "is approved by luca" in capsys.readouterr().out
    assert main(["plans", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert [(p["plan_id"], p["status"], p["approved"]["by"]) for p in plans] == [(plan_id, "approved", "luca")]
    assert "nonce" not in plans[0]
    assert main(["approve", plan_id]) == 1
    assert "is approved: nothing is left to decide" in capsys.readouterr().err


def test_a_rejection_has_a_reason_for_whoever_asked(
    state_dir: Path, plan_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reject", plan_id, "the", "shop", "needs", "it"]) == 0
    assert main(["plans", plan_id]) == 0
    assert "by luca" in (out := capsys.readouterr().out)
    assert "the shop needs it" in out


@pytest.mark.parametrize("plan", ["plan-x", "../policy", "plan-" + "a" * 26])
def test_a_plan_that_is_not_there_is_one_line(state_dir: Path, plan: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("approve", "reject", "plans"):
        assert main([command, plan]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_without_a_policy_or_with_a_broken_one_nobody_approves(
    state_dir: Path, plan_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (state_dir / "policy.json").write_text("{}")
    assert main(["approve", plan_id]) == 1
    assert "nothing is allowed" in capsys.readouterr().err
    (state_dir / "policy.json").unlink()
    assert main(["approve", plan_id]) == 1
    assert "without a policy nobody can approve" in capsys.readouterr().err


def test_who_asked_can_not_say_in_a_variable_that_he_is_somebody_else(
    state_dir: Path, plan_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("NHI_STATE_DIR", str(state_dir))
    monkeypatch.setenv("NHI_CONFIG", str(state_dir / "nhi.toml"))
    monkeypatch.setenv("NHI_ACTOR", "luca")
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert main(["approve", plan_id]) == 1
    assert "may not decide on plans" in capsys.readouterr().err


def test_a_freeze_is_told_and_ends(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["freeze", "too", "hot"]) == 0
    assert "frozen by luca" in capsys.readouterr().out
    assert (state_dir / "FREEZE").exists()
    assert main(["unfreeze"]) == 0
    assert "too hot" in capsys.readouterr().out
    assert main(["unfreeze"]) == 0
    assert "were not frozen" in capsys.readouterr().out


def test_each_decision_is_in_the_audit_log(state_dir: Path, plan_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["approve", plan_id]) == 0
    assert main(["approve", plan_id]) == 1
    assert main(["freeze", "enough"]) == 0
    assert main(["unfreeze"]) == 0
    told = [(e["operation"], e["outcome"], e["actor"], e["subject"], e["plan"]) for e in find(state_dir, Query())]
    about = ("luca", "redis-cache", plan_id)
    assert told == [
        ("approve", "allowed", *about), ("approve", "done", *about),
        ("approve", "allowed", *about), ("approve", "refused", *about),
        ("freeze", "done", "luca", None, None),
        ("unfreeze", "allowed", "luca", None, None), ("unfreeze", "done", "luca", None, None),
    ]  # fmt: skip
    assert next(find(state_dir, Query()))["params"]["asked_by"] == "aider"


def test_an_audit_log_that_can_not_be_written_stops_an_approval_and_no_freeze(
    state_dir: Path, plan_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (state_dir / "audit").write_text("in the way")
    assert main(["approve", plan_id]) == 1
    assert "Nothing is changed that the audit log is not told of" in capsys.readouterr().err
    assert main(["freeze", "enough"]) == 0
    assert "The audit log was not told" in capsys.readouterr().out
    (state_dir / "audit").unlink()
    assert main(["plans", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "waiting"
