"""/nodes: the nodes and what is on them."""

from __future__ import annotations

import time
from typing import Any

from lab import host
from lab.api.cluster import is_online
from lab.core import BRIDGE, CGROUP_MODE
from lab.server.call import Call
from lab.server.router import route


@route("GET", "/nodes")
async def listing(call: Call) -> Any:
    numbers = host.read(call.lab.directory)
    found = []
    for name in call.lab.config.nodes:
        shown: dict[str, Any] = {"id": f"node/{name}", "type": "node", "node": name, "level": ""}
        shown["status"] = "online" if is_online(call.lab, name) else "offline"
        shown["ssl_fingerprint"] = call.lab.fingerprint
        if shown["status"] == "online":
            shown["cgroup-mode"] = CGROUP_MODE
        if shown["status"] == "online" and call.has(f"/nodes/{name}", "Sys.Audit"):
            shown |= {
                "cpu": numbers.cpu, "maxcpu": numbers.cpus, "mem": numbers.memory_used, "maxmem": numbers.memory_total,
                "disk": numbers.disk_used, "maxdisk": numbers.disk_total, "uptime": numbers.uptime,
            }  # fmt: skip
        found.append(shown)
    return found


@route("GET", "/nodes/{node}")
async def index(call: Call) -> Any:
    names = ("aplinfo", "dns", "lxc", "network", "qemu", "status", "storage", "tasks", "time", "version", "vzdump")
    return [{"name": name} for name in names]


@route("GET", "/nodes/{node}/version")
async def version(call: Call) -> Any:
    number, release = call.lab.version
    return {"version": number, "release": release, "repoid": "0000000000000000"}


@route("GET", "/nodes/{node}/status")
async def status(call: Call) -> Any:
    numbers = host.read(call.lab.directory)
    number, release = call.lab.version
    return {
        "uptime": numbers.uptime,
        "cpu": numbers.cpu,
        "wait": 0,
        "idle": 0,
        "loadavg": [f"{value:.2f}" for value in numbers.loadavg],
        "kversion": f"Linux {numbers.kernel}",
        "pveversion": f"pve-manager/{number}/0000000000000000",
        "memory": _space(numbers.memory_total, numbers.memory_used),
        "swap": _space(numbers.swap_total, numbers.swap_used),
        "rootfs": {**_space(numbers.disk_total, numbers.disk_used), "avail": numbers.disk_total - numbers.disk_used},
        "cpuinfo": {
            "cpus": numbers.cpus, "cores": numbers.cpus, "sockets": 1, "model": numbers.cpu_model, "mhz": "2000.000",
            "user_hz": 100, "hvm": "1", "flags": "",
        },
        "current-kernel": {"sysname": "Linux", "release": numbers.kernel, "version": release, "machine": "x86_64"},
        "boot-info": {"mode": "efi", "secureboot": 0},
    }  # fmt: skip


def _space(total: int, used: int) -> dict[str, int]:
    return {"total": total, "used": used, "free": total - used}


@route("GET", "/nodes/{node}/time")
async def node_time(call: Call) -> Any:
    now = int(time.time())
    return {"timezone": "UTC", "time": now, "localtime": now}


@route("GET", "/nodes/{node}/dns")
async def dns(call: Call) -> Any:
    return {"search": "lab.internal", "dns1": call.lab.config.gateway}


@route("GET", "/nodes/{node}/network")
async def network(call: Call) -> Any:
    """One bridge with the lab's private network behind it."""
    if not call.has(f"/sdn/zones/localnetwork/{BRIDGE}", "SDN.Audit", "SDN.Use"):
        return []
    wanted = call.params.get("type")
    if wanted not in (None, "bridge", "any_bridge", "any_local_bridge", "include_sdn"):
        return []
    prefix = call.lab.config.subnet.partition("/")[2]
    return [
        {
            "iface": BRIDGE, "type": "bridge", "active": 1, "autostart": 1, "exists": 1, "method": "static",
            "method6": "manual", "families": ["inet"], "priority": 3, "bridge_ports": "", "bridge_stp": "off",
            "bridge_fd": "0", "address": call.lab.config.gateway, "netmask": prefix,
            "cidr": f"{call.lab.config.gateway}/{prefix}",
        }
    ]  # fmt: skip


@route("GET", "/nodes/{node}/aplinfo")
async def aplinfo(call: Call) -> Any:
    """The templates that could be downloaded: those the driver already has."""
    names = await call.lab.drive(call.lab.driver.templates)
    return [
        {
            "template": name, "package": name.partition("_")[0], "os": name.rpartition("-standard")[0] or "debian-12",
            "section": "system", "type": "lxc", "headline": "Debian 12 (standard)", "architecture": "amd64",
            "source": "the lab", "version": "12",
        }
        for name in sorted(names)
    ]  # fmt: skip
