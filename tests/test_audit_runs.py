"""Every playbook run is told to the audit log by the callback, as an operator has it enabled, and no secret with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify

from .conftest import ROOT, clean_environment, tool

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Change something
      ansible.builtin.copy: {content: x, dest: "{{ marker }}-{{ inventory_hostname }}", mode: "0600"}
    - name: Say a secret
      ansible.builtin.debug: {msg: "{{ password }}"}
      no_log: true
    - name: Wait or fail
      ansible.builtin.command: {argv: ["{{ command }}", "{{ seconds }}"]}
"""
SECRET = "hunter2-and-more"


class Runs:
    """Runs of one playbook by an operator."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.marker = directory / "marker-guest-b"
        (directory / "play.yml").write_text(PLAYBOOK)

    def start(self, *args: str, command: str = "true", seconds: str = "0", **env: str) -> subprocess.Popen[str]:
        variables = {
            "marker": str(self.directory / "marker"),
            "password": SECRET,
            "command": command,
            "seconds": seconds,
        }
        options = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
        inventory = ["-i", "guest-a,guest-b,", "-c", "local"]
        environment = {
            **clean_environment(), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NHI_STATE_DIR": str(self.state_dir),
            "ANSIBLE_INVENTORY_ENABLED": "host_list",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "NHI_ACTOR": "aider", "TOKEN": SECRET, **env,
        }  # fmt: skip
        return subprocess.Popen(
            [tool("ansible-playbook"), *inventory, *options, *args, "play.yml"], cwd=self.directory, text=True,
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *args: str, **more: str) -> tuple[int, str]:
        process = self.start(*args, **more)
        output, _none = process.communicate(timeout=120)
        return process.returncode, output

    def told(self) -> list[dict[str, Any]]:
        assert verify(self.state_dir).whole
        return list(find(self.state_dir, Query(operation="playbook")))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_who_ran_what_on_which_hosts_with_what_outcome(runs: Runs) -> None:
    code, output = runs.run("--limit", "guest-*")
    assert code == 0, output
    begin, end = runs.told()
    assert (begin["outcome"], begin["subject"], begin["actor"], begin["check_mode"]) == (
        "allowed", "play.yml", "aider", False,
    )  # fmt: skip
    assert begin["params"] == {"extra_vars": ["command", "marker", "password", "seconds"], "limit": "guest-*"}
    assert (end["outcome"], end["attempt"]) == ("done", begin["attempt"])
    assert end["result"]["hosts"] == ["guest-a", "guest-b"]
    assert end["result"]["changed"] == 4
    assert end["result"]["failures"] == 0
    assert end["duration_seconds"] > 0
    log = b"".join(p.read_bytes() for p in (runs.state_dir / "audit").iterdir())
    assert SECRET.encode() not in log


def test_a_dry_run_and_a_failed_run_are_told_apart(runs: Runs) -> None:
    assert runs.run("--check")[0] == 0
    assert runs.run(command="false")[0] != 0
    entries = runs.told()
    assert [(e["outcome"], e["check_mode"]) for e in entries] == [
        ("allowed", True), ("done", True), ("allowed", False), ("failed", False),
    ]  # fmt: skip
    assert entries[3]["result"]["failed_hosts"] == ["guest-a", "guest-b"]


@pytest.mark.parametrize(
    ("number", "outcomes"), [(signal.SIGINT, ["allowed", "failed"]), (signal.SIGKILL, ["allowed"])]
)
def test_a_run_that_was_cut_short_is_told(runs: Runs, number: int, outcomes: list[str]) -> None:
    process = runs.start(command="sleep", seconds="10")
    deadline = time.monotonic() + 60
    while not runs.marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    # Ctrl-C reaches the whole group too.
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert [e["outcome"] for e in runs.told()] == outcomes
    if len(outcomes) > 1:
        assert "interrupted" in runs.told()[1]["reason"]


def test_a_log_that_can_not_be_written_costs_a_warning(runs: Runs) -> None:
    runs.state_dir.write_text("in the way")
    code, output = runs.run()
    assert code == 0
    assert "nhi_audit: the begin of this run was not written down" in " ".join(output.split())
    assert runs.marker.exists()


def test_where_the_log_is_required_nothing_runs_without_it(runs: Runs) -> None:
    runs.state_dir.write_text("in the way")
    code, output = runs.run(NHI_AUDIT_REQUIRED="true")
    assert code != 0
    assert "was not written down" in " ".join(output.split())
    assert not runs.marker.exists()


def test_what_modules_tell_bears_the_mark_of_the_run(runs: Runs) -> None:
    (runs.directory / "play.yml").write_text(
        """
- hosts: guest-a
  gather_facts: false
  tasks:
    - nhi.core.nhi_secret: {name: shop, secrets: [{name: shop_password}], vault_dir: "{{ marker }}"}
"""
    )
    code, output = runs.run()
    assert code == 0, output
    begin, *modules, _end = find(runs.state_dir, Query())
    assert [(e["operation"], e["outcome"], e["run"]) for e in modules] == [
        ("nhi_secret/present", "allowed", begin["attempt"]),
        ("nhi_secret/present", "done", begin["attempt"]),
    ]
