"""Measured behaviour, section 3: the table of checks, one case per alternative; what is seen without rights."""

from __future__ import annotations

from typing import Any

import pytest

from lab.tests.behaviour.client import Api, expect
from lab.tests.behaviour.world import MISSING, NODE, World, ct, vm

DENIED = "403 Permission check failed"
CONFIG = ["VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"]
STORE = ["Datastore.Audit", "Datastore.AllocateSpace"]
SNAP = {"snapname": "before"}

# (method, path, parameters, path of the check, alternatives). {ct}, {vm}: a guest that is there.
CHECKS: list[tuple[str, str, dict[str, Any], str, list[str]]] = [
    ("GET", f"/nodes/{NODE}/status", {}, f"/nodes/{NODE}", ["Sys.Audit"]),
    ("GET", "/cluster/status", {}, "/", ["Sys.Audit"]),
    ("GET", "/cluster/metrics/export", {}, "/", ["Sys.Audit"]),
    ("GET", "/cluster/backup-info/not-backed-up", {}, "/", ["Sys.Audit"]),
    ("GET", f"/nodes/{NODE}/lxc/{{ct}}/config", {}, "/vms/{ct}", ["VM.Audit"]),
    ("GET", f"/nodes/{NODE}/lxc/{{ct}}/status/current", {}, "/vms/{ct}", ["VM.Audit"]),
    ("GET", f"/nodes/{NODE}/lxc/{{ct}}/snapshot", {}, "/vms/{ct}", ["VM.Audit"]),
    ("GET", f"/nodes/{NODE}/lxc/{{ct}}/interfaces", {}, "/vms/{ct}", ["VM.Audit"]),
    ("GET", f"/nodes/{NODE}/lxc/{{ct}}/firewall/rules", {}, "/vms/{ct}", ["VM.Audit"]),
    ("GET", f"/nodes/{NODE}/qemu/{{vm}}/config", {}, "/vms/{vm}", ["VM.Audit"]),
    ("GET", f"/nodes/{NODE}/qemu/{{vm}}/status/current", {}, "/vms/{vm}", ["VM.Audit"]),
    ("PUT", f"/nodes/{NODE}/lxc/{{ct}}/config", {"onboot": 1}, "/vms/{ct}", CONFIG),
    ("DELETE", f"/nodes/{NODE}/lxc/{{ct}}", {}, "/vms/{ct}", ["VM.Allocate"]),
    ("DELETE", f"/nodes/{NODE}/qemu/{{vm}}", {}, "/vms/{vm}", ["VM.Allocate"]),
    ("POST", f"/nodes/{NODE}/lxc/{{ct}}/template", {}, "/vms/{ct}", ["VM.Allocate"]),
    ("POST", f"/nodes/{NODE}/lxc/{{ct}}/status/start", {}, "/vms/{ct}", ["VM.PowerMgmt"]),
    ("POST", f"/nodes/{NODE}/lxc/{{ct}}/status/stop", {}, "/vms/{ct}", ["VM.PowerMgmt"]),
    ("POST", f"/nodes/{NODE}/lxc/{{ct}}/status/shutdown", {}, "/vms/{ct}", ["VM.PowerMgmt"]),
    ("POST", f"/nodes/{NODE}/lxc/{{ct}}/status/reboot", {}, "/vms/{ct}", ["VM.PowerMgmt"]),
    ("POST", f"/nodes/{NODE}/qemu/{{vm}}/status/start", {}, "/vms/{vm}", ["VM.PowerMgmt"]),
    ("POST", f"/nodes/{NODE}/lxc/{{ct}}/snapshot", SNAP, "/vms/{ct}", ["VM.Snapshot"]),
    ("DELETE", f"/nodes/{NODE}/lxc/{{ct}}/snapshot/before", {}, "/vms/{ct}", ["VM.Snapshot"]),
    (
        "POST",
        f"/nodes/{NODE}/lxc/{{ct}}/snapshot/before/rollback",
        {},
        "/vms/{ct}",
        ["VM.Snapshot", "VM.Snapshot.Rollback"],
    ),
    ("PUT", f"/nodes/{NODE}/lxc/{{ct}}/resize", {"disk": "rootfs", "size": "+1G"}, "/vms/{ct}", ["VM.Config.Disk"]),
    ("POST", f"/nodes/{NODE}/lxc/{{ct}}/clone", {"newid": 99999}, "/vms/{ct}", ["VM.Clone"]),
    (
        "POST",
        f"/nodes/{NODE}/lxc/{{ct}}/firewall/rules",
        {"type": "in", "action": "ACCEPT"},
        "/vms/{ct}",
        ["VM.Config.Network"],
    ),
    ("GET", f"/nodes/{NODE}/storage/local/status", {}, "/storage/local", STORE),
    ("GET", f"/nodes/{NODE}/storage/local/content", {}, "/storage/local", STORE),
    ("POST", "/pools", {"poolid": "mine"}, "/pool/mine", ["Pool.Allocate"]),
]
ROWS = [pytest.param(*row, id=f"{row[0]} {row[1]}") for row in CHECKS]
ALTERNATIVES = [
    pytest.param(*row[:4], privilege, id=f"{row[0]} {row[1]}: {privilege}") for row in CHECKS for privilege in row[4]
]


