"""Inventory and look-up as an operator uses them: through Ansible's own programs, with this checkout's ansible.cfg."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import document, guest, service, write_state

from tests.conftest import ROOT, clean_environment, tool


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """An inventory file beside the state of two guests, one of which offers Redis."""
    guests = [guest(102, "db", type="qemu"), guest(105, "redis-cache", tags=["svc-redis"])]
    write_state(tmp_path / "infrastructure", document(guests, [service("redis", 105, guest="redis-cache")]))
    path = tmp_path / "lab.nhi_state.yml"
    path.write_text("plugin: nhi.core.nhi_state\nstate_dir: infrastructure\ncompose:\n  ansible_user: \"'root'\"\n")
    return path


def run(inventory: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Not in the checkout: Ansible would read its group_vars, which know where the checkout's own state is.
    env = {**clean_environment(), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        [tool(name), *arguments, "-i", str(inventory)],
        cwd=inventory.parent,
        env=env,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_ansible_inventory_lists_the_guests_of_the_state(inventory: Path) -> None:
    done = run(inventory, "ansible-inventory", "--list")

    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert set(listed["_meta"]["hostvars"]) == {"db", "redis-cache"}
    assert listed["nhi_service_redis"]["hosts"] == ["redis-cache"]
    assert listed["_meta"]["hostvars"]["db"]["ansible_host"] == "10.86.7.102"
    assert listed["_meta"]["hostvars"]["db"]["ansible_user"] == "root"


def test_a_corrupt_state_stops_ansible_and_says_what_to_do(inventory: Path) -> None:
    with (inventory.parent / "infrastructure" / "state.json").open("a") as state:
        state.write("\n")

    done = run(inventory, "ansible-inventory", "--list")

    assert done.returncode != 0
    assert "does not match its checksum" in done.stderr
    assert "nhi state validate" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_look_up_finds_the_state_that_the_inventory_read(inventory: Path) -> None:
    expression = "{{ lookup('nhi.core.nhi_endpoint', 'redis').url }}"
    done = run(inventory, "ansible", "localhost", "-m", "ansible.builtin.debug", "-a", f"msg={expression}")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "redis://10.86.7.105:6379" in done.stdout


def test_a_service_that_is_not_there_is_answered_with_those_that_are(inventory: Path) -> None:
    expression = "{{ lookup('nhi.core.nhi_endpoint', 'mongodb') }}"
    done = run(inventory, "ansible", "localhost", "-m", "ansible.builtin.debug", "-a", f"msg={expression}")

    assert done.returncode != 0
    assert "No instance offers service 'mongodb': the state has redis." in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
