# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dependency graph as a picture: text of Mermaid, or an SVG that reads well in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from itertools import pairwise

from .graph import DependencyGraph, Need, Service
from .graph_layout import Box, Line, layout
from .graph_places import Place
from .plain_text import printable

# Health in the order of the legend: fill and edge in light, then in dark.
_COLOURS = {
    "healthy": ("#dff3e4", "#2c8a4b", "#173a25", "#56c07c"),
    "unhealthy": ("#fde1df", "#c0342b", "#4a1c1a", "#f0776e"),
    "stopped": ("#e6e8ec", "#6b7582", "#2b3038", "#98a3b1"),
    "unknown": ("#fff3d6", "#a87408", "#40310d", "#e0b04a"),
}
_INK, _MUTED, _PAPER = ("#1c2733", "#e6edf3"), ("#52606f", "#9da9b5"), ("#ffffff", "#0d1117")
_FONT = "ui-sans-serif,system-ui,'Segoe UI',Roboto,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif"
_MARGIN, _TITLE, _LEGEND = 24.0, 44.0, 58.0
_PADDING, _LEAST_WIDTH = 14.0, 116.0
# Widths of a letter in the fonts above, as much as the widest of them needs.
_NAME_SIZE, _NAME_LETTER, _NOTE_SIZE, _NOTE_LETTER, _LABEL_LETTER = 14, 8.6, 11.5, 6.9, 6.6
_LONGEST = 34
_WORDS = {"healthy": "healthy", "unhealthy": "unhealthy", "stopped": "stopped", "unknown": "health unknown"}


def mermaid(graph: DependencyGraph, found: Mapping[str, Place]) -> str:
    """A flowchart for Mermaid, as Markdown shows it in a block of that name."""
    number = {name: f"s{place}" for place, name in enumerate(graph.start_order(graph.services))}
    lines = ["flowchart LR"]
    for name, key in number.items():
        critical = graph.services[name].criticality == "critical"
        left, right = ("[[", "]]") if critical else ("[", "]")
        text = f"{_plain(name)}<br/>{_plain(_note(graph.services[name], found[name]))}"
        lines.append(f'    {key}{left}"{text}"{right}:::{found[name].health}')
    for name, key in number.items():
        for need in graph.services[name].needs:
            arrow = f'-- "{_plain(need.label)}" -->' if need.label else "-->"
            lines.append(f"    {number[need.service]} {arrow} {key}")
    for health, (fill, edge, _dark_fill, _dark_edge) in _COLOURS.items():
        lines.append(f"    classDef {health} fill:{fill},stroke:{edge},color:{_INK[0]}")
    return "\n".join(lines) + "\n"


def svg(graph: DependencyGraph, found: Mapping[str, Place], title: str = "What depends on what") -> str:
    """A picture that needs nothing else: columns from what is needed to what needs it, coloured by health."""
    return "\n".join(_drawing(graph, found, title)) + "\n"


def _drawing(graph: DependencyGraph, found: Mapping[str, Place], title: str) -> Iterator[str]:
    order = graph.start_order(graph.services)
    notes = {name: _note(graph.services[name], found[name]) for name in order}
    drawn = layout(
        {name: graph.services[name].depends_on for name in order},
        order,
        {name: _width(name, notes[name]) for name in order},
        {name: max((len(n.label) for n in graph.services[name].needs), default=0) * _LABEL_LETTER for name in order},
    )
    width = max(drawn.width, _legend_width()) + 2 * _MARGIN
    height = drawn.height + _TITLE + _LEGEND + 2 * _MARGIN
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" role="img" aria-label="{_xml(_summary(graph, found))}">'
    )
    yield _style()
    yield (
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0 L10 5 L0 10 z"/></marker></defs>'
    )
    yield '<rect class="paper" width="100%" height="100%"/>'
    yield f'<text class="title" x="{_MARGIN:.0f}" y="{_MARGIN + 18:.0f}">{_xml(title)}</text>'
    yield f'<g transform="translate({_MARGIN:.0f} {_MARGIN + _TITLE:.0f})">'
    needs = {(need.service, name): need for name in order for need in graph.services[name].needs}
    for line in drawn.lines:
        yield _edge(line, needs[line.needed, line.name])
    for line in drawn.lines:
        yield from _label(line, needs[line.needed, line.name])
    for name in order:
        yield from _node(graph.services[name], found[name], notes[name], drawn.boxes[name])
    yield "</g>"
    yield from _legend(_MARGIN + _TITLE + drawn.height + _MARGIN + 12)
    yield "</svg>"


def _edge(line: Line, need: Need) -> str:
    points = line.points
    lead = len(need.label) * _LABEL_LETTER
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for index, ((x1, y1), (x2, y2)) in enumerate(pairwise(points)):
        last = index == len(points) - 2
        if index % 2:  # through a column, beside its boxes
            path.append(f"L{x2:.1f} {y2:.1f}")
            continue
        end = x2 - lead - 10 if last else x2
        bend = (x1 + end) / 2
        path.append(f"C{bend:.1f} {y1:.1f} {bend:.1f} {y2:.1f} {end:.1f} {y2:.1f}")
        if last:
            path.append(f"L{x2 - 1:.1f} {y2:.1f}")
    tip = f"{line.name} needs {line.needed}" + (f" ({need.label})" if need.label else "")
    return f'<path class="edge" d="{" ".join(path)}" marker-end="url(#arrow)"><title>{_xml(tip)}</title></path>'


