"""The SSH host key of a virtual machine on real containers: read by its guest agent, or taken at first sight."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.guest_host_key import KnownHosts, scan_host_keys

from .conftest import Operator, running_lab

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.lxc,
    pytest.mark.skipif(os.geteuid() != 0, reason="making containers needs root"),
]

NETWORK = {"range": "10.86.241.50-10.86.241.99", "prefix": 24, "gateway": "10.86.241.1"}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    home = tmp_path_factory.mktemp("keys")
    (home / "infrastructure").mkdir()
    with running_lab(
        home / "lab", "--driver", "lxc", "--subnet", "10.86.241.0/24", "--bridge", "nhikeys0", "--test-endpoint"
    ) as lab:
        yield Operator(lab, home / "infrastructure")


def machine(operator: Operator, file: Path, **options: Any) -> dict[str, Any]:
    done = operator.module(
        "nhi_vm", name="machine", state="started", type="qemu", storage="local-lvm", memory=256, disk=3,
        network=NETWORK, known_hosts=str(file), **options,
    )  # fmt: skip
    assert not done.get("failed"), done
    return done


def test_the_key_of_a_machine_is_verified_where_its_agent_may_be_asked(operator: Operator, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    made = machine(operator, file)
    assert (made["host_key"], made.get("warnings")) == ("verified", None)
    recorded = KnownHosts(file).keys(["machine"])
    assert {key.type for key in recorded} == {"ssh-ed25519"}
    assert recorded < set(scan_host_keys(made["vm"]["address"]))
    assert machine(operator, file)["host_key"] == "unchanged"

    env, other = operator.lab.env, tmp_path / "other"
    reader = {"api_token_id": env["PROXMOX_READER_TOKEN_ID"], "api_token_secret": env["PROXMOX_READER_TOKEN_SECRET"]}
    unsure = machine(operator, other, **reader)
    assert unsure["host_key"] == "first_sight"
    assert "it lacks VM.GuestAgent.FileRead" in str(unsure["warnings"])
    operator.lab.fault("set", "dead-agent", "--delay", "0.1")
    unsure = machine(operator, tmp_path / "third")
    assert unsure["host_key"] == "first_sight"
    assert "QEMU guest agent is not running" in str(unsure["warnings"])
