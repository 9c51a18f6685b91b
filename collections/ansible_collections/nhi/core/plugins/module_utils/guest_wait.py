# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting until a guest that was started can be reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .addresses import guest_nics, has_agent
from .errors import GuestChangeError, PreflightError
from .guest import Found
from .guest_addresses import port_open
from .guest_config import fixed_address, fixed_address6
from .guest_reader import Api, live_address
from .guest_spec import LXC

_T = TypeVar("_T")
_FIRST_PAUSE, _LONGEST_PAUSE, _FACTOR = 0.2, 1.0, 1.4
# A guest is asked itself, which costs the node nothing.
_PORT_PAUSE, _CONNECT_SECONDS = 0.05, 2.0


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds."""

    wait: bool = True
    task: float = 300.0
    shutdown: int = 30
    port: int | None = None

    def __post_init__(self) -> None:
        for option, value, most in (
            ("wait_timeout", self.task, 86400),
            ("shutdown_timeout", self.shutdown, 86400),
            ("wait_port", self.port, 65535),
        ):
            if value is not None and not 0 < value <= most:
                raise PreflightError(f"{option} {value:g} is out of range: use a number from 1 to {most}")


def await_address(api: Api, found: Found, patience: Patience) -> str | None:
    """The address of a guest that was just started, once it is up; None when nobody can tell it."""
    fixed = fixed_address(found.config, found.type) or fixed_address6(found.config, found.type)
    # Who answers at a port of a fixed address is up: nobody need be asked for the address.
    if not patience.wait or not _reports(found) or (fixed and patience.port):
        address = str(fixed.ip) if fixed else None
    else:
        address = _until(patience.task, lambda: live_address(api, found))
        if address is None:
            raise GuestChangeError(
                f"{found.label} runs but reported no address within {patience.task:g} s: look at its network"
                " (bridge, DHCP, guest agent), or raise wait_timeout"
            )
    if patience.wait and patience.port and address:
        _await_port(found, address, patience)
    return address


def _await_port(found: Found, address: str, patience: Patience) -> None:
    port = patience.port or 0
    if not _until(patience.task, lambda: port_open(address, port, _CONNECT_SECONDS) or None, _PORT_PAUSE):
        raise GuestChangeError(
            f"{found.label} has {address}, but port {port} did not answer within {patience.task:g} s:"
            " look at the service and its firewall, or raise wait_timeout"
        )


def _reports(found: Found) -> bool:
    """Whether the guest will say which address it has: containers do, machines need an agent (and a system)."""
    nics = guest_nics(found.type, found.config)
    if not nics:
        return False
    if found.type == LXC:
        return nics[0].ip == "dhcp" or fixed_address(found.config, LXC) is not None
    # A fixed address of a machine is known already, and its image may come without an agent.
    return has_agent(found.config) and fixed_address(found.config, found.type) is None


def _until(seconds: float, ask: Callable[[], _T | None], pause: float = _FIRST_PAUSE) -> _T | None:
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        left = deadline - time.monotonic()
        if answer is not None or left <= 0:
            return answer
        time.sleep(min(pause, left))
        pause = min(pause * _FACTOR, _LONGEST_PAUSE)
