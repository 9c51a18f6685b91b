# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses are taken: by configurations, by what the last scan saw, by whoever answers on the wire."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from .errors import StateError
from .guest_reader import Api, Cluster, configured_addresses, vmid_is_free
from .state import StateStore

_PROBE_PORT = 22
_PROBE_SECONDS = 0.5


@dataclass
class TakenAddresses:
    """Addresses with who has them; ``warnings`` say where the knowledge ends."""

    owners: dict[IPv4Address, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def taken_addresses(api: Api, cluster: Cluster, state_dir: Path) -> TakenAddresses:
    """Everything that is known to have an address, read now."""
    taken = TakenAddresses()
    try:
        snapshot = StateStore(state_dir).read_or_none()
        guests = snapshot.document["infrastructure"]["guests"] if snapshot else []
    except StateError as e:
        guests = []
        taken.warnings.append(
            f"The last scan can not be asked for addresses of guests that this token does not see: {e}"
        )
    present = {int(r["vmid"]) for r in cluster.guests}
    for guest in guests:
        seen = guest["vmid"] in present
        # What this token sees is read live below; the scan may have seen more guests, or their leases.
        addresses = [r for r in guest["addresses"] if r["family"] == "ipv4" and not (seen and r["source"] == "config")]
        if addresses and (seen or not vmid_is_free(api, guest["vmid"])):
            owner = f"{guest['vmid']} {guest['name']}, as the last scan saw"
            taken.owners.update((IPv4Address(r["address"]), owner) for r in addresses)
    configured, unread = configured_addresses(api, cluster.guests)
    taken.owners.update(configured)
    if unread:
        taken.warnings.append(
            f"The configuration of {', '.join(unread)} could not be read, so its addresses may be given out."
        )
    return taken


def answers(address: IPv4Address, *, port: int = _PROBE_PORT, seconds: float = _PROBE_SECONDS) -> bool:
    """Whether somebody on a network of this host uses the address: an answer and a refusal both say so.

    Only neighbours are asked (SO_DONTROUTE): across a router a refusal may come from the router itself,
    and an address nobody routes should not leave the house. Loopback answers for this host, whoever has the address.
    """
    if address.is_loopback:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
        probe.settimeout(seconds)
        return probe.connect_ex((str(address), port)) in (0, errno.ECONNREFUSED)


def port_open(address: str, port: int, seconds: float) -> bool:
    """Whether a TCP port of a guest accepts connections."""
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return True
    except OSError:
        return False
