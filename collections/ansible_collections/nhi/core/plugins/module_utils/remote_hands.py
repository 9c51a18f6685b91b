# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on guests and their logs, for whoever the policy lets: named by the state, allowed, written down, then run.

While changes are frozen only what the policy calls reading goes through. Without a policy nothing does.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from .audit import Attempt
from .catalogue import CatalogueEntry
from .change_gate import Change, Gate, Issued
from .errors import FrozenError, GuestShellError, NotAllowedError, PolicyError, PreflightError, RefusedError, StateError
from .exec_policy import Errand, ExecDecision
from .freeze import refuse_if_frozen
from .guest_command import Sink, check_command
from .guest_host_key import KnownHosts
from .guest_shell import GuestShell
from .guest_target import Target, find_target, reachable_address
from .interrupts import Interrupts
from .lock import current_actor
from .output_bounds import Capture, LastLines, Lines
from .plan_seal import secret_digest
from .plan_store import PlanStore
from .policy import NAME, Policy, find_policy
from .policy_words import APPROVE, DENY
from .secret_words import mask
from .service_logs import FILE, LogSource, LogWish, YoungLines, reading_command
from .state import StateStore

LINES_LIMIT: Final = 10_000
_EXEC, _LOGS = "nhi_exec", "nhi_logs"
_LOGS_SECONDS: Final = 60.0
_LOGS_LIMIT_BYTES: Final = 4 * 1024 * 1024
_SAID_BYTES: Final = 4096


@dataclass(frozen=True)
class Order:
    """A command that somebody wants to be run; ``target`` names a guest or a service."""

    target: str
    command: tuple[str, ...]
    timeout_seconds: float | None = None
    plan_id: str | None = None
    stdin: BinaryIO | None = None


@dataclass(frozen=True)
class Foretold:
    """What would be run, and whether it would be; ``refusal`` says why not."""

    target: Target
    command: tuple[str, ...]
    decision: ExecDecision
    refusal: str | None = None
    plan: Issued | None = None

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            **_about(self.target), "command": list(self.command), "decision": self.decision.verdict,
            "reason": self.decision.reason, "reads": self.decision.reads, "allowed": self.refusal is None,
            "refusal": self.refusal, "plan": self.plan.as_dict() if self.plan else None,
        }  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    target: Target
    rc: int
    seconds: float
    reads: bool
    operation: str

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            **_about(self.target), "rc": self.rc, "duration": round(self.seconds, 3), "reads": self.reads,
            "operation": self.operation,
        }  # fmt: skip


@dataclass(frozen=True)
class LogsRead:
    """The end of a log; ``limited`` says that there may be more that is young enough."""

    target: Target
    source: LogSource
    lines: tuple[str, ...]
    limited: bool

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            **_about(self.target), "service": self.target.service, "source": str(self.source),
            "lines": list(self.lines), "limited": self.limited,
        }  # fmt: skip


@dataclass(frozen=True)
class Site:
    """Everything around a command that does not describe one."""

    state_dir: Path
    # Read when it is asked, so that one that can not be used is a refusal like others.
    policy: Callable[[], Policy | None]
    shell: GuestShell
    catalogue: Mapping[str, CatalogueEntry]
    attempt: Callable[..., Attempt] = Attempt
    tell: Callable[[str], None] = lambda _text: None

    @classmethod
    def of(cls, params: Mapping[str, Any], catalogue: Mapping[str, CatalogueEntry], **more: Any) -> Site:
        """From the options of a module or the settings of a command."""
        state_dir = Path(params["state_dir"])
        known_hosts = params["known_hosts"] or str(state_dir / "known_hosts")
        shell = GuestShell(params["ssh_user"], params["ssh_private_key"], known_hosts)
        return cls(state_dir, partial(find_policy, params.get("policy"), state_dir), shell, catalogue, **more)


