# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes come into question for a new guest, by the storages that each of them has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def fitting_nodes(rows: Sequence[Row], storage: str | None, template: str | None) -> Sequence[Row]:
    """The rows without the nodes that lack the wanted storage, or the one the template lies on.

    Where no node has them, or the token sees no storage, all rows are given back: who looks at one node can say what
    it lacks.
    """
    wanted = {name for name in (storage, _storage_of(template)) if name}
    on_node = _storages_by_node(rows)
    fit = {node for node, names in on_node.items() if wanted <= names}
    return [r for r in rows if r.get("type") != "node" or r.get("node") in fit] if fit and wanted else rows


def without_node(rows: Sequence[Row], node: str) -> Sequence[Row]:
    """The rows without a node that does not come into question after all."""
    return [r for r in rows if r.get("type") != "node" or r.get("node") != node]


def _storage_of(template: str | None) -> str:
    """The storage in a volume ID; a short name such as ``debian-12`` names none."""
    return template.partition(":")[0] if template and ":" in template else ""


def _storages_by_node(rows: Iterable[Row]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        if row.get("type") == "storage" and row.get("node") and row.get("storage"):
            found.setdefault(str(row["node"]), set()).add(str(row["storage"]))
    return found
