"""Containers from creation to removal."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lab.tests.harness import TEMPLATE, RunningLab


def test_a_created_container_has_the_defaults_of_a_real_node(lab: RunningLab) -> None:
    lab.container(101, hostname="web1")
    config = lab.get("/nodes/pve/lxc/101/config")
    assert config["memory"] == 512
    assert config["unprivileged"] == 1
    assert config["rootfs"] == "local-lvm:vm-101-disk-0,size=4G"
    assert "lock" not in config


def test_a_container_starts_and_stops(lab: RunningLab) -> None:
    lab.container(101)
    assert lab.task("POST", "/nodes/pve/lxc/101/status/start") == "OK"
    assert lab.get("/nodes/pve/lxc/101/status/current")["status"] == "running"
    assert lab.request("POST", "/nodes/pve/lxc/101/status/start").reason == "CT 101 already running"
    assert lab.task("POST", "/nodes/pve/lxc/101/status/stop") == "OK"
    assert lab.request("POST", "/nodes/pve/lxc/101/status/stop").reason == "CT 101 not running"


def test_a_missing_template_fails_the_task_and_leaves_nothing(lab: RunningLab) -> None:
    params = {"vmid": 110, "ostemplate": "local:vztmpl/nosuch.tar.zst", "storage": "local-lvm"}
    expected = "unable to create CT 110 - volume 'local:vztmpl/nosuch.tar.zst' does not exist"
    assert lab.task("POST", "/nodes/pve/lxc", params) == expected
    assert lab.get("/nodes/pve/lxc") == []


def test_create_is_the_compare_and_set_of_vmids(lab: RunningLab) -> None:
    lab.container(101)
    again = lab.request("POST", "/nodes/pve/lxc", {"vmid": 101, "ostemplate": TEMPLATE, "storage": "local-lvm"})
    assert (again.status, again.reason) == (500, "CT 101 already exists on node 'pve'")
    assert lab.get("/cluster/nextid") == "100"
    assert lab.request("GET", "/cluster/nextid", {"vmid": 101}).errors == {"vmid": "VM 101 already exists"}


def test_protection_keeps_a_container(lab: RunningLab) -> None:
    lab.container(101, protection=1)
    assert lab.request("DELETE", "/nodes/pve/lxc/101").reason == "can't remove CT 101 - protection mode enabled"
    lab.request("PUT", "/nodes/pve/lxc/101/config", {"protection": 0})
    assert lab.task("DELETE", "/nodes/pve/lxc/101") == "OK"
    assert lab.get("/nodes/pve/lxc") == []


def test_a_clone_has_the_protection_of_its_source(lab: RunningLab) -> None:
    lab.container(101)
    lab.request("PUT", "/nodes/pve/lxc/101/config", {"protection": 1})
    assert lab.task("POST", "/nodes/pve/lxc/101/clone", {"newid": 102}) == "OK"
    assert lab.get("/nodes/pve/lxc/102/config")["protection"] == 1


def test_a_clone_whose_source_stays_locked_leaves_nothing(lab: RunningLab) -> None:
    lab.container(101)
    lab.fault("config-lock", vmid=101, delay=0.1, count=1)
    text = "can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout"
    assert lab.task("POST", "/nodes/pve/lxc/101/clone", {"newid": 102}) == f"unable to clone CT 102 - {text}"
    assert [guest["vmid"] for guest in lab.get("/nodes/pve/lxc")] == [101]


def test_of_many_creates_of_one_vmid_exactly_one_succeeds(lab: RunningLab) -> None:
    params = {"vmid": 150, "ostemplate": TEMPLATE, "rootfs": "local-lvm:1"}
    headers = lab.root
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: lab.request("POST", "/nodes/pve/lxc", params, headers), range(8)))
    assert sorted(reply.status for reply in replies) == [200] + [500] * 7
    assert {reply.reason for reply in replies if reply.status == 500} == {"CT 150 already exists on node 'pve'"}


def test_a_guest_that_takes_the_vmid_at_the_last_moment_is_not_ours(lab: RunningLab) -> None:
    lab.fault("vmid-taken", vmid=101, count=1)
    params = {"vmid": 101, "ostemplate": TEMPLATE, "rootfs": "local-lvm:1", "hostname": "ours"}
    assert lab.request("POST", "/nodes/pve/lxc", params).reason == "CT 101 already exists on node 'pve'"
    assert lab.get("/nodes/pve/lxc/101/config")["hostname"] == "intruder"
