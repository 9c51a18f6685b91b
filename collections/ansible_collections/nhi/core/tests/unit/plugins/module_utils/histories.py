# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Histories of the state for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.snapshots import KnownState, Snapshot
from ansible_collections.nhi.core.plugins.module_utils.state_document import Document, canonical_bytes, checksum_of
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import make_document, make_guest

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 27, 12, 0, 30, tzinfo=UTC)


def document_named(name: str) -> Document:
    """A document that a test knows again."""
    return make_document([make_guest(100, name=name)])


def name_in(document: Document) -> str:
    return str(document["infrastructure"]["guests"][0]["name"])


def known(document: Document, written_at: datetime = NOW) -> KnownState:
    raw = canonical_bytes(document)
    return KnownState(raw, checksum_of(raw), written_at)


def take(
    directory: Path, name: str, at: datetime = NOW, *, written_at: datetime | None = None, **options: Any
) -> Snapshot:
    """Keep a document under a name in the history of a directory."""
    state = known(document_named(name), written_at or at)
    taken = History(directory).take(state, at, **{"reason": "test", "actor": "tester", **options})
    assert taken.snapshot is not None
    assert taken.new
    return taken.snapshot


def names(directory: Path) -> list[str]:
    """What the usable snapshots hold, oldest first."""
    history = History(directory)
    return [name_in(history.read(snapshot)) for snapshot in history.snapshots() if history.is_intact(snapshot)]


def damage(snapshot: Snapshot) -> None:
    raw = bytearray(snapshot.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    snapshot.path.write_bytes(bytes(raw))
