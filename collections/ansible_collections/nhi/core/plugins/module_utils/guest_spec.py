# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody wants of a guest, checked before anybody is asked; None always means: leave it as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import Any

from .allocation import AddressPool, parse_address, parse_interface, parse_pool, parse_vmid_range
from .errors import PreflightError

LXC, QEMU = "lxc", "qemu"
KINDS = {LXC: "LXC", QEMU: "VM"}
DEFAULT_BRIDGE = "vmbr0"
# In the description of every guest that was made here: which operation made it. It is what undoing trusts.
MARKER = "nhi: "
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_TAG = re.compile(r"[a-z0-9_][a-z0-9_.+-]*")


@dataclass(frozen=True)
class WantedNetwork:
    """One interface. ``ip`` is an interface, "dhcp" or "auto" (from ``pool``)."""

    bridge: str | None = None
    ip: IPv4Interface | str | None = None
    pool: AddressPool | None = None
    gateway: str | None = None
    nameserver: str | None = None


@dataclass(frozen=True)
class Wanted:
    """A guest as the operator asked for it."""

    name: str
    state: str = "present"
    type: str | None = None
    template: str | None = None
    vmid: int | None = None
    vmids: range = range(105, 1000)
    node: str | None = None
    cores: int | None = None
    memory_mib: int | None = None
    disk_gib: int | None = None
    storage: str | None = None
    network: WantedNetwork = field(default_factory=WantedNetwork)
    tags: tuple[str, ...] | None = None
    purpose: str | None = None
    pool: str | None = None
    ssh_public_keys: tuple[str, ...] = ()
    ciuser: str | None = None
    protection: bool | None = None
    onboot: bool | None = None
    description: str | None = None
    unprivileged: bool | None = None
    nesting: bool | None = None

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
    for option, least in (("cores", 1), ("memory", 16), ("disk", 1), ("vmid", 100)):
        if params.get(option) is not None and params[option] < least:
            raise PreflightError(f"{option} {params[option]} is too small for {name}: the least is {least}")
    purpose, tags = params.get("purpose"), params.get("tags")
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
        network=_network(params.get("network") or {}),
        tags=None if tags is None else tuple(sorted({tag(t) for t in tags})),
        purpose=None if purpose is None else tag(purpose),
        pool=params.get("pool"),
        ssh_public_keys=tuple(_key(k) for k in params.get("ssh_public_keys") or () if k.strip()),
        ciuser=params.get("ciuser"),
        protection=params.get("protection"),
        onboot=params.get("onboot"),
        description=None if params.get("description") is None else _description(params["description"]),
        unprivileged=params.get("unprivileged"),
        nesting=params.get("nesting"),
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


def with_marker(text: str | None, operation: str | None) -> str:
    """A description that also says which operation made the guest."""
    lines = [text] if text else []
    if operation:
        lines.append(MARKER + operation)
    return "\n\n".join(lines)


def split_marker(description: str | None) -> tuple[str, str | None]:
    """A description without our line, and the operation that line names."""
    lines = (description or "").rstrip().splitlines()
    operation = None
    if lines and lines[-1].startswith(MARKER):
        operation = lines.pop().removeprefix(MARKER).strip() or None
    return "\n".join(lines).strip(), operation


def _description(text: str) -> str:
    plain, operation = split_marker(text)
    if operation:
        raise PreflightError(
            f"the description ends with a line '{MARKER}...', which is kept for our own mark: remove it"
        )
    return plain


def _key(text: str) -> str:
    key = text.strip()
    if len(key.split()) < 2 or "\n" in key:
        raise PreflightError(f"'{key[:40]}' is not an SSH public key: give lines as in authorized_keys, one each")
    return key


def _network(params: Mapping[str, Any]) -> WantedNetwork:
    prefix, gateway = params.get("prefix"), params.get("gateway")
    if prefix is not None and not 1 <= prefix <= 32:
        raise PreflightError(f"network.prefix {prefix} is not a prefix length: use a number from 1 to 32")
    pool = parse_pool(params["range"], prefix, gateway) if params.get("range") else None
    ip: IPv4Interface | str | None = params.get("ip") or ("auto" if pool else None)
    if ip == "auto" and pool is None:
        raise PreflightError("network.ip is auto, but network.range does not say from which addresses: set it")
    if isinstance(ip, str) and ip not in ("auto", "dhcp"):
        ip = parse_interface(ip, prefix if prefix is not None or pool is None else pool.network.prefixlen)
    if gateway:
        _check_gateway(gateway, ip, pool)
    for server in (params.get("nameserver") or "").split():
        parse_address(server, "network.nameserver")
    return WantedNetwork(params.get("bridge"), ip, pool, gateway, params.get("nameserver"))


def _check_gateway(gateway: str, ip: IPv4Interface | str | None, pool: AddressPool | None) -> None:
    address = parse_address(gateway, "network.gateway")
    network = ip.network if isinstance(ip, IPv4Interface) else (pool.network if pool and ip == "auto" else None)
    if network is None:
        raise PreflightError(
            f"network.gateway {gateway} needs a fixed address beside it: set network.ip, or leave the gateway to DHCP"
        )
    if address not in network:
        raise PreflightError(f"network.gateway {gateway} is not in {network}: the guest could not reach it")
    if isinstance(ip, IPv4Interface) and ip.ip == address:
        raise PreflightError(f"network.ip {ip.ip} is the gateway's own address: choose another one")
