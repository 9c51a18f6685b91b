"""What must never be committed, and what no file, output or command line of a journey may hold: secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from .conftest import Operator, tool
from .test_gate import POLICY, nhi

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("collections/", "playbooks/", "inventory/", "group_vars/", "lab/")

SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{20}",
    "an API token of a Git host": r"\b(ghp|gho|ghs|glpat)[_-][A-Za-z0-9_-]{20,}",
    "an access key of a cloud": r"\bAKIA[0-9A-Z]{16}\b",
    "a key of a model provider": r"\b(sk-[A-Za-z0-9_-]{24,}|AIza[0-9A-Za-z_-]{35}|gsk_[A-Za-z0-9]{20,})",
    "a token of a chat": r"\bxox[abp]-[0-9A-Za-z-]{10,}",
}
HOME_NETWORK = r"\b192\.168\.\d{1,3}\.\d{1,3}\b"


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def findings(pattern: str, names: list[str]) -> list[str]:
    found = []
    for name in names:
        text = (ROOT / name).read_bytes().decode(errors="replace")
        found += [f"{name}:{text.count(chr(10), 0, m.start()) + 1}" for m in re.finditer(pattern, text)]
    return found


@pytest.mark.parametrize("what", SECRETS)
def test_the_tree_holds_no(what: str) -> None:
    assert findings(SECRETS[what], tracked()) == []


def test_the_product_names_no_address_of_a_home_network() -> None:
    product = [name for name in tracked() if name.startswith(PRODUCT) and "/tests/" not in name]
    assert findings(HOME_NETWORK, product) == []


def test_what_is_in_the_vault_is_encrypted() -> None:
    vault = [name for name in tracked() if name.startswith("vault/") and name.endswith((".yml", ".yaml"))]
    plain = [name for name in vault if not (ROOT / name).read_text().startswith("$ANSIBLE_VAULT;")]
    assert plain == []


@pytest.mark.parametrize(
    ("what", "sample"),
    [
        ("a private key", "-----BEGIN OPENSSH PRIVATE " + "KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n"),
        ("an API token of a Git host", "ghp" + "_0123456789abcdefghijABCDEFGHIJ"),
        ("an access key of a cloud", "AKIA" + "ABCDEFGHIJKLMNOP"),
        ("a key of a model provider", "sk-" + "proj0123456789abcdefghijkl"),
        ("a token of a chat", "xoxb" + "-1234567890-abcdef"),
    ],
)
def test_the_patterns_find(what: str, sample: str) -> None:
    assert re.search(SECRETS[what], sample)


def test_no_role_puts_a_variable_into_the_environment_of_a_task() -> None:
    """Ansible writes a task's environment into the command line that starts Python, for everybody to read in `ps`."""
    roles = [name for name in tracked() if re.search(r"/roles/[^/]+/(tasks|handlers)/", name)]
    assert roles
    assert findings(r"\n +environment:\n(?: +\S+: .*\n)*? +\S+: .*\{\{", roles) == []


# A journey

PASSWORD = "S3cret-of-the-guest"
PLAY = """
- hosts: localhost
  gather_facts: false
  vars_files: [secret.yml]
  vars:
    net: {bridge: vmbr0, ip: auto, range: 127.86.71.10-127.86.71.99, prefix: 24}
  tasks:
    - name: Make a secret
      nhi.core.nhi_secret:
        {name: db, secrets: [{name: db_password}], vault_dir: "{{ vault }}", state_dir: "{{ nhi_state_dir }}"}
      register: made
    - name: Read it
      ansible.builtin.include_vars: {file: "{{ made.path }}"}
      no_log: true
    - name: Make a guest
      nhi.core.nhi_vm:
        {name: db, type: qemu, state: started, wait: false, disk: 1, memory: 128, storage: local-lvm,
         network: "{{ net }}", ciuser: admin, cipassword: "{{ password }}", state_dir: "{{ nhi_state_dir }}"}
    - name: Give it the generated secret
      nhi.core.nhi_vm: {name: db, cipassword: "{{ db_password }}", state_dir: "{{ nhi_state_dir }}"}
    - name: Keep it
      nhi.core.nhi_vm_snapshot: {name: db, snapshot: before, state_dir: "{{ nhi_state_dir }}"}
    - name: Destroy it without a plan
      nhi.core.nhi_vm:
        {name: db, state: absent, confirm: db, cipassword: "{{ password }}", state_dir: "{{ nhi_state_dir }}"}
      ignore_errors: true
    - name: Make a plan
      nhi.core.nhi_vm:
        {name: db, state: absent, confirm: db, cipassword: "{{ password }}", state_dir: "{{ nhi_state_dir }}"}
      check_mode: true
      register: planned
    - name: Say which
      ansible.builtin.copy: {content: "{{ planned.plan.plan_id }}", dest: "{{ playbook_dir }}/plan", mode: "0600"}
    - name: Scan
      nhi.core.nhi_state_scan: {state_dir: "{{ nhi_state_dir }}"}
"""
APPLY = """
- hosts: localhost
  gather_facts: false
  vars_files: [secret.yml]
  tasks:
    - name: Destroy it
      nhi.core.nhi_vm:
        name: db
        state: absent
        confirm: db
        cipassword: "{{ password }}"
        plan_id: "{{ lookup('ansible.builtin.file', 'plan') }}"
        state_dir: "{{ nhi_state_dir }}"
"""


