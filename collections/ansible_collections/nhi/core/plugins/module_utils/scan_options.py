# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How thorough a scan is, and how hard it may push."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ParameterError
from .scan_guests import Lifetimes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .scan_quotas import ScannedRedis

_MOST_PER_NODE = 32


@dataclass(frozen=True)
class GuestWish:
    """Which guests to read: VMIDs, and names as the cluster or the last state knows them."""

    vmids: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.vmids or self.names)


def guest_wish(wanted: Iterable[str | int]) -> GuestWish:
    """What ``105`` and ``redis-cache`` ask for: what consists of digits is a VMID."""
    texts = [str(item).strip() for item in wanted]
    vmids = frozenset(int(text) for text in texts if text.isdigit())
    return GuestWish(vmids, frozenset(text for text in texts if text and not text.isdigit()))


@dataclass(frozen=True)
class ScanOptions:
    """How thorough a scan is, and how hard it may push.

    ``quotas`` is a connection to the Redis that keeps them, for a scan of everything.
    """

    per_node: int = 4
    everything: bool = False
    health_checks: bool = True
    guest_health_port: int = 22
    probe_deadline_seconds: float = 10.0
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    guests: GuestWish = GuestWish()
    quotas: AbstractContextManager[ScannedRedis] | None = None


def options_from_params(
    params: Mapping[str, Any], quotas: AbstractContextManager[ScannedRedis] | None = None
) -> ScanOptions:
    """Options from a module's parameters; refuses numbers that make no sense."""
    per_node, port = int(params["concurrency"]), int(params["guest_health_port"])
    if not 1 <= per_node <= _MOST_PER_NODE:
        raise ParameterError(f"concurrency {per_node} is out of range: use a number from 1 to {_MOST_PER_NODE}")
    if not 0 <= port < 65536:
        raise ParameterError(f"guest_health_port {port} is not a port: use a number from 1 to 65535, or 0 for none")
    for name in ("probe_deadline_seconds", "config_ttl_seconds", "address_ttl_seconds", "dead_agent_ttl_seconds"):
        if not params[name] >= 0:
            raise ParameterError(f"{name} {params[name]} is not a duration: use a number of seconds, at least 0")
    return ScanOptions(
        per_node=per_node,
        everything=bool(params["full"]),
        health_checks=bool(params["health_checks"]),
        guest_health_port=port,
        probe_deadline_seconds=float(params["probe_deadline_seconds"]),
        lifetimes=Lifetimes(
            config_seconds=float(params["config_ttl_seconds"]),
            address_seconds=float(params["address_ttl_seconds"]),
            dead_agent_seconds=float(params["dead_agent_ttl_seconds"]),
        ),
        guests=guest_wish(params.get("guests") or ()),
        quotas=quotas,
    )