def _label(line: Line, need: Need) -> Iterator[str]:
    if need.label:
        x, y = line.points[-1]
        yield f'<text class="label" x="{x - 11:.1f}" y="{y - 5:.1f}" text-anchor="end">{_xml(need.label)}</text>'


def _node(service: Service, place: Place, note: str, box: Box) -> Iterator[str]:
    css = f"box {place.health}" + (" critical" if service.criticality == "critical" else "")
    size = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    middle, y = f'x="{box.x + box.width / 2:.1f}" text-anchor="middle"', box.y + box.height / 2
    yield f"<g><title>{_xml(service.description or service.name)}</title>"
    yield f'<rect class="{css}" {size} rx="9"/>'
    yield f'<text class="name" {middle} y="{y - 4:.1f}">{_xml(_short(service.name))}</text>'
    yield f'<text class="note" {middle} y="{y + 14:.1f}">{_xml(_short(note))}</text></g>'


_ARROW = "from what is needed to what needs it; words at an arrow say for what, and at which port"
_LEGEND_ITEMS = (*_WORDS.items(), ("critical", "critical service"))


def _legend(y: float) -> Iterator[str]:
    yield f'<g transform="translate({_MARGIN:.0f} {y:.0f})">'
    x = 0.0
    for css, words in _LEGEND_ITEMS:
        classes = f"box {css}" if css != "critical" else "box blank critical"
        yield f'<rect class="{classes}" x="{x + 1:.1f}" y="1" width="22" height="14" rx="4"/>'
        yield f'<text class="note" x="{x + 31:.1f}" y="12">{words}</text>'
        x += _legend_step(words)
    yield '<path class="edge" d="M0 34 L34 34" marker-end="url(#arrow)"/>'
    yield f'<text class="note" x="44" y="38">{_ARROW}</text></g>'


def _legend_step(words: str) -> float:
    return 31 + len(words) * _NOTE_LETTER + 18


def _legend_width() -> float:
    return max(sum(_legend_step(words) for _css, words in _LEGEND_ITEMS), 44 + len(_ARROW) * _NOTE_LETTER)


def _note(service: Service, place: Place) -> str:
    """The second line of a box: how it is, and where, unless that is its own name."""
    where = place.guest if place.guest and place.guest != service.name else None
    return " · ".join(part for part in (_WORDS[place.health], where) if part)


def _width(name: str, note: str) -> float:
    longest = max(len(_short(name)) * _NAME_LETTER, len(_short(note)) * _NOTE_LETTER)
    return max(_LEAST_WIDTH, longest + 2 * _PADDING)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _xml(text: str) -> str:
    """Text between tags or in an attribute; XML knows no control characters, not even escaped."""
    return escape(printable(text), quote=True)


def _plain(text: str) -> str:
    """Text that can not end a label of Mermaid or be read as HTML."""
    return "".join(f"#{ord(c)};" if c in '"<>&#|`' or not c.isprintable() else c for c in text)


def _summary(graph: DependencyGraph, found: Mapping[str, Place]) -> str:
    counts = {health: sum(place.health == health for place in found.values()) for health in _COLOURS}
    told = ", ".join(f"{number} {_WORDS[health]}" for health, number in counts.items() if number)
    return f"Dependency graph of {len(graph.services)} services: {told or 'none'}"


def _style() -> str:
    return "<style>\n" + "\n".join([*_rules(0), "@media(prefers-color-scheme:dark){", *_rules(1), "}"]) + "\n</style>"


def _rules(scheme: int) -> Iterator[str]:
    ink, muted, paper = _INK[scheme], _MUTED[scheme], _PAPER[scheme]
    if scheme == 0:
        yield f"text{{font-family:{_FONT}}}"
        yield ".title{font-size:17px;font-weight:600}.box{stroke-width:1.4}.critical{stroke-width:3.2}"
        yield f".name{{font-size:{_NAME_SIZE}px;font-weight:600}}"
        yield f".note{{font-size:{_NOTE_SIZE}px}}.label{{font-size:11px}}"
        yield ".edge{fill:none;stroke-width:1.5}"
    yield f".paper{{fill:{paper}}}.title,.name{{fill:{ink}}}.note,.label{{fill:{muted}}}"
    # Where a line passes behind words, the words stay readable.
    yield f".label{{paint-order:stroke;stroke:{paper};stroke-width:4px;stroke-linejoin:round}}"
    yield f".edge{{stroke:{muted}}}.head{{fill:{muted}}}.blank{{fill:{paper};stroke:{muted}}}"
    for health, colours in _COLOURS.items():
        fill, edge = colours[2 * scheme : 2 * scheme + 2]
        yield f".{health}{{fill:{fill};stroke:{edge}}}"
