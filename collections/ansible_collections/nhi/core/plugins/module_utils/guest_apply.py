# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a guest plan out through the API, and undoes what it did itself when a later step fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .errors import (
    AlreadyExistsError,
    GuestChangeError,
    NHIError,
    NotFoundError,
    PermissionDeniedError,
    PowerStateError,
    ProxmoxError,
    UnreachableError,
)
from .guest import CLONE, CONFIGURE, CREATE, DESTROY, PROTECT, REPLACE, RESIZE, START, STOP, Action, Found, GuestPlan
from .guest_config import Placement
from .guest_creation import after_clone, clone_drift, clone_guest, create_lxc, create_qemu, new_address
from .guest_doubt import was_done
from .guest_reader import Api, guest_path, read_guest, refuse_if_changed, refuse_if_replaced
from .guest_record import DONE, MADE, MAKE, REFUSED, TASK, GuestRecord, Target, target_entry
from .guest_spec import LXC, Wanted
from .guest_undo import inverse, is_set, undo
from .guest_wait import Patience, await_address
from .interrupts import Interrupts
from .journal import Journal

# What the journal never learns.
_UNWRITTEN = ("cipassword",)


class GuestChange:
    """One run's changes to one guest; ``warnings`` tell of tasks that grumbled but did what was asked."""

    def __init__(self, api: Api, wanted: Wanted, journal: Journal, interrupts: Interrupts, patience: Patience) -> None:
        self.warnings: list[str] = []
        self._api = api
        self._wanted = wanted
        self._journal = journal
        self._interrupts = interrupts
        self._patience = patience
        # Called when a new guest is complete but for being started: the last moment to find that it must not be.
        self.before_start: Callable[[], None] = lambda: None

    def create(self, plan: GuestPlan, place: Placement) -> str | None:
        """Make the guest and return its address; AlreadyExistsError when somebody else just took the VMID."""
        with self._undoing():
            address = self._create_all(plan, place)
            if any(a.kind == PROTECT for a in plan.actions):
                # Last of all: a protected guest could not be undone.
                self._journal.write(PROTECT)
                self._protect(place)
        return address

    def change(self, plan: GuestPlan, found: Found) -> str | None:
        """Correct a guest that is there; returns its address when this started it."""
        stopping: Found | None = None
        with self._undoing():
            for action in plan.actions:
                if action.kind == STOP:
                    # As it is now: its configuration may just have been corrected.
                    stopping = self._reread(found.type, found.node, found.vmid)
                elif action.kind == START and stopping is not None:
                    refuse_if_replaced(self._api, stopping)  # shutting down took its time
                self._change_step(action, found)
        if any(a.kind == START for a in plan.actions):
            return await_address(self._api, self._reread(found.type, found.node, found.vmid), self._patience)
        return None

    def destroy(self, plan: GuestPlan, found: Found) -> None:
        """Stop and destroy, or replace; the guest is looked at once more just before, as VMIDs are used again."""
        refuse_if_changed(self._api, found)
        with self._undoing():
            for action in plan.actions:
                if found.running and action.kind in (DESTROY, REPLACE):
                    refuse_if_replaced(self._api, found)  # shutting down took its time
                self._change_step(action, found)

    def restore(self, place: Placement, kind: str, data: Mapping[str, Any]) -> None:
        """Make a guest from a backup; AlreadyExistsError when somebody else just took the VMID."""
        with self._undoing():
            self._make(kind, place, ("nodes", place.node, kind), data)

    def _create_all(self, plan: GuestPlan, place: Placement) -> str | None:
        """All of a creation but the protection."""
        kind = self._wanted.type or LXC
        for action in plan.actions:
            self._create_step(action, kind, place)
        return self._settled_address(kind, place)

    def _protect(self, place: Placement) -> None:
        self._configure(self._reread(self._wanted.type or LXC, place.node, place.vmid), {"protection": 1})

    def _create_step(self, action: Action, kind: str, place: Placement) -> None:
        if action.kind in (CREATE, CLONE):
            self._create(action.kind, kind, place)
        elif action.kind == CONFIGURE:
            clone = self._reread(kind, place.node, place.vmid)
            self._configure(clone, after_clone(self._wanted, place, clone.config))
        elif action.kind == RESIZE:
            self._grow_clone(kind, place)
        elif action.kind == START:
            self.before_start()
            self._start(self._reread(kind, place.node, place.vmid))

    def _create(self, how: str, kind: str, place: Placement) -> None:
        path: tuple[str, ...] = ("nodes", place.node, kind)
        operation = self._journal.operation
        if how == CLONE:
            path = guest_path(kind, place.clone_node or place.node, place.clone_of or 0, "clone")
            data = clone_guest(self._wanted, place, operation)
        else:
            data = (create_lxc if kind == LXC else create_qemu)(self._wanted, place, operation)
        self._make(kind, place, path, data, copied=how == CLONE)

    def _make(
        self, kind: str, place: Placement, path: tuple[str, ...], data: Mapping[str, Any], *, copied: bool = False
    ) -> None:
        """The create call is the compare-and-set on the VMID: whoever's configuration is first has it."""
        guest = {"kind": kind, "node": place.node, "vmid": place.vmid, "name": self._wanted.name}
        self._journal.write(MAKE, guest=guest, copied=copied)
        try:
            with self._interrupts.shielded():
                task = str(self._api.post(path, data))
                self._journal.write(TASK, task=task)
        except UnreachableError:
            # Nobody knows whether it was done; a guest that is ours bears this operation's mark.
            if not was_done(self._api, place.node, place.vmid, lambda: self._is_made(kind, place), self._patience.task):
                raise
        except ProxmoxError:
            self._journal.write(REFUSED)
            raise
        else:
            self._wait(task)
        self._journal.write(MADE)

    def _is_made(self, kind: str, place: Placement) -> bool:
        try:
            found = self._reread(kind, place.node, place.vmid)
        except (NotFoundError, PermissionDeniedError):
            # A guest that does not exist is "permission denied" to those who have rights only in a pool.
            return False
        if found.operation != self._journal.operation:
            self._journal.write(REFUSED)
            raise AlreadyExistsError(f"VMID {place.vmid} was given to {found.label} meanwhile: choose another VMID")
        return not found.lock

    def _grow_clone(self, kind: str, place: Placement) -> None:
        clone = self._reread(kind, place.node, place.vmid)
        for disk, size in clone_drift(self._wanted, clone.config).grow:
            self._resize(clone, {"disk": disk, "size": f"{size}G"})

    def _settled_address(self, kind: str, place: Placement) -> str | None:
        fixed = new_address(self._wanted, place)
        # A machine with an empty disk has no system that could report anything.
        if self._wanted.state != "started" or (kind != LXC and not place.clone_of):
            return fixed
        return await_address(self._api, self._reread(kind, place.node, place.vmid), self._patience)

    def _change_step(self, action: Action, found: Found) -> None:
        if action.kind == CONFIGURE:
            self._configure(found, action.data)
        elif action.kind == RESIZE:
            self._resize(found, action.data)
        elif action.kind == REPLACE:
            self._replace(action, found)
        elif action.kind == STOP:
            self._stop(found)
        elif action.kind == START:
            self._start(found)
        elif action.kind == DESTROY:
            path = guest_path(found.type, found.node, found.vmid)
            self._run(DESTROY, found, lambda: self._api.delete(path, {"purge": 1}), lambda: self._is_gone(found))

    def _replace(self, action: Action, found: Found) -> None:
        self._journal.write(REPLACE, target=self._target(found), data=dict(action.data))
        task = None
        try:
            with self._interrupts.shielded():
                task = str(self._api.post(("nodes", found.node, found.type), action.data))
                self._journal.write(TASK, task=task)
        except ProxmoxError as e:
            lost = isinstance(e, UnreachableError)
            if not lost or not was_done(
                self._api, found.node, found.vmid, lambda: self._differs(found), self._patience.task
            ):
                self._done(REPLACE, found)  # the guest is as it was
                raise
        try:
            if task:
                self._wait(task)
        except NHIError as e:
            raise GuestChangeError(
                f"{e}. {found.label} may be gone or incomplete now: the backup is still there, so restore it again"
            ) from e
        self._done(REPLACE, self._reread(found.type, found.node, found.vmid))

    def _configure(self, found: Found, data: Mapping[str, Any]) -> None:
        written = {k: v for k, v in data.items() if k not in _UNWRITTEN and v is not None}
        before = inverse(found.config, written)
        self._journal.write(CONFIGURE, target=self._target(found), set=written, before=before)
        path = guest_path(found.type, found.node, found.vmid, "config")

        def is_set_now() -> bool:
            return is_set(self._reread(found.type, found.node, found.vmid).config, data)

        self._ask(found, lambda: self._api.put(path, data), is_set_now)

    def _stop(self, found: Found) -> None:
        data = {"timeout": self._patience.shutdown, "forceStop": 1}
        path = guest_path(found.type, found.node, found.vmid, "status", "shutdown")
        self._run(
            STOP, found, lambda: self._api.post(path, data), lambda: not self._is_running(found),
            temporary=self._wanted.state != "stopped",
        )  # fmt: skip

    def _start(self, found: Found) -> None:
        path = guest_path(found.type, found.node, found.vmid, "status", "start")
        self._run(START, found, lambda: self._api.post(path), lambda: self._is_running(found))

    def _resize(self, found: Found, data: Mapping[str, Any]) -> None:
        path = guest_path(found.type, found.node, found.vmid, "resize")

        def grown() -> bool:
            now = self._reread(found.type, found.node, found.vmid)
            return f"size={data['size']}" in str(now.config.get(data["disk"]))

        self._run(RESIZE, found, lambda: self._api.put(path, data), grown, disk=data["disk"], size=data["size"])

    def _run(self, step: str, found: Found, call: Callable[[], Any], achieved: Callable[[], bool], **data: Any) -> None:
        """Start a task and wait for its end; some versions do small things at once and return no task."""
        self._journal.write(step, target=self._target(found), **data)
        task = self._ask(found, call, achieved)
        if task:
            self._wait(task)
        self._done(step, found)

    def _ask(self, found: Found, call: Callable[[], Any], achieved: Callable[[], bool]) -> str:
        """Send a call and return its task. One that nobody answered is looked up, and sent again if it was not done."""
        for last in (False, True):
            try:
                with self._interrupts.shielded():
                    task = str(call() or "")
                    if task:
                        self._journal.write(TASK, task=task)
                    return task
            except UnreachableError:
                if self._was_done(found, achieved):
                    break
                if last:
                    raise
            except (PowerStateError, NotFoundError):
                if achieved():  # refused, since somebody else did just that
                    break
                raise
        return ""

    def _was_done(self, found: Found, achieved: Callable[[], bool]) -> bool:
        return was_done(self._api, found.node, found.vmid, achieved, self._patience.task)

    def _wait(self, task: str) -> None:
        result = self._api.wait_task(task, self._patience.task)
        if result.warnings:
            many = f"{result.warnings} warning{'s' if result.warnings > 1 else ''}"
            self.warnings.append(
                f"{result.type} of {self._wanted.name} is done with {many}: see the log of task {task}"
            )

    def _done(self, step: str, found: Found) -> None:
        self._journal.write(DONE, of=step, target=self._target(found))

    def _target(self, found: Found) -> dict[str, Any]:
        return target_entry(Target.of(found))

    def _is_running(self, found: Found) -> bool:
        return self._reread(found.type, found.node, found.vmid).running

    def _differs(self, found: Found) -> bool:
        """Whether the guest is no longer what it was: a restore that changes nothing need not be told apart."""
        try:
            now = self._reread(found.type, found.node, found.vmid)
        except (NotFoundError, PermissionDeniedError):
            return False
        return not now.lock and now.config.get("digest") != found.config.get("digest")

    def _is_gone(self, found: Found) -> bool:
        try:
            now = self._reread(found.type, found.node, found.vmid)
        except (NotFoundError, PermissionDeniedError):
            return True
        return not Target.of(found).is_same(now)

    def _reread(self, kind: str, node: str, vmid: int) -> Found:
        return read_guest(self._api, {"type": kind, "node": node, "vmid": vmid})

    @contextmanager
    def _undoing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            record = GuestRecord.of(self._journal.operation, self._journal.entries)
            if record.empty:
                raise  # such as a VMID that was taken: the caller may go on with another one
            self._interrupts.mute()
            undone = undo(self._api, record)
            if not undone.settled:
                self._journal.keep()
            if isinstance(error, NHIError) and undone.text:
                raise GuestChangeError(f"{error}. {undone.text}") from error
            raise
