# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of the state: taken once, found again, never trusted when damaged, never lost by a retention run."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    HistoryError,
    LockTimeoutError,
    NHIError,
    SnapshotDamagedError,
    StateMissingError,
)
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import Keeper, take_snapshot
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock
from ansible_collections.nhi.core.plugins.module_utils.retention import Retention, decide
from ansible_collections.nhi.core.plugins.module_utils.snapshots import Snapshot, SnapshotName
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fast_directory import fast_directory
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.faulty_disk import (
    Call,
    FaultyOs,
    ProcessKilledError,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.histories import (
    NOW,
    damage,
    document_named,
    known,
    name_in,
    names,
    take,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import full_document
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Kill = Callable[[FaultyOs, Call, Callable[..., object]], None]

KILLS = [FaultyOs.kill_before, FaultyOs.kill_after, FaultyOs.kill_half_way]
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture
def ramdisk() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


class TestNames:
    @pytest.mark.parametrize(
        "stem", ["state_2026-11-27_12-00", "state_2026-11-27_12-00_2", "state_CRITICAL_2026-11-27_12-00_17"]
    )
    def test_a_name_is_read_as_it_is_written(self, stem: str) -> None:
        assert str(SnapshotName.parse(stem)) == stem

    @pytest.mark.parametrize(
        "stem", ["state_2026-13-27_12-00", "state_2026-11-27", "state", "state_2026-11-27_12-00_0"]
    )
    def test_other_files_are_no_snapshots(self, stem: str, tmp_path: Path) -> None:
        take(tmp_path, "one")
        (tmp_path / "state_history" / f"{stem}.json").write_text("{}")
        assert names(tmp_path) == ["one"]

    def test_a_moment_in_another_zone_is_named_in_utc(self) -> None:
        local = datetime.fromisoformat("2026-11-27T13:05:59+01:00")
        assert str(SnapshotName.at(local)) == "state_2026-11-27_12-05"


class TestTaking:
    def test_a_snapshot_has_the_bytes_of_the_state_and_a_checksum_that_sha256sum_accepts(self, tmp_path: Path) -> None:
        StateStore(tmp_path).write(full_document(), expected_checksum=None)
        taken = take_snapshot(tmp_path, "two\nlines\n0000  x")
        assert taken.snapshot is not None
        assert taken.snapshot.path.read_bytes() == (tmp_path / "state.json").read_bytes()
        command = ["sha256sum", "--strict", "-c", f"{taken.snapshot.name}.json.checksum"]
        subprocess.run(command, cwd=tmp_path / "state_history", check=True, stdout=subprocess.DEVNULL)
        [listed] = History(tmp_path).snapshots()
        assert (listed.note.reason, listed) == ("two\nlines\n0000  x", taken.snapshot)

    def test_an_edit_in_place_of_the_state_does_not_reach_its_snapshot(self, tmp_path: Path) -> None:
        StateStore(tmp_path).write(full_document(), expected_checksum=None)
        take_snapshot(tmp_path, "before")
        with (tmp_path / "state.json").open("r+b") as file:
            file.write(b"damaged")
        [snapshot] = History(tmp_path).snapshots()
        assert History(tmp_path).is_intact(snapshot)

    def test_the_same_state_is_not_kept_twice(self, tmp_path: Path) -> None:
        first = take(tmp_path, "one")
        again = History(tmp_path).take(known(document_named("one")), NOW + HOUR, reason="again", actor="tester")
        assert (again.new, again.snapshot) == (False, first)
        assert names(tmp_path) == ["one"]

    def test_the_same_state_is_kept_again_when_its_snapshot_is_damaged(self, tmp_path: Path) -> None:
        damage(take(tmp_path, "one"))
        assert take(tmp_path, "one", NOW + HOUR).name.minute == NOW.replace(second=0) + HOUR

    def test_a_state_that_came_back_after_another_is_kept_again(self, tmp_path: Path) -> None:
        for number, name in enumerate(("one", "two", "one")):
            take(tmp_path, name, NOW + number * HOUR)
        assert names(tmp_path) == ["one", "two", "one"]

    def test_three_states_in_one_minute_are_three_snapshots_in_order(self, tmp_path: Path) -> None:
        taken = [take(tmp_path, name, NOW + timedelta(seconds=second)) for second, name in enumerate("abc")]
        assert [str(s.name)[6:] for s in taken] == ["2026-11-27_12-00", "2026-11-27_12-00_2", "2026-11-27_12-00_3"]
        assert names(tmp_path) == ["a", "b", "c"]

    def test_a_critical_snapshot_is_taken_beside_an_ordinary_one_and_once(self, tmp_path: Path) -> None:
        take(tmp_path, "one")
        critical = take(tmp_path, "one", critical=True)
        assert critical.path.name == "state_CRITICAL_2026-11-27_12-00.json"
        again = History(tmp_path).take(known(document_named("one")), NOW, reason="", actor="", critical=True)
        assert (again.new, again.snapshot) == (False, critical)

    def test_a_name_that_somebody_else_put_there_is_not_overwritten(self, tmp_path: Path) -> None:
        foreign = tmp_path / "state_history" / "state_2026-11-27_12-00.json"
        foreign.parent.mkdir()
        foreign.write_text("by hand")
        assert str(take(tmp_path, "one").name) == "state_2026-11-27_12-00_2"
        assert foreign.read_text() == "by hand"

    def test_a_dry_run_writes_nothing_and_knows_whether_the_state_is_new(self, tmp_path: Path) -> None:
        history = History(tmp_path)
        assert history.take(known(document_named("one")), NOW, reason="", actor="", dry_run=True).new
        assert not list(tmp_path.iterdir())
        take(tmp_path, "one")
        assert not history.take(known(document_named("one")), NOW, reason="", actor="", dry_run=True).new

    def test_many_at_once_take_one_snapshot_each_state(self, tmp_path: Path) -> None:
        states = [known(document_named(f"guest-{number}")) for number in range(8)]

        def run(number: int) -> None:
            History(tmp_path).take(states[number], NOW, reason="", actor="")

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(names(tmp_path)) == [f"guest-{number}" for number in range(8)]

    @pytest.mark.parametrize("kill", KILLS)
    def test_killed_at_any_step_it_leaves_whole_snapshots_only(self, ramdisk: Path, kill: Kill) -> None:
        for at in range(60):
            directory = ramdisk / str(at)
            take(directory, "one", NOW - HOUR)
            if not killed(lambda: take(directory, "two"), at, kill):  # noqa: B023 -- called in this round only
                break
            history = History(directory)
            assert all(history.is_intact(snapshot) for snapshot in history.snapshots())
            assert names(directory) in (["one"], ["one", "two"])
            again = history.take(known(document_named("two")), NOW, reason="", actor="")
            assert again.snapshot is not None
            history.prune(Retention(), NOW)
            assert names(directory) == ["one", "two"]
            assert len(list(history.directory.iterdir())) == 4
        else:
            pytest.fail("taking a snapshot never ended")
        assert at > 10

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
    def test_a_full_disk_at_any_step_is_one_line_and_leaves_whole_snapshots(self, ramdisk: Path, code: int) -> None:
        for at in range(60):
            directory = ramdisk / str(at)
            take(directory, "one", NOW - HOUR)

            def fail(_call: Call, _real: Callable[..., object]) -> None:
                raise OSError(code, os.strerror(code))

            faulty = FaultyOs(at=at, fault=fail)
            message = ""
            with faulty.installed():
                try:
                    take(directory, "two")
                except NHIError as error:
                    message = str(error)
            assert names(directory) in (["one"], ["one", "two"])
            assert "\n" not in message
            if at >= len(faulty.calls):
                assert not message
                break
        else:
            pytest.fail("taking a snapshot never ended")


def killed(work: Callable[[], object], at: int, kill: Kill) -> bool:
    faulty = FaultyOs(at=at)
    faulty.fault = lambda call, real: kill(faulty, call, real)
    with faulty.installed():
        try:
            work()
        except ProcessKilledError:
            return True
    return False


class TestReading:
    def test_a_damaged_snapshot_is_passed_over_and_named(self, tmp_path: Path) -> None:
        take(tmp_path, "one", NOW - HOUR)
        damaged = take(tmp_path, "two")
        damage(damaged)
        choice = History(tmp_path).newest_valid()
        assert name_in(choice.document) == "one"
        assert choice.skipped == (f"Passed over {damaged.name}: {damaged.path} does not match its checksum.",)

    def test_a_snapshot_without_a_checksum_is_not_trusted(self, tmp_path: Path) -> None:
        snapshot = take(tmp_path, "one")
        snapshot.path.with_name(f"{snapshot.name}.json.checksum").unlink()
        choice = History(tmp_path).newest_valid()
        assert choice.snapshot is None
        assert "has no checksum beside it" in choice.skipped[0]

    def test_a_document_of_a_newer_schema_is_passed_over(self, tmp_path: Path) -> None:
        take(tmp_path, "one", NOW - HOUR)
        newer = document_named("two")
        newer["meta"]["schema_version"] = 99
        History(tmp_path).take(known(newer), NOW, reason="", actor="")
        choice = History(tmp_path).newest_valid()
        assert name_in(choice.document) == "one"
        assert "schema version 99" in choice.skipped[0]

    def test_a_directory_that_can_not_be_read_is_one_line(self, tmp_path: Path) -> None:
        take(tmp_path, "one")
        with (
            mock.patch.object(Path, "iterdir", side_effect=PermissionError(errno.EACCES, "Permission denied")),
            pytest.raises(HistoryError, match="can not be read: permission denied"),
        ):
            History(tmp_path).snapshots()

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"nonsense"])
    def test_a_damaged_compressed_snapshot_is_named(self, tmp_path: Path, content: bytes) -> None:
        take(tmp_path, "one", NOW - 10 * DAY)
        take(tmp_path, "two", NOW)
        History(tmp_path).prune(Retention(), NOW)
        [old, _new] = History(tmp_path).snapshots()
        assert old.path.name.endswith(".json.gz")
        old.path.write_bytes(content)
        with pytest.raises(SnapshotDamagedError, match=str(old.name)):
            History(tmp_path).read(old)

    def test_a_moment_is_told_by_the_state_that_was_written_before_it(self, tmp_path: Path) -> None:
        take(tmp_path, "at noon", NOW)
        # The scan of 12:50 was the state until a change at 13:10, before which it was kept.
        take(tmp_path, "at ten to", NOW + 70 * timedelta(minutes=1), written_at=NOW + 50 * timedelta(minutes=1))
        history = History(tmp_path)

        def told(minutes: int) -> str:
            return name_in(history.at(NOW + timedelta(minutes=minutes)).document)

        assert (told(0), told(49), told(50), told(65), told(500)) == (
            "at noon", "at noon", "at ten to", "at ten to", "at ten to",
        )  # fmt: skip
        assert history.at(NOW - DAY).snapshot is None

    def test_a_damaged_snapshot_of_the_moment_gives_way_to_the_one_before(self, tmp_path: Path) -> None:
        take(tmp_path, "one", NOW - HOUR)
        damage(take(tmp_path, "two", NOW))
        choice = History(tmp_path).at(NOW)
        assert name_in(choice.document) == "one"
        assert len(choice.skipped) == 1


