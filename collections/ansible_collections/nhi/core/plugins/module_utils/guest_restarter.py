# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts a service with the tools of its own: its unit over SSH, or its guest through the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .catalogue import CatalogueEntry
from .errors import PreflightError
from .guest_manager import GuestManager
from .guest_reader import Api, guest_path
from .guest_recovery import settle
from .guest_run import Settings as GuestSettings
from .guest_shell import GuestShell
from .guest_spec import Wanted
from .guest_wait import Patience
from .restart_plan import UNIT, Step
from .state_document import utc_now

# systemd gives a unit 90 s to stop and 90 s to start unless it says otherwise.
_UNIT_SECONDS = 240.0
_ASK_SECONDS = 20.0
# In one login, since the service is away meanwhile.
_RESTART = 'systemctl restart -- "$1" && systemctl show --property=ActiveState --value -- "$1"'
# The uptime of a guest comes in whole seconds.
_UPTIME_BLUR = timedelta(seconds=2)


@dataclass
class Site:
    """Everything around restarts that does not describe one."""

    state_dir: Path
    catalogue: Mapping[str, CatalogueEntry]
    shell: GuestShell
    connect: Callable[[], AbstractContextManager[Api]]
    rescan: Callable[[list[str]], None]
    dependency_graph: str | None = None
    health_timeout: float = 60.0
    guest_health_port: int = 22
    brain_vmid: int = 100
    lock_timeout: float = 30.0
    tell: Callable[[str], None] = lambda _text: None
    policy: str | None = None
    plan_id: str | None = None
    now: Callable[[], datetime] = utc_now


class GuestRestarter:
    """Restarts units over SSH and guests through the API."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def mark(self, step: Step) -> str:
        """systemd's id of this run of the unit; of a guest, when it was started by this host's clock."""
        if step.how == UNIT:
            return self._ask(step, "InvocationID")
        with self._site.connect() as api:
            return self._boot(api, step).isoformat()

    def was_restarted(self, step: Step, mark: str) -> bool:
        """Whether it runs another time than when it had that mark; a guest that was left stopped is started."""
        if step.how == UNIT:
            return self._ask(step, "InvocationID") != mark
        with self._site.connect() as api:
            settle(api, self._site.state_dir, check_mode=False, tell=self._site.tell)
            return self._boot(api, step) > datetime.fromisoformat(mark) + _UPTIME_BLUR

    def _boot(self, api: Api, step: Step) -> datetime:
        status = api.get(guest_path(step.type, step.node, step.vmid, "status", "current"))
        return datetime.now(UTC) - timedelta(seconds=float(status.get("uptime") or 0))

    def restart(self, step: Step) -> None:
        """Restart it as its own tools do."""
        if step.how == UNIT:
            argv = ["sh", "-c", _RESTART, "sh", step.unit or ""]
            if (state := self._on(step, argv, _UNIT_SECONDS, f"systemctl restart {step.unit}").strip()) != "active":
                raise PreflightError(f"unit {step.unit} on {step.guest} is {state} after its restart: look at its log")
            return
        settings = GuestSettings(
            self._site.state_dir, allow_impact=True, brain_vmid=self._site.brain_vmid, tell=self._site.tell,
            patience=Patience(wait=False),
        )  # fmt: skip
        with self._site.connect() as api:
            settle(api, self._site.state_dir, check_mode=False, tell=self._site.tell)
            GuestManager(api, Wanted(step.guest, "restarted", vmid=step.vmid), settings).run()

    def _ask(self, step: Step, fact: str) -> str:
        argv = ["systemctl", "show", f"--property={fact}", "--value", "--", step.unit or ""]
        return self._on(step, argv, _ASK_SECONDS).strip()

    def _on(self, step: Step, argv: list[str], seconds: float, what: str | None = None) -> str:
        if step.address is None:
            raise PreflightError(
                f"{step.guest} has no address at which its unit could be restarted: correct its network"
            )
        return self._site.shell.run(step.address, argv, seconds, what)
