# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the service catalogue, and the entries that are shipped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.nhi.core.plugins.module_utils.catalogue import (
    find_entry,
    load_catalogue,
    offered_services,
    parse_entry,
    wanted_secrets,
)
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import SHIPPED, read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import CatalogueError

ENTRY: dict[str, Any] = yaml.safe_load((SHIPPED / "redis.yml").read_text())


def changed(**more: Any) -> dict[str, Any]:
    return {**copy.deepcopy(ENTRY), **more}


def test_the_shipped_entries_are_valid_and_named_like_their_files() -> None:
    catalogue = read_catalogue()
    assert {"redis", "postgresql"} <= catalogue.keys()
    assert catalogue["redis"].endpoints[0].port == 6379
    assert catalogue["redis"].endpoints[0].health.type == "redis"


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7"])
def test_an_endpoint_has_a_url_at_an_address(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert parse_entry(ENTRY).endpoints[0].url(address) == f"redis://{host}:6379"


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"name": "Redis 7"}, "name must be lower-case"),
        ({"role": "redis"}, "role must be a full name"),
        ({"guest": {"type": "docker", "template": "x"}}, "guest.type must be one of lxc, qemu"),
        ({"guest": []}, "guest must be a mapping"),
        ({"sizes": {"cache": {}}}, "at least default"),
        ({"sizes": {"default": {"cores": 0, "memory_mib": 1, "disk_gib": 1}}}, "sizes.default.cores"),
        ({"sizes": {"default": {"cores": True, "memory_mib": 1, "disk_gib": 1}}}, "sizes.default.cores"),
        ({"endpoints": {}}, "endpoints must be a list"),
        ({"endpoints": [{"name": "main", "protocol": "tcp", "port": 70000}]}, "endpoints[0].port"),
        ({"endpoints": [{"name": "a", "protocol": "tcp", "port": 1}] * 2}, "used twice"),
        ({"endpoints": [{"name": "a", "protocol": "tcp"}]}, "endpoints[0].port is missing"),
        ({"criticality": "urgent"}, "criticality must be one of"),
        ({"tags": "cache"}, "tags must be a list"),
        ({"prot": 1}, "prot is not known"),
        ({"title": ""}, "title must be a text"),
    ],
)
def test_each_fault_is_named(fault: dict[str, Any], named: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        parse_entry(changed(**fault))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("health", "named"),
    [
        ({"type": "gopher"}, "health.type must be one of"),
        ({"type": "tcp", "timeout_seconds": 0}, "health.timeout_seconds"),
        ({"type": "http", "path": "health"}, "health.path"),
        ({"type": "http", "expect_status": 42}, "health.expect_status"),
        ({"type": "http", "retries": 3}, "health.retries is not known"),
        ({}, "health.type is missing"),
    ],
)
def test_each_fault_of_a_health_check_is_named(health: dict[str, Any], named: str) -> None:
    endpoint = {"name": "main", "protocol": "http", "port": 80, "health": health}
    with pytest.raises(CatalogueError) as caught:
        parse_entry(changed(endpoints=[endpoint]))
    assert named in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(CatalogueError) as caught:
        parse_entry({"name": "x", "color": "red"})
    for word in ("title is missing", "role is missing", "sizes is missing", "color is not known"):
        assert word in str(caught.value)


@pytest.mark.parametrize("raw", [None, [], "redis", 3])
def test_what_is_no_mapping_is_refused(raw: Any) -> None:
    with pytest.raises(CatalogueError, match="mapping"):
        parse_entry(raw)


def test_an_endpoint_without_a_health_check_is_asked_over_tcp() -> None:
    endpoint = {"name": "main", "protocol": "smtp", "port": 25}
    assert parse_entry(changed(endpoints=[endpoint])).endpoints[0].health.type == "tcp"


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(CatalogueError, match="two entries named redis"):
        load_catalogue([ENTRY, ENTRY])


def test_a_service_that_is_not_there_is_answered_with_what_is() -> None:
    with pytest.raises(CatalogueError, match="use one of redis"):
        find_entry(load_catalogue([ENTRY]), "mongodb")


def test_tags_say_what_a_guest_offers_and_for_what() -> None:
    catalogue = load_catalogue([ENTRY])
    offered = offered_services(["svc-redis", "purpose-cache", "svc-nobody-knows", "cache"], catalogue)
    assert [(item.entry.name, item.purpose) for item in offered] == [("redis", "cache")]
    assert offered_services(["redis"], catalogue) == []
    assert offered_services(["svc-redis"], catalogue)[0].purpose is None


def write_entry(directory: Path, name: str, **more: Any) -> Path:
    file = directory / f"{name}.yml"
    file.write_text(yaml.safe_dump(changed(name=name, **more)))
    return file


def test_a_directory_of_ones_own_adds_and_replaces(tmp_path: Path) -> None:
    write_entry(tmp_path, "memo", title="Memo")
    write_entry(tmp_path, "redis", title="Our Redis")
    catalogue = read_catalogue([tmp_path])
    assert catalogue["memo"].raw["title"] == "Memo"
    assert catalogue["redis"].raw["title"] == "Our Redis"
    assert "postgresql" in catalogue


def test_a_file_named_otherwise_than_its_entry_is_refused(tmp_path: Path) -> None:
    write_entry(tmp_path, "memo").rename(tmp_path / "other.yml")
    with pytest.raises(CatalogueError, match=r"name the file memo\.yml"):
        read_catalogue([tmp_path])


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "memo.yml").write_text("name: [")
    with pytest.raises(CatalogueError, match=r"memo\.yml can not be read"):
        read_catalogue([tmp_path])


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="does not exist"):
        read_catalogue([tmp_path / "nowhere"])


def test_an_entry_says_how_often_it_is_backed_up_and_weekly_if_it_does_not() -> None:
    plain = {key: value for key, value in ENTRY.items() if key != "backup"}
    assert parse_entry(plain).backup == "weekly"
    assert parse_entry(changed(backup="daily")).backup == "daily"


def test_secrets_have_a_length_and_are_variables() -> None:
    secrets = wanted_secrets([{"name": "redis_password", "length": 40}, {"name": "redis_other"}])
    assert [(s.name, s.length) for s in secrets] == [("redis_password", 40), ("redis_other", 32)]


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"backup": "hourly"}, "backup must be one of daily, weekly, none"),
        ({"secrets": "redis_password"}, "secrets must be a list"),
        ({"secrets": [{"name": "Not-A-Variable"}]}, r"secrets\[0\].name must be a variable of the role"),
        ({"secrets": [{"name": "a", "length": 4}]}, r"secrets\[0\].length must be a number from 12 to 128"),
        ({"secrets": [{"name": "a"}, {"name": "a"}]}, r"secrets\[1\].name a is used twice"),
        ({"secrets": [{"name": "a", "value": "x"}]}, r"secrets\[0\].value is not known"),
        ({"variables": ["redis_port"]}, "variables must be a mapping"),
        ({"variables": {"redis-port": 1}}, "variables.redis-port must be named like a variable"),
        ({"secrets": [{"name": "a"}], "variables": {"a": 1}}, "variables.a is one of the secrets too"),
    ],
)
def test_backup_secrets_and_variables_are_checked(more: dict[str, Any], fault: str) -> None:
    with pytest.raises(CatalogueError, match=fault):
        parse_entry(changed(**more))
