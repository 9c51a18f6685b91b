# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi history`, `nhi diff`, `nhi rollback`, `nhi state show --at` and `nhi state restore` as a person calls them."""

from __future__ import annotations

import json
import os
import shlex
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import UnreachableError
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.histories import damage, known
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import full_document, make_guest
from nhi_services import scan_command
from nhi_services.cli import main
from nhi_services.history_commands import rollback_command

if TYPE_CHECKING:
    from ansible_collections.nhi.core.plugins.module_utils.state_document import Document

HOUR = timedelta(hours=1)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PROXMOX_", "NHI_")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    (tmp_path / "nhi.toml").touch()
    monkeypatch.setenv("NHI_CONFIG", str(tmp_path / "nhi.toml"))
    monkeypatch.setenv("NHI_STATE_DIR", str(tmp_path / "state"))


def now_document() -> Document:
    """redis-cache is gone, a guest with a nasty name is new, and another lost memory."""
    document = full_document()
    infrastructure = document["infrastructure"]
    infrastructure["guests"] = [make_guest(102, memory_mib=512), make_guest(120, name="new\x1b[2J{{ x }}")]
    infrastructure["services"] = []
    return document


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A state directory: the full document three hours ago, another one now."""
    directory = tmp_path / "state"
    then = utc_now() - 3 * HOUR
    History(directory).take(known(full_document(), then - HOUR / 12), then, reason="on the hour", actor="nhi")
    StateStore(directory).write(now_document(), expected_checksum=None)
    return directory


def corrupt(lab: Path) -> None:
    (lab / "state.json").write_text("{}")


def ran(capsys: Capture, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys: Capture, *arguments: str) -> str:
    assert main(list(arguments)) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


class TestHistory:
    def test_taking_lists_the_snapshot_with_who_and_why(
        self, lab: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NHI_ACTOR", "aider")
        path = ran(capsys, "history", "take", "--critical", "--reason", "before the move").strip()
        assert Path(path).name.startswith("state_CRITICAL_")
        assert "holds this state already" in ran(capsys, "history", "take", "--critical")
        table = ran(capsys, "history", "list").splitlines()
        assert [line.split()[-3:] for line in table[1:]] == [["on", "the", "hour"], ["before", "the", "move"]]
        assert "aider" in table[2]
        listed = json.loads(ran(capsys, "history", "list", "--json"))
        assert [(one["reason"], one["critical"], one["problem"]) for one in listed] == [
            ("on the hour", False, None), ("before the move", True, None),
        ]  # fmt: skip

    def test_a_damaged_snapshot_is_named(self, lab: Path, capsys: Capture) -> None:
        damage(History(lab).snapshots()[0])
        assert ran(capsys, "history", "list").splitlines()[1].endswith("damaged")
        out = ran(capsys, "history", "prune")
        assert out.startswith("damaged: ")
        assert "does not match its checksum" in out

    def test_a_reason_can_not_play_with_the_terminal(self, lab: Path, capsys: Capture) -> None:
        ran(capsys, "history", "take", "--reason", "x\x1b[2Jy")
        corrupt(lab)
        assert "x?[2Jy" in ran(capsys, "history", "list")
        assert "(x?[2Jy)" in ran(capsys, "state", "restore", "--check")

    def test_there_are_none_yet(self, capsys: Capture) -> None:
        assert ran(capsys, "history", "list").startswith("There are no snapshots yet")
        assert "There is no" in refused(capsys, "history", "take")

    def test_pruning_follows_the_settings(self, lab: Path, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "nhi.toml").write_text("[history]\nfull_hours = 0\nhourly_days = 0\ndaily_days = 0\n")
        ran(capsys, "history", "take")
        assert ran(capsys, "history", "prune", "--check") == "1 would be removed, 0 compressed, 1 kept\n"
        assert len(History(lab).snapshots()) == 2
        assert ran(capsys, "history", "prune") == "1 removed, 0 compressed, 1 kept\n"
        assert ran(capsys, "history", "prune") == "nothing to do: 1 snapshots\n"

    @pytest.mark.parametrize("line", ["daily_days = -1", "daily_days = 'x'", "weekly = 1"])
    def test_wrong_settings_are_refused(self, tmp_path: Path, capsys: Capture, line: str) -> None:
        (tmp_path / "nhi.toml").write_text(f"[history]\n{line}\n")
        assert main(["history", "prune"]) == 2
        assert "nhi.toml" in capsys.readouterr().err


class TestTimeTravel:
    def test_the_state_at_a_past_moment_is_shown_and_said_which(self, lab: Path, capsys: Capture) -> None:
        path = "infrastructure.guests[?vmid==`105`].name | [0]"
        assert main(["state", "show", path, "--at", "2 hours ago"]) == 0
        out, err = capsys.readouterr()
        assert out == "redis-cache\n"
        assert err.startswith("state_20")
        assert "the last snapshot before" in err
        assert main(["state", "show", path, "--at", "now", "--json"]) == 0
        assert capsys.readouterr().out == "null\n"

    def test_a_moment_before_the_history_is_refused(self, lab: Path, capsys: Capture) -> None:
        assert "the oldest snapshot is state_20" in refused(capsys, "state", "show", "--at", "2020-01-01")
        assert "has not come yet" in refused(capsys, "diff", "tomorrow 14:00")
        assert "name the earlier one first" in refused(capsys, "diff", "now", "2 hours ago")

    def test_the_difference_is_told_to_people_and_programs(self, lab: Path, capsys: Capture) -> None:
        lines = ran(capsys, "diff", "3 hours ago").splitlines()
        assert "state.json" in lines[0]
        assert lines[1] == "guest 102 guest-102 changed: memory 4096 -> 512 MiB"
        assert lines[2].startswith("guest 105 redis-cache existed at ")
        assert lines[2].endswith(", not now")
        assert "guest 120 new?[2J{{ x }} did not exist" in lines[3]
        data = json.loads(ran(capsys, "diff", "3 hours ago", "now", "--json"))
        assert [(c["kind"], c["change"]) for c in data["changes"]] == [
            ("guest", "changed"), ("guest", "disappeared"), ("guest", "appeared"), ("service", "disappeared"),
        ]  # fmt: skip
        assert data["from"]["source"].startswith("state_20")

    def test_two_equal_moments_differ_in_nothing(self, lab: Path, capsys: Capture) -> None:
        assert ran(capsys, "diff", "2 hours ago", "1 hour ago").splitlines()[-1] == "nothing differs"

    def test_a_rollback_is_a_plan_that_changes_nothing(self, lab: Path, capsys: Capture) -> None:
        before = {path: path.read_bytes() for path in lab.rglob("*") if path.is_file()}
        text = ran(capsys, "rollback", "3 hours ago")
        assert "nothing is done yet" in text
        assert "1. Create redis-cache (lxc) on pve again" in text
        assert "it is left alone" in text
        assert "\x1b" not in text
        data = json.loads(ran(capsys, "rollback", "3 hours ago", "--json"))
        assert [step["kind"] for step in data["steps"]] == ["recreate", "correct"]
        assert {path: path.read_bytes() for path in lab.rglob("*") if path.is_file()} == before

    def test_no_rollback_is_planned_from_a_state_that_is_not_known(self, lab: Path, capsys: Capture) -> None:
        corrupt(lab)
        assert "does not match its checksum" in refused(capsys, "rollback", "3 hours ago")


class TestRestore:
    def test_it_restores_scans_and_says_what_it_did(
        self, lab: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def scan(_settings: Any, _secret: Any, *, full: bool) -> Any:
            assert full
            assert StateStore(lab).read().document["infrastructure"]["guests"][0]["freshness"] == "stale"
            return SimpleNamespace()

        monkeypatch.setattr(scan_command, "scan", scan)
        monkeypatch.setattr(scan_command, "in_words", lambda _report: "2 guests on 1 node")
        corrupt(lab)
        assert "would be restored" in ran(capsys, "state", "restore", "--check")
        lines = ran(capsys, "state", "restore").splitlines()
        assert lines[0] == f"{lab / 'state.json'} does not match its checksum."
        assert "is restored from state_20" in lines[1]
        assert lines[2] == "2 guests on 1 node"
        assert ran(capsys, "state", "restore").endswith("nothing to restore.\n")

    def test_a_scan_that_fails_leaves_the_restored_state_and_says_so(
        self, lab: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def scan(*_arguments: Any, **_options: Any) -> Any:
            raise UnreachableError("pve does not answer.")

        monkeypatch.setattr(scan_command, "scan", scan)
        corrupt(lab)
        assert main(["state", "restore"]) == 1
        out, err = capsys.readouterr()
        assert "is restored from" in out
        assert err == (
            "nhi: The scan that has to follow failed, so state.json is stale: pve does not answer. "
            "Then run `nhi scan --full`.\n"
        )
        assert StateStore(lab).validate().document["infrastructure"]["guests"]

    def test_without_a_scan_it_says_that_one_is_due(self, lab: Path, capsys: Capture) -> None:
        corrupt(lab)
        assert ran(capsys, "state", "restore", "--no-scan").endswith("nhi scan --full\n")


@pytest.mark.parametrize("moment", ["yesterday 14:00", "2026-11-26T14:00+01:00", "it's 2 hours ago"])
def test_the_command_for_a_rollback_hands_on_the_whole_moment(moment: str) -> None:
    *_command, option, given = shlex.split(rollback_command(moment))
    assert (option, json.loads(given)) == ("-e", {"to": moment})