class TestOneCheckPerMethod:
    @pytest.fixture(scope="class")
    @classmethod
    def ids(cls, world: World) -> dict[str, int]:
        return {"ct": world.container(), "vm": world.machine()}

    @pytest.mark.parametrize(("method", "path", "params", "where", "privileges"), ROWS)
    def test_without(
        self,
        world: World,
        ids: dict[str, int],
        method: str,
        path: str,
        params: dict[str, Any],
        where: str,
        privileges: list[str],
    ) -> None:
        answer = world.nobody.call(method, path.format(**ids), params)
        expect(answer, f"{DENIED} ({where.format(**ids)}, {'|'.join(privileges)})")

    @pytest.mark.parametrize(("method", "path", "params", "where", "privilege"), ALTERNATIVES)
    def test_with(
        self, world: World, method: str, path: str, params: dict[str, Any], where: str, privilege: str
    ) -> None:
        ids = {"ct": world.container() if "{ct}" in path else 0, "vm": world.machine() if "{vm}" in path else 0}
        caller = world.someone({where.format(**ids): [privilege]})
        failed = f"({where.format(**ids)}, {privilege}"
        assert failed not in caller.call(method, path.format(**ids), params).reason

    @pytest.mark.parametrize("path", ["/config", "/status/current", "/snapshot", "/interfaces"])
    def test_audit_reads(self, world: World, ids: dict[str, int], path: str) -> None:
        caller = world.someone({f"/vms/{ids['ct']}": ["VM.Audit"]})
        assert caller.get(ct(ids["ct"], path)).line == "200 OK"


def test_clone_also_needs_allocate_on_the_new_id(world: World) -> None:
    vmid, new = world.container(), world.vmid()
    caller = world.someone({f"/vms/{vmid}": ["VM.Clone"]})
    answer = caller.post(ct(vmid, "/clone"), newid=new)
    assert answer.line.startswith(DENIED)


def test_a_missing_container_is_403_without_rights_and_500_with(world: World) -> None:
    expect(world.nobody.get(ct(MISSING, "/config")), f"{DENIED} (/vms/{MISSING}, VM.Audit)")
    expect(
        world.someone({"/vms": ["VM.Audit"]}).get(ct(MISSING, "/config")),
        f"500 Configuration file 'nodes/{NODE}/lxc/{MISSING}.conf' does not exist",
    )


def test_the_agent_needs_its_privilege(world: World) -> None:
    vmid = world.machine(running=True, agent="1")
    caller = world.someone({"/vms": ["VM.Audit"]})
    path = vm(vmid, "/agent/network-get-interfaces")
    expect(caller.get(path), f"{DENIED} (/vms/{vmid}, VM.Monitor)")
    assert world.someone({"/vms": ["VM.Monitor"]}).get(path).line == "200 OK"


# What a caller without any rights sees


@pytest.fixture(params=["token without ACL", "privsep token of root@pam", "privsep token of an administrator"])
def powerless(world: World, request: pytest.FixtureRequest) -> Api:
    if request.param == "token without ACL":
        return world.nobody
    if request.param == "privsep token of root@pam":
        return world.token("root@pam", f"t{world.vmid()}", privsep=1)
    return world.token(world.user({"/": ["VM.Audit", "Sys.Audit", "Datastore.Audit"]}), privsep=1)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (f"/nodes/{NODE}/lxc", []),
        (f"/nodes/{NODE}/qemu", []),
        (f"/nodes/{NODE}/storage", []),
        ("/storage", []),
        ("/pools", []),
        ("/access/permissions", {}),
        (f"/nodes/{NODE}/tasks", []),
        ("/cluster/tasks", []),
    ],
)
def test_lists_are_empty_without_rights(world: World, powerless: Api, path: str, data: Any) -> None:
    world.container()
    world.root.post("/pools", poolid=f"pool{world.vmid()}")
    assert powerless.get(path).data == data


