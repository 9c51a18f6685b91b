# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi deps`: which service needs which, as text, picture or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ansible_collections.nhi.core.plugins.module_utils.dependency_report import dependency_report, named
from ansible_collections.nhi.core.plugins.module_utils.graph import require_graph
from ansible_collections.nhi.core.plugins.module_utils.graph_picture import mermaid, svg
from ansible_collections.nhi.core.plugins.module_utils.graph_places import places
from ansible_collections.nhi.core.plugins.module_utils.graph_schema import GRAPH_SCHEMA
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.restart_history import RestartHistory
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore

from nhi_services.status import coloured
from nhi_services.table import Cell, Screen, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nhi_services.settings import Settings

FORMATS: Final = ("text", "json", "mermaid", "svg", "schema")
_HEADINGS: Final = ("SERVICE", "HEALTH", "CRITICALITY", "GUEST", "RESTART", "NEEDS")


def deps(settings: Settings, services: Sequence[str], form: str, screen: Screen) -> Iterator[str]:
    """What to print, line by line."""
    if form == "schema":
        yield json.dumps(GRAPH_SCHEMA, indent=2)
        return
    graph = require_graph(settings.dependency_graph, str(settings.state_dir))
    snapshot = StateStore(settings.state_dir).read_or_none()
    document = snapshot.document if snapshot else None
    names = named(services)
    report = dependency_report(graph, document, names, RestartHistory(settings.state_dir).estimates(names))
    if form == "json":
        yield json.dumps(report, indent=2)
    elif form in ("svg", "mermaid"):
        yield (svg if form == "svg" else mermaid)(graph, places(graph, document)).rstrip("\n")
    else:
        yield from _text(report, screen)


def _text(report: dict[str, Any], screen: Screen) -> Iterator[str]:
    shown, restart = report["services"], report["restart"]
    if restart:
        touched = restart["stop_order"]
        shown = [s for s in shown if s["name"] in touched]
    yield from lines_of(screen, _HEADINGS, [_row(s) for s in shown], flexible="NEEDS")
    yield ""
    if restart:
        yield printable(f"Stop order: {' -> '.join(restart['stop_order'])}")
        yield from map(printable, restart["summary"])
        if restart["needs_approval"]:
            yield printable(f"Needs approval: {', '.join(restart['needs_approval'])}")
    else:
        yield printable(f"Start order: {' -> '.join(report['start_order'])}")
        yield f"Hours are those of {report['time_zone']}."
        yield from map(printable, report["warnings"])


def _row(service: dict[str, Any]) -> list[Cell]:
    needs = ", ".join(
        " ".join(part for part in (n["service"], n["use"], f":{n['port']}" if n["port"] else None) if part)
        for n in service["depends_on"]
    )
    free = "" if service["can_restart_without_approval"] else ", approval"
    return [
        Cell(service["name"]),
        coloured(service["health"]),
        Cell(service["criticality"]),
        Cell(service["guest"] or "-"),
        Cell(service["safe_hours"] + free),
        Cell(needs or "-"),
    ]
