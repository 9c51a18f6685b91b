# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON Schema (Draft 2020-12) of dependency_graph.json. What a schema can not say is checked in graph.py."""

from __future__ import annotations

from typing import Any, Final

from .safe_hours import SPAN_PATTERN

CRITICALITIES: Final = ("low", "medium", "high", "critical")
# As systemd names units; never an option of its command.
UNIT_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.:@\\-]{0,200}$"

_NAME: Final[dict[str, Any]] = {"type": "string", "minLength": 1}

_NEED: Final[dict[str, Any]] = {
    "title": "The name of a service, or an object that also tells at which port it is used and for what.",
    "type": ["string", "object"],
    "minLength": 1,
    "properties": {"service": _NAME, "port": {"type": "integer", "minimum": 1, "maximum": 65535}, "use": _NAME},
    "required": ["service"],
    "additionalProperties": False,
}

_SERVICE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "description": {"type": ["string", "null"]},
        "depends_on": {"type": "array", "items": _NEED},
        "required_by": {"type": "array", "items": _NAME},
        "criticality": {"type": "string", "enum": list(CRITICALITIES)},
        "can_restart_without_approval": {"type": "boolean"},
        "restart_safe_hours": {
            "title": "Hours (2 is 02:00 to 03:00) and spans such as 23:30-01:00; none is always.",
            "type": "array",
            "items": {"type": ["integer", "string"], "minimum": 0, "maximum": 23, "pattern": SPAN_PATTERN},
        },
        "guest": {"type": ["string", "null"], "minLength": 1},
        "vmid": {"type": ["integer", "null"], "minimum": 1},
        "unit": {"type": ["string", "null"], "pattern": UNIT_PATTERN},
    },
    "additionalProperties": False,
}

GRAPH_SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "dependency_graph.json: which service needs which, and when each may be restarted",
    "type": "object",
    "properties": {
        "$schema": {"type": "string"},
        "time_zone": {"type": "string", "minLength": 1},
        "services": {"type": "object", "additionalProperties": _SERVICE},
    },
    "required": ["services"],
    "additionalProperties": False,
}
