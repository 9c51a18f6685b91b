# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between a wanted guest and its configuration, and the change that corrects it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .addresses import parse_properties
from .errors import PreflightError
from .guest_config import Drift, flag, format_properties, memory_mib, root_disk, size_gib
from .guest_extras import NESTING, Volume, check_features
from .guest_interfaces import compare_interfaces
from .guest_spec import LXC, Wanted, origin_of, split_marker, split_tags, with_marker

_DEFAULT_SWAP_MIB = 512


def drift(wanted: Wanted, config: Mapping[str, Any], kind: str) -> Drift:
    """What differs between a wish and a configuration, in both languages, and what of it can not be changed."""
    found = Drift()
    _allowed(found, "options", lambda: wanted.require_kind(kind))
    machine = kind != LXC
    _number(found, "cores", wanted.cores, int(config.get("cores") or (1 if machine else 0)), restart=machine)
    _number(found, "memory", wanted.memory_mib, memory_mib(config), restart=machine)
    for name, value in (("onboot", wanted.onboot), ("protection", wanted.protection)):
        if value is not None and value != flag(config.get(name)):
            found.set[name] = int(value)
            found.note(name, flag(config.get(name)), value)
    _tags(found, wanted, config)
    _describe(found, wanted, config)
    _startup(found, wanted, config)
    _disk(found, wanted, config, kind)
    compare_interfaces(found, wanted, config, kind)
    _text(found, "nameserver", wanted.nameserver, config)
    _text(found, "searchdomain", wanted.searchdomain, config)
    (_machine if machine else _container)(found, wanted, config)
    return found


def volume_text(volume: Volume, storage: str | None) -> str:
    """A new volume as Proxmox VE wants it; PreflightError when its size is not known."""
    if volume.size_gib is None:
        raise PreflightError(f"mount_volumes {volume.id} does not exist yet and has no size: say how many GiB")
    properties = {"volume": f"{volume.storage or storage}:{volume.size_gib}", "mp": volume.mountpoint}
    return format_properties({**properties, **volume.options}, "volume")


def _number(found: Drift, name: str, wanted: int | None, present: int, *, restart: bool) -> None:
    if wanted is not None and wanted != present:
        found.set[name] = wanted
        found.note(name, present, wanted, restart=restart)


def _text(found: Drift, name: str, wanted: str | None, config: Mapping[str, Any]) -> None:
    """An option that a running guest reads at its start only; an empty wish removes it."""
    present = str(config.get(name) or "")
    if wanted is None or wanted == present:
        return
    found.note(name, present or None, wanted or None, restart=True)
    if wanted:
        found.set[name] = wanted
    else:
        found.delete.append(name)


def _tags(found: Drift, wanted: Wanted, config: Mapping[str, Any]) -> None:
    present = split_tags(config.get("tags"))
    tags = wanted.all_tags(present)
    if tags is None or tags == present:
        return
    found.note("tags", list(present), list(tags))
    if tags:
        found.set["tags"] = ";".join(tags)
    else:
        found.delete.append("tags")


def _describe(found: Drift, wanted: Wanted, config: Mapping[str, Any]) -> None:
    present, operation = split_marker(config.get("description"))
    if wanted.description is None or wanted.description == present:
        return
    found.note("description", present, wanted.description)
    text = with_marker(wanted.description, operation, origin_of(config.get("description")))
    if text:
        found.set["description"] = text
    else:
        found.delete.append("description")


def _startup(found: Drift, wanted: Wanted, config: Mapping[str, Any]) -> None:
    # A bare number means the order.
    present = parse_properties(str(config.get("startup") or ""), "order")
    after = {**present, **wanted.startup.given()}
    if after != present:
        found.set["startup"] = format_properties(after)
        found.note("startup", format_properties(present) or None, format_properties(after))


