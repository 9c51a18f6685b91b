# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long restarts took: one line for each in ``restarts/history.jsonl``, and what that lets one expect."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .errors import StateError
from .files import explain, read_if_exists, sync_directory

DIRECTORY = "restarts"
_NAME = "history.jsonl"
# Older ones tell of other versions and other data.
_COUNTED = 20
RESTARTED = "restarted"


@dataclass(frozen=True)
class Estimate:
    """What to expect of a restart, in seconds; None where none was seen yet."""

    seconds: float | None = None
    longest_seconds: float | None = None
    samples: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"seconds": self.seconds, "longest_seconds": self.longest_seconds, "samples": self.samples}

    def __str__(self) -> str:
        if self.seconds is None:
            return "unknown, as none was recorded"
        return f"about {self.seconds:.1f} s (at most {self.longest_seconds:.1f} s in {self.samples})"


class RestartHistory:
    """What happened at earlier restarts, in the order in which they ended."""

    def __init__(self, state_dir: Path | str) -> None:
        self.path = Path(state_dir) / DIRECTORY / _NAME

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one restart down, flushed to the disk; StateError when that can not be done."""
        line = json.dumps(entry, sort_keys=True).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                # Whoever was killed in the middle of a line left it without its end.
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                os.write(descriptor, b"\n" + line if torn else line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(self.path.parent)
        except OSError as e:
            raise StateError(f"{self.path} can not be written: {explain(e)}; make room or correct state_dir") from e

    def entries(self) -> list[dict[str, Any]]:
        """All of them; a torn line is passed over."""
        try:
            raw = read_if_exists(self.path) or b""
        except OSError as e:
            raise StateError(f"{self.path} can not be read: {explain(e)}; correct its owner") from e
        found = []
        for line in raw.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                found.append(entry)
        return found

    def estimates(self, names: Iterable[str]) -> dict[str, Estimate]:
        """What to expect for each of these services: the middle of its last restarts that went well."""
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for entry in self.entries():
            took = entry.get("downtime_seconds")
            if entry.get("service") in seconds and entry.get("outcome") == RESTARTED and isinstance(took, (int, float)):
                seconds[entry["service"]].append(float(took))
        return {name: _estimate(took[-_COUNTED:]) for name, took in seconds.items()}


def _estimate(took: list[float]) -> Estimate:
    return Estimate(round(median(took), 2), round(max(took), 2), len(took)) if took else Estimate()
