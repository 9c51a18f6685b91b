# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, files and result out: nhi_files on a real file system."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.nhi.core.plugins.module_utils import config_files
from ansible_collections.nhi.core.plugins.modules import nhi_files

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*files: dict[str, Any], check: bool = False, diff: bool = False, **more: Any) -> dict[str, Any]:
        arguments = {"files": list(files), "_ansible_check_mode": check, "_ansible_diff": diff, **more}
        with patch_module_args(arguments), pytest.raises(SystemExit) as caught:
            nhi_files.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == (caught.value.code != 0)
        return result

    return call


def file(path: Path, content: str = "new\n", **more: Any) -> dict[str, Any]:
    return {"path": str(path), "content": content, **more}


def snapshot(directory: Path) -> dict[str, tuple[int, bytes | str | None]]:
    def what(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_bytes() if path.is_file() else None

    return {str(p.relative_to(directory)): (p.lstat().st_mode, what(p)) for p in sorted(directory.rglob("*"))}


def test_files_and_missing_directories_are_made_and_a_second_run_changes_nothing(tmp_path: Path, run: Run) -> None:
    files = [file(tmp_path / "a.conf", mode="0640"), file(tmp_path / "unit.d/sub/b.conf", "[Unit]\n")]
    result = run(*files)
    assert result["changed"]
    assert result["files"] == [f["path"] for f in files]
    assert (tmp_path / "a.conf").read_text() == "new\n"
    assert stat.S_IMODE((tmp_path / "a.conf").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "unit.d/sub/b.conf").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "unit.d").stat().st_mode) == 0o755
    before = snapshot(tmp_path)
    assert not run(*files)["changed"]
    assert snapshot(tmp_path) == before
    assert not [name for name in before if "nhi-" in name]


