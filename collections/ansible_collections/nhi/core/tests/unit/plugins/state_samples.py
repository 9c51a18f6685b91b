# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""State documents for tests, and controller plugins as Ansible would load them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from ansible import constants
from ansible.plugins.doc_fragments import constructed
from ansible_collections.nhi.core.plugins.doc_fragments import lookup_sources
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import (
    Document,
    empty_document,
    format_time,
    generated_by,
    utc_now,
)


def seconds_ago(seconds: float) -> str:
    """A time as state.json holds it."""
    return format_time(utc_now() - timedelta(seconds=seconds))


def guest(vmid: int, name: str | None = None, **facts: Any) -> dict[str, Any]:
    """A running container that was read just now."""
    address = facts.pop("address", f"10.86.7.{vmid % 250}")
    return {
        "vmid": vmid,
        "name": f"guest-{vmid}" if name is None else name,
        "type": "lxc",
        "node": "pve",
        "status": "running",
        "template": False,
        "tags": [],
        "pool": None,
        "lock": None,
        "protection": False,
        "cores": 1,
        "memory_mib": 256,
        "disk_mib": 2048,
        "uptime_seconds": 33,
        "cpu_usage": 0.01,
        "memory_used_mib": 120,
        "config_digest": "0" * 40,
        "created_at": None,
        "description": None,
        "addresses": [
            {"address": address, "prefix": 24, "family": "ipv4", "interface": "eth0", "mac": None, "source": "config"}
        ]
        if address
        else [],
        "address": address,
        "health": "healthy",
        "observed_at": seconds_ago(0),
        "source": "api:/cluster/resources",
        "freshness": "fresh",
    } | facts


def service(name: str, vmid: int, *, health: str = "healthy", **facts: Any) -> dict[str, Any]:
    """An instance of a service, with one endpoint unless others are given."""
    address = facts.get("address", f"10.86.7.{vmid % 250}")
    return {
        "name": name,
        "service": name,
        "purpose": None,
        "type": "lxc",
        "tags": [f"svc-{name}"],
        "guest": f"{name}-{vmid}",
        "vmid": vmid,
        "address": address,
        "endpoints": [endpoint("main", 6379, address, health)],
        "health": health,
        "observed_at": seconds_ago(0),
        "source": "probe",
        "freshness": "fresh",
    } | facts


def endpoint(name: str, port: int, address: str | None, health: str = "healthy") -> dict[str, Any]:
    """An endpoint as the probe leaves it."""
    return {
        "name": name,
        "protocol": "redis",
        "port": port,
        "url": f"redis://{address}:{port}" if address else None,
        "health": health,
        "latency_ms": 0.6,
        "detail": None,
        "observed_at": seconds_ago(0),
    }


def document(
    guests: list[dict[str, Any]] | None = None, services: list[dict[str, Any]] | None = None, at: datetime | None = None
) -> Document:
    """A state document with these guests and services, generated at a time (now)."""
    made = empty_document(generated_by("test", "0.1.0", "tester", "controller"), at or utc_now())
    made["infrastructure"]["guests"] = guests or []
    made["infrastructure"]["services"] = services or []
    return made


def write_state(directory: Path, state: Document) -> Path:
    """Write a state as a scan would; returns its directory."""
    StateStore(directory).write(state, expected_checksum=None)
    return directory


_FRAGMENTS = {
    "ansible.builtin.constructed": constructed.ModuleDocFragment.DOCUMENTATION,
    "nhi.core.lookup_sources.catalogue_directories": lookup_sources.ModuleDocFragment.CATALOGUE_DIRECTORIES,
    "nhi.core.lookup_sources.state_directory": lookup_sources.ModuleDocFragment.STATE_DIRECTORY,
}


def as_loaded(plugin: Any, kind: str, name: str, documentation: str) -> Any:
    """Give a plugin the option definitions that Ansible's loader would read from its documentation."""
    documented = yaml.safe_load(documentation)
    options = documented["options"]
    for fragment in documented.get("extends_documentation_fragment", []):
        options |= yaml.safe_load(_FRAGMENTS[fragment])["options"]
    constants.config.initialize_plugin_configuration_definitions(kind, name, options)
    plugin._load_name = name
    plugin._redirected_names = [name]
    return plugin
