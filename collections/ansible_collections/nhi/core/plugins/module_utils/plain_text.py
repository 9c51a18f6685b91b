# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text from elsewhere (a guest's name, its notes, what its service answers) as text and nothing else.

Whoever owns a guest decides what such texts say: they may not move the cursor of a terminal, forge a line of a log or a
row of a table, or turn the reading direction.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any


def printable(text: str) -> str:
    """The text on one line; each character that nobody can see, such as a control character, is a question mark."""
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """The same, line by line: for notes, in which lines are no harm."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def printable_parts(value: Any, shown: Callable[[str], str] = printable) -> Any:
    """The same for every text in lists and mappings; names in mappings are ours and stay."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {name: printable_parts(part, shown) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable_parts(part, shown) for part in value]
    return value


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    # Spaces of other widths are the only ones of those that people write.
    return " " if unicodedata.category(character) == "Zs" else "?"
