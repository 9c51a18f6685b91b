"""Guests of a node, their status, their addresses."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from lab.api.guest_shape import status
from lab.drivers.base import Interface, Usage
from lab.model import Guest
from lab.server.call import Call
from lab.server.errors import ApiError, failure
from lab.server.properties import loose
from lab.server.router import guest_route, route

AGENT_TIMEOUT_SECONDS = 3.0
AGENT_FILE_LIMIT = 16 * 1024 * 1024


@guest_route("GET", "")
async def listing(call: Call) -> Any:
    guests = [
        guest
        for guest in call.lab.store.guests.values()
        if guest.node == call.node and guest.kind == call.kind and call.has(f"/vms/{guest.vmid}", "VM.Audit")
    ]
    usages = await asyncio.gather(*(call.lab.usage(guest.vmid) for guest in guests))
    return [status(call.lab, guest, usage) for guest, usage in zip(guests, usages, strict=True)]


@guest_route("GET", "/{vmid}")
async def index(call: Call) -> Any:
    call.lab.guest(call.node, call.kind, call.vmid)
    return [{"subdir": name} for name in ("config", "pending", "status", "snapshot", "clone", "resize", "firewall")]


@guest_route("GET", "/{vmid}/status")
async def status_index(call: Call) -> Any:
    call.lab.guest(call.node, call.kind, call.vmid)
    return [{"subdir": name} for name in ("current", "start", "stop", "shutdown", "reboot")]


@guest_route("GET", "/{vmid}/status/current")
async def current(call: Call) -> Any:
    guest = call.lab.guest(call.node, call.kind, call.vmid)
    shown = status(call.lab, guest, await call.lab.usage(guest.vmid))
    shown["ha"] = {"managed": 0}
    if guest.kind == "qemu" and has_agent(guest):
        shown["agent"] = 1
    return shown


@route("GET", "/nodes/{node}/lxc/{vmid}/interfaces")
async def interfaces(call: Call) -> Any:
    """null for a container that does not run."""
    guest = call.lab.guest(call.node, "lxc", call.vmid)
    found = await call.lab.drive(call.lab.driver.interfaces, guest.vmid)
    return [_interface(entry) for entry in found] or None


def _interface(entry: Interface) -> dict[str, Any]:
    v4 = [address for address in entry.addresses if ":" not in address]
    v6 = [address for address in entry.addresses if ":" in address]
    shown: dict[str, Any] = {"name": entry.name, "hwaddr": entry.mac.lower(), "hardware-address": entry.mac.lower()}
    if v4:
        shown["inet"] = v4[0]
    if v6:
        shown["inet6"] = v6[0]
    return {**shown, "ip-addresses": _addresses(entry, "inet", "inet6")}


def _addresses(entry: Interface, v4: str, v6: str) -> list[dict[str, Any]]:
    parts = (address.partition("/") for address in entry.addresses)
    return [
        {"ip-address": ip, "ip-address-type": v6 if ":" in ip else v4, "prefix": int(prefix or 32)}
        for ip, _, prefix in parts
    ]


def has_agent(guest: Guest) -> bool:
    return loose(str(guest.config.get("agent", "0")), "enabled").get("enabled") == "1"


async def _agent_guest(call: Call) -> Guest:
    """The machine, if its agent can answer now."""
    guest = call.lab.guest(call.node, "qemu", call.vmid)
    if not (await call.lab.usage(guest.vmid)).running:
        raise failure(f"VM {guest.vmid} is not running")
    if not has_agent(guest):
        raise failure("No QEMU guest agent configured")
    fault = call.lab.faults.take("dead-agent", vmid=guest.vmid, node=guest.node)
    if fault:
        await asyncio.sleep(fault.delay or AGENT_TIMEOUT_SECONDS)
        raise failure("QEMU guest agent is not running")
    return guest


@route("GET", "/nodes/{node}/qemu/{vmid}/agent")
async def agent_index(call: Call) -> Any:
    return [{"name": name} for name in ("file-read", "get-host-name", "get-osinfo", "network-get-interfaces", "ping")]


@route("POST", "/nodes/{node}/qemu/{vmid}/agent/ping")
async def agent_ping(call: Call) -> Any:
    await _agent_guest(call)
    return {"result": {}}


@route("GET", "/nodes/{node}/qemu/{vmid}/agent/get-host-name")
async def agent_host_name(call: Call) -> Any:
    guest = await _agent_guest(call)
    return {"result": {"host-name": guest.name}}


@route("GET", "/nodes/{node}/qemu/{vmid}/agent/get-osinfo")
async def agent_os(call: Call) -> Any:
    await _agent_guest(call)
    name = "Debian GNU/Linux 12 (bookworm)"
    return {"result": {"id": "debian", "name": "Debian GNU/Linux", "version-id": "12", "pretty-name": name}}


@route("GET", "/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces")
async def agent_interfaces(call: Call) -> Any:
    guest = await _agent_guest(call)
    found = await call.lab.drive(call.lab.driver.interfaces, guest.vmid)
    usage = await call.lab.usage(guest.vmid)
    return {"result": [_agent_interface(entry, usage) for entry in found]}


@route("GET", "/nodes/{node}/qemu/{vmid}/agent/file-read")
async def agent_file(call: Call) -> Any:
    """Text as it is, unless it was asked for in base64."""
    guest = await _agent_guest(call)
    count = int(call.params.get("count", AGENT_FILE_LIMIT))
    offset = int(call.params.get("offset", 0))
    try:
        found = await call.lab.drive(
            call.lab.driver.read_file, guest.vmid, str(call.params["file"]), offset + count + 1
        )
    except ApiError as error:
        raise failure(f"Agent error: {error.message}") from error
    content = found[offset : offset + count]
    text = content.decode(errors="replace") if call.params.get("decode", 1) else base64.b64encode(content).decode()
    shown: dict[str, Any] = {"content": text, "bytes-read": len(content)}
    return {**shown, "truncated": 1} if len(found) > offset + count else shown


def _agent_interface(entry: Interface, usage: Usage) -> dict[str, Any]:
    received, sent = (0, 0) if entry.name == "lo" else (usage.netin, usage.netout)
    return {
        "name": entry.name, "hardware-address": entry.mac.lower(), "ip-addresses": _addresses(entry, "ipv4", "ipv6"),
        "statistics": {
            "rx-bytes": received, "rx-dropped": 0, "rx-errs": 0, "tx-bytes": sent, "tx-dropped": 0, "tx-errs": 0,
        },
    }  # fmt: skip
