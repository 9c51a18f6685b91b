"""Measured behaviour, section 3: what creating, changing, backing up and restoring check in code; owners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from lab.tests.behaviour.client import Api, expect
from lab.tests.behaviour.world import NODE, PASSWORD, World, ct, task, until

DENIED = "403 Permission check failed"
GUEST = frozenset(
    {
        "VM.Allocate",
        "VM.Config.Disk",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.Options",
    }
)


def creator(world: World, more: Mapping[str, Iterable[str]] | None = None, *, without: str = "") -> Api:
    """Someone with all that creating a container takes but one privilege."""
    acl = {
        "/vms": set(GUEST),
        f"/storage/{world.storage}": {"Datastore.AllocateSpace"},
        "/storage/local": {"Datastore.Audit"},
        f"/sdn/zones/localnetwork/{world.bridge}": {"SDN.Use"},
    }
    given: dict[str, Iterable[str]] = {path: privileges - {without} for path, privileges in acl.items()}
    return world.someone({**given, **(more or {})})


def options(world: World, option: str) -> dict[str, Any]:
    """One option of a container, with a value that can be used."""
    values = {
        "rootfs": f"{world.storage}:1",
        "mp0": f"{world.storage}:1,mp=/data",
        "memory": 128,
        "swap": 64,
        "cores": 1,
        "cpulimit": 1,
        "cpuunits": 200,
        "net0": f"name=eth0,bridge={world.bridge},ip=manual",
        "hostname": "named",
        "nameserver": "127.0.0.1",
        "searchdomain": "lab.test",
        "onboot": 1,
        "tags": "web",
        "description": "text",
    }
    return {option: values[option]}


OPTIONS = [
    ("rootfs", "VM.Config.Disk"),
    ("mp0", "VM.Config.Disk"),
    ("memory", "VM.Config.Memory"),
    ("swap", "VM.Config.Memory"),
    ("cores", "VM.Config.CPU"),
    ("cpulimit", "VM.Config.CPU"),
    ("cpuunits", "VM.Config.CPU"),
    ("net0", "VM.Config.Network"),
    ("hostname", "VM.Config.Network"),
    ("nameserver", "VM.Config.Network"),
    ("searchdomain", "VM.Config.Network"),
    ("onboot", "VM.Config.Options"),
    ("tags", "VM.Config.Options"),
    ("description", "VM.Config.Options"),
]


class TestCreate:
    def test_with_everything(self, world: World) -> None:
        net = options(world, "net0")
        world.succeeds(world.create(creator(world), cores=1, hostname="full", onboot=1, **net))

    def test_without_allocate(self, world: World) -> None:
        expect(world.create(creator(world, without="VM.Allocate")), DENIED)

    @pytest.mark.parametrize(("option", "privilege"), OPTIONS)
    def test_an_option_needs_its_privilege(self, world: World, option: str, privilege: str) -> None:
        vmid = world.vmid()
        wanted = {"memory": None, **options(world, option)}
        if option == "mp0":
            wanted |= options(world, "rootfs")
        answer = world.create(creator(world, without=privilege), vmid=vmid, **wanted)
        expect(answer, f"{DENIED} (/vms/{vmid}, {privilege})")

    @pytest.mark.parametrize("privilege", sorted(GUEST - {"VM.Allocate", "VM.Config.Disk"}))
    def test_an_option_not_sent_needs_nothing(self, world: World, privilege: str) -> None:
        world.succeeds(world.create(creator(world, without=privilege), memory=None))

    def test_the_target_storage_needs_allocate_space(self, world: World) -> None:
        answer = world.create(creator(world, without="Datastore.AllocateSpace"))
        expect(answer, f"{DENIED} (/storage/{world.storage}, Datastore.AllocateSpace)")

    def test_the_template_s_storage_needs_a_right(self, world: World) -> None:
        answer = world.create(creator(world, without="Datastore.Audit"))
        assert answer.line.startswith(f"{DENIED} (/storage/local, Datastore.")

    def test_allocate_space_on_the_template_s_storage_suffices(self, world: World) -> None:
        api = creator(world, {"/storage/local": ["Datastore.AllocateSpace"]}, without="Datastore.Audit")
        world.succeeds(world.create(api))

    def test_a_bridge_needs_use(self, world: World) -> None:
        answer = world.create(creator(world, without="SDN.Use"), **options(world, "net0"))
        expect(answer, f"{DENIED} (/sdn/zones/localnetwork/{world.bridge}, SDN.Use)")

    def test_start_needs_no_power_management(self, world: World) -> None:
        vmid = world.vmid()
        world.succeeds(world.create(creator(world), vmid=vmid, start=1))
        until(lambda: world.root.get(ct(vmid, "/status/current")).data["status"] == "running", "it runs")

    def test_a_vlan_needs_use_on_itself(self, world: World) -> None:
        net = {"net0": f"name=eth0,bridge={world.bridge},tag=30,ip=manual"}
        path = f"/sdn/zones/localnetwork/{world.bridge}"
        only_vlan = {path: [], f"{path}/30": ["SDN.Use"]}
        expect(world.create(creator(world, {path: []}), **net), f"{DENIED} ({path}/30, SDN.Use)")
        world.succeeds(world.create(creator(world, only_vlan), **net))
        expect(world.create(creator(world, only_vlan), **options(world, "net0")), f"{DENIED} ({path}, SDN.Use)")

    def test_rights_on_the_pool_suffice(self, world: World) -> None:
        pool = f"pool{world.vmid()}"
        world.root.post("/pools", poolid=pool).data  # noqa: B018
        api = world.someone(
            {
                f"/pool/{pool}": GUEST,
                f"/storage/{world.storage}": ["Datastore.AllocateSpace"],
                "/storage/local": ["Datastore.Audit"],
            }
        )
        expect(world.create(api), DENIED)
        world.succeeds(world.create(api, pool=pool))


class TestChange:
    @pytest.fixture(scope="class")
    @classmethod
    def vmid(cls, world: World) -> int:
        return world.container()

    @pytest.mark.parametrize(("option", "privilege"), [row for row in OPTIONS if row[0] != "rootfs"])
    def test_an_option_needs_its_privilege(self, world: World, vmid: int, option: str, privilege: str) -> None:
        rights = {f"/vms/{vmid}": GUEST - {privilege}, "/storage": ["Datastore.AllocateSpace"], "/sdn": ["SDN.Use"]}
        expect(
            world.someone(rights).put(ct(vmid, "/config"), **options(world, option)),
            f"{DENIED} (/vms/{vmid}, {privilege})",
        )

    @pytest.mark.parametrize(("option", "privilege"), [row for row in OPTIONS if row[0] not in ("rootfs", "mp0")])
    def test_and_no_more(self, world: World, vmid: int, option: str, privilege: str) -> None:
        rights = {f"/vms/{vmid}": [privilege], "/sdn": ["SDN.Use"]}
        assert world.someone(rights).put(ct(vmid, "/config"), **options(world, option)).line == "200 OK"


class TestClone:
    @pytest.fixture(scope="class")
    @classmethod
    def vmid(cls, world: World) -> int:
        return world.container(**options(world, "net0"))

    def cloner(self, world: World, vmid: int, new: int, *, without: str = "") -> Api:
        acl = {
            f"/vms/{vmid}": {"VM.Clone"},
            f"/vms/{new}": {"VM.Allocate"},
            f"/storage/{world.storage}": {"Datastore.AllocateSpace"},
            f"/sdn/zones/localnetwork/{world.bridge}": {"SDN.Use"},
        }
        return world.someone({path: privileges - {without} for path, privileges in acl.items()})

    def test_with_everything(self, world: World, vmid: int) -> None:
        new = world.vmid()
        world.succeeds(self.cloner(world, vmid, new).post(ct(vmid, "/clone"), newid=new, full=1))

    @pytest.mark.parametrize("privilege", ["Datastore.AllocateSpace", "SDN.Use"])
    def test_without(self, world: World, vmid: int, privilege: str) -> None:
        new = world.vmid()
        answer = self.cloner(world, vmid, new, without=privilege).post(ct(vmid, "/clone"), newid=new, full=1)
        assert answer.line.startswith(DENIED)
        assert f", {privilege})" in answer.reason


# root@pam only

FEATURES = "changing feature flags (except nesting) is only allowed for root@pam"
ROOT_ONLY: list[tuple[dict[str, Any], str]] = [
    ({"features": "keyctl=1", "unprivileged": 1}, FEATURES),
    ({"features": "nesting=1,fuse=1", "unprivileged": 1}, FEATURES),
    ({"mp0": "/tmp,mp=/mnt"}, "mount point type bind is only allowed for root@pam"),
    ({"dev0": "/dev/null"}, "configuring device passthrough is only allowed for root@pam"),
]


@pytest.fixture(params=["administrator", "token of root@pam"])
def not_root(world: World, request: pytest.FixtureRequest) -> Api:
    if request.param == "administrator":
        return world.operator
    return world.token("root@pam", f"t{world.vmid()}")


@pytest.mark.parametrize(("wanted", "text"), [pytest.param(*row, id=next(iter(row[0]))) for row in ROOT_ONLY])
def test_only_root_itself_may(world: World, not_root: Api, wanted: dict[str, Any], text: str) -> None:
    expect(world.create(not_root, **wanted), f"{DENIED} ({text})")


def test_nesting_is_allowed_when_unprivileged(world: World) -> None:
    world.succeeds(world.create(world.operator, features="nesting=1", unprivileged=1))


def test_skiplock_is_for_root_only(world: World, not_root: Api) -> None:
    vmid = world.container()
    answer = not_root.post(ct(vmid, "/status/start"), skiplock=1)
    assert answer.errors == {"skiplock": "Only root may use this option."}
    assert world.root.post(ct(vmid, "/status/start"), skiplock=1).line == "200 OK"


# Backup and restore


class TestBackup:
    @pytest.fixture(scope="class")
    @classmethod
    def vmid(cls, world: World) -> int:
        return world.container()

    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, world: World) -> str:
        return world.storage_for("backup")

    @pytest.fixture(scope="class")
    @classmethod
    def archive(cls, world: World, vmid: int, store: str) -> str:
        world.succeeds(world.root.post(f"/nodes/{NODE}/vzdump", vmid=vmid, storage=store, mode="stop"))
        content = world.root.get(f"/nodes/{NODE}/storage/{store}/content", content="backup", vmid=vmid).data
        return str(content[0]["volid"])

    def rights(self, vmid: int, store: str) -> dict[str, list[str]]:
        return {f"/vms/{vmid}": ["VM.Backup"], f"/storage/{store}": ["Datastore.AllocateSpace"]}

    def test_with_both(self, world: World, vmid: int, store: str) -> None:
        api = world.someone(self.rights(vmid, store))
        world.succeeds(api.post(f"/nodes/{NODE}/vzdump", vmid=vmid, storage=store, mode="stop"))

    def test_needs_backup_on_the_guest(self, world: World, vmid: int, store: str) -> None:
        api = world.someone({f"/storage/{store}": ["Datastore.AllocateSpace"]})
        expect(api.post(f"/nodes/{NODE}/vzdump", vmid=vmid, storage=store), f"{DENIED} (/vms/{vmid}, VM.Backup)")

    def test_needs_allocate_space_on_the_storage(self, world: World, vmid: int, store: str) -> None:
        api = world.someone({f"/vms/{vmid}": ["VM.Backup"]})
        expect(
            api.post(f"/nodes/{NODE}/vzdump", vmid=vmid, storage=store),
            f"{DENIED} (/storage/{store}, Datastore.AllocateSpace)",
        )

    @pytest.mark.parametrize("option", ["bwlimit", "ionice"])
    def test_speed_needs_sys_modify(self, world: World, vmid: int, store: str, option: str) -> None:
        api = world.someone(self.rights(vmid, store))
        expect(api.post(f"/nodes/{NODE}/vzdump", vmid=vmid, storage=store, **{option: 5}), f"{DENIED} (/, Sys.Modify)")

    @pytest.mark.parametrize("option", ["tmpdir", "dumpdir", "script"])
    def test_paths_of_the_host_are_for_root(self, world: World, vmid: int, option: str) -> None:
        answer = world.operator.post(f"/nodes/{NODE}/vzdump", vmid=vmid, **{option: "/tmp"})
        assert answer.status in (400, 403)
        assert "root" in answer.text

    def test_pruning_needs_datastore_allocate(self, world: World, vmid: int, store: str) -> None:
        api = world.someone(self.rights(vmid, store))
        answer = api.post(f"/nodes/{NODE}/vzdump", vmid=vmid, storage=store, **{"prune-backups": "keep-last=1"})
        expect(answer, f"{DENIED} (/storage/{store}, Datastore.Allocate)")

    def test_restoring_needs_backup_on_the_owner(self, world: World, store: str, archive: str, vmid: int) -> None:
        api = creator(world, {f"/storage/{store}": ["Datastore.AllocateSpace"]})
        answer = world.create(api, ostemplate=archive, restore=1, memory=None)
        expect(answer, f"{DENIED} (/vms/{vmid}, VM.Backup)")

    def test_restoring_with_it(self, world: World, store: str, archive: str, vmid: int) -> None:
        rights = {f"/storage/{store}": ["Datastore.AllocateSpace"], f"/vms/{vmid}": [*GUEST, "VM.Backup"]}
        world.succeeds(world.create(creator(world, rights), ostemplate=archive, restore=1, memory=None))

    def test_restoring_over_needs_only_backup(self, world: World, store: str, archive: str, vmid: int) -> None:
        rights = {f"/vms/{vmid}": ["VM.Backup"], "/storage": ["Datastore.AllocateSpace"]}
        world.succeeds(
            world.create(world.someone(rights), vmid=vmid, ostemplate=archive, restore=1, force=1, memory=None)
        )

    def test_deleting_needs_allocate_or_backup_on_the_owner(self, world: World, store: str, vmid: int) -> None:
        path = f"/nodes/{NODE}/storage/{store}/content"

        def made() -> str:
            world.succeeds(world.root.post(f"/nodes/{NODE}/vzdump", vmid=vmid, storage=store, mode="stop"))
            return str(max(row["volid"] for row in world.root.get(path, content="backup", vmid=vmid).data))

        space = {f"/storage/{store}": ["Datastore.AllocateSpace"]}
        volume = made()
        assert world.someone(space).delete(f"{path}/{volume}").line.startswith(DENIED)
        assert world.someone(space | {f"/vms/{vmid}": ["VM.Backup"]}).delete(f"{path}/{volume}").status == 200
        assert world.someone({f"/storage/{store}": ["Datastore.Allocate"]}).delete(f"{path}/{made()}").status == 200


# Owners


class TestTasks:
    @pytest.fixture(scope="class")
    @classmethod
    def userid(cls, world: World) -> str:
        return world.user({"/vms": ["VM.PowerMgmt"]})

    @pytest.fixture(scope="class")
    @classmethod
    def upid(cls, world: World, userid: str) -> str:
        return world.succeeds(world.token(userid, "first").post(ct(world.container(), "/status/start")))

    @pytest.mark.parametrize("leaf", ["status", "log"])
    def test_a_stranger_may_not_read(self, world: World, upid: str, leaf: str) -> None:
        expect(world.nobody.get(f"{task(upid)}/{leaf}"), f"{DENIED} (/nodes/{NODE}, Sys.Audit)")

    @pytest.mark.parametrize("leaf", ["status", "log"])
    def test_an_auditor_may(self, world: World, upid: str, leaf: str) -> None:
        assert world.someone({f"/nodes/{NODE}": ["Sys.Audit"]}).get(f"{task(upid)}/{leaf}").status == 200

    @pytest.mark.parametrize("leaf", ["status", "log"])
    def test_its_user_may(self, world: World, userid: str, upid: str, leaf: str) -> None:
        assert world.login(userid, PASSWORD).get(f"{task(upid)}/{leaf}").status == 200

    def test_a_sibling_token_may(self, world: World, userid: str, upid: str) -> None:
        sibling = world.token(userid, f"t{world.vmid()}")
        assert sibling.get(f"{task(upid)}/status").data["exitstatus"] == "OK"

    def test_a_stranger_may_not_stop(self, world: World, upid: str) -> None:
        expect(world.nobody.delete(task(upid)), f"{DENIED} (/nodes/{NODE}, Sys.Modify)")

    def test_who_modifies_the_node_may(self, world: World, upid: str) -> None:
        assert world.someone({f"/nodes/{NODE}": ["Sys.Modify"]}).delete(task(upid)).status == 200


class TestPermissionsCall:
    def test_shape_and_propagation(self, world: World) -> None:
        userid = world.user({"/vms": ["VM.Audit"]})
        world.grant("/storage/local", ["Datastore.Audit"], users=userid, propagate=0)
        data = world.token(userid).get("/access/permissions").data
        assert data["/vms"] == {"VM.Audit": 1}
        assert data["/storage/local"] == {"Datastore.Audit": 0}

    def test_the_paths_listed_for_rights_on_everything(self, world: World) -> None:
        paths = set(world.someone({"/": ["Sys.Audit"], "/vms/100": ["VM.Audit"]}).get("/access/permissions").data)
        assert paths >= {
            "/",
            "/access",
            "/access/groups",
            "/nodes",
            "/pool",
            "/sdn",
            "/storage",
            "/vms",
            "/vms/100",
        }

    def test_one_path(self, world: World) -> None:
        api = world.someone({"/vms": ["VM.Audit"], "/": ["Sys.Audit"]})
        assert api.get("/access/permissions", path="/vms/100").data == {"/vms/100": {"VM.Audit": 1}}

    def test_of_another_user_needs_sys_audit_on_access(self, world: World) -> None:
        other = world.user({"/vms": ["VM.Audit"]})
        assert world.nobody.get("/access/permissions", userid=other).line.startswith(DENIED)
        auditor = world.someone({"/access": ["Sys.Audit"]})
        assert auditor.get("/access/permissions", userid=other).data["/vms"] == {"VM.Audit": 1}

    def test_of_an_own_token(self, world: World) -> None:
        userid = world.user({"/vms": ["VM.Audit"]})
        world.token(userid)
        data = world.login(userid, PASSWORD).get("/access/permissions", userid=f"{userid}!test").data
        assert data["/vms"] == {"VM.Audit": 1}

    def test_tokens_of_others_are_refused_without_detail(self, world: World) -> None:
        other = world.user()
        expect(world.nobody.get(f"/access/users/{other}/token"), DENIED)
