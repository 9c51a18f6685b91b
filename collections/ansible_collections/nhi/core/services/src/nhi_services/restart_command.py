# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi restart` and `nhi restarts`: restart services in order, and what of that waits for its hour."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import RestartError
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import how_to_apply
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.restart_jobs import FAILED, job_lines
from ansible_collections.nhi.core.plugins.module_utils.restart_site import site_from_params
from ansible_collections.nhi.core.plugins.module_utils.restarts import Restarts

from nhi_services.scan_command import require_proxmox
from nhi_services.settings import Settings, SettingsError
from nhi_services.state_commands import as_text
from nhi_services.table import Cell, Screen, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ansible_collections.nhi.core.plugins.module_utils.restart_plan import RestartWish

ACTIONS: Final = ("list", "cancel", "run")
_HEADINGS: Final = ("ID", "STATUS", "NOT BEFORE (UTC)", "SERVICES", "BY", "WHAT HAPPENED")


def restart(
    settings: Settings, secret: str | None, wish: RestartWish, *, check: bool, plan_id: str | None = None
) -> list[str]:
    """Restart or schedule; what to print."""
    outcome = restarts_of(settings, secret, plan_id=plan_id).request(wish, check_mode=check)
    for text in outcome.warnings:
        _tell(text)
    return list(map(printable, [*outcome.summary(), *how_to_apply(outcome.ticket, "--plan ")]))


def restarts(
    settings: Settings, secret: str | None, action: str, which: str | None, screen: Screen, *, as_json: bool
) -> Iterator[str]:
    """List, cancel or do what is scheduled; what to print."""
    if (action == "cancel") != (which is not None):
        raise SettingsError("Say 'nhi restarts cancel ID', or no ID for the other actions.")
    # Whoever only looks needs no token.
    known = restarts_of(settings, secret, needs_api=action == "run")
    if which is not None:
        outcome = known.cancel(which)
        yield printable(f"{outcome.job.label if outcome.job else which} is {outcome.action}.")
        return
    if action == "run":
        ended = known.run_due()
        yield from map(printable, job_lines(ended))
        if failed := [job for job in ended if job.status == FAILED]:
            raise RestartError("; ".join(f"{job.label}: {job.message}" for job in failed))
        return
    listing = known.listing()
    yield from [as_text(listing)] if as_json else _table(listing, screen)


def restarts_of(
    settings: Settings, secret: str | None, *, needs_api: bool = True, plan_id: str | None = None
) -> Restarts:
    """Restarts as the settings have it; SettingsError names what is missing to reach the API."""
    proxmox = {**settings.proxmox, "api_token_secret": secret}
    if needs_api:
        require_proxmox(proxmox)
    else:
        proxmox = {"api_host": "-", "api_user": "-@-", "api_token_id": "-", "api_token_secret": "-"}
    params: dict[str, Any] = {
        **proxmox,
        **settings.restart,
        "known_hosts": settings.restart["known_hosts"] or str(settings.state_dir / "known_hosts"),
        "state_dir": str(settings.state_dir),
        "dependency_graph": settings.dependency_graph,
        "policy": None,
        "plan_id": plan_id,
        "guest_health_port": settings.scan["guest_health_port"],
    }
    return Restarts(site_from_params(params, read_catalogue(settings.catalogue), "nhi restart", _tell))


def _tell(text: str) -> None:
    print(f"nhi: {printable(text)}", file=sys.stderr)


def _table(listing: dict[str, Any], screen: Screen) -> Iterator[str]:
    rows = [
        [Cell(j["id"]), Cell(j["status"]), Cell(j["not_before"][:16].replace("T", " ")), Cell(", ".join(j["services"])),
         Cell(j["by"]), Cell(j["message"] or "-")]
        for j in listing["jobs"]
    ]  # fmt: skip
    if rows:
        yield from lines_of(screen, _HEADINGS, rows, flexible="WHAT HAPPENED")
    else:
        yield "No restart is scheduled."
    for one in listing["cut_off"]:
        yield printable(f"{one['title']} was cut off: {one['told']}.")
        yield f"The same again goes on with it; 'nhi restarts cancel {one['operation']}' forgets it."
    if any(j["status"] == "scheduled" for j in listing["jobs"]) and not listing["watched"]:
        yield "Nobody has looked for what is due in the last ten minutes: is nhi-restarts.timer running?"
