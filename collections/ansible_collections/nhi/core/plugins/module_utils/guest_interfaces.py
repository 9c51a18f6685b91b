# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interfaces of guests as Proxmox VE writes them: ``netN`` of both kinds, and ``ipconfigN`` of machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, ip_interface
from typing import Any

from .addresses import parse_properties
from .guest_config import Drift, Placement, flag, format_properties
from .guest_network import WantedNetwork
from .guest_spec import DEFAULT_BRIDGE, LXC, Wanted

_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_NET = re.compile(r"net(\d+)")
_NUMBERS = ("tag", "mtu", "rate")
_ADDRESSES = {"ip": "ip", "gateway": "gw", "ip6": "ip6", "gateway6": "gw6"}


@dataclass
class Interface:
    """One interface. ``link`` has a machine's card as ``model`` and ``hwaddr``; a container has all in one dict."""

    kind: str
    number: int
    link: dict[str, str]
    address: dict[str, str]

    @classmethod
    def read(cls, kind: str, number: int, config: Mapping[str, Any]) -> Interface:
        """An interface of a configuration, empty where it has none."""
        text = str(config.get(f"net{number}") or "")
        if kind == LXC:
            net = parse_properties(text)
            return cls(kind, number, net, net)
        return cls(kind, number, _card(text), parse_properties(str(config.get(f"ipconfig{number}") or "")))

    @classmethod
    def new(cls, kind: str, number: int, config: Mapping[str, Any]) -> Interface:
        """An interface that a guest does not have yet."""
        link = {"name": _free_name(number, config)} if kind == LXC else {"model": "virtio"}
        link["bridge"] = DEFAULT_BRIDGE
        return cls(kind, number, link, link if kind == LXC else {})

    def options(self) -> dict[str, str]:
        """As options of the configuration; an empty one has to be deleted."""
        if self.kind == LXC:
            return {f"net{self.number}": format_properties(self.link)}
        rest = {k: v for k, v in self.link.items() if k not in ("model", "hwaddr")}
        model, mac = self.link.get("model", "virtio"), self.link.get("hwaddr")
        card = {model: mac, **rest} if mac else {"model": model, **rest}
        return {
            f"net{self.number}": format_properties(card, "model"),
            f"ipconfig{self.number}": format_properties(self.address),
        }

    def words(self) -> dict[str, Any]:
        """In the operator's words; what is not there is None."""
        link: dict[str, Any] = {
            "bridge": self.link.get("bridge"),
            "mac": (self.link.get("hwaddr") or "").upper() or None,
        }
        link |= {key: _number(self.link.get(key)) for key in _NUMBERS}
        link["firewall"] = flag(self.link.get("firewall"))
        return link | {word: _plain(self.address.get(key)) for word, key in _ADDRESSES.items()}

    def forget_identity(self) -> None:
        """Drop what may exist once only: the MAC address and fixed addresses. Proxmox VE makes a new MAC address."""
        self.link.pop("hwaddr", None)
        for key, gateway in (("ip", "gw"), ("ip6", "gw6")):
            if "/" in self.address.get(key, ""):
                del self.address[key]
                self.address.pop(gateway, None)

    def want(self, wish: WantedNetwork, fixed: IPv4Interface | None = None) -> None:
        """Make it what was asked for; what was not asked for stays. ``fixed`` is the address chosen for "auto"."""
        have = self.words()
        if wish.bridge:
            self.link["bridge"] = wish.bridge
        if wish.mac and wish.mac != have["mac"]:
            self.link["hwaddr"] = wish.mac
        for key in _NUMBERS:
            value = getattr(wish, key)
            if value is not None and value != (have[key] or 0):
                self.link[key] = f"{value:g}"
            if value == 0:
                self.link.pop(key, None)
        if wish.firewall is not None and wish.firewall != have["firewall"]:
            self.link["firewall"] = str(int(wish.firewall))
        ip = fixed if wish.ip == "auto" else wish.ip
        self._want_address("ip", "gw", None if ip is None else str(ip), wish.gateway)
        self._want_address("ip6", "gw6", None if wish.ip6 is None else str(wish.ip6), wish.gateway6)

    def _want_address(self, key: str, gateway_key: str, wish: str | None, gateway: str | None) -> None:
        have = _plain(self.address.get(key))
        if wish == "manual" and have is not None:
            self.address.pop(key)
        elif wish not in (None, "manual") and wish != have:
            self.address[key] = str(wish)
        if "/" not in self.address.get(key, ""):
            if wish is not None:
                self.address.pop(gateway_key, None)
        elif gateway and _plain(self.address.get(gateway_key)) != gateway:
            self.address[gateway_key] = gateway

    def want_new(self, wish: WantedNetwork, fixed: IPv4Interface | None = None) -> None:
        """Like ``want``, and by DHCP where nothing was said of addresses."""
        self.want(wish, fixed)
        if wish.ip is None and wish.ip6 is None and "ip" not in self.address:
            self.address["ip"] = "dhcp"


