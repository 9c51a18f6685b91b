"""The door for agents with the real playbooks on a lab in memory: plan, an operator's approval, apply."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from tests.conftest import ROOT, Operator, tool
from tests.test_gate import GRAPH, POLICY, nhi, vm

pytestmark = pytest.mark.e2e

ROLE = ROOT / "collections/ansible_collections/nhi/core/roles/agent_access"
# As the role's program does, but with a caller that no sudo has to vouch for.
DOOR = """
import sys
from pathlib import Path
from nhi_services.agent_door import main
agent, config, *words = sys.argv[1:]
sys.exit(main(words, config=Path(config), caller=lambda: agent))
"""


def as_agent(house: Operator, *words: str, agent: str = "aider") -> subprocess.CompletedProcess[str]:
    env = house.lab.env
    secret, settings, config = (house.state_dir.parent / name for name in ("secret", "nhi.toml", "door.json"))
    secret.touch(0o600)
    secret.write_text(env["PROXMOX_TOKEN_SECRET"])
    settings.write_text(
        f'state_dir = "{house.state_dir}"\n[proxmox]\napi_host = "{env["PROXMOX_HOST"]}"\n'
        f'api_port = {env["PROXMOX_PORT"]}\napi_user = "{env["PROXMOX_USER"]}"\nvalidate_certs = false\n'
    )
    rules = {
        "agents": ["aider", "ai-agent"],
        "checkout": str(ROOT),
        "ansible_playbook": tool("ansible-playbook"),
        "state_dir": str(house.state_dir),
        "settings": str(settings),
        "token_secret": str(secret),
        "playbooks": yaml.safe_load((ROLE / "defaults/main.yml").read_text())["agent_access_playbooks"],
        "variables": {"nhi_policy": str(house.state_dir / "policy.json"), "nhi_dependency_graph": str(GRAPH)},
        "environment": {
            "HOME": str(house.state_dir), "PROXMOX_TOKEN_ID": env["PROXMOX_TOKEN_ID"], "NHI_GUEST_HEALTH_PORT": "0",
            "NHI_SUBNET": "127.86.71.0/24", "NHI_VAULT_PASSWORD_FILE": str(house.state_dir / "vault-password"),
        },
    }  # fmt: skip
    config.write_text(json.dumps(rules))
    return house.run(tool("python"), "-c", DOOR, agent, str(config), *words)


@pytest.fixture
def house(operator: Operator) -> Operator:
    (operator.state_dir / "policy.json").write_text(json.dumps(POLICY))
    return operator


def test_an_agent_plans_and_applies_what_was_approved_and_nothing_else(house: Operator) -> None:
    assert vm(house, "web-1")["changed"]
    wish = ("destroy_guest", "guest=web-1", "confirm=web-1")
    planned = as_agent(house, "plan", *wish)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    found = re.search(r"plan-[a-z2-7]{26}", planned.stdout)
    assert found, planned.stdout
    plan, before = found.group(), len(house.lab.writes())
    for refused in (
        as_agent(house, "apply", *wish),
        as_agent(house, "apply", *wish, f"plan_id={plan}"),
        as_agent(house, "approve", plan),
        as_agent(house, "apply", *wish, "nhi_policy=/dev/null"),
    ):
        assert refused.returncode != 0, refused.stdout
    nhi(house, "approve", plan)
    assert "was made for aider" in as_agent(house, "apply", *wish, f"plan_id={plan}", agent="ai-agent").stdout
    assert len(house.lab.writes()) == before
    applied = as_agent(house, "apply", *wish, f"plan_id={plan}")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert [write["method"] for write in house.lab.writes()[before:]][-1] == "DELETE"
    assert '"web-1"' not in as_agent(house, "state", "infrastructure.guests[].name").stdout
    shown = as_agent(house, "plans", plan).stdout
    assert "used        by aider" in shown
    assert house.lab.env["PROXMOX_TOKEN_SECRET"] not in applied.stdout + planned.stdout + shown


def test_the_variables_that_agents_may_set_are_ones_that_the_playbooks_read() -> None:
    allowed = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["agent_access_playbooks"]
    for name, variables in allowed.items():
        text = (ROOT / f"playbooks/{name}.yml").read_text()
        if name == "service":
            text += "".join((ROOT / f"playbooks/{part}_service.yml").read_text() for part in ("deploy", "remove"))
        for variable in variables:
            assert re.search(rf"\{{\{{[^}}]*\b{variable}\b", text), f"{name} does not read {variable}"
