# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log's files: what is written, by whom it can be read, what survives."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import audit_log
from ansible_collections.nhi.core.plugins.module_utils.audit_entry import FIRST_PREVIOUS, read_line
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog, directory_of, read_head, segments
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, after, entries_about, find, newest
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify
from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError


def fields(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"operation": "nhi_vm/present", "subject": f"guest-{number}", "actor": "aider", "outcome": "done", **more}


def fill(state_dir: Path, count: int, **options: Any) -> list[dict[str, Any]]:
    log = AuditLog(state_dir, **options)
    for number in range(count):
        log.append(fields(number))
    return list(find(state_dir, Query()))


def only_file(state_dir: Path) -> Path:
    (segment,) = segments(directory_of(state_dir))
    return segment.path


class Clock(datetime):
    """A moment that a test chooses."""

    moment = datetime(2026, 11, 27, 12, tzinfo=UTC)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.moment


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(audit_log, "datetime", Clock)
    monkeypatch.setattr(Clock, "moment", datetime(2026, 11, 27, 12, tzinfo=UTC))
    return Clock


def test_entries_are_chained_lines_of_canonical_json(tmp_path: Path) -> None:
    first, second = fill(tmp_path, 2)
    assert (first["seq"], first["previous"]) == (1, FIRST_PREVIOUS)
    assert (second["seq"], second["previous"], second["chain"]) == (2, first["hash"], first["chain"])
    lines = only_file(tmp_path).read_bytes().split(b"\n")
    assert [read_line(line) for line in lines[:-1]] == [first, second]
    assert lines[-1] == b""
    assert verify(tmp_path).as_data()["entries"] == 2
    assert verify(tmp_path).whole


def test_an_empty_log_is_whole(tmp_path: Path) -> None:
    assert verify(tmp_path).whole
    assert newest(tmp_path, 5) == []


def test_owner_writes_group_reads_and_others_see_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        fill(tmp_path, 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory_of(tmp_path).stat().st_mode) == 0o750
    assert {stat.S_IMODE(p.stat().st_mode) for p in (only_file(tmp_path), directory_of(tmp_path) / "head.json")} == {
        0o640
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4712)
    fill(tmp_path, 1)
    assert {(p.stat().st_uid, p.stat().st_gid) for p in (directory_of(tmp_path), only_file(tmp_path))} == {(4711, 4712)}
    assert (directory_of(tmp_path) / "head.json").stat().st_uid == 4711


def test_the_chain_goes_on_in_a_new_file_when_one_is_full(tmp_path: Path) -> None:
    entries = fill(tmp_path, 9, file_limit_bytes=1000)
    files = segments(directory_of(tmp_path))
    assert len(files) > 2
    assert all(s.path.stat().st_size <= 1000 for s in files)
    assert [e["seq"] for e in entries] == list(range(1, 10))
    assert verify(tmp_path).whole
    assert [e["seq"] for e, _line in after(tmp_path, 6)] == [7, 8, 9]


def test_each_day_has_a_file_also_when_the_clock_is_set_back(tmp_path: Path, clock: type[Clock]) -> None:
    log = AuditLog(tmp_path)
    for days in (0, 1, -1):
        clock.moment = datetime(2026, 11, 27, 12, tzinfo=UTC) + timedelta(days=days)
        log.append(fields())
    names = [s.path.name for s in segments(directory_of(tmp_path))]
    assert names == [
        "audit_000000000001_2026-11-27.jsonl",
        "audit_000000000002_2026-11-28.jsonl",
        "audit_000000000003_2026-11-26.jsonl",
    ]
    assert verify(tmp_path).whole


def test_values_of_any_kind_and_size_become_an_entry_of_bounded_size(tmp_path: Path) -> None:
    odd = {
        "bytes": b"\xff",
        "nan": float("nan"),
        "path": Path("/x"),
        "set": {"b", "a"},
        "odd": "\udcff\0\n\x1b[31m",
    }
    deep: list[Any] = []
    for _level in range(50):
        deep = [deep]
    AuditLog(tmp_path).append(
        fields(
            params={**odd, "deep": deep, "bulk": ["x" * 900] * 100, "text": "y" * 5000},
            result={f"{n}": "x" * 50 for n in range(999)},
        )
    )
    (entry,) = find(tmp_path, Query())
    assert entry["params"]["set"] == ["a", "b"]
    assert entry["params"]["nan"] == "nan"
    assert entry["params"]["bulk"].endswith("bytes left out)")
    assert entry["params"]["text"].endswith("... (5000 characters)")
    assert entry["params"]["odd"] == "\\udcff\\x00\n\x1b[31m"
    assert entry["result"].endswith("bytes left out)")
    assert only_file(tmp_path).read_bytes().count(b"\n") == 1
    assert b"\x1b" not in only_file(tmp_path).read_bytes()
    assert verify(tmp_path).whole


