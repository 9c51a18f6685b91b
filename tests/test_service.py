"""A service by name, blind: deployed, registered, removed, and undone when it fails or is killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.nhi.core.plugins.module_utils.lock import current_actor

from tests.api_client import client
from tests.conftest import ROOT, Operator, running_lab, tool
from tests.killing import picked

pytestmark = pytest.mark.e2e

SUBNET = "127.86.65.0/24"
EMBEDDED = ("-e", "@lab/ansible/embedded.yml")
NOTES = {
    "name": "notes", "title": "Notes", "summary": "A service that only this test knows.", "role": "nhi.core.redis",
    "guest": {"type": "lxc", "template": "debian-12"},
    "sizes": {"default": {"cores": 1, "memory_mib": 256, "disk_gib": 2}},
    "endpoints": [{"name": "main", "protocol": "redis", "port": 6379, "health": {"type": "redis"}}],
    "depends_on": ["brain-vm", "nobody-knows"], "criticality": "low", "backup": "daily",
    "secrets": [{"name": "notes_password", "length": 40}],
    "variables": {"notes_bind": "{{ ansible_host }}", "notes_login": "notes:{{ notes_password }}"},
}  # fmt: skip
# What a role would do, on the guest's loopback address; what it was given is written down for the test.
DEPLOY = """\
- name: Write down what the role was given
  ansible.builtin.copy:
    content: "{{ notes_password }} {{ notes_bind }} {{ notes_login }}"
    dest: "DIRECTORY/given"
    mode: "0600"
  delegate_to: localhost
  changed_when: false
  no_log: true
