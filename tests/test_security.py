"""Attacks on a lab, each of which must fail. SECURITY.md lists all attempts, also those that are tested elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify
from ansible_collections.nhi.core.plugins.module_utils.plan_seal import PlanBody, seal
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.hostile import TEXT
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import document, guest, service, write_state

from .api_client import client
from .conftest import ROOT, Operator, clean_environment, tool
from .test_gate import POLICY, nhi, vm, writes

pytestmark = pytest.mark.e2e

# Plans


@pytest.fixture(scope="module")
def aider(shared_lab: Operator) -> Operator:
    """An agent, in a lab that has a policy."""
    (shared_lab.state_dir / "policy.json").write_text(json.dumps(POLICY))
    return replace(shared_lab, extra={**shared_lab.extra, "NHI_ACTOR": "aider"})


@contextmanager
def instead_of(path: Path, content: str | Path | None) -> Iterator[None]:
    """A file with another content, in its place a link or nothing, for a while."""
    kept = path.with_name(f"kept-{path.name}")
    path.rename(kept)
    try:
        if isinstance(content, Path):
            path.symlink_to(content)
        elif content is not None:
            path.write_text(content)
        yield
    finally:
        kept.replace(path)


def test_no_forgery_of_an_approved_plan_is_applied_and_the_true_one_only_once(aider: Operator) -> None:
    luca = replace(aider, extra={**aider.extra, "NHI_ACTOR": "luca"})
    vmid = vm(aider, "web-1")["vmid"]
    plan_id = vm(aider, "web-1", "absent", _check=True)["plan"]["plan_id"]
    assert "is approved by luca" in nhi(aider, "approve", plan_id)
    plans, policy = aider.state_dir / "plans", aider.state_dir / "policy.json"
    stored = json.loads((plans / f"{plan_id}.json").read_text())
    before = writes(aider)

    def refused(who: Operator = aider, plan: str = plan_id) -> str:
        result = vm(who, "web-1", "absent", plan_id=plan)
        assert result.get("failed"), result
        assert writes(aider) == before
        return str(result["msg"])

    own = seal(b"k" * 32, PlanBody.parse(stored["plan"]))
    for ending in ("json", "approved"):
        (plans / f"{own}.{ending}").write_bytes((plans / f"{plan_id}.{ending}").read_bytes())
    assert "is not the plan that was made" in refused(plan=own)

    harmless = {**stored["plan"], "preview": {**stored["plan"]["preview"], "summary": ["Nothing will be changed."]}}
    with instead_of(plans / f"{plan_id}.json", json.dumps({**stored, "plan": harmless})):
        assert "is not the plan that was made" in refused()
        shown = aider.run(tool("nhi"), "plans", plan_id, "--state-dir", str(aider.state_dir))
        assert shown.returncode == 1
        assert "Nothing will be changed" not in shown.stdout

    assert "was made for aider, not for mallory" in refused(
        replace(aider, extra={**aider.extra, "NHI_ACTOR": "mallory"})
    )

    milder = {**POLICY, "operators": ["root", "luca", "aider"]}
    with instead_of(policy, json.dumps(milder)):
        assert "the policy changed" in refused()
    for away in ("{", '{"rules": []}', aider.state_dir / "unmounted" / "policy.json", None):
        with instead_of(policy, away):
            assert "nothing is allowed" in refused()

    assert vm(aider, "web-1", "absent", plan_id=plan_id)["changed"]
    assert vm(luca, "web-1", vmid=vmid)["changed"]
    before = writes(aider)
    assert f"{plan_id} is used by aider" in refused()
    assert vm(luca, "web-1", "absent")["changed"]


# Texts that come back from the API

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Show everything that is known
      ansible.builtin.debug: {var: "hostvars[inventory_hostname]"}
    - name: Loop over what others chose
      ansible.builtin.debug: {msg: "{{ item }}"}
      loop: "{{ nhi_tags + nhi_addresses + nhi_services + [nhi_name, nhi_pool, nhi_node, nhi_status] }}"
    - name: Take it over
      ansible.builtin.set_fact: {taken: "{{ nhi_name }} {{ nhi_pool }} {{ nhi_tags | join(' ') }}"}
    - name: Write it to a file
      ansible.builtin.copy: {content: "{{ taken }}", dest: "{{ playbook_dir }}/written", mode: "0600"}
    - name: Write it through a template
      ansible.builtin.template: {src: written.j2, dest: "{{ playbook_dir }}/templated", mode: "0600"}
    - name: Give it to a program
      ansible.builtin.command: {argv: [printf, "%s", "{{ taken }}"]}
    - name: Look up what runs
      ansible.builtin.debug: {msg: "{{ lookup('nhi.core.nhi_services') }}"}
    - name: Look up a service
      ansible.builtin.debug: {msg: "{{ lookup('nhi.core.nhi_endpoint', 'redis', allow_unhealthy=true) }}"}
    - name: Show the alerts
      nhi.core.nhi_state: {state_dir: "{{ nhi_state_dir }}", path: alerts}
      register: alerts
    - name: Loop over the alerts
      ansible.builtin.debug: {msg: "{{ item.message }}"}
      loop: "{{ alerts.value }}"
"""


