# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The question of the blueprint: there was a Redis at 14:00, now it is gone, who did that?"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_view import AuditNote
from ansible_collections.nhi.core.plugins.module_utils.errors import HistoryError
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.history_view import compare_moments, plan_return, state_at
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.histories import damage, known, take
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import full_document, make_document

MINUTE = timedelta(minutes=1)


class Audit:
    """Knows of one guest that was destroyed at a time, and keeps what it was asked."""

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.asked: list[tuple[datetime, datetime]] = []

    def about_guest(
        self, *, vmid: int | None, name: str | None, since: datetime, until: datetime
    ) -> Iterable[AuditNote]:
        self.asked.append((since, until))
        if name == "redis-cache" and since <= self.at <= until:
            yield AuditNote(self.at, "open-interpreter", "destroyed", "done", "plan-7f3a")


@pytest.fixture
def hour(tmp_path: Path) -> datetime:
    """A full hour of yesterday: at it there was a Redis, an hour later there was none."""
    at = utc_now().replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
    history = History(tmp_path)
    history.take(known(full_document(), at - 2 * MINUTE), at, reason="on the hour", actor="nhi")
    later = at + 60 * MINUTE
    history.take(known(make_document(), later - 5 * MINUTE), later, reason="on the hour", actor="nhi")
    return at


def test_who_destroyed_the_guest_between_two_moments_is_told(tmp_path: Path, hour: datetime) -> None:
    audit = Audit(hour + 32 * MINUTE)
    since, until = hour.isoformat(), (hour + 60 * MINUTE).isoformat()
    comparison = compare_moments(tmp_path, since, until, audit)
    [line] = [line for line in comparison.lines() if line.startswith("guest 105")]
    destroyed = (hour + 32 * MINUTE).astimezone().strftime("%H:%M")
    assert "guest 105 redis-cache existed at " in line
    assert line.endswith(f": destroyed {comparison.span.when(audit.at)} by open-interpreter, plan plan-7f3a")
    assert destroyed in line
    assert comparison.as_data()["changes"][1]["audit"][0]["plan"] == "plan-7f3a"


def test_the_audit_log_is_asked_from_the_scan_on_that_saw_the_guest_last(tmp_path: Path, hour: datetime) -> None:
    """The state of 14:00 was read at 13:58: whoever destroyed the guest at 13:59 is found too."""
    audit = Audit(hour - MINUTE)
    comparison = compare_moments(tmp_path, hour.isoformat(), (hour + 60 * MINUTE).isoformat(), audit)
    assert set(audit.asked) == {(hour - 2 * MINUTE, hour + 60 * MINUTE)}
    assert any("open-interpreter" in line for line in comparison.lines())


def test_between_two_snapshots_the_earlier_one_tells_and_says_of_when_it_is(tmp_path: Path, hour: datetime) -> None:
    view = state_at(tmp_path, (hour + 40 * MINUTE).isoformat())
    assert view.at == hour
    assert view.lines()[0].startswith("the last snapshot before ")
    assert state_at(tmp_path, (hour + 57 * MINUTE).isoformat()).lines() == []


def test_a_snapshot_is_named_in_place_of_a_moment(tmp_path: Path, hour: datetime) -> None:
    for snapshot in History(tmp_path).snapshots():
        assert state_at(tmp_path, str(snapshot.name)).snapshot == snapshot


def test_a_damaged_snapshot_of_the_moment_is_named(tmp_path: Path, hour: datetime) -> None:
    newest = History(tmp_path).snapshots()[-1]
    damage(newest)
    view = state_at(tmp_path, "now")
    assert view.snapshot == History(tmp_path).snapshots()[0]
    assert str(newest.name) in view.lines()[0]


def test_when_everything_is_damaged_all_of_it_is_told_in_one_line(tmp_path: Path, hour: datetime) -> None:
    for snapshot in History(tmp_path).snapshots():
        damage(snapshot)
    with pytest.raises(HistoryError) as caught:
        state_at(tmp_path, "now")
    assert str(caught.value).count("Passed over") == 2
    assert "\n" not in str(caught.value)


def test_a_plan_to_return_names_who_destroyed_the_guest(tmp_path: Path, hour: datetime) -> None:
    StateStore(tmp_path).write(make_document(), expected_checksum=None)
    _comparison, plan = plan_return(tmp_path, hour.isoformat(), Audit(hour + 32 * MINUTE))
    assert [step.guest for step in plan.steps] == ["guest-102", "redis-cache"]
    assert "by open-interpreter, plan plan-7f3a" in plan.steps[1].reason


def test_the_state_of_now_is_state_json_unless_it_is_damaged(tmp_path: Path) -> None:
    take(tmp_path, "kept", utc_now() - 60 * MINUTE)
    StateStore(tmp_path).write(full_document(), expected_checksum=None)
    assert state_at(tmp_path, "now").source == "state.json"
    (tmp_path / "state.json").write_text("{}")
    view = state_at(tmp_path, "now")
    assert view.source.startswith("state_20")
    assert "does not match its checksum" in view.lines()[0]
