# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wanted guest as the parameters with which Proxmox VE makes it, or makes a clone its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv6Interface
from typing import Any
from urllib.parse import quote

from .guest_config import DEFAULT_DISK_GIB, Drift, Placement, format_properties
from .guest_drift import drift, volume_text
from .guest_interfaces import clone_interfaces, new_interfaces
from .guest_network import WantedNetwork
from .guest_spec import LXC, Wanted, with_marker


def create_lxc(wanted: Wanted, place: Placement, operation: str) -> dict[str, Any]:
    """Parameters of ``POST /nodes/NODE/lxc``."""
    unprivileged = wanted.unprivileged is not False
    nesting = unprivileged if wanted.nesting is None else wanted.nesting
    return {
        **_common(wanted, place, operation),
        **new_interfaces(wanted, place, LXC),
        "hostname": wanted.name,
        "ostemplate": place.template,
        "rootfs": f"{place.storage}:{wanted.disk_gib or DEFAULT_DISK_GIB}",
        **{volume.id: volume_text(volume, place.storage) for volume in wanted.volumes},
        "swap": wanted.swap_mib,
        "timezone": wanted.timezone,
        "unprivileged": int(unprivileged),
        "features": "nesting=1" if nesting else None,
        "ssh-public-keys": "\n".join(wanted.ssh_public_keys) or None,
    }


def create_qemu(wanted: Wanted, place: Placement, operation: str) -> dict[str, Any]:
    """Parameters of ``POST /nodes/NODE/qemu``: a machine with an empty disk."""
    return {
        **_common(wanted, place, operation),
        **new_interfaces(wanted, place, "qemu"),
        **_cloud_init(wanted),
        "name": wanted.name,
        "ostype": "l26",
        "agent": "1",
        "scsihw": "virtio-scsi-single",
        "scsi0": f"{place.storage}:{wanted.disk_gib or DEFAULT_DISK_GIB}",
        "boot": "order=scsi0",
        "cpu": wanted.cpu,
        "balloon": wanted.balloon_mib,
    }


def clone_guest(wanted: Wanted, place: Placement, operation: str) -> dict[str, Any]:
    """Parameters of ``POST /nodes/NODE/TYPE/SOURCE/clone``."""
    return {
        "newid": place.vmid,
        "hostname" if wanted.type == LXC else "name": wanted.name,
        "description": with_marker(wanted.description, operation, place.origin),
        # Never left to the server, whose default is another one for templates.
        "full": int(place.full),
        "snapname": place.snapname,
        "storage": place.storage,
        "pool": wanted.pool,
        "target": place.node if place.node != place.clone_node else None,
    }


def after_clone(wanted: Wanted, place: Placement, clone: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of ``PUT config`` that make a clone what was asked for, with nothing that may exist only once."""
    kind = wanted.type or LXC
    difference = clone_drift(wanted, clone)
    interfaces = clone_interfaces(wanted, place, clone, kind)
    delete = [*difference.delete, *(option for option, text in interfaces.items() if not text)]
    if clone.get("protection"):
        delete.append("protection")
    return {
        **difference.set,
        **({} if kind == LXC else _cloud_init(wanted)),
        **{option: text for option, text in interfaces.items() if text},
        "delete": ",".join(delete) or None,
    }


def clone_drift(wanted: Wanted, clone: Mapping[str, Any]) -> Drift:
    """What a clone (or what is to be cloned) lacks, but for its interfaces and its protection.

    Tags say what a guest is for and what it offers, so a clone gets those that were asked for and no others.
    """
    alike = replace(wanted, network=WantedNetwork(), more_networks=(), protection=None, tags=wanted.tags or ())
    return drift(alike, clone, wanted.type or LXC)


def new_address(wanted: Wanted, place: Placement) -> str | None:
    """Where a new guest will be reached, as far as that is known beforehand."""
    if 0 in place.addresses:
        return str(place.addresses[0].ip)
    ip6 = wanted.network.ip6
    return str(ip6.ip) if wanted.network.ip in (None, "manual") and isinstance(ip6, IPv6Interface) else None


def _common(wanted: Wanted, place: Placement, operation: str) -> dict[str, Any]:
    tags = wanted.all_tags()
    return {
        "vmid": place.vmid,
        "cores": wanted.cores,
        "memory": wanted.memory_mib,
        "tags": ";".join(tags) if tags else None,
        "pool": wanted.pool,
        "onboot": None if wanted.onboot is None else int(wanted.onboot),
        "startup": format_properties(wanted.startup.given()) or None,
        "nameserver": wanted.nameserver or None,
        "searchdomain": wanted.searchdomain or None,
        "description": with_marker(wanted.description, operation, place.origin),
    }


def _cloud_init(wanted: Wanted) -> dict[str, Any]:
    """What cloud-init is told beside the addresses; nothing of it is compared afterwards but the user's name."""
    # The API wants the keys URL-encoded inside the (again encoded) form.
    keys = quote("\n".join(wanted.ssh_public_keys), safe="") or None
    return {"sshkeys": keys, "ciuser": wanted.ciuser, "cipassword": wanted.cipassword}
