"""A service by name, blind: deployed, registered, removed, and undone when it fails or is killed in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.constants import DEFAULT_VAULT_ID_MATCH
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.conftest import ROOT, Operator, running_lab, tool

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
    assert not [path for path in lab.state_dir.rglob("*") if path.is_file() and value in path.read_text()]
    file = vault(lab, "notes-shop")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("$ANSIBLE_VAULT;")
    before = file.read_bytes()
    again = succeeded(notes(lab, "shop"))
    assert set(changes(again).values()) == {0}, again[-3000:]
    assert file.read_bytes() == before


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


KILLED_AT = (
    "Generate what it needs to keep secret", "Create the guest", "Let the next play reach it", "Read its secrets",
    "Deploy it", "Start it", "Check it from outside and register it", "Show the result",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("task", KILLED_AT)
def test_killed_anywhere_the_same_command_finishes_it(lab: Operator, task: str) -> None:
    purpose = f"kill{KILLED_AT.index(task)}"
    file = lab.state_dir.parent / "deploy.yml"
    argv = [tool("ansible-playbook"), "playbooks/service.yml", "-e", "service=notes", "-e", f"purpose={purpose}"]
    running = subprocess.Popen(
        [*argv, "-e", f"nhi_deploy_tasks={file}"], cwd=ROOT, env=lab.environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert running.stdout is not None
    seen = False
    for line in running.stdout:
        if line.startswith(f"TASK [{task}]"):
            seen = True
            os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert seen, f"the playbook has no task {task}"
    result = result_of(succeeded(notes(lab, purpose)))
    assert (result["guest"], result["health"]) == (f"notes-{purpose}", "healthy")
    found = [g for g in lab.state()["infrastructure"]["guests"] if g["name"] == f"notes-{purpose}"]
    assert [g["address"] for g in found] == [result["address"]]
    assert len(records(lab, f"notes-{purpose}")) == 2
    assert set(changes(succeeded(notes(lab, purpose))).values()) == {0}


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
