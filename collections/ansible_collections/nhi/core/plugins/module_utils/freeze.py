# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch that stops all changes at once: while its file is in the state directory nothing is written to the lab."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from .errors import FrozenError, StateError
from .files import explain, read_if_exists, replace_file, sync_directory

NAME = "FREEZE"
HOW_TO_END = "an operator ends it with: nhi unfreeze"


@dataclass(frozen=True)
class Freeze:
    """Who switched changes off, when and why."""

    by: str
    since: str
    reason: str

    def __str__(self) -> str:
        return f"all changes are frozen by {self.by} since {self.since}: {self.reason or 'no reason given'}"


def frozen(state_dir: Path) -> Freeze | None:
    """The freeze that is in force. A file that says nothing sensible freezes as well: anybody can make one by hand."""
    path = state_dir / NAME
    try:
        raw = read_if_exists(path)
    except OSError as e:
        return Freeze("somebody", "an unknown time", f"{path} can not be read ({explain(e)})")
    if raw is None:
        return None
    try:
        data = json.loads(raw)
        return Freeze(str(data["by"]), str(data["since"]), str(data["reason"]))
    except (ValueError, KeyError, TypeError):
        return Freeze("somebody", "an unknown time", raw.decode(errors="replace").strip()[:200])


def refuse_if_frozen(state_dir: Path) -> None:
    """FrozenError while there is a freeze."""
    if freeze := frozen(state_dir):
        raise FrozenError(f"{freeze}; {HOW_TO_END}")


def freeze(state_dir: Path, by: str, reason: str) -> Freeze:
    """Switch all changes off; a freeze that is in force stays as it is. StateError when that can not be written."""
    if there := frozen(state_dir):
        return there
    new = Freeze(by, datetime.now(UTC).isoformat(timespec="seconds"), " ".join(reason.split()))
    try:
        replace_file(state_dir / NAME, json.dumps(asdict(new), sort_keys=True).encode() + b"\n")
    except OSError as e:
        raise StateError(f"{state_dir / NAME} can not be written: {explain(e)}; changes are NOT frozen") from e
    return new


def unfreeze(state_dir: Path) -> Freeze | None:
    """Let changes through again; the freeze that was in force. StateError when the file can not be removed."""
    there = frozen(state_dir)
    try:
        (state_dir / NAME).unlink(missing_ok=True)
        sync_directory(state_dir)
    except OSError as e:
        raise StateError(f"{state_dir / NAME} can not be removed: {explain(e)}; changes are still frozen") from e
    return there
