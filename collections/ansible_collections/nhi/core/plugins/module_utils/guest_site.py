# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses where a new guest goes and with which VMID and address, before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

from .allocation import next_address, next_vmid
from .errors import AllocationError, PreflightError
from .guest import Check
from .guest_addresses import TakenAddresses
from .guest_capacity import Overcommit, check_cpu, check_disk, check_memory, is_thin
from .guest_clone import CloneSource, choose_clone_node, clone_problems, clone_warnings, read_source
from .guest_config import DEFAULT_DISK_GIB, Placement, memory_mib, root_disk
from .guest_drift import volume_text
from .guest_extras import NESTING, check_features
from .guest_nodes import fitting_nodes
from .guest_placement import check_bridge, check_owners, check_pool, choose_node, choose_storage, choose_template
from .guest_reader import (
    Api,
    Cluster,
    Row,
    bridges,
    owners_of,
    promised_bytes,
    storages,
    template_volumes,
    vmid_is_free,
)
from .guest_spec import DEFAULT_BRIDGE, LXC, Wanted
from .neighbours import is_used
from .reservations import Choice, Held

_T = TypeVar("_T")
# After which the kernel has asked a neighbour again that it remembers, and forgotten one that is gone.
_ARP_SECONDS = 10.0


@dataclass
class Site:
    """Where the guest goes; ``checks`` say what was looked at."""

    node: str = ""
    kind: str = LXC
    storage: str | None = None
    template: str | None = None
    source: CloneSource | None = None
    snapname: str | None = None
    full: bool = True
    checks: list[Check] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def placement(self, choice: Choice, address: IPv4Interface | None) -> Placement:
        """With the VMID and the address that were chosen."""
        return Placement(
            node=self.node,
            vmid=choice.vmid,
            storage=self.storage,
            template=self.template,
            clone_of=self.source.vmid if self.source else None,
            clone_node=self.source.node if self.source else None,
            address=address,
            source=self.source.config if self.source else {},
            snapname=self.snapname,
            full=self.full,
        )


def choose_site(api: Api, cluster: Cluster, wanted: Wanted, limits: Overcommit) -> Site:
    """Look at everything the guest needs; a failed check says what is missing, and the site has what was found."""
    survey = _Survey(api, cluster, wanted, limits)
    survey.look()
    return survey.site


def room_on(api: Api, rows: Iterable[Row], node: str, name: str, gib: float, limits: Overcommit) -> Check:
    """Whether a storage of the node has room for so much more."""
    storage = next((r for r in rows if r.get("storage") == name), {"storage": name})
    promised = promised_bytes(api, node, name) if is_thin(storage) and limits.disk else 0
    return check_disk(storage, node, gib, promised, limits.disk)


