"""The main job on real containers: topology, a service by name, the truth about it, a plan, and no trace left."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Lab, Operator, free_port, tool

pytestmark = [pytest.mark.e2e, pytest.mark.lxc]

SUBNET = "10.86.250.0/24"
BRIDGE = "nhijourney0"
BLUEPRINT = {100: "brain-vm", 101: "chromadb-lxc", 102: "postgres-lxc", 103: "observability-lxc", 104: "minio-lxc"}


def host_traces() -> dict[str, list[str]]:
    """What a lab could leave behind on this machine: links, NAT rules, mounts, processes of containers."""

    def lines(*argv: str) -> list[str]:
        out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return sorted(line for line in out.splitlines() if BRIDGE in line or SUBNET in line or "10.86.250" in line)

    return {
        "links": lines("ip", "-o", "addr"),
        "routes": lines("ip", "route"),
        "rules": lines("iptables-save"),
        "ruleset": lines("nft", "list", "ruleset") if Path("/usr/sbin/nft").exists() else [],
        "mounts": lines("cat", "/proc/mounts"),
        "processes": lines("ps", "-eo", "args"),
    }


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    home = tmp_path_factory.mktemp("journey")
    lab = Lab(home / "lab", free_port())
    state = home / "infrastructure"
    state.mkdir()
    before = host_traces()
    try:
        lab.up("--driver", "lxc", "--subnet", SUBNET, "--bridge", BRIDGE, "--test-endpoint")
        yield Operator(lab, state)
    finally:
        lab.down()
    assert host_traces() == before, "`lab down` left something behind"
    assert not lab.directory.exists(), "files of the lab are left"


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def changes(output: str) -> dict[str, int]:
    return {host: int(n) for host, n in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE)}


def guests(operator: Operator) -> dict[str, dict[str, Any]]:
    return {g["name"]: g for g in operator.state()["infrastructure"]["guests"]}


def guest_of(output: str) -> str:
    said = re.search(r"redis is available at ([\d.]+):6379", output)
    assert said, output[-2000:]
    return said[1]


def redis_says(address: str, line: str) -> str:
    with socket.create_connection((address, 6379), timeout=3) as connection:
        connection.sendall(line.encode() + b"\r\n")
        return connection.recv(200).decode()


def test_the_topology_is_created_and_the_state_tells_the_truth(journey: Operator) -> None:
    succeeded(journey.playbook("topology.yml"))
    found = guests(journey)
    assert {g["vmid"]: name for name, g in found.items()} == BLUEPRINT
    for vmid, name in BLUEPRINT.items():
        assert found[name]["status"] == "running"
        assert found[name]["address"] == f"10.86.250.{vmid}"
        assert found[name]["health"] == "healthy", found[name]
    assert found["brain-vm"]["type"] == "qemu"


def test_the_topology_a_second_time_changes_nothing(journey: Operator) -> None:
    asked_before = len(journey.lab.writes())
    assert set(changes(succeeded(journey.playbook("topology.yml"))).values()) == {0}
    assert len(journey.lab.writes()) == asked_before


def test_a_service_asked_for_by_name_answers(journey: Operator) -> None:
    output = succeeded(journey.playbook("service.yml", "-e", "service=redis", "-e", "purpose=cache"))
    said = re.search(r"redis is available at ([\d.]+):6379", output)
    assert said, output[-2000:]
    assert '"host_key":"verified"' in output, "nobody vouched for the host key of a new container"
    assert redis_says(said[1], "PING").startswith(("+PONG", "-NOAUTH"))
    service = next(s for s in journey.state()["infrastructure"]["services"] if s["service"] == "redis")
    assert (service["address"], service["purpose"], service["health"]) == (said[1], "cache", "healthy")
    assert service["vmid"] not in BLUEPRINT


def test_the_service_a_second_time_changes_nothing(journey: Operator) -> None:
    output = succeeded(journey.playbook("service.yml", "-e", "service=redis", "-e", "purpose=cache"))
    assert set(changes(output).values()) == {0}, output[-3000:]


def test_killed_before_the_server_read_its_configuration_the_same_command_finishes_it(journey: Operator) -> None:
    """The file is as it should be then, so that nothing in it tells the second run that the server runs without it."""
    asked = ("-e", "service=redis", "-e", "purpose=queue")
    address = guest_of(succeeded(journey.playbook("service.yml", *asked)))
    assert redis_says(address, "CONFIG GET databases").split()[-1] == "16"
    changed = (*asked, "-e", "redis_databases=20")
    journey.kill_playbook("RUNNING HANDLER [nhi.core.redis : Restart Redis]", "service.yml", *changed)
    assert redis_says(address, "CONFIG GET databases").split()[-1] == "16"
    assert guest_of(succeeded(journey.playbook("service.yml", *changed))) == address
    assert redis_says(address, "CONFIG GET databases").split()[-1] == "20"
    assert set(changes(succeeded(journey.playbook("service.yml", *changed))).values()) == {0}
    succeeded(journey.playbook("service.yml", *asked, "-e", "state=absent", "-e", "confirm=redis-queue"))


def test_the_look_up_finds_the_service(journey: Operator) -> None:
    asked = "msg={{ lookup('nhi.core.nhi_endpoint', 'redis', state_dir=nhi_state_dir).url }}"
    output = succeeded(journey.run(tool("ansible"), "localhost", "-m", "ansible.builtin.debug", "-a", asked))
    assert f"redis://{guests(journey)['redis-cache']['address']}:6379" in output


def test_ansible_reaches_the_guests_by_the_inventory_of_the_state(journey: Operator) -> None:
    output = succeeded(journey.run(tool("ansible"), "nhi_lxc", "-m", "ansible.builtin.ping"))
    assert output.count("pong") == 5


def test_a_dry_run_shows_what_destroying_postgresql_would_break(journey: Operator) -> None:
    asked_before = len(journey.lab.writes())
    state_before = (journey.state_dir / "state.json").read_bytes()
    output = succeeded(journey.playbook("destroy_guest.yml", "-e", "guest=postgres-lxc", "--check"))
    for dependent in ("grafana", "webapp", "log-processor"):
        assert dependent in output
    assert len(journey.lab.writes()) == asked_before
    assert (journey.state_dir / "state.json").read_bytes() == state_before
    assert guests(journey)["postgres-lxc"]["status"] == "running"


def test_the_brain_is_never_destroyed(journey: Operator) -> None:
    asked_before = len(journey.lab.writes())
    done = journey.playbook("destroy_guest.yml", "-e", "guest=brain-vm", "-e", "confirm=brain-vm")
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert len(journey.lab.writes()) == asked_before


def test_a_killed_container_is_seen_by_the_next_scan(journey: Operator) -> None:
    succeeded(
        journey.run(
            tool("ansible"), "chromadb-lxc", "-m", "ansible.builtin.command", "-a", "systemctl stop ssh.socket ssh"
        )
    )
    succeeded(journey.playbook("scan.yml"))
    assert guests(journey)["chromadb-lxc"]["health"] == "unhealthy"
    assert any(a["subject"] == "guest/101" for a in journey.state()["alerts"])


def test_a_service_of_a_data_file_is_deployed_on_a_real_guest_and_removed(journey: Operator, tmp_path: Path) -> None:
    """No code and no role of its own: a package whose server answers once it is installed."""
    entry = {
        "name": "frontpage", "title": "Front page", "summary": "A web server of this test.",
        "role": "nhi.core.packages", "variables": {"packages_names": ["nginx-light"]},
        "guest": {"type": "lxc", "template": "debian-12"},
        "sizes": {"default": {"cores": 1, "memory_mib": 256, "disk_gib": 2}},
        "endpoints": [{"name": "web", "protocol": "http", "port": 80, "health": {"type": "http"}}],
    }  # fmt: skip
    (tmp_path / "frontpage.yml").write_text(json.dumps(entry))
    operator = replace(journey, extra={"NHI_CATALOGUE_DIRECTORIES": str(tmp_path)})
    output = succeeded(operator.playbook("service.yml", "-e", "service=frontpage", "-e", "guest=page"))
    assert re.search(r"frontpage is available at [\d.]+:80", output)
    absent = ("-e", "guest=page", "-e", "service=frontpage", "-e", "state=absent", "-e", "confirm=page")
    succeeded(operator.playbook("service.yml", *absent))
    assert "page" not in guests(journey)
    assert "page" not in (journey.state_dir / "known_hosts").read_text()


def test_the_service_is_destroyed_only_with_its_name_as_confirmation(journey: Operator) -> None:
    refused = journey.playbook("destroy_guest.yml", "-e", "guest=redis-cache")
    assert refused.returncode != 0
    assert "redis-cache" in guests(journey)
    succeeded(journey.playbook("destroy_guest.yml", "-e", "guest=redis-cache", "-e", "confirm=redis-cache"))
    assert "redis-cache" not in guests(journey)
