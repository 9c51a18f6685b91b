"""Disks of guests: sizes, names, and the options that hold them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from lab.model import Config, Storage
from lab.server.properties import loose

_UNITS_MIB = {"": 1 / 2**20, "K": 1 / 2**10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}
DISK_OPTION = re.compile(r"(rootfs|mp\d+|(?:ide|sata|scsi|virtio)\d+|efidisk0|tpmstate0)")
BOOT_ORDER = ("rootfs", "scsi0", "virtio0", "sata0", "ide0")
DEFAULT_DISK_MIB = 4096


def parse_size(text: str) -> float:
    """A size with unit (`8G`, `512M`) in MiB; without unit it is bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    if not match:
        raise ValueError(f"not a size: {text}")
    return float(match[1]) * _UNITS_MIB[match[2]]


def print_size(mib: float) -> str:
    """A size in the largest unit that keeps it whole."""
    rounded = math.ceil(mib)
    return f"{rounded // 1024}G" if rounded % 1024 == 0 else f"{rounded}M"


def is_disk(option: str, value: str) -> bool:
    """An option that holds a disk of the guest's own (no CD)."""
    if not DISK_OPTION.fullmatch(option):
        return False
    parts = loose(value, "file")
    return parts.get("media") != "cdrom" and "cloudinit" not in parts.get("file", "")


def disk_options(config: Config) -> list[str]:
    """The guest's disks, the one it boots from first."""
    found = [option for option, value in config.items() if is_disk(option, str(value))]
    return sorted(found, key=lambda option: (BOOT_ORDER.index(option) if option in BOOT_ORDER else 99, option))


def disk_mib(config: Config) -> int:
    """The size of the first disk."""
    for option in disk_options(config):
        size = loose(str(config[option])).get("size")
        if size:
            return max(1, round(parse_size(size)))
    return DEFAULT_DISK_MIB


def storage_of(value: str) -> str:
    """The storage a disk lies on."""
    parts = loose(value)
    volume = parts.get("volume") or parts.get("file", "")
    return volume.partition(":")[0] if ":" in volume else ""


def storages_of(config: Config) -> list[str]:
    """Every storage that a guest has disks on."""
    return sorted({storage_of(str(config[option])) for option in disk_options(config)} - {""})


def volume_name(storage: Storage, vmid: int, taken: Iterable[str]) -> str:
    """The next free volume of a guest on a storage."""
    used = set(taken)
    pattern = f"{vmid}/vm-{vmid}-disk-{{}}.raw" if storage.type == "dir" else f"vm-{vmid}-disk-{{}}"
    number = 0
    while f"{storage.storage}:{pattern.format(number)}" in used:
        number += 1
    return f"{storage.storage}:{pattern.format(number)}"


def volumes_in(config: Config) -> list[str]:
    """The volume ids that a configuration names."""
    parts = (loose(str(value)) for option, value in config.items() if DISK_OPTION.fullmatch(option))
    return [volume for part in parts if (volume := part.get("volume") or part.get("file"))]
