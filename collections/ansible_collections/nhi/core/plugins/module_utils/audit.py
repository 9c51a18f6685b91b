# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An attempt to change something, and what the audit log is told of it.

An attempt that goes through leaves two entries: ``allowed`` just before the first thing is changed, ``done`` or
``failed`` at its end. One that is refused, or finds nothing to do, leaves one. All entries of an attempt share
its mark.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from .audit_entry import ALLOWED, DONE, FAILED, REFUSED, cut
from .audit_log import AuditLog
from .errors import AuditError, NHIError, RefusedError
from .lock import current_actor

# Set for what a playbook run starts, so that its entries can be told to belong together.
RUN_VARIABLE: Final = "NHI_AUDIT_RUN"


class Watched(Protocol):
    """A client that calls ``before_write`` before it sends anything that changes something."""

    before_write: Any


W = TypeVar("W", bound=Watched)


def origin() -> dict[str, Any]:
    """Who asks, and from where: the claimed actor, and the Unix user and address that can not be claimed as easily."""
    return {
        "actor": current_actor(),
        "user": _unix_user(),
        "source_ip": _source_ip(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "run": os.environ.get(RUN_VARIABLE) or None,
    }


def _unix_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _source_ip() -> str | None:
    """Where the SSH session comes from, if this is one."""
    for variable in ("SSH_CONNECTION", "SSH_CLIENT"):
        words = os.environ.get(variable, "").split()
        try:
            return str(ipaddress.ip_address(words[0])) if words else None
        except ValueError:
            continue
    return None


class Attempt:
    """One attempt, as a context: whatever ends it is written down.

    Before it begins the log must be writable, else AuditError. In check mode nothing is changed, and nothing written
    down unless that is asked for. The actor is who asks, unless somebody else is named.
    """

    def __init__(
        self,
        state_dir: Path | str,
        operation: str,
        subject: str | None,
        params: Mapping[str, Any],
        *,
        check_mode: bool = False,
        dry_runs_too: bool = False,
        plan: str | None = None,
        actor: str | None = None,
    ) -> None:
        self.mark = uuid.uuid4().hex[:12]
        self.plan = plan
        self.warnings: list[str] = []
        self._log = None if check_mode and not dry_runs_too else AuditLog(state_dir)
        self._fields = {
            **origin(),
            **({"actor": actor} if actor else {}),
            "operation": operation,
            "subject": subject,
            "params": dict(params),
            "check_mode": check_mode,
        }
        self._result: dict[str, Any] = {}
        self._reason: str | None = None
        self._allowed = False
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._log is not None:
            try:
                self._log.require_writable()
            except AuditError as e:
                raise AuditError(f"Nothing is changed that the audit log is not told of, and {e}") from e
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, AuditError):
            return
        outcome = DONE if error is None else REFUSED if isinstance(error, RefusedError) else FAILED
        try:
            self.finish(outcome, None if error is None else _in_words(error))
        except NHIError as e:
            self.warnings.append(f"The audit log was not told that this is {outcome}: {e}")

    def about(self, subject: str) -> None:
        """What it turned out to be about, once that is known and before anything is written down."""
        self._fields["subject"] = subject

    def allow(self) -> None:
        """Something is about to be changed: AuditError, and it must not be, unless that is written down first."""
        if not self._allowed:
            self._write(ALLOWED)
            self._allowed = True

    def watching(self, client: W) -> W:
        """The client, which from now on writes nothing that this attempt was not allowed."""
        client.before_write = self.allow
        return client

    def finish(self, outcome: str, reason: str | None = None) -> None:
        """Write down how it ended; for whoever does not use it as a context."""
        self._reason = reason
        self._write(outcome)

    def note(self, **result: Any) -> None:
        """What is to be told at the end."""
        self._result.update(result)

    def _write(self, outcome: str) -> None:
        if self._log is not None:
            self._log.append(self._entry(outcome))

    def _entry(self, outcome: str) -> dict[str, Any]:
        return {
            **self._fields,
            "attempt": self.mark,
            "plan": self.plan,
            "outcome": outcome,
            "reason": self._reason,
            "result": None if outcome == ALLOWED else self._result,
            "duration_seconds": round(time.monotonic() - self._started, 3),
        }


def _in_words(error: BaseException) -> str:
    if isinstance(error, NHIError):
        return cut(str(error))
    # The text of an unexpected error may hold anything.
    return f"unexpected: {type(error).__name__}"
