# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choose the instance of a service that a client should use, from the services of a state document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import EndpointError

_HEALTH_ORDER = ("healthy", "unknown", "unhealthy", "stopped")
_FRESHNESS_ORDER = ("fresh", "stale", "unknown")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks for; None accepts any purpose, any guest, and an instance's first endpoint."""

    service: str
    purpose: str | None = None
    endpoint: str | None = None
    guest: str | None = None

    def __str__(self) -> str:
        words = [f"service {self.service!r}"]
        if self.purpose is not None:
            words.append(f"purpose {self.purpose!r}")
        if self.endpoint is not None:
            words.append(f"endpoint {self.endpoint!r}")
        if self.guest is not None:
            words.append(f"guest {self.guest!r}")
        return ", ".join(words)

    def accepts(self, service: Mapping[str, Any]) -> bool:
        """Whether an instance is one of those asked for, whatever its endpoints."""
        return (
            service["service"] == self.service
            and self.purpose in (None, service["purpose"])
            and self.guest in (None, service["guest"])
        )


def choose_endpoint(
    services: Iterable[Mapping[str, Any]], wanted: Wanted, *, allow_unhealthy: bool = False
) -> dict[str, Any]:
    """Best instance for a request: healthy before not, fresh before stale, then the lowest VMID.

    Raises EndpointError, naming what exists, when nothing fits or nothing that fits is healthy.
    """
    services = list(services)
    candidates = sorted(_candidates(services, wanted), key=_rank)
    if not candidates:
        raise EndpointError(f"No instance offers {wanted}: {_what_exists(services, wanted)}")
    best = candidates[0]
    if best["health"] != "healthy" and not allow_unhealthy:
        raise EndpointError(
            f"No healthy instance offers {wanted}: {_list(map(_describe, candidates))}. "
            "Look at the guest, scan again, or accept it with allow_unhealthy."
        )
    return best


def _candidates(services: Iterable[Mapping[str, Any]], wanted: Wanted) -> Iterator[dict[str, Any]]:
    for service in services:
        if not wanted.accepts(service):
            continue
        for endpoint in service["endpoints"]:
            if wanted.endpoint in (None, endpoint["name"]):
                yield _candidate(service, endpoint)
                break


def _candidate(service: Mapping[str, Any], endpoint: Mapping[str, Any]) -> dict[str, Any]:
    usable = bool(service["address"] and endpoint["port"])
    return {
        "host": service["address"],
        "port": endpoint["port"],
        "url": endpoint["url"],
        "protocol": endpoint["protocol"],
        "endpoint": endpoint["name"],
        "service": service["service"],
        "purpose": service["purpose"],
        "guest": service["guest"],
        "vmid": service["vmid"],
        "health": endpoint["health"] if usable else "unknown",
        "freshness": service["freshness"],
        "observed_at": endpoint["observed_at"],
    }


def _rank(candidate: Mapping[str, Any]) -> tuple[int, int, int, str]:
    return (
        _position(candidate["health"], _HEALTH_ORDER),
        _position(candidate["freshness"], _FRESHNESS_ORDER),
        candidate["vmid"] or 0,
        candidate["guest"] or "",
    )


def _position(word: str, order: tuple[str, ...]) -> int:
    return order.index(word) if word in order else len(order)


def _what_exists(services: list[Mapping[str, Any]], wanted: Wanted) -> str:
    """The nearest thing to the request that is there: instances of the service, else the names of all services."""
    same = [service for service in services if service["service"] == wanted.service]
    if same:
        return f"there is {_list(sorted(map(_describe_service, same)))}."
    names = sorted({service["service"] for service in services})
    return f"the state has {_list(names)}." if names else "the state has no services. Create one, or scan again."


def _describe(candidate: Mapping[str, Any]) -> str:
    return f"{candidate['guest']} ({candidate['url'] or 'no address'}) is {candidate['health']}"


def _describe_service(service: Mapping[str, Any]) -> str:
    endpoints = "/".join(endpoint["name"] for endpoint in service["endpoints"]) or "none"
    return f"{service['guest']} (purpose {service['purpose'] or 'none'}, endpoints {endpoints})"


def _list(items: Iterable[str]) -> str:
    return ", ".join(items)
