# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settles on the addresses of a guest's interfaces, going on to the next whenever one proves to be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from .addresses import Address
from .allocation import AddressPool, next_address
from .errors import AllocationError, PreflightError
from .guest import Check
from .guest_addresses import TakenAddresses
from .guest_network import WantedNetwork
from .neighbours import Neighbour, is_used, neighbour
from .reservations import Held

# After which the kernel has asked a neighbour again that it remembers, and forgotten one that is gone.
_NEIGHBOUR_SECONDS = 10.0


@dataclass(frozen=True)
class Addressee:
    """Whose addresses are chosen; a guest that is there has a VMID and MACs, and what is held for it is its own."""

    name: str
    vmid: int | None = None
    macs: frozenset[str] = frozenset()
    keeps: frozenset[Address] = frozenset()  # of interfaces that nothing is chosen for

    def has(self, owner: str, *, held: bool) -> bool:
        """Whether an owner, as the ledger or the taken addresses name it, is this guest."""
        return self.vmid is not None and (owner == self.name if held else owner.startswith(f"{self.vmid} "))


@dataclass
class Given:
    """Addresses by the number of their interface; ``problems`` say which can not be given and why."""

    four: dict[int, IPv4Address] = field(default_factory=dict)
    six: dict[int, IPv6Address] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[Address]:
        """Of both families."""
        return [*self.four.values(), *self.six.values()]


