# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill writers with SIGKILL at random moments while others read and write: nobody may notice."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import random
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import make_document, make_guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ansible_collections.nhi.core.plugins.module_utils.state_document import Document

GUESTS = 20
LEAST_ROUNDS = 50
LONGEST_LIFE_SECONDS = 0.006


class Rounds:
    """A count that a forked child raises and its parent reads."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    def add_one(self) -> None:
        self._memory[:] = (self.so_far() + 1).to_bytes(8)

    def so_far(self) -> int:
        return int.from_bytes(self._memory[:])


def document_number(number: int) -> Document:
    """A document all of whose guests carry the same number: a mixture of two writes would show."""
    return make_document(make_guest(vmid, uptime_seconds=number) for vmid in range(100, 100 + GUESTS))


def number_in(document: Document) -> int:
    numbers = {guest["uptime_seconds"] for guest in document["infrastructure"]["guests"]}
    assert len(numbers) == 1
    assert len(document["infrastructure"]["guests"]) == GUESTS
    return int(numbers.pop())


def increment(store: StateStore) -> None:
    store.update(
        lambda document: document_number(number_in(document) + 1 if document else 1),
        attempts=100,
        sleep=lambda _seconds: time.sleep(random.uniform(0, 0.002)),
    )


def write_until_killed(directory: Path) -> None:
    store = StateStore(directory)
    while True:
        increment(store)


def write_now_and_then(directory: Path, rounds: Rounds) -> None:
    """A writer that is never killed: it must never fail, whatever state the killed ones leave."""
    store = StateStore(directory)
    while True:
        increment(store)
        rounds.add_one()
        time.sleep(0.003)


def read_without_end(directory: Path, rounds: Rounds) -> None:
    store = StateStore(directory)
    revision = number = 0
    while True:
        rounds.add_one()
        time.sleep(0.0005)
        snapshot = store.read()
        assert snapshot.revision >= revision, "an older state came back"
        assert number_in(snapshot.document) >= number, "an older document came back"
        revision, number = snapshot.revision, number_in(snapshot.document)


def start(body: Callable[[Path], None], directory: Path) -> int:
    """Fork a process that runs body; it exits with status 1 and a message when body fails."""
    pid = os.fork()
    if pid:
        return pid
    status = 0
    try:
        # Each child its own dice: forked ones would all throw the same.
        random.seed(os.getpid())
        body(directory)
    except BaseException as error:  # noqa: BLE001 -- the child's only way to tell is its exit status
        os.write(2, f"{body}: {error!r}\n".encode())
        status = 1
    os._exit(status)


@dataclass
class Torture:
    """Kill writers in a directory, again and again."""

    directory: Path
    dice: random.Random
    bystanders: list[int] = field(default_factory=list)
    unpublished: int = 0
    half_written: int = 0

    @contextlib.contextmanager
    def with_bystanders(self) -> Iterator[None]:
        bodies = (read_without_end, read_without_end, write_now_and_then)
        rounds = [Rounds() for _body in bodies]
        self.bystanders = [
            start(partial(body, rounds=count), self.directory) for body, count in zip(bodies, rounds, strict=True)
        ]
        try:
            yield
            # A test of readers that never read could not fail.
            while min(count.so_far() for count in rounds) < LEAST_ROUNDS:
                assert self.bystanders_live()
                time.sleep(0.01)
        finally:
            for pid in self.bystanders:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def kill_a_writer(self) -> None:
        pid = start(write_until_killed, self.directory)
        time.sleep(self.dice.uniform(0.001, LONGEST_LIFE_SECONDS))
        os.kill(pid, signal.SIGKILL)
        _pid, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "the writer failed before it was killed"

    def bystanders_live(self) -> bool:
        return all(os.waitpid(pid, os.WNOHANG) == (0, 0) for pid in self.bystanders)

    def look_at_the_remains(self) -> None:
        """What a kill left, as long as nobody else writes."""
        checksum = (self.directory / "state.json.checksum").read_text().split()[0]
        raw = (self.directory / "state.json").read_bytes()
        if hashlib.sha256(raw).hexdigest() != checksum:
            self.unpublished += 1
        elif (self.directory / "state.json.tmp").exists():
            self.half_written += 1


def survive(directory: Path, kills: int) -> Torture:
    store = StateStore(directory)
    increment(store)
    torture = Torture(directory, random.Random(kills))
    # With others reading and writing.
    with torture.with_bystanders():
        for _count in range(kills // 2):
            torture.kill_a_writer()
            assert torture.bystanders_live(), "a reader or the other writer failed; see its message above"
    # Alone, to see where the kills hit and that the very next write succeeds.
    for _count in range(kills - kills // 2):
        torture.kill_a_writer()
        torture.look_at_the_remains()
        before = store.read()
        store.write(document_number(number_in(before.document) + 1), expected_checksum=before.checksum)
        assert store.read().revision == before.revision + 1
        assert not list(directory.glob("*.tmp"))
    return torture
