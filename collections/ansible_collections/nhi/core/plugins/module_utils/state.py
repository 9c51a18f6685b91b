# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""state.json on disk: read it verified, write it so that no crash can leave it invalid.

Three files, and one rule: at every moment, and after every crash, either state.json or state.json.tmp has exactly the
bytes whose SHA-256 is in state.json.checksum. A write therefore

1. makes sure that state.json is the one that the checksum names (finishing a write that died half-way),
2. writes state.json.tmp and the new checksum aside and flushes both and their names to the disk,
3. renames the checksum into place: from here on the new document is the state, read from state.json.tmp (where several
   Brains share a lock, only if that is still ours and nobody with a higher fencing number wrote meanwhile),
4. renames state.json.tmp to state.json.

Readers take no lock and need no write permission.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import (
    ConflictError,
    LockLostError,
    StateCorruptError,
    StateError,
    StateInvalidError,
    StateMissingError,
)
from .files import discard, explain, read_if_exists, sync_directory, sync_file, write_new
from .history import History
from .shared_lock import STATE_LOCK, SharedLock
from .snapshots import KnownState
from .state_document import Document, canonical_bytes, checksum_of, parse_document, stamped
from .state_validation import validate_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

STATE_NAME = "state.json"
GRAPH_NAME = "dependency_graph.json"

# What going back to a snapshot mends; a file that may not be read, or that a newer NHI wrote, is no damage.
DAMAGES = (StateCorruptError, StateInvalidError, StateMissingError)

_CHECKSUM_LINE = re.compile(rb"([0-9a-f]{64})(?:[ ][ *]state\.json)?\s*")
_REVISION = re.compile(rb'"revision": (\d{1,15})\b')
_FENCE = re.compile(rb'^    "fence": (\d{1,16})\b', re.MULTILINE)
_BELIEVABLE_REVISIONS = 1_000_000
_SCAN_HINT = "run a scan (`nhi scan` or playbooks/scan.yml)"
_REREAD_PAUSE_SECONDS = 0.02
_BACK_OFF_SECONDS = (1.0, 3.0)
_UPDATE_ATTEMPTS = 3


@dataclass(frozen=True)
class StateSnapshot:
    """A document that was verified against its checksum, and where it came from."""

    document: Document
    checksum: str
    path: Path

    @property
    def revision(self) -> int:
        """How many writes led to this document."""
        return int(self.document["meta"]["revision"])