class _Survey:
    """Looks at one thing after the other and remembers what is wrong instead of stopping at it."""

    def __init__(self, api: Api, cluster: Cluster, wanted: Wanted, limits: Overcommit) -> None:
        self.site = Site()
        self._api, self._cluster, self._wanted, self._limits = api, cluster, wanted, limits
        self._space: dict[str, float] = {}  # GiB asked of each storage

    def look(self) -> None:
        wanted = self._wanted
        self.site.kind = wanted.type or LXC
        node = self._look_at_source() if wanted.source else self._look_for_new()
        if node is not None:
            rows = bridges(self._api, node)
            for bridge in dict.fromkeys(n.bridge or DEFAULT_BRIDGE for n in wanted.networks):
                self._check("bridge", partial(check_bridge, rows, bridge, node))
            self._look_for_room(node)
        if wanted.fixed_six:
            owners = owners_of(self._api, self._cluster.guests, wanted.fixed_six.keys())
            self._check("address", lambda: check_owners(owners, wanted))
        pool = wanted.pool
        if pool:
            self._check("pool", lambda: check_pool(self._api.get("/pools"), pool))

    def _candidates(self) -> Sequence[Row]:
        wanted, rows = self._wanted, self._cluster.rows
        template = wanted.template if self.site.kind == LXC else None
        return rows if wanted.node else fitting_nodes(rows, wanted.storage, template)

    def _look_for_new(self) -> str | None:
        """A node, and on it what a guest is made from that is no clone."""
        wanted, kind = self._wanted, self.site.kind
        self._check("options", lambda: self._possible(kind))
        node = self._check("node", lambda: choose_node(self._candidates(), wanted.node))
        if node is None:
            return None
        self.site.node = node
        rows, disk = storages(self._api, node), wanted.disk_gib or DEFAULT_DISK_GIB
        content = "rootdir" if kind == LXC else "images"
        storage = self._look_for_storage(rows, wanted.storage, content, disk, node)
        self.site.storage = storage
        self._look_at_volumes(rows, storage, content, node)
        if kind == LXC:
            volumes = template_volumes(self._api, node, rows)
            self.site.template = self._check("template", lambda: choose_template(volumes, wanted.template, node))
        return node

    def _possible(self, kind: str) -> str:
        """Refuse what this kind of guest does not have, and what no token may give it."""
        wanted = self._wanted
        wanted.require_kind(kind)
        if kind == LXC:
            features = dict(wanted.features)
            if wanted.nesting is not None:
                features[NESTING] = str(int(wanted.nesting))
            check_features(wanted.name, features, {}, unprivileged=wanted.unprivileged is not False)
        return f"of a guest of type {kind}"

    def _look_at_volumes(self, rows: list[Any], default: str | None, content: str, node: str) -> None:
        for volume in self._wanted.volumes:
            self._check("volume", partial(volume_text, volume, default))
            if volume.storage:
                self._look_for_storage(rows, volume.storage, content, volume.size_gib or 0, node)
            elif default:
                self._space[default] = self._space.get(default, 0.0) + (volume.size_gib or 0)

    def _look_for_storage(self, rows: list[Any], wish: str | None, content: str, gib: float, node: str) -> str | None:
        """A storage that fits; whether it has room is judged apart, as a thin one may promise more than it has."""
        name = self._check("storage", partial(choose_storage, rows, wish, content, 0, node))
        if name is not None:
            self._space[name] = self._space.get(name, 0.0) + gib
        return name

    def _look_for_room(self, node: str) -> None:
        wanted, source = self._wanted, self.site.source
        config = source.config if source else {}
        rows, limits = self._cluster.rows, self._limits
        memory = wanted.memory_mib or memory_mib(config)
        self.site.checks.append(check_memory(rows, node, memory, limits.memory))
        cores = wanted.cores or int(config.get("cores") or 1)
        self.site.checks.append(check_cpu(rows, node, cores, limits.cpu))
        if source and not wanted.storage and self.site.full:
            disk = root_disk(config, source.kind)
            name = str(config.get(disk[0]) or "").partition(":")[0]
            self._space[name] = max(disk[1] or 0.0, wanted.disk_gib or 0.0)
        found = storages(self._api, node) if self._space else []
        for name, gib in sorted(self._space.items()):
            self.site.checks.append(room_on(self._api, found, node, name, gib, limits))

    def _look_at_source(self) -> str | None:
        """The guest to clone, and the node and storage where its clone can go."""
        wanted, rows = self._wanted, self._cluster.rows
        source = self._check("source", lambda: read_source(self._api, rows, wanted))
        if source is None:
            return None
        self.site.source, self.site.kind = source, source.kind
        self.site.snapname, self.site.full = wanted.snapname, wanted.full is not False
        for problem in clone_problems(source, wanted):
            self.site.checks.append(Check("source", passed=False, message=problem))
        self.site.warnings = clone_warnings(source, wanted)
        node = self._check("node", lambda: choose_clone_node(rows, source, wanted))
        if node is not None:
            self.site.node = node
            if wanted.storage:
                disk = wanted.disk_gib or round(root_disk(source.config, source.kind)[1] or DEFAULT_DISK_GIB)
                content = "rootdir" if source.kind == LXC else "images"
                found = storages(self._api, node)
                self.site.storage = self._look_for_storage(found, wanted.storage, content, disk, node)
        return node

    def _check(self, name: str, look: Callable[[], _T]) -> _T | None:
        try:
            found = look()
        except PreflightError as e:
            self.site.checks.append(Check(name, passed=False, message=str(e)))
            return None
        what = found.label if isinstance(found, CloneSource) else found
        self.site.checks.append(Check(name, passed=True, message=f"{name} {what} can be used"))
        return found


