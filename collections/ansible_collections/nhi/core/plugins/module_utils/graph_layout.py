# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Places for the boxes and lines of a picture of the dependency graph: in columns, what is needed on the left.

The way of Sugiyama, Tagawa and Toda: columns by the longest way to what needs nothing, lines over several columns
through a place of their own in each, boxes in the order with few crossings, then moved level with their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

_SWEEPS, _ALIGNMENTS = 12, 24

Key = tuple[str, ...]  # (name) of a box, or (from, to, column) of a line that passes a column


@dataclass(frozen=True)
class Box:
    """Where a service is drawn, in pixels; x and y are its upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Line:
    """An edge from what is needed to what needs it: points to draw through, from left to right."""

    needed: str
    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layout:
    """All of them, and how much room they take."""

    boxes: Mapping[str, Box]
    lines: Sequence[Line]
    width: float
    height: float


@dataclass(frozen=True)
class Spacing:
    """Sizes in pixels. ``leads`` is the room left of each column for words at its lines."""

    box_height: float = 50
    row_gap: float = 18
    column_gap: float = 76
    slot: float = 16
    line_gap: float = 14


def layers(needs: Mapping[str, Sequence[str]], order: Sequence[str]) -> dict[str, int]:
    """The column of each service: one more than that of the last it needs. ``order`` has what is needed first."""
    column: dict[str, int] = {}
    for name in order:
        column[name] = max((column[needed] + 1 for needed in needs[name]), default=0)
    return column


def layout(
    needs: Mapping[str, Sequence[str]],
    order: Sequence[str],
    widths: Mapping[str, float],
    leads: Mapping[str, float],
    spacing: Spacing = Spacing(),
) -> Layout:
    """Place every service; ``leads`` has the width of the words at the lines that come into each."""
    column = layers(needs, order)
    ways = {(needed, name): _way(needed, name, column) for name in order for needed in needs[name]}
    columns = _columns(order, column, ways)
    neighbours = _neighbours(ways)
    _untangle(columns, neighbours)
    heights = {key: _height(key, needs, spacing) for keys in columns for key in keys}
    tops = _align(columns, neighbours, heights, spacing)
    boxes, width = _boxes(columns, tops, heights, widths, leads, spacing)
    lines = [_line(way, boxes, tops, heights, ways, spacing) for way in ways.values()]
    height = max((box.y + box.height for box in boxes.values()), default=0.0)
    lowest = max((y for line in lines for _x, y in line.points), default=0.0)
    return Layout(boxes, lines, width, max(height, lowest))


def _way(needed: str, name: str, column: Mapping[str, int]) -> list[Key]:
    between = range(column[needed] + 1, column[name])
    return [(needed,), *((needed, name, str(c)) for c in between), (name,)]


def _columns(
    order: Sequence[str], column: Mapping[str, int], ways: Mapping[tuple[str, str], list[Key]]
) -> list[list[Key]]:
    columns: list[list[Key]] = [[] for _column in range(max(column.values(), default=-1) + 1)]
    for name in order:
        columns[column[name]].append((name,))
    for way in ways.values():
        for key in way[1:-1]:
            columns[int(key[2])].append(key)
    return columns


def _neighbours(ways: Mapping[tuple[str, str], list[Key]]) -> dict[Key, tuple[list[Key], list[Key]]]:
    """What each is joined with in the column on its left, and on its right."""
    found: dict[Key, tuple[list[Key], list[Key]]] = {}
    for way in ways.values():
        for left, right in pairwise(way):
            found.setdefault(left, ([], []))[1].append(right)
            found.setdefault(right, ([], []))[0].append(left)
    return found


def _untangle(columns: list[list[Key]], neighbours: Mapping[Key, tuple[list[Key], list[Key]]]) -> None:
    """Order each column by where its neighbours stand, to and fro, and keep what crosses least."""
    best, least = [list(keys) for keys in columns], _crossings(columns, neighbours)
    for sweep in range(_SWEEPS):
        side = sweep % 2
        for keys in columns[1:] if side == 0 else columns[-2::-1]:
            beside = columns[columns.index(keys) + (-1 if side == 0 else 1)]
            rank = {key: place for place, key in enumerate(beside)}
            weight = {
                key: fmean(rank[n] for n in neighbours[key][side]) if neighbours.get(key, ([], []))[side] else place
                for place, key in enumerate(keys)
            }
            keys.sort(key=lambda key: weight[key])
        now = _crossings(columns, neighbours)
        if now < least:
            best, least = [list(keys) for keys in columns], now
    for keys, kept in zip(columns, best, strict=True):
        keys[:] = kept


def _crossings(columns: list[list[Key]], neighbours: Mapping[Key, tuple[list[Key], list[Key]]]) -> int:
    count = 0
    for left, right in pairwise(columns):
        rank = {key: place for place, key in enumerate(right)}
        ends = [rank[n] for key in left for n in sorted(neighbours.get(key, ([], []))[1], key=lambda n: rank[n])]
        count += sum(1 for i, a in enumerate(ends) for b in ends[i + 1 :] if a > b)
    return count


def _height(key: Key, needs: Mapping[str, Sequence[str]], spacing: Spacing) -> float:
    if len(key) > 1:
        return 0.0
    return max(spacing.box_height, len(needs[key[0]]) * spacing.slot + 12)


def _align(
    columns: list[list[Key]],
    neighbours: Mapping[Key, tuple[list[Key], list[Key]]],
    heights: Mapping[Key, float],
    spacing: Spacing,
) -> dict[Key, float]:
    """The upper edge of each: level with its neighbours, in order, nothing on top of another."""
    tops: dict[Key, float] = {}
    for keys in columns:
        y = 0.0
        for key in keys:
            tops[key] = y
            y += heights[key] + _gap(key, spacing)
    for turn in range(_ALIGNMENTS):
        side = turn % 2
        for keys in columns if side == 0 else columns[::-1]:
            wanted = []
            for key in keys:
                near = neighbours.get(key, ([], []))
                beside = near[side] or near[1 - side]
                middle = fmean(tops[n] + heights[n] / 2 for n in beside) if beside else tops[key] + heights[key] / 2
                wanted.append(middle - heights[key] / 2)
            tops.update(zip(keys, _spread(keys, wanted, heights, spacing), strict=True))
    highest = min(tops.values(), default=0.0)
    return {key: top - highest for key, top in tops.items()}


def _spread(
    keys: Sequence[Key], wanted: Sequence[float], heights: Mapping[Key, float], spacing: Spacing
) -> list[float]:
    """Places as near as possible to the wanted ones that keep order and distance: blocks that touch move as one."""
    blocks: list[tuple[float, list[int], float]] = []  # where the first wants to be, members, height
    for index, key in enumerate(keys):
        start, members, size = wanted[index], [index], heights[key] + _gap(key, spacing)
        while blocks and blocks[-1][0] + blocks[-1][2] > start:
            before, others, length = blocks.pop()
            weight = len(others) / (len(others) + len(members))
            start = before * weight + (start - length) * (1 - weight)
            members, size = others + members, length + size
        blocks.append((start, members, size))
    tops = [0.0] * len(keys)
    for start, members, _size in blocks:
        for index in members:
            tops[index] = start
            start += heights[keys[index]] + _gap(keys[index], spacing)
    return tops


def _gap(key: Key, spacing: Spacing) -> float:
    return spacing.row_gap if len(key) == 1 else spacing.line_gap


def _boxes(
    columns: list[list[Key]],
    tops: Mapping[Key, float],
    heights: Mapping[Key, float],
    widths: Mapping[str, float],
    leads: Mapping[str, float],
    spacing: Spacing,
) -> tuple[dict[str, Box], float]:
    boxes: dict[str, Box] = {}
    x = 0.0
    for number, keys in enumerate(columns):
        names = [key[0] for key in keys if len(key) == 1]
        if number:
            x += spacing.column_gap + max((leads[name] for name in names), default=0.0)
        width = max((widths[name] for name in names), default=0.0)
        for name in names:
            boxes[name] = Box(x, tops[(name,)], width, heights[(name,)])
        x += width
    return boxes, x


def _line(
    way: list[Key],
    boxes: Mapping[str, Box],
    tops: Mapping[Key, float],
    heights: Mapping[Key, float],
    ways: Mapping[tuple[str, str], list[Key]],
    spacing: Spacing,
) -> Line:
    needed, name = way[0][0], way[-1][0]
    left, right = boxes[needed], boxes[name]
    incoming = sorted((w for w in ways.values() if w[-1] == way[-1]), key=lambda w: tops[w[-2]] + heights[w[-2]] / 2)
    y = right.y + right.height / 2 + (incoming.index(way) - (len(incoming) - 1) / 2) * spacing.slot
    points = [(left.x + left.width, left.y + left.height / 2)]
    columns = sorted({(box.x, box.x + box.width) for box in boxes.values()})
    for key in way[1:-1]:
        start, end = columns[int(key[2])]
        points += [(start, tops[key]), (end, tops[key])]
    points.append((right.x, y))
    return Line(needed, name, tuple(points))
