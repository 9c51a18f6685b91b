# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration inside a backup: which guest it was, what it needs where it is restored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from urllib.parse import unquote

from .addresses import guest_nics, parse_properties
from .guest_config import size_gib
from .guest_spec import LXC, origin_of, split_marker, split_tags

_LINE = re.compile(r"([a-z][a-z0-9_-]*):\s*(.*)", re.IGNORECASE)
_DISK = re.compile(r"(?:rootfs|mp\d+|(?:scsi|virtio|ide|sata|efidisk|tpmstate)\d+)")
_VOLUME = re.compile(r"(?P<storage>[A-Za-z][A-Za-z0-9._-]*):\S+")


@dataclass(frozen=True)
class Archive:
    """A guest as it was when it was backed up."""

    type: str
    config: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its name then."""
        return self.config.get("hostname" if self.type == LXC else "name", "")

    @property
    def notes(self) -> str:
        """Its notes then, without our mark."""
        return split_marker(self.config.get("description"))[0]

    @property
    def origin(self) -> str | None:
        """What it was made from, if it says so."""
        return origin_of(self.config.get("description"))

    @property
    def tags(self) -> tuple[str, ...]:
        return split_tags(self.config.get("tags"))

    @property
    def bridges(self) -> tuple[str, ...]:
        """The bridges its interfaces hang on."""
        return tuple(sorted({nic.bridge for nic in guest_nics(self.type, self.config) if nic.bridge}))

    def space(self, storage: str | None) -> dict[str, int]:
        """GiB of disk by storage, all of it on ``storage`` if one is given."""
        needed: dict[str, float] = {}
        for option, value in self.config.items():
            volume = parse_properties(value, "volume")
            match = _VOLUME.fullmatch(volume.get("volume") or volume.get("file") or "")
            if _DISK.fullmatch(option) and match and volume.get("media") != "cdrom":
                target = storage or match["storage"]
                needed[target] = needed.get(target, 0.0) + (size_gib(volume.get("size", "")) or 0.0)
        return {name: ceil(gib) for name, gib in sorted(needed.items())}


def parse_archive(kind: str, text: str) -> Archive:
    """The text of ``extractconfig``; what follows the first section belongs to snapshots."""
    config: dict[str, str] = {}
    notes: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            break
        if line.startswith("#"):
            # Lines that vzdump itself adds begin with "#qmdump" or "#vzdump".
            notes += [] if line.startswith(("#qmdump", "#vzdump")) else [unquote(line[1:])]
        elif match := _LINE.fullmatch(line.strip()):
            config[match[1]] = match[2].strip()
    if notes:
        config["description"] = "\n".join(notes)
    return Archive(kind, config)
