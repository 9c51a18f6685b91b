# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any sequence of reads, writes, crashes and failures leaves a valid state, and compare-and-swap has one order."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    ConflictError,
    NHIError,
    StateInvalidError,
    StateMissingError,
)
from ansible_collections.nhi.core.plugins.module_utils.state import StateSnapshot, StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import Document
from ansible_collections.nhi.core.plugins.module_utils.state_validation import schema_errors
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fast_directory import fast_directory
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.faulty_disk import (
    Call,
    FaultyOs,
    ProcessKilledError,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import make_document, make_guest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

CLIENTS = st.integers(0, 2)
GUESTS = st.lists(st.integers(100, 110), max_size=4, unique=True)
KILLS = st.sampled_from([FaultyOs.kill_before, FaultyOs.kill_after, FaultyOs.kill_half_way])
CALLS = st.integers(0, 20)


def vmids(document: Document) -> list[int]:
    return [guest["vmid"] for guest in document["infrastructure"]["guests"]]


class StoreMachine(RuleBasedStateMachine):
    """Three clients of one directory, each with what it read last, and a disk on which anything may fail."""

    def __init__(self) -> None:
        super().__init__()
        self._cleanup = ExitStack()
        self.directory = self._cleanup.enter_context(fast_directory())
        self.store = StateStore(self.directory, patience=0, lock_timeout=0)
        self.read: dict[int, StateSnapshot | None] = {}
        self.current: list[int] | None = None
        self.revision = 0

    def teardown(self) -> None:
        self._cleanup.close()

    @rule(client=CLIENTS)
    def look(self, client: int) -> None:
        self.read[client] = self.store.read_or_none()

    @rule(client=CLIENTS, guests=GUESTS)
    def write(self, client: int, guests: list[int]) -> None:
        """A write succeeds exactly when nobody wrote since this client read."""
        mine = self.read.get(client)
        unchanged = (mine.revision if mine else 0) == self.revision
        try:
            self._write(mine, guests)
        except ConflictError:
            assert not unchanged
        else:
            assert unchanged
            self._moved_to(sorted(guests))

    @rule(guests=GUESTS)
    def refuse_an_invalid_document(self, guests: list[int]) -> None:
        document = make_document(make_guest(vmid, health="great") for vmid in [*guests, 99])
        with pytest.raises(StateInvalidError):
            self.store.write(document, expected_checksum=self._checksum())

    @rule(guests=GUESTS, at=CALLS, kill=KILLS)
    def write_and_die(self, guests: list[int], at: int, kill: Callable[..., None]) -> None:
        faulty = FaultyOs(at=at)
        faulty.fault = lambda call, real: kill(faulty, call, real)
        with faulty.installed(), suppress(ProcessKilledError):
            self._write(self.store.read_or_none(), guests)
        self._moved_perhaps_to(sorted(guests))

    @rule(guests=GUESTS, at=CALLS, code=st.sampled_from([errno.ENOSPC, errno.EIO, errno.EACCES]))
    def write_on_a_failing_disk(self, guests: list[int], at: int, code: int) -> None:
        def fail(_call: Call, _real: Callable[..., Any]) -> None:
            raise OSError(code, os.strerror(code))

        with FaultyOs(at=at, fault=fail).installed(), suppress(NHIError):
            self._write(self.store.read_or_none(), guests)
        self._moved_perhaps_to(sorted(guests))

    @precondition(lambda self: self.store.path.exists() and not (self.directory / "state.json.tmp").exists())
    @rule()
    def edit_by_hand_and_accept(self) -> None:
        raw = self.store.path.read_bytes()
        self.store.path.write_bytes(raw.replace(b'"host": "brain"', b'"host": "brain "'))
        changed = self.store.path.read_bytes() != raw
        assert self.store.regenerate_checksum() == changed
        if changed:
            # The same revision with other bytes: whoever read the old ones must get a conflict.
            self.read = {client: mine for client, mine in self.read.items() if mine and mine.revision != self.revision}

    @invariant()
    def every_reader_sees_the_last_write(self) -> None:
        try:
            snapshot = self.store.read()
        except StateMissingError:
            assert self.current is None
            return
        assert vmids(snapshot.document) == self.current
        assert snapshot.revision == self.revision
        assert not schema_errors(snapshot.document)

    def _write(self, based_on: StateSnapshot | None, guests: list[int]) -> None:
        document = make_document(make_guest(vmid) for vmid in guests)
        self.store.write(document, expected_checksum=based_on.checksum if based_on else None)

    def _checksum(self) -> str | None:
        snapshot = self.store.read_or_none()
        return snapshot.checksum if snapshot else None

    def _moved_to(self, guests: list[int]) -> None:
        self.current = guests
        self.revision += 1

    def _moved_perhaps_to(self, guests: list[int]) -> None:
        snapshot = self.store.read_or_none()
        if snapshot is not None and snapshot.revision == self.revision + 1:
            self._moved_to(guests)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