def new_interfaces(wanted: Wanted, place: Placement, kind: str) -> dict[str, str]:
    """Options of a new guest for all its interfaces."""
    found: dict[str, str] = {}
    for number, wish in enumerate(wanted.networks):
        interface = Interface.new(kind, number, {})
        interface.want_new(wish, place.addresses.get(number))
        found |= {option: text for option, text in interface.options().items() if text}
    return found


def clone_interfaces(wanted: Wanted, place: Placement, config: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Options that make a clone's interfaces its own, also those that nobody asked about; empty ones: delete."""
    found: dict[str, str] = {}
    for number in sorted({*_numbers(config), *range(len(wanted.networks))}):
        present = f"net{number}" in config
        interface = Interface.read(kind, number, config) if present else Interface.new(kind, number, config)
        interface.forget_identity()
        if number < len(wanted.networks):
            interface.want_new(wanted.networks[number], place.addresses.get(number))
        found |= {option: text for option, text in interface.options().items() if text or option in config}
    return found


def compare_interfaces(found: Drift, wanted: Wanted, config: Mapping[str, Any], kind: str) -> None:
    """What differs in the interfaces that were asked for; others are left alone."""
    for number, wish in enumerate(wanted.networks):
        if f"net{number}" not in config:
            if number or wish != WantedNetwork(label=wish.label, pool=wish.pool):
                _add(found, Interface.new(kind, number, config), wish)
            continue
        interface = Interface.read(kind, number, config)
        words, options = interface.words(), interface.options()
        # An address that "auto" once chose is kept.
        interface.want(wish)
        for word, after in interface.words().items():
            if after != words[word]:
                late = kind != LXC and word in _ADDRESSES
                option = f"{'ipconfig' if late else 'net'}{number}"
                found.note(f"{wish.label}.{word}", words[word], after, restart=late, option=option)
        _write(found, config, {o: t for o, t in interface.options().items() if t != options[o]})


def _add(found: Drift, interface: Interface, wish: WantedNetwork) -> None:
    interface.want_new(wish)
    found.note(wish.label, None, ", ".join(filter(None, interface.options().values())))
    _write(found, {}, interface.options())


def _write(found: Drift, config: Mapping[str, Any], options: Mapping[str, str]) -> None:
    found.set.update({option: text for option, text in options.items() if text})
    found.delete += [option for option, text in options.items() if not text and option in config]


def interface_facts(config: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """All interfaces of a configuration in the operator's words."""
    return [{"index": n, **Interface.read(kind, n, config).words()} for n in _numbers(config)]


def bridges_of(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Bridge and VLAN tag (0: none) of every interface of a configuration."""
    nets = (parse_properties(str(config[f"net{n}"]), "model") for n in _numbers(config))
    return [(net["bridge"], int(net.get("tag") or 0)) for net in nets if "bridge" in net]


def _numbers(config: Mapping[str, Any]) -> list[int]:
    return sorted(int(match[1]) for key in config if (match := _NET.fullmatch(key)))


def _card(text: str) -> dict[str, str]:
    """``virtio=BC:24:..,bridge=vmbr0`` and the other spellings with the keys ``model`` and ``hwaddr``."""
    net = parse_properties(text, "model")
    named = next((k for k, v in net.items() if k != "macaddr" and _MAC.fullmatch(v)), None)
    model = net.pop("model", None) or named or "virtio"
    mac = net.pop("macaddr", None) or (net.pop(named, None) if named else None)
    return {"model": model, **({"hwaddr": mac} if mac else {}), **net}


def _free_name(number: int, config: Mapping[str, Any]) -> str:
    """A name that no interface of the container has; usually ethN for netN."""
    taken = {parse_properties(str(config[f"net{n}"])).get("name") for n in _numbers(config)}
    names: Iterable[str] = (f"eth{n}" for n in (number, *range(len(taken) + 1)))
    return next(name for name in names if name not in taken)


def _number(text: str | None) -> float | int | None:
    if not text:
        return None
    value = float(text)
    return int(value) if value.is_integer() else value


def _plain(text: str | None) -> str | None:
    """An address in its usual spelling, so that two spellings of one address do not differ; no address is None."""
    if not text or text == "manual":
        return None
    try:
        return str(ip_interface(text)) if "/" in text else text
    except ValueError:
        return text
