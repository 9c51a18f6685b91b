# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError
from ansible_collections.nhi.core.plugins.module_utils.guest_addresses import port_open
from ansible_collections.nhi.core.plugins.module_utils.guest_config import memory_mib, root_disk, size_gib
from ansible_collections.nhi.core.plugins.module_utils.guest_drift import drift
from ansible_collections.nhi.core.plugins.module_utils.guest_network import WantedNetwork
from ansible_collections.nhi.core.plugins.module_utils.guest_placement import (
    choose_clone_source,
    choose_node,
    choose_storage,
    choose_template,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import (
    Wanted,
    split_marker,
    with_marker,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_undo import inverse
from ansible_collections.nhi.core.plugins.module_utils.neighbours import answers
from hypothesis import given
from hypothesis import strategies as st

GIB = 1 << 30
VOLUMES = [
    "local:vztmpl/debian-12-standard_12.2-1_amd64.tar.zst", "local:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst",
    "nas:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst", "local:vztmpl/debian-123-x_1_amd64.tar.zst",
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("debian-12", VOLUMES[1]), (VOLUMES[0], VOLUMES[0]), ("debian-12-standard_12.7-1_amd64.tar.zst", VOLUMES[2]),
     ("debian-123", VOLUMES[3])],
)  # fmt: skip
def test_a_template_is_found_by_volume_file_or_short_name_and_the_newest_wins(wanted: str, found: str) -> None:
    assert choose_template(VOLUMES, wanted, "pve") == found


@pytest.mark.parametrize(
    "wanted", [None, "", "debian", "debian-1", "local:vztmpl/debian-12", "debian-12-standard_12.2-1_amd64"]
)
def test_a_template_that_is_not_there_is_refused_with_what_is(wanted: str | None) -> None:
    if wanted in ("debian", "debian-12-standard_12.2-1_amd64"):
        assert choose_template(VOLUMES, wanted, "pve") in VOLUMES
        return
    with pytest.raises(PreflightError, match=r"debian-12-standard_12.12-1_amd64.tar.zst"):
        choose_template(VOLUMES, wanted, "pve")


def node(name: str, status: str = "online", free: int = 1) -> dict[str, Any]:
    return {"type": "node", "node": name, "status": status, "maxmem": 10, "mem": 10 - free}


def test_the_online_node_with_the_most_free_memory_is_chosen() -> None:
    rows = [node("a"), node("b", free=3), node("c", "offline", 9)]
    assert choose_node(rows, None) == "b"
    assert choose_node(rows, "a") == "a"
    assert choose_node([{"type": "node", "node": "x", "status": "online"}], None) == "x"
    with pytest.raises(PreflightError, match=r"c is not online: nodes are a \(online\), b \(online\), c \(offline\)"):
        choose_node(rows, "c")
    with pytest.raises(PreflightError, match="no node is online"):
        choose_node([node("c", "offline")], None)


def test_the_storage_with_the_most_room_is_chosen_and_a_full_one_refused_with_numbers() -> None:
    rows = [
        {"storage": "local", "content": "vztmpl", "avail": 900 * GIB},
        {"storage": "slow", "content": "rootdir", "avail": 90 * GIB, "active": 0},
        {"storage": "a", "content": "images,rootdir", "avail": 3 * GIB},
        {"storage": "b", "content": "rootdir", "avail": 5 * GIB},
    ]  # fmt: skip
    assert choose_storage(rows, None, "rootdir", 4, "pve") == "b"
    assert choose_storage(rows, None, "images", 2, "pve") == "a"
    with pytest.raises(PreflightError, match=r"3.0 GiB free, the disk needs 4 GiB"):
        choose_storage(rows, "a", "rootdir", 4, "pve")
    for wish, words in (("local", "does not take rootdir"), ("slow", "not active"), ("c", "does not exist")):
        with pytest.raises(PreflightError, match=words):
            choose_storage(rows, wish, "rootdir", 1, "pve")
    with pytest.raises(PreflightError, match="no storage of pve takes images"):
        choose_storage(rows[:2], None, "images", 1, "pve")


def template(wish: str) -> Wanted:
    return Wanted("x", type="qemu", template=wish)


def test_a_machine_is_cloned_from_the_one_template_that_is_meant() -> None:
    rows: list[dict[str, Any]] = [
        {"type": "qemu", "vmid": v, "name": n, "node": "pve", "template": t}
        for v, n, t in ((9000, "debian", 1), (9001, "debian", 1), (9002, "alpine", "1"), (110, "web", 0))
    ]
    assert choose_clone_source(rows, template("alpine"))["vmid"] == 9002
    assert choose_clone_source(rows, template("9001"))["vmid"] == 9001
    with pytest.raises(PreflightError, match="ambiguous"):
        choose_clone_source(rows, template("debian"))
    with pytest.raises(PreflightError, match="web is not a VM template"):
        choose_clone_source(rows, template("web"))
    assert choose_clone_source(rows, Wanted("x", clone="web"))["vmid"] == 110
    with pytest.raises(PreflightError, match=r"clone nosuch is not a guest .* web \(110 on pve\)"):
        choose_clone_source(rows, Wanted("x", clone="nosuch"))


@pytest.mark.parametrize(
    ("text", "gib"), [("8G", 8), ("512M", 0.5), ("1T", 1024), ("1048576K", 1), ("1073741824", 1), ("8 G", None)]
)
def test_sizes(text: str, gib: float | None) -> None:
    assert size_gib(text) == gib


def test_the_disk_a_machine_boots_from() -> None:
    disks = {"ide2": "local:iso/x.iso,media=cdrom", "virtio0": "lvm:disk-0,size=10G", "scsi0": "lvm:disk-1,size=5G"}
    assert root_disk({**disks, "boot": "order=ide2;virtio0"}, "qemu") == ("virtio0", 10)
    assert root_disk(disks, "qemu") == ("scsi0", 5)
    assert root_disk({"rootfs": "lvm:disk-0,size=4G"}, "lxc") == ("rootfs", 4)
    assert root_disk({}, "qemu") == ("scsi0", None)


def test_memory_in_both_spellings() -> None:
    assert [memory_mib(c) for c in ({"memory": "2048"}, {"memory": "current=1024"}, {})] == [2048, 1024, 512]


LXC_CONFIG = {
    "cores": 1, "memory": 512, "tags": "a;b", "unprivileged": 1, "features": "keyctl=1,nesting=1",
    "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=10.0.0.5/24,gw=10.0.0.1,type=veth",
}  # fmt: skip


def test_a_new_address_keeps_everything_else_of_the_interface() -> None:
    wish = WantedNetwork(bridge="vmbr1", ip=IPv4Interface("10.0.0.9/24"))
    found = drift(Wanted("x", network=wish), LXC_CONFIG, "lxc")
    assert found.set == {"net0": "name=eth0,bridge=vmbr1,hwaddr=BC:24:11:00:00:01,ip=10.0.0.9/24,gw=10.0.0.1,type=veth"}
    dhcp = drift(Wanted("x", network=WantedNetwork(ip="dhcp")), LXC_CONFIG, "lxc")
    assert dhcp.set == {"net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth"}
    assert not drift(Wanted("x", network=WantedNetwork(ip="auto")), LXC_CONFIG, "lxc").set


def test_a_machines_address_is_in_cloud_init() -> None:
    config = {"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1", "ipconfig0": "ip=dhcp,ip6=auto"}
    wish = WantedNetwork("vmbr1", IPv4Interface("10.0.0.9/24"), None, "10.0.0.1")
    found = drift(Wanted("x", network=wish), config, "qemu")
    assert found.set == {
        "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr1,firewall=1", "ipconfig0": "ip=10.0.0.9/24,ip6=auto,gw=10.0.0.1",
    }  # fmt: skip
    assert found.needs_restart == {"network.ip": "ipconfig0", "network.gateway": "ipconfig0"}


def test_nesting_keeps_other_features() -> None:
    assert drift(Wanted("x", nesting=False), LXC_CONFIG, "lxc").set == {"features": "keyctl=1,nesting=0"}
    assert not drift(Wanted("x", nesting=True, unprivileged=True), LXC_CONFIG, "lxc").set


def test_a_purpose_replaces_the_former_one_and_other_tags_stay() -> None:
    config = {**LXC_CONFIG, "tags": "svc-redis;purpose-old"}
    assert drift(Wanted("x", purpose="new"), config, "lxc").set == {"tags": "purpose-new;svc-redis"}
    assert drift(Wanted("x", tags=()), config, "lxc").delete == ["tags"]


lines = st.text(st.characters(codec="ascii", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e"), max_size=40).map(str.strip)


@given(
    lines.filter(lambda t: split_marker(t)[1] is None), st.none() | st.from_regex(r"op-[0-9a-f]{12}", fullmatch=True)
)
def test_a_description_and_its_marker_come_apart_again(text: str, operation: str | None) -> None:
    assert split_marker(with_marker(text, operation) + "\n") == (text, operation)


configs = st.dictionaries(st.sampled_from(["cores", "memory", "tags", "onboot"]), st.integers(1, 9), max_size=4)


@given(before=configs, given_values=configs, deleted=st.sets(st.sampled_from(["cores", "tags"])))
def test_the_inverse_of_a_change_restores_the_configuration(
    before: dict[str, int], given_values: dict[str, int], deleted: set[str]
) -> None:
    change: dict[str, Any] = {k: v for k, v in given_values.items() if k not in deleted}
    after = {k: v for k, v in {**before, **change}.items() if k not in deleted}
    back = inverse(before, {**change, "delete": ",".join(sorted(deleted)), "digest": "x"})
    removed = (back.pop("delete") or "").split(",")
    assert {k: v for k, v in {**after, **back}.items() if k not in removed} == before


def own_address() -> str:
    """An address of this host beside loopback; connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this host has no network besides loopback")
        return str(probe.getsockname()[0])


def test_an_address_that_answers_or_refuses_is_in_use() -> None:
    address = own_address()
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        assert answers(IPv4Address(address), port=port)
        assert port_open(address, port, 1.0)
    assert answers(IPv4Address(address), port=port), "refused: somebody is there"
    assert not port_open(address, port, 1.0)


def test_loopback_answers_for_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not answers(IPv4Address("127.0.0.1"), port=server.getsockname()[1])


def test_nobody_beyond_a_router_is_asked() -> None:
    assert not answers(IPv4Address("198.51.100.7"), seconds=5.0)
