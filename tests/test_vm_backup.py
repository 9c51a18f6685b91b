"""nhi_vm_backup against a lab in memory, which all tests share; each has a guest of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Operator
from .guest_modules import Guest, Result, failure, guest_numbers

numbers = guest_numbers(105)
copies = guest_numbers(305)


class Owner(Guest):
    """A guest with backups."""

    def backup(self, **options: object) -> Result:
        return self.operator.module("nhi_vm_backup", **{"name": self.name, "storage": "local", **options})

    def restore(self, volid: str, **options: object) -> Result:
        return self.backup(**{"state": "restored", "backup": volid, "storage": None, **options})


@pytest.fixture
def guest(shared_lab: Operator) -> Iterator[Owner]:
    made = Owner(shared_lab, next(numbers))
    made.create()
    yield made
    shared_lab.lab.fault("clear")


def test_a_backup_is_made_unless_one_is_young_enough(guest: Owner) -> None:
    foretold, writes = guest.writes(lambda: guest.backup(notes="Nightly of {{guestname}}.\nKeep.", _check=True))
    assert (foretold["changed"], writes) == (True, 0)
    made = guest.backup(notes="Nightly of {{guestname}}.\nKeep.")
    assert made["actions"] == foretold["actions"]
    assert (made["backup"]["vmid"], made["backup"]["type"]) == (guest.vmid, "lxc")
    assert made["backup"]["notes"] == f"Nightly of {guest.name}.\nKeep."
    assert made["backups"] == [made["backup"]]
    again, writes = guest.writes(lambda: guest.backup(max_age=3600))
    assert (again["changed"], again["backup"], writes) == (False, made["backup"], 0)
    assert len(guest.backup()["backups"]) == 2


def test_a_backup_of_a_former_owner_of_the_vmid_does_not_count(guest: Owner) -> None:
    guest.backup()
    guest.vm(state="absent", confirm=guest.name)
    heir = Owner(guest.operator, guest.vmid, prefix="heir")
    heir.create()
    assert heir.backup(max_age=3600)["changed"]
    assert heir.backup(max_age=3600)["changed"] is False


def test_a_backup_is_removed_once_and_only_under_its_name(guest: Owner) -> None:
    volid = guest.backup()["backup"]["volid"]
    words = guest.refused(lambda: guest.backup(name="other", state="absent", backup=volid))
    assert f"is a backup of LXC {guest.vmid} {guest.name}, not of other" in words
    plan, writes = guest.writes(lambda: guest.backup(state="absent", backup=volid, _check=True))
    assert (plan["changed"], writes) == (True, 0)
    gone = guest.backup(state="absent", backup=volid)
    assert (gone["changed"], gone["backups"]) == (True, [])
    again, writes = guest.writes(lambda: guest.backup(state="absent", backup=volid))
    assert (again["changed"], writes) == (False, 0)


def test_backups_are_listed_newest_first(guest: Owner) -> None:
    made = [guest.backup()["backup"] for _ in range(2)]
    listed, writes = guest.writes(lambda: guest.operator.module("nhi_vm_backup_info", name=guest.name))
    assert (listed["backups"], listed["changed"], writes) == (made[::-1], False, 0)
    everything = guest.operator.module("nhi_vm_backup_info", storage="local")["backups"]
    assert {b["volid"] for b in made} <= {b["volid"] for b in everything}
    assert "nosuch does not exist" in failure(guest.operator.module("nhi_vm_backup_info", name="nosuch"))


def test_a_protected_backup_is_not_removed(guest: Owner) -> None:
    volid = guest.backup(protected=True)["backup"]["volid"]
    assert "is protected" in guest.refused(lambda: guest.backup(state="absent", backup=volid))


def test_restored_beside_the_original(guest: Owner) -> None:
    guest.vm(description="The cache.", onboot=True)
    volid = guest.backup()["backup"]["volid"]
    copy = {"name": f"drill-{guest.vmid}", "vmid_range": f"{next(copies)}-399"}
    foretold, writes = guest.writes(lambda: guest.restore(volid, **copy, _check=True))
    assert (foretold["changed"], writes) == (True, 0)
    made = guest.restore(volid, **copy)
    assert not made.get("failed"), made
    assert made["vm"]["vmid"] == foretold["vm"]["vmid"] != guest.vmid
    assert (made["vm"]["name"], made["vm"]["status"], made["vm"]["onboot"]) == (copy["name"], "stopped", False)
    assert f"Restored from {volid}." in made["vm"]["description"]
    assert made["vm"]["description"].startswith("The cache.")
    assert "give it another before you start it" in json.dumps(made["warnings"])
    again, writes = guest.writes(lambda: guest.restore(volid, **copy))
    assert (again["changed"], again["vm"]["vmid"], writes) == (False, made["vm"]["vmid"], 0)


def test_a_guest_is_replaced_only_when_it_is_asked_for_by_name(guest: Owner) -> None:
    volid = guest.backup()["backup"]["volid"]
    guest.vm(memory=512)
    assert f"needs confirm: {guest.name}" in guest.refused(lambda: guest.restore(volid))
    plan, writes = guest.writes(lambda: guest.restore(volid, _check=True))
    assert [c["check"] for c in plan["preflight"] if not c["passed"]] == ["confirmed"]
    assert (plan["diff"]["before"], plan["diff"]["after"], writes) == ({"memory": 512}, {"memory": "256"}, 0)
    done = guest.restore(volid, confirm=guest.name)
    assert [a["kind"] for a in done["actions"]] == ["stop", "replace", "start"]
    assert (done["vm"]["vmid"], done["vm"]["memory"], done["vm"]["status"]) == (guest.vmid, 256, "running")


def test_what_guards_a_guest_from_being_replaced(guest: Owner) -> None:
    volid = guest.backup()["backup"]["volid"]
    stranger = Owner(guest.operator, next(numbers))
    stranger.create()
    foreign = stranger.backup()["backup"]["volid"]
    assert "not of" in guest.refused(lambda: guest.restore(foreign, confirm=guest.name))
    guest.vm(tags=["brain"])
    assert "is the Brain" in guest.refused(lambda: guest.restore(volid, confirm=guest.name))
    guest.vm(tags=[], protection=True)
    assert "is protected" in guest.refused(lambda: guest.restore(volid, confirm=guest.name))
    guest.vm(protection=False)
    guest.operator.lab.fault("set", "stuck-lock", "--vmid", str(guest.vmid), "--text", "backup")
    assert "is locked (backup)" in guest.refused(lambda: guest.restore(volid, confirm=guest.name))


@pytest.mark.parametrize("task", ["vzdump", "vzrestore"])
def test_a_failing_task_tells_its_last_lines_and_leaves_nothing(guest: Owner, task: str) -> None:
    volid = guest.backup()["backup"]["volid"]
    guest.operator.lab.fault("set", "task-fail", "--task", task, "--text", "no space left on device")
    copy = {"name": f"drill-{guest.vmid}", "vmid": next(copies)}
    result = guest.backup() if task == "vzdump" else guest.restore(volid, **copy)
    assert "no space left on device" in failure(result)
    guest.operator.lab.fault("clear")
    assert len(guest.backup(max_age=3600)["backups"]) == 1
    assert guest.restore(volid, **copy)["changed"], "nothing of the failed restore is left"


def test_a_restore_over_that_fails_says_what_may_be_lost(guest: Owner) -> None:
    volid = guest.backup()["backup"]["volid"]
    guest.operator.lab.fault("set", "task-fail", "--task", "vzrestore", "--text", "no space left on device")
    message = failure(guest.restore(volid, confirm=guest.name))
    assert "no space left on device" in message
    assert "may be gone or incomplete now: the backup is still there" in message


def test_what_can_not_be_meant_is_refused(guest: Owner) -> None:
    volid = guest.backup()["backup"]["volid"]
    creator: dict[str, object] = {
        "api_token_id": guest.operator.lab.env["PROXMOX_CREATOR_TOKEN_ID"],
        "api_token_secret": guest.operator.lab.env["PROXMOX_CREATOR_TOKEN_SECRET"],
    }
    cases: list[tuple[dict[str, object], str]] = [
        ({"name": "nosuch"}, "nosuch does not exist"),
        ({"storage": "local-lvm"}, "does not take backup"),
        ({"max_age": 0}, "max_age 0 is too small"),
        ({"keep": {"last": 0}}, "keep.last 0 is too small"),
        ({"state": "restored"}, "backup"),
        ({"state": "absent", "backup": "nonsense"}, "is not a backup"),
        ({"state": "absent", "backup": "nosuch:backup/x"}, "storage nosuch does not exist"),
        ({"state": "restored", "backup": "local:backup/vzdump-lxc-1-x.tar"}, "does not exist on pve"),
        ({"state": "restored", "backup": volid, "name": "new", "storage": "local"}, "does not take rootdir"),
        (creator, f"lacks VM.Backup on /vms/{guest.vmid}"),
    ]
    for options, words in cases:
        assert words in guest.refused(lambda o=options: guest.backup(**o))  # type: ignore[misc]


def test_the_creator_works_in_its_pool_only(shared_lab: Operator) -> None:
    env = shared_lab.lab.env
    token = {
        "api_token_id": env["PROXMOX_CREATOR_TOKEN_ID"],
        "api_token_secret": env["PROXMOX_CREATOR_TOKEN_SECRET"],
    }
    guest = Owner(shared_lab, next(numbers))
    guest.create(pool="ai-lab")
    volid = guest.backup(**token)["backup"]["volid"]
    copy = {"name": f"drill-{guest.vmid}", "vmid": next(copies), **token}
    assert "lacks VM.Allocate on" in guest.refused(lambda: guest.restore(volid, **copy))
    made = guest.restore(volid, pool="ai-lab", **copy)
    assert not made.get("failed"), made
    assert made["vm"]["pool"] == "ai-lab"
    assert guest.restore(volid, confirm=guest.name, **token)["vm"]["status"] == "running"
    assert guest.backup(state="absent", backup=volid, **token)["changed"]


def test_the_task_that_holds_a_lock_is_named(guest: Owner) -> None:
    guest.operator.lab.fault("set", "task-slow", "--task", "vzdump", "--delay", "6")
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(guest.backup)
        deadline, message = time.monotonic() + 20, ""
        while "held by task vzdump of nhi@pve!demo since" not in message and time.monotonic() < deadline:
            message = str(guest.vm(memory=512, _check=True)["preflight"])
        assert "held by task vzdump of nhi@pve!demo since" in message
        assert running.result()["changed"]