@pytest.mark.parametrize("path", ["/version", "/nodes", "/cluster/nextid", "/cluster/resources"])
def test_calls_open_to_everybody(powerless: Api, path: str) -> None:
    assert powerless.get(path).line == "200 OK"


BARE_NODE = {"id": f"node/{NODE}", "type": "node", "node": NODE, "status": "online", "level": "", "cgroup-mode": 2}


def test_resources_without_rights_are_bare_nodes(world: World, powerless: Api) -> None:
    world.container()
    assert world.resources(powerless) == {f"node/{NODE}": BARE_NODE}


def test_nodes_without_rights_add_a_fingerprint(powerless: Api) -> None:
    [row] = powerless.get("/nodes").data
    assert row == {**BARE_NODE, "ssl_fingerprint": row["ssl_fingerprint"]}


# What rights add to the lists


class TestListsAreFiltered:
    def test_guests_by_audit(self, world: World) -> None:
        seen, hidden = world.container(), world.container()
        caller = world.someone({f"/vms/{seen}": ["VM.Audit"]})
        assert [row["vmid"] for row in caller.get(f"/nodes/{NODE}/lxc").data] == [seen]
        assert f"lxc/{seen}" in world.resources(caller)
        assert f"lxc/{hidden}" not in world.resources(caller)

    @pytest.mark.parametrize("privilege", ["Datastore.Audit", "Datastore.AllocateSpace"])
    def test_storage_by_audit_or_allocate_space(self, world: World, privilege: str) -> None:
        caller = world.someone({"/storage/local": [privilege]})
        assert [row["storage"] for row in caller.get(f"/nodes/{NODE}/storage").data] == ["local"]
        assert [row["storage"] for row in caller.get("/storage").data] == ["local"]
        assert f"storage/{NODE}/local" in world.resources(caller)
        assert f"storage/{NODE}/{world.storage}" not in world.resources(caller)

    def test_numbers_of_a_node_by_sys_audit(self, world: World) -> None:
        caller = world.someone({f"/nodes/{NODE}": ["Sys.Audit"]})
        assert {"cpu", "maxcpu", "mem", "maxmem", "disk", "maxdisk", "uptime"} <= set(
            world.resources(caller)[f"node/{NODE}"]
        )
        assert {"cpu", "maxcpu", "mem", "maxmem"} <= set(caller.get("/nodes").data[0])

    def test_pools_by_audit(self, world: World) -> None:
        name = f"pool{world.vmid()}"
        world.root.post("/pools", poolid=name).data  # noqa: B018
        caller = world.someone({f"/pool/{name}": ["Pool.Audit"]})
        assert [row["poolid"] for row in caller.get("/pools").data] == [name]

    @pytest.mark.parametrize("path", [f"/nodes/{NODE}/tasks", "/cluster/tasks"])
    def test_tasks_by_owner_or_sys_audit(self, world: World, path: str) -> None:
        vmid = world.container()
        worker = world.someone({f"/vms/{vmid}": ["VM.PowerMgmt"]})
        own = world.succeeds(worker.post(ct(vmid, "/status/start")))
        assert {row["upid"] for row in worker.get(path).data} == {own}
        assert {row["upid"] for row in world.someone({"/": ["Sys.Audit"]}).get(path).data} > {own}


# Privilege separation


