# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses where a new guest goes and with which VMID and address, before anything is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Interface
from typing import Any, TypeVar

from .addresses import Address
from .allocation import next_vmid
from .errors import AllocationError, PreflightError, ProxmoxError
from .guest import Check
from .guest_address_choice import AddressChooser, Addressee, Given
from .guest_addresses import TakenAddresses
from .guest_capacity import Ask, Overcommit
from .guest_clone import CloneSource, choose_clone_node, clone_problems, clone_warnings, read_source
from .guest_config import DEFAULT_DISK_GIB, Placement, memory_mib, root_disk
from .guest_drift import volume_text
from .guest_extras import NESTING, check_features
from .guest_nodes import fitting_nodes, without_node
from .guest_placement import check_bridge, check_pool, choose_node, choose_storage, choose_template
from .guest_reader import (
    Api,
    Cluster,
    Row,
    bridges,
    storages,
    template_volumes,
    vmid_is_free,
)
from .guest_room import Room, read_spaces
from .guest_spec import DEFAULT_BRIDGE, LXC, Wanted
from .reservations import Choice, Held

_T = TypeVar("_T")


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
    room: Room | None = None
    checks: list[Check] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def placement(self, choice: Choice, addresses: Mapping[int, IPv4Interface]) -> Placement:
        """With the VMID and the addresses that were chosen."""
        return Placement(
            node=self.node,
            vmid=choice.vmid,
            storage=self.storage,
            template=self.template,
            clone_of=self.source.vmid if self.source else None,
            clone_node=self.source.node if self.source else None,
            addresses=addresses,
            source=self.source.config if self.source else {},
            snapname=self.snapname,
            full=self.full,
        )


def choose_site(api: Api, cluster: Cluster, wanted: Wanted, limits: Overcommit) -> Site:
    """Look at everything the guest needs; a failed check says what is missing, and the site has what was found."""
    survey = _Survey(api, cluster, wanted, limits)
    survey.look()
    return survey.site


