"""What a user of the role relies on, seen on the guest and from outside.

The server is a stand-in (see prepare.yml): what is tested is what the role does, not what MongoDB does.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import pytest
import yaml

testinfra_hosts = ["ansible://molecule-mongodb"]

ADMIN_PASSWORD = "s3cret with \"quotes\", 'these', \\ and spaces"
PORT = 27017
LOGIN_FAILED = 18


@pytest.fixture
def address(host: Any) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


def ask(address: str, request: dict[str, Any]) -> Any:
    """Ask the stand-in the way the stand-in for mongosh does."""
    with socket.create_connection((address, PORT), timeout=5) as server:
        server.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(server.makefile().readline())


def login(address: str, database: str, name: str, password: str) -> Any:
    return ask(address, {"do": "auth", "login": {"database": database, "name": name, "password": password}})


def user(address: str, database: str, name: str) -> Any:
    admin = {"database": "admin", "name": "admin", "password": ADMIN_PASSWORD}
    return ask(address, {"do": "getUser", "database": database, "name": name, "login": admin})["user"]


def test_it_runs_now_and_after_a_reboot(host: Any) -> None:
    assert host.service("mongod").is_running
    assert host.service("mongod").is_enabled


def test_it_says_hello_in_mongodbs_own_protocol(address: str) -> None:
    fields = b"\x10hello\0\1\0\0\0\x02$db\0\x06\0\0\0admin\0"
    document = struct.pack("<i", len(fields) + 5) + fields + b"\0"
    with socket.create_connection((address, PORT), timeout=5) as server:
        server.sendall(struct.pack("<iiiiIB", 21 + len(document), 1, 0, 2013, 0, 0) + document)
        assert b"\x01ok\0" + struct.pack("<d", 1) in server.recv(4096)


def test_it_listens_on_no_other_address(host: Any, address: str) -> None:
    listening = {entry for entry in host.socket.get_listening_sockets() if entry.endswith(f":{PORT}")}

    assert listening == {f"tcp://{address}:{PORT}", f"tcp://127.0.0.1:{PORT}"}


def test_the_settings_are_the_roles_and_the_users_own(host: Any, address: str) -> None:
    settings = yaml.safe_load(host.file("/etc/mongod.conf").content_string)

    assert settings["security"] == {"authorization": "enabled"}
    assert settings["net"] == {"port": PORT, "bindIp": f"127.0.0.1,{address}"}
    assert settings["setParameter"] == {"ttlMonitorSleepSecs": 30}
    # The guest has 512 MiB, whatever its host shows it: the least that MongoDB takes.
    assert settings["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"] == 0.25


def test_the_administrator_may_do_everything_and_nobody_comes_in_without_a_password(address: str) -> None:
    assert user(address, "admin", "admin")["roles"] == [{"role": "root", "db": "admin"}]
    stranger = ask(address, {"do": "createUser", "database": "admin", "name": "me", "password": "x", "roles": ["root"]})
    assert "requires authentication" in stranger["message"]


def test_users_come_in_with_the_password_of_now_and_not_with_the_earlier_one(address: str) -> None:
    assert login(address, "shop", "shop", "s3cret-shop-2") == {"ok": 1}
    assert login(address, "shop", "reports", "s3cret-reports") == {"ok": 1}
    assert login(address, "shop", "shop", "s3cret-shop")["code"] == LOGIN_FAILED


def test_users_have_the_roles_of_the_list(address: str) -> None:
    assert user(address, "shop", "shop")["roles"] == [{"role": "readWrite", "db": "shop"}]
    assert user(address, "shop", "reports")["roles"] == [
        {"role": "read", "db": "shop"},
        {"role": "dbAdmin", "db": "shop"},
    ]


def test_passwords_are_nowhere_on_the_host(host: Any) -> None:
    assert "s3cret" not in host.check_output("ps -eo args")
    places = "/etc /run/nhi-mongosh /var/log /var/lib/mongodb"
    assert host.run(f"grep --recursive --text --files-with-matches s3cret {places}").stdout == ""


def test_nothing_but_mongodb_is_taken_out_of_its_repository(host: Any) -> None:
    assert "8.0.0" in host.check_output("apt-cache policy mongodb-org-server").split("Candidate:")[1].split("\n")[0]
    assert "999" in host.check_output("apt-cache madison base-files")
    assert "999" not in host.check_output("apt-cache policy base-files").split("Candidate:")[1].split("\n")[0]


def test_a_repository_that_somebody_else_signed_is_refused(host: Any) -> None:
    # With lists of its own: apt would keep to those that it has read before.
    update = (
        "mkdir -p /root/lists/partial && apt-get update -o Dir::State::Lists=/root/lists"
        " -o Dir::Etc::SourceList=/etc/apt/sources.list.d/mongodb.sources -o Dir::Etc::SourceParts=-"
    )
    keyring = "/etc/apt/keyrings/mongodb.asc"
    host.check_output(f"cp {keyring} /root/kept.asc && cp /root/mongodbs-own.asc {keyring}")
    try:
        refused = host.run(update)
    finally:
        host.check_output(f"mv /root/kept.asc {keyring}")
    assert refused.rc != 0
    assert "NO_PUBKEY" in refused.stderr

    assert host.run(update).rc == 0


def test_a_killed_server_comes_back_with_its_users(host: Any, address: str) -> None:
    host.check_output("systemctl kill --signal=KILL mongod")

    deadline = time.monotonic() + 20
    while host.run(f"ss --no-header --listening --tcp '( sport = :{PORT} )' | grep {address}").rc != 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert login(address, "shop", "shop", "s3cret-shop-2") == {"ok": 1}