class StateStore:
    """The state of one lab, in one directory."""

    def __init__(self, directory: Path | str, *, lock_timeout: float = 30.0, patience: float = 1.0) -> None:
        """patience is how long a reader looks again before it calls a mismatch corruption."""
        self.directory = Path(directory)
        self.path = self.directory / STATE_NAME
        self._temporary = self.directory / f"{STATE_NAME}.tmp"
        self._checksum = self.directory / f"{STATE_NAME}.checksum"
        self._new_checksum = self.directory / f"{STATE_NAME}.checksum.tmp"
        self._lock_timeout = lock_timeout
        self._patience = patience

    # Reading

    def read(self) -> StateSnapshot:
        """The current state, verified; also when a writer died before it could publish it."""
        with self._reported("read"):
            path, raw, checksum = self._verified()
        return StateSnapshot(parse_document(raw, path), checksum, path)

    def read_or_none(self) -> StateSnapshot | None:
        """The current state, or None before the first scan."""
        try:
            return self.read()
        except StateMissingError:
            return None

    def validate(self) -> StateSnapshot:
        """The current state, checked against the whole schema too."""
        snapshot = self.read()
        validate_document(snapshot.document)
        return snapshot

    def read_known(self) -> KnownState | None:
        """The verified bytes of the current state, not parsed; None before the first scan."""
        with self._reported("read"):
            try:
                path, raw, checksum = self._verified()
            except StateMissingError:
                return None
            try:
                written = path.stat().st_mtime
            except FileNotFoundError:
                written = self.path.stat().st_mtime  # published since it was read
        return KnownState(raw, checksum, datetime.fromtimestamp(written, UTC))

    def recorded_checksum(self) -> str | None:
        """What state.json.checksum says: None without that file, empty when it holds no checksum."""
        with self._reported("read"):
            return self._recorded()

    def _verified(self) -> tuple[Path, bytes, str]:
        deadline = time.monotonic() + self._patience
        while True:
            expected = self._recorded()
            published = read_if_exists(self.path)
            if expected is None and published is None:
                raise StateMissingError(f"There is no {self.path} yet: {_SCAN_HINT}.")
            for path, raw in ((self.path, published), (self._temporary, read_if_exists(self._temporary))):
                if expected and raw is not None and checksum_of(raw) == expected:
                    return path, raw, expected
            # A writer that published between our reads explains a mismatch, but not for long.
            if time.monotonic() >= deadline:
                raise self._mismatch(published is None, expected)
            time.sleep(_REREAD_PAUSE_SECONDS)

    def _recorded(self) -> str | None:
        raw = read_if_exists(self._checksum)
        if raw is None:
            return None
        match = _CHECKSUM_LINE.fullmatch(raw)
        return match[1].decode() if match else ""

    def _mismatch(self, gone: bool, expected: str | None) -> StateError:
        if gone:
            return StateMissingError(f"{self.path} is gone, only its checksum is left: {_SCAN_HINT}.")
        problem = "has no checksum beside it" if expected is None else "does not match its checksum"
        snapshot = History(self.directory).newest_valid().snapshot
        return StateCorruptError(
            f"{self.path} {problem}. If the file is right, run `nhi state validate --regenerate-checksum`; if not, "
            "`nhi state restore` (or playbooks/recover_state.yml with -i inventory/hosts.yml) goes back to the newest "
            "valid snapshot and scans again. "
            f"Newest valid snapshot: {snapshot.path if snapshot else 'none'}."
        )

    # Writing

    def write(self, document: Mapping[str, Any], *, expected_checksum: str | None) -> StateSnapshot:
        """Replace the state that has expected_checksum (None: there is no state yet), else raise ConflictError.

        document must be valid. Its revision, topology fingerprint and order of lists are set here, in a copy.
        """
        with self._writing(expected_checksum) as (lock, current):
            _compare(current.checksum if current else None, expected_checksum, self.path)
            return self._replace(lock, current, document)

    def amend(self, change: Callable[[Document | None], Document]) -> StateSnapshot:
        """Change the state while nobody else can write it: for a change that only computes, and so never conflicts.

        change gets the current document (None before the first scan), leaves it as it is, and returns the new one.
        """
        with self._writing() as (lock, current):
            return self._replace(lock, current, change(current.document if current else None))

    @contextmanager
    def _writing(self, expected_checksum: str | None = None) -> Iterator[tuple[SharedLock, StateSnapshot | None]]:
        with self._reported("written"):
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._locked("write the state") as lock:
                if expected_checksum and (recorded := self._recorded()):
                    # What the checksum names is the state: of many writers most are told so without reading it.
                    _compare(recorded, expected_checksum, self.path)
                yield lock, self._settled()

    def _replace(self, lock: SharedLock, current: StateSnapshot | None, document: Mapping[str, Any]) -> StateSnapshot:
        validate_document(document, current.document if current else None)
        # Whoever writes without a lease keeps the number: it says after whom nobody may write.
        fence = lock.fence or (current.document["meta"].get("fence") if current else None)
        new = stamped(document, current.revision + 1 if current else 1, self._graph(), fence)
        raw = canonical_bytes(new)
        checksum = checksum_of(raw)
        self._publish(lock, raw, checksum)
        return StateSnapshot(new, checksum, self.path)

    def update(
        self,
        change: Callable[[Document | None], Document],
        *,
        attempts: int = _UPDATE_ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> StateSnapshot:
        """Read, change, write; start over when somebody else wrote in between.

        change gets the current document (None before the first scan), may alter it, and returns the new one. It may
        be called several times, each time with a document just read.
        """
        for attempt in range(1, attempts + 1):
            current = self.read_or_none()
            document = change(current.document if current else None)
            try:
                return self.write(document, expected_checksum=current.checksum if current else None)
            except ConflictError:
                if attempt == attempts:
                    raise
                sleep(random.uniform(*_BACK_OFF_SECONDS))  # noqa: S311 -- spreads retries, hides nothing
        raise ValueError("attempts must be at least 1")

    def edited(self) -> StateSnapshot | None:
        """What regenerate_checksum would accept: a valid state.json that was edited by hand, or lost its checksum.

        None when nothing is to be accepted. A complete write that was not yet published wins over the file it was
        going to replace.
        """
        with self._reported("read"):
            try:
                self._verified()
            except StateCorruptError:
                raw = self.path.read_bytes()
                document = parse_document(raw, self.path)
                validate_document(document)
                return StateSnapshot(document, checksum_of(raw), self.path)
            return None

    def regenerate_checksum(self) -> bool:
        """Accept state.json as it is, if it is a valid document; True when its checksum had to be replaced."""
        if self.edited() is None:
            return False
        with self._reported("written"), self._locked("regenerate the checksum") as lock:
            edited = self.edited()
            if edited is None:
                return False
            sync_file(self.path)
            self._prepare_checksum(edited.checksum)
            self._still_ours(lock)
            self._new_checksum.replace(self._checksum)
            sync_directory(self.directory)
        return True

    def restore(self, document: Mapping[str, Any] | None) -> StateSnapshot | None:
        """Put a document in the place of a state that can not be used; without one, only take the damage away.

        The damaged file stays beside it as `state.json.damaged-CHECKSUM`. A state that can be used is never replaced:
        then it is returned as it is. document must be valid; its revision is set above every one that was used.
        """
        with self._reported("written"), self._locked("restore the state") as lock:
            with contextlib.suppress(*DAMAGES):
                return self.validate()
            leftovers = [raw for raw in (read_if_exists(self.path), read_if_exists(self._temporary)) if raw is not None]
            for raw in leftovers:
                write_new(self.directory / f"{STATE_NAME}.damaged-{checksum_of(raw)[:12]}", raw)
            sync_directory(self.directory)
            if document is None:
                self._still_ours(lock)
                discard(self._temporary)
                self.path.unlink(missing_ok=True)
                sync_directory(self.directory)
                return None
            validate_document(document)
            revision = _revision_after(document["meta"]["revision"], leftovers)
            new = stamped(document, revision, self._graph(), lock.fence or self._highest_fence() or None)
            raw = canonical_bytes(new)
            self._publish(lock, raw, checksum_of(raw))
            return StateSnapshot(new, checksum_of(raw), self.path)

    def _settled(self) -> StateSnapshot | None:
        """Under the lock: the current state, in state.json and nowhere else; None before the first write."""
        # What a killed writer renamed may be on its way to the disk only; later steps build on it.
        sync_directory(self.directory)
        try:
            path, raw, checksum = self._verified()
        except StateMissingError:
            return None
        if path == self._temporary:
            self._temporary.replace(self.path)
            sync_directory(self.directory)
        return StateSnapshot(parse_document(raw, self.path), checksum, self.path)

    def _publish(self, lock: SharedLock, raw: bytes, checksum: str) -> None:
        # Twice: not even a name that another writer uses is taken from it.
        self._still_ours(lock)
        try:
            write_new(self._temporary, raw)
            self._prepare_checksum(checksum)
            self._still_ours(lock)
            self._new_checksum.replace(self._checksum)
        except BaseException:
            # The failure of a rename is not always the truth (NFS): never discard what the checksum names.
            if self._recorded() != checksum:
                discard(self._temporary, self._new_checksum)
            raise
        try:
            sync_directory(self.directory)
            self._temporary.replace(self.path)
            sync_directory(self.directory)
        except OSError as error:
            raise StateError(
                f"The new state is complete and in use, but {self.path} can not be replaced: {explain(error)}. "
                "The next write finishes it."
            ) from error

    def _prepare_checksum(self, checksum: str) -> None:
        write_new(self._new_checksum, f"{checksum}  {STATE_NAME}\n".encode())
        sync_directory(self.directory)

    def _graph(self) -> Any:
        raw = read_if_exists(self.directory / GRAPH_NAME)
        if raw is None:
            return None
        try:
            return json.loads(raw)
        except ValueError:
            return checksum_of(raw)

    @contextmanager
    def _locked(self, operation: str) -> Iterator[SharedLock]:
        with SharedLock(
            self.directory, STATE_LOCK, operation, timeout=self._lock_timeout, floor=self._highest_fence
        ) as lock:
            yield lock

    def _still_ours(self, lock: SharedLock) -> None:
        """Refuse to touch what another Brain wrote after this one lost the lock: LockLostError, LockBackendError.

        Redis is asked last: what it confirms holds for the time that follows.
        """
        if lock.fence is None:
            return
        expected = self._recorded()
        for raw in (read_if_exists(self.path), read_if_exists(self._temporary)):
            if raw is not None and checksum_of(raw) == expected and (found := _fence_in(raw)) > lock.fence:
                raise LockLostError(
                    f"{self.path} was written under fence {found} since this run got the lock under fence "
                    f"{lock.fence}: another Brain has it now. Nothing was written; run again."
                )
        lock.confirm()

    def _highest_fence(self) -> int:
        """The highest fencing number in what is there, damaged or not; 0 where there is none."""
        return max(_fence_in(read_if_exists(path) or b"") for path in (self.path, self._temporary))

    @contextmanager
    def _reported(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "The state that was there before is intact." if verb == "written" else "Check its permissions."
            raise StateError(f"{error.filename or self.path} can not be {verb}: {explain(error)}. {hint}") from error


def _fence_in(raw: bytes) -> int:
    """The fencing number that a document says it was written under; 0 where it has none."""
    found = _FENCE.search(raw)
    return int(found[1]) if found else 0


def _revision_after(known: int, leftovers: Iterable[bytes]) -> int:
    """A revision that nobody used: above the known one, and above what damaged bytes say where that can be true."""
    said = [int(number) for raw in leftovers for number in _REVISION.findall(raw)]
    return max([known, *(number for number in said if number < known + _BELIEVABLE_REVISIONS)]) + 1


def _compare(found: str | None, expected: str | None, path: Path) -> None:
    if found != expected:
        raise ConflictError(
            f"{path} changed since it was read (expected checksum {_short(expected)}, found {_short(found)}): "
            "read it again and repeat the change."
        )


def _short(checksum: str | None) -> str:
    return checksum[:12] if checksum else "none"
