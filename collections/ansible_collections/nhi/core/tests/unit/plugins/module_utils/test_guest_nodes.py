# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that come into question, by their storages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.guest_nodes import fitting_nodes

NODES: list[dict[str, Any]] = [{"type": "node", "node": name, "status": "online"} for name in ("pve", "pve2", "pve3")]
STORAGES: list[dict[str, Any]] = [
    {"type": "storage", "node": node, "storage": storage}
    for node, storages in {
        "pve": ["local", "big"],
        "pve2": ["local", "shelf"],
        "pve3": ["local", "big", "shelf"],
    }.items()
    for storage in storages
]
GUEST = {"type": "lxc", "node": "pve", "vmid": 101}


def names(rows: Sequence[Any]) -> list[str]:
    return [row["node"] for row in rows if row["type"] == "node"]


@pytest.mark.parametrize(
    ("storage", "template", "fit"),
    [
        (None, None, ["pve", "pve2", "pve3"]),
        (None, "debian-12", ["pve", "pve2", "pve3"]),
        ("big", None, ["pve", "pve3"]),
        ("local", "shelf:vztmpl/debian-12.tar.zst", ["pve2", "pve3"]),
        ("big", "shelf:vztmpl/debian-12.tar.zst", ["pve3"]),
        ("nosuch", None, ["pve", "pve2", "pve3"]),
    ],
)
def test_nodes_without_what_was_asked_for_are_left_out(
    storage: str | None, template: str | None, fit: list[str]
) -> None:
    rows = fitting_nodes([*NODES, *STORAGES, GUEST], storage, template)
    assert names(rows) == fit
    assert [row for row in rows if row["type"] != "node"] == [*STORAGES, GUEST]


def test_a_token_that_sees_no_storage_leaves_all_nodes_in_question() -> None:
    assert names(fitting_nodes(NODES, "big", None)) == ["pve", "pve2", "pve3"]
