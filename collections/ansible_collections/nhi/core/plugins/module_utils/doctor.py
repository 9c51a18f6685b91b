# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at the health of this installation found: one finding for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OK, WARN, FAIL = VERDICTS = ("ok", "warn", "fail")  # from the best to the worst


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, how it is, and what to do about it where it is not well."""

    check: str
    verdict: str
    text: str
    advice: str = ""

    @property
    def line(self) -> str:
        """For a person."""
        return f"{self.verdict:<4}  {self.check}: {self.text}{': ' + self.advice if self.advice else ''}"

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {"check": self.check, "verdict": self.verdict, "text": self.text, "advice": self.advice}


def worst(findings: Iterable[Finding]) -> str:
    """The verdict on all of them together."""
    return max((finding.verdict for finding in findings), key=VERDICTS.index, default=OK)


def age_words(seconds: float) -> str:
    """A duration, in the unit that fits it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
