"""Pre-flight against a lab in memory: all that fails is told at once, and the lab's own log shows no write."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .api_client import new_token
from .conftest import Lab, Operator
from .guest_modules import Guest, failure, guest_numbers

_NUMBERS = guest_numbers(105)


@pytest.fixture
def guest(shared_lab: Operator) -> Iterator[Guest]:
    """A running container."""
    made = Guest(shared_lab, next(_NUMBERS))
    made.create()
    yield made
    shared_lab.lab.fault("clear")


@pytest.fixture
def refused(shared_lab: Operator) -> Callable[..., dict[str, str]]:
    """Run nhi_vm, which must be refused, first as a check run; the failed checks with their messages."""

    def run(**options: Any) -> dict[str, str]:
        before = len(shared_lab.lab.writes())
        ledger = shared_lab.state_dir / "reservations.json"
        reserved = ledger.read_bytes() if ledger.exists() else b""
        shown = shared_lab.module("nhi_vm", **options, _check=True)
        assert not shown.get("failed"), shown
        failed = {c["check"]: c["message"] for c in shown["preflight"] if not c["passed"]}
        message = failure(shared_lab.module("nhi_vm", **options))
        for text in failed.values():
            # How much is free changes from one run to the next.
            assert _plain(text) in _plain(message)
            assert _plain(text) in _plain(" ".join(map(str, shown["warnings"])))
        assert len(shared_lab.lab.writes()) == before
        assert shared_lab.lab.requests(), "the lab's log is empty: this test could not fail"
        assert (ledger.read_bytes() if ledger.exists() else b"") == reserved
        return failed

    return run


def _plain(text: str) -> str:
    """Without numbers, and without guests that were made so lately that not every reading shows them yet."""
    return re.sub(r"[\d.]+", "0", re.sub(r" \(this counts guests [^)]*\)", "", text.replace("\\'", "'")))


def as_token(operator: Operator, name: str) -> dict[str, str]:
    env = operator.lab.env
    return {"api_token_id": env[f"PROXMOX_{name}_TOKEN_ID"], "api_token_secret": env[f"PROXMOX_{name}_TOKEN_SECRET"]}


def test_one_run_tells_everything_that_stops_a_new_guest(
    shared_lab: Operator, guest: Guest, refused: Callable[..., dict[str, str]]
) -> None:
    failed = refused(
        name="shop-db", state="started", template="debian-99", pool="nosuch", memory=10**7, disk=10**6,
        cores=10**4, vmid=guest.vmid, network={"ip": f"127.86.13.{guest.vmid}/24", "bridge": "vmbr9"},
        **as_token(shared_lab, "OPERATOR"),
    )  # fmt: skip
    wrong = {"template", "pool", "memory", "disk", "cpu", "vmid", "address", "bridge"}
    assert wrong <= failed.keys()
    assert f"VMID {guest.vmid} is LXC {guest.vmid} {guest.name} on pve, not shop-db" in failed["vmid"]
    assert "templates on pve" in failed["template"] or "templates there" in failed["template"]


def test_one_run_tells_everything_that_stops_a_correction(
    shared_lab: Operator, guest: Guest, refused: Callable[..., dict[str, str]]
) -> None:
    other = Guest(shared_lab, next(_NUMBERS))
    other.create()
    shared_lab.lab.fault("set", "stuck-lock", "--vmid", str(guest.vmid), "--text", "backup")
    failed = refused(
        name=guest.name, type="qemu", node="pve9", disk=1, unprivileged=False, memory=512,
        network={"ip": f"127.86.13.{other.vmid}/24"}, **as_token(shared_lab, "READER"),
    )  # fmt: skip
    assert failed.keys() == {"type", "node", "disk", "unprivileged", "address", "lock", "privileges"}


def test_one_run_tells_everything_that_stops_a_destroy(
    shared_lab: Operator, guest: Guest, refused: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    guest.vm(protection=True)
    graph = tmp_path / "graph.json"
    services = {guest.name: {"criticality": "critical"}, "shop": {"depends_on": [guest.name]}}
    graph.write_text(json.dumps({"services": {**services, "till": {"depends_on": ["shop"]}}}))
    shared_lab.lab.fault("set", "stuck-lock", "--vmid", str(guest.vmid), "--text", "backup")
    failed = refused(name=guest.name, state="absent", confirm="other", dependency_graph=str(graph))
    assert failed.keys() == {"critical", "lock", "protection", "dependents", "confirmed"}
    assert "till, shop would stop working" in failed["dependents"], "all that depend on it, also through others"


def test_a_guest_made_by_hand_under_a_known_vmid_is_not_given_up_before_a_scan(
    shared_lab: Operator, guest: Guest, refused: Callable[..., dict[str, str]]
) -> None:
    shared_lab.module("nhi_state_scan")
    known = guest.vm(_check=True)
    assert known["identity"]["mac"]
    shared_lab.lab.fault("set", "guest-swapped", "--vmid", str(guest.vmid), "--count", "1")
    for options in ({"state": "absent", "confirm": guest.name}, {"state": "stopped"}, {"state": "restarted"}):
        failed = refused(name=guest.name, **options)
        assert failed.keys() == {"identity"}
        assert "MAC address" in failed["identity"]
        assert "scan again with full: true, and look" in failed["identity"]
    shared_lab.module("nhi_state_scan", full=True)
    assert not guest.vm(state="stopped").get("failed")
    assert guest.vm(state="absent", confirm=guest.name)["changed"]


def test_an_edited_guest_is_told_and_not_refused(shared_lab: Operator, guest: Guest) -> None:
    shared_lab.module("nhi_state_scan")
    guest.vm(description="Edited.")
    plan = guest.vm(state="absent", confirm=guest.name, _check=True)
    told = {c["check"]: c for c in plan["preflight"]}
    assert told["identity"]["passed"]


def swap_at_the_privileges(lab: Lab, vmid: int) -> None:
    """The last thing that a plan asks for."""
    lab.fault("set", "guest-swapped", "--vmid", str(vmid), "--path", "/access/permissions", "--count", "1")


@pytest.mark.parametrize("state", ["absent", "stopped", "restarted"])
def test_a_guest_that_is_swapped_between_plan_and_act_stays(shared_lab: Operator, guest: Guest, state: str) -> None:
    swap_at_the_privileges(shared_lab.lab, guest.vmid)
    message = guest.refused(lambda: guest.vm(state=state, confirm=guest.name))
    assert f"LXC {guest.vmid} {guest.name} on pve is another guest than this run looked at: " in message
    assert guest.vm(_check=True)["vm"]["status"] == "running"


def test_a_guest_that_is_swapped_while_it_shuts_down_is_not_destroyed(shared_lab: Operator, guest: Guest) -> None:
    path = f"/nodes/*/lxc/{guest.vmid}/status/shutdown"
    shared_lab.lab.fault("set", "guest-swapped", "--vmid", str(guest.vmid), "--path", path, "--count", "1")
    before = len(shared_lab.lab.writes())
    message = failure(guest.vm(state="absent", confirm=guest.name))
    assert "is another guest than this run looked at: " in message
    assert "DELETE" not in {r["method"] for r in itertools.islice(shared_lab.lab.writes(), before, None)}
    again = guest.refused(lambda: guest.vm(state="absent", confirm=guest.name))
    assert "is not the guest that the state of" in again, "the newcomer entered the state without anybody looking"


def test_a_swapped_guest_is_neither_rolled_back_nor_replaced(shared_lab: Operator, guest: Guest) -> None:
    options = {"name": guest.name, "confirm": guest.name}
    backup = shared_lab.module("nhi_vm_backup", name=guest.name)["backup"]["volid"]
    shared_lab.module("nhi_vm_snapshot", name=guest.name, snapshot="before")
    swap_at_the_privileges(shared_lab.lab, guest.vmid)
    message = guest.refused(lambda: shared_lab.module("nhi_vm_backup", state="restored", backup=backup, **options))
    assert "is another guest than this run looked at: " in message
    shared_lab.module("nhi_vm_snapshot", name=guest.name, snapshot="before")
    swap_at_the_privileges(shared_lab.lab, guest.vmid)
    message = guest.refused(
        lambda: shared_lab.module("nhi_vm_snapshot", snapshot="before", state="rollback", **options)
    )
    assert "is another guest than this run looked at: " in message


def test_exactly_what_was_planned_is_applied(
    shared_lab: Operator, guest: Guest, refused: Callable[..., dict[str, str]]
) -> None:
    wish = {"name": guest.name, "state": "absent", "confirm": guest.name}
    planned = shared_lab.module("nhi_vm", **wish, _check=True)["identity"]
    assert (planned["vmid"], planned["type"], planned["name"]) == (guest.vmid, "lxc", guest.name)
    guest.vm(memory=300)
    failed = refused(**wish, expect=planned)
    assert "its configuration was changed; plan again in check mode and look" in failed["expected"]
    now = shared_lab.module("nhi_vm", **wish, _check=True)["identity"]
    assert shared_lab.module("nhi_vm", **wish, expect=now)["changed"]


def test_over_commit_is_refused_with_the_numbers_and_can_be_allowed(
    shared_lab: Operator, guest: Guest, refused: Callable[..., dict[str, str]]
) -> None:
    wish = {"name": "big", "state": "present", "template": "debian-12", "memory": 64, "storage": "local-lvm"}
    small = {"max_memory_overcommit": 0.0001, "max_cpu_overcommit": 0.1, "max_disk_overcommit": 0.0001}
    assert refused(**wish, **small).keys() == {"memory", "cpu", "disk"}
    failed = refused(name=guest.name, memory=512, disk=3, max_memory_overcommit=0.0001)
    assert failed.keys() == {"memory"}
    assert "raise max_memory_overcommit" in failed["memory"]
    unlimited = dict.fromkeys(small, 0)
    assert not [
        c for c in shared_lab.module("nhi_vm", **wish, **unlimited, _check=True)["preflight"] if not c["passed"]
    ]


def test_a_token_that_may_see_nothing_is_a_permission_fault(operator: Operator) -> None:
    lab = operator.lab
    made = operator.module("nhi_vm", name="redis", state="present", template="debian-12", storage="local-lvm")
    assert not made.get("failed"), made
    blind = new_token(operator, "blind")
    before = len(lab.writes())
    for module, options in (
        ("nhi_vm", {"name": "redis", "state": "absent", "confirm": "redis"}),
        ("nhi_vm", {"name": "redis", "state": "started", "template": "debian-12"}),
        ("nhi_state_scan", {}),
    ):
        assert "sees no guest at all because it has VM.Audit nowhere" in failure(
            operator.module(module, **options, **blind)
        )
    assert len(lab.writes()) == before
