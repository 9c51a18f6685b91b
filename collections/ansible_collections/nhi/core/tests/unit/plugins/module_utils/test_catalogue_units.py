# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit that a catalogue entry names is the one that its role manages."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.nhi.core.plugins.module_utils.catalogue import parse_entry
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import SHIPPED, read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import CatalogueError

ROLES = Path(SHIPPED).parent / "roles"


@pytest.mark.parametrize("name", sorted(read_catalogue()))
def test_entry_and_role_speak_of_the_same_unit(name: str) -> None:
    entry = read_catalogue()[name]
    role = str(entry.raw["role"]).rpartition(".")[2]
    variables = yaml.safe_load((ROLES / role / "vars/main.yml").read_text())
    assert entry.unit == variables[f"__{role}_service"]


@pytest.mark.parametrize("unit", ["--help", "a b", "x;reboot", "", 7])
def test_what_is_no_unit_is_refused(unit: object) -> None:
    raw = dict(read_catalogue()["redis"].raw)
    with pytest.raises(CatalogueError, match="unit must be the name of a systemd unit"):
        parse_entry({**raw, "unit": unit})