def a_long_history(directory: Path) -> None:
    """Every eight hours over fifty days; two in one minute, one critical, one damaged, one without a checksum."""
    for number in range(150):
        take(directory, f"n{number}", NOW - number * 8 * HOUR - timedelta(minutes=5))
    take(directory, "twin", NOW - timedelta(minutes=5))
    take(directory, "kept", NOW - 60 * DAY, critical=True)
    damage(take(directory, "damaged", NOW - 2 * DAY - timedelta(minutes=5)))
    lost = take(directory, "lost", NOW - 20 * DAY)
    lost.path.with_name(f"{lost.name}.json.checksum").unlink()


def snapshot_at(moment: datetime, *, critical: bool = False) -> Snapshot:
    name = SnapshotName.at(moment, critical=critical)
    return Snapshot(name, Path(f"{name}.json"), "0" * 64)


def left_by(snapshots: list[Snapshot], policy: Retention, now: datetime) -> list[Snapshot]:
    decisions = decide(snapshots, set(snapshots), snapshots[-1], policy, now)
    return [one.snapshot for one in decisions if one.verdict != "remove"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "state_history").iterdir()}


class TestRetention:
    def test_a_run_keeps_hours_then_days_compressed_and_what_is_critical(self, ramdisk: Path) -> None:
        a_long_history(ramdisk)
        history = History(ramdisk)
        foretold = history.prune(Retention(), NOW, dry_run=True)
        before = contents(ramdisk)
        assert contents(ramdisk) == before
        pruned = history.prune(Retention(), NOW)
        assert pruned == foretold
        assert len(pruned.damaged) == 2
        left = history.snapshots()
        ages = [NOW - snapshot.taken_at for snapshot in left if not snapshot.name.critical]
        assert max(ages) < 37 * DAY
        assert sum(age < 7 * DAY for age in ages) == 7 * 3 + 2
        days = [s for s in left if NOW - s.taken_at >= 7 * DAY and not s.name.critical and history.is_intact(s)]
        assert len({s.taken_at.date() for s in days}) == len(days)
        assert len(days) in (29, 30, 31)
        assert all(snapshot.path.name.endswith(".json.gz") for snapshot in days)
        assert name_in(history.read(days[0])).startswith("n")
        assert not history.prune(Retention(), NOW).changed

    def test_the_only_valid_snapshot_stays_however_old(self, tmp_path: Path) -> None:
        take(tmp_path, "only", NOW - 400 * DAY)
        for age in (300, 200, 1):
            damage(take(tmp_path, f"damaged-{age}", NOW - age * DAY))
        History(tmp_path).prune(Retention(0, 0, 0), NOW)
        assert names(tmp_path) == ["only"]
        assert len(History(tmp_path).snapshots()) == 1

    def test_a_snapshot_that_only_a_newer_nhi_can_read_does_not_count_as_the_valid_one(self, tmp_path: Path) -> None:
        take(tmp_path, "only", NOW - 400 * DAY)
        newer = document_named("newer")
        newer["meta"]["schema_version"] = 99
        History(tmp_path).take(known(newer), NOW - 300 * DAY, reason="", actor="")
        History(tmp_path).prune(Retention(), NOW)
        assert names(tmp_path) == ["only"]

    def test_a_damaged_snapshot_takes_nobodys_place(self, tmp_path: Path) -> None:
        day = NOW.replace(hour=0) - 10 * DAY
        damage(take(tmp_path, "damaged", day))
        take(tmp_path, "one", day + HOUR)
        take(tmp_path, "two", day + 2 * HOUR)
        take(tmp_path, "now")
        History(tmp_path).prune(Retention(), NOW)
        assert names(tmp_path) == ["one", "now"]

    def test_run_every_hour_it_ends_where_one_run_would(self) -> None:
        policy, start = Retention(6, 2, 5), NOW.replace(minute=0) - 10 * DAY
        often: list[Snapshot] = []
        taken = [snapshot_at(start + half_hours * HOUR / 2) for half_hours in range(10 * 48)]
        for first, second in zip(taken[::2], taken[1::2], strict=True):
            often += [first, second]
            often = left_by(often, policy, second.taken_at)
        assert often == left_by(taken, policy, taken[-1].taken_at)
        assert len(often) == 2 * 6 + 42 + 5

    @given(st.lists(st.tuples(st.integers(0, 60 * 24), st.booleans(), st.booleans()), min_size=1, max_size=60))
    def test_whatever_there_is_the_newest_usable_and_the_critical_ones_stay(
        self, drawn: list[tuple[int, bool, bool]]
    ) -> None:
        snapshots = {snapshot_at(NOW - hours * HOUR, critical=critical): good for hours, critical, good in drawn}
        intact = {snapshot for snapshot, good in snapshots.items() if good}
        newest = max(intact, key=lambda snapshot: snapshot.order, default=None)
        kept = {d.snapshot for d in decide(snapshots, intact, newest, Retention(), NOW) if d.verdict != "remove"}
        assert newest is None or newest in kept
        assert {snapshot for snapshot in snapshots if snapshot.name.critical} <= kept
        for hours in {int((NOW - snapshot.taken_at) / HOUR) for snapshot in intact if not snapshot.name.critical}:
            # Each intact snapshot has one of the same day, or of the same hour, in its place.
            if hours < 36 * 24:
                day = (NOW - hours * HOUR).date()
                assert any(one.taken_at.date() == day for one in kept & intact)

    @pytest.mark.parametrize("kill", KILLS)
    def test_killed_at_any_step_it_loses_nothing_and_the_next_run_finishes(self, ramdisk: Path, kill: Kill) -> None:
        origin, whole = ramdisk / "origin", ramdisk / "whole"
        for number, hours in enumerate((0, 1, 20, 30, 30.2, 200, 201, 230, 231, 900, 1000)):
            take(origin, f"n{number}", NOW - hours * HOUR)
        take(origin, "kept", NOW - 90 * DAY, critical=True)
        damage(take(origin, "damaged", NOW - 40 * HOUR))
        (origin / "state_history" / "state_2026-01-01_00-00.json.checksum").write_text("orphan")
        (origin / "state_history" / "state_2026-01-01_00-00.json.tmp").write_text("torn")
        shutil.copytree(origin, whole)
        pruned = History(whole).prune(Retention(), NOW)
        assert {len(pruned.names(verdict)) > 1 for verdict in ("compress", "remove")} == {True}
        wanted, result = set(names(whole)), contents(whole)
        for at in range(300):
            directory = ramdisk / str(at)
            shutil.copytree(origin, directory)
            history = History(directory)
            if not killed(lambda: history.prune(Retention(), NOW), at, kill):  # noqa: B023 -- called in this round only
                break
            assert wanted <= set(names(directory)), f"lost when killed at call {at}"
            choice = history.newest_valid()
            assert name_in(choice.document) == "n0"
            history.prune(Retention(), NOW)
            assert contents(directory) == result
            shutil.rmtree(directory)
        else:
            pytest.fail("the retention run never ended")
        assert at > 40

    def test_a_wrong_policy_is_refused(self) -> None:
        with pytest.raises(HistoryError, match="0 or more"):
            Retention(hourly_days=-1)

    def test_nothing_is_made_where_there_is_no_history(self, tmp_path: Path) -> None:
        assert not History(tmp_path).prune(Retention(), NOW).changed
        assert not list(tmp_path.iterdir())

    def test_who_holds_the_lock_is_named(self, tmp_path: Path) -> None:
        take(tmp_path, "one")
        with (
            FileLock(tmp_path / "history.lock", "prune the history", actor="someone"),
            pytest.raises(LockTimeoutError, match="prune the history by someone"),
        ):
            History(tmp_path, lock_timeout=0).prune(Retention(), NOW)


