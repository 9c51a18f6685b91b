# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a damaged state.json back: from the newest snapshot that can be used, every fact of it marked as stale.

A scan has to follow, because the lab may have changed since. Without any snapshot the damage is taken away, so that a
scan can begin from nothing. A state that can be used is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .history import History
from .state import DAMAGES, StateStore
from .state_document import as_stale
from .state_validation import validate_document

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .snapshots import Snapshot
    from .state_document import Document

_LISTS = ("nodes", "guests", "storage", "services")


@dataclass(frozen=True)
class Recovery:
    """What was wrong with the state, and what was done about it, or would be; damage None is a state that is fine."""

    state: Path
    damage: str | None = None
    snapshot: Snapshot | None = None
    skipped: tuple[str, ...] = ()
    revision: int | None = None
    foretold: bool = False

    @property
    def changed(self) -> bool:
        """Whether a scan has to follow."""
        return self.damage is not None

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "changed": self.changed,
            "damage": self.damage,
            "snapshot": self.snapshot.as_data() if self.snapshot else None,
            "skipped": list(self.skipped),
            "revision": self.revision,
        }

    def lines(self) -> list[str]:
        """For people: what was wrong, which snapshots were no use, what stands in its place."""
        if self.damage is None:
            return [f"{self.state} can be used: nothing to restore."]
        word = "would be" if self.foretold else "is"
        if self.snapshot is None:
            done = "There is no snapshot that can be used: the next scan begins from nothing."
        else:
            by = f" ({self.snapshot.note.reason})" if self.snapshot.note.reason else ""
            taken = self.snapshot.taken_at.isoformat(timespec="seconds")
            done = (
                f"{self.state} {word} restored from {self.snapshot.name}, taken {taken}{by}; all its facts are stale."
            )
        return [self.damage, *self.skipped, done]


def restore_state(store: StateStore, *, dry_run: bool = False) -> Recovery:
    """Restore a state that is damaged or missing; with dry_run only say what would be done.

    A file that may not be read, or that a newer NHI wrote, is no damage: StateError passes through.
    """
    try:
        store.validate()
    except DAMAGES as error:
        damage = str(error).partition(". ")[0] + "."  # what to do about it comes after that, and is done here
    else:
        return Recovery(store.path)
    choice = History(store.directory).newest_valid(validate_document)
    if dry_run:
        return Recovery(store.path, damage, choice.snapshot, choice.skipped, foretold=True)
    document = stale(choice.document) if choice.snapshot else None
    restored = store.restore(document)
    return Recovery(
        store.path, damage, choice.snapshot, choice.skipped, restored.revision if restored is not None else None
    )


def stale(document: Mapping[str, Any]) -> Document:
    """A copy of a document all of whose facts are known from earlier only."""
    old = document["infrastructure"]
    return {**document, "infrastructure": {**old, **{name: [as_stale(fact) for fact in old[name]] for name in _LISTS}}}
