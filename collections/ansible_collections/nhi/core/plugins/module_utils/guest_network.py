# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network interfaces somebody wants for a guest, checked before anybody is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, ip_address
from typing import Any

from .allocation import AddressPool, parse_address, parse_interface, parse_pool
from .errors import PreflightError

_MAC = re.compile(r"(?:[0-9A-F]{2}:){5}[0-9A-F]{2}")
MOST_INTERFACES = 32


@dataclass(frozen=True)
class WantedNetwork:
    """One interface. ``ip`` is an interface, "dhcp", "manual" (none) or "auto" (of ``pool``); None: leave it."""

    bridge: str | None = None
    ip: IPv4Interface | str | None = None
    pool: AddressPool | None = None
    gateway: str | None = None
    nameserver: str | None = None
    ip6: IPv6Interface | str | None = None
    gateway6: str | None = None
    tag: int | None = None  # 0: no VLAN
    mtu: int | None = None
    firewall: bool | None = None
    mac: str | None = None
    rate: float | None = None
    label: str = "network"  # how messages and differences name it

    @property
    def wants_fixed(self) -> bool:
        """Whether the interface is to have an address that nobody else may have, given or still to be chosen."""
        return self.ip not in (None, "dhcp", "manual") or isinstance(self.ip6, IPv6Interface)


def parse_networks(params: Mapping[str, Any]) -> tuple[WantedNetwork, ...]:
    """The options ``network`` and ``networks``, of which one is given; the first interface is always there."""
    if params.get("networks") is None:
        return (_network(params.get("network") or {}, "network"),)
    found = tuple(_network(item, f"networks[{number}]") for number, item in enumerate(params["networks"]))
    if not found or len(found) > MOST_INTERFACES:
        raise PreflightError(f"networks has {len(found)} interfaces: a guest has 1 to {MOST_INTERFACES}")
    _refuse_what_is_for_the_first(found)
    macs = [n.mac for n in found if n.mac]
    if len(set(macs)) < len(macs):
        raise PreflightError("two of networks have the same mac: give each its own, or leave them out")
    return found


def _refuse_what_is_for_the_first(networks: Sequence[WantedNetwork]) -> None:
    for network in networks[1:]:
        if network.nameserver:
            raise PreflightError(
                f"{network.label}.nameserver: a guest has one list of DNS servers, not one an interface; set it on"
                " networks[0], or as the option nameserver"
            )
    for key in ("gateway", "gateway6"):
        having = [n.label for n in networks if getattr(n, key)]
        if len(having) > 1:
            raise PreflightError(f"{' and '.join(having)} both have a {key}: a guest has one default gateway")


def check_nameserver(text: str | None, option: str) -> str | None:
    """Addresses of DNS servers, separated by spaces or commas, as Proxmox VE keeps them."""
    if text is None:
        return None
    servers = text.replace(",", " ").split()
    for server in servers:
        try:
            ip_address(server)
        except ValueError as e:
            raise PreflightError(f"{option} '{server}' is not an IP address: DNS servers are given by address") from e
    return " ".join(servers)


def _network(params: Mapping[str, Any], label: str) -> WantedNetwork:
    prefix, gateway = params.get("prefix"), params.get("gateway")
    if prefix is not None and not 1 <= prefix <= 32:
        raise PreflightError(f"{label}.prefix {prefix} is not a prefix length: use a number from 1 to 32")
    pool = parse_pool(params["range"], prefix, gateway) if params.get("range") else None
    ip: IPv4Interface | str | None = params.get("ip") or ("auto" if pool else None)
    if ip == "auto" and pool is None:
        raise PreflightError(f"{label}.ip is auto, but {label}.range does not say from which addresses: set it")
    if isinstance(ip, str) and ip not in ("auto", "dhcp", "manual"):
        ip = parse_interface(ip, prefix if prefix is not None or pool is None else pool.network.prefixlen)
    if gateway:
        _check_gateway(gateway, ip, pool, label)
    ip6 = _ip6(params.get("ip6"), label)
    if params.get("gateway6"):
        _check_gateway6(params["gateway6"], ip6, label)
    _check_range(label, "tag", params.get("tag"), 0, 4094)
    _check_range(label, "mtu", params.get("mtu"), 576, 65520)
    _check_range(label, "rate", params.get("rate"), 0.001, 10240)
    return WantedNetwork(
        bridge=params.get("bridge"),
        ip=ip,
        pool=pool,
        gateway=gateway,
        nameserver=check_nameserver(params.get("nameserver"), f"{label}.nameserver"),
        ip6=ip6,
        gateway6=params.get("gateway6"),
        tag=params.get("tag"),
        mtu=params.get("mtu"),
        firewall=params.get("firewall"),
        mac=_mac(params.get("mac"), label),
        rate=params.get("rate"),
        label=label,
    )


def _check_range(label: str, key: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise PreflightError(f"{label}.{key} {value:g} is out of range: use a number from {least:g} to {most:g}")


def _mac(text: str | None, label: str) -> str | None:
    if text is None:
        return None
    mac = text.strip().upper().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise PreflightError(f"{label}.mac '{text}' is not a MAC address: write it as BC:24:11:00:00:01")
    if int(mac[:2], 16) & 1:
        raise PreflightError(f"{label}.mac {text} is a group address, which no card can have: choose another one")
    return mac


def _check_gateway(gateway: str, ip: IPv4Interface | str | None, pool: AddressPool | None, label: str) -> None:
    address = parse_address(gateway, f"{label}.gateway")
    network = ip.network if isinstance(ip, IPv4Interface) else (pool.network if pool and ip == "auto" else None)
    if network is None:
        raise PreflightError(
            f"{label}.gateway {gateway} needs a fixed address beside it: set {label}.ip, or leave the gateway to DHCP"
        )
    if address not in network:
        raise PreflightError(f"{label}.gateway {gateway} is not in {network}: the guest could not reach it")
    if isinstance(ip, IPv4Interface) and ip.ip == address:
        raise PreflightError(f"{label}.ip {ip.ip} is the gateway's own address: choose another one")


def _ip6(text: str | None, label: str) -> IPv6Interface | str | None:
    if text is None or text in ("auto", "dhcp", "manual"):
        return text
    if "/" not in text:
        raise PreflightError(f"{label}.ip6 {text} has no prefix length: write it as {text}/64, or auto or dhcp")
    try:
        return IPv6Interface(text)
    except ValueError as e:
        raise PreflightError(f"{label}.ip6 '{text}' is not an IPv6 address with a prefix length: {e}") from e


def _check_gateway6(gateway: str, ip6: IPv6Interface | str | None, label: str) -> None:
    try:
        address = IPv6Address(gateway)
    except ValueError as e:
        raise PreflightError(f"{label}.gateway6 '{gateway}' is not an IPv6 address: {e}") from e
    if not isinstance(ip6, IPv6Interface):
        raise PreflightError(
            f"{label}.gateway6 {gateway} needs a fixed address beside it: set {label}.ip6, or leave the gateway to"
            " the router's advertisements"
        )
    # Routers are often reached by their link-local address, which is in no other network.
    if address not in ip6.network and not address.is_link_local:
        raise PreflightError(f"{label}.gateway6 {gateway} is not in {ip6.network}: the guest could not reach it")
    if address == ip6.ip:
        raise PreflightError(f"{label}.ip6 {ip6.ip} is the gateway's own address: choose another one")
