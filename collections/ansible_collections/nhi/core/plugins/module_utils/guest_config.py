# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration language of Proxmox VE: sizes, flags, disks, addresses; and the shape of a change to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

from .addresses import parse_properties
from .guest_spec import LXC

DEFAULT_DISK_GIB = 4
_GIB = 1 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": _GIB, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
_DRIVE = re.compile(r"(?:ide|sata|scsi|virtio)\d+|efidisk0|tpmstate0")
_MOUNT = re.compile(r"rootfs|mp\d+")
_NETWORK = re.compile(r"(?:net|ipconfig)(\d+)")
_DISKS = ("scsi0", "virtio0", "sata0", "ide0")


@dataclass(frozen=True)
class Placement:
    """Where a new guest goes and what it is made of; every name in it was seen on the node."""

    node: str
    vmid: int
    storage: str | None = None
    template: str | None = None  # volume id of an LXC template
    clone_of: int | None = None  # VMID of the guest to clone
    clone_node: str | None = None
    # Fixed IPv4 addresses by the number of their interface; others have one by DHCP or none.
    addresses: Mapping[int, IPv4Interface] = field(default_factory=dict)
    # What is cloned as it was read, of which snapshot, and whether the copy stands on its own.
    source: Mapping[str, Any] = field(default_factory=dict)
    snapname: str | None = None
    full: bool = True

    @property
    def origin(self) -> str | None:
        """What the guest is made from, for its description; None for a machine with an empty disk."""
        if self.clone_of is None:
            return self.template
        return f"guest {self.clone_of} {self.source.get('hostname') or self.source.get('name') or ''}".rstrip()


@dataclass
class Drift:
    """What to change in a configuration; ``before`` and ``after`` say it in the operator's words."""

    set: dict[str, Any] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    grow: list[tuple[str, int]] = field(default_factory=list)  # disks with their new sizes in GiB
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    # What takes effect at the next restart only, with the option of the configuration that holds it.
    needs_restart: dict[str, str] = field(default_factory=dict)
    # Names of checks that fail, with what to do: what was asked for can not be reached.
    problems: list[tuple[str, str]] = field(default_factory=list)

    def note(self, what: str, before: Any, after: Any, *, restart: bool = False, option: str | None = None) -> None:
        """Record one difference."""
        self.before[what], self.after[what] = before, after
        if restart:
            self.needs_restart[what] = option or what


def format_properties(values: Mapping[str, str], default_key: str = "") -> str:
    """The inverse of parse_properties."""
    return ",".join(value if key == default_key else f"{key}={value}" for key, value in values.items())


def size_gib(text: str) -> float | None:
    """``8G`` or ``512M`` in GiB."""
    match = _SIZE.fullmatch(text)
    return float(match[1]) * _UNITS[match[2]] / _GIB if match else None


def flag(value: Any) -> bool:
    """A boolean of the API, which comes as 1, "1", 0, "0" or not at all."""
    return str(value or 0) not in ("0", "False", "")


def memory_mib(config: Mapping[str, Any]) -> int:
    """The memory of a configuration; newer QEMU guests write ``current=2048``."""
    text = str(config.get("memory") or 512)
    return int(parse_properties(text, "current").get("current", text))


def fixed_address(config: Mapping[str, Any], kind: str) -> IPv4Interface | None:
    """The address written in the first interface of a configuration; None when DHCP or none decides."""
    text = parse_properties(str(config.get("net0" if kind == LXC else "ipconfig0") or "")).get("ip", "")
    try:
        return IPv4Interface(text) if "/" in text else None
    except ValueError:
        return None


def fixed_address6(config: Mapping[str, Any], kind: str) -> IPv6Interface | None:
    """The IPv6 address written in the first interface of a configuration."""
    text = parse_properties(str(config.get("net0" if kind == LXC else "ipconfig0") or "")).get("ip6", "")
    try:
        return IPv6Interface(text) if "/" in text else None
    except ValueError:
        return None


def root_disk(config: Mapping[str, Any], kind: str) -> tuple[str, float | None]:
    """Name and size of the disk a guest boots from."""
    name = "rootfs"
    if kind != LXC:
        order = parse_properties(str(config.get("boot") or "")).get("order", "").split(";")
        candidates = [d for d in (*order, str(config.get("bootdisk") or ""), *_DISKS) if d in config]
        name = next((d for d in candidates if "media=cdrom" not in str(config[d])), "scsi0")
    return name, size_gib(parse_properties(str(config.get(name) or ""), "volume").get("size", ""))


def has_cloud_init_drive(config: Mapping[str, Any]) -> bool:
    """Whether a machine has the drive through which cloud-init hears of addresses, users and keys."""
    return any(_DRIVE.fullmatch(key) and "cloudinit" in str(value) for key, value in config.items())


def storages_of(config: Mapping[str, Any]) -> list[str]:
    """Every storage that holds a disk of the guest; the cloud-init drive is one too."""
    found = set()
    for key, value in config.items():
        text = str(value)
        if not (_DRIVE.fullmatch(key) or _MOUNT.fullmatch(key)) or text.startswith(("/", "none")):
            continue
        if "media=cdrom" not in text or "cloudinit" in text:
            found.add(text.partition(",")[0].removeprefix("volume=").removeprefix("file=").partition(":")[0])
    return sorted(found)


def bound_paths(config: Mapping[str, Any]) -> dict[str, str]:
    """Mount points of a container that are paths of its node, not volumes."""
    volumes = {key: parse_properties(str(value), "volume").get("volume", "") for key, value in config.items()}
    return {key: path for key, path in volumes.items() if _MOUNT.fullmatch(key) and path.startswith("/")}


def waiting_options(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The options of an answer of ``GET pending`` whose new value waits for the guest's next restart."""
    return sorted({str(e["key"]) for e in entries if "pending" in e or flag(e.get("delete"))})


def restart_words(options: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """Options that wait for a restart in the operator's words; ``known`` has words of this run with their option."""
    waiting = set(options)
    words = [word for word, option in known.items() if option in waiting]
    words += [_word(option) for option in sorted(waiting - set(known.values()))]
    return list(dict.fromkeys(words))


def _word(option: str) -> str:
    match = _NETWORK.fullmatch(option)
    if not match:
        return option
    return "network" if match[1] == "0" else f"networks[{match[1]}]"