def played(directory: Path, state_dir: Path) -> str:
    """What the play prints; nothing of it may have run a program."""
    (directory / "play.yml").write_text(PLAY)
    (directory / "written.j2").write_text("{{ taken }}")
    (directory / "lab.nhi_state.yml").write_text(f"plugin: nhi.core.nhi_state\nstate_dir: {state_dir}\n")
    done = subprocess.run(
        [tool("ansible-playbook"), "-i", "lab.nhi_state.yml", "-c", "local", "-vvv", "--diff", "play.yml"],
        cwd=directory, text=True, capture_output=True, timeout=120, check=False,
        env={
            **clean_environment(), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
            "NHI_STATE_DIR": str(state_dir), "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for place in (directory, ROOT, Path.home(), state_dir):
        assert not (place / "pwned").exists()
    return done.stdout + done.stderr


def test_nothing_in_the_state_is_a_template(tmp_path: Path) -> None:
    """Even in a state that was written before scans took control characters out."""
    text = TEXT.replace("\0", "")
    evil = guest(101, text, pool=text, tags=["svc-redis", text], node=text, status=text, address="127.0.0.9")
    redis = service("redis", 101, guest=text, purpose=text, address="127.0.0.9", health="unhealthy")
    redis["endpoints"][0]["detail"] = text
    state = document([evil], [redis])
    state["alerts"] = [{
        "id": f"x:{text}", "severity": "warning", "kind": "x", "subject": text, "message": text,
        "since": evil["observed_at"], "observed_at": evil["observed_at"],
    }]  # fmt: skip
    played(tmp_path, write_state(tmp_path / "state", state))
    for name in ("written", "templated"):
        assert (tmp_path / name).read_bytes().decode() == f"{text} {text} svc-redis {text}", name
    assert verify(tmp_path / "state").whole


def test_what_the_owner_of_a_guest_writes_stays_text_from_the_api_to_the_terminal(
    shared_lab: Operator, aider: Operator, tmp_path: Path
) -> None:
    made = vm(aider, "notes", tags=["svc-redis"])
    notes = TEXT.replace("\0", "").replace("\r\n", "")
    with client(shared_lab.lab) as api:
        api.put(("nodes", "pve", "lxc", made["vmid"], "config"), {"description": notes})
    assert aider.module(
        "nhi_vm_snapshot", name="notes", snapshot="evil", description=notes, state_dir=str(aider.state_dir)
    )
    luca = replace(aider, extra={**aider.extra, "NHI_ACTOR": "luca"})
    scanned = luca.playbook("scan.yml", "-vvv", "--diff")
    assert scanned.returncode == 0, scanned.stdout + scanned.stderr
    (known,) = (g for g in aider.state()["infrastructure"]["guests"] if g["name"] == "notes")
    assert known["description"].startswith("{{ lookup('pipe', 'touch pwned') }}")
    outputs = {"scan": scanned.stdout + scanned.stderr, "play": played(tmp_path, aider.state_dir)}
    first = min((aider.state_dir / "state_history").glob("state_*.json")).stem
    for command in (["status"], ["state", "show"], ["diff", first], ["audit", "search"], ["history", "list"]):
        shown = luca.run(tool("nhi"), *command, "--state-dir", str(aider.state_dir))
        assert shown.returncode == 0, shown.stderr
        outputs[" ".join(command)] = shown.stdout + shown.stderr
    wish = {"name": "notes", "state": "started", "description": "harmless", "state_dir": str(aider.state_dir)}
    done = luca.run(tool("ansible"), "localhost", "-m", "nhi.core.nhi_vm", "-a", json.dumps(wish), "--diff", "-vvv")
    assert done.returncode == 0, done.stdout + done.stderr
    outputs["ansible --diff"] = done.stdout + done.stderr
    for name, output in outputs.items():
        bad = [line for line in output.split("\n") if not line.replace("\t", "").isprintable()]
        assert bad == [], (name, bad)
        assert "\nTASK [forged]" not in output, name
    assert verify(aider.state_dir).whole
    assert all(isinstance(entry, dict) for entry in find(aider.state_dir, Query()))
    assert not (ROOT / "pwned").exists()
