"""Every playbook in check mode, on a lab where nothing was ever done: it tells, and changes nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from .conftest import Operator, running_lab

PLAYBOOKS = {
    "scan.yml": (),
    "topology.yml": (),
    "service.yml": ("-e", "service=redis", "-e", "purpose=cache"),
    "destroy_guest.yml": ("-e", "guest=postgres-lxc"),
    "recover_state.yml": ("-i", "inventory/hosts.yml"),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator of one lab for all tests here, as none may change it."""
    directory = tmp_path_factory.mktemp("check")
    with running_lab(directory / "lab", "--driver", "memory", "--no-lag") as lab:
        operator = Operator(lab, directory / "infrastructure")
        operator.state_dir.mkdir()
        yield operator


def dry_run(operator: Operator, name: str, *args: str) -> subprocess.CompletedProcess[str]:
    return operator.playbook(name, *args, "--check", "--diff")


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_check_run_on_a_fresh_lab_ends_well_and_writes_nothing(untouched: Operator, name: str) -> None:
    done = dry_run(untouched, name, *PLAYBOOKS[name])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "Traceback" not in done.stdout + done.stderr
    assert untouched.lab.writes() == []
    # A dry run is given a plan to apply it by, that somebody asked is told, and nothing else is written.
    assert {path.name for path in untouched.state_dir.iterdir()} <= {"plans", "plan.key", "audit"}


def test_a_topology_is_foretold_scaled_to_the_node(untouched: Operator) -> None:
    output = dry_run(untouched, "topology.yml").stdout
    assert "address: 127.86.0.100" in output
    assert "node: pve" in output


def test_a_service_that_is_not_there_yet_is_not_asked_over_ssh(untouched: Operator) -> None:
    output = dry_run(untouched, "service.yml", "-e", "service=redis").stdout
    assert "nhi.core.redis would be applied to redis-default, which does not run yet." in output


def test_a_node_that_does_not_exist_is_named_before_anything_is_made(untouched: Operator) -> None:
    done = untouched.playbook("topology.yml", "-e", "proxmox_node=elsewhere")
    assert done.returncode != 0
    assert "Node elsewhere does not exist" in done.stdout
    assert untouched.lab.writes() == []