class Allocator:
    """Settles on a VMID and an address, going on to the next whenever one proves to be taken.

    ``handed`` are the addresses of a guest whose place the new one takes, the best first: it answers there still.
    """

    def __init__(
        self,
        api: Api,
        wanted: Wanted,
        cluster: Cluster,
        taken: TakenAddresses,
        handed: Sequence[IPv4Address] = (),
    ) -> None:
        self._api = api
        self._wanted = wanted
        self._taken = taken
        self._owners = {int(r["vmid"]): str(r.get("name") or "a guest without a name yet") for r in cluster.guests}
        self._answering: set[IPv4Address] = set()
        self._handed = handed
        self._unused: set[IPv4Address] = set(handed)
        self._departed: dict[IPv4Address, frozenset[str]] = {}
        self.warnings: list[str] = []

    def foresee(self, held: Held) -> tuple[Choice, list[Check]]:
        """What would be chosen, with nothing written anywhere; VMID 0 is one that could not be found."""
        vmid, checks = self._foresee_vmid(held)
        try:
            address = self._choose_address(held, vmid)
            while not self._address_is_free(address):
                address = self._choose_address(held, vmid)
        except (AllocationError, PreflightError) as e:
            return Choice(vmid, None), [*checks, Check("address", passed=False, message=str(e))]
        if address is not None:
            checks.append(Check("address", passed=True, message=f"address {address} is free"))
        return Choice(vmid, address), checks

    def _foresee_vmid(self, held: Held) -> tuple[int, list[Check]]:
        wish = self._wanted.vmid
        if wish in self._owners:
            return wish or 0, []  # whose it is was found where the guest was looked for
        try:
            vmid = self._choose_vmid(held)
            while not vmid_is_free(self._api, vmid):
                self.vmid_taken(vmid)
                vmid = self._choose_vmid(held)
        except (AllocationError, PreflightError) as e:
            return wish or 0, [Check("vmid", passed=False, message=str(e))]
        return vmid, [Check("vmid", passed=True, message=f"VMID {vmid} is free")]

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
        more = [network.ip.ip for network in self._wanted.more_networks if isinstance(network.ip, IPv4Interface)]
        return Choice(vmid, self._choose_address(held, vmid), tuple(more))

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
        for other in self._wanted.more_networks:
            owner = self._owner(held, other.ip.ip) if isinstance(other.ip, IPv4Interface) else None
            if owner:
                raise PreflightError(f"{other.ip} belongs to {owner}: choose another {other.label}.ip")
        if isinstance(network.ip, IPv4Interface):
            return self._wished_address(held, network.ip.ip)
        if network.ip != "auto" or network.pool is None:
            return None
        taken = self._taken.owners.keys() | held.addresses.keys() | self._answering
        own = {a for a, q in held.quarantined.items() if self._wanted.name in q.names}
        for address in (*self._handed, *sorted(own)):
            if network.pool.usable(address) and address not in taken:
                return address  # made again: clients may still know the guest by it
        # An address numbered like the VMID is easy to remember, where the pool has it.
        resting = {a: q.until for a, q in held.quarantined.items() if a not in own}
        return next_address(network.pool, taken, resting=resting, hint=vmid)

    def _wished_address(self, held: Held, address: IPv4Address) -> IPv4Address:
        owner = self._owner(held, address)
        if owner:
            label = self._wanted.network.label
            raise PreflightError(f"{address} belongs to {owner}: choose another {label}.ip, or auto")
        before, name = held.quarantined.get(address), self._wanted.name
        if before is not None and name not in before.names:
            self.warnings.append(
                f"{address} belonged to {' and '.join(sorted(before.names))} until lately and is in quarantine until"
                f" {before.until:%Y-%m-%d %H:%M:%S} UTC: others may still take {name} for it."
            )
        return address

    def _owner(self, held: Held, address: IPv4Address) -> str | None:
        return self._taken.owners.get(address) or held.addresses.get(address)

    def _address_is_free(self, address: IPv4Address | None) -> bool:
        departed = self._taken.departed | self._departed.get(address, frozenset()) if address else ()
        fixed = isinstance(self._wanted.network.ip, IPv4Interface)
        if address is None or address in self._unused:
            return True
        if not is_used(address, departed, patience=_ARP_SECONDS if fixed else 0.0):
            self._unused.add(address)
            return True
        if fixed:
            raise PreflightError(
                f"{address} is in use on the network, although no guest known here has it:"
                f" choose another {self._wanted.network.label}.ip, or auto"
            )
        self._answering.add(address)
        return False
