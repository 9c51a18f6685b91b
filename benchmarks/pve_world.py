# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster that exists only as answers: every path of the Proxmox VE API a reader may ask for, with its JSON.

The mix is that of a grown lab: containers and virtual machines, static and DHCP addresses, an agent in every machine,
one guest in twenty stopped. The answers agree with each other, so two clients can be compared by what they found.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

GIB = 1024**3


class World:
    """All answers of a cluster with a number of guests on a number of nodes."""

    def __init__(self, guests: int, nodes: int) -> None:
        self.nodes = [f"node{number:02d}" for number in range(1, nodes + 1)]
        # Twenty guests in a row hold every kind of guest; they share a node, so that all nodes are alike.
        self.guests = [_guest(index, self.nodes[index // 20 % nodes]) for index in range(guests)]

    def addresses(self) -> dict[str, str]:
        """The IPv4 address of every running guest by its name: what a scan has to find."""
        return {guest["name"]: guest["address"] for guest in self.guests if guest["status"] == "running"}

    def answers(self) -> dict[str, bytes]:
        """The body of each path, without the leading ``/api2/json``."""
        plain: dict[str, Any] = {
            "/version": {"version": "9.2.3", "release": "9.2", "repoid": "0000000000000000"},
            "/access/permissions": {"/": {"VM.Audit": 1, "Sys.Audit": 1, "Datastore.Audit": 1}},
            "/cluster/status": [{"type": "cluster", "name": "bench", "nodes": len(self.nodes), "quorate": 1}],
            "/cluster/resources": [*map(_row, self.guests), *map(_node, self.nodes), *map(_storage, self.nodes)],
            "/cluster/tasks": [],
            "/pools": [],
            "/nodes": [_node(name) for name in self.nodes],
        }
        for name in self.nodes:
            for kind in ("lxc", "qemu"):
                rows = [_row(guest) for guest in self.guests if (guest["node"], guest["type"]) == (name, kind)]
                plain[f"/nodes/{name}/{kind}"] = rows
        for guest in self.guests:
            plain.update(_guest_answers(guest))
        return {path: json.dumps({"data": data}, separators=(",", ":")).encode() for path, data in plain.items()}


def _guest(index: int, node: str) -> dict[str, Any]:
    kind = "lxc" if index % 5 < 3 else "qemu"
    return {
        "vmid": 100 + index,
        "name": f"guest-{index:04d}",
        "type": kind,
        "node": node,
        "status": "stopped" if index % 20 == 19 else "running",
        "static": index % 2 == 0,
        "address": f"10.{index // 65025 + 100}.{index // 255 % 255}.{index % 255 + 1}",
        "mac": "BC:24:11:" + ":".join(f"{byte:02X}" for byte in index.to_bytes(3, "big")),
    }


def _row(guest: dict[str, Any]) -> dict[str, Any]:
    running = guest["status"] == "running"
    return {
        "id": f"{guest['type']}/{guest['vmid']}",
        **{key: guest[key] for key in ("vmid", "name", "type", "node", "status")},
        "template": 0,
        "tags": "lab;web" if guest["vmid"] % 3 else "lab",
        "cpu": 0.02 if running else 0,
        "maxcpu": 2,
        "mem": GIB // 4 if running else 0,
        "maxmem": GIB,
        "disk": GIB if guest["type"] == "lxc" else 0,
        "maxdisk": 8 * GIB,
        "uptime": 86400 + guest["vmid"] if running else 0,
        **dict.fromkeys(("netin", "netout", "diskread", "diskwrite"), 12345 if running else 0),
    }


def _node(name: str) -> dict[str, Any]:
    numbers = {"cpu": 0.1, "maxcpu": 16, "mem": 32 * GIB, "maxmem": 64 * GIB, "disk": GIB, "maxdisk": 90 * GIB}
    return {"id": f"node/{name}", "type": "node", "node": name, "status": "online", "uptime": 990000, **numbers}


def _storage(name: str) -> dict[str, Any]:
    return {
        "id": f"storage/{name}/local",
        "type": "storage",
        "storage": "local",
        "node": name,
        "status": "available",
        "plugintype": "dir",
        "content": "backup,iso,vztmpl",
        "shared": 0,
        "disk": 20 * GIB,
        "maxdisk": 90 * GIB,
    }


def _guest_answers(guest: dict[str, Any]) -> dict[str, Any]:
    base = f"/nodes/{guest['node']}/{guest['type']}/{guest['vmid']}"
    current = {**_row(guest), "cpus": 2, "ha": {"managed": 0}}
    current["qmpstatus"] = guest["status"]
    answers: dict[str, Any] = {
        f"{base}/status/current": current,
        f"{base}/config": _config(guest),
        f"{base}/snapshot": [{"name": "current", "description": "You are here!", "digest": "0" * 40}],
    }
    if guest["type"] == "lxc":
        answers[f"{base}/interfaces"] = _interfaces(guest) if guest["status"] == "running" else None
    elif guest["status"] == "running":
        answers[f"{base}/agent/network-get-interfaces"] = {"result": _agent(guest)}
    return answers


def _config(guest: dict[str, Any]) -> dict[str, Any]:
    static = f"{guest['address']}/24"
    common = {
        "cores": 2,
        "memory": 1024,
        "onboot": 1,
        "tags": _row(guest)["tags"],
        "digest": hashlib.sha1(guest["name"].encode(), usedforsecurity=False).hexdigest(),
        "description": "A guest of the benchmark\n",
    }
    if guest["type"] == "lxc":
        address = static if guest["static"] else "dhcp"
        net = f"name=eth0,bridge=vmbr0,hwaddr={guest['mac']},ip={address},type=veth"
        return {**common, "hostname": guest["name"], "arch": "amd64", "ostype": "debian", "net0": net, "swap": 512}
    return {
        **common,
        "name": guest["name"],
        "agent": "enabled=1",
        "net0": f"virtio={guest['mac']},bridge=vmbr0,firewall=1",
        "ipconfig0": f"ip={static}" if guest["static"] else "ip=dhcp",
        "meta": "creation-qemu=9.2.0,ctime=1760000000",
        "scsi0": "local-lvm:vm-disk-0,size=8G",
    }


def _interfaces(guest: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": "lo", "hwaddr": "00:00:00:00:00:00", "inet": "127.0.0.1/8", "inet6": "::1/128"},
        {"name": "eth0", "hwaddr": guest["mac"].lower(), "inet": f"{guest['address']}/24", "inet6": "fe80::1/64"},
    ]


def _agent(guest: dict[str, Any]) -> list[dict[str, Any]]:
    loopback = {"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}
    address = {"ip-address": guest["address"], "ip-address-type": "ipv4", "prefix": 24}
    return [
        {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [loopback]},
        {"name": "ens18", "hardware-address": guest["mac"].lower(), "ip-addresses": [address]},
    ]
