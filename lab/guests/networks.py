"""Network options of guests: `netN` of both kinds, and `ipconfigN` of machines."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator

from lab.drivers.base import Nic
from lab.model import Config
from lab.server.properties import Properties, join, loose

MAC_PREFIX = "BC:24:11"
_QEMU_MODEL = re.compile(r"(virtio|e1000e?|e1000-\w+|i825\w+|ne2k_\w+|pcnet|rtl8139|vmxnet3)")


def new_mac() -> str:
    tail = secrets.token_bytes(3)
    return f"{MAC_PREFIX}:{tail[0]:02X}:{tail[1]:02X}:{tail[2]:02X}"


def net_options(config: Config) -> Iterator[tuple[int, str, str]]:
    """(number, option, value) of every netN in order."""
    found = (
        (int(option[3:]), option, str(value)) for option, value in config.items() if re.fullmatch(r"net\d+", option)
    )
    return iter(sorted(found))


def parse(kind: str, value: str) -> Properties:
    """netN with the same keys for both kinds: `hwaddr` for the address, `model` for a machine's card."""
    parts = loose(value, "model")
    if kind == "lxc":
        return parts
    for key in list(parts):
        if _QEMU_MODEL.fullmatch(key) and key != "model":
            parts["model"], parts["hwaddr"] = key, parts.pop(key)
    if "macaddr" in parts:
        parts["hwaddr"] = parts.pop("macaddr")
    return parts


def complete(kind: str, value: str, *, fresh_mac: bool = False) -> str:
    """netN as it is written down: with a hardware address, keys in order."""
    parts = parse(kind, value)
    if fresh_mac or not parts.get("hwaddr"):
        parts["hwaddr"] = new_mac()
    parts["hwaddr"] = parts["hwaddr"].upper()
    if kind == "lxc":
        parts.setdefault("type", "veth")
        first = {"name": parts.pop("name")}
    else:
        first = {parts.pop("model"): parts.pop("hwaddr")}
    return join({**first, **dict(sorted(parts.items()))})


def bridges(config: Config) -> list[tuple[str, str]]:
    """(bridge, VLAN tag or empty) of every interface that has a bridge."""
    parts = (loose(value, "model") for _, _, value in net_options(config))
    return [(part["bridge"], part.get("tag", "")) for part in parts if "bridge" in part]


def nics(kind: str, config: Config) -> tuple[Nic, ...]:
    """What the driver is told about the interfaces."""
    return tuple(_nic(kind, number, value, config) for number, _, value in net_options(config))


def _nic(kind: str, number: int, value: str, config: Config) -> Nic:
    parts = parse(kind, value)
    addressing = parts if kind == "lxc" else loose(str(config.get(f"ipconfig{number}", "ip=dhcp")))
    return Nic(
        name=parts.get("name") or f"eth{number}",
        mac=parts.get("hwaddr", "").upper(),
        bridge=parts.get("bridge", ""),
        address=addressing.get("ip", ""),
        gateway=addressing.get("gw", ""),
        address6=addressing.get("ip6", ""),
        gateway6=addressing.get("gw6", ""),
    )