class AddressChooser:
    """Chooses for the given interfaces of one guest; ``warnings`` are those of the last choice.

    ``handed`` are addresses of a guest whose place this one takes, the best first: that it answers there still counts
    for nothing.
    """

    def __init__(
        self,
        guest: Addressee,
        networks: Mapping[int, WantedNetwork],
        taken: TakenAddresses,
        handed: Sequence[Address] = (),
    ) -> None:
        self.warnings: list[str] = []
        self._guest, self._networks, self._taken, self._handed = guest, networks, taken, handed
        # Of those that were asked for on the wire.
        self._in_use: dict[Address, bool] = dict.fromkeys(handed, False)
        self._departed: dict[Address, frozenset[str]] = {}
        self._known: dict[Address, Neighbour | None] = {}  # to the kernel, when nobody had answered

    def choose(self, held: Held, hint: int | None) -> Given:
        """What can be had, knowing what others hold; PreflightError with everything that can not."""
        given = self._pick(held, hint)
        if given.problems:
            raise PreflightError("; ".join(given.problems))
        return given

    def foresee(self, held: Held, hint: int | None) -> tuple[Given, list[Check]]:
        """What would be chosen and be found free, with nothing written anywhere."""
        while True:
            given = self._pick(held, hint)
            again, refused = self._probe(given)
            if not again:
                break
        checks = [Check("address", passed=False, message=text) for text in (*given.problems, *refused)]
        free = [a for a in given.all if not self._in_use[a]]
        checks += [Check("address", passed=True, message=f"address {address} is free") for address in free]
        return given, checks

    def are_free(self, given: Given) -> bool:
        """Whether nobody answers at the addresses; PreflightError for one that was asked for by number."""
        again, refused = self._probe(given)
        if refused:
            raise PreflightError("; ".join(refused))
        return not again

    def refuse_latecomers(self) -> None:
        """PreflightError when somebody has answered after all, since the addresses were asked for."""
        for address, then in self._known.items():
            now = neighbour(address)
            if now is not None and now != then and now.mac not in self._guest.macs:
                raise PreflightError(
                    f"{address} is in use on the network by {now.mac}, which took long to answer, although no guest"
                    " known here has it: the guest was not started, run the same again"
                )

    def interfaces(self, four: Mapping[int, IPv4Address]) -> dict[int, IPv4Interface]:
        """Chosen addresses with the prefix lengths of their subnets."""
        found: dict[int, IPv4Interface] = {}
        for number, address in four.items():
            network = self._networks[number]
            if isinstance(network.ip, IPv4Interface):
                found[number] = network.ip
            elif network.pool:
                found[number] = IPv4Interface(network.pool.interface(address))
        return found

    def _pick(self, held: Held, hint: int | None) -> Given:
        given = Given()
        self._departed, self.warnings = held.departed, []
        # What was asked for by number comes first, so that no choice takes it.
        for number, network in self._networks.items():
            ip, ip6, label = network.ip, network.ip6, network.label
            if isinstance(ip, IPv4Interface) and self._may_have(held, given, ip.ip, f"{label}.ip"):
                given.four[number] = ip.ip
            if isinstance(ip6, IPv6Interface) and self._may_have(held, given, ip6.ip, f"{label}.ip6"):
                given.six[number] = ip6.ip
        for number, network in self._networks.items():
            if network.ip == "auto" and network.pool is not None:
                try:
                    given.four[number] = self._next(network.pool, held, given, hint)
                except AllocationError as e:
                    given.problems.append(str(e))
        return given

    def _may_have(self, held: Held, given: Given, address: Address, option: str) -> bool:
        """Whether the guest can have an address that was asked for."""
        owner, name = self._owner(held, address), self._guest.name
        if owner or address in given.all or address in self._guest.keeps:
            text = owner or "would be the address of two interfaces"
            given.problems.append(f"{address} {text}: {_alternative(address, option)}")
            return False
        before = held.quarantined.get(address)
        if before is not None and name not in before.names:
            self.warnings.append(
                f"{address} belonged to {' and '.join(sorted(before.names))} until lately and is in quarantine until"
                f" {before.until:%Y-%m-%d %H:%M:%S} UTC: others may still take {name} for it."
            )
        return True

    def _owner(self, held: Held, address: Address) -> str | None:
        """Who else has the address, as part of a sentence."""
        owner, holder = self._taken.owners.get(address), held.addresses.get(address)
        if owner and not self._guest.has(owner, held=False):
            return f"belongs to {owner}"
        return f"is held for {holder}" if holder and not self._guest.has(holder, held=True) else None

    def _next(self, pool: AddressPool, held: Held, given: Given, hint: int | None) -> IPv4Address:
        taken = {a for a in self._taken.owners.keys() | held.addresses.keys() if self._owner(held, a)}
        taken |= {a for a, in_use in self._in_use.items() if in_use} | set(given.all) | self._guest.keeps
        own = {a for a, q in held.quarantined.items() if self._guest.name in q.names}
        known = [*self._handed, *sorted(a for a in own if isinstance(a, IPv4Address))]
        for address in known:
            if isinstance(address, IPv4Address) and address not in taken and pool.usable(address):
                return address  # made again: clients may still know the guest by it
        # An address numbered like the VMID is easy to remember, where the pool has it.
        resting = {a: q.until for a, q in held.quarantined.items() if isinstance(a, IPv4Address) and a not in own}
        return next_address(pool, {a for a in taken if isinstance(a, IPv4Address)}, resting=resting, hint=hint)

    def _probe(self, given: Given) -> tuple[bool, list[str]]:
        """Ask the networks of this host: whether an address must be chosen again, and what else is wrong."""
        chosen = {a for number, a in given.four.items() if self._networks[number].ip == "auto"}
        refused, again = [], False
        for address in given.all:
            if address not in self._in_use:
                self._in_use[address] = self._is_foreign(address, 0.0 if address in chosen else _NEIGHBOUR_SECONDS)
            if self._in_use[address] and address in chosen:
                again = True
            elif self._in_use[address]:
                refused.append(
                    f"{address} is in use on the network, although no guest known here has it:"
                    f" {_alternative(address, self._option(given, address))}"
                )
        return again, refused

    def _is_foreign(self, address: Address, patience: float) -> bool:
        departed = self._taken.departed | self._departed.get(address, frozenset())
        if not is_used(address, departed, patience=patience):
            self._known[address] = neighbour(address)
            return False
        known = neighbour(address) if self._guest.macs else None
        return known is None or known.mac not in self._guest.macs  # a guest may have leased what it is to keep

    def _option(self, given: Given, address: Address) -> str:
        options = [f"{self._networks[n].label}.ip" for n, a in given.four.items() if a == address]
        options += [f"{self._networks[n].label}.ip6" for n, a in given.six.items() if a == address]
        return options[0]


def _alternative(address: Address, option: str) -> str:
    return f"choose another {option}" + (", or auto" if address.version == 4 else "")
