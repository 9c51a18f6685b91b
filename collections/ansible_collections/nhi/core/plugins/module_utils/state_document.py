# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build, order, compare and look into a state document; dicts in, dicts out."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .errors import StateInvalidError, StateVersionError
from .state_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Document = dict[str, Any]
Item = dict[str, Any]

# The list, the key that is unique in it (None: nothing is), the keys it is sorted by.
_LISTS: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    ("nodes", "name", ("name",)),
    ("guests", "vmid", ("vmid",)),
    ("storage", "id", ("id",)),
    ("services", None, ("name", "vmid")),
)


def utc_now() -> datetime:
    """The present, with its offset."""
    return datetime.now(UTC)


def format_time(moment: datetime) -> str:
    """A time as state.json holds it: UTC, microseconds, explicit offset."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def parse_time(stamp: str) -> datetime:
    """A time from state.json."""
    return datetime.fromisoformat(stamp)


def generated_by(program: str, version: str, actor: str, host: str) -> dict[str, str]:
    """The `meta.generated_by` of a document."""
    return {"program": program, "version": version, "actor": actor, "host": host}


def empty_document(by: Mapping[str, str], at: datetime) -> Document:
    """A valid document that knows nothing yet: what a first scan starts from."""
    document: Document = {
        "meta": {
            "schema_version": SCHEMA_VERSION,
            "revision": 0,
            "generated_at": format_time(at),
            "generated_by": dict(by),
            "scan": None,
            "topology_fingerprint": "",
        },
        "infrastructure": {
            "cluster": {"name": None, "version": None, "observed_at": None, "source": ""},
            "nodes": [],
            "guests": [],
            "storage": [],
            "services": [],
        },
        "api_providers": {},
        "alerts": [],
    }
    document["meta"]["topology_fingerprint"] = topology_fingerprint(document)
    return document


def stamped(document: Mapping[str, Any], revision: int, graph: Any = None, fence: int | None = None) -> Document:
    """The document as it will be written: lists in their order, revision, fingerprint and fence set.

    The input stays as it is.
    """
    result: Document = dict(document)
    infrastructure = dict(result["infrastructure"])
    for name, _unique, keys in _LISTS:
        infrastructure[name] = _ordered(infrastructure[name], keys)
    result["infrastructure"] = infrastructure
    result["alerts"] = _ordered(result["alerts"], ("id",))
    result["meta"] = {
        **result["meta"],
        "schema_version": SCHEMA_VERSION,
        "revision": revision,
        "topology_fingerprint": topology_fingerprint(result, graph),
    }
    result["meta"].pop("fence", None)
    if fence is not None:
        result["meta"]["fence"] = fence
    return result


def _ordered(items: Iterable[Item], keys: tuple[str, ...]) -> list[Item]:
    return sorted(items, key=lambda item: tuple(item[key] for key in keys))


def canonical_bytes(document: Mapping[str, Any]) -> bytes:
    """The bytes of state.json: equal documents are equal bytes."""
    try:
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StateInvalidError(f"The document can not be written as JSON: {error}") from error
    # A lone surrogate (from a guest's description, say) has no UTF-8 form; as an escape it survives a round trip.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def parse_document(raw: bytes, path: Path) -> Document:
    """The document in verified bytes, if this version of NHI can understand it; path is for messages.

    Raises StateInvalidError, and StateVersionError where a newer NHI wrote it.
    """
    try:
        document = json.loads(raw)
        version = document["meta"]["schema_version"]
    except ValueError as error:
        raise StateInvalidError(f"{path} is not a state document ({error}): move it away and scan again.") from error
    except (KeyError, TypeError) as error:
        raise StateInvalidError(
            f"{path} is not a state document (it names no schema version): move it away and scan again."
        ) from error
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StateVersionError(
            f"{path} has schema version {version}, this NHI understands {SCHEMA_VERSION}: upgrade the collection "
            "nhi.core here, or use the NHI that wrote the file."
        )
    if version != SCHEMA_VERSION or not _has_domains(document):
        raise StateInvalidError(f"{path} is not a state document of schema version {SCHEMA_VERSION}.")
    return dict(document)


def _has_domains(document: Mapping[str, Any]) -> bool:
    infrastructure = document.get("infrastructure")
    return (
        isinstance(document["meta"].get("revision"), int)
        and isinstance(document.get("api_providers"), dict)
        and isinstance(document.get("alerts"), list)
        and isinstance(infrastructure, dict)
        and all(isinstance(infrastructure.get(name), list) for name, _unique, _keys in _LISTS)
    )


def checksum_of(raw: bytes) -> str:
    """SHA-256 in hex, as `sha256sum` prints it."""
    return hashlib.sha256(raw).hexdigest()


def topology_fingerprint(document: Mapping[str, Any], graph: Any = None) -> str:
    """Hash of what identifies and connects guests, and of nothing that ticks: plans are bound to it.

    graph is the dependency graph as parsed from JSON, or None where there is none.
    """
    infrastructure = document["infrastructure"]
    topology = {
        "nodes": sorted(node["name"] for node in infrastructure["nodes"]),
        "guests": sorted((_guest_identity(guest) for guest in infrastructure["guests"]), key=lambda one: one[0]),
        "graph": graph,
    }
    text = json.dumps(topology, sort_keys=True, separators=(",", ":"))
    return "sha256:" + checksum_of(text.encode())


def _guest_identity(guest: Mapping[str, Any]) -> list[Any]:
    addresses = sorted({entry["address"] for entry in guest["addresses"]})
    return [guest["vmid"], guest["name"], guest["type"], guest["node"], guest["config_digest"], addresses]


def duplicate_errors(document: Mapping[str, Any]) -> list[str]:
    """What the schema can not say: keys that must be unique and are not."""
    infrastructure = document["infrastructure"]
    keyed = [(f"infrastructure/{name}", unique, infrastructure[name]) for name, unique, _keys in _LISTS if unique]
    keyed.append(("alerts", "id", document["alerts"]))
    errors = []
    for where, unique, items in keyed:
        counts = Counter(item[unique] for item in items)
        errors += [f"{where}: {unique} {value!r} occurs {count} times" for value, count in counts.items() if count > 1]
    return errors


def age_seconds(stamp: str | None, now: datetime) -> float | None:
    """Seconds since stamp, never negative (clocks differ); None when it never happened."""
    if stamp is None:
        return None
    return max(0.0, (now - parse_time(stamp)).total_seconds())


def document_age_seconds(document: Mapping[str, Any], now: datetime) -> float:
    """Seconds since the document was generated."""
    return max(0.0, (now - parse_time(document["meta"]["generated_at"])).total_seconds())


def freshness_at(item: Mapping[str, Any], now: datetime, max_age_seconds: float | None = None) -> str:
    """Freshness of a fact as a reader sees it now: a fresh one turns stale when older than max_age_seconds."""
    age = age_seconds(item["observed_at"], now)
    if age is None or item["freshness"] == "unknown":
        return "unknown"
    too_old = max_age_seconds is not None and age > max_age_seconds
    return "stale" if too_old or item["freshness"] == "stale" else "fresh"


def as_stale(item: Mapping[str, Any]) -> Item:
    """A copy of a fact that could not be read this time: last known values with their old time."""
    stale = copy.deepcopy(dict(item))
    stale["freshness"] = "unknown" if stale["observed_at"] is None else "stale"
    return stale


def counts(document: Mapping[str, Any]) -> dict[str, int]:
    """How many of each thing the document holds."""
    infrastructure = document["infrastructure"]
    return {**{name: len(infrastructure[name]) for name, _unique, _keys in _LISTS}, "alerts": len(document["alerts"])}
