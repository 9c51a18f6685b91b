# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import StateInvalidError, StateTooOldError
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.plugins.plugin_utils.state_source import read_state, shape_explained, state_directory
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import document, guest, write_state


def test_a_relative_directory_is_relative_to_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert state_directory("../infrastructure", tmp_path / "inventory") == str(tmp_path / "infrastructure")
    assert state_directory("/srv/state", tmp_path) == "/srv/state"
    assert state_directory("~/state", tmp_path) == str(tmp_path / "home" / "state")


def test_a_state_within_the_age_limit_is_accepted(tmp_path: Path) -> None:
    write_state(tmp_path, document([guest(105)]))

    state = read_state(str(tmp_path), max_age=60, now=utc_now())

    assert state["infrastructure"]["guests"][0]["vmid"] == 105


def test_a_state_past_the_age_limit_is_refused_with_both_numbers(tmp_path: Path) -> None:
    write_state(tmp_path, document(at=utc_now() - timedelta(seconds=601)))

    with pytest.raises(StateTooOldError, match=r"is 601 s old and at most 600 s are accepted: run a scan"):
        read_state(str(tmp_path), max_age=600, now=utc_now())


def test_without_an_age_limit_any_age_is_accepted(tmp_path: Path) -> None:
    write_state(tmp_path, document(at=utc_now() - timedelta(days=400)))

    assert read_state(str(tmp_path), max_age=0, now=utc_now())["meta"]["revision"] == 1


def test_code_that_stumbles_over_a_wrong_shape_says_what_is_wrong() -> None:
    state = document([guest(105)])
    del state["infrastructure"]["guests"][0]["name"]

    with pytest.raises(StateInvalidError, match=r"guests/0.*'name' is a required property"), shape_explained(state):
        assert state["infrastructure"]["guests"][0]["name"]


def test_an_error_in_the_code_itself_is_not_blamed_on_the_state() -> None:
    with pytest.raises(KeyError), shape_explained(document([guest(105)])):
        assert dict[str, str]()["name"]
