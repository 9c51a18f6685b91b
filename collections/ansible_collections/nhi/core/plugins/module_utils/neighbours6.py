# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv6 neighbours as Linux knows them, and how one is asked (RFC 4861): there is no /proc/net/arp for them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

_ROUTES = Path("/proc/net/ipv6_route")
_DEVICES = Path("/sys/class/net")
_UP, _GATEWAY, _REJECT = 0x1, 0x2, 0x200
# rtnetlink(7): the dump of neighbours, which needs no privilege.
_GET_NEIGHBOURS, _NEW_NEIGHBOUR, _REQUEST_DUMP, _ERROR, _DONE = 30, 28, 0x301, 2, 3
_DESTINATION, _LINK_ADDRESS = 1, 2
_KNOWN_STATES = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # reachable, stale, delay, probe, permanent
_NETLINK_SECONDS = 1.0
_SOLICITATION, _ADVERTISEMENT, _FILTER = 135, 136, 1
_SOURCE_LINK_ADDRESS = 1


def is_on_link(address: IPv6Address, routes: Path = _ROUTES) -> bool:
    """Whether the address lies on a network of this host, so that nobody but its owner would answer for it.

    A link-local address is on every network, so nobody knows which one is meant.
    """
    if address.is_link_local:
        return False
    try:
        lines = routes.read_text().splitlines()
    except OSError:
        return False  # no Linux, no /proc, or no IPv6
    best: tuple[int, int] | None = None
    direct = False
    for line in lines:
        # Destination, its length, source, its length, next hop, metric, references, uses, flags, device
        words = line.split()
        length, metric, flags = int(words[1], 16), int(words[5], 16), int(words[8], 16)
        network = IPv6Network((int(words[0], 16), length))
        if address not in network or not flags & _UP or (best is not None and best <= (-length, metric)):
            continue
        best, direct = (-length, metric), not flags & (_GATEWAY | _REJECT)
    return direct


def known_neighbour(address: IPv6Address) -> tuple[str, str] | None:
    """MAC and device of whom the kernel knows under the address; None when nobody answered for it."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
            kernel.settimeout(_NETLINK_SECONDS)
            header = struct.pack("=IHHII", 28, _GET_NEIGHBOURS, _REQUEST_DUMP, 1, 0)
            kernel.send(header + struct.pack("=BBHiHBB", socket.AF_INET6, 0, 0, 0, 0, 0, 0))
            for index, state, attributes in _entries(kernel):
                mac = attributes.get(_LINK_ADDRESS, b"")
                if state & _KNOWN_STATES and attributes.get(_DESTINATION) == address.packed and any(mac):
                    return mac.hex(":"), socket.if_indextoname(index)
    except (OSError, AttributeError):
        return None  # no Linux, or a device that is gone
    return None


def _entries(kernel: socket.socket) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """Device, state and attributes of every neighbour in the answer to a dump."""
    while True:
        data = kernel.recv(1 << 18)
        if not data:
            return
        while len(data) >= 16:
            length, kind = struct.unpack_from("=IH", data)
            if kind in (_DONE, _ERROR) or length < 16:
                return
            if kind == _NEW_NEIGHBOUR:
                _family, _pad, _more, index, state = struct.unpack_from("=BBHiH", data, 16)
                yield index, state, dict(_attributes(data[28:length]))
            data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind, data[4:length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def solicit(address: IPv6Address, device: str, seconds: float) -> bool:
    """Ask on a network who has the address, twice, ``seconds`` each; OSError where this may not be asked."""
    mac = bytes.fromhex((_DEVICES / device / "address").read_text().strip().replace(":", ""))
    asked = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)
    # The kernel fills in the checksum.
    option = struct.pack("!BB", _SOURCE_LINK_ADDRESS, 1) + mac
    question = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + address.packed + option
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as wire:
        blocked = ((1 << 256) - 1) & ~(1 << _ADVERTISEMENT)
        wire.setsockopt(socket.IPPROTO_ICMPV6, _FILTER, blocked.to_bytes(32, "little"))
        wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        place = (str(asked), 0, 0, socket.if_nametoindex(device))
        return any(_is_answered(wire, question, place, address, seconds) for _try in range(2))


def _is_answered(
    wire: socket.socket, question: bytes, place: tuple[str, int, int, int], address: IPv6Address, seconds: float
) -> bool:
    wire.sendto(question, place)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            answer = wire.recv(1500)
        except TimeoutError:
            return False
        if answer[:1] == bytes([_ADVERTISEMENT]) and answer[8:24] == address.packed:
            return True
    return False