- name: Start it
  ansible.builtin.command:
    cmd: "{{ ansible_playbook_python }} -m lab.embedded start redis --address {{ ansible_host }} --dir DIRECTORY"
    chdir: ROOT
  delegate_to: localhost
  register: started
  changed_when: started.stdout is match('started')
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator of a lab in memory, with a hand-edited dependency graph and a catalogue directory of their own."""
    home = tmp_path_factory.mktemp("services")
    with running_lab(home / "lab", "--driver", "memory", "--no-lag", "--subnet", SUBNET) as running:
        operator = Operator(running, home / "infrastructure")
        operator.state_dir.mkdir()
        (home / "catalogue").mkdir()
        (home / "catalogue/notes.yml").write_text(yaml.safe_dump(NOTES))
        deploy = DEPLOY.replace("DIRECTORY", str(running.directory)).replace("ROOT", str(ROOT))
        (home / "deploy.yml").write_text(deploy)
        (home / "fail.yml").write_text(
            "- name: Break\n  ansible.builtin.command: /bin/false\n  delegate_to: localhost\n"
        )
        change = "- name: Change\n  ansible.builtin.debug:\n  changed_when: true\n"
        (home / "change.yml").write_text(change + deploy)
        (home / "wait.yml").write_text(
            "- name: Wait\n  ansible.builtin.wait_for:\n    path: '{{ go }}'\n  delegate_to: localhost\n" + deploy
        )
        (home / "nothing.yml").write_text("- name: Do nothing\n  ansible.builtin.debug:\n")
        operator.extra = {"NHI_CATALOGUE_DIRECTORIES": str(home / "catalogue")}
        yield operator
        for pid_file in (running.directory / "embedded").glob("*/pid"):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGTERM)


def deploy(operator: Operator, service: str, *args: str) -> subprocess.CompletedProcess[str]:
    return operator.playbook("service.yml", "-e", f"service={service}", *args)


def notes(operator: Operator, purpose: str, *args: str, tasks: str = "deploy") -> subprocess.CompletedProcess[str]:
    """Deploy the service that only a data file describes."""
    file = operator.state_dir.parent / f"{tasks}.yml"
    return deploy(operator, "notes", "-e", f"purpose={purpose}", "-e", f"nhi_deploy_tasks={file}", *args)


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def result_of(output: str) -> dict[str, Any]:
    """The line of JSON for programs."""
    line = re.search(r"msg: '(\{.*\})'$", output, re.MULTILINE)
    assert line, output[-3000:]
    found: dict[str, Any] = json.loads(line[1])
    return found


def changes(output: str) -> dict[str, int]:
    return {host: int(n) for host, n in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE)}


def guests(operator: Operator) -> set[str]:
    there = (operator.state_dir / "state.json").exists()
    return {g["name"] for g in operator.state()["infrastructure"]["guests"]} if there else set()


def records(operator: Operator, guest: str) -> list[Path]:
    names = (f"dependency_graph.d/{guest}.json", f"monitoring/targets/{guest}.json")
    return [operator.state_dir / name for name in names if (operator.state_dir / name).exists()]


def vault(operator: Operator, guest: str) -> Path:
    return Path(operator.lab.env["NHI_VAULT_DIR"]) / f"services/{guest}.yml"


def secrets_in(operator: Operator, guest: str) -> dict[str, str]:
    password = Path(operator.lab.env["NHI_VAULT_PASSWORD_FILE"]).read_bytes().strip()
    library = VaultLib([(DEFAULT_VAULT_ID_MATCH, VaultSecret(password))])
    found: dict[str, str] = yaml.safe_load(library.decrypt(vault(operator, guest).read_bytes()))
    return found


def test_a_service_asked_for_by_name_is_available_registered_and_told_as_json(lab: Operator, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    output = succeeded(deploy(lab, "redis", "-e", "purpose=cache", "-e", f"result_file={file}", *EMBEDDED))
    result = result_of(output)
    assert f"redis is available at {result['address']}:6379" in output
    with socket.create_connection((result["address"], 6379), timeout=3) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(20) == b"+PONG\r\n"
    assert json.loads(file.read_text()) == result
    assert (result["guest"], result["health"], result["changed"]) == ("redis-cache", "healthy", True)
    assert result["url"] == f"redis://{result['address']}:6379"
    service = next(s for s in lab.state()["infrastructure"]["services"] if s["guest"] == "redis-cache")
    assert (service["vmid"], service["health"]) == (result["vmid"], "healthy")
    graph, targets = (json.loads(path.read_text()) for path in records(lab, "redis-cache"))
    assert graph["services"]["redis-cache"]["depends_on"] == ["brain-vm"]
    assert targets[0]["targets"] == [f"{result['address']}:6379"]
    assert targets[0]["labels"]["purpose"] == "cache"


def test_the_same_again_changes_nothing_and_says_so(lab: Operator) -> None:
    writes = len(lab.lab.writes())
    output = succeeded(deploy(lab, "redis", "-e", "purpose=cache", *EMBEDDED))
    assert set(changes(output).values()) == {0}, output[-3000:]
    assert result_of(output)["changed"] is False
    assert len(lab.lab.writes()) == writes


def test_a_service_of_a_data_file_needs_no_code_and_keeps_its_secrets(lab: Operator) -> None:
    foretold = result_of(succeeded(notes(lab, "shop", "--check")))
    assert foretold["secrets"]["names"] == ["notes_password"]
    assert not vault(lab, "notes-shop").exists()
    output = succeeded(notes(lab, "shop", "-vvv", "--diff"))
    result = result_of(output)
    assert result["health"] == "healthy"
    assert any("nobody-knows" in warning for warning in result["warnings"])
    value = secrets_in(lab, "notes-shop")["notes_password"]
    assert len(value) == 40
    given = (lab.lab.directory / "given").read_text()
    assert given == f"{value} {result['address']} notes:{value}"
    assert value not in output, "a secret was printed"
    assert not [
        path for path in lab.state_dir.rglob("*") if path.is_file() and value in path.read_text(errors="replace")
    ]
    file = vault(lab, "notes-shop")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("$ANSIBLE_VAULT;")
    before = file.read_bytes()
    again = succeeded(notes(lab, "shop"))
    assert set(changes(again).values()) == {0}, again[-3000:]
    assert file.read_bytes() == before


def test_what_only_the_role_changed_is_told_too(lab: Operator) -> None:
    output = succeeded(notes(lab, "shop", tasks="change"))
    assert changes(output) == {"localhost": 0, "notes-shop": 1}
    assert result_of(output)["changed"] is True
    assert result_of(succeeded(notes(lab, "shop")))["changed"] is False


def test_a_role_that_fails_is_one_sentence_and_leaves_nothing(lab: Operator, tmp_path: Path) -> None:
    before = guests(lab)
    file = tmp_path / "result.json"
    done = notes(lab, "broken", "-e", f"result_file={file}", tasks="fail")
    assert done.returncode != 0
    result = json.loads(file.read_text())
    assert result["failed"]
    assert 'nhi.core.redis failed on notes-broken at "Break"' in result["msg"]
    assert result["undone"] == ["guest notes-broken was destroyed again", "its new secrets were removed"]
    assert result["left"] == []
    assert guests(lab) == before
    assert lab.lab.writes()[-1]["method"] == "DELETE"
    assert not vault(lab, "notes-broken").exists()
    assert records(lab, "notes-broken") == []


def test_a_service_that_does_not_answer_is_not_registered_and_its_guest_is_taken_back(lab: Operator) -> None:
    done = notes(lab, "silent", "-e", "nhi_health_timeout=0.5", tasks="nothing")
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert "notes is not available: notes on notes-silent does not answer as it should" in said
    assert "connection refused" in said
    assert "notes-silent" not in guests(lab)
    assert records(lab, "notes-silent") == []
    assert not vault(lab, "notes-silent").exists()


def test_a_failure_leaves_a_guest_that_was_there_before(lab: Operator) -> None:
    writes, secrets = len(lab.lab.writes()), vault(lab, "notes-shop").read_bytes()
    assert notes(lab, "shop", tasks="fail").returncode != 0
    assert len(lab.lab.writes()) == writes
    assert vault(lab, "notes-shop").read_bytes() == secrets
    assert len(records(lab, "notes-shop")) == 2


# Every task of a deployment and of a removal, in order; the tests that kill at each of them check that none is missing.
DEPLOYS = (
    "Write down that it begins", "Generate what it needs to keep secret", "Create the guest",
    "Let the next play reach it", "Read its secrets", "Set the variables of its role", "Deploy it",
    "Write down what the role was given", "Start it", "Say that it is done", "Check it from outside and register it",
    "Say it to programs", "Show the result", "Say where it is",
)  # fmt: skip
REMOVES = (
    "Write down that it begins", "Destroy the guest", "Say what that means", "Forget it", "Remove its secrets",
    "Write down that it is removed", "Say it to programs", "Show the result", "Say that it is gone",
)  # fmt: skip
# What only fails a run, or prepares it.
IDLE = {
    "Require the name of a service", "Look the service up in the catalogue", "Say what can not be foretold",
    "Go on only with what was installed", "Write the result", "Require the name of a service or a guest",
    "Write down that it is not removed", "Stop unless it was confirmed",
    "Write down that it begins, as there is no guest to confirm",
}  # fmt: skip
# What is made until each of these begins is not yet there when the one before it does.
MADE_BEFORE = (
    *DEPLOYS[:3],
    "Let the next play reach it",
    "Say that it is done",
    "Check it from outside and register it",
)


def tasks_of(output: str) -> list[str]:
    return list(dict.fromkeys(t for t in re.findall(r"^TASK \[(.+?)\]", output, re.MULTILINE) if t not in IDLE))


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat_file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat_file.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat_file.parent.name))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found += new
    return found


@contextlib.contextmanager
def running(operator: Operator, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A run of service.yml that is under way; it is killed at the end, if it has not ended."""
    process = subprocess.Popen(
        [tool("ansible-playbook"), "playbooks/service.yml", *args], cwd=ROOT, env=operator.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(process: subprocess.Popen[str], task: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if line.startswith(f"TASK [{task}]"):
            return
        said.append(line)
    pytest.fail(f"the playbook came to no task {task}: {''.join(said[-60:])}")


def killed_at(operator: Operator, task: str, *args: str, whole: bool = True, sign: str = "") -> None:
    """Kill service.yml when it begins a task, or once its record holds a sign.

    Each worker of Ansible leads a session of its own: without ``whole`` the task that is under way goes on alone.
    """
    with running(operator, *args) as process:
        until(process, task)
        while sign and not any(sign in path.read_text() for path in unfinished(operator)):
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGSTOP)  # so that it begins nothing more
        for pid in (process.pid, *(descendants(process.pid) if whole else ())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def of_notes(operator: Operator, purpose: str, tasks: str = "deploy") -> tuple[str, ...]:
    file = operator.state_dir.parent / f"{tasks}.yml"
    return ("-e", "service=notes", "-e", f"purpose={purpose}", "-e", f"nhi_deploy_tasks={file}")


def unfinished(operator: Operator) -> list[Path]:
    return list((operator.state_dir / "deployments").glob("*"))


def left_of(operator: Operator, guest: str) -> list[str]:
    """Whatever is there of a service: in the lab, in the vault, in the state directory."""
    ledger = json.loads((operator.state_dir / "reservations.json").read_text())["reservations"]
    with client(operator.lab) as api:
        found = [
            f"guest {row['vmid']}" for row in api.get("/cluster/resources", {"type": "vm"}) if row["name"] == guest
        ]
    found += [f"in state.json: {name}" for name in guests(operator) if name == guest]
    found += [
        f"{line['status']} in the ledger" for line in ledger if line["name"] == guest and line["status"] == "used"
    ]
    found += [f"{path}" for path in (vault(operator, guest), *records(operator, guest)) if path.exists()]
    found += [f"{path}" for path in unfinished(operator) if path.stem == guest]
    return found + [f"journal {path}" for path in (operator.state_dir / "journal").glob("*.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("task", picked(DEPLOYS))
def test_killed_anywhere_the_same_command_finishes_it(lab: Operator, task: str) -> None:
    purpose = f"kill{DEPLOYS.index(task)}"
    killed_at(lab, task, *of_notes(lab, purpose), whole=False)
    output = succeeded(notes(lab, purpose))
    assert tasks_of(output) == list(DEPLOYS)
    result = result_of(output)
    assert (result["guest"], result["health"]) == (f"notes-{purpose}", "healthy")
    found = [g for g in lab.state()["infrastructure"]["guests"] if g["name"] == f"notes-{purpose}"]
    assert [g["address"] for g in found] == [result["address"]]
    assert len(records(lab, f"notes-{purpose}")) == 2
    assert unfinished(lab) == []
    assert set(changes(succeeded(notes(lab, purpose))).values()) == {0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "sign"),
    picked([*((task, "") for task in MADE_BEFORE), ("Create the guest", '"made"'),
            ("Check it from outside and register it", '"registered"')]),
)  # fmt: skip
def test_killed_anywhere_a_second_run_that_fails_leaves_nothing_of_both(lab: Operator, task: str, sign: str) -> None:
    purpose = f"fail{DEPLOYS.index(task)}{sign.strip(chr(34))}"
    before = guests(lab)
    killed_at(lab, task, *of_notes(lab, purpose), sign=sign)
    done = notes(lab, purpose, tasks="fail")
    assert done.returncode != 0
    assert "Not undone" not in done.stdout, done.stdout[-3000:]
    assert left_of(lab, f"notes-{purpose}") == [], done.stdout[-3000:]
    assert guests(lab) == before


@pytest.mark.slow
def test_a_step_that_outlives_its_run_is_undone_with_it(lab: Operator) -> None:
    killed_at(lab, "Create the guest", *of_notes(lab, "orphan"), whole=False, sign='"made"')
    assert notes(lab, "orphan", tasks="fail").returncode != 0
    assert left_of(lab, "notes-orphan") == []


@pytest.mark.slow
def test_killed_after_the_registration_it_is_deployed_and_stays(lab: Operator) -> None:
    killed_at(lab, "Show the result", *of_notes(lab, "done"))
    assert unfinished(lab) == []
    assert notes(lab, "done", tasks="fail").returncode != 0
    assert "notes-done" in guests(lab)
    assert len(records(lab, "notes-done")) == 2
    assert vault(lab, "notes-done").exists()


def test_what_was_there_before_a_run_that_was_killed_stays(lab: Operator) -> None:
    """A registered service that is only applied again, and a guest that somebody else made."""
    made = lab.module(
        "nhi_vm",
        name="notes-adopted",
        state="started",
        template="debian-12",
        disk=2,
        storage="local-lvm",
        network={"ip": "127.86.65.90/24"},
    )
    assert made["changed"], made
    for purpose in ("shop", "adopted"):
        secrets, kept = vault(lab, f"notes-{purpose}"), records(lab, f"notes-{purpose}")
        before = secrets.read_bytes() if secrets.exists() else None
        killed_at(lab, "Start it", *of_notes(lab, purpose))
        writes = [w for w in lab.lab.writes() if w["method"] == "DELETE"]
        assert notes(lab, purpose, tasks="fail").returncode != 0
        assert [w for w in lab.lab.writes() if w["method"] == "DELETE"] == writes
        assert f"notes-{purpose}" in guests(lab)
        assert (secrets.read_bytes() if secrets.exists() else None) == before
        assert records(lab, f"notes-{purpose}") == kept
        assert unfinished(lab) == []


def test_a_deployment_that_was_cut_off_is_seen_and_can_be_removed(lab: Operator) -> None:
    killed_at(lab, "Start it", *of_notes(lab, "cut"))
    seen = "The deployment of notes-cut (notes) was cut off"
    for done in (
        lab.playbook("list_services.yml"),
        lab.run(tool("python"), "-m", "nhi_services", "services"),
        lab.run(tool("python"), "-m", "nhi_services", "status"),
        notes(lab, "cut", "--check"),
    ):
        succeeded(done)
        assert seen in " ".join((done.stdout + done.stderr).split()), done.stdout[-3000:]
    assert left_of(lab, "notes-cut") != []
    removing = ("-e", "purpose=cut", "-e", "state=absent")
    unconfirmed = deploy(lab, "notes", *removing)
    assert unconfirmed.returncode != 0
    assert seen in " ".join((unconfirmed.stdout + unconfirmed.stderr).split())
    result = result_of(succeeded(deploy(lab, "notes", *removing, "-e", "confirm=notes-cut")))
    assert (result["changed"], result["secrets"]["removed"]) == (True, ["notes_password"])
    assert left_of(lab, "notes-cut") == []


def test_two_runs_at_once_for_one_guest_are_told_apart(lab: Operator, tmp_path: Path) -> None:
    with running(lab, *of_notes(lab, "twice", "wait"), "-e", f"go={tmp_path}/go") as first:
        until(first, "Wait")
        file = tmp_path / "result.json"
        second = notes(lab, "twice", "-e", f"result_file={file}")
        removal = deploy(lab, "notes", "-e", "purpose=twice", "-e", "state=absent", "-e", "confirm=notes-twice")
        said = f"notes-twice is being deployed by {current_actor()} (pid {first.pid} on"
        assert said in json.loads(file.read_text())["msg"]
        for other in (second, removal):
            assert other.returncode != 0
            assert said in " ".join(other.stdout.split())
        assert json.loads(file.read_text())["undone"] == []
        (tmp_path / "go").touch()
        output, _ = first.communicate(timeout=120)
        assert first.returncode == 0, output[-3000:]
    assert result_of(succeeded(notes(lab, "twice")))["health"] == "healthy"


@pytest.mark.slow
@pytest.mark.parametrize("task", picked(REMOVES))
def test_a_removal_killed_anywhere_is_seen_and_finished_by_the_same_command(lab: Operator, task: str) -> None:
    number = REMOVES.index(task)
    guest = f"notes-gone{number}"
    succeeded(notes(lab, f"gone{number}"))
    absent = ("-e", "service=notes", "-e", f"purpose=gone{number}", "-e", "state=absent", "-e", f"confirm={guest}")
    killed_at(lab, task, *absent)
    cut_off = 0 < number <= REMOVES.index("Write down that it is removed")
    listing = succeeded(lab.playbook("list_services.yml"))
    seen = f"The removal of {guest} (notes) was cut off" in " ".join(listing.split())
    # The last one may be quicker than the kill: then nothing is left to be seen.
    assert seen is cut_off or (task == "Write down that it is removed" and left_of(lab, guest) == [])
    assert tasks_of(succeeded(lab.playbook("service.yml", *absent))) == list(REMOVES)
    assert left_of(lab, guest) == []


@pytest.mark.slow
def test_a_deployment_that_fails_after_half_a_removal_leaves_the_removal_to_be_finished(lab: Operator) -> None:
    succeeded(notes(lab, "half"))
    absent = ("-e", "service=notes", "-e", "purpose=half", "-e", "state=absent", "-e", "confirm=notes-half")
    killed_at(lab, "Forget it", *absent)
    assert notes(lab, "half", tasks="fail").returncode != 0
    assert "notes-half" not in guests(lab)
    listing = succeeded(lab.playbook("list_services.yml"))
    assert "The removal of notes-half (notes) was cut off" in " ".join(listing.split())
    succeeded(lab.playbook("service.yml", *absent))
    assert left_of(lab, "notes-half") == []


def test_a_removal_that_is_refused_is_none(lab: Operator) -> None:
    succeeded(notes(lab, "kept"))
    lab.module("nhi_vm", name="notes-kept", protection=True)
    done = deploy(lab, "notes", "-e", "purpose=kept", "-e", "state=absent", "-e", "confirm=notes-kept")
    assert done.returncode != 0
    assert "protect" in done.stdout
    assert unfinished(lab) == []
    assert len(records(lab, "notes-kept")) == 2


def test_removing_needs_the_name_as_confirmation_and_says_what_it_means(lab: Operator) -> None:
    writes = len(lab.lab.writes())
    done = deploy(lab, "notes", "-e", "purpose=shop", "-e", "state=absent")
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert "Destroy LXC" in said
    assert "repeat this with -e confirm=notes-shop" in said
    assert len(lab.lab.writes()) == writes
    assert vault(lab, "notes-shop").exists()


def test_a_removed_service_leaves_nothing(lab: Operator) -> None:
    absent = ("-e", "purpose=shop", "-e", "state=absent", "-e", "confirm=notes-shop")
    foretold = succeeded(deploy(lab, "notes", *absent, "--check"))
    assert result_of(foretold)["changed"] is True
    assert "notes-shop" in guests(lab)
    result = result_of(succeeded(deploy(lab, "notes", *absent)))
    assert (result["changed"], result["secrets"]["removed"]) == (True, ["notes_password"])
    assert "notes-shop" not in guests(lab)
    assert records(lab, "notes-shop") == []
    assert not vault(lab, "notes-shop").exists()
    again = succeeded(deploy(lab, "notes", *absent))
    assert set(changes(again).values()) == {0}
    assert result_of(again)["changed"] is False


def test_a_service_that_is_not_in_the_catalogue_is_one_sentence(lab: Operator) -> None:
    done = deploy(lab, "teapot")
    assert done.returncode != 0
    assert "the catalogue has no service 'teapot': use one of" in " ".join((done.stdout + done.stderr).split())
