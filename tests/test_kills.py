"""A change to a guest that is killed at each of its steps: the next run finds nothing of it, or finishes it.

The steps are enumerated by a run that is not killed. After each kill another run, for another guest, settles what was
left; the lab must then be as before the change or as after it. Then the same command must succeed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import Endpoint, ProxmoxClient

from .conftest import Operator
from .killing import Ended, journals, picked, run_module

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NETWORK = {"range": "127.86.14.105-127.86.14.199", "prefix": 24, "gateway": "127.86.14.1"}
SUBJECT, ANCHOR, TEMPLATE, OTHER = "subject", "anchor", 900, 150
GUARDED, GUARDED_TEMPLATE = "guarded", 901
CREATE = {
    "name": SUBJECT, "state": "started", "template": "debian-12", "cores": 1, "memory": 256, "disk": 2,
    "vmid": OTHER, "storage": "local-lvm", "network": NETWORK, "tags": ["svc-redis"], "protection": True,
}  # fmt: skip
PLAIN = {**CREATE, "protection": False}
# Another guest of its name with a smaller disk, which only a new one can have.
REPLACE = {
    **{k: v for k, v in CREATE.items() if k != "vmid"}, "disk": 1, "vmid_range": "160-160", "replace": SUBJECT,
}  # fmt: skip

World = dict[str, Any]


def module(operator: Operator, name: str, /, **options: Any) -> dict[str, Any]:
    """Run a module to its end and say what it said."""
    return run_module(operator, name, options).result


@dataclass(frozen=True)
class Change:
    """One change: how the lab is before it, the command, and what of the world does not count."""

    module: str
    options: Callable[[Operator], dict[str, Any]]
    before: Callable[[Operator], None] = lambda _operator: None
    # Facts that may stay changed, such as the size of a disk, which never shrinks.
    irreversible: frozenset[str] = frozenset()
    moments: int = 5


def made(options: dict[str, Any]) -> Callable[[Operator], None]:
    def make(operator: Operator) -> None:
        done = module(operator, "nhi_vm", **options)
        assert not done.get("failed"), done

    return make


def backed_up(operator: Operator) -> None:
    made(PLAIN)(operator)
    if not backups(operator):
        done = module(operator, "nhi_vm_backup", name=SUBJECT, storage="local")
        assert not done.get("failed"), done
    made({"name": SUBJECT, "memory": 384, "description": "Since the backup."})(operator)


def backups(operator: Operator) -> list[str]:
    found = module(operator, "nhi_vm_backup_info", storage="local")
    return [b["volid"] for b in found["backups"]]


# The longest ones, of the same steps: one is killed at each, of the other each answer is lost.
CONTAINER_REPLACED, MACHINE_REPLACED = "replace a container", "replace a machine by a smaller clone"
CHANGES = {
    "create a container": Change("nhi_vm", lambda _: CREATE, moments=14),
    "clone a machine": Change(
        "nhi_vm",
        lambda _: {**PLAIN, "type": "qemu", "template": str(TEMPLATE), "disk": 5, "memory": 512, "wait": False},
        moments=18,
    ),
    "clone a container": Change(
        "nhi_vm",
        lambda _: {**{k: v for k, v in PLAIN.items() if k != "template"}, "clone": ANCHOR, "disk": 5},
        moments=18,
    ),
    # What is copied is protected, and so is the copy until it is configured.
    "clone a protected container": Change(
        "nhi_vm",
        lambda _: {**{k: v for k, v in PLAIN.items() if k != "template"}, "clone": GUARDED},
        moments=14,
    ),
    "clone a protected machine": Change(
        "nhi_vm",
        lambda _: {**PLAIN, "type": "qemu", "template": str(GUARDED_TEMPLATE), "disk": 3, "wait": False},
        moments=14,
    ),
    "change a configuration and restart": Change(
        "nhi_vm",
        lambda _: {"name": SUBJECT, "state": "restarted", "memory": 512, "description": "Bigger.", "onboot": True},
        before=made(PLAIN),
        moments=12,
    ),
    "grow a disk": Change(
        "nhi_vm",
        lambda _: {"name": SUBJECT, "cores": 2, "disk": 4},
        before=made(PLAIN),
        irreversible=frozenset({"rootfs"}),
        moments=8,
    ),
    "stop a guest": Change("nhi_vm", lambda _: {"name": SUBJECT, "state": "stopped"}, before=made(PLAIN), moments=5),
    "destroy a running guest": Change(
        "nhi_vm", lambda _: {"name": SUBJECT, "state": "absent", "confirm": SUBJECT}, before=made(PLAIN), moments=9
    ),
    CONTAINER_REPLACED: Change("nhi_vm", lambda _: REPLACE, before=made({**PLAIN, "onboot": True}), moments=30),
    MACHINE_REPLACED: Change(
        "nhi_vm",
        lambda _: {**REPLACE, "type": "qemu", "template": str(TEMPLATE), "disk": 4, "protection": False, "wait": False},
        before=made({**PLAIN, "type": "qemu", "template": str(TEMPLATE), "disk": 5, "wait": False, "onboot": True}),
        moments=34,
    ),
    "restore beside": Change(
        "nhi_vm_backup",
        lambda operator: {"name": "copy", "state": "restored", "backup": backups(operator)[0], "vmid": 160},
        before=backed_up,
        moments=7,
    ),
    "restore in place": Change(
        "nhi_vm_backup",
        lambda operator: {"name": SUBJECT, "state": "restored", "backup": backups(operator)[0], "confirm": SUBJECT},
        before=backed_up,
        moments=12,
    ),
}


@pytest.fixture(scope="module")
def lab(shared_lab: Operator) -> Operator:
    """A lab with a template and a guest that nothing is done to."""
    made({"name": ANCHOR, "template": "debian-12", "vmid": 199, "disk": 2, "network": {"ip": "127.86.14.9/24"}})(
        shared_lab
    )
    made({"name": "blank", "type": "qemu", "vmid": TEMPLATE, "disk": 3, "network": {"ip": "dhcp"}})(shared_lab)
    convert(shared_lab, TEMPLATE)
    guarded = {"disk": 2, "protection": True}
    made({"name": GUARDED, "template": "debian-12", "vmid": 198, "network": {"ip": "127.86.14.8/24"}, **guarded})(
        shared_lab
    )
    made({"name": "model", "type": "qemu", "vmid": GUARDED_TEMPLATE, "network": {"ip": "dhcp"}, **guarded})(shared_lab)
    convert(shared_lab, GUARDED_TEMPLATE)
    return shared_lab


def convert(operator: Operator, vmid: int) -> None:
    """Make a machine a template."""
    with client(operator) as api:
        api.wait_task(api.post(("nodes", "pve", "qemu", str(vmid), "template")), 10)


def client(operator: Operator) -> ProxmoxClient:
    env = operator.lab.env
    return ProxmoxClient(
        Endpoint(
            host="127.0.0.1",
            port=operator.lab.port,
            user=env["PROXMOX_USER"],
            token_id=env["PROXMOX_TOKEN_ID"],
            token_secret=env["PROXMOX_TOKEN_SECRET"],
            validate_certs=False,
        )
    )


def world(operator: Operator) -> World:
    """Every guest with its configuration but for what is new each time; and what must never be left."""
    found: World = {}
    with client(operator) as api:
        for row in api.get("/cluster/resources", {"type": "vm"}):
            path = ("nodes", row["node"], row["type"], str(row["vmid"]))
            config = dict(api.get((*path, "config")))
            status = api.get((*path, "status", "current"))["status"]
            for new in ("digest", "meta", "smbios1", "vmgenid"):
                config.pop(new, None)
            config["description"] = str(config.get("description", "")).partition("nhi: op-")[0]
            config["net0"] = ",".join(p for p in str(config.get("net0", "")).split(",") if ":" not in p)
            found[f"{row['vmid']}"] = {"status": status, **{k: str(v) for k, v in config.items()}}
    return found


def leftovers(operator: Operator) -> dict[str, Any]:
    """What a finished or undone change leaves nothing of."""
    with client(operator) as api:
        running = [t["type"] for t in api.get("/nodes/pve/tasks", {"source": "active"}) if not t.get("endtime")]
        locks = {r["vmid"]: r["lock"] for r in api.get("/cluster/resources", {"type": "vm"}) if r.get("lock")}
    ledger = operator.state_dir / "reservations.json"
    lines = json.loads(ledger.read_text())["reservations"] if ledger.exists() else []
    # A line of a dead run that had begun nothing counts for nothing.
    held = [r for r in lines if r["status"] == "reserved" and not Holder(**r["holder"]).is_gone()]
    return {"tasks": running, "locks": locks, "reserved": held, "journals": journals(operator.state_dir)}


NOTHING: dict[str, Any] = {"tasks": [], "locks": {}, "reserved": [], "journals": []}


def clear(operator: Operator) -> None:
    for name in (SUBJECT, "copy"):
        _unprotect(operator, name)
        done = module(operator, "nhi_vm", name=name, state="absent", confirm=name)
        assert not done.get("failed"), done


def _unprotect(operator: Operator, name: str) -> None:
    if name in names(operator):
        module(operator, "nhi_vm", name=name, protection=False)


def names(operator: Operator) -> list[str]:
    with client(operator) as api:
        return [str(r.get("name")) for r in api.get("/cluster/resources", {"type": "vm"})]


def settle(operator: Operator) -> dict[str, Any]:
    """The next run, which is for another guest and changes nothing of it."""
    done = module(operator, "nhi_vm", name=ANCHOR)
    assert not done.get("failed"), done
    assert done["changed"] is False
    return done


def without(found: World, facts: frozenset[str]) -> World:
    return {vmid: {k: v for k, v in guest.items() if k not in facts} for vmid, guest in found.items()}


@pytest.mark.parametrize("name", [name for name in CHANGES if name != MACHINE_REPLACED])
def test_killed_at_each_step_the_next_run_undoes_or_finishes_it(lab: Operator, name: str) -> None:
    change = CHANGES[name]
    before, reference, after = played(lab, change)
    assert len(reference.moments) >= change.moments, reference.moments
    assert before != after
    for at in picked(list(range(1, len(reference.moments) + 1))):
        moment = f"{name}, killed at {at} of {len(reference.moments)}: {reference.moments[at - 1]}"
        clear(lab)
        change.before(lab)
        assert world(lab) == before, moment
        ended = run_module(lab, change.module, change.options(lab), kill_at=at)
        assert ended.killed, moment
        told = settle(lab)
        now = world(lab)
        expected = [without(w, change.irreversible) for w in (before, after)]
        assert without(now, change.irreversible) in expected, f"{moment}: {told.get('recovered')}"
        assert leftovers(lab) == NOTHING, f"{moment}: {told.get('recovered')}"
        again = module(lab, change.module, **change.options(lab))
        assert not again.get("failed"), f"{moment}: {again}"
        assert world(lab) == after, moment
    clear(lab)


@pytest.mark.parametrize("name", [name for name in CHANGES if name != CONTAINER_REPLACED])
def test_with_each_answer_lost_it_is_done_or_undone(lab: Operator, name: str) -> None:
    change = CHANGES[name]
    before, reference, after = played(lab, change)
    calls = [at for at, moment in enumerate(reference.moments, 1) if "ProxmoxClient." in moment]
    for at in picked(calls):
        moment = f"{name}, answer lost at {reference.moments[at - 1]}"
        clear(lab)
        change.before(lab)
        ended = run_module(lab, change.module, change.options(lab), lose_at=at)
        now = without(world(lab), change.irreversible)
        wanted = without(before if ended.result.get("failed") else after, change.irreversible)
        assert now == wanted, f"{moment}: {ended.result}"
        assert leftovers(lab) == NOTHING, f"{moment}: {ended.result}"
        again = module(lab, change.module, **change.options(lab))
        assert not again.get("failed"), f"{moment}: {again}"
        assert world(lab) == after, moment
    clear(lab)


def played(lab: Operator, change: Change) -> tuple[World, Ended, World]:
    """The change without a kill: how it was before, which moments there are, how it is after."""
    clear(lab)
    change.before(lab)
    before = world(lab)
    reference = run_module(lab, change.module, change.options(lab))
    assert not reference.killed
    assert not reference.result.get("failed"), reference.result
    assert leftovers(lab) == NOTHING
    return before, reference, world(lab)


def test_a_guest_that_took_the_vmid_after_the_kill_is_left_alone(lab: Operator) -> None:
    clear(lab)
    _before, reference, _after = played(lab, CHANGES["create a container"])
    posted = next(
        i for i, m in enumerate(reference.moments, 1) if m.startswith("after ProxmoxClient.post nodes/pve/lxc")
    )
    clear(lab)
    assert run_module(lab, "nhi_vm", CREATE, kill_at=posted).killed
    time.sleep(0.5)
    with client(lab) as api:
        path = ("nodes", "pve", "lxc", str(OTHER))
        api.wait_task(api.delete(path, {"purge": 1, "force": 1}), 10)
        data = {
            "vmid": OTHER,
            "hostname": "theirs",
            "ostemplate": template(api),
            "rootfs": "local-lvm:2",
        }
        api.wait_task(api.post(("nodes", "pve", "lxc"), data), 10)
    told = settle(lab)["recovered"]
    assert "which this run did not make: it was left alone" in " ".join(told), told
    assert "theirs" in names(lab)
    with client(lab) as api:
        api.wait_task(api.delete(path, {"purge": 1}), 10)


def template(api: Any) -> str:
    volumes = api.get(("nodes", "pve", "storage", "local", "content"), {"content": "vztmpl"})
    return str(volumes[0]["volid"])


def test_a_check_run_names_what_was_cut_off_and_settles_nothing(lab: Operator) -> None:
    clear(lab)
    assert run_module(lab, "nhi_vm", CREATE, kill_at=6).killed
    writes = len(lab.lab.writes())
    shown = module(lab, "nhi_vm", name=ANCHOR, _ansible_check_mode=True)
    assert "was cut off: the next real run settles it first." in shown["recovered"][0]
    assert f"({SUBJECT} started by " in shown["recovered"][0]
    assert len(lab.lab.writes()) == writes
    assert len(journals(lab.state_dir)) == 1
    settle(lab)
    assert leftovers(lab) == NOTHING
