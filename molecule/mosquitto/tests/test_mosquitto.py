"""What a user of the role relies on, seen on the guest and from outside."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import pytest

testinfra_hosts = ["ansible://molecule-mosquitto"]

ADMIN_PASSWORD = "s3cret with \"quotes\", 'these', \\ : and spaces"
PORT = 1883
ACCEPTED, WRONG_LOGIN, NOT_AUTHORISED = 0, 4, 5


class Client:
    """As much of an MQTT 3.1.1 client as the tests need, so that nothing but the broker is tested."""

    def __init__(self, address: str, user: str | None = None, password: str | None = None) -> None:
        self._socket = socket.create_connection((address, PORT), timeout=5)
        self._answers = self._socket.makefile("rb")
        login = b"".join(text(word) for word in (user, password) if word is not None)
        flags = 2 | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
        self._send(0x10, text("MQTT") + bytes([4, flags]) + struct.pack("!H", 30) + text("") + login)
        self.answer = self._read()[1][1]

    def publish(self, topic: str, message: str, retain: bool = False) -> None:
        """Send a message and wait until the broker has it."""
        self._send(0x32 | retain, text(topic) + struct.pack("!H", 1) + message.encode())
        assert self._read()[0] >> 4 == 4

    def received(self, topic: str, seconds: float = 1.0) -> list[str]:
        """Subscribe, and return what comes in that time."""
        self._send(0x82, struct.pack("!H", 2) + text(topic) + b"\0")
        assert self._read()[0] >> 4 == 9
        self._socket.settimeout(seconds)
        messages = []
        try:
            while True:
                _kind, body = self._read()
                size = struct.unpack("!H", body[:2])[0]
                messages.append(body[2 + size :].decode())
        except TimeoutError:
            return messages

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def _send(self, kind: int, body: bytes) -> None:
        assert len(body) < 128
        self._socket.sendall(bytes([kind, len(body)]) + body)

    def _read(self) -> tuple[int, bytes]:
        head = self._answers.read(2)
        if len(head) < 2:
            raise ConnectionError("the broker closed the connection")
        return head[0], self._answers.read(head[1])


def text(word: str) -> bytes:
    return struct.pack("!H", len(word.encode())) + word.encode()


@pytest.fixture
def address(host: Any) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


def answer(address: str, user: str | None = None, password: str | None = None) -> int:
    client = Client(address, user, password)
    client.close()
    return client.answer


def test_it_runs_now_and_after_a_reboot(host: Any) -> None:
    assert host.service("mosquitto").is_running
    assert host.service("mosquitto").is_enabled


def test_it_lets_users_in_and_nobody_without_a_name(address: str) -> None:
    assert answer(address, "admin", ADMIN_PASSWORD) == ACCEPTED
    assert answer(address) == NOT_AUTHORISED
    assert answer(address, "admin", "guessed") in (WRONG_LOGIN, NOT_AUTHORISED)


def test_a_changed_password_is_in_force_and_earlier_ones_are_not(address: str) -> None:
    assert answer(address, "sensors", "s3cret-sensors-2") == ACCEPTED
    for earlier in ("an-earlier-one", "s3cret-sensors"):
        assert answer(address, "sensors", earlier) in (WRONG_LOGIN, NOT_AUTHORISED)


def test_a_user_who_is_off_the_list_is_out(address: str) -> None:
    assert answer(address, "former", "s3cret-former") in (WRONG_LOGIN, NOT_AUTHORISED)


def test_it_listens_on_no_other_address(host: Any, address: str) -> None:
    listening = {entry for entry in host.socket.get_listening_sockets() if entry.startswith("tcp://")}

    assert {entry for entry in listening if not entry.endswith(":22")} == {
        f"tcp://{address}:{PORT}",
        f"tcp://127.0.0.1:{PORT}",
        "tcp://127.0.0.1:1884",
    }


def test_passwords_are_hashed_in_one_file_that_others_do_not_read(host: Any) -> None:
    passwords = host.file("/etc/mosquitto/nhi.passwords")

    assert (passwords.user, passwords.group, passwords.mode) == ("root", "mosquitto", 0o640)
    assert all(line.split(":", 1)[1].startswith("$7$10000$") for line in passwords.content_string.splitlines())
    assert host.run("grep -r s3cret /etc /var/log").stdout == ""


def test_a_message_from_before_is_still_there(address: str) -> None:
    screen = Client(address, "screen", "s3cret-screen")

    assert screen.received("house/kept") == ["since-before"]
    screen.close()


def test_users_do_what_their_rules_say_and_nothing_else(address: str) -> None:
    sensors, screen = Client(address, "sensors", "s3cret-sensors-2"), Client(address, "screen", "s3cret-screen")
    sensors.publish("house/hall", "21", retain=True)
    sensors.publish("garden/pond", "8", retain=True)
    screen.publish("house/hall", "99", retain=True)

    admin = Client(address, "admin", ADMIN_PASSWORD)
    assert screen.received("house/hall") == ["21"]
    assert admin.received("garden/pond") == []
    assert sensors.received("house/hall") == []
    for client in (sensors, screen, admin):
        client.close()


def test_every_user_has_topics_of_its_own(address: str) -> None:
    screen = Client(address, "screen", "s3cret-screen")
    screen.publish("own/screen/state", "on", retain=True)
    screen.publish("own/sensors/state", "off", retain=True)

    assert screen.received("own/#") == ["on"]
    screen.close()


def test_a_killed_broker_comes_back(host: Any, address: str) -> None:
    host.check_output("systemctl kill --signal=KILL mosquitto")

    assert wait_for_answer(address) == ACCEPTED


def wait_for_answer(address: str) -> int:
    deadline = time.monotonic() + 20
    while True:
        try:
            return answer(address, "admin", ADMIN_PASSWORD)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
