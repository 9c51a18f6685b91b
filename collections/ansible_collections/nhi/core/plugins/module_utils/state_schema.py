# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON Schema (Draft 2020-12) of state.json.

Written without `$ref`, so that any part of it validates the same part of a document on its own.
A change that an older reader could misunderstand raises SCHEMA_VERSION; older readers then refuse the document.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

SCHEMA_VERSION: Final = 1

FRESHNESS: Final = ("fresh", "stale", "unknown")
HEALTH: Final = ("healthy", "unhealthy", "unknown", "stopped")
SEVERITIES: Final = ("critical", "warning", "info")
GUEST_TYPES: Final = ("lxc", "qemu")
ADDRESS_SOURCES: Final = ("config", "agent", "interfaces", "dhcp")

_TIME_PATTERN: Final = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?\+00:00$"

_TEXT: Schema = {"type": "string"}
_NAME: Schema = {"type": "string", "minLength": 1}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_BOOLEAN: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"], "minimum": 0}
_TIME: Schema = {"type": "string", "pattern": _TIME_PATTERN}
_TIME_OR_NULL: Schema = {"type": ["string", "null"], "pattern": _TIME_PATTERN}
_VMID: Schema = {"type": "integer", "minimum": 1}
_PORT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": 65535}
_NAMES: Schema = {"type": "array", "items": _NAME}


def _one_of(words: tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": list(words)}


def _list_of(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _object(properties: dict[str, Schema]) -> Schema:
    """An object that has exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


_PROVENANCE: dict[str, Schema] = {"observed_at": _TIME_OR_NULL, "source": _TEXT, "freshness": _one_of(FRESHNESS)}

_META = _object(
    {
        "schema_version": {"const": SCHEMA_VERSION},
        "revision": {"type": "integer", "minimum": 0},
        "generated_at": _TIME,
        "generated_by": _object({"program": _NAME, "version": _TEXT, "actor": _TEXT, "host": _TEXT}),
        # How long each phase took is for people: a scan may add to it without a new schema version.
        "scan": {
            "type": ["object", "null"],
            "properties": {"kind": _NAME, "duration_seconds": {"type": "number", "minimum": 0}, "api_calls": _COUNT},
            "required": ["api_calls", "duration_seconds", "kind"],
        },
        "topology_fingerprint": {"type": "string", "pattern": r"^sha256:[0-9a-f]{64}$"},
    }
)
# Only where several Brains share a lock: the number of whoever wrote this document (see lease.py).
_META["properties"]["fence"] = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}

_NODE = _object(
    {
        "name": _NAME,
        "status": _one_of(("online", "offline", "unknown")),
        "cpu_cores": _COUNT_OR_NULL,
        "cpu_usage": _NUMBER_OR_NULL,
        "memory_total_mib": _COUNT_OR_NULL,
        "memory_used_mib": _COUNT_OR_NULL,
        "disk_total_mib": _COUNT_OR_NULL,
        "disk_used_mib": _COUNT_OR_NULL,
        "uptime_seconds": _COUNT_OR_NULL,
        **_PROVENANCE,
    }
)

_ADDRESS = _object(
    {
        "address": _NAME,
        "prefix": {"type": ["integer", "null"], "minimum": 0, "maximum": 128},
        "family": _one_of(("ipv4", "ipv6")),
        "interface": _TEXT_OR_NULL,
        "mac": _TEXT_OR_NULL,
        "source": _one_of(ADDRESS_SOURCES),
    }
)

_GUEST = _object(
    {
        "vmid": _VMID,
        "name": _NAME,
        "type": _one_of(GUEST_TYPES),
        "node": _NAME,
        "status": _NAME,
        "template": _BOOLEAN,
        "tags": _NAMES,
        "pool": _TEXT_OR_NULL,
        "lock": _TEXT_OR_NULL,
        "protection": {"type": ["boolean", "null"]},
        "cores": _NUMBER_OR_NULL,
        "memory_mib": _COUNT_OR_NULL,
        "disk_mib": _COUNT_OR_NULL,
        "uptime_seconds": _COUNT_OR_NULL,
        "cpu_usage": _NUMBER_OR_NULL,
        "memory_used_mib": _COUNT_OR_NULL,
        "config_digest": _TEXT_OR_NULL,
        "created_at": _TIME_OR_NULL,
        "description": _TEXT_OR_NULL,
        "addresses": _list_of(_ADDRESS),
        "address": _TEXT_OR_NULL,
        "health": _one_of(HEALTH),
        **_PROVENANCE,
    }
)

_STORAGE = _object(
    {
        "id": _NAME,
        "name": _NAME,
        "node": _TEXT_OR_NULL,
        "type": _TEXT_OR_NULL,
        "status": _NAME,
        "content": _NAMES,
        "shared": _BOOLEAN,
        "total_mib": _COUNT_OR_NULL,
        "used_mib": _COUNT_OR_NULL,
        **_PROVENANCE,
    }
)

_ENDPOINT = _object(
    {
        "name": _NAME,
        "protocol": _NAME,
        "port": _PORT_OR_NULL,
        "url": _TEXT_OR_NULL,
        "health": _one_of(HEALTH),
        "latency_ms": _NUMBER_OR_NULL,
        "detail": _TEXT_OR_NULL,
        "observed_at": _TIME_OR_NULL,
    }
)

_SERVICE = _object(
    {
        "name": _NAME,
        "service": _NAME,
        "purpose": _TEXT_OR_NULL,
        "type": _one_of(GUEST_TYPES),
        "tags": _NAMES,
        "guest": _NAME,
        "vmid": _VMID,
        "address": _TEXT_OR_NULL,
        "endpoints": _list_of(_ENDPOINT),
        "health": _one_of(HEALTH),
        **_PROVENANCE,
    }
)

_ALERT = _object(
    {
        "id": _NAME,
        "severity": _one_of(SEVERITIES),
        "kind": _NAME,
        "subject": _NAME,
        "message": _NAME,
        "since": _TIME,
        "observed_at": _TIME,
    }
)

_INFRASTRUCTURE = _object(
    {
        "cluster": _object(
            {"name": _TEXT_OR_NULL, "version": _TEXT_OR_NULL, "observed_at": _TIME_OR_NULL, "source": _TEXT}
        ),
        "nodes": _list_of(_NODE),
        "guests": _list_of(_GUEST),
        "storage": _list_of(_STORAGE),
        "services": _list_of(_SERVICE),
    }
)

STATE_SCHEMA: Final[Schema] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "State of a lab as NHI last saw it",
    **_object(
        {
            "meta": _META,
            "infrastructure": _INFRASTRUCTURE,
            "api_providers": {"type": "object", "additionalProperties": {"type": "object"}},
            "alerts": _list_of(_ALERT),
        }
    ),
}
