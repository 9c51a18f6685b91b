"""What a user of the role relies on, seen on the guest and from outside."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

testinfra_hosts = ["ansible://molecule-mariadb"]

PASSWORD = "s3cret with \"quotes\", 'these', \\ and spaces"
HASH = "CAEDAD083AE8972A0203DB645FAA2CC12F30736F"  # what the server keeps of it
EARLIER_PASSWORD = "an-earlier-one"
PORT = 3306


@pytest.fixture
def address(host: Any) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


def login(host: Any, address: str, password: str, query: str = "SELECT 1", user: str = "web-app") -> Any:
    """Ask as a user, over the network; the password is read from standard input, as an option file."""
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    options = f'[client]\nuser={user}\nhost={address}\npassword="{quoted}"\n'
    client = "printf %%s %s | mariadb --defaults-file=/dev/stdin --batch --skip-column-names --execute=%s"
    return host.run(client, options, query)


def ask(host: Any, query: str) -> str:
    """Ask as root, who comes in over the local socket only."""
    return str(host.check_output("mariadb --batch --raw --skip-column-names --execute=%s", query)).strip()


def greeting(address: str) -> bytes:
    with socket.create_connection((address, PORT), timeout=5) as connection:
        return connection.recv(256)


def test_it_runs_now_and_after_a_reboot(host: Any) -> None:
    assert host.service("mariadb").is_running
    assert host.service("mariadb").is_enabled


def test_it_listens_on_no_other_address(host: Any, address: str) -> None:
    listening = {entry for entry in host.socket.get_listening_sockets() if entry.startswith("tcp://")}

    assert {entry for entry in listening if entry.endswith((f":{PORT}", ":3307"))} == {
        f"tcp://{address}:{PORT}",
        f"tcp://127.0.0.1:{PORT}",
    }


@pytest.mark.parametrize("where", ["127.0.0.1", "the guest's address"])
def test_a_user_comes_in_with_the_new_password_and_not_with_the_earlier_one(
    host: Any, address: str, where: str
) -> None:
    at = address if where == "the guest's address" else where

    assert login(host, at, PASSWORD).stdout.strip() == "1"
    assert "Access denied" in login(host, at, EARLIER_PASSWORD).stderr
    assert "Access denied" in login(host, at, "invalid").stderr


@pytest.mark.parametrize("user", ["root", "mysql", "", "backup"])
def test_root_strangers_and_users_without_a_password_do_not_come_in_over_the_network(
    host: Any, address: str, user: str
) -> None:
    for password in (EARLIER_PASSWORD, "", "invalid"):
        refused = login(host, address, password, user=user)
        assert refused.rc != 0
        assert "Access denied" in refused.stderr


def test_users_come_from_the_named_networks_only(host: Any, address: str) -> None:
    network = address.rpartition(".")[0] + ".0/255.255.255.0"
    with_password = {"localhost", "127.0.0.1", network, "198.51.100.64/255.255.255.192"}
    rows = ask(host, "SELECT user, host FROM mysql.global_priv").splitlines()
    found: dict[str, set[str]] = {}
    for user, at in (row.split("\t") for row in rows):
        found.setdefault(user, set()).add(at)

    assert found == {
        "root": {"localhost"},
        "mysql": {"localhost"},
        "mariadb.sys": {"localhost"},
        "web-app": with_password,
        "reports": with_password,
        "backup": {"localhost"},
        # Nobody asked for this one, and nobody asked for it to go.
        "someone": {"localhost"},
    }


@pytest.mark.parametrize("user", ["root", "mysql", "backup"])
def test_the_local_socket_is_their_only_way_in(host: Any, user: str) -> None:
    kept = json.loads(ask(host, f"SELECT priv FROM mysql.global_priv WHERE user = '{user}'"))

    assert kept["plugin"] == "unix_socket"
    assert len(kept.get("auth_or", [])) <= 1


def grants(host: Any, account: str) -> list[str]:
    lines = ask(host, f"SHOW GRANTS FOR {account}").splitlines()
    return sorted(line.partition(" TO ")[0] for line in lines)


def test_the_owner_may_do_everything_in_its_databases_and_nothing_else(host: Any, address: str) -> None:
    everything = (
        "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, "
        "EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER"
    )
    for at in ("localhost", "127.0.0.1"):
        assert grants(host, f"'web-app'@'{at}'") == [
            f"GRANT {everything} ON `archive`.*",
            f"GRANT {everything} ON `web\\_app`.*",
            "GRANT USAGE ON *.*",
        ]

    made = login(host, address, PASSWORD, "CREATE OR REPLACE TABLE web_app.mine (note text)")
    assert made.rc == 0, made.stderr
    for query in ("SELECT * FROM mysql.global_priv", "CREATE DATABASE other", "SHOW GRANTS FOR root@localhost"):
        refused = login(host, address, PASSWORD, query)
        assert "denied" in refused.stderr


def test_a_reader_reads_and_no_more(host: Any, address: str) -> None:
    ask(host, "CREATE OR REPLACE TABLE archive.old AS SELECT 7 AS number")
    read = login(host, address, "s3cret-reports", "SELECT number FROM archive.old", user="reports")
    written = login(host, address, "s3cret-reports", "INSERT INTO archive.old VALUES (8)", user="reports")

    assert read.stdout.strip() == "7"
    assert "denied" in written.stderr
    assert grants(host, "'reports'@'localhost'") == ["GRANT SELECT, SHOW VIEW ON `archive`.*", "GRANT USAGE ON *.*"]


def test_passwords_are_in_no_file_log_or_process(host: Any) -> None:
    assert host.run("grep --recursive --files-with-matches s3cret /etc /var/log /root /tmp").stdout == ""
    assert host.run("grep --recursive --files-with-matches --text s3cret /var/lib/mysql").stdout == ""
    journal = host.check_output("journalctl --no-pager")
    assert "s3cret" not in journal
    assert HASH not in journal
    assert "s3cret" not in host.check_output("ps -eo args")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        # The guest has 512 MiB, whatever its host shows it.
        ("innodb_buffer_pool_size", str(256 << 20)),
        ("innodb_log_file_size", str(64 << 20)),
        ("max_connections", "100"),
        ("tmp_table_size", str(16 << 20)),
        ("aria_pagecache_buffer_size", str(16 << 20)),
        ("skip_name_resolve", "1"),
        ("character_set_server", "utf8mb4"),
        ("collation_server", "utf8mb4_unicode_520_ci"),
        ("slow_query_log", "1"),
        ("long_query_time", "0.500000"),
    ],
)
def test_the_settings_are_in_force(host: Any, setting: str, value: str) -> None:
    assert ask(host, f"SELECT @@GLOBAL.{setting}") == value


def test_text_is_utf8mb4(host: Any) -> None:
    query = "SELECT schema_name, default_character_set_name, default_collation_name FROM information_schema.schemata"

    rows = dict(row.split("\t", 1) for row in ask(host, query).splitlines())
    for database in ("web_app", "archive"):
        assert rows[database] == "utf8mb4\tutf8mb4_unicode_520_ci"


def test_health_checks_that_never_log_in_do_not_block_their_host(host: Any, address: str) -> None:
    for _check in range(150):
        assert b"MariaDB" in greeting(address)

    # Greeted once more: a host that is blocked is told so instead, with 0xff in this place.
    assert greeting(address)[4] == 10
    assert login(host, address, PASSWORD).rc == 0


def test_data_from_before_is_still_there(host: Any, address: str) -> None:
    assert login(host, address, PASSWORD, "SELECT since FROM web_app.kept").stdout.strip() == "since-before"


def test_a_killed_server_comes_back_with_what_was_written(host: Any, address: str) -> None:
    written = "CREATE OR REPLACE TABLE web_app.written AS SELECT 'just-now' AS at"
    assert login(host, address, PASSWORD, written).rc == 0

    host.check_output("systemctl kill --signal=KILL mariadb")

    deadline = time.monotonic() + 30
    while (
        answer := login(host, address, PASSWORD, "SELECT at FROM web_app.written")
    ).rc and time.monotonic() < deadline:
        time.sleep(0.5)
    assert answer.stdout.strip() == "just-now"
