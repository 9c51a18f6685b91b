"""What a user of the role relies on, seen on the guest."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

testinfra_hosts = ["ansible://molecule-state-scan"]

DIRECTORY = "/var/lib/nhi"
SETTINGS = yaml.safe_load((Path(__file__).parents[1] / "vars/settings.yml").read_text())
SECRETS = {
    "/etc/nhi/credentials/proxmox_token_secret": os.environ.get("PROXMOX_READER_TOKEN_SECRET", ""),
    "/etc/nhi/credentials/redis_password": SETTINGS["state_scan_redis_password"],
}


def show(host: Any, unit: str, name: str) -> str:
    return str(host.check_output("systemctl show --value --property=%s %s", name, unit)).strip()


def scan(host: Any) -> None:
    """Scan now; systemd counts starts, and these are more than it lets through in ten seconds."""
    host.check_output("systemctl reset-failed nhi-scan.service && systemctl start nhi-scan.service")


def test_the_next_scan_is_scheduled_within_five_minutes_also_after_a_reboot(host: Any) -> None:
    timer = host.service("nhi-scan.timer")
    assert timer.is_running
    assert timer.is_enabled

    due = show(host, "nhi-scan.timer", "NextElapseUSecRealtime")
    seconds = int(host.check_output("date --date=%s +%%s", due)) - int(host.check_output("date +%s"))

    assert 0 <= seconds <= 320


def test_the_first_scan_left_a_valid_state_that_names_the_guest_itself(host: Any) -> None:
    assert host.run(f"/usr/local/bin/nhi state validate --state-dir {DIRECTORY}").rc == 0
    state = json.loads(host.file(f"{DIRECTORY}/state.json").content)

    assert "molecule-state-scan" in [guest["name"] for guest in state["infrastructure"]["guests"]]
    assert state["meta"]["generated_by"]["actor"] == "nhi"


def test_a_scan_on_demand_brings_the_state_up_to_date(host: Any) -> None:
    def revision() -> int:
        return int(json.loads(host.file(f"{DIRECTORY}/state.json").content)["meta"]["revision"])

    before = revision()
    scan(host)

    assert revision() > before


def test_the_quotas_in_redis_come_into_the_state_and_a_lost_redis_leaves_them_there_as_stale(host: Any) -> None:
    def claude() -> tuple[int | None, str]:
        scan(host)
        provider = json.loads(host.file(f"{DIRECTORY}/state.json").content)["api_providers"]["claude"]
        return provider["limits"]["requests_per_day"], provider["freshness"]

    assert claude() == (1000, "fresh")
    host.check_output("systemctl stop redis-server")
    try:
        assert claude() == (1000, "stale")
    finally:
        host.check_output("systemctl start redis-server")
    assert claude() == (1000, "fresh")


def test_the_state_is_readable_for_the_group_only(host: Any) -> None:
    directory, state = host.file(DIRECTORY), host.file(f"{DIRECTORY}/state.json")

    assert (directory.user, directory.group, directory.mode) == ("nhi", "nhi", 0o750)
    assert (state.user, state.group) == ("nhi", "nhi")
    assert host.run("runuser -u nobody -- cat %s", state.path).rc != 0
    assert host.run("runuser -u nobody -g nhi -- cat %s", state.path).rc == 0


@pytest.mark.parametrize("path", SECRETS)
def test_a_secret_is_in_one_file_that_only_root_reads(host: Any, path: str) -> None:
    kept = host.file(path)

    assert (kept.user, kept.group, kept.mode) == ("root", "root", 0o600)
    assert kept.content_string.strip() == SECRETS[path]
    assert host.run("runuser -u nhi -- cat %s", path).rc != 0
    looking = "grep --recursive --files-with-matches --fixed-strings -e %s /etc /opt/nhi /var/lib/nhi"
    assert host.run(looking, SECRETS[path]).stdout.split() == [path]


def test_no_secret_is_in_a_command_line_or_the_journal(host: Any) -> None:
    host.check_output("systemctl start --no-block nhi-scan.service")
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        lines = host.check_output("cat /proc/[0-9]*/cmdline 2>/dev/null; true")
        assert not [path for path, secret in SECRETS.items() if secret in lines]
    for told in ("journalctl --no-pager", "systemctl show nhi-scan.service"):
        said = host.check_output(told)
        assert not [path for path, secret in SECRETS.items() if secret in said]


def test_settings_are_not_for_everybody(host: Any) -> None:
    settings = host.file("/etc/nhi/nhi.toml")

    assert (settings.user, settings.group, settings.mode) == ("root", "nhi", 0o640)


def test_the_scan_runs_as_a_user_that_can_not_log_in_and_in_a_sandbox(host: Any) -> None:
    assert host.user("nhi").shell == "/usr/sbin/nologin"
    assert show(host, "nhi-scan.service", "User") == "nhi"
    assert show(host, "nhi-scan.service", "NoNewPrivileges") == "yes"
    assert show(host, "nhi-scan.service", "ProtectSystem") == "strict"


def test_the_program_belongs_to_root(host: Any) -> None:
    program = host.file(host.check_output("readlink --canonicalize /usr/local/bin/nhi"))

    assert program.user == "root"
    assert program.mode & 0o022 == 0


HISTORY = f"{DIRECTORY}/state_history"


def snapshots(host: Any) -> list[dict[str, Any]]:
    listed = json.loads(host.check_output(f"/usr/local/bin/nhi history list --json --state-dir {DIRECTORY}"))
    assert isinstance(listed, list)
    return listed


def test_the_next_snapshot_is_scheduled_on_the_hour_also_after_a_reboot(host: Any) -> None:
    timer = host.service("nhi-history.timer")
    assert timer.is_running
    assert timer.is_enabled

    due = host.check_output("date --date=%s +%%M:%%S", show(host, "nhi-history.timer", "NextElapseUSecRealtime"))

    assert due == "00:00"


def test_the_timer_s_service_keeps_the_state_once_for_each_state(host: Any) -> None:
    scan(host)
    host.check_output("systemctl start nhi-history.service")
    newest = snapshots(host)[-1]
    assert (newest["reason"], newest["actor"], newest["problem"]) == ("on the hour", "nhi-history", None)
    path = host.file(newest["path"])
    assert (path.user, path.group) == ("nhi", "nhi")
    assert path.content == host.file(f"{DIRECTORY}/state.json").content
    host.check_output("cd %s && sha256sum --strict -c %s.json.checksum", HISTORY, newest["name"])

    host.check_output("systemctl start nhi-history.service")
    assert snapshots(host)[-1] == newest


def test_the_service_compresses_and_removes_old_snapshots_and_names_damaged_ones(host: Any) -> None:
    scan(host)
    host.check_output("systemctl start nhi-history.service")
    newest = snapshots(host)[-1]["name"]
    stems = {
        days: host.check_output("date --utc --date=%s +state_%%Y-%%m-%%d_00-00", f"{days} days ago")
        for days in (60, 20, 3)
    }
    for stem in stems.values():
        for end in ("json", "json.checksum"):
            host.check_output("cp --preserve %s %s", f"{HISTORY}/{newest}.{end}", f"{HISTORY}/{stem}.{end}")
    host.check_output("truncate --size=100 %s", f"{HISTORY}/{stems[3]}.json")
    host.check_output("systemctl start nhi-history.service")

    left = {one["name"]: one for one in snapshots(host)}
    assert stems[60] not in left
    assert (left[stems[20]]["compressed"], left[stems[20]]["problem"]) == (True, None)
    assert "does not match its checksum" in left[stems[3]]["problem"]
    assert f"{stems[3]}.json does not match" in host.check_output("journalctl -u nhi-history --no-pager")


def test_the_service_of_the_history_runs_in_a_sandbox_without_the_secret(host: Any) -> None:
    assert show(host, "nhi-history.service", "User") == "nhi"
    assert show(host, "nhi-history.service", "ProtectSystem") == "strict"
    assert "LoadCredential" not in host.check_output("systemctl cat nhi-history.service")
