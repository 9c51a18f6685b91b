# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_state."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import checksum_of
from ansible_collections.nhi.core.plugins.modules import nhi_state
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import full_document

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    store = StateStore(tmp_path, patience=0)
    store.write(full_document(), expected_checksum=None)
    return store


@pytest.fixture
def run(store: StateStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(nhi_state, "StateStore", partial(StateStore, patience=0))

    def call(*, check: bool = False, **options: Any) -> dict[str, Any]:
        given = {"state_dir": str(store.directory), "_ansible_check_mode": check, **options}
        arguments = {name: value for name, value in given.items() if value is not None}
        with patch_module_args(arguments), pytest.raises(SystemExit) as caught:
            nhi_state.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert bool(result.get("failed")) == (caught.value.code != 0)
        return result

    return call


def edit(store: StateStore, old: str = "redis-cache", new: str = "edited") -> None:
    store.path.write_text(store.path.read_text().replace(old, new))


def test_a_valid_state_is_described(store: StateStore, run: Run) -> None:
    result = run()
    snapshot = store.read()
    assert not result["changed"]
    assert result["checksum"] == snapshot.checksum
    assert result["revision"] == 1
    assert result["topology_fingerprint"] == snapshot.document["meta"]["topology_fingerprint"]
    assert result["counts"]["guests"] == 2
    assert result["age_seconds"] >= 0
    assert "value" not in result
    assert "diff" not in result


def test_a_path_is_read(run: Run) -> None:
    assert run(path="infrastructure.guests[?name=='redis-cache'].address | [0]")["value"] == "10.86.0.106"
    assert run(path="nothing.here")["value"] is None


def test_a_read_leaves_every_file_alone(store: StateStore, run: Run) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.directory.iterdir()}
    run(path="meta", regenerate_checksum=True)
    assert {path.name: path.stat().st_mtime_ns for path in store.directory.iterdir()} == before


def test_a_mismatch_fails_with_what_to_do(store: StateStore, run: Run) -> None:
    edit(store)
    assert "--regenerate-checksum" in run()["msg"]


def test_a_state_against_the_schema_fails_unless_validation_is_off(store: StateStore, run: Run) -> None:
    edit(store, '"healthy"', '"great"')
    (store.directory / "state.json.checksum").write_text(checksum_of(store.path.read_bytes()))
    assert "does not follow the schema" in run()["msg"]
    assert not run(validate=False)["changed"]


def test_check_mode_predicts_what_accepting_an_edit_does(store: StateStore, run: Run) -> None:
    edit(store)
    recorded = store.recorded_checksum()
    predicted = run(regenerate_checksum=True, check=True)
    assert store.recorded_checksum() == recorded
    done = run(regenerate_checksum=True)
    assert predicted["changed"]
    assert {**predicted, "age_seconds": 0} == {**done, "age_seconds": 0}
    assert done["diff"]["before"] == f"{recorded}\n"
    assert done["diff"]["after"] == f"{store.recorded_checksum()}\n"
    assert not run(regenerate_checksum=True)["changed"]


def test_an_edit_against_the_schema_is_not_accepted(store: StateStore, run: Run) -> None:
    edit(store, '"healthy"', '"great"')
    recorded = store.recorded_checksum()
    assert "does not follow the schema" in run(regenerate_checksum=True)["msg"]
    assert store.recorded_checksum() == recorded


def test_a_wrong_path_accepts_nothing(store: StateStore, run: Run) -> None:
    edit(store)
    recorded = store.recorded_checksum()
    assert "is not a JMESPath expression" in run(regenerate_checksum=True, path="a[")["msg"]
    assert store.recorded_checksum() == recorded


def test_without_a_state_the_next_step_is_named(run: Run, tmp_path: Path) -> None:
    assert "run a scan" in run(state_dir=str(tmp_path / "none"))["msg"]


def test_the_directory_comes_from_the_environment(store: StateStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NHI_STATE_DIR", str(store.directory))
    assert run(state_dir=None)["revision"] == 1


def test_a_missing_jmespath_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nhi_state, "JMESPATH_IMPORT_ERROR", "no module named jmespath")
    assert "jmespath" in run(path="meta")["msg"]
    assert "msg" not in run()
