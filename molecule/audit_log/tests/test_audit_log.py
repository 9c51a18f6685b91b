"""What a user of the roles audit_log and audit_replay relies on, seen on the guest."""

from __future__ import annotations

import time
from typing import Any

import pytest

testinfra_hosts = ["ansible://molecule-audit-log"]

PASSWORD = "s3cret with \"quotes\" and 'these'"
SECRET_FILE = "/etc/nhi/credentials/audit_database_password"
PYTHON = "/opt/nhi/audit/current/venv/bin/python"
NHI = "/opt/nhi/audit/current/venv/bin/nhi"
TELL = """
import sys
from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
for number in range(int(sys.argv[2])):
    with Attempt("/var/lib/nhi", "nhi_vm/present", sys.argv[1], {"number": number}) as attempt:
        attempt.allow()
"""


def tell(host: Any, subject: str, count: int = 1) -> None:
    """Two entries for each: what was allowed, and its end."""
    host.check_output("cd / && runuser -u nhi -- %s -c %s %s %s", PYTHON, TELL, subject, str(count))


def ask(host: Any, query: str) -> Any:
    """As the application, over the network."""
    psql = "PGPASSWORD=%s psql -tA --host=127.0.0.1 --username=nhi_audit --dbname=nhi_audit --command=%s"
    return host.run(psql, PASSWORD, query)


def as_postgres(host: Any, *queries: str) -> Any:
    commands = " ".join(f'--command="{query}"' for query in queries)
    return host.run(f"cd / && runuser -u postgres -- psql --tuples-only --no-align --dbname=nhi_audit {commands}")


def count_of(host: Any, subject: str, wanted: int, seconds: float = 90) -> int:
    """How many entries about it the database has, once there are as many, or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask(host, f"SELECT count(*) FROM audit_log WHERE subject = '{subject}'")
        found = int(answer.stdout or 0)
        if found >= wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.3)


def test_an_entry_is_copied_at_once(host: Any) -> None:
    tell(host, "at-once")

    assert count_of(host, "at-once", 2, seconds=15) == 2


def test_many_entries_at_once_are_all_copied_once(host: Any) -> None:
    tell(host, "many", 60)

    assert count_of(host, "many", 120) == 120


def test_what_was_written_while_the_database_was_down_comes_once_it_is_back(host: Any) -> None:
    host.check_output("systemctl stop postgresql")
    tell(host, "outage", 3)
    time.sleep(2)
    host.check_output("systemctl start postgresql")

    assert count_of(host, "outage", 6) == 6
    verified = host.run("%s audit verify --state-dir /var/lib/nhi", NHI)
    assert verified.rc == 0, verified.stdout + verified.stderr
    assert "note: the database has the log up to entry" in verified.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET reason = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log", "DROP TABLE audit_log",
        "UPDATE audit_chain SET seq = 0", "SELECT audit.keep_days(1)", "CREATE TABLE audit.x (x int)",
        "SET ROLE nhi_audit_owner",
    ],
)  # fmt: skip
def test_the_application_can_not(host: Any, statement: str) -> None:
    refused = ask(host, statement)

    assert refused.rc != 0
    assert "permission denied" in refused.stderr or "must be owner" in refused.stderr, refused.stderr


def test_not_even_the_superuser_changes_a_row_by_accident(host: Any) -> None:
    for statement in (
        "UPDATE audit.audit_log SET reason = 'x'",
        "DELETE FROM audit.audit_log",
        "TRUNCATE audit.audit_log",
    ):
        assert "is kept as it was written" in as_postgres(host, statement).stderr


def test_retention_is_scheduled_and_works(host: Any) -> None:
    timer = host.service("nhi-audit-retention.timer")
    assert timer.is_enabled
    assert timer.is_running

    old = host.check_output("date --utc --date='9 days ago' +%Y-%m-%d")
    next_day = host.check_output("date --utc --date='8 days ago' +%Y-%m-%d")
    name = f"audit_log_{old.replace('-', '')}"
    bounds = f"FOR VALUES FROM (''{old}'') TO (''{next_day}'')"
    made = as_postgres(host, "SET ROLE nhi_audit_owner", f"SELECT audit.add_partition('{name}', '{bounds}')")
    assert made.rc == 0, made.stderr
    host.check_output("systemctl start nhi-audit-retention.service")

    assert as_postgres(host, f"SELECT to_regclass('audit.{name}') IS NULL").stdout.strip() == "t"
    today = host.check_output("date --utc +%Y%m%d")
    assert as_postgres(host, f"SELECT to_regclass('audit.audit_log_{today}') IS NOT NULL").stdout.strip() == "t"


def test_the_log_is_for_its_owner_and_the_group_only(host: Any) -> None:
    directory = host.file("/var/lib/nhi/audit")

    assert (directory.user, directory.group, directory.mode) == ("nhi", "nhi", 0o750)
    assert host.run("runuser -u nobody -- ls /var/lib/nhi/audit").rc != 0
    assert host.run("runuser -u nobody -g nhi -- sh -c 'cat /var/lib/nhi/audit/*.jsonl'").rc == 0
    assert host.run("runuser -u nobody -g nhi -- sh -c 'echo >> /var/lib/nhi/audit/head.json'").rc != 0


def test_root_and_the_service_write_the_same_log(host: Any) -> None:
    host.check_output("%s -c %s by-root 1", PYTHON, TELL)
    tell(host, "after-root")

    assert count_of(host, "by-root", 2) == 2
    assert count_of(host, "after-root", 2) == 2


def test_the_password_is_in_one_file_that_only_root_reads(host: Any) -> None:
    kept = host.file(SECRET_FILE)

    assert (kept.user, kept.group, kept.mode) == ("root", "root", 0o600)
    assert kept.content_string.strip() == PASSWORD
    assert host.run("runuser -u nhi -- cat %s", SECRET_FILE).rc != 0
    found = host.run(
        "grep --recursive --files-with-matches 's3cret with' /etc /opt/nhi /var/lib/nhi /var/log/postgresql"
    )
    assert found.stdout.split() == [SECRET_FILE]
    assert "s3cret" not in host.check_output("journalctl --no-pager")
