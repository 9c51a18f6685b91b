# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers and times as people say them."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SINGULAR: Final = {"nodes": "node", "guests": "guest", "services": "service", "alerts": "alert", "calls": "call"}


def age_in_words(seconds: float | None) -> str:
    """Two units at most: 41 s, 5 min, 2 h 10 min, 3 d 4 h."""
    if seconds is None:
        return "never"
    left = int(seconds)
    for index, (size, unit) in enumerate(_UNITS):
        if left >= size or size == 1:
            whole, rest = divmod(left, size)
            smaller = _UNITS[index + 1] if size > 60 else None
            finer = f" {rest // smaller[0]} {smaller[1]}" if smaller and rest >= smaller[0] else ""
            return f"{whole} {unit}{finer}"
    return "0 s"


def amount(number: int, plural: str) -> str:
    """1 guest, 2 guests."""
    return f"{number} {_SINGULAR.get(plural, plural) if number == 1 else plural}"
