# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a deployed service known, and forget one that is gone: health, records, then the truth about the lab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import GuestChangeError
from .graph import DependencyGraph
from .history_keeper import keep_nothing
from .service_health import await_health, not_asked, overall, unwell
from .service_records import Deployed, Records, ServiceRecords, unknown_dependencies, wanted_records

Scan = Callable[[], Any]


@dataclass
class Registration:
    """What became of it. ``registered`` says whether this run wrote something that was not there before."""

    before: Records
    after: Records
    files: dict[str, str]
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unknown_dependencies: list[str] = field(default_factory=list)
    registered: bool = False

    @property
    def changed(self) -> bool:
        """Whether the records differ."""
        return self.before != self.after

    def as_data(self) -> dict[str, Any]:
        """What a module returns."""
        first = self.endpoints[0] if self.endpoints else {}
        return {
            "changed": self.changed,
            "registered": self.registered,
            "health": overall(self.endpoints),
            "endpoints": self.endpoints,
            "port": first.get("port"),
            "url": first.get("url"),
            "files": self.files,
            "unknown_dependencies": self.unknown_dependencies,
        }


class UnwellError(GuestChangeError):
    """The service does not answer as it should."""


def register(
    records: ServiceRecords,
    deployed: Deployed,
    graph: DependencyGraph | None,
    patience: float,
    scan: Scan | None,
    announce: Callable[[Records], None] = lambda _before: None,
    keep: Callable[[str], None] = keep_nothing,
) -> Registration:
    """Ask the service whether it is well, and only then write it down; UnwellError when it is not.

    ``announce`` hears what is about to be replaced. Without ``scan`` nothing is written and nobody is asked: that is
    check mode.
    """
    result = Registration(records.read(), wanted_records(deployed, graph), records.files)
    result.unknown_dependencies = unknown_dependencies(deployed, graph)
    if result.unknown_dependencies:
        result.warnings.append(
            f"{deployed.guest} depends on {', '.join(result.unknown_dependencies)}, which the dependency graph does not"
            " know: nobody will be warned there of what it needs, so add them to dependency_graph.json"
        )
    if scan is None:
        result.endpoints = not_asked(deployed.entry, deployed.address)
        return result
    result.endpoints = await_health(deployed.entry, deployed.address, patience)
    if ill := unwell(result.endpoints):
        raise UnwellError(
            f"{deployed.entry.name} on {deployed.guest} does not answer as it should after {patience:g} s: "
            + ", ".join(f"{e['url']} says {e['detail']}" for e in ill)
            + ". It was not registered: look at its log on the guest, then run the same again"
        )
    result.registered = result.changed
    if result.changed:
        keep(f"{deployed.entry.name} on {deployed.guest} registered")
        announce(result.before)
    try:
        records.write(result.after)
        scan()
    except BaseException:
        # What is registered is in state.json too, or it is not registered.
        records.write(result.before)
        raise
    return result


def unregister(
    records: ServiceRecords,
    scan: Scan | None,
    former: Records | None = None,
    keep: Callable[[str], None] = keep_nothing,
) -> Registration:
    """Forget a service, or register what was before it; without ``scan`` only say what would be done."""
    result = Registration(records.read(), former or Records(), records.files)
    if scan is not None:
        if result.changed:
            keep(f"{records.guest} forgotten")
        records.write(result.after)
        scan()
    return result
