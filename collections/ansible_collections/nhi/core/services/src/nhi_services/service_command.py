# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi services`: what can be had, and what runs where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.deployment import unfinished
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.service_list import (
    CATALOGUE_HEADINGS,
    RUNNING_HEADINGS,
    catalogue_rows,
    list_services,
    running_rows,
    unfinished_lines,
)
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore

from nhi_services.status import coloured
from nhi_services.table import Cell, Screen, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nhi_services.settings import Settings


def listing_of(settings: Settings) -> dict[str, Any]:
    """Catalogue, state and what is unfinished; before the first scan nothing is known to run."""
    snapshot = StateStore(settings.state_dir).read_or_none()
    document = snapshot.document if snapshot else None
    return list_services(read_catalogue(settings.catalogue), document, unfinished(settings.state_dir))


def render(listing: dict[str, Any], screen: Screen) -> Iterator[str]:
    """Two tables with what is unfinished between them, line by line."""
    running = [[*map(Cell, row[:-1]), coloured(row[-1])] for row in running_rows(listing)]
    if running:
        yield from lines_of(screen, RUNNING_HEADINGS, running, flexible="GUEST")
    else:
        yield "No service is known to run."
    yield ""
    yield from map(printable, unfinished_lines(listing))
    offered = [list(map(Cell, row)) for row in catalogue_rows(listing)]
    yield from lines_of(screen, CATALOGUE_HEADINGS, offered, flexible="WHAT IT IS")