class TestKeeping:
    def test_a_change_before_the_first_scan_has_nothing_to_keep(self, tmp_path: Path) -> None:
        Keeper(tmp_path, "nhi_vm")("create redis")
        assert not (tmp_path / "state_history").exists()
        with pytest.raises(StateMissingError, match=r"There is no .* to keep"):
            take_snapshot(tmp_path, "on the hour")

    def test_the_state_before_a_change_is_kept_with_its_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NHI_ACTOR", "aider")
        StateStore(tmp_path).write(full_document(), expected_checksum=None)
        for _twice in range(2):
            Keeper(tmp_path, "nhi_vm")("destroy redis-cache")
        [snapshot] = History(tmp_path).snapshots()
        assert (snapshot.note.reason, snapshot.note.actor) == ("before nhi_vm: destroy redis-cache", "aider")
        assert abs(snapshot.since - datetime.now(UTC)) < timedelta(minutes=1)

    def test_a_corrupt_state_is_told_and_stops_no_change(self, tmp_path: Path) -> None:
        StateStore(tmp_path).write(full_document(), expected_checksum=None)
        (tmp_path / "state.json").write_bytes(b"damaged")
        told: list[str] = []
        Keeper(tmp_path, "nhi_vm", told.append)("create redis")
        assert "is not in the history" in told[0]

    def test_a_history_that_can_not_be_written_stops_the_change(self, tmp_path: Path) -> None:
        StateStore(tmp_path).write(full_document(), expected_checksum=None)
        (tmp_path / "state_history").write_text("no directory")
        with pytest.raises(HistoryError, match="state_history can not be"):
            Keeper(tmp_path, "nhi_vm")("create redis")
