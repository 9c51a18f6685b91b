"""A daemon that comes back, politely or after kill -9 (as far as one process can play that)."""

from __future__ import annotations

from lab.tests.harness import TEMPLATE, RunningLab


def test_guests_tokens_and_running_state_survive(lab: RunningLab) -> None:
    lab.container(101, tags="kept")
    assert lab.task("POST", "/nodes/pve/lxc/101/status/start") == "OK"
    demo, before = lab.token("demo"), lab.get("/nodes/pve/lxc/101/config")
    lab.restart()
    assert lab.request("GET", "/nodes/pve/lxc/101/config", headers=demo).data == before
    assert lab.get("/nodes/pve/lxc/101/status/current")["status"] == "running"


def test_tickets_survive(lab: RunningLab) -> None:
    session = lab.root
    lab.restart()
    assert lab.request("GET", "/version", headers=session).status == 200


def test_finished_tasks_keep_their_end_and_their_log(lab: RunningLab) -> None:
    lab.container(101)
    [task] = lab.get("/nodes/pve/tasks")
    log = lab.get(f"/nodes/pve/tasks/{task['upid']}/log")
    lab.restart()
    assert lab.get("/nodes/pve/tasks") == [task]
    assert lab.get(f"/nodes/pve/tasks/{task['upid']}/log") == log


def test_a_task_that_was_cut_off_ends_as_unexpected_status(lab: RunningLab) -> None:
    lab.container(101)
    [task] = lab.get("/nodes/pve/tasks")
    record = lab.lab.store.tasks[task["upid"]]
    record.exitstatus, record.endtime = "", 0  # as a kill -9 in the middle leaves it
    lab.lab.store.tasks.save(task["upid"])
    lab.restart()
    status = lab.get(f"/nodes/pve/tasks/{task['upid']}/status")
    assert (status["status"], status["exitstatus"]) == ("stopped", "unexpected status")


def test_upids_stay_unique_over_a_restart(lab: RunningLab) -> None:
    lab.container(101)
    lab.restart()
    lab.container(102)
    upids = [task["upid"] for task in lab.get("/nodes/pve/tasks")]
    assert len(upids) == len(set(upids)) == 2


def test_a_removal_that_was_cut_off_can_be_asked_for_again(lab: RunningLab) -> None:
    lab.container(101)
    lab.lab.store.guests[101].config["lock"] = "destroyed"
    lab.lab.store.guests.save(101)
    lab.restart()
    assert lab.task("DELETE", "/nodes/pve/lxc/101") == "OK"


def test_a_worker_that_takes_too_long_is_interrupted_when_the_daemon_ends(lab: RunningLab) -> None:
    lab.fault("task-slow", task="vzcreate", delay=30, count=1)
    upid = lab.request("POST", "/nodes/pve/lxc", {"vmid": 101, "ostemplate": TEMPLATE, "rootfs": "local-lvm:1"}).data
    lab.run(lab.lab.tasks.drain(0.1))
    assert lab.wait(upid) == "unable to create CT 101 - received interrupt"
    assert lab.get("/nodes/pve/lxc") == []
