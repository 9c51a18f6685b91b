# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a provider's quota lasts at the rate of the last hours (blueprint 8.4, case 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

HOUR_MS: Final = 3_600_000
LOOK_BACK_MS: Final = 3 * HOUR_MS
# From less nobody can tell a rate.
_SHORTEST_MS: Final = 5 * 60_000


@dataclass(frozen=True)
class Sample:
    """What had been used of the day's quota at a moment (Unix time in ms)."""

    at_ms: int
    used: int


@dataclass(frozen=True)
class Projection:
    """What will have been used at the reset, and when the quota is used up.

    ``runway`` is the part of the time until the reset for which it lasts, 0 to 1.
    """

    used: int
    limit: int
    per_hour: float
    at_reset: int
    exhausted_at_ms: int | None
    runway: float

    @property
    def is_short(self) -> bool:
        """Whether it will be used up before the reset."""
        return self.exhausted_at_ms is not None

    def as_data(self) -> dict[str, Any]:
        """For status and modules."""
        return {
            "used": self.used, "limit": self.limit, "per_hour": round(self.per_hour, 1), "at_reset": self.at_reset,
            "exhausted_at_ms": self.exhausted_at_ms, "runway": round(self.runway, 3),
        }  # fmt: skip


def project(
    samples: Sequence[Sample], used: int, limit: int, now_ms: int, reset_ms: int, start_ms: int = 0
) -> Projection:
    """Project a quota to its reset from samples of the same day, whatever their order."""
    rate = _rate(samples, used, now_ms, start_ms)
    until_reset = max(0, reset_ms - now_ms)
    at_reset = round(used + rate * until_reset)
    left = limit - used
    if left <= 0:
        return Projection(used, limit, rate * HOUR_MS, max(at_reset, used), now_ms, 0.0)
    if rate <= 0 or left >= rate * until_reset:
        return Projection(used, limit, rate * HOUR_MS, at_reset, None, 1.0)
    lasts = left / rate
    return Projection(used, limit, rate * HOUR_MS, at_reset, round(now_ms + lasts), lasts / until_reset)


def _rate(samples: Sequence[Sample], used: int, now_ms: int, start_ms: int) -> float:
    """Uses per ms, from the oldest sample within the look-back."""
    begin = max(start_ms, now_ms - LOOK_BACK_MS)
    recent = [sample for sample in samples if begin <= sample.at_ms <= now_ms - _SHORTEST_MS]
    if not recent:
        return 0.0
    oldest = min(recent, key=lambda sample: sample.at_ms)
    return max(0.0, (used - oldest.used) / (now_ms - oldest.at_ms))


def preferred_provider(
    projections: Mapping[str, Projection], qualities: Mapping[str, float], margin: float = 0.1
) -> str | None:
    """Who should be asked first for the next hours: the best that lasts, where a better one will run out early.

    ``qualities`` says how good the best model of each provider is; None where nobody runs short.
    """
    short = {name for name, projection in projections.items() if projection.is_short}
    lasting = [name for name in qualities if name not in short and _has_room(projections.get(name), margin)]
    if not short & set(qualities) or not lasting:
        return None
    best = max(lasting, key=lambda name: (qualities[name], name))
    return best if any(qualities[name] >= qualities[best] for name in short if name in qualities) else None


def _has_room(projection: Projection | None, margin: float) -> bool:
    return projection is None or projection.at_reset < projection.limit * (1 - margin)
