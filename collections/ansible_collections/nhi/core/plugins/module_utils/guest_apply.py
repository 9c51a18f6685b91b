# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a guest plan out through the API, and undoes what it did itself when a later step fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import GuestChangeError, NHIError, ProxmoxError, UnreachableError
from .guest import CLONE, CONFIGURE, CREATE, DESTROY, PROTECT, REPLACE, RESIZE, START, STOP, Action, Found, GuestPlan
from .guest_config import Placement, after_clone, clone_qemu, create_lxc, create_qemu, root_disk
from .guest_reader import Api, guest_path, read_guest, refuse_if_changed
from .guest_spec import LXC, Wanted
from .guest_undo import Made, inverse, undo_configure, undo_creation, undo_stop
from .guest_wait import Patience, await_address
from .interrupts import Interrupts


@dataclass
class Journal:
    """What this run did so far that would have to be undone."""

    made: Made | None = None
    configured: tuple[Found, Mapping[str, Any]] | None = None
    stopped: Found | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to undo."""
        return self.made is None and self.configured is None and self.stopped is None


class GuestChange:
    """One run's changes to one guest."""

    def __init__(self, api: Api, wanted: Wanted, operation: str, interrupts: Interrupts, patience: Patience) -> None:
        self._api = api
        self._wanted = wanted
        self._operation = operation
        self._interrupts = interrupts
        self._patience = patience
        self._journal = Journal()

    def create(self, plan: GuestPlan, place: Placement) -> str | None:
        """Make the guest and return its address; AlreadyExistsError when somebody else just took the VMID."""
        kind = self._wanted.type or LXC
        with self._undoing():
            for action in plan.actions:
                self._create_step(action, kind, place)
            address = self._settled_address(kind, place)
            if any(a.kind == PROTECT for a in plan.actions):
                # Last of all: a protected guest could not be undone.
                self._configure(kind, place.node, place.vmid, {"protection": 1})
        return address

    def change(self, plan: GuestPlan, found: Found) -> str | None:
        """Correct a guest that is there; returns its address when this started it."""
        with self._undoing():
            for action in plan.actions:
                self._change_step(action, found)
        if any(a.kind == START for a in plan.actions):
            return await_address(self._api, self._reread(found.type, found.node, found.vmid), self._patience)
        return None

    def destroy(self, plan: GuestPlan, found: Found) -> None:
        """Stop and destroy, or replace; the guest is looked at once more just before, as VMIDs are used again."""
        refuse_if_changed(self._api, found)
        with self._undoing():
            for action in plan.actions:
                self._change_step(action, found)

    def restore(self, place: Placement, kind: str, data: Mapping[str, Any]) -> None:
        """Make a guest from a backup; AlreadyExistsError when somebody else just took the VMID."""
        with self._undoing():
            self._make(kind, place, ("nodes", place.node, kind), data)

    def _create_step(self, action: Action, kind: str, place: Placement) -> None:
        if action.kind in (CREATE, CLONE):
            self._create(action.kind, kind, place)
        elif action.kind == CONFIGURE:
            clone = self._reread(kind, place.node, place.vmid)
            self._configure(kind, place.node, place.vmid, after_clone(self._wanted, place, clone.config))
        elif action.kind == RESIZE:
            self._grow_clone(kind, place)
        elif action.kind == START:
            self._start(kind, place.node, place.vmid)

    def _create(self, how: str, kind: str, place: Placement) -> None:
        path: tuple[str, ...] = ("nodes", place.node, kind)
        if how == CLONE:
            path = guest_path(kind, place.clone_node or place.node, place.clone_of or 0, "clone")
            data = clone_qemu(self._wanted, place, self._operation)
        else:
            data = (create_lxc if kind == LXC else create_qemu)(self._wanted, place, self._operation)
        self._make(kind, place, path, data)

    def _make(self, kind: str, place: Placement, path: tuple[str, ...], data: Mapping[str, Any]) -> None:
        """The create call is the compare-and-set on the VMID: whoever's configuration is first has it."""
        made = self._journal.made = Made(kind, place.node, place.vmid, self._wanted.name, self._operation)
        try:
            with self._interrupts.shielded():
                made.task = str(self._api.post(path, data))
                made.answered = True
        except UnreachableError:
            raise  # nobody knows whether it was done: undoing looks
        except ProxmoxError:
            self._journal.made = None
            raise
        self._api.wait_task(made.task or "", self._patience.task)
        made.task = None

    def _grow_clone(self, kind: str, place: Placement) -> None:
        disk, present = root_disk(self._reread(kind, place.node, place.vmid).config, kind)
        if present is not None and (self._wanted.disk_gib or 0) > present:
            self._resize(kind, place.node, place.vmid, {"disk": disk, "size": f"{self._wanted.disk_gib}G"})

    def _settled_address(self, kind: str, place: Placement) -> str | None:
        fixed = str(place.address.ip) if place.address else None
        # A machine with an empty disk has no system that could report anything.
        if self._wanted.state != "started" or (kind != LXC and not place.clone_of):
            return fixed
        return await_address(self._api, self._reread(kind, place.node, place.vmid), self._patience)

    def _change_step(self, action: Action, found: Found) -> None:
        kind, node, vmid = found.type, found.node, found.vmid
        if action.kind == CONFIGURE:
            self._configure(kind, node, vmid, action.data)
            self._journal.configured = (found, inverse(found.config, action.data))
        elif action.kind == RESIZE:
            self._resize(kind, node, vmid, action.data)
        elif action.kind == REPLACE:
            self._replace(action, found)
        elif action.kind == STOP:
            self._stop(found)
        elif action.kind == START:
            self._start(kind, node, vmid)
            self._journal.stopped = None
        elif action.kind == DESTROY:
            self._run(lambda: self._api.delete(guest_path(kind, node, vmid), {"purge": 1}))
            self._journal.stopped = None

    def _replace(self, action: Action, found: Found) -> None:
        with self._interrupts.shielded():
            task = str(self._api.post(("nodes", found.node, found.type), action.data))
            self._journal.stopped = None  # what is there from now on is not what was stopped
        try:
            self._api.wait_task(task, self._patience.task)
        except NHIError as e:
            raise GuestChangeError(
                f"{e}. {found.label} may be gone or incomplete now: the backup is still there, so restore it again"
            ) from e

    def _configure(self, kind: str, node: str, vmid: int, data: Mapping[str, Any]) -> None:
        with self._interrupts.shielded():
            self._api.put(guest_path(kind, node, vmid, "config"), data)

    def _stop(self, found: Found) -> None:
        data = {"timeout": self._patience.shutdown, "forceStop": 1}
        if self._wanted.state != "stopped":
            self._journal.stopped = found
        self._run(lambda: self._api.post(guest_path(found.type, found.node, found.vmid, "status", "shutdown"), data))

    def _start(self, kind: str, node: str, vmid: int) -> None:
        self._run(lambda: self._api.post(guest_path(kind, node, vmid, "status", "start")))

    def _resize(self, kind: str, node: str, vmid: int, data: Mapping[str, Any]) -> None:
        self._run(lambda: self._api.put(guest_path(kind, node, vmid, "resize"), data))

    def _run(self, call: Callable[[], Any]) -> None:
        """Start a task and wait for its end; some versions do small things at once and return no task."""
        made = self._journal.made
        with self._interrupts.shielded():
            answer = call()
            if made is not None:
                made.task = str(answer or "") or None
        if answer:
            self._api.wait_task(str(answer), self._patience.task)
        if made is not None:
            made.task = None

    def _reread(self, kind: str, node: str, vmid: int) -> Found:
        return read_guest(self._api, {"type": kind, "node": node, "vmid": vmid})

    @contextmanager
    def _undoing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if self._journal.empty:
                raise
            self._interrupts.mute()
            outcome = self._undo()
            if isinstance(error, NHIError):
                raise GuestChangeError(f"{error}. {outcome}") from error
            raise

    def _undo(self) -> str:
        journal = self._journal
        if journal.made is not None:
            return undo_creation(self._api, journal.made)
        done = []
        if journal.configured is not None:
            done.append(undo_configure(self._api, *journal.configured))
        if journal.stopped is not None:
            done.append(undo_stop(self._api, journal.stopped))
        return " ".join(done)