def _disk(found: Drift, wanted: Wanted, config: Mapping[str, Any], kind: str) -> None:
    name, present = root_disk(config, kind)
    if wanted.disk_gib is None or present is None or wanted.disk_gib == present:
        return
    if wanted.disk_gib < present:
        text = f"the disk {name} of {wanted.name} has {present:g} GiB and can not shrink to {wanted.disk_gib} GiB:"
        text += f" set disk to {present:g} or more, or make a new guest under another name"
        found.problems.append(("disk", text))
        return
    found.grow.append((name, wanted.disk_gib))
    found.note("disk", present, wanted.disk_gib)


def _machine(found: Drift, wanted: Wanted, config: Mapping[str, Any]) -> None:
    # The password can not be read back, so it is never compared.
    for name, wish in (("ciuser", wanted.ciuser), ("cpu", wanted.cpu)):
        _text(found, name, wish, config)
    if wanted.balloon_mib is not None:
        present = int(config.get("balloon", memory_mib(config)))
        # Turning the balloon device on or off needs a restart; another size does not.
        _number(found, "balloon", wanted.balloon_mib, present, restart=not (wanted.balloon_mib and present))


def _container(found: Drift, wanted: Wanted, config: Mapping[str, Any]) -> None:
    unprivileged = flag(config.get("unprivileged"))
    if wanted.unprivileged is not None and wanted.unprivileged != unprivileged:
        text = f"{wanted.name} is {'un' if unprivileged else ''}privileged, which can not be changed:"
        text += f" set unprivileged to {str(unprivileged).lower()}, or make a new guest under another name"
        found.problems.append(("unprivileged", text))
    _number(found, "swap", wanted.swap_mib, int(config.get("swap", _DEFAULT_SWAP_MIB)), restart=False)
    _text(found, "timezone", wanted.timezone, config)
    features = parse_properties(str(config.get("features") or ""))
    nesting = {} if wanted.nesting is None else {NESTING: str(int(wanted.nesting))}
    wish = {**wanted.features, **nesting}
    _allowed(found, "features", lambda: check_features(wanted.name, wish, features, unprivileged=unprivileged))
    if wanted.nesting is not None and wanted.nesting != flag(features.get(NESTING)):
        found.note("nesting", flag(features.get(NESTING)), wanted.nesting)
        found.needs_restart["features"] = "features"
        found.set["features"] = format_properties({**features, **nesting})
    for volume in wanted.volumes:
        _allowed(found, "volume", partial(_volume, found, wanted, volume, config))


def _allowed(found: Drift, name: str, look: Callable[[], None]) -> None:
    try:
        look()
    except PreflightError as e:
        found.problems.append((name, str(e)))


def _volume(found: Drift, wanted: Wanted, volume: Volume, config: Mapping[str, Any]) -> None:
    label = f"mount_volumes.{volume.id}"
    if volume.id not in config:
        root = parse_properties(str(config.get("rootfs") or ""), "volume").get("volume", "")
        text = volume_text(volume, root.partition(":")[0])
        found.set[volume.id] = text
        found.note(label, None, text)
        return
    present = parse_properties(str(config[volume.id]), "volume")
    storage, size = present.get("volume", "").partition(":")[0], size_gib(present.get("size", ""))
    if volume.storage and volume.storage != storage:
        raise PreflightError(
            f"{volume.id} of {wanted.name} lies on {storage or present.get('volume')}, not on {volume.storage}:"
            " correct mount_volumes, or move the volume first (pct move-volume)"
        )
    if volume.size_gib is not None and size is not None and volume.size_gib < size:
        raise PreflightError(
            f"{volume.id} of {wanted.name} has {size:g} GiB and can not shrink to {volume.size_gib} GiB:"
            f" set its size to {size:g} or more"
        )
    after = {**present, "mp": volume.mountpoint, **volume.options}
    if after != present:
        found.set[volume.id] = format_properties(after, "volume")
        changed = {k: v for k, v in after.items() if v != present.get(k)}
        before = format_properties({k: present[k] for k in changed if k in present})
        found.note(label, before or None, format_properties(changed), restart=True, option=volume.id)
    if volume.size_gib is not None and size is not None and volume.size_gib > size:
        found.grow.append((volume.id, volume.size_gib))
        found.note(f"{label}.size", size, volume.size_gib)
