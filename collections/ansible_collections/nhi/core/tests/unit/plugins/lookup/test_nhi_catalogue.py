# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, is_trusted_as_template
from ansible_collections.nhi.core.plugins.lookup.nhi_catalogue import DOCUMENTATION, LookupModule
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import as_loaded


def look_up(*terms: Any, **options: Any) -> list[dict[str, Any]]:
    templar = Templar(loader=DataLoader(), variables={})
    plugin = as_loaded(LookupModule(templar=templar), "lookup", "nhi.core.nhi_catalogue", DOCUMENTATION)
    found: list[dict[str, Any]] = plugin.run(list(terms), variables={}, **options)
    return found


def test_services_are_found_in_the_order_they_are_asked_for() -> None:
    found = look_up("redis", "postgresql")
    assert [(entry["name"], entry["endpoints"][0]["port"]) for entry in found] == [
        ("redis", 6379),
        ("postgresql", 5432),
    ]


def test_without_a_name_all_entries_come_sorted() -> None:
    names = [entry["name"] for entry in look_up()]
    assert names == sorted(names)
    assert {"redis", "postgresql"} <= set(names)


def test_a_service_that_is_not_there_is_one_line_that_names_what_is() -> None:
    with pytest.raises(AnsibleLookupError, match=r"no service 'teapot': use one of .*redis") as caught:
        look_up("teapot")
    assert "\n" not in caught.value.message


def test_further_directories_add_and_replace(tmp_path: Path) -> None:
    entry = {**look_up("redis")[0], "title": "Our Redis"}
    (tmp_path / "redis.yml").write_text(yaml.safe_dump(entry))
    assert look_up("redis", directories=[str(tmp_path)])[0]["title"] == "Our Redis"


def test_an_entry_with_faults_is_refused_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "memo.yml").write_text("name: memo\ntitle: Memo\n")
    with pytest.raises(AnsibleLookupError, match=r"memo\.yml.*role is missing"):
        look_up("redis", directories=[str(tmp_path)])


def test_variables_are_templates_only_for_who_asks(tmp_path: Path) -> None:
    entry = {**look_up("redis")[0], "variables": {"redis_bind": ["{{ nobody_knows }}"]}}
    (tmp_path / "redis.yml").write_text(yaml.safe_dump(entry))
    plain = look_up("redis", directories=[str(tmp_path)])[0]["variables"]["redis_bind"][0]
    asked = look_up("redis", directories=[str(tmp_path)], templates=True)[0]["variables"]["redis_bind"][0]
    assert (is_trusted_as_template(plain), is_trusted_as_template(asked)) == (False, True)
