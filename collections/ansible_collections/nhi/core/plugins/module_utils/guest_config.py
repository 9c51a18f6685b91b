# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration language of Proxmox VE: guests to parameters, and what differs from a configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import Any
from urllib.parse import quote

from .addresses import parse_properties
from .errors import PreflightError
from .guest_spec import DEFAULT_BRIDGE, LXC, Wanted, split_marker, split_tags, with_marker

DEFAULT_DISK_GIB = 4
_GIB = 1 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": _GIB, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
_DISKS = ("scsi0", "virtio0", "sata0", "ide0")


@dataclass(frozen=True)
class Placement:
    """Where a new guest goes and what it is made of; every name in it was seen on the node."""

    node: str
    vmid: int
    storage: str | None = None
    template: str | None = None  # volume id of an LXC template
    clone_of: int | None = None  # VMID of a QEMU template
    clone_node: str | None = None
    address: IPv4Interface | None = None  # None: by DHCP


@dataclass
class Drift:
    """What to change in a configuration; ``before`` and ``after`` say it in the operator's words."""

    set: dict[str, Any] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    grow: tuple[str, int] | None = None
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    needs_restart: list[str] = field(default_factory=list)

    def note(self, what: str, before: Any, after: Any, *, restart: bool = False) -> None:
        """Record one difference."""
        self.before[what], self.after[what] = before, after
        if restart:
            self.needs_restart.append(what)


def format_properties(values: Mapping[str, str], default_key: str = "") -> str:
    """The inverse of parse_properties."""
    return ",".join(value if key == default_key else f"{key}={value}" for key, value in values.items())


def size_gib(text: str) -> float | None:
    """``8G`` or ``512M`` in GiB."""
    match = _SIZE.fullmatch(text)
    return float(match[1]) * _UNITS[match[2]] / _GIB if match else None


def flag(value: Any) -> bool:
    """A boolean of the API, which comes as 1, "1", 0, "0" or not at all."""
    return str(value or 0) not in ("0", "False", "")


def memory_mib(config: Mapping[str, Any]) -> int:
    """The memory of a configuration; newer QEMU guests write ``current=2048``."""
    text = str(config.get("memory") or 512)
    return int(parse_properties(text, "current").get("current", text))


def fixed_address(config: Mapping[str, Any], kind: str) -> IPv4Interface | None:
    """The address written in the first interface of a configuration; None when DHCP or none decides."""
    text = parse_properties(str(config.get("net0" if kind == LXC else "ipconfig0") or "")).get("ip", "")
    try:
        return IPv4Interface(text) if "/" in text else None
    except ValueError:
        return None


def root_disk(config: Mapping[str, Any], kind: str) -> tuple[str, float | None]:
    """Name and size of the disk a guest boots from."""
    name = "rootfs"
    if kind != LXC:
        order = parse_properties(str(config.get("boot") or "")).get("order", "").split(";")
        candidates = [d for d in (*order, str(config.get("bootdisk") or ""), *_DISKS) if d in config]
        name = next((d for d in candidates if "media=cdrom" not in str(config[d])), "scsi0")
    return name, size_gib(parse_properties(str(config.get(name) or ""), "volume").get("size", ""))


def create_lxc(wanted: Wanted, place: Placement, operation: str) -> dict[str, Any]:
    """Parameters of ``POST /nodes/NODE/lxc``."""
    unprivileged = wanted.unprivileged is not False
    nesting = unprivileged if wanted.nesting is None else wanted.nesting
    return {
        **_common(wanted, place, operation),
        "hostname": wanted.name,
        "ostemplate": place.template,
        "rootfs": f"{place.storage}:{wanted.disk_gib or DEFAULT_DISK_GIB}",
        "net0": format_properties(
            {"name": "eth0", "bridge": wanted.network.bridge or DEFAULT_BRIDGE, **_address(wanted, place)}
        ),
        "unprivileged": int(unprivileged),
        "features": "nesting=1" if nesting else None,
        "ssh-public-keys": "\n".join(wanted.ssh_public_keys) or None,
    }


