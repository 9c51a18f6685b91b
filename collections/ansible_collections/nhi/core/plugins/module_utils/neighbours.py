# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether somebody on a network of this host has an address, whatever he answers."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from .addresses import Address
from .neighbours6 import is_on_link, known_neighbour, solicit

_PROBE_PORT = 22
# A neighbour answers ARP within milliseconds. For one that takes longer the kernel goes on asking, and remembers it.
_PROBE_SECONDS = 0.1
_ASK_SECONDS = 0.5
_TABLE = Path("/proc/net/arp")
_COMPLETE = 0x2
_PAUSE_SECONDS = 0.25
_ETH_ARP, _ETH_IPV4 = 0x0806, 0x0800
_REQUEST, _REPLY = 1, 2


@dataclass(frozen=True)
class Neighbour:
    """Who answered for an address, as the kernel remembers."""

    mac: str
    device: str


def is_used(address: Address, departed: Collection[str] = (), *, patience: float = 0.0) -> bool:
    """Whether somebody on a network of this host has the address, even if it accepts and refuses nothing.

    A host that drops everything still answers ARP, or for IPv6 neighbour solicitations, or nobody could reach it. The
    kernel remembers for a while who answered: ``departed`` are MACs of guests that are gone. Others are asked once
    more, which takes root; without it the kernel finds out itself, for which ``patience`` seconds may pass.
    """
    deadline = time.monotonic() + patience
    while not answers(address):
        known = neighbour(address)
        if known is None or known.mac in departed:
            return False
        there = still_there(address, known)
        if there is not None:
            return there
        if time.monotonic() >= deadline:
            return True
        time.sleep(_PAUSE_SECONDS)
    return True


def answers(address: Address, *, port: int = _PROBE_PORT, seconds: float = _PROBE_SECONDS) -> bool:
    """Whether somebody on a network of this host answers at the address: a refusal is an answer too.

    Only neighbours are asked (SO_DONTROUTE): across a router a refusal may come from the router itself,
    and an address nobody routes should not leave the house. Loopback answers for this host, whoever has the address.
    """
    if address.is_loopback:
        return False
    family = socket.AF_INET
    if isinstance(address, IPv6Address):
        family = socket.AF_INET6
        if not is_on_link(address):
            return False  # Linux heeds SO_DONTROUTE for IPv4 only
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
        probe.settimeout(seconds)
        return probe.connect_ex((str(address), port)) in (0, errno.ECONNREFUSED)


def neighbour(address: Address, table: Path = _TABLE) -> Neighbour | None:
    """Whom the kernel knows under the address; None when nobody answered for it."""
    if isinstance(address, IPv6Address):
        known = known_neighbour(address)
        return Neighbour(*known) if known else None
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return None  # no Linux, or no /proc
    for line in lines:
        # IP address, HW type, Flags, HW address, Mask, Device
        words = line.split()
        complete = len(words) == 6 and int(words[2], 16) & _COMPLETE
        if complete and words[0] == str(address) and words[3] != "00:00:00:00:00:00":
            return Neighbour(words[3].lower(), words[5])
    return None


def still_there(address: Address, known: Neighbour, *, seconds: float = _ASK_SECONDS) -> bool | None:
    """Whether somebody answers for the address now; None when this may not be asked."""
    try:
        if isinstance(address, IPv6Address):
            return solicit(address, known.device, seconds)
        return _still_there4(address, known, seconds)
    except (OSError, AttributeError, ValueError):
        return None


def _still_there4(address: IPv4Address, known: Neighbour, seconds: float) -> bool:
    """An ARP probe as in RFC 5227."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ARP)) as wire:
        wire.bind((known.device, _ETH_ARP))
        own = wire.getsockname()[4]
        # Without an own address in it: nobody is to learn one from this question.
        arp = struct.pack("!HHBBH", 1, _ETH_IPV4, 6, 4, _REQUEST) + own + bytes(4) + bytes(6) + address.packed
        question = b"\xff" * 6 + own + struct.pack("!H", _ETH_ARP) + arp
        return any(_is_answered(wire, question, address, seconds) for _try in range(2))


def _is_answered(wire: socket.socket, question: bytes, address: IPv4Address, seconds: float) -> bool:
    wire.send(question)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            frame = wire.recv(128)
        except TimeoutError:
            return False
        if frame[20:22] == struct.pack("!H", _REPLY) and frame[28:32] == address.packed:
            return True
    return False