def test_a_torn_last_line_is_no_damage_and_the_next_writer_removes_it(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with only_file(tmp_path).open("ab") as file:
        file.write(b'{"actor":"ai')
    report = verify(tmp_path)
    assert report.whole
    assert "is torn" in report.notes[0]
    assert [e["seq"] for e in fill(tmp_path, 1)] == [1, 2, 3]
    assert verify(tmp_path).notes == []


def test_an_entry_that_the_head_does_not_know_yet_counts(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    old_head = (directory_of(tmp_path) / "head.json").read_bytes()
    fill(tmp_path, 2)
    (directory_of(tmp_path) / "head.json").write_bytes(old_head)
    assert [e["seq"] for e in fill(tmp_path, 1)] == [1, 2, 3, 4, 5]
    assert verify(tmp_path).whole


def test_entries_missing_at_the_end_are_found_and_stay_a_gap_when_the_log_goes_on(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    lines = only_file(tmp_path).read_bytes().splitlines(keepends=True)
    only_file(tmp_path).write_bytes(lines[0])
    assert verify(tmp_path).findings == [
        "2 entries are missing at the end: head.json says that the log goes on to entry 3"
    ]
    AuditLog(tmp_path).append(fields(9))
    assert verify(tmp_path).findings == [
        f"{segments(directory_of(tmp_path))[1].path.name} line 1: entries 2 to 3 are missing before entry 4"
    ]


def test_the_removal_of_a_whole_file_is_found(tmp_path: Path) -> None:
    fill(tmp_path, 9, file_limit_bytes=1000)
    first, *_others, last = segments(directory_of(tmp_path))
    kept = last.path.read_bytes()
    last.path.unlink()
    assert "missing at the end" in verify(tmp_path).findings[0]
    last.path.write_bytes(kept)
    first.path.unlink()
    assert "entries 1 to" in verify(tmp_path).findings[0]


def test_a_log_without_its_head_goes_on_and_the_loss_is_told(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    (directory_of(tmp_path) / "head.json").unlink()
    assert "head.json is missing" in verify(tmp_path).findings[0]
    assert [e["seq"] for e in fill(tmp_path, 1)] == [1, 2, 3, 4]
    (directory_of(tmp_path) / "head.json").write_text("{}")
    assert "head.json is damaged" in verify(tmp_path).findings[0]
    assert [e["seq"] for e in fill(tmp_path, 1)] == [1, 2, 3, 4, 5]
    assert verify(tmp_path).whole


def test_a_chain_that_was_computed_anew_is_not_the_one_the_head_tells_of(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    forged = tmp_path / "forged"
    log = AuditLog(forged)
    chain = read_head(directory_of(tmp_path))
    assert chain is not None
    for number in range(3):
        log.append(fields(number, actor="somebody else"))
    only_file(tmp_path).write_bytes(only_file(forged).read_bytes())
    assert "is not the one that head.json tells of" in verify(tmp_path).findings[0]


def test_the_writer_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 3)
    read: list[int] = []
    real = audit_log._read_from

    def counted(path: Path, offset: int) -> bytes:
        content = real(path, offset)
        read.append(len(content))
        return content

    monkeypatch.setattr(audit_log, "_read_from", counted)
    AuditLog(tmp_path).append(fields())
    assert read == [0]


def test_it_is_told_before_anything_is_done_that_the_log_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file in its place")
    with pytest.raises(AuditError, match=r"can not be written: .*: make room there"):
        AuditLog(tmp_path).require_writable()
    with pytest.raises(AuditError, match="can not be written"):
        AuditLog(tmp_path).append(fields())


def test_a_writer_that_never_ends_is_named(tmp_path: Path) -> None:
    from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock

    fill(tmp_path, 1)
    with (
        FileLock(directory_of(tmp_path) / "audit.lock", "something slow", actor="joe"),
        pytest.raises(AuditError, match="something slow by joe"),
    ):
        AuditLog(tmp_path, timeout_seconds=0.05).append(fields())


# Reading


def test_entries_about_a_guest_between_two_moments(tmp_path: Path, clock: type[Clock]) -> None:
    start = Clock.moment
    log = AuditLog(tmp_path)
    for hours, guest in ((0, "redis"), (1, "redis"), (1, "other"), (30, "redis"), (60, "redis")):
        clock.moment = start + timedelta(hours=hours)
        log.append(fields(subject=guest, at=hours))

    def about(since: int | None, until: int | None) -> list[int]:
        moments = [None if h is None else start + timedelta(hours=h) for h in (since, until)]
        return [e["at"] for e in entries_about(tmp_path, "redis", *moments)]

    assert about(None, None) == [0, 1, 30, 60]
    assert about(1, 30) == [1, 30]
    assert about(31, None) == [60]
    assert about(None, 0) == [0]
    assert about(100, None) == []


def test_a_search_is_by_actor_operation_outcome_and_text(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.append(fields(1, actor="aider", outcome="refused", reason="VMID 100 is the Brain"))
    log.append(fields(2, actor="operator", operation="nhi_vm/absent"))
    log.append(fields(3, actor="NHI_ACTOR claims", user="mallory", operation="playbook"))

    def found(**wanted: Any) -> list[int]:
        return [e["seq"] for e in find(tmp_path, Query(**wanted))]

    assert found(actor="aider") == [1]
    assert found(actor="mallory") == [3]
    assert found(operation="nhi_vm") == [1, 2]
    assert found(operation="nhi_vm/absent") == [2]
    assert found(outcome="refused") == [1]
    assert found(text="the brain") == [1]
    assert found(guest="guest-2") == [2]
    assert found(guest="guest") == []


def test_the_newest_entries_come_across_files(tmp_path: Path) -> None:
    fill(tmp_path, 9, file_limit_bytes=1000)
    assert [e["seq"] for e in newest(tmp_path, 5)] == [5, 6, 7, 8, 9]
    assert [e["seq"] for e in newest(tmp_path, 2, Query(guest="guest-4"))] == [5]
    assert newest(tmp_path, 0) == []


def test_a_damaged_line_does_not_hide_the_others(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    lines = only_file(tmp_path).read_bytes().splitlines(keepends=True)
    only_file(tmp_path).write_bytes(lines[0] + b"rubbish\n" + lines[2])
    assert [e["seq"] for e in find(tmp_path, Query())] == [1, 3]
    assert json.loads(json.dumps(verify(tmp_path).as_data()))["findings"][0].endswith("damaged: it is not JSON")
