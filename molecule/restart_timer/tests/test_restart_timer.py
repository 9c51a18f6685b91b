"""What a user of the role relies on, seen on the guest."""

from __future__ import annotations

import json
import os
import time
from typing import Any

testinfra_hosts = ["ansible://molecule-restart-timer"]

DIRECTORY = "/var/lib/nhi"
JOB = f"{DIRECTORY}/restarts/jobs/restart-00000001.json"
DUE = {
    "id": "restart-00000001", "services": ["sleeper"], "confirm": [], "whole_guests": False, "by": "nhi",
    "created_at": "2026-01-01T00:00:00+00:00", "not_before": "2026-01-01T00:00:00+00:00", "not_after": None,
}  # fmt: skip


def show(host: Any, unit: str, name: str) -> str:
    return str(host.check_output("systemctl show --value --property=%s %s", name, unit)).strip()


def test_the_timer_looks_every_minute_also_after_a_reboot(host: Any) -> None:
    timer = host.service("nhi-restarts.timer")
    assert timer.is_running
    assert timer.is_enabled

    due = show(host, "nhi-restarts.timer", "NextElapseUSecRealtime")
    seconds = int(host.check_output("date --date=%s +%%s", due)) - int(host.check_output("date +%s"))

    assert 0 <= seconds <= 61


def test_what_is_due_is_done_once_by_a_service_that_runs_as_nhi(host: Any) -> None:
    before = show(host, "sleeper", "InvocationID")
    host.check_output("runuser -u nhi -- mkdir --parents %s", os.path.dirname(JOB))
    host.check_output("echo %s | runuser -u nhi -- tee %s", json.dumps(DUE), JOB)
    host.check_output("systemctl start nhi-restarts.service")

    job = json.loads(host.file(JOB).content)
    assert job["status"] == "done", job
    after = show(host, "sleeper", "InvocationID")
    assert after != before
    host.check_output("systemctl start nhi-restarts.service")
    assert show(host, "sleeper", "InvocationID") == after
    assert host.file(f"{DIRECTORY}/restarts/watched").user == "nhi"


def test_the_secrets_are_in_files_that_only_root_reads_and_nowhere_else(host: Any) -> None:
    secret = os.environ["PROXMOX_OPERATOR_TOKEN_SECRET"]
    for name in ("restart_ssh_key", "restart_token_secret"):
        kept = host.file(f"/etc/nhi/credentials/{name}")
        assert (kept.user, kept.group, kept.mode) == ("root", "root", 0o600)
        assert host.run("runuser -u nhi -- cat %s", kept.path).rc != 0
    found = host.run(f"grep --recursive --files-with-matches --fixed-strings {secret} /etc /opt/nhi {DIRECTORY}")
    assert found.stdout.split() == ["/etc/nhi/credentials/restart_token_secret"]
    host.check_output("systemctl start --no-block nhi-restarts.service")
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert secret not in host.check_output("cat /proc/[0-9]*/cmdline 2>/dev/null; true")
    assert secret not in host.check_output("journalctl --no-pager")


def test_host_keys_and_graph_are_readable_for_the_service_only(host: Any) -> None:
    for name in ("known_hosts", "dependency_graph.json"):
        known = host.file(f"/etc/nhi/{name}")
        assert (known.user, known.group, known.mode) == ("root", "nhi", 0o640)
    assert "sleeper" in json.loads(host.file("/etc/nhi/dependency_graph.json").content)["services"]


def test_it_runs_in_a_sandbox_that_writes_to_the_state_only(host: Any) -> None:
    unit = "nhi-restarts.service"
    assert (show(host, unit, "User"), show(host, unit, "ProtectSystem")) == ("nhi", "strict")
    assert show(host, unit, "NoNewPrivileges") == "yes"
    assert show(host, unit, "ReadWritePaths") == DIRECTORY
