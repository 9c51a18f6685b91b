# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start order, features and extra volumes: what is wanted of them, and what no API token can be given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import PreflightError

# The one feature that Proxmox VE lets anybody but root@pam change.
NESTING = "nesting"
FEATURES = ("force_rw_sys", "fuse", "keyctl", "mknod", "mount", NESTING)
_VOLUME_ID = re.compile(r"mp(\d{1,3})")
_MOST_VOLUMES = 256
_VOLUME_KEYS = ("acl", "backup", "mountoptions", "quota", "replicate", "ro", "shared")


@dataclass(frozen=True)
class Startup:
    """Place in the order of starting, and the seconds to wait after it."""

    order: int | None = None
    up: int | None = None
    down: int | None = None

    def given(self) -> dict[str, str]:
        """What was said, as properties of the option ``startup``."""
        values = {"order": self.order, "up": self.up, "down": self.down}
        return {key: str(value) for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Volume:
    """One more volume of a container."""

    id: str
    mountpoint: str
    storage: str | None = None
    size_gib: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def parse_startup(params: Mapping[str, Any] | None) -> Startup:
    """The option ``startup``."""
    given = {key: value for key, value in (params or {}).items() if value is not None}
    for key, value in given.items():
        if value < 0:
            raise PreflightError(f"startup.{key} {value} is negative: use 0 or more")
    return Startup(**given)


def parse_features(items: Sequence[str] | None) -> dict[str, str]:
    """The option ``features``: items such as ``nesting``, ``nesting=1`` or ``mount=nfs``."""
    found: dict[str, str] = {}
    for item in items or ():
        name, equals, value = item.strip().partition("=")
        if name not in FEATURES:
            raise PreflightError(f"feature '{name}' does not exist: features are {', '.join(FEATURES)}")
        found[name] = value if equals else "1"
    return found


def check_features(guest: str, wanted: Mapping[str, str], present: Mapping[str, str], *, unprivileged: bool) -> None:
    """Refuse a change of features that Proxmox VE keeps for root@pam; an API token is never root@pam."""
    changed = sorted(n for n, v in wanted.items() if _off(v) != _off(present.get(n)))
    reserved = changed if not unprivileged else [n for n in changed if n != NESTING]
    if not reserved:
        return
    why = (
        f"Proxmox VE lets only root@pam, logged in with a password, change {', '.join(reserved)}"
        if unprivileged
        else f"{guest} is privileged, and Proxmox VE lets only root@pam change any feature of a privileged container"
    )
    kept = {**present, **{name: wanted[name] for name in changed}}
    value = ",".join(f"{n}={v}" for n, v in sorted(kept.items()) if _off(v))
    raise PreflightError(
        f"features {', '.join(reserved)} of {guest} can not be set with an API token: {why}. Leave them out here and"
        f" run on the node: pct set VMID --features '{value}'"
    )


def _off(value: str | None) -> str:
    """A feature that is not there is off."""
    return "" if value in (None, "", "0") else str(value)


def parse_volumes(items: Iterable[Mapping[str, Any]] | None) -> tuple[Volume, ...]:
    """The option ``mount_volumes``; what would need root@pam is refused with the reason."""
    found = tuple(_volume(item) for item in items or ())
    for what, values in (("id", [v.id for v in found]), ("mountpoint", [v.mountpoint for v in found])):
        twice = sorted({v for v in values if values.count(v) > 1})
        if twice:
            raise PreflightError(f"mount_volumes has two with the {what} {', '.join(twice)}: each has its own")
    return found


def _volume(item: Mapping[str, Any]) -> Volume:
    name, path = str(item["id"]), str(item["mountpoint"])
    match = _VOLUME_ID.fullmatch(name)
    if not match or int(match[1]) >= _MOST_VOLUMES:
        raise PreflightError(f"mount_volumes id '{name}' is not a mount point: use mp0 to mp{_MOST_VOLUMES - 1}")
    host_path, storage = item.get("host_path"), item.get("storage")
    if host_path or str(storage or "").startswith("/"):
        raise PreflightError(
            f"mount_volumes {name} binds {host_path or storage} of the node: Proxmox VE lets only root@pam, logged in"
            f" with a password, bind a path, never an API token. Give a storage and a size instead, or run on the"
            f" node: pct set VMID --{name} {host_path or storage},mp={path}"
        )
    if not path.startswith("/") or path == "/" or re.search(r"[,\s]|/\.\.?(/|$)", path):
        raise PreflightError(f"mount_volumes {name} has the mount point '{path}': use an absolute path such as /data")
    size = item.get("size")
    if size is not None and size < 1:
        raise PreflightError(f"mount_volumes {name} has a size of {size} GiB: the least is 1")
    options = {str(k): str(v) for k, v in (item.get("options") or {}).items()}
    for key, value in options.items():
        if key not in _VOLUME_KEYS or re.search(r"[,=\s]", value):
            raise PreflightError(
                f"mount_volumes {name} has the option {key}={value}: options are {', '.join(_VOLUME_KEYS)}"
            )
    return Volume(name, path, storage, size, options)
