# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.nhi.core.plugins.lookup.nhi_endpoint import DOCUMENTATION, LookupModule
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import as_loaded, document, service, write_state

SERVICES = [
    service("redis", 105, purpose="queue"),
    service("redis", 106, purpose="cache"),
    service("postgresql", 102, health="unhealthy"),
]


def look_up(*terms: Any, variables: dict[str, Any] | None = None, **options: Any) -> list[dict[str, Any]]:
    templar = Templar(loader=DataLoader(), variables=variables or {})
    plugin = as_loaded(LookupModule(templar=templar), "lookup", "nhi.core.nhi_endpoint", DOCUMENTATION)
    found: list[dict[str, Any]] = plugin.run(list(terms), variables=variables, **options)
    return found


@pytest.fixture
def state_dir(tmp_path: Path) -> str:
    return str(write_state(tmp_path, document(services=SERVICES)))


def test_each_service_that_is_asked_for_gets_one_answer(state_dir: str) -> None:
    found = look_up("redis", "postgresql", state_dir=state_dir, allow_unhealthy=True)

    assert [(entry["service"], entry["host"], entry["port"]) for entry in found] == [
        ("redis", "10.86.7.105", 6379),
        ("postgresql", "10.86.7.102", 6379),
    ]


def test_options_narrow_the_choice(state_dir: str) -> None:
    assert look_up("redis", purpose="cache", state_dir=state_dir)[0]["guest"] == "redis-106"
    assert look_up("redis", guest="redis-106", endpoint="main", state_dir=state_dir)[0]["purpose"] == "cache"


def test_a_misspelt_option_is_refused_instead_of_ignored(state_dir: str) -> None:
    with pytest.raises(AnsibleLookupError, match=r"does not know purpos: use .*purpose"):
        look_up("redis", purpos="cache", state_dir=state_dir)


def test_what_can_not_be_found_is_one_line_that_names_what_exists(state_dir: str) -> None:
    with pytest.raises(AnsibleLookupError, match=r"the state has postgresql, redis\.") as caught:
        look_up("mongodb", state_dir=state_dir)
    assert "\n" not in caught.value.message


def test_an_unhealthy_instance_is_refused_by_default(state_dir: str) -> None:
    with pytest.raises(AnsibleLookupError, match=r"postgresql-102 .* is unhealthy"):
        look_up("postgresql", state_dir=state_dir)


def test_the_directory_comes_from_the_inventory_and_may_be_a_template(state_dir: str) -> None:
    variables = {"nhi_state_dir": trust_as_template("{{ where }}"), "where": state_dir}

    assert look_up("redis", variables=variables)[0]["vmid"] == 105


def test_the_directory_may_come_from_the_environment(state_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NHI_STATE_DIR", state_dir)

    assert look_up("redis")[0]["vmid"] == 105


def test_a_missing_or_old_state_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AnsibleLookupError, match=r"There is no .*state\.json yet: run a scan"):
        look_up("redis", state_dir=str(tmp_path))
    write_state(tmp_path, document(services=SERVICES, at=utc_now() - timedelta(seconds=61)))
    with pytest.raises(AnsibleLookupError, match="is 61 s old and at most 60 s are accepted"):
        look_up("redis", state_dir=str(tmp_path), max_age=60)


@pytest.mark.parametrize("terms", [[], [""], [None], [["redis"]]])
def test_a_name_is_required(state_dir: str, terms: list[Any]) -> None:
    with pytest.raises(AnsibleLookupError, match="needs the name of a service"):
        look_up(*terms, state_dir=state_dir)
