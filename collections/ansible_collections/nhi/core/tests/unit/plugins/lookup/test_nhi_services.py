# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be had and what runs, as the look-up lists it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.nhi.core.plugins.lookup.nhi_services import DOCUMENTATION, LookupModule
from ansible_collections.nhi.core.plugins.module_utils.deployment import DEPLOYMENT, begin
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import (
    as_loaded,
    document,
    guest,
    service,
    write_state,
)


def look_up(state_dir: Path) -> dict[str, Any]:
    templar = Templar(loader=DataLoader(), variables={})
    plugin = as_loaded(LookupModule(templar=templar), "lookup", "nhi.core.nhi_services", DOCUMENTATION)
    (found,) = plugin.run([], variables={}, state_dir=str(state_dir))
    listing: dict[str, Any] = found
    return listing


def test_before_the_first_scan_only_the_catalogue_is_known(tmp_path: Path) -> None:
    listing = look_up(tmp_path)
    assert (listing["services"], listing["observed_at"]) == ([], None)
    assert {"redis", "postgresql"} <= {offer["service"] for offer in listing["catalogue"]}
    assert listing["table"][0] == "No service is known to run."


def test_what_runs_is_a_line_for_people_and_an_entry_for_programs(tmp_path: Path) -> None:
    guests = [guest(105, "redis-cache", tags=["svc-redis"])]
    write_state(tmp_path, document(guests, [service("redis", 105, guest="redis-cache")]))
    listing = look_up(tmp_path)
    (running,) = listing["services"]
    assert (running["guest"], running["vmid"]) == ("redis-cache", 105)
    assert listing["table"][0].split() == ["SERVICE", "PURPOSE", "GUEST", "VMID", "URL", "HEALTH"]
    assert running["urls"][0] in listing["table"][1]


def test_what_is_being_deployed_is_listed(tmp_path: Path) -> None:
    begin(tmp_path, "redis-cache", DEPLOYMENT, Holder.me("run-1", "ada"), "redis", "cache")
    listing = look_up(tmp_path)
    (record,) = listing["unfinished"]
    assert (record["guest"], record["actor"], record["under_way"]) == ("redis-cache", "ada", True)
    assert listing["table"][2].startswith("redis-cache is being deployed by ada (pid ")


def test_a_damaged_state_is_an_error_and_not_an_empty_list(tmp_path: Path) -> None:
    write_state(tmp_path, document([]))
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(AnsibleLookupError, match="does not match its checksum"):
        look_up(tmp_path)
