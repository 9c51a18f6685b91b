# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The next free VMID and the next free address: ranges and what is taken in, one choice out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError

from .errors import AllocationError, PreflightError

LOWEST_VMID, HIGHEST_VMID = 100, 999_999_999
_VMID_RANGE = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?")


def parse_vmid_range(text: str) -> range:
    """``105-199`` (both ends belong to it) or a single VMID."""
    match = _VMID_RANGE.fullmatch(text)
    if not match:
        raise PreflightError(f"'{text}' is not a range of VMIDs: write it as 105-199")
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if not LOWEST_VMID <= first <= last:
        raise PreflightError(f"the VMID range {text} is empty or begins below {LOWEST_VMID}: write it as 105-199")
    return range(first, last + 1)


def next_vmid(vmids: range, taken: Collection[int], *, excluded: Collection[int] = (), hint: int | None = None) -> int:
    """The first free VMID from ``hint`` on, around the end of the range; ``excluded`` just proved to be taken."""
    start = hint if hint is not None and hint in vmids else vmids.start
    for part in (range(start, vmids.stop), range(vmids.start, start)):
        for vmid in part:
            if vmid not in taken and vmid not in excluded:
                return vmid
    raise AllocationError(
        f"no VMID is free in {vmids.start}-{vmids.stop - 1}: all {len(vmids)} are taken;"
        " widen vmid_range or destroy guests that are no longer needed"
    )


@dataclass(frozen=True)
class AddressPool:
    """The addresses that may be given out, in one subnet; ``gateway`` is never given out."""

    network: IPv4Network
    first: IPv4Address
    last: IPv4Address
    gateway: IPv4Address | None = None

    @property
    def size(self) -> int:
        """How many addresses lie between both ends, free or not."""
        return int(self.last) - int(self.first) + 1

    def interface(self, address: IPv4Address) -> str:
        """The address with the prefix length of its subnet."""
        return f"{address}/{self.network.prefixlen}"

    def usable(self, address: IPv4Address) -> bool:
        """Whether the address may belong to a guest at all."""
        if not self.first <= address <= self.last or address == self.gateway:
            return False
        ends = (self.network.network_address, self.network.broadcast_address)
        return self.network.prefixlen >= 31 or address not in ends


def parse_pool(text: str, prefix: int | None = None, gateway: str | None = None) -> AddressPool:
    """``10.0.0.105-10.0.0.199`` with a prefix length, or a whole subnet ``10.0.0.0/24``."""
    try:
        first, last, network = _bounds(text, prefix)
    except (AddressValueError, NetmaskValueError, ValueError) as e:
        raise PreflightError(
            f"'{text}' is not a range of IPv4 addresses ({e}): write it as 10.0.0.105-10.0.0.199 or 10.0.0.0/24"
        ) from e
    if first > last or first not in network or last not in network:
        raise PreflightError(f"the address range {text} is empty or not inside one subnet {network}")
    return AddressPool(network, first, last, parse_address(gateway, "gateway") if gateway else None)


def _bounds(text: str, prefix: int | None) -> tuple[IPv4Address, IPv4Address, IPv4Network]:
    if "/" in text:
        block = IPv4Network(text.strip(), strict=False)
        network = block if prefix is None else IPv4Network((block.network_address, prefix), strict=False)
        return block.network_address, block.broadcast_address, network
    head, dash, tail = (part.strip() for part in text.partition("-"))
    first = IPv4Address(head)
    last = IPv4Address(tail) if dash else first
    if prefix is None:
        raise ValueError("its prefix length is missing")
    return first, last, IPv4Network((first, prefix), strict=False)


def parse_address(text: str, what: str) -> IPv4Address:
    """An IPv4 address without prefix; ``what`` names the option in the message."""
    try:
        return IPv4Address(text.strip())
    except AddressValueError as e:
        raise PreflightError(f"{what} '{text}' is not an IPv4 address: {e}") from e


def parse_interface(text: str, prefix: int | None = None) -> IPv4Interface:
    """An IPv4 address with its prefix length, which may come from ``prefix``."""
    if "/" not in text and prefix is None:
        raise PreflightError(f"the address {text} has no prefix length: write {text}/24, or set network.prefix")
    try:
        interface = IPv4Interface(text if "/" in text else f"{text}/{prefix}")
    except (AddressValueError, NetmaskValueError, ValueError) as e:
        raise PreflightError(f"'{text}' is not an IPv4 address: {e}") from e
    network = interface.network
    if network.prefixlen < 31 and interface.ip in (network.network_address, network.broadcast_address):
        raise PreflightError(f"{text} is the network or broadcast address of {network}: choose another address")
    return interface


def next_address(
    pool: AddressPool,
    taken: Collection[IPv4Address],
    *,
    reserved: Collection[IPv4Address] = (),
    resting: Mapping[IPv4Address, datetime] | None = None,
    hint: int | None = None,
) -> IPv4Address:
    """The first free address of the pool, from the address numbered ``hint`` in its subnet if that is inside.

    ``resting`` has addresses that are in quarantine, with its end.
    """
    quarantine = resting or {}
    for address in _around(pool, hint):
        free = address not in taken and address not in reserved and address not in quarantine
        if free and pool.usable(address):
            return address
    raise AllocationError(
        f"no address is free in {pool.first}-{pool.last}: all {pool.size} are taken, reserved or not for guests;"
        f" {_first_end(pool, quarantine)}widen network.range or destroy guests that are no longer needed"
    )


def _first_end(pool: AddressPool, quarantine: Mapping[IPv4Address, datetime]) -> str:
    """When the first address that rests may be given out again, for a pool that has no other left."""
    ends = sorted((end, address) for address, end in quarantine.items() if pool.usable(address))
    if not ends:
        return ""
    end, address = ends[0]
    others = f" ({len(ends) - 1} more later)" if len(ends) > 1 else ""
    return f"{address} of a destroyed guest is in quarantine until {end:%Y-%m-%d %H:%M:%S} UTC{others}: wait, or "


def _around(pool: AddressPool, hint: int | None) -> Iterable[IPv4Address]:
    first, last = int(pool.first), int(pool.last)
    wanted = int(pool.network.network_address) + (hint or 0)
    start = wanted if first <= wanted <= last else first
    for part in (range(start, last + 1), range(first, start)):
        for number in part:
            yield IPv4Address(number)