class Hands:
    """What an actor may do on guests."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._actor = current_actor()

    def foretell(self, order: Order) -> Foretold:
        """What a run would do. PreflightError where nobody knows what is meant; other refusals are part of the answer.

        Where the policy asks for an approval, this makes the plan to be approved.
        """
        check_command(order.command)
        target = self._find(order.target)
        decision = self._decide(target, order.command)
        told = Foretold(target, order.command, decision)
        try:
            self._refuse(target, decision, f"running {order.command[0]}")
            reachable_address(target, self._known_hosts)
            if decision.verdict != APPROVE:
                return told
            if order.plan_id is None:
                issued = self._gate(target, order).issue(self._change(target, order.command, decision))
                return replace(told, refusal=f"it needs an approval ({decision.reason})", plan=issued)
        except RefusedError as e:
            return replace(told, refusal=str(e))
        return told

    def execute(self, order: Order, out: Sink, err: Sink) -> Ended:
        """Run a command and pass its output on as it comes.

        RefusedError when it was not run; GuestShellError when it was not begun, was ended, or nobody knows its end.
        """
        told = {"command": shlex.join(mask(order.command)), "stdin": order.stdin is not None}
        with self._attempt(_EXEC, order.target, told, order.plan_id) as attempt:
            check_command(order.command)
            target = self._find(order.target)
            attempt.about(target.guest)
            decision = self._decide(target, order.command)
            self._refuse(target, decision, f"running {order.command[0]}")
            address = reachable_address(target, self._known_hosts)
            self._admit(target, order, decision)
            sizes = {"stdout_bytes": 0, "stderr_bytes": 0}

            def counted(name: str, sink: Sink) -> Sink:
                def take(chunk: bytes) -> None:
                    sizes[name] += len(chunk)
                    sink(chunk)

                return take

            attempt.note(vmid=target.vmid, changed=not decision.reads)
            attempt.allow()
            started = time.monotonic()
            try:
                code = self._site.shell.stream(
                    address, order.command, counted("stdout_bytes", out), counted("stderr_bytes", err),
                    timeout_seconds=order.timeout_seconds, stdin=order.stdin,
                )  # fmt: skip
            finally:
                attempt.note(**sizes)
            attempt.note(rc=code)
            return Ended(target, code, time.monotonic() - started, decision.reads, attempt.mark)

    def logs(
        self, name: str, wish: LogWish, show: Callable[[str], None] | None = None, *, limit_bytes: int | None = None
    ) -> LogsRead:
        """The end of the log of a service, or of a guest's journal; ``show`` gets lines as they come, else all at once.

        RefusedError when it was not read, GuestShellError when it could not be.
        """
        if not 1 <= wish.lines <= LINES_LIMIT:
            raise PreflightError(f"{wish.lines} lines can not be shown: ask for 1 to {LINES_LIMIT}")
        since = wish.since.isoformat() if wish.since else None
        with self._attempt(_LOGS, name, {"lines": wish.lines, "since": since, "follow": wish.follow}) as attempt:
            target = self._find(name)
            attempt.about(target.guest)
            decision = self._decide(target, None)
            source = self._source(target)
            if decision.verdict == APPROVE:
                raise NotAllowedError(f"reading logs of {target.guest} can not be approved: {decision.reason}")
            self._refuse(target, decision, "reading logs")
            address = reachable_address(target, self._known_hosts)
            attempt.note(vmid=target.vmid, changed=False)
            attempt.allow()
            return self._read(target, source, address, wish, show, limit_bytes or _LOGS_LIMIT_BYTES, attempt)

    def _read(
        self, target: Target, source: LogSource, address: str, wish: LogWish, show: Callable[[str], None] | None,
        limit_bytes: int, attempt: Attempt,
    ) -> LogsRead:  # fmt: skip
        kept = LastLines(limit_bytes)
        young = YoungLines(wish.since) if wish.since and source.kind == FILE else None
        shown = 0

        def take(line: str) -> None:
            nonlocal shown
            if young is None or young.accept(line):
                shown += 1
                (show or kept.add)(line)

        lines, said = Lines(take), Capture(_SAID_BYTES)
        try:
            code = self._site.shell.stream(
                address, reading_command(source, wish), lines.feed, said.feed,
                timeout_seconds=None if wish.follow else _LOGS_SECONDS,
            )  # fmt: skip
        finally:
            lines.close()
            attempt.note(lines=shown, stdout_bytes=lines.size)
        if code:
            words = [word for word in (*said.text.splitlines(), *kept) if word.strip()]
            why = words[-1].strip() if words else f"it ended with {code}"
            raise GuestShellError(f"{source} on {target.guest} can not be read: {why}")
        if young is not None and young.passed_over and not young.times_seen:
            raise PreflightError(
                f"no line of {source} on {target.guest} has a time that could be read: say how many lines instead of"
                " since when"
            )
        full = shown >= wish.lines or bool(kept.left_out)
        return LogsRead(target, source, tuple(kept), full)

    def _source(self, target: Target) -> LogSource:
        if target.service is None:
            if len(target.services) > 1:
                there = ", ".join(f"{service}@{target.guest}" for service in target.services)
                raise PreflightError(f"{target.guest} has several services: say whose log, {there}")
            return LogSource("unit", None)
        entry = self._site.catalogue.get(target.service)
        if entry is None or (entry.logs.name is None):
            raise PreflightError(
                f"nobody knows where {target.service} keeps its log: write logs or unit into its catalogue entry"
            )
        return entry.logs

    @contextlib.contextmanager
    def _attempt(
        self, operation: str, name: str, params: Mapping[str, Any], plan: str | None = None
    ) -> Iterator[Attempt]:
        attempt = self._site.attempt(self._site.state_dir, operation, name, params, plan=plan)
        try:
            with Interrupts(), attempt:
                yield attempt
        finally:
            for warning in attempt.warnings:
                self._site.tell(warning)

    @property
    def _known_hosts(self) -> KnownHosts:
        return KnownHosts(Path(self._site.shell.known_hosts or ""))

    @cached_property
    def _policy(self) -> Policy:
        policy = self._site.policy()
        if policy is None:
            raise PolicyError(
                f"there is no {self._site.state_dir / NAME}, so nobody may run commands on guests or read their logs:"
                " an operator writes one"
            )
        return policy

    def _find(self, name: str) -> Target:
        snapshot = StateStore(self._site.state_dir).read_or_none()
        if snapshot is None:
            raise StateError(f"There is no {self._site.state_dir}/state.json yet, so no guest is known: scan first")
        return find_target(snapshot.document, name)

    def _decide(self, target: Target, command: tuple[str, ...] | None) -> ExecDecision:
        return self._policy.decide_errand(Errand(self._actor, target.guest, target.services, command))

    def _refuse(self, target: Target, decision: ExecDecision, what: str) -> None:
        if decision.verdict == DENY:
            raise NotAllowedError(f"{what} on {target.guest} is not allowed: {decision.reason}")
        if not decision.reads:
            try:
                refuse_if_frozen(self._site.state_dir)
            except FrozenError as e:
                raise FrozenError(f"{e}; until then only commands that the policy calls reads are run") from e

    def _admit(self, target: Target, order: Order, decision: ExecDecision) -> None:
        if decision.verdict != APPROVE and order.plan_id is None:
            return
        if order.stdin is not None:
            raise NotAllowedError("a command that needs an approval gets no input, as nobody could approve that")
        gate = self._gate(target, order)
        gate.admit(f"{_EXEC} {target.guest}", self._change(target, order.command, decision), ())

    def _gate(self, target: Target, order: Order) -> Gate:
        request = {"module": _EXEC, "guest": target.guest, "command": mask(order.command)}
        if request["command"] != list(order.command):
            # Another command may look the same once its secrets are hidden.
            request["digest"] = secret_digest(PlanStore(self._site.state_dir).key, shlex.join(order.command))
        return Gate(self._site.state_dir, self._policy, self._actor, request, plan_id=order.plan_id)

    def _change(self, target: Target, command: Sequence[str], decision: ExecDecision) -> Change:
        summary = f"Run on {target.label}: {shlex.join(mask(command))}"
        return Change(
            target.guest, ("exec",), {"summary": [summary], "command": mask(command)}, targets=(target.identity(),),
            decision=decision,
        )  # fmt: skip


def _about(target: Target) -> dict[str, Any]:
    return {"guest": target.guest, "vmid": target.vmid, "address": target.address}
