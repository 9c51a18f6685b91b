"""/cluster: resources, status, next id, tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lab import host
from lab.api.guest_shape import resource_numbers
from lab.api.storage import space
from lab.api.tasks import listed, owns
from lab.broadcast import Status
from lab.core import CGROUP_MODE, Lab
from lab.model import Guest, Storage, TaskRecord
from lab.server.call import Call
from lab.server.errors import bad_parameter
from lab.server.router import route

FIRST_VMID = 100
ENDED_PER_NODE = 25


@route("GET", "/version")
async def version(call: Call) -> Any:
    number, release = call.lab.version
    return {"version": number, "release": release, "repoid": "0000000000000000"}


@route("GET", "/cluster")
async def index(call: Call) -> Any:
    return [{"name": name} for name in ("backup-info", "firewall", "metrics", "nextid", "resources", "status", "tasks")]


@route("GET", "/cluster/nextid")
async def nextid(call: Call) -> Any:
    """A hint: nothing is reserved."""
    guests = call.lab.store.guests
    wanted = call.params.get("vmid")
    if wanted is None:
        return str(next(vmid for vmid in range(FIRST_VMID, 1_000_000) if vmid not in guests))
    if wanted in guests:
        raise bad_parameter("vmid", f"VM {wanted} already exists")
    return str(wanted)


@route("GET", "/cluster/status")
async def status(call: Call) -> Any:
    names = call.lab.config.nodes
    nodes = [
        {
            "type": "node", "id": f"node/{name}", "name": name, "nodeid": number if len(names) > 1 else 0,
            "ip": call.lab.config.bind, "online": int(is_online(call.lab, name)), "local": int(number == 1),
            "level": "",
        }
        for number, name in enumerate(names, start=1)
    ]  # fmt: skip
    if len(names) == 1:
        return nodes
    cluster = {
        "type": "cluster",
        "id": "cluster",
        "name": "lab",
        "nodes": len(names),
        "quorate": 1,
        "version": len(names),
    }
    return [cluster, *nodes]


@route("GET", "/cluster/tasks")
async def tasks(call: Call) -> Any:
    everything = call.has("/", "Sys.Audit")
    records = [record for record in call.lab.store.tasks.values() if everything or owns(call, record)]
    newest = sorted(records, key=lambda record: (-record.starttime, -record.pid))
    return [listed(record, saved=True) for record in _broadcast(newest)]


def _broadcast(newest: list[TaskRecord]) -> Iterator[TaskRecord]:
    """What nodes tell each other: all that runs, and only the latest of what has ended."""
    ended: Counter[str] = Counter()
    for record in newest:
        ended[record.node] += bool(record.exitstatus)
        if not record.exitstatus or ended[record.node] <= ENDED_PER_NODE:
            yield record


def is_online(lab: Lab, node: str) -> bool:
    return lab.faults.find("node-offline", node=node) is None


@route("GET", "/cluster/resources")
async def resources(call: Call) -> Any:
    wanted = call.params.get("type")
    found: list[dict[str, Any]] = []
    if wanted is None:
        found += _pools(call)
    if wanted in (None, "vm"):
        statuses = await call.lab.broadcast.statuses()
        found += [_guest(call.lab, guest, statuses.get(guest.vmid)) for guest in _visible_guests(call)]
    if wanted in (None, "node"):
        found += [_node(call, name) for name in call.lab.config.nodes]
    if wanted in (None, "storage"):
        found += _storages(call)
    if wanted in (None, "sdn"):
        found += _sdn(call)
    return found


def _visible_guests(call: Call) -> list[Guest]:
    guests = call.lab.store.guests
    return [guests[vmid] for vmid in sorted(guests) if call.has(f"/vms/{vmid}", "VM.Audit")]


def _guest(lab: Lab, guest: Guest, seen: Status | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": f"{guest.kind}/{guest.vmid}", "type": guest.kind, "vmid": guest.vmid, "node": guest.node,
        "status": "unknown",
    }  # fmt: skip
    if seen is not None and is_online(lab, guest.node):
        shown |= {"name": seen.name or f"{'VM' if guest.kind == 'qemu' else 'CT'} {guest.vmid}"}
        shown |= {"template": int(guest.is_template), "status": "running" if seen.usage.running else "stopped"}
        shown |= resource_numbers(lab, guest, seen.usage)
    lock = lab.lock_shown(guest)
    extra = {"pool": guest.pool, "tags": guest.config.get("tags", ""), "lock": lock}
    return shown | {name: value for name, value in extra.items() if value}


def _node(call: Call, name: str) -> dict[str, Any]:
    online = is_online(call.lab, name)
    shown: dict[str, Any] = {
        "id": f"node/{name}", "type": "node", "node": name, "status": "online" if online else "offline",
    }  # fmt: skip
    if not online:
        return shown
    shown |= {"level": "", "cgroup-mode": CGROUP_MODE}
    if call.lab.config.pve_version >= 9:
        shown["host-arch"] = "x86_64"
    if call.has(f"/nodes/{name}", "Sys.Audit"):
        numbers = host.read(call.lab.directory)
        shown |= {
            "cpu": numbers.cpu, "maxcpu": numbers.cpus, "mem": numbers.memory_used, "maxmem": numbers.memory_total,
            "disk": numbers.disk_used, "maxdisk": numbers.disk_total, "uptime": numbers.uptime,
        }  # fmt: skip
    return shown


def _storages(call: Call) -> list[dict[str, Any]]:
    return [
        _storage(call.lab, node, storage)
        for node in call.lab.config.nodes
        for storage in call.lab.store.storages.values()
        if storage.is_on(node) and call.has(f"/storage/{storage.storage}", "Datastore.Audit", "Datastore.AllocateSpace")
    ]


def _storage(lab: Lab, node: str, storage: Storage) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": f"storage/{node}/{storage.storage}", "type": "storage", "storage": storage.storage, "node": node,
        "status": "available", "plugintype": storage.type, "content": ",".join(storage.content),
        "shared": storage.shared,
    }  # fmt: skip
    if not is_online(lab, node):
        return shown | {"status": "unknown"}
    total, used = space(lab, storage, node)
    return shown | {"disk": used, "maxdisk": total}


def _pools(call: Call) -> list[dict[str, Any]]:
    return [
        {"id": f"/pool/{name}", "type": "pool", "pool": name}
        for name in sorted(call.lab.store.pools)
        if call.has(f"/pool/{name}", "Pool.Audit")
    ]


def _sdn(call: Call) -> list[dict[str, Any]]:
    """The zone of the classic bridges; version 9 calls it a network."""
    if not call.has("/sdn/zones/localnetwork", "SDN.Audit"):
        return []
    found: list[dict[str, Any]] = []
    for node in call.lab.config.nodes:
        if call.lab.config.pve_version >= 9:
            found.append(
                {
                    "id": f"network/{node}/zone/localnetwork", "type": "network", "network": "localnetwork",
                    "node": node, "network-type": "zone", "zone-type": "simple", "status": "ok",
                }
            )  # fmt: skip
        else:
            found.append(
                {"id": f"sdn/{node}/localnetwork", "type": "sdn", "sdn": "localnetwork", "node": node, "status": "ok"}
            )
    return found


@route("GET", "/cluster/sdn/zones")
async def zones(call: Call) -> Any:
    return []
