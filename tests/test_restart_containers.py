"""Restarts on real containers: two services in order, a guest, and what waits for its hour done by a real timer."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Lab, Operator, free_port, tool

pytestmark = [pytest.mark.e2e, pytest.mark.lxc, pytest.mark.timeout(900)]

SUBNET, BRIDGE, GATEWAY = "10.86.246.0/24", "nhirestart0", "10.86.246.1"
GRAPH: dict[str, Any] = {"time_zone": "UTC", "services": {
    "redis-cache": {"can_restart_without_approval": True},
    "nginx-web": {"depends_on": [{"service": "redis-cache", "port": 6379, "use": "cache"}],
                  "can_restart_without_approval": True},
    "keeper": {"can_restart_without_approval": True},
}}  # fmt: skip
KEEPER = """\
- hosts: keeper
  gather_facts: false
  tasks:
    - name: Let it scan
      ansible.builtin.include_role: {{name: nhi.core.state_scan}}
      vars:
        state_scan_api_host: {host}
        state_scan_api_port: {port}
        state_scan_api_user: {user}
        state_scan_api_token_id: {token}
        state_scan_api_token_secret: {secret}
        state_scan_validate_certs: false
    - name: Let it restart
      ansible.builtin.include_role: {{name: nhi.core.restart_timer}}
      vars:
        restart_timer_ssh_private_key: "{{{{ lookup('ansible.builtin.file', nhi_ssh_key) }}}}"
        restart_timer_known_hosts: "{{{{ lookup('ansible.builtin.file', nhi_state_dir ~ '/known_hosts') }}}}"
        restart_timer_dependency_graph: "{{{{ lookup('ansible.builtin.file', '{graph}') | string }}}}"
        restart_timer_calendar: "*:*:0/10"
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """A lab whose API its guests reach too, with Redis, nginx and a guest that keeps the schedule."""
    home = tmp_path_factory.mktemp("restarts")
    lab = Lab(home / "lab", free_port())
    state = home / "infrastructure"
    state.mkdir()
    try:
        lab.up("--driver", "lxc", "--subnet", SUBNET, "--bridge", BRIDGE, "--bind", GATEWAY, "--no-lag")
        house = Operator(lab, state)
        write_graph(house, GRAPH)
        for service, purpose in (("redis", "cache"), ("nginx", "web")):
            succeeded(house.playbook("service.yml", "-e", f"service={service}", "-e", f"purpose={purpose}"))
        keeper = house.module(
            "nhi_vm", name="keeper", state="started", template="debian-12", cores=1, memory=512, disk=4,
            network={"bridge": "vmbr0", "range": "10.86.246.150-10.86.246.160", "prefix": 24, "gateway": GATEWAY},
            ssh_public_keys=[(Path(lab.env["NHI_SSH_KEY"] + ".pub")).read_text()], wait_port=22,
            known_hosts=str(state / "known_hosts"), state_dir=str(state),
        )  # fmt: skip
        assert not keeper.get("failed"), keeper
        yield house
    finally:
        lab.down()


def graph_file(house: Operator) -> Path:
    return house.state_dir.parent / "graph.json"


def write_graph(house: Operator, graph: dict[str, Any]) -> None:
    graph_file(house).write_text(json.dumps(graph))


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def restart(house: Operator, service: str, *args: str) -> subprocess.CompletedProcess[str]:
    return house.playbook(
        "restart.yml", "-e", f"service={service}", "-e", f"nhi_dependency_graph={graph_file(house)}", *args
    )


def on(house: Operator, guest: str, command: str) -> str:
    done = house.run(tool("ansible"), guest, "-m", "ansible.builtin.shell", "-a", command)
    return succeeded(done).split("\n", 1)[1].strip()


def running(house: Operator, guest: str, unit: str) -> str:
    """systemd's id of this run of a unit."""
    return on(house, guest, f"systemctl show --property=InvocationID --value {unit}")


def history(house: Operator) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (house.state_dir / "restarts/history.jsonl").read_text().splitlines()]


def test_two_services_are_restarted_in_order_and_each_is_well_before_the_next(house: Operator) -> None:
    before = running(house, "redis-cache", "redis-server"), running(house, "nginx-web", "nginx")
    output = succeeded(restart(house, "nginx-web,redis-cache"))
    after = running(house, "redis-cache", "redis-server"), running(house, "nginx-web", "nginx")
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert re.search(r"redis-cache was restarted and is well after [\d.]+ s", output)
    done = history(house)
    assert [(e["service"], e["outcome"]) for e in done] == [("redis-cache", "restarted"), ("nginx-web", "restarted")]
    assert all(0 < e["downtime_seconds"] < 30 for e in done)


