# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service catalogue: what a service needs, where it listens, how its health is told.

Entries come in as plain dicts (read from ``catalogue/*.yml`` by whoever can read YAML) and are checked
completely before any is used, with every fault of an entry in one message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import CatalogueError
from .graph_schema import CRITICALITIES, UNIT_PATTERN
from .service_logs import LogSource, logs_faults, source_of

SERVICE_TAG = "svc-"
PURPOSE_TAG = "purpose-"
HEALTH_TYPES = (
    "tcp", "http", "https", "redis", "postgresql", "mysql", "memcached", "amqp", "mqtt", "mongodb", "none",
)  # fmt: skip
GUEST_TYPES = ("lxc", "qemu")
BACKUP_CLASSES = ("daily", "weekly", "none")
_SECRET_LENGTHS = range(12, 129)
_DEFAULT_SECRET_LENGTH = 32
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_ROLE = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*")
_VARIABLE = re.compile(r"[a-z_][a-z0-9_]*")
_SIZE_KEYS = ("cores", "memory_mib", "disk_gib")
_REQUIRED = ("name", "title", "summary", "role", "guest", "sizes", "endpoints")
_OPTIONAL = ("criticality", "depends_on", "tags", "backup", "secrets", "variables", "unit", "logs")


@dataclass(frozen=True)
class Health:
    """How to ask an endpoint whether it is well."""

    type: str
    timeout_seconds: float = 2.0
    path: str = "/"
    expect_status: int = 200


@dataclass(frozen=True)
class ServiceEndpoint:
    """One port a service listens on."""

    name: str
    protocol: str
    port: int
    health: Health

    def url(self, address: str) -> str:
        """Where clients connect when the service runs at this address."""
        host = f"[{address}]" if ":" in address else address
        return f"{self.protocol}://{host}:{self.port}"


@dataclass(frozen=True)
class WantedSecret:
    """A value that is made for each guest; ``name`` is the variable through which the role gets it."""

    name: str
    length: int = _DEFAULT_SECRET_LENGTH


@dataclass(frozen=True)
class CatalogueEntry:
    """A checked entry; ``raw`` is the dict it was made from."""

    name: str
    endpoints: tuple[ServiceEndpoint, ...]
    raw: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The product's name as people write it."""
        return str(self.raw["title"])

    @property
    def criticality(self) -> str:
        """How bad it is when the service is gone."""
        return str(self.raw.get("criticality", "medium"))

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Names of the services in the dependency graph that it needs."""
        return tuple(self.raw.get("depends_on", ()))

    @property
    def unit(self) -> str | None:
        """The systemd unit that is restarted for it; None where only its guest can be."""
        return self.raw.get("unit")

    @property
    def logs(self) -> LogSource:
        """Where its log is: the journal of its unit, unless it says otherwise."""
        return source_of(self.raw.get("logs"), self.unit)

    @property
    def backup(self) -> str:
        """How often a guest with this service is worth a backup."""
        return str(self.raw.get("backup", "weekly"))


@dataclass(frozen=True)
class OfferedService:
    """A service that a guest says it offers, by its tags."""

    entry: CatalogueEntry
    purpose: str | None


def load_catalogue(entries: Iterable[Mapping[str, Any]]) -> dict[str, CatalogueEntry]:
    """Checked entries by name; refuses two of one name."""
    catalogue: dict[str, CatalogueEntry] = {}
    for raw in entries:
        entry = parse_entry(raw)
        if entry.name in catalogue:
            raise CatalogueError(f"the catalogue has two entries named {entry.name}: rename or remove one of them")
        catalogue[entry.name] = entry
    return catalogue


def parse_entry(raw: Any, origin: str = "") -> CatalogueEntry:
    """One checked entry; CatalogueError lists everything that is wrong with it."""
    faults = list(_faults(raw))
    if faults:
        name = raw.get("name", "without a name") if isinstance(raw, Mapping) else "that is not a mapping"
        where = f" in {origin}" if origin else ""
        raise CatalogueError(f"catalogue entry {name}{where} is not valid: {'; '.join(faults)}")
    return CatalogueEntry(
        name=raw["name"], endpoints=tuple(_endpoint(item) for item in raw["endpoints"]), raw=dict(raw)
    )


def find_entry(catalogue: Mapping[str, CatalogueEntry], name: str) -> CatalogueEntry:
    """The entry of that name; CatalogueError says which there are."""
    try:
        return catalogue[name]
    except KeyError:
        there_is = ", ".join(sorted(catalogue)) or "none"
        raise CatalogueError(f"the catalogue has no service {name!r}: use one of {there_is}, or add an entry") from None


def offered_services(tags: Iterable[str], catalogue: Mapping[str, CatalogueEntry]) -> list[OfferedService]:
    """Services that the tags ``svc-<name>`` name, sorted; tags of services not in the catalogue are passed over."""
    tags = list(tags)
    purpose = next((tag.removeprefix(PURPOSE_TAG) for tag in sorted(tags) if tag.startswith(PURPOSE_TAG)), None)
    names = sorted(tag.removeprefix(SERVICE_TAG) for tag in tags if tag.startswith(SERVICE_TAG))
    return [OfferedService(catalogue[name], purpose) for name in names if name in catalogue]


def _endpoint(raw: Mapping[str, Any]) -> ServiceEndpoint:
    health = raw.get("health") or {"type": "tcp"}
    return ServiceEndpoint(
        name=raw["name"],
        protocol=raw["protocol"],
        port=raw["port"],
        health=Health(**{key: health[key] for key in Health.__dataclass_fields__ if key in health}),
    )


def _faults(raw: Any) -> Iterator[str]:
    if not isinstance(raw, Mapping):
        yield "an entry is a mapping with name, title, summary, role, guest, sizes and endpoints"
        return
    yield from _key_faults("", raw, _REQUIRED, _OPTIONAL)
    for key in ("title", "summary"):
        if key in raw and not _is_text(raw[key]):
            yield f"{key} must be a text"
    if "name" in raw and not (_is_text(raw["name"]) and _NAME.fullmatch(raw["name"])):
        yield "name must be lower-case letters, digits and hyphens, since it becomes a tag"
    if "role" in raw and not (_is_text(raw["role"]) and _ROLE.fullmatch(raw["role"])):
        yield "role must be a full name such as nhi.core.redis"
    if raw.get("criticality", "medium") not in CRITICALITIES:
        yield f"criticality must be one of {', '.join(CRITICALITIES)}"
    for key in ("depends_on", "tags"):
        if not (isinstance(raw.get(key, []), list) and all(_is_text(item) for item in raw.get(key, []))):
            yield f"{key} must be a list of texts"
    if raw.get("backup", "weekly") not in BACKUP_CLASSES:
        yield f"backup must be one of {', '.join(BACKUP_CLASSES)}"
    yield from _unit_faults(raw.get("unit"))
    yield from logs_faults(raw.get("logs"))
    yield from _secrets_faults(raw.get("secrets", []))
    yield from _variables_faults(raw.get("variables", {}), raw.get("secrets", []))
    yield from _guest_faults(raw.get("guest", {"type": "lxc", "template": "-"}))
    yield from _sizes_faults(raw.get("sizes", {"default": dict.fromkeys(_SIZE_KEYS, 1)}))
    yield from _endpoints_faults(raw.get("endpoints", []))


def _unit_faults(unit: Any) -> Iterator[str]:
    if unit is not None and not (isinstance(unit, str) and re.fullmatch(UNIT_PATTERN, unit)):
        yield "unit must be the name of a systemd unit, such as redis-server"


def _guest_faults(guest: Any) -> Iterator[str]:
    if not isinstance(guest, Mapping):
        yield "guest must be a mapping with type and template"
        return
    yield from _key_faults("guest.", guest, ("type", "template"), ())
    if guest.get("type", "lxc") not in GUEST_TYPES:
        yield f"guest.type must be one of {', '.join(GUEST_TYPES)}"
    if "template" in guest and not _is_text(guest["template"]):
        yield "guest.template must be a text"


def wanted_secrets(raw: Any) -> tuple[WantedSecret, ...]:
    """The secrets of an entry, or of an option that has the same form; CatalogueError says what is wrong with them."""
    faults = list(_secrets_faults(raw))
    if faults:
        raise CatalogueError(f"the wanted secrets are not valid: {'; '.join(faults)}")
    return tuple(WantedSecret(str(item["name"]), item.get("length") or _DEFAULT_SECRET_LENGTH) for item in raw)


def _secrets_faults(secrets: Any) -> Iterator[str]:
    if not isinstance(secrets, list):
        yield "secrets must be a list of mappings with name and length"
        return
    names: set[str] = set()
    for index, secret in enumerate(secrets):
        where = f"secrets[{index}]."
        if not isinstance(secret, Mapping):
            yield f"{where[:-1]} must be a mapping with name and length"
            continue
        yield from _key_faults(where, secret, ("name",), ("length",))
        if "name" in secret and not _is_variable(secret["name"]):
            yield f"{where}name must be a variable of the role, such as mariadb_root_password"
        length = secret.get("length") or _DEFAULT_SECRET_LENGTH
        if not (_is_whole(length) and length in _SECRET_LENGTHS):
            yield f"{where}length must be a number from {_SECRET_LENGTHS[0]} to {_SECRET_LENGTHS[-1]}"
        if str(secret.get("name")) in names:
            yield f"{where}name {secret.get('name')} is used twice"
        names.add(str(secret.get("name")))


def _variables_faults(variables: Any, secrets: Any) -> Iterator[str]:
    if not isinstance(variables, Mapping):
        yield "variables must be a mapping of variables of the role to their values"
        return
    generated = {str(item.get("name")) for item in secrets if isinstance(item, Mapping)}
    for name in variables:
        if not _is_variable(name):
            yield f"variables.{name} must be named like a variable of the role, such as redis_port"
        elif name in generated:
            yield f"variables.{name} is one of the secrets too: a generated value can not be given"


def _sizes_faults(sizes: Any) -> Iterator[str]:
    if not isinstance(sizes, Mapping) or "default" not in sizes:
        yield "sizes must be a mapping that has at least default"
        return
    for name, size in sizes.items():
        if not isinstance(size, Mapping):
            yield f"sizes.{name} must be a mapping with {', '.join(_SIZE_KEYS)}"
            continue
        yield from _key_faults(f"sizes.{name}.", size, _SIZE_KEYS, ())
        for key in _SIZE_KEYS:
            if key in size and not (_is_whole(size[key]) and size[key] > 0):
                yield f"sizes.{name}.{key} must be a whole number above 0"


def _endpoints_faults(endpoints: Any) -> Iterator[str]:
    if not isinstance(endpoints, list):
        yield "endpoints must be a list"
        return
    names: set[str] = set()
    for index, endpoint in enumerate(endpoints):
        where = f"endpoints[{index}]."
        if not isinstance(endpoint, Mapping):
            yield f"{where[:-1]} must be a mapping with name, protocol and port"
            continue
        yield from _key_faults(where, endpoint, ("name", "protocol", "port"), ("health",))
        for key in ("name", "protocol"):
            if key in endpoint and not (_is_text(endpoint[key]) and _NAME.fullmatch(endpoint[key])):
                yield f"{where}{key} must be lower-case letters, digits and hyphens"
        if "port" in endpoint and not (_is_whole(endpoint["port"]) and 0 < endpoint["port"] < 65536):
            yield f"{where}port must be a number from 1 to 65535"
        if str(endpoint.get("name")) in names:
            yield f"{where}name {endpoint.get('name')} is used twice"
        names.add(str(endpoint.get("name")))
        yield from _health_faults(f"{where}health.", endpoint.get("health", {"type": "tcp"}))


def _health_faults(where: str, health: Any) -> Iterator[str]:
    if not isinstance(health, Mapping):
        yield f"{where[:-1]} must be a mapping with type"
        return
    yield from _key_faults(where, health, ("type",), ("timeout_seconds", "path", "expect_status"))
    if health.get("type", "tcp") not in HEALTH_TYPES:
        yield f"{where}type must be one of {', '.join(HEALTH_TYPES)}"
    timeout = health.get("timeout_seconds", 1)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 30:
        yield f"{where}timeout_seconds must be above 0 and at most 30"
    if not (_is_text(health.get("path", "/")) and health.get("path", "/").startswith("/")):
        yield f"{where}path must begin with /"
    status = health.get("expect_status", 200)
    if not (_is_whole(status) and 100 <= status <= 599):
        yield f"{where}expect_status must be an HTTP status"


def _key_faults(
    where: str, mapping: Mapping[str, Any], required: Iterable[str], optional: Iterable[str]
) -> Iterator[str]:
    required, optional = tuple(required), tuple(optional)
    for key in required:
        if key not in mapping:
            yield f"{where}{key} is missing"
    for key in mapping:
        if key not in required + optional:
            yield f"{where}{key} is not known"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_variable(value: Any) -> bool:
    return isinstance(value, str) and bool(_VARIABLE.fullmatch(value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
