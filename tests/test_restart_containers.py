"""On real containers: services restarted in order, by a real timer too; commands and logs over a real SSH server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import COLLECTIONS, ROOT, Lab, Operator, free_port, tool

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


def nhi(house: Operator, *args: str, actor: str = "root") -> subprocess.CompletedProcess[str]:
    return replace(house, extra={**house.extra, "NHI_ACTOR": actor}).run(tool("nhi"), *args, timeout=60)


@pytest.fixture
def hands(house: Operator) -> Operator:
    """The policy as it comes; nginx's log is wherever a test puts its catalogue entry."""
    shutil.copy(ROOT / "infrastructure/policy.json", house.state_dir)
    entries = house.state_dir.parent / "entries"
    entries.mkdir(exist_ok=True)
    settings = house.state_dir.parent / "nhi.toml"
    settings.write_text(f'[scan]\ncatalogue = ["{entries}"]\n')
    return replace(house, extra={**house.extra, "NHI_CONFIG": str(settings)})


def keep_log(hands: Operator, logs: str) -> None:
    shipped = (COLLECTIONS / "ansible_collections/nhi/core/catalogue/nginx.yml").read_text()
    entry = re.sub(r"^logs: .*$", f"logs: {logs}", shipped, flags=re.MULTILINE)
    (hands.state_dir.parent / "entries/nginx.yml").write_text(entry)


def test_a_command_keeps_its_streams_words_and_code(hands: Operator) -> None:
    words = ("sh", "-c", 'printf "%s|" "$@"; echo err >&2; exit 7', "sh", "a b", "$(id)", "'", "", "c\nd")
    done = nhi(hands, "exec", "nginx", "--", *words)
    assert (done.returncode, done.stdout, done.stderr) == (7, "a b|$(id)|'||c\nd|", "err\n")
    assert nhi(hands, "exec", "nginx", "--", "sh", "-c", "exit 255").returncode == 255
    assert nhi(hands, "exec", "pve", "--", "id").returncode == 126


def test_a_command_that_takes_too_long_is_ended_on_the_guest(hands: Operator) -> None:
    done = nhi(hands, "exec", "--timeout", "1", "keeper", "--", "sleep", "4711")
    assert (done.returncode, "was ended" in done.stderr) == (124, True)
    deadline = time.monotonic() + 10
    while nhi(hands, "exec", "keeper", "--", "pgrep", "-fx", "sleep 4711").returncode == 0:
        assert time.monotonic() < deadline


def test_an_agent_looks_and_does_nothing_else(hands: Operator) -> None:
    before = running(hands, "redis-cache", "redis-server")
    refused = nhi(hands, "exec", "redis", "--", "systemctl", "restart", "redis-server", actor="aider")
    assert refused.returncode == 126
    assert "running systemctl on redis-cache is not allowed" in refused.stderr
    assert running(hands, "redis-cache", "redis-server") == before
    looked = nhi(hands, "exec", "redis", "--", "systemctl", "status", "redis-server", actor="aider")
    assert "active (running)" in looked.stdout
    told = nhi(hands, "audit", "search", "--actor", "aider", "--operation", "nhi_exec", "--json").stdout
    entries = [json.loads(line) for line in told.splitlines()]
    assert [entry["outcome"] for entry in entries] == ["refused", "allowed", "done"]
    assert {entry["subject"] for entry in entries} == {"redis-cache"}


def shell(hands: Operator, guest: str, command: str) -> None:
    succeeded(nhi(hands, "exec", guest, "--", "sh", "-c", command))


def test_logs_are_read_from_file_journal_and_docker(hands: Operator) -> None:
    shell(hands, "nginx-web", "systemctl restart nginx")
    keep_log(hands, "{file: /var/log/nginx/*error.log}")
    shell(hands, "nginx-web", "date -d '2 hours ago' '+%Y/%m/%d %H:%M:%S [error] old' > /var/log/nginx/error.log;"
       " date '+%Y/%m/%d %H:%M:%S [error] young' >> /var/log/nginx/error.log")  # fmt: skip
    log = nhi(hands, "logs", "nginx", "--since", "1 hour ago", actor="aider").stdout
    assert re.fullmatch(r"\S+ \S+ \[error\] young\n", log)
    keep_log(hands, "{unit: nginx}")
    read = json.loads(nhi(hands, "logs", "nginx", "-n", "5", "--since", "10 minutes ago", "--json").stdout)
    assert any("nginx" in line for line in read["lines"]), read
    ahead = json.loads(nhi(hands, "logs", "nginx", "--since", "now", "--json").stdout)
    assert ahead["lines"] == []
    assert nhi(hands, "logs", "keeper", "-n", "3").stdout.count("\n") == 3
    keep_log(hands, "{docker: web}")
    shell(hands, "nginx-web", "printf '#!/bin/sh\necho \"$*\"\necho err >&2\n' > /usr/local/bin/docker;"
       " chmod +x /usr/local/bin/docker")  # fmt: skip
    assert nhi(hands, "logs", "nginx", "-n", "9").stdout.splitlines() == [
        "logs --tail=9 --timestamps -- web", "err"
    ]  # fmt: skip


def test_playbooks_run_commands_and_read_logs(hands: Operator) -> None:
    out = hands.state_dir.parent / "result.json"
    done = hands.playbook("exec.yml", "-e", "target=redis", "-e", "command='sh -c false'", "-e", f"result_file={out}")
    assert done.returncode != 0
    assert json.loads(out.read_text())["rc"] == 1
    succeeded(hands.playbook("logs.yml", "-e", "target=redis", "-e", "lines=2", "-e", f"result_file={out}"))
    read = json.loads(out.read_text())
    assert (read["source"], len(read["lines"])) == ("the file /var/log/redis/redis-server.log", 2)


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
