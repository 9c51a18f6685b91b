# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the state as it is in the history: on the hour, on request, and before every change of the lab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import StateError, StateMissingError
from .history import History, Taken
from .lock import current_actor
from .state import StateStore
from .state_document import utc_now


def take_snapshot(state_dir: Path | str, reason: str, *, critical: bool = False, dry_run: bool = False) -> Taken:
    """Keep the current state; StateMissingError when there is none, StateCorruptError when it can not be used."""
    store = StateStore(state_dir)
    state = store.read_known()
    if state is None:
        raise StateMissingError(f"There is no {store.path} to keep: run a scan (`nhi scan` or playbooks/scan.yml).")
    history = History(state_dir)
    return history.take(state, utc_now(), reason=reason, actor=current_actor(), critical=critical, dry_run=dry_run)


@dataclass(frozen=True)
class Keeper:
    """Keeps the state just before a program changes something.

    A change whose history can not be written is refused, as one whose journal can not be written is. A state that can
    not be used does not stop it: there is nothing to keep, and an older snapshot is there already.
    """

    state_dir: Path
    program: str
    tell: Callable[[str], None] = lambda _text: None

    def __call__(self, what: str) -> None:
        """Keep it; what is the change, such as `destroy redis-cache`."""
        try:
            take_snapshot(self.state_dir, f"before {self.program}: {what}")
        except StateMissingError:
            return
        except StateError as error:
            self.tell(f"The state before this change is not in the history: {error}")


def keep_nothing(_what: str) -> None:
    """Stands for a Keeper where no history is wanted."""
