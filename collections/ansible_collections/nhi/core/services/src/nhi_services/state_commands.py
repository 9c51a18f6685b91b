# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi state`: validate the state, show what is in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError, StateError, StateInvalidError
from ansible_collections.nhi.core.plugins.module_utils.state_document import counts, document_age_seconds, utc_now
from ansible_collections.nhi.core.plugins.module_utils.state_path import look_up
from ansible_collections.nhi.core.plugins.module_utils.state_validation import schema_errors

from nhi_services.words import age_in_words, amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ansible_collections.nhi.core.plugins.module_utils.state import StateSnapshot, StateStore
    from ansible_collections.nhi.core.plugins.module_utils.state_document import Document


def validate(store: StateStore, *, regenerate: bool, verbose: bool) -> Iterator[str]:
    """Lines about a valid state; an invalid one raises an NHIError after the lines that say more about it."""
    if regenerate:
        accepted = store.regenerate_checksum()
        yield "accepted state.json as it is, with a new checksum" if accepted else "the checksum was right already"
    try:
        snapshot = store.read()
    except NHIError:
        if verbose:
            yield f"checksum on record  {store.recorded_checksum() or 'none'}"
        raise
    errors = schema_errors(snapshot.document)
    if errors:
        if verbose:
            yield from errors
        raise StateInvalidError(f"{snapshot.path} does not follow the schema: {errors[0]}{_more(errors)}")
    if verbose:
        yield from _details(snapshot)
    yield f"{store.path} is valid: revision {snapshot.revision}, {_age(snapshot)} old"


def _more(errors: list[str]) -> str:
    return f" (and {len(errors) - 1} more; see them with --verbose)" if len(errors) > 1 else ""


def _age(snapshot: StateSnapshot) -> str:
    return age_in_words(document_age_seconds(snapshot.document, utc_now()))


def _details(snapshot: StateSnapshot) -> Iterator[str]:
    meta = snapshot.document["meta"]
    by = meta["generated_by"]
    yield f"read from    {snapshot.path}"
    yield f"checksum     {snapshot.checksum}"
    yield f"schema       version {meta['schema_version']}"
    yield f"generated    {meta['generated_at']} by {by['program']} {by['version']} for {by['actor']} on {by['host']}"
    yield f"fingerprint  {meta['topology_fingerprint']}"
    yield "holds        " + ", ".join(amount(number, name) for name, number in counts(snapshot.document).items())


def show(document: Document, where: str, path: str | None, *, as_json: bool) -> str:
    """The whole document, or what path names in it: a text without quotes, anything else as JSON.

    where is for messages.
    """
    value = document if path is None else look_up(document, path)
    if as_json or not (value is None or isinstance(value, str)):
        return as_text(value)
    if value is None:
        raise StateError(f"{path!r} names nothing in {where}; with --json that is null.")
    return "".join(map(_escaped, value))


def as_text(value: Any) -> str:
    """JSON for people and programs; what a terminal would obey is written as an escape."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return "\n".join(line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n"))


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]
