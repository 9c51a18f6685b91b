"""Measured behaviour, section 7: /cluster/resources, its 10 s of lag, /cluster/nextid, calls about everything."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lab.tests.behaviour.client import Api, expect
from lab.tests.behaviour.world import NODE, World, ct

NUMBERS = {"cpu", "maxcpu", "mem", "maxmem", "disk", "maxdisk", "uptime"}
TRAFFIC = {"diskread", "diskwrite", "netin", "netout"}


@pytest.fixture(scope="module")
def operator(world: World) -> Api:
    return world.someone({"/": ["Sys.Audit", "VM.Audit", "Datastore.Audit"]})


class TestRows:
    def test_a_running_container(self, world: World, operator: Api, running: int) -> None:
        row = world.resources(operator)[f"lxc/{running}"]
        name = world.config(running)["hostname"]
        assert {k: v for k, v in row.items() if k not in NUMBERS | TRAFFIC} == {
            "id": f"lxc/{running}",
            "type": "lxc",
            "vmid": running,
            "name": name,
            "node": NODE,
            "status": "running",
            "template": 0,
        }
        assert set(row) >= NUMBERS | TRAFFIC
        assert row["maxmem"] == 64 * 1024 * 1024

    def test_a_node(self, world: World, operator: Api) -> None:
        row = world.resources(operator)[f"node/{NODE}"]
        assert set(row) == {"id", "type", "node", "status", "level", "cgroup-mode"} | NUMBERS
        assert (row["type"], row["status"], row["level"]) == ("node", "online", "")
        assert row["cgroup-mode"] in (1, 2)

    def test_a_storage(self, world: World, operator: Api) -> None:
        row = world.resources(operator)[f"storage/{NODE}/local"]
        assert set(row) == {
            "id",
            "type",
            "storage",
            "node",
            "status",
            "plugintype",
            "content",
            "shared",
            "disk",
            "maxdisk",
        }
        assert (row["status"], row["plugintype"], row["shared"]) == ("available", "dir", 0)
        assert set(row["content"].split(",")) >= {"backup", "vztmpl"}

    def test_the_network_zone_needs_sdn_audit(self, world: World, operator: Api) -> None:
        name = f"sdn/{NODE}/localnetwork"
        assert name not in world.resources(operator)
        assert world.resources(world.someone({"/sdn": ["SDN.Audit"]}))[name] == {
            "id": name,
            "type": "sdn",
            "sdn": "localnetwork",
            "node": NODE,
            "status": "ok",
        }

    def test_lock_tags_and_pool_only_when_set(self, world: World, running: int, locked: int) -> None:
        assert {"lock", "tags", "pool"}.isdisjoint(world.resources()[f"lxc/{running}"])
        pool = f"pool{world.vmid()}"
        world.root.post("/pools", poolid=pool).data  # noqa: B018
        member = world.container(pool=pool, tags="a;b")
        rows = world.resources()
        assert (rows[f"lxc/{member}"]["pool"], rows[f"lxc/{member}"]["tags"]) == (pool, "a;b")
        assert rows[f"lxc/{locked}"]["lock"] == "backup"

    def test_a_template_says_so(self, world: World) -> None:
        vmid = world.container()
        world.root.post(ct(vmid, "/template"))
        assert world.resources()[f"lxc/{vmid}"]["template"] == 1

    @pytest.mark.parametrize(
        ("wanted", "types"),
        [
            ("vm", {"lxc", "qemu"}),
            ("node", {"node"}),
            ("storage", {"storage"}),
            ("sdn", {"sdn"}),
        ],
    )
    def test_one_type(self, world: World, container: int, machine: int, wanted: str, types: set[str]) -> None:
        assert {row["type"] for row in world.resources(type=wanted).values()} == types

    def test_pools_come_only_without_a_type(self, world: World) -> None:
        pool = f"pool{world.vmid()}"
        world.root.post("/pools", poolid=pool).data  # noqa: B018
        assert world.resources()[f"/pool/{pool}"]["type"] == "pool"
        assert "pool" not in {row["type"] for row in world.resources(type="vm").values()}

    def test_types_of_numbers(self, world: World, running: int) -> None:
        row = world.resources()[f"lxc/{running}"]
        assert [type(row[name]) for name in ("vmid", "mem", "uptime", "maxmem", "maxdisk")] == [int] * 5


def test_without_lag_everything_is_instant(world: World) -> None:
    vmid = world.container(running=True)
    row = world.resources()[f"lxc/{vmid}"]
    assert (row["name"], row["status"]) == (f"CT{vmid}", "running")
    world.succeeds(world.root.post(ct(vmid, "/status/stop")))
    assert world.resources()[f"lxc/{vmid}"]["status"] == "stopped"


class TestNextid:
    def test_lowest_free_from_100_as_a_string(self, world: World) -> None:
        first = world.nobody.get("/cluster/nextid").data
        taken = {row["vmid"] for row in world.resources(type="vm").values()}
        assert first == str(next(n for n in range(100, 1000) if n not in taken))
        world.container(vmid=int(first))
        assert int(world.nobody.get("/cluster/nextid").data) > int(first)

    def test_reserves_nothing(self, world: World) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = [a.data for a in pool.map(lambda _: world.nobody.get("/cluster/nextid"), range(8))]
        assert len(answers) == 8
        assert len(set(answers)) == 1

    def test_free(self, world: World) -> None:
        vmid = world.vmid()
        assert world.nobody.get("/cluster/nextid", vmid=vmid).data == str(vmid)

    @pytest.mark.parametrize("kind", ["container", "machine"])
    def test_taken(self, world: World, request: pytest.FixtureRequest, kind: str) -> None:
        vmid = request.getfixturevalue(kind)
        answer = world.nobody.get("/cluster/nextid", vmid=vmid)
        assert answer.errors == {"vmid": f"VM {vmid} already exists"}
        expect(answer, "400 Parameter verification failed.")

    def test_in_creation_counts_as_taken(self, world: World, slowly: None) -> None:
        vmid = world.vmid()
        answer = world.create(vmid=vmid)
        assert world.nobody.get("/cluster/nextid", vmid=vmid).errors == {"vmid": f"VM {vmid} already exists"}
        world.succeeds(answer)


class TestOneCallForEverything:
    def test_status_of_the_cluster(self, world: World) -> None:
        rows: list[dict[str, Any]] = world.root.get("/cluster/status").data
        [node] = [row for row in rows if row["type"] == "node" and row["name"] == NODE]
        assert node["online"] == 1

    def test_metrics_of_everything(self, world: World, running: int) -> None:
        rows = world.root.get("/cluster/metrics/export").data["data"]
        assert {"id", "metric", "value", "timestamp", "type"} <= set(rows[0])
        ids = {row["id"] for row in rows}
        assert {f"lxc/{running}", f"node/{NODE}", f"storage/{NODE}/local"} <= ids

    def test_guests_in_no_backup_job(self, world: World, container: int) -> None:
        rows = world.root.get("/cluster/backup-info/not-backed-up").data
        [row] = [r for r in rows if r["vmid"] == container]
        assert row["type"] == "lxc"
