# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses where a new guest goes and with which VMID and address, before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import TypeVar

from .allocation import next_address, next_vmid
from .errors import PreflightError
from .guest import Check
from .guest_addresses import TakenAddresses
from .guest_config import DEFAULT_DISK_GIB, Placement
from .guest_placement import (
    check_bridge,
    check_clone_disk,
    check_pool,
    choose_clone_source,
    choose_node,
    choose_storage,
    choose_template,
)
from .guest_reader import Api, Cluster, bridges, guest_path, storages, template_volumes, vmid_is_free
from .guest_spec import DEFAULT_BRIDGE, LXC, QEMU, Wanted
from .neighbours import is_used
from .reservations import Choice, Held

_T = TypeVar("_T")
# After which the kernel has asked a neighbour again that it remembers, and forgotten one that is gone.
_ARP_SECONDS = 10.0


@dataclass
class Site:
    """Where the guest goes; ``checks`` say what was looked at."""

    node: str = ""
    storage: str | None = None
    template: str | None = None
    clone_of: int | None = None
    clone_node: str | None = None
    checks: list[Check] = field(default_factory=list)

    def placement(self, choice: Choice, address: IPv4Interface | None) -> Placement:
        """With the VMID and the address that were chosen."""
        return Placement(
            node=self.node,
            vmid=choice.vmid,
            storage=self.storage,
            template=self.template,
            clone_of=self.clone_of,
            clone_node=self.clone_node,
            address=address,
        )


def choose_site(api: Api, cluster: Cluster, wanted: Wanted) -> Site:
    """Look at everything the guest needs; PreflightError with all that is missing, in one line."""
    survey = _Survey(api, cluster, wanted)
    survey.look()
    if survey.problems:
        raise PreflightError("; ".join(survey.problems))
    return survey.site


class _Survey:
    """Looks at one thing after the other and remembers what is wrong instead of stopping at it."""

    def __init__(self, api: Api, cluster: Cluster, wanted: Wanted) -> None:
        self.site = Site()
        self.problems: list[str] = []
        self._api, self._cluster, self._wanted = api, cluster, wanted

    def look(self) -> None:
        wanted = self._wanted
        node = self._check("node", lambda: choose_node(self._cluster.rows, wanted.node))
        if node is not None:
            self.site.node = node
            if (wanted.type or LXC) == LXC:
                self._look_for_container(node)
            else:
                self._look_for_machine(node)
            bridge = wanted.network.bridge or DEFAULT_BRIDGE
            self._check("bridge", lambda: check_bridge(bridges(self._api, node), bridge, node))
        pool = wanted.pool
        if pool:
            self._check("pool", lambda: check_pool(self._api.get("/pools"), pool))

    def _look_for_container(self, node: str) -> None:
        rows, disk = storages(self._api, node), self._wanted.disk_gib or DEFAULT_DISK_GIB
        self.site.storage = self._check(
            "storage", lambda: choose_storage(rows, self._wanted.storage, "rootdir", disk, node)
        )
        self.site.template = self._check(
            "template", lambda: choose_template(template_volumes(self._api, node, rows), self._wanted.template, node)
        )

    def _look_for_machine(self, node: str) -> None:
        wanted = self._wanted
        wish, disk = wanted.template, wanted.disk_gib or DEFAULT_DISK_GIB
        if wish:
            source = self._check("template", lambda: choose_clone_source(self._cluster.guests, wish))
            if source is not None:
                self.site.clone_of, self.site.clone_node = int(source["vmid"]), str(source["node"])
                if wanted.disk_gib:
                    config = self._api.get(guest_path(QEMU, source["node"], source["vmid"], "config"))
                    self._check("disk", lambda: check_clone_disk(config, disk, wish))
        if wanted.storage or not wish:
            self.site.storage = self._check(
                "storage", lambda: choose_storage(storages(self._api, node), wanted.storage, "images", disk, node)
            )

    def _check(self, name: str, look: Callable[[], _T]) -> _T | None:
        try:
            found = look()
        except PreflightError as e:
            self.problems.append(str(e))
            return None
        what = found.get("name") if isinstance(found, Mapping) else found
        self.site.checks.append(Check(name, passed=True, message=f"{name} {what} can be used"))
        return found


