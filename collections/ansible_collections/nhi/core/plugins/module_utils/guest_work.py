# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest that work is done on, and the tasks that do it: started, waited for, never lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import GuestChangeError, PreflightError
from .guest import Check, Found
from .guest_guards import GuestName
from .guest_reader import Api, Cluster, Row, look_up_guest
from .interrupts import InterruptedRunError, Interrupts


def meant_guest(api: Api, cluster: Cluster, wanted: GuestName) -> tuple[Found | None, Check]:
    """The guest that is meant, read now, with a failed check where there is none or where that is not certain."""
    found, check = look_up_guest(api, cluster, wanted)
    if found is None and check.passed:
        named = wanted.name + (f" (VMID {wanted.vmid})" if wanted.vmid is not None else "")
        text = f"{named} does not exist, or this token can not see it: correct name and vmid"
        check = Check("exists", passed=False, message=text)
    return found, check


def the_guest(api: Api, cluster: Cluster, wanted: GuestName) -> Found:
    """The one guest that is meant, read now; PreflightError when there is none."""
    found, check = meant_guest(api, cluster, wanted)
    if found is None or not check.passed:
        raise PreflightError(check.message)
    return found


def row_of(found: Found) -> Row:
    """What ``read_guest`` needs to read the guest again."""
    return {"type": found.type, "node": found.node, "vmid": found.vmid, "pool": found.pool, "name": found.name}


@dataclass
class TaskRunner:
    """Starts tasks and waits for their end; ``warnings`` tell of those that grumbled but did what was asked."""

    api: Api
    interrupts: Interrupts
    seconds: float
    warnings: list[str] = field(default_factory=list)

    def run(self, what: str, call: Callable[[], Any]) -> None:
        """``what`` names the work in a sentence such as "the rollback of redis"."""
        answer = None
        try:
            with self.interrupts.shielded():
                answer = call()
            if answer:
                self._wait(what, str(answer))
        except InterruptedRunError as e:
            raise GuestChangeError(f"{e}: {what} goes on without this run, so watch task {answer}") from e

    def _wait(self, what: str, upid: str) -> None:
        result = self.api.wait_task(upid, self.seconds)
        if result.warnings:
            self.warnings.append(f"{what} is done with {result.warnings} warnings: see the log of task {upid}")
