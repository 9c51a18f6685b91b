# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables on a terminal or in a pipe: one column gives way when the terminal is too narrow, colours only where seen."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TextIO

from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_CODES: Final = {"red": "1;31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1"}
_GAP: Final = "  "
_NARROWEST: Final = 8


@dataclass(frozen=True)
class Cell:
    """A text and its colour; control characters, which could play with the terminal, are taken out."""

    text: str
    colour: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))


@dataclass(frozen=True)
class Screen:
    """Where output goes: its width (None where nobody looks at one) and whether it has colours."""

    width: int | None = None
    colours: bool = False

    def paint(self, text: str, colour: str) -> str:
        """The text in a colour, if there are any."""
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colour and self.colours and text else text

    def line(self, *cells: Cell) -> str:
        """Cells one after the other."""
        return "".join(self.paint(cell.text, cell.colour) for cell in cells)


def screen_of(stream: TextIO, environment: Mapping[str, str]) -> Screen:
    """What a stream is good for; NO_COLOR and a terminal that calls itself dumb are respected."""
    if not stream.isatty():
        return Screen()
    colours = not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    columns = environment.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) > 0 else os.get_terminal_size(stream.fileno()).columns
    return Screen(width or None, colours)


def lines_of(
    screen: Screen, headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, flexible: str
) -> Iterator[str]:
    """A table; the flexible column is folded when it is the last one and cut otherwise, so that the rest fits."""
    place = headings.index(flexible)
    widths = _widths(screen, headings, rows, place)
    yield _row(screen, [Cell(heading, "bold") for heading in headings], widths)
    for row in rows:
        yield from _rows(screen, row, widths, place)


def _widths(screen: Screen, headings: Sequence[str], rows: Sequence[Sequence[Cell]], flexible: int) -> list[int]:
    widths = [
        max(len(heading), *(len(row[column].text) for row in rows)) if rows else len(heading)
        for column, heading in enumerate(headings)
    ]
    if screen.width is not None:
        others = sum(widths) - widths[flexible] + len(_GAP) * (len(widths) - 1)
        widths[flexible] = min(widths[flexible], max(_NARROWEST, screen.width - others))
    return widths


def _rows(screen: Screen, row: Sequence[Cell], widths: Sequence[int], flexible: int) -> Iterator[str]:
    cell, width = row[flexible], widths[flexible]
    if len(cell.text) <= width:
        yield _row(screen, row, widths)
    elif flexible < len(widths) - 1:
        yield _row(
            screen, [*row[:flexible], Cell(cell.text[: width - 1] + "…", cell.colour), *row[flexible + 1 :]], widths
        )
    else:
        blank = [Cell("")] * flexible
        for number, part in enumerate(textwrap.wrap(cell.text, width)):
            yield _row(screen, [*(blank if number else row[:flexible]), Cell(part, cell.colour)], widths)


def _row(screen: Screen, cells: Sequence[Cell], widths: Sequence[int]) -> str:
    padded = (
        screen.paint(cell.text, cell.colour) + " " * (width - len(cell.text))
        for cell, width in zip(cells, widths, strict=True)
    )
    return _GAP.join(padded).rstrip()
