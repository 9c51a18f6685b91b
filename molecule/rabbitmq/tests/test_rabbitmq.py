"""What a user of the role relies on, seen on the guest and from outside."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import pytest

testinfra_hosts = ["ansible://molecule-rabbitmq"]

ADMIN_PASSWORD = "s3cret with \"quotes\", 'these', \\ and spaces"
PORT = 5672
METHOD, HEADER, BODY, FRAME_END = 1, 2, 3, b"\xce"
CLOSES = ((10, 50), (20, 40))
PERSISTENT = 2


class Refused(Exception):
    """The server closed the connection or the channel; the code says why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Client:
    """As much of an AMQP 0-9-1 client as the tests need, so that nothing but the server is tested."""

    def __init__(self, address: str, user: str, password: str, vhost: str = "/") -> None:
        self._socket = socket.create_connection((address, PORT), timeout=10)
        self._answers = self._socket.makefile("rb")
        self._socket.sendall(b"AMQP\0\0\x09\x01")
        self._expect(10, 10)
        # The capability makes the server say that a login is wrong; it would only hang up otherwise.
        capability = short("authentication_failure_close") + b"t\1"
        properties = short("capabilities") + b"F" + long(capability)
        login = f"\0{user}\0{password}".encode()
        self._send(0, 10, 11, long(properties) + short("PLAIN") + long(login) + short("en_US"))
        self._expect(10, 30)
        self._send(0, 10, 31, struct.pack("!HIH", 2047, 131072, 0))
        self._send(0, 10, 40, short(vhost) + short("") + b"\0")
        self._expect(10, 41)
        self._send(1, 20, 10, short(""))
        self._expect(20, 11)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def declare(self, queue: str, passive: bool = False) -> None:
        """Make a durable queue, or only ask whether it is there."""
        self._send(1, 50, 10, struct.pack("!H", 0) + short(queue) + bytes([2 | passive]) + long(b""))
        self._expect(50, 11)

    def publish(self, queue: str, message: str) -> None:
        """Send a message that is to survive a crash, and wait until the server has it on its disk."""
        self._send(1, 85, 10, b"\0")
        self._expect(85, 11)
        self._send(1, 60, 40, struct.pack("!H", 0) + short("") + short(queue) + b"\0")
        body = message.encode()
        self._frame(HEADER, 1, struct.pack("!HHQHB", 60, 0, len(body), 0x1000, PERSISTENT))
        self._frame(BODY, 1, body)
        self._expect(60, 80)

    def get(self, queue: str) -> str | None:
        """Take a message out of a queue."""
        self._send(1, 60, 70, struct.pack("!H", 0) + short(queue) + b"\1")
        kind, payload = self._read()
        if struct.unpack("!HH", payload[:4]) != (60, 71):
            self._refuse(payload)
            return None
        assert (kind, self._read()[0]) == (METHOD, HEADER)
        return self._read()[1].decode()

    def _send(self, channel: int, first: int, second: int, arguments: bytes) -> None:
        self._frame(METHOD, channel, struct.pack("!HH", first, second) + arguments)

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        self._socket.sendall(struct.pack("!BHI", kind, channel, len(payload)) + payload + FRAME_END)

    def _expect(self, first: int, second: int) -> None:
        payload = self._read()[1]
        self._refuse(payload)
        assert struct.unpack("!HH", payload[:4]) == (first, second)

    def _refuse(self, payload: bytes) -> None:
        if struct.unpack("!HH", payload[:4]) in CLOSES:
            raise Refused(struct.unpack("!H", payload[4:6])[0])

    def _read(self) -> tuple[int, bytes]:
        head = self._answers.read(7)
        if len(head) < 7:
            raise ConnectionError("the server closed the connection")
        kind, _channel, size = struct.unpack("!BHI", head)
        return kind, self._answers.read(size + 1)[:-1]