@dataclass
class Watch:
    """Looks at every command line and every file of a directory while something runs, and once more at the end."""

    directory: Path
    secrets: list[str]
    looks: int = 0
    found: set[str] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()
        self.look()

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            self.look()

    def look(self) -> None:
        self.looks += 1
        files = [Path(place, name) for place, _names, names in os.walk(self.directory) for name in names]
        for path in [*files, *(Path("/proc", pid, "cmdline") for pid in os.listdir("/proc") if pid.isdigit())]:
            try:
                content = path.read_bytes()
            except OSError:
                continue  # gone meanwhile
            self.found |= {str(path) for secret in self.secrets if secret.encode() in content}


def test_the_watch_finds_a_secret_in_a_command_line_and_in_a_file_that_is_gone(tmp_path: Path) -> None:
    secret = "a-secret-of-this-test"
    with Watch(tmp_path, [secret]) as watch:
        (tmp_path / "passing").write_text(secret)
        time.sleep(0.5)
        (tmp_path / "passing").unlink()
        subprocess.run(["sh", "-c", "sleep 0.5", secret], check=True)
    assert str(tmp_path / "passing") in watch.found
    assert any(name.startswith("/proc/") for name in watch.found)


@pytest.mark.e2e
def test_a_journey_leaves_no_secret_in_a_file_an_output_or_a_command_line(operator: Operator, tmp_path: Path) -> None:
    """Plan, policy, approval, journal, audit, history and state; everything Ansible prints at -vvv."""
    (operator.state_dir / "policy.json").write_text(json.dumps(POLICY))
    (tmp_path / "secret.yml").write_text(yaml.safe_dump({"password": PASSWORD}))
    operator.extra["NHI_ACTOR"] = "aider"
    outputs = []

    def play(text: str) -> None:
        (tmp_path / "play.yml").write_text(text)
        play, vault = str(tmp_path / "play.yml"), f"vault={tmp_path / 'vault'}"
        done = operator.run(tool("ansible-playbook"), play, "-vvv", "--diff", "-e", vault)
        outputs.append(done.stdout + done.stderr)
        assert done.returncode == 0, outputs[-1]

    token = operator.lab.env["PROXMOX_TOKEN_SECRET"]
    with Watch(operator.state_dir, [PASSWORD, token]) as watch:
        play(PLAY)
        plan_id = (tmp_path / "plan").read_text()
        outputs += [nhi(operator, "plans", plan_id), nhi(operator, "approve", plan_id)]
        play(APPLY)
        first = min((operator.state_dir / "state_history").glob("state_*.json")).stem
        outputs += [nhi(operator, "audit", "search", "--json"), nhi(operator, "diff", first, "--json")]
    assert watch.looks > 10
    assert watch.found == set()
    operations = outputs[-2]
    for told in ("nhi_secret/present", "nhi_vm/started", "nhi_vm/absent", "nhi_vm_snapshot", "playbook", plan_id):
        assert told in operations
    shown = operator.run(tool("ansible-vault"), "view", str(tmp_path / "vault/services/db.yml"))
    generated = yaml.safe_load(shown.stdout)["db_password"]
    watch.secrets = [PASSWORD, token, generated]
    watch.look()
    assert watch.found == set()
    for output in outputs:
        assert [secret for secret in watch.secrets if secret in output] == []
