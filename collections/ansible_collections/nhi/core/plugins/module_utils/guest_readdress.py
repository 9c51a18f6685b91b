# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses that a correction gives to a guest that is there: chosen, checked, and held while it gets them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

from .addresses import Address
from .errors import NHIError
from .guest import CONFIGURE, Check, Found, GuestPlan
from .guest_address_choice import AddressChooser, Addressee, Given
from .guest_addresses import TakenAddresses, guest_macs, numbered_addresses, taken_addresses
from .guest_config import has_cloud_init_drive
from .guest_interfaces import Interface
from .guest_network import WantedNetwork
from .guest_reader import Api, Cluster
from .guest_spec import LXC, Wanted
from .reservations import Choice, Held, Reservations


class Readdressing:
    """What one run does about the addresses of one guest; ``wanted`` is the wish with what was chosen for "auto"."""

    def __init__(self, api: Api, cluster: Cluster, found: Found, wanted: Wanted, ledger: Reservations) -> None:
        self.checks: list[Check] = []
        self._holds = False
        self._found, self._wish, self._read_at, self._ledger = found, wanted, cluster.read_at, ledger
        new = new_addresses(wanted, found)
        taken = TakenAddresses()
        if new:
            others = Cluster([r for r in cluster.rows if r.get("vmid") != found.vmid], cluster.read_at)
            taken = taken_addresses(api, others, ledger.directory)
        self._gone, self._warnings = taken.gone, taken.warnings
        guest = Addressee(found.name, found.vmid, frozenset(guest_macs(found)), _kept(found, new))
        self._chooser = AddressChooser(guest, new, taken)
        self._given = Given()
        if new:
            self._given, self.checks = self._chooser.foresee(ledger.peek(taken.gone), found.vmid)
        self.wanted = self._with(self._given)

    @property
    def warnings(self) -> list[str]:
        """What to say of the addresses that are given."""
        return [*self._warnings, *self._chooser.warnings]

    @contextlib.contextmanager
    def held(self, operation: str, plan: GuestPlan) -> Iterator[Wanted]:
        """Hold what the guest will have while it gets it; the wish, which needs a new plan where it is another one.

        An address that it has no more is free afterwards; after a failure nothing is held that it did not have.
        """
        found, will = self._found, _planned(plan, self._found.config)
        if numbered_addresses(found.type, found.config) == numbered_addresses(found.type, will):
            yield self.wanted
            return
        four, six = numbered_addresses(found.type, will)
        given = self._given

        def choose(held: Held) -> Choice:
            nonlocal given
            given = self._chooser.choose(held, found.vmid)
            return Choice(found.vmid, {**four, **given.four}, {**six, **given.six})

        try:
            while True:
                self._ledger.reserve(operation, found.name, self._read_at, choose, self._gone)
                self._holds = True
                if self._chooser.are_free(given):
                    break
            yield self._with(given)
        except BaseException:
            with contextlib.suppress(NHIError):
                self._ledger.release(operation)
            raise

    def keep(self, operation: str, found: Found | None = None) -> None:
        """The guest has its addresses; ``found`` is the guest as it is now, so that it is known again."""
        if self._holds:
            self._ledger.keep(operation, *((found.type, guest_macs(found)) if found else ()))

    def _with(self, given: Given) -> Wanted:
        interfaces = self._chooser.interfaces(given.four)
        first, *more = (
            replace(n, ip=interfaces[number]) if number in interfaces else n
            for number, n in enumerate(self._wish.networks)
        )
        return replace(self._wish, network=first, more_networks=tuple(more))


def new_addresses(wanted: Wanted, found: Found) -> dict[int, WantedNetwork]:
    """The interfaces that are to have a fixed address which they do not have, with nothing but that in the wish."""
    new: dict[int, WantedNetwork] = {}
    for number, wish in enumerate(wanted.networks):
        there = f"net{number}" in found.config
        has = Interface.read(found.type, number, found.config).words()
        ip: IPv4Interface | str | None = None
        if isinstance(wish.ip, IPv4Interface) and str(wish.ip) != has["ip"]:
            ip = wish.ip
        if wish.ip == "auto" and has["ip"] is None and (not there or _hears_of_addresses(found)):
            ip = "auto"
        ip6 = wish.ip6 if isinstance(wish.ip6, IPv6Interface) and str(wish.ip6) != has["ip6"] else None
        if ip is not None or ip6 is not None:
            new[number] = WantedNetwork(ip=ip, pool=wish.pool, ip6=ip6, label=wish.label)
    return new


def _kept(found: Found, new: Mapping[int, WantedNetwork]) -> frozenset[Address]:
    """The addresses that the guest has and keeps."""
    four, six = numbered_addresses(found.type, found.config)
    none = WantedNetwork()
    kept: set[Address] = {address for number, address in four.items() if new.get(number, none).ip is None}
    kept |= {address for number, address in six.items() if new.get(number, none).ip6 is None}
    return frozenset(kept)


def _hears_of_addresses(found: Found) -> bool:
    """A machine without cloud-init has its address from inside, whatever its configuration says."""
    return found.type == LXC or has_cloud_init_drive(found.config)


def _planned(plan: GuestPlan, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as the plan leaves it."""
    data = next((a.data for a in plan.actions if a.kind == CONFIGURE), {})
    gone = str(data.get("delete") or "").split(",")
    return {k: v for k, v in {**config, **data}.items() if k not in gone}