def short(word: str) -> bytes:
    return bytes([len(word.encode())]) + word.encode()


def long(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


@pytest.fixture
def address(host: Any) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


def refusal(address: str, user: str, password: str, vhost: str = "/") -> int:
    """Why somebody does not come in; 0 for who does."""
    try:
        Client(address, user, password, vhost).close()
    except Refused as refused:
        return refused.code
    return 0


def test_it_runs_now_and_after_a_reboot(host: Any) -> None:
    assert host.service("rabbitmq-server").is_running
    assert host.service("rabbitmq-server").is_enabled


def test_it_lets_in_who_knows_the_password_of_now(address: str) -> None:
    assert refusal(address, "admin", ADMIN_PASSWORD) == 0
    assert refusal(address, "worker", "s3cret-worker", "jobs") == 0
    assert refusal(address, "admin", "an-earlier-one") == 403
    assert refusal(address, "worker", "an-earlier-one", "jobs") == 403


def test_the_user_whom_every_rabbitmq_has_is_gone(host: Any, address: str) -> None:
    assert refusal(address, "guest", "guest") == 403
    users = json.loads(host.check_output("rabbitmqctl --quiet list_users --formatter json"))
    assert {user["user"]: user["tags"] for user in users} == {
        "admin": ["administrator"],
        "worker": [],
        "watcher": ["monitoring"],
    }


def test_only_clients_come_in_over_the_network(host: Any, address: str) -> None:
    listening = {entry for entry in host.socket.get_listening_sockets() if entry.startswith("tcp://")}

    assert {entry for entry in listening if not entry.endswith(":22")} == {
        f"tcp://{address}:{PORT}",
        f"tcp://127.0.0.1:{PORT}",
        "tcp://127.0.0.1:4369",
        "tcp://127.0.0.1:15672",
        "tcp://127.0.0.1:25672",
    }


def test_passwords_are_nowhere_on_the_host(host: Any) -> None:
    assert "s3cret" not in host.check_output("ps -eo args")
    found = host.run("grep --recursive --text --files-with-matches s3cret /etc /var/log /var/lib/rabbitmq")
    assert found.stdout == ""


def test_a_queue_from_before_is_still_there(address: str) -> None:
    client = Client(address, "admin", ADMIN_PASSWORD, "jobs")

    client.declare("kept", passive=True)
    client.close()


def test_a_user_does_what_its_permissions_say_and_nothing_else(address: str) -> None:
    assert refusal(address, "watcher", "s3cret-watcher", "jobs") == 530

    worker = Client(address, "worker", "s3cret-worker", "jobs")
    with pytest.raises(Refused) as refused:
        worker.declare("own")
    assert refused.value.code == 403
    worker.close()

    worker = Client(address, "worker", "s3cret-worker", "jobs")
    with pytest.raises(Refused) as refused:
        worker.get("kept")
    assert refused.value.code == 403
    worker.close()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        # Half of the 512 MiB that the guest has, whatever its host shows it.
        ("vm_memory_high_watermark", '{absolute,"256MiB"}'),
        ("heartbeat", "30"),
    ],
)
def test_the_settings_are_in_force(host: Any, setting: str, value: str) -> None:
    asked = f"rabbitmqctl --quiet eval 'application:get_env(rabbit, {setting}).'"

    assert host.check_output(asked) == f"{{ok,{value}}}"


def test_a_killed_server_comes_back_with_what_was_written(host: Any, address: str) -> None:
    client = Client(address, "admin", ADMIN_PASSWORD, "jobs")
    client.publish("kept", "just-now")

    host.check_output("systemctl kill --signal=KILL rabbitmq-server")
    client.close()

    again = wait_for_server(address)
    assert again.get("kept") == "just-now"
    again.close()


def wait_for_server(address: str) -> Client:
    deadline = time.monotonic() + 60
    while True:
        try:
            return Client(address, "admin", ADMIN_PASSWORD, "jobs")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
