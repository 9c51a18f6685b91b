"""What a user of the role relies on, seen on the guest and from outside."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import pytest

testinfra_hosts = ["ansible://molecule-postgresql"]

PASSWORD = "s3cret with \"quotes\", 'these', \\ and spaces"
EARLIER_PASSWORD = "an-earlier-one"
PORT = 5432
PROTOCOL = 196608
SASL = 10


@pytest.fixture
def address(host: Any) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


def login(host: Any, address: str, password: str, query: str = "SELECT 1") -> Any:
    """Ask as the user web-app, over the network."""
    psql = "PGPASSWORD=%s psql --tuples-only --no-align --host=%s --username=web-app --command=%s"
    return host.run(psql, password, address, query)


def ask(host: Any, query: str, database: str = "postgres") -> str:
    """Ask as the superuser, who comes in over the local socket only."""
    psql = "cd / && runuser -u postgres -- psql --tuples-only --no-align --dbname=%s --command=%s"
    return str(host.check_output(psql, database, query)).strip()


def test_it_runs_now_and_after_a_reboot(host: Any) -> None:
    assert host.service("postgresql@15-main").is_running
    assert host.service("postgresql").is_enabled


def test_it_wants_a_scram_password_from_the_network(address: str) -> None:
    body = struct.pack("!i", PROTOCOL) + b"user\0web-app\0database\0web-app\0\0"
    with socket.create_connection((address, PORT), timeout=5) as connection:
        connection.sendall(struct.pack("!i", len(body) + 4) + body)
        answer = connection.recv(64)

    assert (answer[:1], struct.unpack("!i", answer[5:9])[0]) == (b"R", SASL)
    assert b"SCRAM-SHA-256" in answer


def test_it_listens_on_no_other_address(host: Any, address: str) -> None:
    listening = {entry for entry in host.socket.get_listening_sockets() if entry.startswith("tcp://")}

    assert {entry for entry in listening if entry.endswith((f":{PORT}", ":5433"))} == {
        f"tcp://{address}:{PORT}",
        f"tcp://127.0.0.1:{PORT}",
    }


def test_a_user_comes_in_with_the_new_password_and_not_with_the_earlier_one(host: Any, address: str) -> None:
    assert login(host, address, PASSWORD).stdout.strip() == "1"

    refused = login(host, address, EARLIER_PASSWORD)
    assert refused.rc != 0
    assert "password authentication failed" in refused.stderr


def test_nobody_comes_in_as_the_superuser_over_the_network(host: Any, address: str) -> None:
    refused = host.run("PGPASSWORD=%s psql --host=%s --username=postgres --command=%s", PASSWORD, address, "SELECT 1")

    assert "password authentication failed" in refused.stderr


def test_passwords_are_kept_as_scram_only_and_in_no_file_log_or_statistics(host: Any) -> None:
    kinds = ask(host, "SELECT DISTINCT left(rolpassword, 14) FROM pg_authid WHERE rolpassword IS NOT NULL")
    assert kinds == "SCRAM-SHA-256$"

    assert host.run("grep --recursive --files-with-matches s3cret /etc /var/log/postgresql").stdout == ""
    kept = "SELECT count(*) FROM pg_stat_statements WHERE position('s3' || 'cret' IN query) > 0"
    assert ask(host, kept) == "0"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        # The guest has 512 MiB, whatever its host shows it.
        ("shared_buffers", "128MB"),
        ("effective_cache_size", "384MB"),
        ("work_mem", "4MB"),
        ("maintenance_work_mem", "32MB"),
        ("random_page_cost", "1.1"),
        ("log_min_duration_statement", "250ms"),
        ("track_io_timing", "on"),
        ("shared_preload_libraries", "pg_stat_statements, pg_cron"),
        ("cron.database_name", "jobs"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
    ],
)
def test_the_settings_are_in_force(host: Any, setting: str, value: str) -> None:
    assert ask(host, f"SHOW {setting}") == value


def test_each_database_has_its_owner_and_its_extensions(host: Any) -> None:
    owners = ask(host, "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE datname IN ('web-app', 'jobs')")
    assert sorted(owners.splitlines()) == ["jobs|reports", "web-app|web-app"]

    def extensions(database: str) -> set[str]:
        return set(ask(host, "SELECT extname FROM pg_extension", database).split()) - {"plpgsql"}

    common = {"pg_stat_statements", "btree_gin"}
    assert extensions("postgres") == common
    assert extensions("web-app") == {*common, "pg_trgm"}
    assert extensions("jobs") == {*common, "pg_cron"}


def test_jobs_are_scheduled_in_the_database_that_has_pg_cron(host: Any) -> None:
    assert ask(host, "SELECT datname FROM pg_stat_activity WHERE application_name = 'pg_cron scheduler'") == "jobs"


def test_data_from_before_is_still_there(host: Any, address: str) -> None:
    assert login(host, address, PASSWORD, "SELECT since FROM kept").stdout.strip() == "since-before"


def test_the_owner_may_make_tables_in_the_database(host: Any, address: str) -> None:
    made = login(host, address, PASSWORD, "CREATE TABLE IF NOT EXISTS mine (note text)")

    assert made.rc == 0, made.stderr


def test_a_killed_server_comes_back_with_what_was_written(host: Any, address: str) -> None:
    written = "DROP TABLE IF EXISTS written; CREATE TABLE written AS SELECT 'just-now' AS at"
    assert login(host, address, PASSWORD, written).rc == 0

    host.check_output("systemctl kill --signal=KILL postgresql@15-main")

    assert wait_for(host, address, "SELECT at FROM written") == "just-now"


def wait_for(host: Any, address: str, query: str) -> str:
    deadline = time.monotonic() + 30
    while True:
        answer = login(host, address, PASSWORD, query)
        if answer.rc == 0 or time.monotonic() > deadline:
            return str(answer.stdout).strip()
        time.sleep(0.5)
