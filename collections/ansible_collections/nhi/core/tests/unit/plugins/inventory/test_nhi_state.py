# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.template import is_trusted_as_template
from ansible_collections.nhi.core.plugins.inventory.nhi_state import DOCUMENTATION, InventoryModule
from ansible_collections.nhi.core.plugins.module_utils.state_document import checksum_of, utc_now
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import (
    as_loaded,
    document,
    guest,
    seconds_ago,
    service,
    write_state,
)

Read = Callable[..., InventoryData]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Parse an inventory file with these options, beside a directory `state`."""

    def parse(**options: Any) -> InventoryData:
        path = tmp_path / "lab.nhi_state.yml"
        path.write_text(yaml.safe_dump({"plugin": "nhi.core.nhi_state", "state_dir": "state"} | options))
        return parse_file(path)

    return parse


def parse_file(path: Path) -> InventoryData:
    plugin = as_loaded(InventoryModule(), "inventory", "nhi.core.nhi_state", DOCUMENTATION)
    inventory = InventoryData()
    plugin.parse(inventory, DataLoader(), str(path))
    inventory.reconcile_inventory()
    return inventory


def members(inventory: InventoryData, group: str) -> list[str]:
    return [host.name for host in inventory.groups[group].get_hosts()]


def test_the_file_name_decides_whether_the_plugin_reads_it(tmp_path: Path) -> None:
    plugin = InventoryModule()
    for name in (
        "nhi_state.yml",
        "nhi_state.yaml",
        "lab.nhi_state.yml",
        "lab.nhi_state.yaml",
        "hosts.yml",
        "xnhi_state.yml",
    ):
        (tmp_path / name).write_text("plugin: nhi.core.nhi_state\n")

    accepted = {path.name for path in tmp_path.iterdir() if plugin.verify_file(str(path))}

    assert accepted == {"nhi_state.yml", "nhi_state.yaml", "lab.nhi_state.yml", "lab.nhi_state.yaml"}
    assert not plugin.verify_file(str(tmp_path / "missing.nhi_state.yml"))


def test_guests_are_hosts_in_groups(tmp_path: Path, read: Read) -> None:
    state = document([guest(101, "db", type="qemu"), guest(105, "redis-cache")], [service("redis", 105)])
    write_state(tmp_path / "state", state)

    inventory = read()

    assert list(inventory.hosts) == ["db", "redis-cache"]
    assert members(inventory, "nhi_guests") == ["redis-cache", "db"]
    assert members(inventory, "nhi_qemu") == ["db"]
    assert members(inventory, "nhi_service_redis") == ["redis-cache"]
    assert inventory.hosts["redis-cache"].vars["ansible_host"] == "10.86.7.105"
    assert inventory.hosts["redis-cache"].vars["nhi_health"] == "healthy"
    assert inventory.groups["all"].vars["nhi_state_dir"] == str(tmp_path / "state")


def test_groups_that_plays_name_exist_even_when_they_are_empty(tmp_path: Path, read: Read) -> None:
    write_state(tmp_path / "state", document([guest(101)]))

    assert {"nhi_guests", "nhi_lxc", "nhi_qemu", "nhi_stale", "nhi_unknown"} <= set(read().groups)


def test_old_facts_are_marked_and_an_old_state_can_be_refused(tmp_path: Path, read: Read) -> None:
    old = guest(101, "old", observed_at=seconds_ago(700))
    write_state(tmp_path / "state", document([old, guest(102, "new")], at=utc_now() - timedelta(seconds=700)))

    assert members(read(stale_after=600), "nhi_stale") == ["old"]
    with pytest.raises(AnsibleParserError, match="is 700 s old and at most 600 s are accepted"):
        read(max_age=600)


def test_compose_groups_and_keyed_groups_see_the_facts(tmp_path: Path, read: Read) -> None:
    write_state(
        tmp_path / "state", document([guest(101, "db", tags=["database"]), guest(102, "web", health="unhealthy")])
    )

    inventory = read(
        compose={"ansible_user": "'root'", "label": "nhi_name ~ '/' ~ nhi_vmid"},
        groups={"databases": "'database' in nhi_tags"},
        keyed_groups=[{"key": "nhi_health", "prefix": "health"}],
        strict=True,
    )

    assert inventory.hosts["db"].vars["ansible_user"] == "root"
    assert inventory.hosts["web"].vars["label"] == "web/102"
    assert members(inventory, "databases") == ["db"]
    assert members(inventory, "health_unhealthy") == ["web"]


def test_an_expression_that_fails_is_an_error_only_when_strict(tmp_path: Path, read: Read) -> None:
    write_state(tmp_path / "state", document([guest(101, "db")]))

    assert "label" not in read(compose={"label": "no_such_variable"}).hosts["db"].vars
    with pytest.raises(AnsibleError, match="Could not set label for host db"):
        read(compose={"label": "no_such_variable"}, strict=True)


def test_text_from_the_state_is_never_a_template(tmp_path: Path, read: Read) -> None:
    state = document([guest(101, "db", pool="{{ 7 * 7 }}", tags=["{{ lookup('pipe', 'id') }}"])])
    write_state(tmp_path / "state", state)

    inventory = read(compose={"copied": "nhi_pool"}, keyed_groups=[{"key": "nhi_pool", "prefix": "pool"}], strict=True)

    assert inventory.hosts["db"].vars["copied"] == "{{ 7 * 7 }}"
    assert not [group for group in inventory.groups if "49" in group or "uid" in group]
    for name in ("nhi_pool", "copied"):
        assert not is_trusted_as_template(inventory.hosts["db"].vars[name])
    assert not any(is_trusted_as_template(tag) for tag in inventory.hosts["db"].vars["nhi_tags"])


def test_a_missing_state_is_an_error_that_says_what_to_do_or_an_empty_inventory(read: Read) -> None:
    with pytest.raises(AnsibleParserError, match=r"There is no .*state\.json yet: run a scan"):
        read()
    assert not read(missing_ok=True).hosts


@pytest.mark.parametrize("options", [{}, {"missing_ok": True}])
def test_a_corrupt_state_adds_no_host_and_says_what_to_do(tmp_path: Path, read: Read, options: dict[str, Any]) -> None:
    write_state(tmp_path / "state", document([guest(101)]))
    with (tmp_path / "state" / "state.json").open("a") as file:
        file.write("\n")

    with pytest.raises(AnsibleParserError, match=r"does not match its checksum.*nhi state validate") as caught:
        read(**options)
    assert "\n" not in caught.value.message


def test_a_state_from_a_newer_nhi_is_refused(tmp_path: Path, read: Read) -> None:
    rewrite(tmp_path / "state", lambda state: state["meta"].update(schema_version=99))

    with pytest.raises(AnsibleParserError, match=r"has schema version 99.*upgrade"):
        read()


def test_a_state_of_the_wrong_shape_is_refused_whole(tmp_path: Path, read: Read) -> None:
    rewrite(tmp_path / "state", lambda state: state["infrastructure"]["guests"][1].pop("tags"))

    with pytest.raises(AnsibleParserError, match=r"guests/1.*'tags' is a required property"):
        read()


def rewrite(directory: Path, change: Callable[[Any], Any]) -> None:
    """A state that carries a right checksum and wrong contents."""
    write_state(directory, document([guest(101), guest(102)]))
    state = json.loads((directory / "state.json").read_bytes())
    change(state)
    raw = json.dumps(state).encode()
    (directory / "state.json").write_bytes(raw)
    (directory / "state.json.checksum").write_text(f"{checksum_of(raw)}  state.json\n")


def test_a_misspelt_option_is_refused(tmp_path: Path, read: Read) -> None:
    write_state(tmp_path / "state", document([guest(101)]))

    with pytest.raises(AnsibleParserError, match="options that nhi_state does not know: max_agee"):
        read(max_agee=60)


def test_the_environment_names_the_state_when_the_file_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(tmp_path / "elsewhere", document([guest(101, "db")]))
    monkeypatch.setenv("NHI_STATE_DIR", "elsewhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inventory").mkdir()
    path = tmp_path / "inventory" / "nhi_state.yml"
    path.write_text("plugin: nhi.core.nhi_state\n")

    assert list(parse_file(path).hosts) == ["db"]


def test_the_directory_may_be_a_template(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path / "state", document([guest(101, "db")]))
    monkeypatch.setenv("TEST_STATE", str(tmp_path / "state"))

    assert list(read(state_dir="{{ lookup('env', 'TEST_STATE') }}").hosts) == ["db"]
