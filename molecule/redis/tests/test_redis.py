"""What a user of the role relies on, seen on the guest and from outside."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest

testinfra_hosts = ["ansible://molecule-redis"]

PASSWORD = 's3cret with "quotes", \\ and spaces'
PORT = 6379


class Client:
    """As much of a Redis client as the tests need, so that nothing but the server is tested."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection((address, PORT), timeout=5)
        self._answers: BinaryIO = self._socket.makefile("rb")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def ask(self, *words: str) -> Any:
        """Send a command; simple answers and errors come back as their text."""
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words]
        self._socket.sendall(b"".join(parts))
        return self._answer()

    def _answer(self) -> Any:
        kind, rest = (line := self._answers.readline())[:1], line[1:].rstrip()
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._answers.read(size + 2)[:-2].decode()
        if kind == b"*":
            return [self._answer() for _item in range(int(rest))]
        return int(rest) if kind == b":" else rest.decode()


def connect(address: str) -> Client:
    client = Client(address)
    assert client.ask("AUTH", PASSWORD) == "OK"
    return client


@pytest.fixture
def address(host: Any) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    connected = connect(address)
    yield connected
    connected.close()


def test_it_runs_now_and_after_a_reboot(host: Any) -> None:
    service = host.service("redis-server")

    assert service.is_running
    assert service.is_enabled


def test_it_answers_on_the_network_to_those_who_know_the_password(address: str, client: Client) -> None:
    stranger = Client(address)

    assert client.ask("PING") == "PONG"
    assert stranger.ask("PING").startswith("NOAUTH")
    stranger.close()


def test_it_listens_on_no_other_address(host: Any, address: str) -> None:
    listening = {entry for entry in host.socket.get_listening_sockets() if entry.endswith(f":{PORT}")}

    assert listening == {f"tcp://{address}:{PORT}", f"tcp://127.0.0.1:{PORT}"}


def test_the_password_is_in_one_file_that_only_redis_reads(host: Any) -> None:
    config = host.file("/etc/redis/redis.conf")

    assert (config.user, config.group, config.mode) == ("redis", "redis", 0o640)
    assert "s3cret" not in host.check_output("ps -eo args")
    assert host.run("grep -rl s3cret /etc --exclude-dir=redis").stdout == ""


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("save", "300 1"),
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("maxmemory", str(64 * 1024 * 1024)),
        ("maxmemory-policy", "noeviction"),
    ],
)
def test_the_settings_are_in_force(client: Client, setting: str, value: str) -> None:
    assert client.ask("CONFIG", "GET", setting) == [setting, value]


def test_data_from_before_the_log_was_switched_on_is_still_there(client: Client) -> None:
    assert client.ask("GET", "kept") == "since-before"


def test_a_killed_server_comes_back_with_what_was_written(host: Any, address: str, client: Client) -> None:
    assert client.ask("SET", "written", "just-now") == "OK"
    time.sleep(1.5)  # the log reaches the disk every second

    host.check_output("systemctl kill --signal=KILL redis-server")

    again = wait_for_server(address)
    assert again.ask("GET", "written") == "just-now"
    again.close()


def wait_for_server(address: str) -> Client:
    deadline = time.monotonic() + 20
    while True:
        try:
            return connect(address)
        except (OSError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
