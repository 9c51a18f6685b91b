# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: nhi_snapshot, nhi_snapshot_info, nhi_state_diff_info."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.plugins.modules import nhi_snapshot, nhi_snapshot_info, nhi_state_diff_info
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.histories import damage, known, take
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import full_document, make_document

Run = Callable[..., dict[str, Any]]
DAY = timedelta(days=1)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "nhi"
    StateStore(directory).write(full_document(), expected_checksum=None)
    return directory


@pytest.fixture
def run(state_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(nhi_snapshot, "StateStore", partial(StateStore, patience=0))

    def call(module: ModuleType, *, check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {"state_dir": str(state_dir), "_ansible_check_mode": check, "_ansible_diff": True, **options}
        with patch_module_args(arguments), pytest.raises(SystemExit) as ended:
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == (ended.value.code != 0)
        return result

    return call


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock"}


class TestPresent:
    def test_foretold_taken_and_not_taken_again(self, run: Run, state_dir: Path) -> None:
        before = files(state_dir)
        foretold = run(nhi_snapshot, check=True, reason="before the move")
        assert (foretold["changed"], foretold["snapshot"]) == (True, None)
        assert files(state_dir) == before
        taken = run(nhi_snapshot, reason="before the move")
        assert (taken["changed"], taken["snapshot"]["reason"]) == (True, "before the move")
        assert taken["diff"] == {"before": {"snapshots": []}, "after": {"snapshots": [taken["snapshot"]["name"]]}}
        for check in (False, True):
            again = run(nhi_snapshot, check=check, reason="again")
            assert (again["changed"], again["snapshot"]) == (False, taken["snapshot"])
            assert again["diff"]["before"] == again["diff"]["after"]

    def test_a_critical_one_is_of_its_own(self, run: Run) -> None:
        run(nhi_snapshot)
        assert run(nhi_snapshot, critical=True)["snapshot"]["critical"]
        assert not run(nhi_snapshot, critical=True)["changed"]

    def test_without_a_state_it_fails_in_one_line(self, run: Run, tmp_path: Path) -> None:
        result = run(nhi_snapshot, state_dir=str(tmp_path / "empty"))
        assert "run a scan" in result["msg"]


class TestPruned:
    def test_foretold_done_and_done_once(self, run: Run, state_dir: Path) -> None:
        for age in (100, 10, 0):
            take(state_dir, f"n{age}", utc_now() - age * DAY)
        damage(take(state_dir, "damaged", utc_now() - 5 * DAY))
        before = files(state_dir)
        foretold = run(nhi_snapshot, check=True, state="pruned")
        assert files(state_dir) == before
        done = run(nhi_snapshot, state="pruned")
        assert [len(done[key]) for key in ("removed", "compressed", "damaged")] == [1, 1, 1]
        assert {k: v for k, v in done.items() if k != "invocation"} == {
            k: v for k, v in foretold.items() if k != "invocation"
        }
        assert done["changed"]
        assert "does not match its checksum" in str(done["warnings"][-1])
        assert not run(nhi_snapshot, state="pruned")["changed"]

    def test_a_wrong_policy_fails(self, run: Run) -> None:
        assert "0 or more" in run(nhi_snapshot, state="pruned", daily_days=-1)["msg"]


class TestRestored:
    def test_foretold_done_and_done_once(self, run: Run, state_dir: Path) -> None:
        taken = run(nhi_snapshot)["snapshot"]
        (state_dir / "state.json").write_text("{}")
        foretold = run(nhi_snapshot, check=True, state="restored")
        assert (foretold["changed"], foretold["revision"], foretold["snapshot"]) == (True, None, taken)
        assert (state_dir / "state.json").read_text() == "{}"
        done = run(nhi_snapshot, state="restored")
        assert (done["changed"], done["snapshot"], done["damage"]) == (True, taken, foretold["damage"])
        assert StateStore(state_dir).validate().revision == done["revision"]
        again = run(nhi_snapshot, state="restored")
        assert (again["changed"], again["damage"]) == (False, None)
        assert again["diff"]["before"] == again["diff"]["after"]

    def test_snapshots_that_were_passed_over_are_warned_of(self, run: Run, state_dir: Path) -> None:
        run(nhi_snapshot)
        damage(History(state_dir).snapshots()[0])
        (state_dir / "state.json").write_text("{}")
        done = run(nhi_snapshot, state="restored")
        assert (done["changed"], done["snapshot"]) == (True, None)
        assert "Passed over state_" in str(done["warnings"][-1])
        assert "begins from nothing" in done["summary"][-1]


@pytest.fixture
def yesterday(state_dir: Path) -> str:
    """There were guests yesterday, and there are none now."""
    at = utc_now() - DAY
    History(state_dir).take(known(full_document(), at), at, reason="on the hour", actor="nhi")
    StateStore(state_dir).update(lambda _document: make_document())
    return (at + timedelta(minutes=5)).isoformat()


class TestInfo:
    def test_snapshots_are_listed_with_what_is_wrong(self, run: Run, state_dir: Path, yesterday: str) -> None:
        run(nhi_snapshot, reason="today")
        damage(History(state_dir).snapshots()[0])
        result = run(nhi_snapshot_info)
        assert not result["changed"]
        assert [one["reason"] for one in result["snapshots"]] == ["on the hour", "today"]
        assert [bool(one["problem"]) for one in result["snapshots"]] == [True, False]
        assert "value" not in result

    def test_the_state_at_a_moment_is_read(self, run: Run, yesterday: str) -> None:
        result = run(nhi_snapshot_info, at=yesterday, path="infrastructure.guests[].vmid")
        assert result["value"] == [102, 105]
        assert result["view"]["source"] == result["snapshots"][0]["name"]
        assert "the last snapshot before" in str(result["warnings"][-1])
        assert run(nhi_snapshot_info, at="now")["value"]["infrastructure"]["guests"] == []

    def test_a_path_needs_a_moment(self, run: Run) -> None:
        assert "at" in run(nhi_snapshot_info, path="meta")["msg"]

    def test_a_moment_that_nobody_understands_fails(self, run: Run) -> None:
        assert "no moment that NHI understands" in run(nhi_snapshot_info, at="14")["msg"]


class TestDiff:
    def test_what_differs_is_told_with_the_way_back(self, run: Run, yesterday: str) -> None:
        result = run(nhi_state_diff_info, since=yesterday)
        assert not result["changed"]
        assert {(c["kind"], c["change"]) for c in result["changes"]} >= {("guest", "disappeared")}
        assert len(result["text"]) == len(result["changes"])
        assert [step["guest"] for step in result["rollback"]["steps"]] == ["guest-102", "redis-cache"]

    def test_between_two_past_moments_there_is_no_way_back(self, run: Run, yesterday: str) -> None:
        result = run(nhi_state_diff_info, since=yesterday, up_to=(utc_now() - DAY / 2).isoformat())
        assert result["changes"] == []
        assert "rollback" not in result

    def test_a_moment_before_the_history_fails(self, run: Run, yesterday: str) -> None:
        assert "Nothing tells of" in run(nhi_state_diff_info, since="2020-01-01")["msg"]
