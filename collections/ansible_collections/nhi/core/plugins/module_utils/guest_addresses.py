# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses are taken: by configurations, by what the last scan saw, by whoever answers on the wire."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from .addresses import Address, config_addresses, guest_nics
from .errors import StateError
from .guest import Found
from .guest_reader import Api, Cluster, configured_addresses, vmid_is_free
from .guest_spec import LXC
from .reservations import Reservation, Reservations
from .state import StateStore


@dataclass
class TakenAddresses:
    """Addresses with who has them; ``warnings`` say where the knowledge ends.

    ``departed`` are MACs of guests that the last scan saw and that are gone now, ``gone`` the operations in the ledger
    whose guests do not have their address any more.
    """

    owners: dict[Address, str] = field(default_factory=dict)
    departed: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
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
        addresses = [r for r in guest["addresses"] if not (seen and r["source"] == "config")]
        if not addresses:
            continue
        if seen or not vmid_is_free(api, guest["vmid"]):
            owner = f"{guest['vmid']} {guest['name']}, as the last scan saw"
            taken.owners.update((ip_address(r["address"]), owner) for r in addresses)
        else:
            taken.departed.update(str(r["mac"]).lower() for r in addresses)
    configured, unread = configured_addresses(api, cluster.guests)
    taken.owners.update(configured)
    if unread:
        taken.warnings.append(
            f"The configuration of {', '.join(unread)} could not be read, so its addresses may be given out."
        )
    lines = Reservations(state_dir).used()
    taken.gone = {r.operation for r in lines if _is_gone(api, cluster, r, taken.owners, complete=not unread)}
    return taken


def taken_by_others(api: Api, cluster: Cluster, found: Found, state_dir: Path) -> TakenAddresses:
    """The same but for what one guest has."""
    others = Cluster([r for r in cluster.rows if r.get("vmid") != found.vmid], cluster.read_at)
    taken = taken_addresses(api, others, state_dir)
    # What the last scan saw begins with the VMID.
    taken.owners = {a: owner for a, owner in taken.owners.items() if not owner.startswith(f"{found.vmid} ")}
    return taken


def _is_gone(api: Api, cluster: Cluster, line: Reservation, owners: Mapping[Address, str], *, complete: bool) -> bool:
    """Whether the guest that the ledger gave an address to does not have it any more."""
    if line.since >= cluster.read_at:
        return False  # made since the cluster was read
    row = next((r for r in cluster.guests if int(r["vmid"]) == line.vmid), None)
    if row is None:
        return vmid_is_free(api, line.vmid)  # or this token may only not see it
    if not line.is_of(row):
        return bool(row.get("name"))  # without a name nobody knows who it is
    # A machine without cloud-init has its address only inside.
    return complete and line.type == LXC and line.address is not None and ip_address(line.address) not in owners


def fixed_addresses(found: Found) -> dict[str, str]:
    """The addresses that a guest's configuration gives it, each with its MAC."""
    records = config_addresses(guest_nics(found.type, found.config))
    return {r["address"]: str(r["mac"] or "").lower() for r in records}


def numbered_addresses(kind: str, config: Mapping[str, Any]) -> tuple[dict[int, IPv4Address], dict[int, IPv6Address]]:
    """The fixed addresses of a configuration by the number of their interface, IPv4 and IPv6."""
    four: dict[int, IPv4Address] = {}
    six: dict[int, IPv6Address] = {}
    for nic in guest_nics(kind, config):
        for record in config_addresses([nic]):
            address = ip_address(record["address"])
            if isinstance(address, IPv4Address):
                four[nic.index] = address
            else:
                six[nic.index] = address
    return four, six


def guest_macs(found: Found) -> list[str]:
    """The MACs of a guest's interfaces."""
    return [nic.mac.lower() for nic in guest_nics(found.type, found.config) if nic.mac]


def port_open(address: str, port: int, seconds: float) -> bool:
    """Whether a TCP port of a guest accepts connections."""
    try:
        with socket.create_connection((address, port), timeout=seconds):
            return True
    except OSError:
        return False
