"""What a user of the role relies on, seen on the guest and from outside."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest

testinfra_hosts = ["ansible://molecule-memcached"]

PORT = 11211


class Client:
    """As much of a memcached client as the tests need, so that nothing but the server is tested."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection((address, PORT), timeout=5)
        self._answers: BinaryIO = self._socket.makefile("rb")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def ask(self, line: str, data: bytes | None = None) -> str:
        """Send a command; its answer's first line."""
        self._socket.sendall(line.encode() + b"\r\n" + (b"" if data is None else data + b"\r\n"))
        return self._answers.readline().decode().strip()

    def get(self, key: str) -> bytes | None:
        """The value of a key."""
        head = self.ask(f"get {key}").split()
        if head == ["END"]:
            return None
        value = self._answers.read(int(head[3]) + 2)[:-2]
        assert self._answers.readline() == b"END\r\n"
        return value

    def settings(self) -> dict[str, str]:
        """What is in force."""
        self._socket.sendall(b"stats settings\r\n")
        found: dict[str, str] = {}
        while (line := self._answers.readline().decode().split()) != ["END"]:
            found[line[1]] = " ".join(line[2:])
        return found


@pytest.fixture
def address(host: Any) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    connected = Client(address)
    yield connected
    connected.close()


def test_it_runs_now_and_after_a_reboot(host: Any) -> None:
    service = host.service("memcached")

    assert service.is_running
    assert service.is_enabled


def test_it_listens_on_no_other_address_and_not_for_udp(host: Any, address: str) -> None:
    listening = {entry for entry in host.socket.get_listening_sockets() if entry.endswith((":11211", ":11212"))}

    assert listening == {f"tcp://{address}:{PORT}", f"tcp://127.0.0.1:{PORT}"}


def test_what_one_client_sets_another_one_gets(address: str, client: Client) -> None:
    other = Client(address)

    assert client.ask("set shared 0 0 5", b"value") == "STORED"
    assert other.get("shared") == b"value"
    assert other.get("never-set") is None
    other.close()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        # The guest has 512 MiB, whatever its host shows it.
        ("maxbytes", str((512 - 102) << 20)),
        ("maxconns", "2000"),
        ("item_size_max", str(2 << 20)),
        ("num_threads", "2"),
        ("udpport", "0"),
        ("lru_crawler", "no"),
    ],
)
def test_the_settings_are_in_force(client: Client, setting: str, value: str) -> None:
    assert client.settings()[setting] == value


def test_it_takes_as_many_clients_as_it_should(address: str) -> None:
    clients = [Client(address) for _number in range(1500)]

    assert clients[-1].ask("version").startswith("VERSION ")
    for connected in clients:
        connected.close()


def test_a_value_that_is_too_large_is_refused(client: Client) -> None:
    assert client.ask("set large 0 0 1500000", b"x" * 1500000) == "STORED"
    assert client.ask("set large 0 0 3000000", b"x" * 3000000) == "SERVER_ERROR object too large for cache"


def inside(host: Any, command: str) -> Any:
    """Run a command as root where the server is: in its own view of the file system."""
    process = host.check_output("systemctl show --value --property=MainPID memcached")
    return host.run("nsenter --mount --target=%s -- sh -c %s", process, command)


def test_the_server_sees_no_file_that_it_could_change(host: Any) -> None:
    for directory in ("/etc", "/usr", "/var/lib", "/srv"):
        refused = inside(host, f"touch {directory}/nhi-was-here")
        assert refused.rc != 0
        assert "Read-only file system" in refused.stderr
    assert host.run("ls -A /root").stdout != ""
    assert inside(host, "ls -A /root").stdout == ""


def test_the_server_may_not_become_anybody_else_nor_call_what_it_does_not_need(host: Any) -> None:
    process = host.check_output("systemctl show --value --property=MainPID memcached")
    lines = host.file(f"/proc/{process}/status").content_string.splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    user = host.check_output("id --user memcache")
    assert status["Uid"].split() == [user] * 4
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_a_killed_server_comes_back(host: Any, address: str) -> None:
    host.check_output("systemctl kill --signal=KILL memcached")

    deadline = time.monotonic() + 20
    while True:
        try:
            # The one that dies may still take a connection, and then drop it.
            again = Client(address)
            version = again.ask("version")
            if version:
                break
        except OSError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert version.startswith("VERSION ")
    again.close()
