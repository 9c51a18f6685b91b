# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of the state on disk: `state_history/` in the state directory, two files for each snapshot.

A snapshot is a copy. A hard link would cost less, but an editor that writes state.json in place, or a bad block, would
damage all its links with it. The checksum gets its name first and loses it last, so that a snapshot without one was
never written by us. Writers take `history.lock`; readers need no lock and no permission to write.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HistoryError, NHIError, SnapshotDamagedError
from .files import discard, explain, read_if_exists, sync_directory, write_new
from .lock import FileLock
from .retention import COMPRESS, REMOVE, decide
from .snapshots import (
    CHECKSUM,
    COMPRESSED,
    DOCUMENT,
    Note,
    Snapshot,
    SnapshotName,
    candidates_at,
    checksum_file,
    oldest_first,
    parse_checksum_file,
)
from .state_document import Document, checksum_of, parse_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from .retention import Decision, Retention
    from .snapshots import KnownState

HISTORY_NAME = "state_history"
_TEMPORARY = ".tmp"
_LEVEL = 6


@dataclass(frozen=True)
class Choice:
    """The snapshot that was looked for, read, and why better ones were passed over."""

    snapshot: Snapshot | None = None
    document: Document = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taken:
    """The snapshot of a state; new unless there was one of that state already. None in check mode, when it is new."""

    snapshot: Snapshot | None
    new: bool


@dataclass(frozen=True)
class Pruned:
    """What a retention run did, or would do."""

    decisions: tuple[Decision, ...]
    damaged: tuple[str, ...]
    leftovers: tuple[str, ...]

    def names(self, verdict: str) -> list[str]:
        """Snapshots with that verdict, oldest first."""
        return [str(one.snapshot.name) for one in self.decisions if one.verdict == verdict]

    @property
    def changed(self) -> bool:
        """Whether anything was removed or written anew."""
        return bool(self.leftovers or self.names(REMOVE) or self.newly_compressed)

    @property
    def newly_compressed(self) -> list[str]:
        """Snapshots that are, or would be, compressed by this run."""
        return [
            str(o.snapshot.name) for o in self.decisions if o.verdict == COMPRESS and not _is_compressed(o.snapshot)
        ]

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "compressed": self.newly_compressed,
            "removed": self.names(REMOVE),
            "kept": len(self.decisions) - len(self.names(REMOVE)),
            "damaged": list(self.damaged),
            "leftovers": list(self.leftovers),
        }


