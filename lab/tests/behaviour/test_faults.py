"""What goes wrong on order: each fault as a client sees it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPException

import pytest

from lab.tests.behaviour.client import Api, expect
from lab.tests.behaviour.process import ROOT, command
from lab.tests.behaviour.world import NODE, World, ct, task, until, vm

OTHER = "pve2"
AGENT = "/agent/network-get-interfaces"


@pytest.fixture(scope="module")
def world(lab: Callable[..., World]) -> World:
    return lab("--nodes", f"{NODE},{OTHER}")


class TestNodes:
    def test_calls_to_an_offline_node_are_595(self, world: World) -> None:
        with world.fault("node-offline", node=OTHER):
            answer = world.root.get(f"/nodes/{OTHER}/status")
            assert (answer.status, bool(answer.reason)) == (595, True)
            assert world.root.get(f"/nodes/{NODE}/status").status == 200
        assert world.root.get(f"/nodes/{OTHER}/status").status == 200

    def test_an_offline_node_is_shown_and_its_guests_are_unknown(self, world: World) -> None:
        vmid = world.vmid()
        world.succeeds(world.root.post(f"/nodes/{OTHER}/lxc", **world.wanted(vmid=vmid)))
        with world.fault("node-offline", node=OTHER):
            rows = world.resources()
            assert rows[f"node/{OTHER}"]["status"] == "offline"
            assert rows[f"lxc/{vmid}"]["status"] == "unknown"
            assert rows[f"node/{NODE}"]["status"] == "online"

    def test_a_vmid_is_one_for_the_whole_cluster(self, world: World) -> None:
        vmid = world.vmid()
        world.succeeds(world.root.post(f"/nodes/{OTHER}/lxc", **world.wanted(vmid=vmid)))
        expect(world.create(vmid=vmid), f"500 CT {vmid} already exists on node '{OTHER}'")

    def test_a_slow_node_answers_late(self, world: World) -> None:
        with world.fault("slow", node=OTHER, delay=1):
            assert world.root.get(f"/nodes/{OTHER}/status").seconds >= 1
            assert world.root.get(f"/nodes/{NODE}/status").seconds < 1

    def test_a_call_that_takes_too_long_is_596(self, world: World) -> None:
        with world.fault("proxy-timeout", path="*/storage/*/content", delay=0.2):
            answer = world.root.get(f"/nodes/{NODE}/storage/local/content")
        assert answer.status == 596
        assert answer.headers["connection"].lower() == "close"

    def test_html_instead_of_json(self, world: World) -> None:
        with world.fault("captive-html", path="*/version"):
            answer = world.root.get("/version")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/html")
        assert b"<html" in answer.body.lower()


class TestGuests:
    def test_a_stuck_lock(self, world: World) -> None:
        vmid = world.container()
        with world.fault("stuck-lock", vmid=vmid, text="snapshot"):
            expect(world.root.delete(ct(vmid)), "500 CT is locked (snapshot)")
        world.succeeds(world.root.delete(ct(vmid)))

    def test_a_stuck_lock_of_a_machine(self, world: World) -> None:
        vmid = world.machine()
        with world.fault("stuck-lock", vmid=vmid, text="backup"):
            expect(world.root.put(vm(vmid, "/config"), onboot=1), "500 VM is locked (backup)")

    def test_the_vmid_is_taken_between_plan_and_create(self, world: World) -> None:
        vmid = int(world.root.get("/cluster/nextid").data)
        with world.fault("vmid-taken", vmid=vmid, count=1):
            answer = world.create(vmid=vmid)
        assert answer.status == 500
        assert f"{vmid} already exists on node '" in answer.reason
        assert world.root.get("/cluster/nextid", vmid=vmid).errors == {"vmid": f"VM {vmid} already exists"}

    def test_a_full_storage(self, world: World) -> None:
        vmid = world.vmid()
        with world.fault("storage-full", storage=world.storage):
            answer = world.create(vmid=vmid)
            assert "space" in world.exit_status(answer.data)
        assert f"lxc/{vmid}" not in world.resources()
        world.succeeds(world.create(vmid=vmid))


class TestTasks:
    def test_a_failed_create_cleans_up(self, world: World) -> None:
        vmid = world.vmid()
        with world.fault("task-fail", task="vzcreate", text="unable to create CT: broken pipe"):
            world.fails(world.create(vmid=vmid), "unable to create CT: broken pipe")
        assert f"lxc/{vmid}" not in world.resources()
        world.succeeds(world.create(vmid=vmid))

    def test_a_failed_snapshot_leaves_its_lock(self, world: World) -> None:
        vmid = world.container()
        with world.fault("task-fail", task="vzsnapshot", vmid=vmid, text="snapshot failed"):
            world.fails(world.root.post(ct(vmid, "/snapshot"), snapname="s1"), "snapshot failed")
        assert world.config(vmid)["lock"] == "snapshot"
        expect(world.root.delete(ct(vmid)), "500 CT is locked (snapshot)")

    def test_a_slow_task(self, world: World) -> None:
        with world.fault("task-slow", task="vzcreate", delay=1):
            answer = world.create()
            assert answer.seconds < 1
            assert world.root.get(f"{task(answer.data)}/status").data["status"] == "running"
        world.succeeds(answer)

    def test_warnings_are_a_success_with_a_number(self, world: World) -> None:
        vmid = world.vmid()
        with world.fault("task-warn", task="vzcreate", count=1):
            upid = world.create(vmid=vmid).data
            assert world.exit_status(upid) == "WARNINGS: 1"
        assert world.log(upid)[-1] == "TASK WARNINGS: 1"
        assert [line for line in world.log(upid) if line.startswith("WARN: ")]
        assert world.root.get(ct(vmid, "/config")).line == "200 OK"
        [row] = world.root.get(f"/nodes/{NODE}/tasks", vmid=vmid).data
        assert row["status"] == "WARNINGS: 1"


class TestDaemon:
    """Ends with SIGKILL in the middle of things and is started again."""

    @pytest.fixture
    def own(self, lab: Callable[..., World]) -> World:
        return lab()

    def is_up(self, api: Api) -> bool:
        try:
            return api.get("/version").status == 200
        except OSError:
            return False

    def test_what_was_there_is_there_after_a_crash(self, own: World) -> None:
        vmid = own.container(running=True, tags="kept")
        token = own.someone({"/vms": ["VM.Audit"]})
        before = token.get(ct(vmid, "/config")).data
        done = own.root.get(f"/nodes/{NODE}/tasks", vmid=vmid).data
        with own.fault("task-slow", task="vzcreate", delay=300):
            interrupted = own.create().data
            with own.fault("daemon-crash", path="*/version", count=1), pytest.raises((ConnectionError, HTTPException)):
                own.root.get("/version")
        until(lambda: not self.is_up(own.anonymous), "the daemon is gone")
        command("up", own.directory)
        until(lambda: self.is_up(token), "the daemon is back")
        assert token.get(ct(vmid, "/config")).data == before
        assert token.get(ct(vmid, "/status/current")).data["status"] == "running"
        assert own.root.get(f"/nodes/{NODE}/tasks", vmid=vmid).data == done
        assert own.exit_status(interrupted) == "unexpected status"


class TestOrdering:
    """Faults by the command line and by the endpoint for tests."""

    def fault(self, world: World, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lab", "fault", *args, "--dir", str(world.directory)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=True,
            timeout=30,
        )
        return done.stdout

    def test_by_the_command_line(self, world: World) -> None:
        self.fault(world, "set", "slow", "--path", "*/version", "--delay", "1")
        try:
            assert world.root.get("/version").seconds >= 1
            assert "slow" in self.fault(world, "list")
        finally:
            self.fault(world, "clear")
        assert world.root.get("/version").seconds < 1


def test_ordered_counts_are_used_up(world: World) -> None:
    with world.fault("proxy-timeout", path="*/version", delay=0.01, count=2):
        assert [world.root.get("/version").status for _ in range(3)] == [596, 596, 200]
