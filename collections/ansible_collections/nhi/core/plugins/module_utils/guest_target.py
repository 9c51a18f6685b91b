# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which guest is meant by a name, and whether a command can be run there: from state.json and known_hosts only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .errors import PreflightError
from .guest_host_key import KnownHosts
from .guest_spec import KINDS

_SHOWN_NAMES: Final = 30


@dataclass(frozen=True)
class Target:
    """A guest as the last scan saw it; ``service`` is the one of its services that was meant, if one was."""

    guest: str
    vmid: int
    type: str
    node: str
    address: str | None
    status: str
    freshness: str
    observed_at: str | None
    template: bool
    services: tuple[str, ...] = ()
    service: str | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.type]} {self.vmid} {self.guest}"

    def identity(self) -> dict[str, Any]:
        """What must still be true when a plan for it is applied."""
        return {"vmid": self.vmid, "name": self.guest, "type": self.type, "address": self.address}


def find_target(document: Mapping[str, Any], name: str) -> Target:
    """The guest of that name or VMID, or the one that offers that service; PreflightError says what there is.

    ``SERVICE@GUEST`` names one of several, and ``SERVICE/PURPOSE`` too.
    """
    infrastructure = document["infrastructure"]
    found = [target for guest in infrastructure["guests"] if (target := _meant(infrastructure, guest, name))]
    if len(found) == 1:
        return found[0]
    if found:
        there = ", ".join(f"{t.service or 'guest'}@{t.guest} (VMID {t.vmid})" for t in found)
        raise PreflightError(f"{name!r} may be any of {there}: name one of them so, or by its VMID")
    if any(node["name"] == name for node in infrastructure["nodes"]):
        raise PreflightError(f"{name} is a Proxmox VE node: commands are run on guests only, never on their host")
    raise PreflightError(f"the state has no guest and no service called {name!r}: {_what_there_is(infrastructure)}")


def _meant(infrastructure: Mapping[str, Any], guest: Mapping[str, Any], name: str) -> Target | None:
    offered = [s for s in infrastructure["services"] if s["vmid"] == guest["vmid"]]
    wanted, at, host = name.rpartition("@")
    is_guest = (host if at else name) in (guest["name"], str(guest["vmid"]))
    named = [s["service"] for s in offered if (wanted if at else name) in _names(s)]
    if (not is_guest or not named) if at else not (is_guest or named):
        return None
    services = tuple(dict.fromkeys(s["service"] for s in offered))
    own = named[0] if named else services[0] if len(services) == 1 else None
    facts = ("vmid", "type", "node", "address", "status", "freshness", "observed_at", "template")
    return Target(guest["name"], **{fact: guest[fact] for fact in facts}, services=services, service=own)


def _names(service: Mapping[str, Any]) -> set[str]:
    return {service["service"], service["name"], f"{service['service']}/{service['purpose']}"}


def _what_there_is(infrastructure: Mapping[str, Any]) -> str:
    guests = [g["name"] for g in infrastructure["guests"] if not g["template"]]
    parts = [_listed("guests", guests), _listed("services", {s["service"] for s in infrastructure["services"]})]
    return " and ".join(filter(None, parts)) or "it has none at all, so scan first"


def _listed(what: str, names: Iterable[str]) -> str:
    there = sorted(names)
    more = f" and {len(there) - _SHOWN_NAMES} more" if len(there) > _SHOWN_NAMES else ""
    return f"there are the {what} {', '.join(there[:_SHOWN_NAMES])}{more}" if there else ""


def reachable_address(target: Target, known_hosts: KnownHosts) -> str:
    """Where to log in to it; PreflightError says why nobody should try."""
    if target.template:
        raise PreflightError(f"{target.label} is a template, which does not run")
    if target.freshness != "fresh":
        seen = f"was last seen at {target.observed_at}" if target.observed_at else "was never read"
        raise PreflightError(f"{target.label} {seen}, so nobody knows how it is now: scan, and look at its node")
    if target.status != "running":
        raise PreflightError(f"{target.label} is {target.status}: start it with nhi_vm first")
    if target.address is None:
        raise PreflightError(f"{target.label} has no address that is known: correct its network, then scan")
    # Under both names, so that a key recorded for another guest at this address does not do.
    if not known_hosts.keys([target.guest]) & known_hosts.keys([target.address]):
        raise PreflightError(
            f"no SSH host key of {target.label} at {target.address} is in {known_hosts.path}, so nobody logs in there:"
            " run the nhi_vm that made it once more, which records it"
        )
    return target.address