class History:
    """The snapshots of one state directory."""

    def __init__(self, state_dir: Path | str, *, lock_timeout: float = 30.0) -> None:
        self.directory = Path(state_dir) / HISTORY_NAME
        self._lock_timeout = lock_timeout

    # Reading

    def snapshots(self) -> list[Snapshot]:
        """Every snapshot, oldest first; whether it is intact shows when it is read."""
        with self._reported("read"):
            return oldest_first(self._look_at(name, path) for name, path in self._files().items())

    def _files(self) -> dict[SnapshotName, Path]:
        """Where each snapshot lies; of one that is there twice, the file that is not compressed."""
        try:
            files = {path.name for path in self.directory.iterdir()}
        except FileNotFoundError:
            return {}
        found = {}
        for end in (COMPRESSED, DOCUMENT):
            for file in files:
                name = SnapshotName.parse(file.removesuffix(end)) if file.endswith(end) else None
                if name is not None and f"{name}{end}" == file:
                    found[name] = self.directory / file
        return found

    def _look_at(self, name: SnapshotName, path: Path) -> Snapshot:
        beside = read_if_exists(self.directory / f"{name}{CHECKSUM}")
        checksum, note = parse_checksum_file(beside) if beside is not None else (None, Note())
        return Snapshot(name, path, checksum, note)

    def read_bytes(self, snapshot: Snapshot) -> bytes:
        """The document of a snapshot as bytes that match its checksum; SnapshotDamagedError names the snapshot."""
        if snapshot.checksum is None:
            raise SnapshotDamagedError(
                f"{snapshot.path} has no checksum beside it, so nobody knows whether it is whole."
            )
        problem = "does not match its checksum"
        for end in (DOCUMENT, COMPRESSED):
            path = self.directory / f"{snapshot.name}{end}"
            try:
                raw = read_if_exists(path)
                if raw is not None and end == COMPRESSED:
                    raw = gzip.decompress(raw)
            except (OSError, EOFError, zlib.error) as error:
                problem = f"can not be read: {explain(error) if isinstance(error, OSError) else error}"
                continue
            if raw is not None and checksum_of(raw) == snapshot.checksum:
                return raw
        raise SnapshotDamagedError(f"{snapshot.path} {problem}.")

    def read(self, snapshot: Snapshot) -> Document:
        """The document of a snapshot; SnapshotDamagedError or StateError when it can not be used."""
        return parse_document(self.read_bytes(snapshot), snapshot.path)

    def first_usable(self, snapshots: Iterable[Snapshot], check: Callable[[Document], None] | None = None) -> Choice:
        """The first that can be read, and passes a check that raises NHIError when it does not."""
        skipped: list[str] = []
        for snapshot in snapshots:
            try:
                document = self.read(snapshot)
                if check is not None:
                    check(document)
            except NHIError as error:
                skipped.append(f"Passed over {snapshot.name}: {error}")
                continue
            return Choice(snapshot, document, tuple(skipped))
        return Choice(skipped=tuple(skipped))

    def newest_valid(self, check: Callable[[Document], None] | None = None) -> Choice:
        """The newest that can be used; it never fails, as it is asked when something else has."""
        try:
            newest_first = self.snapshots()[::-1]
        except HistoryError as error:
            return Choice(skipped=(str(error),))
        return self.first_usable(newest_first, check)

    def at(self, moment: datetime) -> Choice:
        """The snapshot that tells best how the lab was at a moment."""
        return self.first_usable(candidates_at(self.snapshots(), moment))

    def is_intact(self, snapshot: Snapshot) -> bool:
        """Whether its bytes are those that were written."""
        try:
            self.read_bytes(snapshot)
        except SnapshotDamagedError:
            return False
        return True

    # Writing

    def take(
        self,
        state: KnownState,
        now: datetime,
        *,
        reason: str,
        actor: str,
        critical: bool = False,
        dry_run: bool = False,
    ) -> Taken:
        """Keep a state, unless the newest snapshot (for a critical one: any critical one) is of that very state."""
        if dry_run:
            same = self._same(state, critical=critical)
            return Taken(same, new=same is None)
        with self._writing("take a snapshot"):
            same = self._same(state, critical=critical)
            if same is not None:
                return Taken(same, new=False)
            name = self._free_name(now, critical=critical)
            note = Note(reason, actor, now, state.written_at)
            self._write(f"{name}{CHECKSUM}", checksum_file(name, state.checksum, note))
            self._write(f"{name}{DOCUMENT}", state.raw)
            return Taken(Snapshot(name, self.directory / f"{name}{DOCUMENT}", state.checksum, note), new=True)

    def _same(self, state: KnownState, *, critical: bool) -> Snapshot | None:
        with self._reported("read"):
            files = {name: path for name, path in self._files().items() if name.critical or not critical}
            if not critical:
                # Before each change: only the newest is looked at, however many there are.
                last = max((name.minute for name in files), default=None)
                files = {name: path for name, path in files.items() if name.minute == last}
            snapshots = oldest_first(self._look_at(name, path) for name, path in files.items())
        for snapshot in snapshots[::-1] if critical else snapshots[-1:]:
            if snapshot.checksum == state.checksum and self.is_intact(snapshot):
                return snapshot
        return None

    def _free_name(self, now: datetime, *, critical: bool) -> SnapshotName:
        """A name that no file has, not even one that somebody put there by hand."""
        files = {path.name for path in self.directory.iterdir()}
        number = 1
        while True:
            name = SnapshotName.at(now, number, critical=critical)
            if not any(f"{name}{end}" in files for end in (DOCUMENT, COMPRESSED, CHECKSUM)):
                return name
            number += 1

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.directory / f"{name}{_TEMPORARY}"
        try:
            write_new(temporary, data)
            temporary.replace(self.directory / name)
        except BaseException:
            discard(temporary)
            raise
        sync_directory(self.directory)

    def prune(self, policy: Retention, now: datetime, *, dry_run: bool = False) -> Pruned:
        """Compress and remove what the policy says. Killed at any moment, the next run finishes it."""
        if dry_run:
            return self._judged(policy, now)
        if not self.directory.is_dir():
            return Pruned((), (), ())
        with self._writing("prune the history"):
            pruned = self._judged(policy, now)
            for leftover in pruned.leftovers:
                (self.directory / leftover).unlink(missing_ok=True)
            for decision in pruned.decisions:
                if decision.verdict == COMPRESS and not _is_compressed(decision.snapshot):
                    self._compress(decision.snapshot)
            for decision in pruned.decisions:
                if decision.verdict == REMOVE:
                    self._remove(decision.snapshot.name)
            sync_directory(self.directory)
            return pruned

    def _judged(self, policy: Retention, now: datetime) -> Pruned:
        snapshots = self.snapshots()
        intact: set[Snapshot] = set()
        damaged = []
        for snapshot in snapshots:
            try:
                self.read_bytes(snapshot)
            except SnapshotDamagedError as error:
                damaged.append(str(error))
            else:
                intact.add(snapshot)
        newest = self.newest_valid().snapshot
        return Pruned(tuple(decide(snapshots, intact, newest, policy, now)), tuple(damaged), tuple(self._leftovers()))

    def _leftovers(self) -> list[str]:
        """What writers that were killed left: nobody else writes while the lock is held."""
        if not self.directory.is_dir():
            return []
        files = {path.name for path in self.directory.iterdir()}
        leftovers = [name for name in files if name.startswith("state_") and name.endswith(_TEMPORARY)]
        for name in files:
            stem = name.removesuffix(CHECKSUM)
            if stem != name and SnapshotName.parse(stem) and not {stem + DOCUMENT, stem + COMPRESSED} & files:
                leftovers.append(name)
        return sorted(leftovers)

    def _compress(self, snapshot: Snapshot) -> None:
        # Killed between its two names, a snapshot has both: either is read, and the next run comes here again.
        raw = self.read_bytes(snapshot)
        packed = gzip.compress(raw, _LEVEL, mtime=0)
        if checksum_of(gzip.decompress(packed)) != snapshot.checksum:
            raise SnapshotDamagedError(f"{snapshot.path} did not survive compression and stays as it is.")
        self._write(f"{snapshot.name}{COMPRESSED}", packed)
        (self.directory / f"{snapshot.name}{DOCUMENT}").unlink(missing_ok=True)
        sync_directory(self.directory)

    def _remove(self, name: SnapshotName) -> None:
        for end in (COMPRESSED, DOCUMENT):
            (self.directory / f"{name}{end}").unlink(missing_ok=True)
        sync_directory(self.directory)
        (self.directory / f"{name}{CHECKSUM}").unlink(missing_ok=True)

    @contextmanager
    def _writing(self, operation: str) -> Iterator[None]:
        with self._reported("written"):
            if not self.directory.is_dir():
                self.directory.mkdir(parents=True, exist_ok=True)
                sync_directory(self.directory.parent)
            with FileLock(self.directory.parent / "history.lock", operation, timeout=self._lock_timeout):
                yield

    @contextmanager
    def _reported(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "Make room, or correct its owner; what was in the history is intact."
            raise HistoryError(
                f"{error.filename or self.directory} can not be {verb}: {explain(error)}. "
                + (hint if verb == "written" else "Correct its owner or its permissions.")
            ) from error


def list_snapshots(state_dir: Path | str) -> list[dict[str, Any]]:
    """Every snapshot for programs, oldest first, each with its problem: None for one that is intact."""
    history = History(state_dir)
    listed = []
    for snapshot in history.snapshots():
        problem = None
        try:
            history.read_bytes(snapshot)
        except SnapshotDamagedError as error:
            problem = str(error)
        listed.append({**snapshot.as_data(), "problem": problem})
    return listed


def _is_compressed(snapshot: Snapshot) -> bool:
    return snapshot.path.name.endswith(COMPRESSED)
