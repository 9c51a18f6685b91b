# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi doctor`: what is not well here, and what to do about it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ansible_collections.nhi.core.plugins.module_utils.doctor import FAIL, OK, WARN, Finding, worst
from ansible_collections.nhi.core.plugins.module_utils.doctor_api import look_at_api
from ansible_collections.nhi.core.plugins.module_utils.doctor_files import look_at_files
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient, endpoint_from_params
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now

from nhi_services.scan_command import require_proxmox
from nhi_services.settings import Settings, read_secret
from nhi_services.state_commands import as_text
from nhi_services.table import screen_of

if TYPE_CHECKING:
    from nhi_services.table import Screen

# Not as for other commands, where 2 is wrong usage: this one always finds its answer.
EXIT_CODES: Final = {OK: 0, WARN: 1, FAIL: 2}
_COLOURS: Final = {OK: "green", WARN: "yellow", FAIL: "red"}
Add = Callable[..., argparse.ArgumentParser]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], add: Add) -> None:
    """`nhi doctor`."""
    about = "Look for what is not well, and say what to do. Exit codes: 0 all is well, 1 warnings, 2 something is bad."
    parser = add(commands, "doctor", about, _doctor)
    parser.add_argument("--json", action="store_true", help="for programs")


def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    findings = []
    screen = screen_of(sys.stdout, os.environ)
    for finding in examine(settings):
        findings.append(finding)
        if not arguments.json:
            print(_line(finding, screen), flush=True)
    verdict = worst(findings)
    if arguments.json:
        print(as_text({"verdict": verdict, "findings": [finding.as_data() for finding in findings]}))
    return EXIT_CODES[verdict]


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything that can be looked at from here."""
    yield from look_at_files(settings.state_dir, settings.dependency_graph, utc_now())
    params: dict[str, Any] = {**settings.proxmox}
    try:
        params["api_token_secret"] = read_secret(settings, os.environ)
        require_proxmox(params)
        endpoint = endpoint_from_params(params)
        client = ProxmoxClient(endpoint)
    except NHIError as e:
        yield Finding("api", WARN, "it was not asked", str(e))
        return
    with client:
        yield from look_at_api(client, f"{endpoint.identity} at {endpoint.server}")


def _line(finding: Finding, screen: Screen) -> str:
    verdict = screen.paint(f"{finding.verdict:<4}", _COLOURS[finding.verdict])
    return verdict + printable(finding.line[len(finding.verdict.ljust(4)) :])