def test_check_mode_and_diff_tell_and_write_nothing(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.conf").write_text("old\n")
    (tmp_path / "a.conf").chmod(0o600)
    before = snapshot(tmp_path)
    files = [file(tmp_path / "a.conf", mode="0644"), file(tmp_path / "d/b.conf")]
    result = run(*files, check=True, diff=True)
    assert result["changed"]
    assert snapshot(tmp_path) == before
    contents = [(d.get("before"), d.get("after")) for d in result["diff"]]
    path = str(tmp_path / "a.conf")
    assert ("old\n", "new\n") in contents
    assert ({"path": path, "mode": "0600"}, {"path": path, "mode": "0644"}) in contents
    assert ("", "new\n") in contents


def test_owner_and_mode_alone_are_corrected(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.conf").write_text("new\n")
    (tmp_path / "a.conf").chmod(0o666)
    assert run(file(tmp_path / "a.conf", mode="0600"))["changed"]
    assert stat.S_IMODE((tmp_path / "a.conf").stat().st_mode) == 0o600
    assert not run(file(tmp_path / "a.conf", mode="600"))["changed"]


def test_what_is_not_named_stays(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.conf").write_text("old\n")
    (tmp_path / "a.conf").chmod(0o604)
    if os.geteuid() == 0:
        os.chown(tmp_path / "a.conf", 1234, 2345)
    before = (tmp_path / "a.conf").stat()
    assert run(file(tmp_path / "a.conf"))["changed"]
    after = (tmp_path / "a.conf").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize("check", [False, True])
def test_a_program_that_refuses_one_file_keeps_all_as_they_are(tmp_path: Path, run: Run, check: bool) -> None:
    (tmp_path / "a.conf").write_text("old\n")
    before = snapshot(tmp_path)
    bad = file(
        tmp_path / "b.conf", "bad\n", validate="sh -c 'grep -q good \"$0\" || { echo no good: $0 >&2; exit 3; }' %s"
    )
    result = run(file(tmp_path / "a.conf"), bad, check=check)
    assert result["failed"]
    assert f"no good: {tmp_path}/b.conf" in result["msg"]
    assert "exit status 3" in result["msg"]
    assert snapshot(tmp_path) == before
    good = {**bad, "content": "good\n"}
    assert run(file(tmp_path / "a.conf"), good, check=check)["changed"]


def test_a_program_that_is_not_there_is_a_refusal(tmp_path: Path, run: Run) -> None:
    result = run(file(tmp_path / "a.conf", validate="/nonexistent/check %s"))
    assert "did not run" in result["msg"]
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("broken_at", range(1, 4))
def test_a_failure_at_any_file_takes_the_others_back(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, broken_at: int
) -> None:
    (tmp_path / "a.conf").write_text("old\n")
    (tmp_path / "target").write_text("elsewhere\n")
    (tmp_path / "link.conf").symlink_to("target")
    before = snapshot(tmp_path)
    rename, count = Path.rename, 0

    def breaking(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == broken_at:
            raise OSError(28, "No space left on device", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", breaking)
    result = run(file(tmp_path / "a.conf"), file(tmp_path / "link.conf"), file(tmp_path / "new.d/c.conf"))
    assert result["failed"]
    assert "no space left on device; nothing was changed" in result["msg"]
    assert count == broken_at
    assert snapshot(tmp_path) == before


def test_a_link_is_replaced_by_the_file_and_its_target_left_alone(tmp_path: Path, run: Run) -> None:
    (tmp_path / "target").write_text("elsewhere\n")
    (tmp_path / "link.conf").symlink_to("target")
    assert run(file(tmp_path / "link.conf"))["changed"]
    assert not (tmp_path / "link.conf").is_symlink()
    assert (tmp_path / "target").read_text() == "elsewhere\n"


def test_a_file_is_complete_before_it_has_its_name(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is never readable for those who may not, not even for a moment."""
    modes: list[int] = []
    rename = Path.rename

    def looking(self: Path, target: Path) -> Path:
        modes.append(stat.S_IMODE(self.stat().st_mode))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", looking)
    run(file(tmp_path / "secret.conf", mode="0600"))
    assert modes == [0o600]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "etc/a.conf"}, "no absolute path"),
        ({"path": "/etc/../a.conf"}, "no absolute path"),
        ({"path": "/tmp/x", "mode": "u=rw"}, "not octal"),
        ({"path": "/tmp/x", "mode": "0999"}, "not octal"),
        ({"path": "/tmp/x", "validate": "true"}, "put %s there"),
    ],
)
def test_what_can_not_be_meant_is_refused(run: Run, options: dict[str, Any], said: str) -> None:
    result = run({"content": "x", **options})
    assert result["failed"]
    assert said in result["msg"]


def test_what_is_in_the_way_is_named(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.conf").mkdir()
    assert "is there and no file" in run(file(tmp_path / "a.conf"))["msg"]
    assert "named twice" in run(file(tmp_path / "b"), file(tmp_path / "b"))["msg"]
    (tmp_path / "plain").write_text("")
    result = run(file(tmp_path / "ok.conf"), file(tmp_path / "plain/c.conf"))
    assert "can not be written" in result["msg"]
    assert not (tmp_path / "ok.conf").exists()


def test_a_user_who_is_not_there_is_foretold_in_check_mode_and_refused_otherwise(tmp_path: Path, run: Run) -> None:
    wanted = file(tmp_path / "a.conf", owner="nobody-of-that-name")
    assert run(wanted, check=True)["changed"]
    assert "there is no user nobody-of-that-name" in run(wanted)["msg"]
    assert snapshot(tmp_path) == {}


def test_content_that_is_no_text_is_not_printed(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.conf").write_bytes(b"\xff\xfe\x00")
    result = run(file(tmp_path / "a.conf"), diff=True)
    assert result["diff"][0]["before"] == "(3 bytes that are no text)\n"


def test_leftovers_of_a_killed_run_are_no_obstacle(tmp_path: Path, run: Run) -> None:
    target = tmp_path / "a.conf"
    target.write_text("old\n")
    config_files._aside(target).write_text("half")
    config_files._earlier(target).write_text("older")
    assert run(file(target))["changed"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.conf"]


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A systemctl that knows one unit, started and last reloaded so many seconds ago."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def known(*, started: float, reloaded: float, state: str = "active") -> None:
        now = time.monotonic()
        said = {
            "ActiveState": state,
            "ExecMainStartTimestampMonotonic": int((now - started) * 1e6),
            "StateChangeTimestampMonotonic": int((now - reloaded) * 1e6),
        }
        lines = "\n".join(f"{key}={value}" for key, value in said.items())
        (programs / "systemctl").write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
        (programs / "systemctl").chmod(0o755)

    return known


def aged(path: Path, seconds: float) -> Path:
    path.write_text("new\n")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


@pytest.mark.parametrize("check", [False, True])
def test_a_service_that_runs_without_having_read_its_file_is_told(
    tmp_path: Path, run: Run, unit: Callable[..., None], check: bool
) -> None:
    """As after a run that was killed between writing the file and restarting the service."""
    old, young = aged(tmp_path / "old.conf", 500), aged(tmp_path / "young.conf", 50)
    unit(started=100, reloaded=20)
    result = run(file(old), file(young), unit="redis-server", check=check)
    assert (result["changed"], result["files"], result["unread"]) == (True, [], [str(young)])
    assert not run(file(old), file(young), unit="redis-server", read_at="reload", check=check)["changed"]
    unit(started=10, reloaded=10)
    assert not run(file(old), file(young), unit="redis-server", check=check)["changed"]


def test_a_service_that_does_not_run_or_is_not_known_has_nothing_to_read_again(
    tmp_path: Path, run: Run, unit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    young = aged(tmp_path / "young.conf", 5)
    unit(started=100, reloaded=100, state="inactive")
    assert not run(file(young), unit="redis-server")["changed"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert not run(file(young), unit="redis-server")["changed"]