class _Survey:
    """Looks at one thing after the other and remembers what is wrong instead of stopping at it."""

    def __init__(self, api: Api, cluster: Cluster, wanted: Wanted, limits: Overcommit) -> None:
        self.site = Site()
        self._api, self._cluster, self._wanted, self._limits = api, cluster, wanted, limits
        self._space: dict[str, float] = {}  # GiB asked of each storage
        self._storages: dict[str, list[Row]] = {}  # read already, by node
        self._templates: dict[str, list[str]] = {}

    def look(self) -> None:
        wanted = self._wanted
        self.site.kind = wanted.type or LXC
        node = self._look_at_source() if wanted.source else self._look_for_new()
        if node is not None:
            rows = bridges(self._api, node)
            for bridge in dict.fromkeys(n.bridge or DEFAULT_BRIDGE for n in wanted.networks):
                self._check("bridge", partial(check_bridge, rows, bridge, node))
            self._look_for_room(node)
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
        node = self._check("node", self._choose_node)
        if node is None:
            return None
        self.site.node = node
        rows, disk = self._storages_of(node), wanted.disk_gib or DEFAULT_DISK_GIB
        content = "rootdir" if kind == LXC else "images"
        storage = self._look_for_storage(rows, wanted.storage, content, disk, node)
        self.site.storage = storage
        self._look_at_volumes(rows, storage, content, node)
        if kind == LXC:
            volumes = self._templates_of(node)
            self.site.template = self._check("template", lambda: choose_template(volumes, wanted.template, node))
        return node

    def _choose_node(self) -> str:
        """The wanted node, or the best one; the best that has the template where only its name was given."""
        wanted, candidates = self._wanted, self._candidates()
        best = choose_node(candidates, wanted.node)
        if wanted.node is not None or self.site.kind != LXC or not wanted.template or ":" in wanted.template:
            return best
        node = best
        while not self._has_template(node, wanted.template, must_answer=node == best):
            candidates = without_node(candidates, node)
            try:
                node = choose_node(candidates, None)
            except PreflightError:
                return best  # no node has it, which is said of this one
        return node

    def _has_template(self, node: str, template: str, *, must_answer: bool) -> bool:
        try:
            choose_template(self._templates_of(node), template, node)
        except PreflightError:
            return False
        except ProxmoxError:
            if must_answer:
                raise
            return False
        return True

    def _storages_of(self, node: str) -> list[Row]:
        if node not in self._storages:
            self._storages[node] = storages(self._api, node)
        return self._storages[node]

    def _templates_of(self, node: str) -> list[str]:
        if node not in self._templates:
            self._templates[node] = template_volumes(self._api, node, self._storages_of(node))
        return self._templates[node]

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
        if source and not wanted.storage and self.site.full:
            disk = root_disk(config, source.kind)
            name = str(config.get(disk[0]) or "").partition(":")[0]
            self._space[name] = max(disk[1] or 0.0, wanted.disk_gib or 0.0)
        ask = Ask(
            node,
            wanted.memory_mib or memory_mib(config),
            wanted.cores or int(config.get("cores") or 1),
            dict(sorted(self._space.items())),
            runs=wanted.state == "started",
        )
        found = self._storages_of(node) if self._space else []
        spaces = read_spaces(self._api, found, node, ask.disks_gib)
        self.site.room = Room(ask, self._cluster.rows, spaces, self._limits)

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
                found = self._storages_of(node)
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
        room: Room | None = None,
        handed: Sequence[Address] = (),
    ) -> None:
        self._api = api
        self._wanted = wanted
        self._room = room
        self._addresses = AddressChooser(Addressee(wanted.name), dict(enumerate(wanted.networks)), taken, handed)
        self._owners = {int(r["vmid"]): str(r.get("name") or "a guest without a name yet") for r in cluster.guests}

    def foresee(self, held: Held) -> tuple[Choice, list[Check]]:
        """What would be chosen, with nothing written anywhere; VMID 0 is one that could not be found."""
        vmid, checks = self._foresee_vmid(held)
        given, more = self._addresses.foresee(held, vmid)
        room = self._room.checks(held.asked) if self._room else []
        return Choice(vmid, given.four, given.six), [*checks, *more, *room]

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
            elif self._addresses.are_free(Given(dict(choice.addresses), dict(choice.six))):
                return choice

    def vmid_taken(self, vmid: int) -> None:
        """The create call said so. A VMID somebody asked for by number has no next one."""
        if self._wanted.vmid == vmid:
            raise PreflightError(
                f"VMID {vmid} is taken by a guest that is new or that this token can not see:"
                " choose another vmid, or leave it out"
            )
        self._owners[vmid] = "somebody else"

    @property
    def warnings(self) -> list[str]:
        """What to say of the addresses that were chosen."""
        return self._addresses.warnings

    def refuse_latecomers(self) -> None:
        """PreflightError when a chosen address proves to be taken by somebody who is slow to answer."""
        self._addresses.refuse_latecomers()

    def interfaces(self, choice: Choice) -> dict[int, IPv4Interface]:
        """The chosen addresses with their prefix lengths, by the number of their interface."""
        return self._addresses.interfaces(choice.addresses)

    def _choose(self, held: Held) -> Choice:
        vmid = self._choose_vmid(held)
        given = self._addresses.choose(held, vmid)
        if self._room is None:
            return Choice(vmid, given.four, given.six)
        # Others may have reserved room since this run looked.
        lacking = [c.message for c in self._room.checks(held.asked) if not c.passed]
        if lacking:
            raise PreflightError("; ".join(lacking))
        return Choice(vmid, given.four, given.six, self._room.ask)

    def _choose_vmid(self, held: Held) -> int:
        wish = self._wanted.vmid
        if wish is None:
            return next_vmid(self._wanted.vmids, self._owners.keys() | held.vmids.keys())
        if wish in held.vmids:
            raise PreflightError(
                f"VMID {wish} is being given to {held.vmids[wish]} right now: choose another vmid, or leave it out"
            )
        return wish
