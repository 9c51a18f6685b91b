# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rows of Proxmox VE look like: numbers as text, names that lag, lists that are empty for want of a right.

The table that says which fact is tested where is in README.md beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AlreadyExistsError,
    ParameterError,
    PermissionDeniedError,
    PowerStateError,
    PreflightError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_config import Placement, flag
from ansible_collections.nhi.core.plugins.module_utils.guest_creation import create_lxc, create_qemu
from ansible_collections.nhi.core.plugins.module_utils.guest_drift import drift
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import GuestName
from ansible_collections.nhi.core.plugins.module_utils.guest_reader import (
    look_up_guest,
    read_cluster,
    storages,
    vmid_is_free,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import split_tags, wanted_from_params
from ansible_collections.nhi.core.plugins.module_utils.proxmox_rows import number, with_numbers
from ansible_collections.nhi.core.plugins.module_utils.scan_rows import sort_rows
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_cluster import FakeCluster
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_proxmox import FakeProxmox
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import REDIS, GuestLab
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.scan_reports import Scan, alert_ids, guest


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    return GuestLab(tmp_path)


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """The row as an endpoint writes it that prints its numbers."""
    return {key: str(value) if isinstance(value, (int, float)) else value for key, value in row.items()}


# Numbers


@pytest.mark.parametrize(
    ("sent", "meant"), [("105", 105), (105, 105), ("0.25", 0.25), ("", ""), (None, None), ("n/a", "n/a")]
)
def test_a_number_is_one_whatever_it_came_as(sent: Any, meant: Any) -> None:
    assert number(sent) == meant
    assert with_numbers({"vmid": sent, "name": "105"}) == {"vmid": meant, "name": "105"}


def test_a_scan_reads_numbers_that_came_as_text(cluster: FakeCluster, scan: Scan) -> None:
    cluster.lxc(101, "web")
    cluster.storage("local", used=0.95)
    plain = scan().document["infrastructure"]
    cluster.rows[:] = [as_text(row) for row in cluster.rows]
    printed = scan(everything=True).document["infrastructure"]
    for kind in ("nodes", "guests", "storage"):
        ticking = {"observed_at": None}
        assert [{**fact, **ticking} for fact in printed[kind]] == [{**fact, **ticking} for fact in plain[kind]]


def test_a_guest_is_found_by_its_vmid_and_made_beside_rows_of_text(lab: GuestLab) -> None:
    lab.pve.add(104, "other", running=True)
    real = lab.pve._resources
    lab.pve._resources = lambda: [as_text(row) for row in real()]  # type: ignore[method-assign]
    lab.pve.storages = [as_text(row) for row in lab.pve.storages]
    assert lab.run({"name": "other", "vmid": 104}).plan.actions == []
    assert lab.run(REDIS).vm == {**(lab.run(REDIS).vm or {}), "vmid": 105}
    assert storages(lab.pve, "pve")[1]["avail"] == 50 << 30


@pytest.mark.parametrize("fraction", [0.5, "0.5"])
def test_a_fraction_of_a_core_is_kept(cluster: FakeCluster, scan: Scan, fraction: Any) -> None:
    cluster.lxc(101, "web", maxcpu=fraction)
    assert guest(scan(), 101)["cores"] == 0.5


@pytest.mark.parametrize(
    ("sent", "meant"), [(1, True), ("1", True), (True, True), (0, False), ("0", False), (None, False)]
)
def test_booleans_come_in_five_spellings(sent: Any, meant: bool) -> None:
    assert flag(sent) is meant


@pytest.mark.parametrize(
    "config",
    [
        {"cores": 2, "memory": 1024, "onboot": 1},
        {"cores": "2", "memory": "1024", "onboot": "1"},
        {"cores": "2", "memory": "current=1024", "onboot": "1"},
    ],
)
def test_a_configuration_of_numbers_and_of_text_shows_no_drift(config: dict[str, Any]) -> None:
    wanted = wanted_from_params(
        {"name": "vm", "state": "present", "vmid_range": "105-199", "cores": 2, "memory": 1024, "onboot": True}
    )
    assert drift(wanted, config, "qemu").after == {}


# VMIDs


@pytest.mark.parametrize("answer", ["105", 105, None])
def test_a_free_vmid_is_told_by_the_absence_of_an_error_whatever_nextid_returns(answer: Any) -> None:
    class NextId(FakeProxmox):
        def get(self, path: Any, params: Any = None) -> Any:
            return answer

    assert vmid_is_free(NextId(), 105)


@pytest.mark.parametrize("error", [AlreadyExistsError("VM 105 already exists"), ParameterError("invalid format")])
def test_a_vmid_that_nextid_refuses_is_not_free(error: Exception) -> None:
    class NextId(FakeProxmox):
        def get(self, path: Any, params: Any = None) -> Any:
            raise error

    assert not vmid_is_free(NextId(), 105)


def test_the_create_call_decides_about_a_vmid_that_nextid_called_free(lab: GuestLab) -> None:
    def intrude() -> None:
        lab.pve.hooks.clear()
        lab.pve.add(105, "intruder")

    lab.pve.hooks["POST /nodes/pve/lxc"] = intrude
    made = lab.run(REDIS).vm
    assert made is not None
    assert made["vmid"] == 106
    creates = [data for method, path, data in lab.pve.calls if (method, path) == ("POST", "/nodes/pve/lxc")]
    assert [data["vmid"] for data in creates] == [105, 106]
    assert not any("force" in data for data in creates)


# Names and states that lag


def test_a_guest_without_a_name_yet_is_found_by_its_configuration(lab: GuestLab) -> None:
    lab.pve.add(104, "redis", running=True)
    real = lab.pve._resources

    def young() -> list[dict[str, Any]]:
        rows = real()
        return [{"id": "lxc/104", "type": "lxc", "vmid": 104, "node": "pve", "status": "unknown"}, *rows[:2]]

    lab.pve._resources = young  # type: ignore[method-assign]
    outcome = lab.run({"name": "redis"})
    assert (outcome.vm or {})["vmid"] == 104
    assert lab.pve.writes() == []


class TestARowWithTheNameOfTheLastGuest:
    """A VMID was used again within ten seconds: the row still has the former guest's name."""

    @pytest.fixture
    def lab(self, lab: GuestLab) -> GuestLab:
        lab.pve.add(105, "postgresql", running=True)
        real = lab.pve._resources
        lab.pve._resources = lambda: [  # type: ignore[method-assign]
            {**row, "name": "redis"} if row.get("vmid") == 105 else row for row in real()
        ]
        return lab

    def test_is_not_changed_in_its_stead(self, lab: GuestLab) -> None:
        made = lab.run({**REDIS, "memory": 1024}).vm
        assert (made or {})["vmid"] == 106
        assert lab.pve.guests[105]["config"]["memory"] == 512

    def test_is_not_destroyed_in_its_stead(self, lab: GuestLab) -> None:
        outcome = lab.run({"name": "redis", "state": "absent"}, confirm="redis")
        assert outcome.plan.actions == []
        assert lab.pve.writes() == []

    def test_is_named_when_its_vmid_was_given(self, lab: GuestLab) -> None:
        with pytest.raises(PreflightError, match="VMID 105 is LXC 105 postgresql on pve, not redis"):
            lab.run({"name": "redis", "vmid": 105, "memory": 1024})

    def test_is_found_under_its_own_name(self, lab: GuestLab) -> None:
        lab.pve.add(106, "redis")
        found, _check = look_up_guest(lab.pve, read_cluster(lab.pve), GuestName("redis"))
        assert found is not None
        assert (found.vmid, found.name) == (106, "redis")


# Lists that are empty for want of a right


@pytest.mark.parametrize("permissions", [{}, None, {"/": {}}, {"/storage": {"Datastore.Audit": 1}}])
def test_a_token_that_sees_nothing_is_told_so_and_not_shown_an_empty_lab(
    cluster: FakeCluster, scan: Scan, permissions: Any
) -> None:
    cluster.answers["/access/permissions"] = permissions
    with pytest.raises(PermissionDeniedError, match=r"VM\.Audit nowhere") as caught:
        scan()
    assert (caught.value.privilege, caught.value.acl_path) == ("VM.Audit", "/")


@pytest.mark.parametrize(
    "options",
    [REDIS, {"name": "redis", "state": "absent"}, {"name": "redis", "state": "stopped"}],
    ids=["create", "absent", "stopped"],
)
def test_a_blind_token_is_told_before_it_creates_or_believes_that_nothing_is_there(
    lab: GuestLab, options: dict[str, Any]
) -> None:
    lab.pve.add(104, "redis")
    lab.pve.hidden.add(104)
    real = lab.pve._look
    lab.pve._look = lambda parts, given: {} if parts[0] == "access" else real(parts, given)  # type: ignore[method-assign]
    with pytest.raises(PermissionDeniedError, match=r"VM\.Audit nowhere"):
        lab.run(options)
    assert lab.pve.writes() == []


def test_an_empty_lab_is_one_when_the_token_may_see_guests(cluster: FakeCluster, scan: Scan, lab: GuestLab) -> None:
    cluster.answers["/access/permissions"] = {"/vms": {"VM.Audit": 1}}
    assert scan().document["infrastructure"]["guests"] == []
    assert lab.run({"name": "redis", "state": "absent"}).plan.actions == []


# Rows of other kinds, and other shapes


def test_rows_of_kinds_that_newer_releases_add_are_passed_over() -> None:
    rows: list[dict[str, Any]] = [
        {"type": "network", "id": "network/pve/zone/localnetwork", "network-type": "zone", "node": "pve"},
        {"type": "sdn", "id": "sdn/pve/localnetwork", "node": "pve"},
        {"type": "pool", "id": "/pool/ai-lab", "pool": "ai-lab"},
        {"type": "lxc", "id": "lxc/101", "vmid": 101, "node": "pve", "memhost": 5, "status": "running", "name": "web"},
    ]
    found = sort_rows(rows)
    assert (list(found.guests), found.nodes, found.storage) == ([101], {}, {})


def test_a_node_without_numbers_and_a_storage_just_added_are_no_zeros(cluster: FakeCluster, scan: Scan) -> None:
    cluster.lxc(101, "web")
    cluster.rows.append({"id": "node/pve2", "type": "node", "node": "pve2", "status": "online", "level": ""})
    cluster.rows.append(
        {"id": "storage/pve/new", "type": "storage", "storage": "new", "node": "pve", "status": "unknown"}
    )
    report = scan()
    node = next(n for n in report.document["infrastructure"]["nodes"] if n["name"] == "pve2")
    storage = report.document["infrastructure"]["storage"][0]
    assert (node["memory_total_mib"], node["cpu_usage"]) == (None, None)
    assert (storage["total_mib"], storage["used_mib"], storage["status"]) == (None, None, "unknown")
    assert not [alert for alert in alert_ids(report) if "storage-full" in alert]


def test_a_node_that_the_cluster_can_not_find_leaves_its_guests_stale_and_not_gone(
    cluster: FakeCluster, scan: Scan
) -> None:
    row = cluster.lxc(101, "web")
    scan()
    lost = UnreachableError("refused: hostname lookup 'pve' failed", status=500)
    cluster.answers[f"{cluster.path(row)}/config"] = lost
    found = guest(scan(everything=True), 101)
    assert (found["freshness"], found["name"]) == ("stale", "web")


def test_an_old_release_lists_one_address_per_family(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web", "dhcp")
    cluster.answers[f"{cluster.path(row)}/interfaces"] = [
        {"name": "lo", "hwaddr": "00:00:00:00:00:00", "inet": "127.0.0.1/8", "inet6": "::1/128"},
        {"name": "eth0", "hwaddr": "bc:24:11:00:00:01", "inet": "10.0.0.9/24", "inet6": "fd00::9/64"},
    ]
    found = guest(scan(), 101)
    assert [record["address"] for record in found["addresses"]] == ["10.0.0.9", "fd00::9"]
    assert found["address"] == "10.0.0.9"


# What is sent


@pytest.mark.parametrize(("wish", "sent"), [(None, 1), (True, 1), (False, 0)])
def test_unprivileged_is_always_sent_since_releases_differ_in_its_default(wish: bool | None, sent: int) -> None:
    lab = FakeProxmox()
    wanted = wanted_from_params(
        {"name": "web", "state": "present", "vmid_range": "105-199", "template": "x", "unprivileged": wish}
    )
    data = create_lxc(wanted, Placement("pve", 105, "local-lvm", lab.templates[0]), "op-1")
    assert data["unprivileged"] == sent
    # On a privileged container nesting is refused to everybody but root@pam.
    assert data["features"] == ("nesting=1" if sent else None)


def test_keys_of_a_container_travel_as_lines_and_those_of_a_machine_encoded_once_more() -> None:
    keys = ["ssh-ed25519 AAAA+/= me@here", "ssh-rsa BBBB you"]
    wanted = wanted_from_params(
        {"name": "web", "state": "present", "vmid_range": "105-199", "template": "x", "ssh_public_keys": keys}
    )
    place = Placement("pve", 105, "local-lvm", "local:vztmpl/x.tar.zst")
    assert create_lxc(wanted, place, "op-1")["ssh-public-keys"] == "\n".join(keys)
    sent = create_qemu(wanted, place, "op-1")["sshkeys"]
    assert unquote(sent) == "\n".join(keys)
    assert not set(sent) & set(" +/=@\n"), "decoded once too often, a plus would become a space"


def test_tags_are_compared_as_the_node_keeps_them() -> None:
    wanted = wanted_from_params(
        {"name": "web", "state": "present", "vmid_range": "105-199", "tags": ["Web", "db", "web"]}
    )
    assert wanted.tags == ("db", "web")
    for kept in ("db;web", "web,db", "web db", "db;web;"):
        assert split_tags(kept) == ("db", "web")
        assert drift(wanted, {"tags": kept}, "lxc").after == {}


def test_a_guest_that_somebody_else_started_meanwhile_is_a_success(lab: GuestLab) -> None:
    lab.pve.add(105, "redis", net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")

    def started() -> None:
        lab.pve.guests[105]["running"] = True
        raise PowerStateError("CT 105 already running", status=500)

    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = started
    assert (lab.run({"name": "redis", "state": "started"}).vm or {})["status"] == "running"


def test_a_start_that_is_refused_for_another_reason_stays_a_failure(lab: GuestLab) -> None:
    lab.pve.add(105, "redis", net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")

    def refused() -> None:
        raise PowerStateError("CT 105 already running", status=500)

    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = refused
    with pytest.raises(PowerStateError):
        lab.run({"name": "redis", "state": "started"})
