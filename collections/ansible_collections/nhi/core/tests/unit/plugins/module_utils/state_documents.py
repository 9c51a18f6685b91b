# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""State documents for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.nhi.core.plugins.module_utils.state_document import (
    Document,
    empty_document,
    format_time,
    generated_by,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
AT_NOON = format_time(NOON)


def provenance(**changes: Any) -> dict[str, Any]:
    return {"observed_at": AT_NOON, "source": "api:/cluster/resources", "freshness": "fresh", **changes}


def make_guest(vmid: int, **changes: Any) -> dict[str, Any]:
    address = f"10.86.{vmid // 250}.{vmid % 250 + 1}"
    return {
        "vmid": vmid,
        "name": f"guest-{vmid}",
        "type": "lxc",
        "node": "pve",
        "status": "running",
        "template": False,
        "tags": ["database"],
        "pool": "ai-lab",
        "lock": None,
        "protection": False,
        "cores": 2,
        "memory_mib": 4096,
        "disk_mib": 81920,
        "uptime_seconds": 33,
        "cpu_usage": 0.01,
        "memory_used_mib": 120,
        "config_digest": f"{vmid:040x}",
        "created_at": None,
        "description": None,
        "addresses": [
            {
                "address": address,
                "prefix": 24,
                "family": "ipv4",
                "interface": "eth0",
                "mac": "BC:24:11:00:00:01",
                "source": "config",
            }
        ],
        "address": address,
        "health": "healthy",
        **provenance(),
        **changes,
    }


def make_node(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "status": "online",
        "cpu_cores": 12,
        "cpu_usage": 0.07,
        "memory_total_mib": 32000,
        "memory_used_mib": 4000,
        "disk_total_mib": 1000,
        "disk_used_mib": 10,
        "uptime_seconds": 6887,
        **provenance(),
        **changes,
    }


def make_service(guest: dict[str, Any], service: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": service,
        "service": service,
        "purpose": None,
        "type": guest["type"],
        "tags": guest["tags"],
        "guest": guest["name"],
        "vmid": guest["vmid"],
        "address": guest["address"],
        "endpoints": [
            {
                "name": "main",
                "protocol": "redis",
                "port": 6379,
                "url": f"redis://{guest['address']}:6379",
                "health": "healthy",
                "latency_ms": 0.6,
                "detail": "PONG",
                "observed_at": AT_NOON,
            }
        ],
        "health": "healthy",
        **provenance(source="probe"),
        **changes,
    }


def make_alert(identity: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": identity,
        "severity": "critical",
        "kind": "guest_down",
        "subject": "guest/102",
        "message": "The guest is down.",
        "since": AT_NOON,
        "observed_at": AT_NOON,
        **changes,
    }


def make_document(guests: Iterable[dict[str, Any]] = ()) -> Document:
    document = empty_document(generated_by("test", "0.1.0", "root", "brain"), NOON)
    document["infrastructure"]["guests"] = list(guests)
    return document


def full_document() -> Document:
    """A valid document that has something in every list."""
    guests = [make_guest(102), make_guest(105, name="redis-cache")]
    document = make_document(guests)
    document["meta"]["scan"] = {"kind": "cold", "duration_seconds": 0.41, "api_calls": 17}
    document["infrastructure"] |= {
        "nodes": [make_node("pve")],
        "storage": [
            {
                "id": "storage/pve/local",
                "name": "local",
                "node": "pve",
                "type": "dir",
                "status": "available",
                "content": ["backup", "vztmpl"],
                "shared": False,
                "total_mib": 1000,
                "used_mib": 10,
                **provenance(),
            }
        ],
        "services": [make_service(guests[1], "redis")],
    }
    document["api_providers"] = {"groq": {"remaining": 12}}
    document["alerts"] = [make_alert("guest-down:102")]
    return document