def test_a_check_run_restarts_nothing(house: Operator) -> None:
    before = running(house, "redis-cache", "redis-server")
    output = succeeded(restart(house, "redis-cache", "--check"))
    assert "Restart redis-cache: unit redis-server on redis-cache; then wait for redis :6379" in output
    assert "nginx-web (medium) would stop working: it needs redis-cache." in output
    assert running(house, "redis-cache", "redis-server") == before


def test_a_service_that_does_not_come_back_stops_it_and_leaves_the_next_alone(house: Operator) -> None:
    before = running(house, "nginx-web", "nginx")
    on(house, "redis-cache", "mkdir -p /run/systemd/system/redis-server.service.d && printf"
       " '[Service]\\nExecStartPost=/bin/false\\nRestart=no\\n' > /run/systemd/system/redis-server.service.d/break.conf"
       " && systemctl daemon-reload")  # fmt: skip
    done = restart(house, "redis-cache,nginx-web", "-e", "nhi_health_timeout=3")
    assert done.returncode != 0
    assert "nothing else was restarted; not restarted: nginx-web" in done.stdout
    assert running(house, "nginx-web", "nginx") == before
    on(house, "redis-cache", "rm -r /run/systemd/system/redis-server.service.d && systemctl daemon-reload")
    succeeded(restart(house, "redis-cache"))


def test_a_guest_without_a_unit_is_restarted_itself(house: Operator) -> None:
    boot = on(house, "keeper", "systemctl show --property=UserspaceTimestamp --value")
    output = succeeded(restart(house, "keeper"))
    assert "keeper was restarted and is well after" in output
    assert on(house, "keeper", "systemctl show --property=UserspaceTimestamp --value") != boot


def test_what_waits_for_its_hour_is_done_by_a_real_timer_and_once(house: Operator) -> None:
    waits = json.loads(json.dumps(GRAPH))
    try:
        play = house.state_dir.parent / "keeper.yml"
        env = house.lab.env
        play.write_text(KEEPER.format(
            host=env["PROXMOX_HOST"], port=env["PROXMOX_PORT"], user=env["PROXMOX_USER"],
            token=env["PROXMOX_READER_TOKEN_ID"], secret=env["PROXMOX_READER_TOKEN_SECRET"], graph=graph_file(house),
        ))  # fmt: skip
        succeeded(house.run(tool("ansible-playbook"), str(play), timeout=300))
        began = time.monotonic()
        again = succeeded(house.run(tool("ansible-playbook"), str(play), timeout=300))
        to_say_so = timedelta(seconds=10 + 1.5 * (time.monotonic() - began))
        assert re.search(r"keeper +: ok=\d+ +changed=0", again), again[-1000:]
        assert on(house, "keeper", "systemd-analyze verify /etc/systemd/system/nhi-restarts.* 2>&1; true") == ""
        assert on(house, "keeper", "systemctl is-active nhi-restarts.timer") == "active"
        # A window begins with a minute: the next one for which there is time to say so.
        start = (datetime.now(UTC) + to_say_so).replace(second=0, microsecond=0) + timedelta(minutes=1)
        span = f"{start:%H:%M}-{start + timedelta(minutes=10):%H:%M}"
        waits["services"]["redis-cache"]["restart_safe_hours"] = [span]
        write_graph(house, waits)
        succeeded(house.run(tool("ansible-playbook"), str(play), timeout=300))
        before = running(house, "redis-cache", "redis-server")
        nhi = "runuser -u nhi -- env NHI_DEPENDENCY_GRAPH=/etc/nhi/dependency_graph.json PROXMOX_TOKEN_SECRET=x nhi"
        said = on(house, "keeper", f"{nhi} restart redis-cache")
        assert f"not before {start:%Y-%m-%dT%H:%M}:00+00:00" in said
        on(house, "keeper", f"{nhi} restart redis-cache")
        assert on(house, "keeper", f"{nhi} restarts").count("scheduled") == 1
        assert running(house, "redis-cache", "redis-server") == before
        deadline = start + timedelta(seconds=90)
        while "done" not in (listing := on(house, "keeper", f"{nhi} restarts")):
            assert datetime.now(UTC) < deadline, listing + on(house, "keeper", "journalctl -u nhi-restarts -n 20")
            time.sleep(5)
        after = running(house, "redis-cache", "redis-server")
        assert after != before
        on(house, "keeper", f"{nhi} restarts run")
        assert running(house, "redis-cache", "redis-server") == after, "done twice"
        assert "redis-cache was restarted and is well" in listing
    finally:
        write_graph(house, GRAPH)
