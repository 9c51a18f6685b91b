# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What restarts need, from the options of a module or the settings of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .about import this_program
from .catalogue import CatalogueEntry
from .errors import PreflightError
from .guest_restarter import Site
from .guest_shell import GuestShell
from .proxmox_client import ProxmoxClient, endpoint_from_params
from .scan_options import ScanOptions, guest_wish
from .scan_write import run_scan
from .state import StateStore


def site_from_params(
    params: Mapping[str, Any], catalogue: Mapping[str, CatalogueEntry], program: str, tell: Callable[[str], None]
) -> Site:
    """The surroundings of restarts; PreflightError for numbers that make no sense."""
    if not 0 < params["health_timeout"] <= 3600:
        raise PreflightError(f"health_timeout {params['health_timeout']:g} is out of range: use 1 to 3600 seconds")
    endpoint = endpoint_from_params(dict(params))

    def rescan(guests: list[str]) -> None:
        with ProxmoxClient(endpoint) as client:
            run_scan(
                StateStore(params["state_dir"]), client, catalogue,
                ScanOptions(guest_health_port=params["guest_health_port"], guests=guest_wish(guests)),
                endpoint=f"{endpoint.identity} at {endpoint.server}", identity=endpoint.identity,
                by=this_program(program),
            )  # fmt: skip

    return Site(
        Path(params["state_dir"]), catalogue,
        GuestShell(params["ssh_user"], params["ssh_private_key"], params["known_hosts"]),
        lambda: ProxmoxClient(endpoint), rescan, params["dependency_graph"], params["health_timeout"],
        params["guest_health_port"], params["brain_vmid"], tell=tell, policy=params["policy"],
        plan_id=params["plan_id"] or None,
    )  # fmt: skip
