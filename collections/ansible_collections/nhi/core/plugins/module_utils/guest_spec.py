# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody wants of a guest, checked before anybody is asked; None always means: leave it as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .allocation import parse_vmid_range
from .errors import PreflightError
from .guest_extras import NESTING, Startup, Volume, parse_features, parse_startup, parse_volumes
from .guest_network import WantedNetwork, check_nameserver, parse_networks

LXC, QEMU = "lxc", "qemu"
KINDS = {LXC: "LXC", QEMU: "VM"}
DEFAULT_BRIDGE = "vmbr0"
# In the description of every guest that was made here: which operation made it. It is what undoing trusts.
MARKER = "nhi: "
_FROM = " from "
# Attributes of Wanted that one kind of guest has, with the names of their options.
_OF_MACHINES = {"ciuser": "ciuser", "cipassword": "cipassword", "cpu": "cpu", "balloon_mib": "balloon"}
_OF_CONTAINERS = {"swap_mib": "swap", "timezone": "timezone", "features": "features", "volumes": "mount_volumes"}
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?: [A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)*")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")
_CPU = re.compile(r"[A-Za-z0-9_.-]+(?:,[a-z-]+=[^,\s]+)*")
_SNAPSHOT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
_LONGEST_LABEL = 63
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_TAG = re.compile(r"[a-z0-9_][a-z0-9_.+-]*")


@dataclass(frozen=True)
class Wanted:
    """A guest as the operator asked for it."""

    name: str
    state: str = "present"
    type: str | None = None
    template: str | None = None
    clone: str | None = None
    snapname: str | None = None
    full: bool | None = None
    vmid: int | None = None
    vmids: range = range(105, 1000)
    node: str | None = None
    cores: int | None = None
    memory_mib: int | None = None
    disk_gib: int | None = None
    storage: str | None = None
    network: WantedNetwork = field(default_factory=WantedNetwork)  # the first interface
    more_networks: tuple[WantedNetwork, ...] = ()
    nameserver: str | None = None
    searchdomain: str | None = None
    tags: tuple[str, ...] | None = None
    purpose: str | None = None
    pool: str | None = None
    ssh_public_keys: tuple[str, ...] = ()
    ciuser: str | None = None
    cipassword: str | None = field(default=None, repr=False)
    protection: bool | None = None
    onboot: bool | None = None
    description: str | None = None
    unprivileged: bool | None = None
    nesting: bool | None = None
    features: Mapping[str, str] = field(default_factory=dict)  # all but nesting
    startup: Startup = field(default_factory=Startup)
    swap_mib: int | None = None
    timezone: str | None = None
    volumes: tuple[Volume, ...] = ()
    cpu: str | None = None
    balloon_mib: int | None = None

    @property
    def networks(self) -> tuple[WantedNetwork, ...]:
        """All interfaces; the place of one is its number."""
        return (self.network, *self.more_networks)

    @property
    def source(self) -> str | None:
        """The guest to clone, if one is named; ``template`` names one for a machine."""
        return self.clone or (self.template if self.type == QEMU else None)

    def require_kind(self, kind: str) -> None:
        """PreflightError for options that guests of this kind do not have."""
        foreign = _OF_MACHINES if kind == LXC else _OF_CONTAINERS
        given = [option for attribute, option in foreign.items() if getattr(self, attribute) not in (None, (), {})]
        if given:
            other = "virtual machines (type qemu)" if kind == LXC else "containers (type lxc)"
            raise PreflightError(
                f"{', '.join(given)}: only {other} have {'that' if len(given) == 1 else 'those'}, and {self.name} is"
                f" of type {kind}: leave {'it' if len(given) == 1 else 'them'} out, or correct type"
            )

    @property
    def creates(self) -> bool:
        """Whether a missing guest is made."""
        return self.state in ("present", "started")

    def all_tags(self, present: Iterable[str] = ()) -> tuple[str, ...] | None:
        """The tags the guest should have, with the one of its purpose; None: leave them."""
        if self.tags is None and self.purpose is None:
            return None
        tags = set(present if self.tags is None else self.tags)
        if self.purpose is not None:
            tags = {t for t in tags if not t.startswith("purpose-")} | {f"purpose-{self.purpose}"}
        return tuple(sorted(tags))


def wanted_from_params(params: Mapping[str, Any]) -> Wanted:
    """The options of nhi_vm as a Wanted; PreflightError names the first option that can not be meant."""
    name = guest_name(params["name"])
    for option, least in (("cores", 1), ("memory", 16), ("disk", 1), ("vmid", 100), ("swap", 0), ("balloon", 0)):
        if params.get(option) is not None and params[option] < least:
            raise PreflightError(f"{option} {params[option]} is too small for {name}: the least is {least}")
    purpose, tags = params.get("purpose"), params.get("tags")
    network, *more_networks = parse_networks(params)
    nesting, features = _features(params)
    _check_clone(params)
    return Wanted(
        name=name,
        state=params["state"],
        type=params.get("type"),
        template=params.get("template"),
        vmid=params.get("vmid"),
        vmids=parse_vmid_range(params["vmid_range"]),
        node=params.get("node"),
        cores=params.get("cores"),
        memory_mib=params.get("memory"),
        disk_gib=params.get("disk"),
        storage=params.get("storage"),
        clone=params.get("clone"),
        snapname=params.get("snapname"),
        full=params.get("full"),
        network=network,
        more_networks=tuple(more_networks),
        nameserver=_nameserver(params, network),
        searchdomain=_checked(params, "searchdomain", _DOMAIN, "a DNS domain, such as example.org"),
        tags=None if tags is None else tuple(sorted({tag(t) for t in tags})),
        purpose=None if purpose is None else tag(purpose),
        pool=params.get("pool"),
        ssh_public_keys=tuple(_keys(params.get("ssh_public_keys") or ())),
        ciuser=params.get("ciuser"),
        cipassword=params.get("cipassword"),
        protection=params.get("protection"),
        onboot=params.get("onboot"),
        description=None if params.get("description") is None else _description(params["description"]),
        unprivileged=params.get("unprivileged"),
        nesting=nesting,
        features=features,
        startup=parse_startup(params.get("startup")),
        swap_mib=params.get("swap"),
        timezone=_checked(params, "timezone", _ZONE, "a time zone, such as Europe/Berlin, or host"),
        volumes=parse_volumes(params.get("mount_volumes")),
        cpu=_checked(params, "cpu", _CPU, "a CPU type, such as host or x86-64-v2-AES"),
        balloon_mib=params.get("balloon"),
    )


