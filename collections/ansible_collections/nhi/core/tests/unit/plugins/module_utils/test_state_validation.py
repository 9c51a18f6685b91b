# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema refuses what it should, and checking only the changes refuses the same."""

from __future__ import annotations

import copy
import sys
from typing import Any, TypeAlias

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import StateError, StateInvalidError
from ansible_collections.nhi.core.plugins.module_utils.state_document import duplicate_errors
from ansible_collections.nhi.core.plugins.module_utils.state_schema import STATE_SCHEMA
from ansible_collections.nhi.core.plugins.module_utils.state_validation import schema_errors, validate_document
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    full_document,
    make_alert,
    make_document,
    make_guest,
)
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

Path: TypeAlias = "tuple[str | int, ...]"


def _paths(value: Any, path: Path = ()) -> list[Path]:
    """Every place in a document, containers included."""
    members: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    return [path] * bool(path) + [deeper for key, member in members for deeper in _paths(member, (*path, key))]


def _replaced(document: Any, path: Path, value: Any) -> Any:
    changed = copy.deepcopy(document)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


def _jsonschema_errors(document: Any) -> list[Any]:
    """What jsonschema alone says, or that a key occurs twice."""
    return list(Draft202012Validator(STATE_SCHEMA).iter_errors(document)) or duplicate_errors(document)


_PLACES = _paths(full_document())
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70000),
    st.floats(allow_nan=False),
    st.sampled_from(["", "fresh", "lxc", "healthy", "2026-11-23T18:00:00+00:00", "2026-11-23", "x"]),
    st.sampled_from([[], {}, [1], ["x"], {"x": 1}]),
)


def test_the_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(STATE_SCHEMA)


def test_complete_and_empty_documents_are_valid() -> None:
    validate_document(full_document())
    validate_document(make_document())


@pytest.mark.parametrize("path", [path for path in _PLACES if isinstance(path[-1], str) and "groq" not in path])
def test_every_key_is_required_and_no_other_is_allowed(path: Path) -> None:
    document = full_document()
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place["surplus"] = place.pop(path[-1])
    if path[:2] == ("meta", "scan") and len(path) == 3:
        place.pop("surplus")
    assert schema_errors(document)


def test_the_message_names_the_place_and_how_many_more() -> None:
    document = make_document([make_guest(vmid, health="great") for vmid in range(1, 6)])
    with pytest.raises(StateInvalidError, match=r"infrastructure/guests/0/health: 'great'.*\(and 2 more\)$"):
        validate_document(document)


@pytest.mark.parametrize("where", ["guests", "nodes", "storage"])
def test_a_key_that_occurs_twice_is_refused(where: str) -> None:
    document = full_document()
    document["infrastructure"][where] *= 2
    assert any("occurs 2 times" in error for error in schema_errors(document))


def test_an_alert_that_occurs_twice_is_refused() -> None:
    document = full_document()
    document["alerts"] = [make_alert("x"), make_alert("x")]
    assert schema_errors(document) == ["alerts: id 'x' occurs 2 times"]


@given(place=st.sampled_from(_PLACES), value=_VALUES)
def test_checking_only_the_change_gives_the_verdict_of_jsonschema(place: Path, value: Any) -> None:
    valid = full_document()
    changed = _replaced(valid, place, value)
    assert bool(schema_errors(changed, valid)) == bool(_jsonschema_errors(changed))


@given(place=st.sampled_from(_PLACES), value=_VALUES)
def test_checking_all_gives_the_verdict_of_jsonschema(place: Path, value: Any) -> None:
    changed = _replaced(full_document(), place, value)
    assert bool(schema_errors(changed)) == bool(_jsonschema_errors(changed))


@pytest.mark.parametrize("document", [None, [], {}, 3, "state", {"meta": {}}])
def test_what_is_no_document_is_refused(document: Any) -> None:
    assert schema_errors(document)


@given(first=st.sampled_from(_PLACES), second=st.sampled_from(_PLACES), values=st.tuples(_VALUES, _VALUES))
def test_checking_against_any_valid_predecessor_gives_the_same_verdict(
    first: Path, second: Path, values: tuple[Any, Any]
) -> None:
    base = full_document()
    candidate = _replaced(base, first, values[0])
    previous = base if schema_errors(candidate) else candidate
    changed = _replaced(base, second, values[1])
    assert bool(schema_errors(changed, previous)) == bool(_jsonschema_errors(changed))


def test_true_does_not_pass_for_one_nor_one_for_true() -> None:
    valid = full_document()
    valid["infrastructure"]["guests"][0]["cores"] = 1
    validate_document(valid)
    for key, value in (("cores", True), ("protection", 0)):
        assert schema_errors(_replaced(valid, ("infrastructure", "guests", 0, key), value), valid)


def test_a_valid_document_is_checked_without_jsonschema(monkeypatch: pytest.MonkeyPatch) -> None:
    document = full_document()
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    validate_document(document)


def test_numbers_that_tick_are_checked_without_jsonschema(monkeypatch: pytest.MonkeyPatch) -> None:
    valid = full_document()
    changed = copy.deepcopy(valid)
    for guest in changed["infrastructure"]["guests"]:
        guest |= {"uptime_seconds": 1, "cpu_usage": None, "observed_at": "2026-11-23T18:05:00+00:00"}
    changed["infrastructure"]["guests"].reverse()
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    validate_document(changed, valid)


def test_without_jsonschema_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(StateError, match="pip install jsonschema"):
        validate_document(make_document([make_guest(101, health="great")]))