def create_qemu(wanted: Wanted, place: Placement, operation: str) -> dict[str, Any]:
    """Parameters of ``POST /nodes/NODE/qemu``: a machine with an empty disk."""
    return {
        **_common(wanted, place, operation),
        **_cloud_init(wanted, place),
        "name": wanted.name,
        "ostype": "l26",
        "agent": "1",
        "scsihw": "virtio-scsi-single",
        "scsi0": f"{place.storage}:{wanted.disk_gib or DEFAULT_DISK_GIB}",
        "boot": "order=scsi0",
        "net0": f"virtio,bridge={wanted.network.bridge or DEFAULT_BRIDGE}",
    }


def clone_qemu(wanted: Wanted, place: Placement, operation: str) -> dict[str, Any]:
    """Parameters of ``POST /nodes/NODE/qemu/TEMPLATE/clone``."""
    return {
        "newid": place.vmid,
        "name": wanted.name,
        "description": with_marker(wanted.description, operation),
        "full": 1,
        "storage": place.storage,
        "pool": wanted.pool,
        "target": place.node if place.node != place.clone_node else None,
    }


def after_clone(wanted: Wanted, place: Placement, template: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of ``PUT /nodes/NODE/qemu/VMID/config`` that make a clone what was asked for."""
    net = parse_properties(str(template.get("net0") or "virtio"), "model")
    # The template's MAC address must not appear twice; without one Proxmox VE makes a new one.
    model = net.pop("model", None) or next(iter(net))
    net.pop(model, None)
    net["bridge"] = wanted.network.bridge or net.get("bridge") or DEFAULT_BRIDGE
    common = _common(wanted, place, "")
    return {
        **{k: common[k] for k in ("cores", "memory", "tags", "onboot") if common[k] is not None},
        **_cloud_init(wanted, place),
        "net0": format_properties({"model": model, **net}, "model"),
    }


def drift(wanted: Wanted, config: Mapping[str, Any], kind: str) -> Drift:
    """What differs between a wish and a configuration, in both languages."""
    found = Drift()
    _number(found, "cores", wanted.cores, int(config.get("cores") or (0 if kind == LXC else 1)), restart=kind != LXC)
    _number(found, "memory", wanted.memory_mib, memory_mib(config), restart=kind != LXC)
    for name, value in (("onboot", wanted.onboot), ("protection", wanted.protection)):
        if value is not None and value != flag(config.get(name)):
            found.set[name] = int(value)
            found.note(name, flag(config.get(name)), value)
    _tags(found, wanted, config)
    _describe(found, wanted, config)
    _disk(found, wanted, config, kind)
    _network(found, wanted, config, kind)
    if kind == LXC:
        _container(found, wanted, config)
    return found


def _common(wanted: Wanted, place: Placement, operation: str) -> dict[str, Any]:
    tags = wanted.all_tags()
    return {
        "vmid": place.vmid,
        "cores": wanted.cores,
        "memory": wanted.memory_mib,
        "tags": ";".join(tags) if tags else None,
        "pool": wanted.pool,
        "onboot": None if wanted.onboot is None else int(wanted.onboot),
        "nameserver": wanted.network.nameserver,
        "description": with_marker(wanted.description, operation),
    }


def _address(wanted: Wanted, place: Placement) -> dict[str, str]:
    if place.address is None:
        return {"ip": "dhcp"}
    gateway = {"gw": wanted.network.gateway} if wanted.network.gateway else {}
    return {"ip": str(place.address), **gateway}


def _cloud_init(wanted: Wanted, place: Placement) -> dict[str, Any]:
    # The API wants the keys URL-encoded inside the (again encoded) form.
    keys = quote("\n".join(wanted.ssh_public_keys), safe="") or None
    found = {"ipconfig0": format_properties(_address(wanted, place)), "sshkeys": keys, "ciuser": wanted.ciuser}
    return {**found, "nameserver": wanted.network.nameserver}


def _number(found: Drift, name: str, wanted: int | None, present: int, *, restart: bool) -> None:
    if wanted is not None and wanted != present:
        found.set[name] = wanted
        found.note(name, present, wanted, restart=restart)


def _tags(found: Drift, wanted: Wanted, config: Mapping[str, Any]) -> None:
    present = split_tags(config.get("tags"))
    tags = wanted.all_tags(present)
    if tags is None or tags == present:
        return
    found.note("tags", list(present), list(tags))
    if tags:
        found.set["tags"] = ";".join(tags)
    else:
        found.delete.append("tags")


def _describe(found: Drift, wanted: Wanted, config: Mapping[str, Any]) -> None:
    present, operation = split_marker(config.get("description"))
    if wanted.description is None or wanted.description == present:
        return
    found.note("description", present, wanted.description)
    text = with_marker(wanted.description, operation)
    if text:
        found.set["description"] = text
    else:
        found.delete.append("description")


def _disk(found: Drift, wanted: Wanted, config: Mapping[str, Any], kind: str) -> None:
    name, present = root_disk(config, kind)
    if wanted.disk_gib is None or present is None or wanted.disk_gib == present:
        return
    if wanted.disk_gib < present:
        raise PreflightError(
            f"the disk {name} of {wanted.name} has {present:g} GiB and can not shrink to {wanted.disk_gib} GiB:"
            f" set disk to {present:g} or more, or make a new guest"
        )
    found.grow = (name, wanted.disk_gib)
    found.note("disk", present, wanted.disk_gib)


def _network(found: Drift, wanted: Wanted, config: Mapping[str, Any], kind: str) -> None:
    net = parse_properties(str(config.get("net0") or ""), "model")
    ip_key = "net0" if kind == LXC else "ipconfig0"
    ip = net if kind == LXC else parse_properties(str(config.get("ipconfig0") or ""))
    if wanted.network.bridge and net.get("bridge") != wanted.network.bridge:
        found.note("network.bridge", net.get("bridge"), wanted.network.bridge)
        net["bridge"] = wanted.network.bridge
        found.set["net0"] = format_properties(net if net.keys() - {"bridge"} else _new_net(kind, net), "model")
    if _readdress(found, wanted, ip, restart=kind != LXC):
        found.set[ip_key] = format_properties(ip if kind != LXC or "name" in ip else _new_net(kind, ip), "model")
    server = wanted.network.nameserver
    if server is not None and server != str(config.get("nameserver") or ""):
        found.set["nameserver"] = server
        found.note("network.nameserver", config.get("nameserver"), server, restart=True)


def _new_net(kind: str, values: Mapping[str, str]) -> dict[str, str]:
    bridge = {"bridge": values.get("bridge", DEFAULT_BRIDGE)}
    return {"name": "eth0", **values, **bridge} if kind == LXC else {"model": "virtio", **values, **bridge}


def _readdress(found: Drift, wanted: Wanted, ip: dict[str, str], *, restart: bool) -> bool:
    """Put the wanted address into the properties ``ip``; an address that "auto" once chose is kept."""
    before, changed = dict(ip), False
    if isinstance(wanted.network.ip, IPv4Interface) and ip.get("ip") != str(wanted.network.ip):
        ip["ip"], changed = str(wanted.network.ip), True
    elif wanted.network.ip == "dhcp" and ip.get("ip") != "dhcp":
        ip["ip"], changed = "dhcp", True
        ip.pop("gw", None)
    if wanted.network.gateway and ip.get("ip", "dhcp") != "dhcp" and ip.get("gw") != wanted.network.gateway:
        ip["gw"], changed = wanted.network.gateway, True
    if changed:
        for key, name in (("ip", "network.ip"), ("gw", "network.gateway")):
            if before.get(key) != ip.get(key):
                found.note(name, before.get(key), ip.get(key), restart=restart)
    return changed


def _container(found: Drift, wanted: Wanted, config: Mapping[str, Any]) -> None:
    present = flag(config.get("unprivileged"))
    if wanted.unprivileged is not None and wanted.unprivileged != present:
        raise PreflightError(
            f"{wanted.name} is {'un' if present else ''}privileged, which can not be changed:"
            f" set unprivileged to {str(present).lower()}, or make a new guest"
        )
    features = parse_properties(str(config.get("features") or ""))
    if wanted.nesting is not None and wanted.nesting != flag(features.get("nesting")):
        found.note("nesting", flag(features.get("nesting")), wanted.nesting, restart=True)
        features["nesting"] = str(int(wanted.nesting))
        found.set["features"] = format_properties(features)