class TestPrivilegeSeparation:
    @pytest.fixture(scope="class")
    @classmethod
    def vmid(cls, world: World) -> int:
        return world.container()

    def separated(self, world: World, user: dict[str, list[str]], token: dict[str, list[str]]) -> Api:
        userid = world.user(user)
        api = world.token(userid, privsep=1)
        for path, privileges in token.items():
            world.grant(path, privileges, tokens=f"{userid}!test")
        return api

    def test_a_right_that_both_have_counts(self, world: World, vmid: int) -> None:
        api = self.separated(world, {"/vms": ["VM.Audit"]}, {f"/vms/{vmid}": ["VM.Audit"]})
        assert api.get(ct(vmid, "/config")).line == "200 OK"

    def test_a_right_of_the_user_alone_does_not_count(self, world: World, vmid: int) -> None:
        api = self.separated(world, {"/vms": ["VM.Audit", "VM.PowerMgmt"]}, {"/vms": ["VM.Audit"]})
        expect(api.post(ct(vmid, "/status/start")), f"{DENIED} (/vms/{vmid}, VM.PowerMgmt)")

    def test_a_right_of_the_token_alone_does_not_count(self, world: World, vmid: int) -> None:
        api = self.separated(world, {"/vms": ["VM.Audit"]}, {"/vms": ["VM.Audit", "VM.PowerMgmt"]})
        expect(api.post(ct(vmid, "/status/start")), f"{DENIED} (/vms/{vmid}, VM.PowerMgmt)")

    def test_a_token_of_root_has_what_it_was_given(self, world: World, vmid: int) -> None:
        name = f"t{world.vmid()}"
        api = world.token("root@pam", name, privsep=1)
        world.grant("/vms", ["VM.Audit"], tokens=f"root@pam!{name}")
        assert api.get(ct(vmid, "/config")).line == "200 OK"
        expect(api.post(ct(vmid, "/status/start")), f"{DENIED} (/vms/{vmid}, VM.PowerMgmt)")

    def test_without_separation_a_token_has_its_owner_s_rights(self, world: World, vmid: int) -> None:
        assert world.someone({"/vms": ["VM.Audit"]}).get(ct(vmid, "/config")).line == "200 OK"


# Paths, propagation, pools


class TestPaths:
    @pytest.fixture(scope="class")
    @classmethod
    def vmid(cls, world: World) -> int:
        return world.container()

    def test_a_right_propagates_downwards(self, world: World, vmid: int) -> None:
        assert world.someone({"/": ["VM.Audit"]}).get(ct(vmid, "/config")).line == "200 OK"

    def test_unless_told_otherwise(self, world: World, vmid: int) -> None:
        caller = world.someone({"/vms": ["VM.Audit"]}, propagate=False)
        expect(caller.get(ct(vmid, "/config")), f"{DENIED} (/vms/{vmid}, VM.Audit)")

    def test_a_deeper_entry_replaces_what_is_inherited(self, world: World, vmid: int) -> None:
        caller = world.someone({"/vms": ["VM.Audit"], f"/vms/{vmid}": ["VM.PowerMgmt"]})
        expect(caller.get(ct(vmid, "/config")), f"{DENIED} (/vms/{vmid}, VM.Audit)")

    def test_noaccess_takes_everything_away(self, world: World, vmid: int) -> None:
        userid = world.user({"/": ["VM.Audit"]})
        world.root.put("/access/acl", path=f"/vms/{vmid}", roles="NoAccess", users=userid).data  # noqa: B018
        expect(world.token(userid).get(ct(vmid, "/config")), f"{DENIED} (/vms/{vmid}, VM.Audit)")

    def test_noaccess_wins_over_a_pool(self, world: World) -> None:
        pool = f"pool{world.vmid()}"
        world.root.post("/pools", poolid=pool).data  # noqa: B018
        member = world.container(pool=pool)
        userid = world.user({f"/pool/{pool}": ["VM.Audit"]})
        world.root.put("/access/acl", path=f"/vms/{member}", roles="NoAccess", users=userid).data  # noqa: B018
        expect(world.token(userid).get(ct(member, "/config")), f"{DENIED} (/vms/{member}, VM.Audit)")

    @pytest.mark.parametrize("path", ["/pools", "/pools/{pool}"])
    def test_both_ways_to_change_a_pool(self, world: World, path: str) -> None:
        pool = f"pool{world.vmid()}"
        world.root.post("/pools", poolid=pool).data  # noqa: B018
        params = {"poolid": pool} if path == "/pools" else {}
        caller = world.someone({f"/pool/{pool}": ["Pool.Allocate"]})
        assert caller.put(path.format(pool=pool), comment="changed", **params).line == "200 OK"
        assert world.root.get("/pools", poolid=pool).data[0]["comment"] == "changed"

    def test_a_right_on_a_pool_is_a_right_on_its_members(self, world: World) -> None:
        pool = f"pool{world.vmid()}"
        world.root.post("/pools", poolid=pool).data  # noqa: B018
        member, other = world.container(pool=pool), world.container()
        world.root.put("/pools", poolid=pool, storage="local").data  # noqa: B018
        caller = world.someone({f"/pool/{pool}": ["VM.Audit", "Datastore.Audit"]})
        assert caller.get(ct(member, "/config")).line == "200 OK"
        expect(caller.get(ct(other, "/config")), f"{DENIED} (/vms/{other}, VM.Audit)")
        assert caller.get(f"/nodes/{NODE}/storage/local/status").line == "200 OK"