def guest_name(text: str) -> str:
    """A name Proxmox VE and DNS both accept."""
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise PreflightError(f"'{text}' can not name a guest: use letters, digits and hyphens, as in a host name")
    return text


def tag(text: str) -> str:
    """One tag as Proxmox VE keeps it: lower case."""
    lowered = text.strip().lower()
    if not _TAG.fullmatch(lowered):
        raise PreflightError(f"'{text}' is not a tag: use letters, digits, and _ . + - after the first character")
    return lowered


def split_tags(text: str | None) -> tuple[str, ...]:
    """The tags of an API answer, which separates them by semicolons (older ones by commas or spaces)."""
    return tuple(sorted({t for t in re.split(r"[;, ]+", text or "") if t}))


def with_marker(text: str | None, operation: str | None, origin: str | None = None) -> str:
    """A description that also says which operation made the guest, and from what if that is known."""
    lines = [text] if text else []
    if operation:
        lines.append(MARKER + operation + (f"{_FROM}{origin}" if origin else ""))
    return "\n\n".join(lines)


def split_marker(description: str | None) -> tuple[str, str | None]:
    """A description without our line, and the operation that line names."""
    text, line = _without_mark(description)
    return text, line.partition(_FROM)[0].strip() or None


def origin_of(description: str | None) -> str | None:
    """What a guest was made from, as our line in its description says: a template, or a guest that was cloned."""
    return _without_mark(description)[1].partition(_FROM)[2].strip() or None


def _without_mark(description: str | None) -> tuple[str, str]:
    lines = (description or "").rstrip().splitlines()
    line = lines.pop().removeprefix(MARKER) if lines and lines[-1].startswith(MARKER) else ""
    return "\n".join(lines).strip(), line


def aside_name(name: str, vmid: int) -> str:
    """How a guest is called while another one takes its place; with its VMID, so that no other is called so."""
    head, dot, domain = name.partition(".")
    suffix = f"-replaced-{vmid}"
    return head[: _LONGEST_LABEL - len(suffix)].rstrip("-") + suffix + dot + domain


def _description(text: str) -> str:
    plain, operation = split_marker(text)
    if operation:
        raise PreflightError(
            f"the description ends with a line '{MARKER}...', which is kept for our own mark: remove it"
        )
    return plain


def _keys(texts: Iterable[str]) -> Iterable[str]:
    for key in (line.strip() for text in texts for line in text.splitlines()):
        if not key:
            continue
        if len(key.split()) < 2:
            raise PreflightError(f"'{key[:40]}' is not an SSH public key: give lines as in authorized_keys, one each")
        yield key


def _checked(params: Mapping[str, Any], option: str, shape: re.Pattern[str], what: str) -> str | None:
    value = params.get(option)
    if value is not None and not shape.fullmatch(value):
        raise PreflightError(f"{option} '{value}' is not {what}: correct it")
    return None if value is None else str(value)


def _nameserver(params: Mapping[str, Any], network: WantedNetwork) -> str | None:
    wanted = check_nameserver(params.get("nameserver"), "nameserver")
    if wanted is not None and network.nameserver is not None and wanted != network.nameserver:
        raise PreflightError(
            f"nameserver is {wanted}, but {network.label}.nameserver is {network.nameserver}: give one of them"
        )
    return wanted if wanted is not None else network.nameserver


def _features(params: Mapping[str, Any]) -> tuple[bool | None, dict[str, str]]:
    """Nesting, which has an option of its own, and the other features."""
    features, nesting = parse_features(params.get("features")), params.get("nesting")
    listed = features.pop(NESTING, None)
    if listed is None:
        return nesting, features
    if nesting is not None and nesting != (listed != "0"):
        raise PreflightError(f"nesting is {nesting}, but features say {NESTING}={listed}: give one of them")
    return listed != "0", features


def _check_clone(params: Mapping[str, Any]) -> None:
    snapname = params.get("snapname")
    if params.get("clone") is None:
        if snapname is not None:
            raise PreflightError(f"snapname {snapname} says what to clone, but clone does not say of which guest")
        if params.get("full") is False and not (params.get("template") and params.get("type") == QEMU):
            raise PreflightError("full: false says how to clone, but clone does not say which guest")
        return
    if params.get("template"):
        raise PreflightError("clone and template both say what to make the guest from: give one of them")
    if snapname is not None and (snapname == "current" or not _SNAPSHOT.fullmatch(snapname)):
        raise PreflightError(f"snapname '{snapname}' can not name a snapshot: correct it, or leave it out")
    if params.get("full") is False and params.get("storage"):
        raise PreflightError("a linked clone lies where its template lies: leave out storage, or set full: true")
