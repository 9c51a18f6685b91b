"""Calls that tell about everything at once."""

from __future__ import annotations

import time
from typing import Any

from lab import host
from lab.api.cluster import is_online
from lab.api.guest_shape import resource_numbers
from lab.api.storage import space
from lab.server.call import Call
from lab.server.router import route

COUNTERS = {"netin": "net_in", "netout": "net_out", "diskread": "disk_read", "diskwrite": "disk_write"}
GAUGES = {"cpu": "cpu_current", "maxcpu": "cpu_max", "mem": "mem_used", "maxmem": "mem_total", "disk": "disk_used",
          "maxdisk": "disk_total", "uptime": "uptime"}  # fmt: skip


@route("GET", "/cluster/metrics/export")
async def export(call: Call) -> Any:
    """The present values; the lab keeps no history, so `history` adds nothing."""
    lab, now = call.lab, int(time.time())
    wanted = (
        str(call.params.get("node-list", "")).split(",") if call.params.get("node-list") else list(lab.config.nodes)
    )
    nodes = [name for name in lab.config.nodes if name in wanted and is_online(lab, name)]
    statuses = await lab.broadcast.statuses()
    numbers = host.read(lab.directory)
    rows: list[dict[str, Any]] = []
    for name in nodes:
        values = {
            "cpu_current": numbers.cpu, "cpu_max": numbers.cpus, "mem_used": numbers.memory_used,
            "mem_total": numbers.memory_total, "disk_used": numbers.disk_used, "disk_total": numbers.disk_total,
            "uptime": numbers.uptime,
        }  # fmt: skip
        rows += [_row(f"node/{name}", metric, value, now) for metric, value in values.items()]
        for storage in (entry for entry in lab.store.storages.values() if entry.is_on(name)):
            total, used = space(lab, storage, name)
            subject = f"storage/{name}/{storage.storage}"
            rows += [_row(subject, "disk_total", total, now), _row(subject, "disk_used", used, now)]
    for guest in lab.store.guests.values():
        seen = statuses.get(guest.vmid)
        if seen and guest.node in nodes:
            values = resource_numbers(lab, guest, seen.usage)
            subject = f"{guest.kind}/{guest.vmid}"
            rows += [_row(subject, GAUGES[key], values[key], now) for key in GAUGES if key in values]
            rows += [_row(subject, COUNTERS[key], values[key], now, "derive") for key in COUNTERS]
    return {"data": rows}


def _row(subject: str, metric: str, value: float, now: int, kind: str = "gauge") -> dict[str, Any]:
    return {"id": subject, "metric": metric, "value": value, "timestamp": now, "type": kind}


@route("GET", "/cluster/backup-info/not-backed-up")
async def not_backed_up(call: Call) -> Any:
    """The lab has no backup jobs: that is every guest one may see."""
    guests = call.lab.store.guests
    return [
        {"vmid": vmid, "name": guests[vmid].name, "type": guests[vmid].kind}
        for vmid in sorted(guests)
        if call.has(f"/vms/{vmid}", "VM.Audit")
    ]