class Allocator:
    """Settles on a VMID and an address, going on to the next whenever one proves to be taken."""

    def __init__(self, api: Api, wanted: Wanted, cluster: Cluster, taken: TakenAddresses) -> None:
        self._api = api
        self._wanted = wanted
        self._taken = taken
        self._owners = {int(r["vmid"]): str(r.get("name") or "a guest without a name yet") for r in cluster.guests}
        self._answering: set[IPv4Address] = set()
        self._departed: dict[IPv4Address, frozenset[str]] = {}
        self.warnings: list[str] = []

    def settle(self, reserve: Callable[[Callable[[Held], Choice]], Choice]) -> Choice:
        """Reserve, then look closer without holding any lock, until a choice stands."""
        while True:
            choice = reserve(self._choose)
            if not vmid_is_free(self._api, choice.vmid):
                self.vmid_taken(choice.vmid)
            elif self._address_is_free(choice.address):
                return choice

    def vmid_taken(self, vmid: int) -> None:
        """The create call said so. A VMID somebody asked for by number has no next one."""
        if self._wanted.vmid == vmid:
            raise PreflightError(
                f"VMID {vmid} is taken by a guest that is new or that this token can not see:"
                " choose another vmid, or leave it out"
            )
        self._owners[vmid] = "somebody else"

    def interface(self, choice: Choice) -> IPv4Interface | None:
        """The chosen address with its prefix length."""
        network = self._wanted.network
        if choice.address is None:
            return None
        if isinstance(network.ip, IPv4Interface):
            return network.ip
        return IPv4Interface(network.pool.interface(choice.address)) if network.pool else None

    def _choose(self, held: Held) -> Choice:
        vmid = self._choose_vmid(held)
        return Choice(vmid, self._choose_address(held, vmid))

    def _choose_vmid(self, held: Held) -> int:
        wish = self._wanted.vmid
        if wish is None:
            return next_vmid(self._wanted.vmids, self._owners.keys() | held.vmids.keys())
        if wish in held.vmids:
            raise PreflightError(
                f"VMID {wish} is being given to {held.vmids[wish]} right now: choose another vmid, or leave it out"
            )
        return wish

    def _choose_address(self, held: Held, vmid: int) -> IPv4Address | None:
        network = self._wanted.network
        self._departed, self.warnings = held.departed, []
        if isinstance(network.ip, IPv4Interface):
            return self._wished_address(held, network.ip.ip)
        if network.ip != "auto" or network.pool is None:
            return None
        taken = self._taken.owners.keys() | held.addresses.keys() | self._answering
        own = {a for a, q in held.quarantined.items() if q.name == self._wanted.name}
        for address in sorted(own - taken):
            if network.pool.usable(address):
                return address  # made again: clients may still know the guest by it
        # An address numbered like the VMID is easy to remember, where the pool has it.
        resting = {a: q.until for a, q in held.quarantined.items() if a not in own}
        return next_address(network.pool, taken, resting=resting, hint=vmid)

    def _wished_address(self, held: Held, address: IPv4Address) -> IPv4Address:
        owner = self._taken.owners.get(address) or held.addresses.get(address)
        if owner:
            raise PreflightError(f"{address} belongs to {owner}: choose another network.ip, or auto")
        before, name = held.quarantined.get(address), self._wanted.name
        if before is not None and before.name != name:
            self.warnings.append(
                f"{address} belonged to {before.name} until lately and is in quarantine until"
                f" {before.until:%Y-%m-%d %H:%M:%S} UTC: others may still take {name} for it."
            )
        return address

    def _address_is_free(self, address: IPv4Address | None) -> bool:
        departed = self._taken.departed | self._departed.get(address, frozenset()) if address else ()
        fixed = isinstance(self._wanted.network.ip, IPv4Interface)
        if address is None or not is_used(address, departed, patience=_ARP_SECONDS if fixed else 0.0):
            return True
        if fixed:
            raise PreflightError(
                f"{address} is in use on the network, although no guest known here has it:"
                " choose another network.ip, or auto"
            )
        self._answering.add(address)
        return False
