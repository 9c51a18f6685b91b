# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi scan`: bring state.json up to date."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient, endpoint_from_params
from ansible_collections.nhi.core.plugins.module_utils.quota_redis import IMPORT_ERROR, open_redis
from ansible_collections.nhi.core.plugins.module_utils.scan_options import options_from_params
from ansible_collections.nhi.core.plugins.module_utils.scan_write import ScanReport, run_scan
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore

from nhi_services.postgres import read_password
from nhi_services.settings import SECRET_VARIABLE, Settings, SettingsError
from nhi_services.words import amount

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

_NEEDED = {
    "api_host": "PROXMOX_HOST",
    "api_user": "PROXMOX_USER",
    "api_token_id": "PROXMOX_TOKEN_ID",
    "api_token_secret": SECRET_VARIABLE,
}


def scan(
    settings: Settings, secret: str | None, *, full: bool = False, health_checks: bool = True, dry_run: bool = False
) -> ScanReport:
    """Scan the endpoint of the settings and write state.json; with dry_run nothing is written."""
    params = {**settings.proxmox, "api_token_secret": secret}
    require_proxmox(params)
    endpoint = endpoint_from_params(params)
    options = options_from_params(
        {
            **settings.scan,
            "full": full or settings.scan["full"],
            "health_checks": health_checks and settings.scan["health_checks"],
        },
        _quotas(settings),
    )
    catalogue = read_catalogue(settings.catalogue)
    with ProxmoxClient(endpoint) as client:
        return run_scan(
            StateStore(settings.state_dir),
            client,
            catalogue,
            options,
            endpoint=f"{endpoint.identity} at {endpoint.server}",
            identity=endpoint.identity,
            by=this_program("nhi scan"),
            dry_run=dry_run,
        )


def _quotas(settings: Settings) -> AbstractContextManager[Any] | None:
    url = settings.quotas.get("redis_url")
    if not url:
        return None
    if IMPORT_ERROR is not None:
        raise SettingsError("the Python package redis is missing, and redis_url is set: install nhi-services[redis]")
    file = settings.quotas.get("redis_password_file")
    return open_redis(url, read_password(os.environ, "NHI_REDIS_PASSWORD", "redis_password", file))


def require_proxmox(proxmox: Mapping[str, Any]) -> None:
    """SettingsError names what is missing to reach the API."""
    missing = [variable for name, variable in _NEEDED.items() if not proxmox.get(name)]
    if missing:
        raise SettingsError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: "
            "set the environment variables, or the settings in nhi.toml."
        )


def in_words(report: ScanReport) -> str:
    """One line about a scan."""
    counts, result = report.counts, report.result
    return (
        f"{amount(counts['guests'], 'guests')} on {amount(counts['nodes'], 'nodes')}, {counts['running']} running, "
        f"{counts['stale']} not up to date; {amount(len(report.changed_guests), 'guests')} changed; "
        f"{amount(counts['alerts'], 'alerts')}; {result.kind} scan, {report.durations['total']:.2f} s, "
        f"{amount(result.api_calls, 'calls')}"
    )
