"""Measured behaviour, section 6: UPIDs, status, log, the lists of tasks."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from lab.tests.behaviour.client import Api
from lab.tests.behaviour.world import NODE, World, ct, task, vm

HEX = "[0-9A-F]{8}"
NEVER_SEEN = f"UPID:{NODE}:00000001:00000002:60000000:vzstart:100:root@pam:"


@pytest.fixture(scope="module")
def op(world: World) -> Api:
    """The token priv of op@pve, who may do everything."""
    assert world.root.post("/access/users", userid="op@pve").status == 200
    assert world.root.put("/access/acl", path="/", roles="Administrator", users="op@pve").status == 200
    return world.token("op@pve", "priv")


@pytest.fixture(scope="module")
def made(world: World, op: Api) -> str:
    """The UPID of a create that op@pve!priv did."""
    return world.succeeds(world.create(op))


class TestUpid:
    def test_of_a_token(self, made: str) -> None:
        match = re.fullmatch(rf"UPID:{NODE}:({HEX}):({HEX}):({HEX}):vzcreate:(\d+):op@pve!priv:", made)
        assert match
        assert abs(int(match[3], 16) - time.time()) < 60

    def test_of_a_user(self, world: World) -> None:
        assert re.fullmatch(rf"UPID:{NODE}:{HEX}:{HEX}:{HEX}:vzcreate:\d+:root@pam:", world.create().data)

    def test_types_of_container_tasks(self, world: World) -> None:
        vmid, new = world.vmid(), world.vmid()
        post, run = world.root.post, world.succeeds
        done = [
            run(world.create(vmid=vmid)),
            run(post(ct(vmid, "/status/start"))),
            run(post(ct(vmid, "/status/reboot"))),
            run(post(ct(vmid, "/status/shutdown"))),
            run(post(ct(vmid, "/status/start"))),
            run(post(ct(vmid, "/status/stop"))),
            run(post(ct(vmid, "/snapshot"), snapname="s1")),
            run(post(ct(vmid, "/snapshot/s1/rollback"))),
            run(world.root.delete(ct(vmid, "/snapshot/s1"))),
            run(world.root.put(ct(vmid, "/resize"), disk="rootfs", size="+1G")),
            run(post(ct(vmid, "/clone"), newid=new, full=1)),
            run(world.root.delete(ct(vmid))),
        ]
        assert [upid.split(":")[5] for upid in done] == [
            "vzcreate",
            "vzstart",
            "vzreboot",
            "vzshutdown",
            "vzstart",
            "vzstop",
            "vzsnapshot",
            "vzrollback",
            "vzdelsnapshot",
            "resize",
            "vzclone",
            "vzdestroy",
        ]

    def test_types_of_machine_tasks(self, world: World) -> None:
        vmid, new = world.vmid(), world.vmid()
        post, run = world.root.post, world.succeeds
        done = [
            run(post(f"/nodes/{NODE}/qemu", vmid=vmid)),
            run(post(vm(vmid, "/status/start"))),
            run(post(vm(vmid, "/status/reboot"))),
            run(post(vm(vmid, "/status/shutdown"))),
            run(post(vm(vmid, "/status/start"))),
            run(post(vm(vmid, "/status/stop"))),
            run(post(vm(vmid, "/snapshot"), snapname="s1")),
            run(post(vm(vmid, "/snapshot/s1/rollback"))),
            run(world.root.delete(vm(vmid, "/snapshot/s1"))),
            run(post(vm(vmid, "/clone"), newid=new, full=1)),
            run(post(vm(vmid, "/config"), onboot=1)),
            run(world.root.delete(vm(vmid))),
        ]
        assert [upid.split(":")[5] for upid in done] == [
            "qmcreate",
            "qmstart",
            "qmreboot",
            "qmshutdown",
            "qmstart",
            "qmstop",
            "qmsnapshot",
            "qmrollback",
            "qmdelsnapshot",
            "qmclone",
            "qmconfig",
            "qmdestroy",
        ]


class TestStatus:
    COMMON = frozenset({"upid", "node", "pid", "pstart", "starttime", "type", "id", "user", "status"})

    def test_running(self, world: World, op: Api, slowly: None) -> None:
        answer = world.create(op)
        status = world.root.get(f"{task(answer.data)}/status").data
        upid = answer.data.split(":")
        assert set(status) - {"tokenid"} == self.COMMON
        assert status == {
            "status": "running",
            "upid": answer.data,
            "node": NODE,
            "pid": int(upid[2], 16),
            "pstart": int(upid[3], 16),
            "starttime": int(upid[4], 16),
            "type": "vzcreate",
            "id": upid[6],
            "user": "op@pve",
            "tokenid": "priv",
        }
        world.succeeds(answer)

    def test_ended_well(self, world: World, made: str) -> None:
        status = world.root.get(f"{task(made)}/status").data
        assert set(status) == self.COMMON | {"tokenid", "exitstatus"}
        assert (status["status"], status["exitstatus"]) == ("stopped", "OK")
        assert isinstance(status["id"], str)

    def test_of_a_user_there_is_no_tokenid(self, world: World) -> None:
        upid = world.succeeds(world.create())
        status = world.root.get(f"{task(upid)}/status").data
        assert status["user"] == "root@pam"
        assert "tokenid" not in status

    def test_failed_has_the_text_without_prefix(self, world: World) -> None:
        vmid, volume = world.vmid(), "local:vztmpl/nosuch.tar.zst"
        world.fails(
            world.create(vmid=vmid, ostemplate=volume), f"unable to create CT {vmid} - volume '{volume}' does not exist"
        )

    def test_never_seen(self, world: World) -> None:
        assert world.root.get(f"{task(NEVER_SEEN)}/status").errors == {"upid": "no such task"}

    @pytest.mark.parametrize("leaf", ["/status", "/log", ""])
    def test_no_upid(self, world: World, leaf: str) -> None:
        method = "GET" if leaf else "DELETE"
        answer = world.root.call(method, f"/nodes/{NODE}/tasks/garbage{leaf}", {})
        assert answer.errors == {"upid": "unable to parse worker upid"}


class TestLog:
    def test_numbered_from_one_and_ends_with_the_outcome(self, world: World, made: str) -> None:
        answer = world.root.get(f"{task(made)}/log")
        assert [line["n"] for line in answer.data] == list(range(1, len(answer.data) + 1))
        assert {frozenset(line) for line in answer.data} == {frozenset({"n", "t"})}
        assert answer.json["total"] == len(answer.data)
        assert answer.data[-1]["t"] == "TASK OK"

    def test_start_and_limit(self, world: World, made: str) -> None:
        whole = world.root.get(f"{task(made)}/log").data
        part = world.root.get(f"{task(made)}/log", start=len(whole) - 1, limit=1)
        assert part.data == [whole[-1]]
        assert part.json["total"] == len(whole)

    def test_past_the_end(self, world: World, made: str) -> None:
        assert world.root.get(f"{task(made)}/log", start=500).data == []

    def test_never_seen_is_an_object(self, world: World) -> None:
        answer = world.root.get(f"{task(NEVER_SEEN)}/log")
        assert answer.line == "200 OK"
        assert answer.json == {"total": 1, "data": {"n": 1, "t": "unable to open file - No such file or directory"}}


class TestStop:
    def test_a_finished_task(self, world: World, made: str) -> None:
        assert world.root.delete(task(made)).json == {"data": None}

    def test_a_running_task(self, world: World, endlessly: None) -> None:
        upid = world.create().data
        answer = world.root.delete(task(upid))
        assert answer.json == {"data": None}
        assert world.exit_status(upid).endswith("received interrupt")


class TestLists:
    def rows(self, world: World, **params: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = world.root.get(f"/nodes/{NODE}/tasks", **params).data
        return rows

    def test_newest_first_with_status_and_endtime(self, world: World) -> None:
        good = world.succeeds(world.create())
        bad = world.create(ostemplate="local:vztmpl/nosuch.tar.zst").data
        world.exit_status(bad)
        rows = self.rows(world)
        found = {row["upid"]: row for row in rows}
        assert [row["upid"] for row in rows].index(bad) < [row["upid"] for row in rows].index(good)
        assert found[good]["status"] == "OK"
        assert found[bad]["status"].endswith("does not exist")
        assert found[good]["endtime"] >= found[good]["starttime"]
        assert [row["starttime"] for row in rows] == sorted((row["starttime"] for row in rows), reverse=True)

    def test_total_counts_what_limit_leaves_out(self, world: World, made: str) -> None:
        world.succeeds(world.create())
        answer = world.root.get(f"/nodes/{NODE}/tasks", limit=1)
        assert len(answer.data) == 1
        assert answer.json["total"] > 1

    def test_active_only(self, world: World, op: Api, slowly: None) -> None:
        answer = world.create(op)
        [row] = [r for r in self.rows(world, source="active") if r["upid"] == answer.data]
        assert row["status"] == "RUNNING"
        assert row["user"] == "op@pve!priv"
        assert "endtime" not in row
        assert answer.data not in [r["upid"] for r in self.rows(world, source="archive")]
        assert answer.data in [r["upid"] for r in self.rows(world, source="all")]
        world.succeeds(answer)

    def test_since_later_than_all(self, world: World, made: str) -> None:
        assert self.rows(world, since=int(time.time()) + 3600) == []

    def test_until_earlier_than_all(self, world: World, made: str) -> None:
        assert self.rows(world, until=1) == []

    def test_errors_only(self, world: World, made: str) -> None:
        world.exit_status(world.create(ostemplate="local:vztmpl/nosuch.tar.zst").data)
        rows = self.rows(world, errors=1)
        assert rows
        assert "OK" not in {row["status"] for row in rows}

    def test_filters(self, world: World, made: str) -> None:
        vmid = int(made.split(":")[6])
        assert {row["upid"] for row in self.rows(world, vmid=vmid)} == {made}
        assert {row["type"] for row in self.rows(world, typefilter="vzcreate")} == {"vzcreate"}
        assert made in [row["upid"] for row in self.rows(world, userfilter="op@pve")]
        assert self.rows(world, userfilter="nosuch") == []

    def test_of_the_cluster(self, world: World) -> None:
        made = world.succeeds(world.create())
        [row] = [r for r in world.root.get("/cluster/tasks").data if r["upid"] == made]
        assert (row["node"], row["type"], row["status"]) == (NODE, "vzcreate", "OK")
        assert {"starttime", "endtime", "user", "id"} <= set(row)
        assert int(row["saved"]) in (0, 1)

    def test_at_most_25_finished_ones_of_the_cluster(self, world: World) -> None:
        vmid = world.container()
        for _ in range(14):
            world.succeeds(world.root.post(ct(vmid, "/status/start")))
            world.succeeds(world.root.post(ct(vmid, "/status/stop")))
        assert len([r for r in world.root.get("/cluster/tasks").data if r.get("endtime")]) == 25
        assert len(self.rows(world, limit=500)) > 50
        assert len(self.rows(world)) == 50  # unless told otherwise
