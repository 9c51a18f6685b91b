"""Pools: guests and storages that share grants."""

from __future__ import annotations

import re
from typing import Any

from lab.api.guest_shape import resource_numbers
from lab.model import Pool
from lab.server.call import Call
from lab.server.errors import failure
from lab.server.router import route


def _find(call: Call) -> Pool:
    pool = call.lab.store.pools.get(call.params["poolid"])
    if pool is None:
        raise failure(f"no such pool '{call.params['poolid']}'")
    return pool


def _summary(pool: Pool) -> dict[str, Any]:
    shown = {"poolid": pool.poolid}
    return {**shown, "comment": pool.comment} if pool.comment else shown


async def _members(call: Call, pool: Pool) -> list[dict[str, Any]]:
    wanted = call.params.get("type")
    statuses = await call.lab.broadcast.statuses()
    members: list[dict[str, Any]] = []
    for guest in call.lab.store.guests.values():
        if (
            guest.pool != pool.poolid
            or wanted not in (None, guest.kind)
            or not call.has(f"/vms/{guest.vmid}", "VM.Audit")
        ):
            continue
        member = {"id": f"{guest.kind}/{guest.vmid}", "type": guest.kind, "vmid": guest.vmid, "node": guest.node}
        seen = statuses.get(guest.vmid)
        member["status"] = "unknown" if seen is None else "running" if seen.usage.running else "stopped"
        if seen is not None:
            member |= {"name": seen.name, **resource_numbers(call.lab, guest, seen.usage)}
        members.append(member)
    for storage in pool.storages if wanted in (None, "storage") else []:
        for node in call.lab.config.nodes:
            members.append({"id": f"storage/{node}/{storage}", "type": "storage", "storage": storage, "node": node})
    return members


@route("GET", "/pools")
async def listing(call: Call) -> Any:
    wanted = call.params.get("poolid")
    if wanted is not None:
        call.require(f"/pool/{wanted}", "Pool.Audit")
        pool = _find(call)
        return [{**_summary(pool), "members": await _members(call, pool)}]
    pools = call.lab.store.pools
    return [_summary(pools[name]) for name in sorted(pools) if call.has(f"/pool/{name}", "Pool.Audit")]


@route("POST", "/pools")
async def create(call: Call) -> None:
    name = call.params["poolid"]
    if name in call.lab.store.pools:
        raise failure(f"create pool failed: pool '{name}' already exists")
    call.lab.store.pools[name] = Pool(name, call.params.get("comment", ""))


@route("GET", "/pools/{poolid}")
async def read(call: Call) -> Any:
    pool = _find(call)
    shown: dict[str, Any] = {"members": await _members(call, pool)}
    return {**shown, "comment": pool.comment} if pool.comment else shown


@route("PUT", "/pools")
async def update(call: Call) -> None:
    _update(call)


@route("PUT", "/pools/{poolid}")
async def update_old(call: Call) -> None:
    _update(call)


def _update(call: Call) -> None:
    pool = _find(call)
    removing = bool(call.params.get("delete"))
    vmids = [int(item) for item in _items(call.params.get("vms", ""))]
    storages = _items(call.params.get("storage", ""))
    _check_members(call, pool, vmids, storages, removing)
    with call.lab.store.database.transaction():
        for vmid in vmids:
            call.lab.store.guests[vmid].pool = "" if removing else pool.poolid
            call.lab.store.guests.save(vmid)
        pool.storages = sorted(set(pool.storages) - set(storages) if removing else {*pool.storages, *storages})
        pool.comment = call.params.get("comment", pool.comment)
        call.lab.store.pools.save(pool.poolid)


def _check_members(call: Call, pool: Pool, vmids: list[int], storages: list[str], removing: bool) -> None:
    """Everything is checked before anything is changed."""
    for vmid in vmids:
        call.require(f"/vms/{vmid}", "VM.Allocate")
        guest = call.lab.store.guests.get(vmid)
        if guest is None:
            raise failure(f"update pools failed: VM {vmid} does not exist")
        if removing and guest.pool != pool.poolid:
            raise failure(f"update pools failed: VM {vmid} is not a pool member")
        if not removing and guest.pool == pool.poolid:
            raise failure(f"update pools failed: VM {vmid} is already a pool member")
        if not removing and guest.pool and not call.params.get("allow-move"):
            raise failure(f"update pools failed: VM {vmid} belongs already to pool '{guest.pool}'")
    for storage in storages:
        call.require(f"/storage/{storage}", "Datastore.Allocate")
        call.lab.storage(storage)
        if removing and storage not in pool.storages:
            raise failure(f"update pools failed: Storage '{storage}' is not a pool member")


def _items(text: str) -> list[str]:
    return [item for item in re.split(r"[,;\s]+", str(text)) if item]


@route("DELETE", "/pools")
async def delete(call: Call) -> None:
    _delete(call)


@route("DELETE", "/pools/{poolid}")
async def delete_old(call: Call) -> None:
    _delete(call)


def _delete(call: Call) -> None:
    pool = _find(call)
    if pool.storages or any(guest.pool == pool.poolid for guest in call.lab.store.guests.values()):
        raise failure(f"delete pool failed: pool '{pool.poolid}' is not empty")
    del call.lab.store.pools[pool.poolid]
