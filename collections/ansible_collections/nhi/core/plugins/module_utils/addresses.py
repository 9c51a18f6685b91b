# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of a guest: from its configuration, from its agent, from the interfaces of its container."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_NET = re.compile(r"net(\d+)")
# Interfaces that software inside the guest makes for itself; nobody outside can reach the guest there.
_INTERNAL = re.compile(r"lo$|docker|br-|veth|virbr|cni|flannel|cali|podman|tailscale|wg|tun|tap|lxdbr|lxcbr")
# Not all of 127.0.0.0/8: a lab that has no network of its own may keep its guests there.
_LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Nic:
    """One ``netN`` of a guest with the static addresses its configuration gives it."""

    index: int
    interface: str
    mac: str | None
    bridge: str | None
    ip: str | None
    ip6: str | None

    @property
    def dynamic(self) -> bool:
        """Whether only the running guest knows the address."""
        return self.ip == "dhcp" or not any(_parse(value) for value in (self.ip, self.ip6))


def parse_properties(text: str, default_key: str = "") -> dict[str, str]:
    """A Proxmox property string such as ``name=eth0,bridge=vmbr0``; a value without a key gets the default one."""
    pairs: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = item.strip().partition("=")
        if not equals:
            key, value = default_key, key
        if key and value:
            pairs[key] = value
    return pairs


def guest_nics(kind: str, config: Mapping[str, Any]) -> list[Nic]:
    """The network interfaces a configuration declares, in the order of their numbers."""
    numbers = sorted(int(match[1]) for key in config if (match := _NET.fullmatch(key)))
    parse = _lxc_nic if kind == "lxc" else _qemu_nic
    return [parse(number, config) for number in numbers]


def _lxc_nic(number: int, config: Mapping[str, Any]) -> Nic:
    net = parse_properties(str(config[f"net{number}"]))
    return Nic(
        index=number,
        interface=net.get("name", f"eth{number}"),
        mac=_mac(net.get("hwaddr")),
        bridge=net.get("bridge"),
        ip=net.get("ip"),
        ip6=net.get("ip6"),
    )


def _qemu_nic(number: int, config: Mapping[str, Any]) -> Nic:
    net = parse_properties(str(config[f"net{number}"]), "model")
    cloud_init = parse_properties(str(config.get(f"ipconfig{number}", "")))
    # The first property is the model, whose value is the MAC: virtio=BC:24:11:00:00:01.
    mac = next((_mac(value) for key, value in net.items() if key != "bridge" and _mac(value)), None)
    return Nic(
        index=number,
        interface=f"net{number}",
        mac=mac,
        bridge=net.get("bridge"),
        ip=cloud_init.get("ip"),
        ip6=cloud_init.get("ip6"),
    )


def has_agent(config: Mapping[str, Any]) -> bool:
    """Whether a QEMU configuration says that a guest agent is installed (``agent: 1`` or ``enabled=1,...``)."""
    return parse_properties(str(config.get("agent", "")), "enabled").get("enabled") in ("1", "on", "yes", "true")


def needs_live_addresses(nics: Sequence[Nic]) -> bool:
    """Whether the configuration leaves an interface whose address only the running guest knows."""
    return any(nic.dynamic for nic in nics)


def config_addresses(nics: Iterable[Nic]) -> list[dict[str, Any]]:
    """Address records of everything that is static."""
    return [
        _record(parsed, nic.interface, nic.mac, "config")
        for nic in nics
        for value in (nic.ip, nic.ip6)
        if (parsed := _parse(value))
    ]


def interface_addresses(items: Iterable[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Address records of an answer of ``lxc/{id}/interfaces`` (None when the container is stopped)."""
    records: list[dict[str, Any]] = []
    for item in items or ():
        interface, mac = str(item.get("name", "")), _mac(item.get("hardware-address") or item.get("hwaddr"))
        # Releases before 8.4 have inet and inet6 only, with one address each.
        listed: list[Any] = [_agent_cidr(entry) for entry in item.get("ip-addresses") or ()]
        values = listed or [item.get("inet"), item.get("inet6")]
        records.extend(_records(values, interface, mac, "interfaces"))
    return records


def agent_addresses(answer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Address records of an answer of ``agent/network-get-interfaces``."""
    result = (answer or {}).get("result")
    records: list[dict[str, Any]] = []
    # An agent that can not answer puts {"error": ...} where the list of interfaces belongs.
    for item in result if isinstance(result, list) else ():
        interface, mac = str(item.get("name", "")), _mac(item.get("hardware-address"))
        values = [_agent_cidr(entry) for entry in item.get("ip-addresses") or ()]
        records.extend(_records(values, interface, mac, "agent"))
    return records


def merge_addresses(*sources: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record per address, the earlier source wins; sorted by family, interface and number."""
    merged: dict[str, dict[str, Any]] = {}
    for source in sources:
        for record in source:
            merged.setdefault(record["address"], record)
    return sorted(
        merged.values(),
        key=lambda r: (r["family"], r["interface"] or "", int(ipaddress.ip_address(r["address"]))),
    )


def primary_address(records: Sequence[Mapping[str, Any]], nics: Sequence[Nic]) -> str | None:
    """Where to reach the guest: IPv4 before IPv6, the configured interfaces in their order before all others."""
    place = {nic.mac: nic.index for nic in nics if nic.mac}
    names = {nic.interface: nic.index for nic in nics}

    def rank(record: Mapping[str, Any]) -> tuple[bool, int, str, int]:
        index = place.get(record["mac"], names.get(record["interface"], len(nics) + 1000))
        return (
            record["family"] != "ipv4",
            index,
            record["interface"] or "",
            int(ipaddress.ip_address(record["address"])),
        )

    return min(records, key=rank)["address"] if records else None


def _records(values: Iterable[Any], interface: str, mac: str | None, source: str) -> list[dict[str, Any]]:
    parsed = (_parse(value) for value in values)
    return [_record(item, interface, mac, source) for item in parsed if item and _reachable(item, interface)]


def _reachable(parsed: ipaddress.IPv4Interface | ipaddress.IPv6Interface, interface: str) -> bool:
    ip = parsed.ip
    return not (str(ip) in _LOOPBACK or ip.is_link_local or ip.is_unspecified or _INTERNAL.match(interface))


def _agent_cidr(entry: Mapping[str, Any]) -> str:
    address, prefix = str(entry.get("ip-address", "")).partition("%")[0], entry.get("prefix")
    return f"{address}/{prefix}" if prefix is not None else address


def _parse(value: Any) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    """The address in a CIDR text; None for dhcp, auto, manual and anything that is none."""
    # The zone behind a percent sign may be any text, which would go into inventories and the command line of ssh.
    if not value or value in ("dhcp", "auto", "manual") or "%" in str(value):
        return None
    try:
        return ipaddress.ip_interface(str(value))
    except ValueError:
        return None


def _mac(value: Any) -> str | None:
    text = str(value or "").upper()
    return text if re.fullmatch(r"(?:[0-9A-F]{2}:){5}[0-9A-F]{2}", text) else None


def _record(
    parsed: ipaddress.IPv4Interface | ipaddress.IPv6Interface, interface: str, mac: str | None, source: str
) -> dict[str, Any]:
    return {
        "address": str(parsed.ip),
        "prefix": parsed.network.prefixlen,
        "family": f"ipv{parsed.version}",
        "interface": interface,
        "mac": mac,
        "source": source,
    }
