# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes against real servers on loopback."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from ansible_collections.nhi.core.plugins.module_utils.catalogue import HEALTH_TYPES, Health
from ansible_collections.nhi.core.plugins.module_utils.probe import ProbeResult, Target, probe_all
from ansible_collections.nhi.core.tests.unit.plugins.api_server import Reply, api_server

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk) -> Iterator[int]:
    """A TCP server that has the same talk with everybody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                with connection:
                    talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def says(answer: bytes, wants: bytes = b"") -> Talk:
    """Answer once, when what came holds what is wanted."""

    def talk(connection: socket.socket) -> None:
        if wants in connection.recv(4096):
            connection.sendall(answer)

    return talk


def probe(port: int, kind: str, **more: object) -> ProbeResult:
    target = Target("127.0.0.1", port, Health(kind, **more))  # type: ignore[arg-type]
    return probe_all([target])[target]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def postgres_error(code: str, message: str) -> bytes:
    fields = b"SFATAL\0C" + code.encode() + b"\0M" + message.encode() + b"\0\0"
    return b"E" + struct.pack("!i", len(fields) + 4) + fields


def mysql_packet(content: bytes, sequence: int = 0) -> bytes:
    return len(content).to_bytes(3, "little") + bytes([sequence]) + content


MYSQL_REST = struct.pack("<I", 31) + b"challeng" + b"\0" + b"\xfe\xf7" + b"\x2d\x02\0" + bytes(28)
MYSQL_GREETING = b"\x0a5.5.5-10.11.14-MariaDB-0+deb12u2\0" + MYSQL_REST


def greets(answer: bytes) -> Talk:
    """Speak first, as some servers do, and wait for what the other side does with it."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.settimeout(5)
        connection.recv(1)

    return talk


ONE = b"\x01ok\0" + struct.pack("<d", 1)


def mongodb_message(fields: bytes, operation: int = 2013) -> bytes:
    document = struct.pack("<i", len(fields) + 5) + fields + b"\0"
    return struct.pack("<iiiiIB", 21 + len(document), 7, 1, operation, 0, 0) + document


def test_an_open_port_is_healthy_and_has_a_latency() -> None:
    with listening(lambda connection: None) as port:
        result = probe(port, "tcp")
    assert (result.health, result.detail) == ("healthy", "connected")
    assert result.latency_ms is not None
    assert 0 <= result.latency_ms < 1000


@pytest.mark.parametrize("kind", [kind for kind in HEALTH_TYPES if kind != "none"])
def test_a_closed_port_is_unhealthy(kind: str) -> None:
    assert probe(free_port(), kind) == ProbeResult("unhealthy", "connection refused")


@pytest.mark.parametrize(
    ("answer", "health", "detail"),
    [
        (b"+PONG\r\n", "healthy", "PONG"),
        (b"-NOAUTH Authentication required.\r\n", "healthy", "NOAUTH"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "unhealthy", "LOADING Redis is loading"),
        (b"-DENIED Redis is running in protected mode\r\n", "unhealthy", "DENIED"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "unhealthy", "SSH-2.0"),
    ],
)
def test_redis(answer: bytes, health: str, detail: str) -> None:
    with listening(says(answer, b"PING\r\n")) as port:
        result = probe(port, "redis")
    assert result.health == health
    assert detail in result.detail


def amqp_frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("!BHI", kind, 0, len(payload)) + payload + b"\xce"


@pytest.mark.parametrize(
    ("answer", "health", "detail"),
    [
        (amqp_frame(1, struct.pack("!HHBB", 10, 10, 0, 9) + bytes(40)), "healthy", "Connection.Start"),
        (amqp_frame(1, struct.pack("!HH", 10, 50) + bytes(8)), "unhealthy", "not AMQP"),
        (amqp_frame(8, struct.pack("!HH", 10, 10)), "unhealthy", "not AMQP"),
        (b"AMQP\0\1\0\0", "unhealthy", "another version"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "unhealthy", "not AMQP"),
        (b"AMQ", "unhealthy", "closed without an answer"),
    ],
)
def test_amqp(answer: bytes, health: str, detail: str) -> None:
    with listening(says(answer, b"AMQP\0\0\x09\x01")) as port:
        result = probe(port, "amqp")
    assert result.health == health
    assert detail in result.detail


@pytest.mark.parametrize(
    ("answer", "health", "detail"),
    [
        (b"\x20\x02\0\0", "healthy", "accepted"),
        (b"\x20\x02\0\x05", "healthy", "login wanted"),
        (b"\x20\x02\0\x87", "healthy", "CONNACK 135"),
        (b"\x20\x02\0\x03", "unhealthy", "server unavailable"),
        (b"+PONG\r\n", "unhealthy", "not MQTT"),
    ],
)
def test_mqtt(answer: bytes, health: str, detail: str) -> None:
    # Protocol level 4, clean session, no name.
    with listening(says(answer, b"\0\x04MQTT\x04\x02")) as port:
        result = probe(port, "mqtt")
    assert result.health == health
    assert detail in result.detail


def test_an_mqtt_question_is_as_long_as_it_says() -> None:
    asked = bytearray()

    def listen(connection: socket.socket) -> None:
        asked.extend(connection.recv(4096))
        connection.sendall(b"\x20\x02\0\0")

    with listening(listen) as port:
        probe(port, "mqtt")
    assert asked[1] == len(asked) - 2


@pytest.mark.parametrize(
    ("fields", "health", "detail"),
    [
        (b"\x08isWritablePrimary\0\1" + ONE, "healthy", "takes writes"),
        (b"\x08isWritablePrimary\0\0" + ONE, "healthy", "takes no writes"),
        (b"\x10ok\0" + struct.pack("<i", 1), "healthy", "takes no writes"),
        (b"\x01ok\0" + struct.pack("<d", 0) + b"\x02errmsg\0\x05\0\0\0busy\0", "unhealthy", "busy"),
        (b"\x10other\0\1\0\0\0", "unhealthy", "not MongoDB"),
    ],
)
def test_mongodb(fields: bytes, health: str, detail: str) -> None:
    with listening(says(mongodb_message(fields), b"\x10hello\0\1\0\0\0\x02$db\0\x06\0\0\0admin\0")) as port:
        result = probe(port, "mongodb")
    assert result.health == health
    assert detail in result.detail


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", mongodb_message(ONE, operation=1)])
def test_what_is_not_mongodb_is_said_to_be_none(answer: bytes) -> None:
    with listening(says(answer)) as port:
        assert probe(port, "mongodb").detail == "the answer is not MongoDB"


@pytest.mark.parametrize(
    ("answer", "health"),
    [
        (b"R" + struct.pack("!ii", 8, 10) , "healthy"),
        (postgres_error("28000", "no pg_hba.conf entry for host"), "healthy"),
        (postgres_error("3D000", 'database "postgres" does not exist'), "healthy"),
        (postgres_error("57P03", "the database system is starting up"), "unhealthy"),
        (postgres_error("53300", "sorry, too many clients already"), "unhealthy"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "unhealthy"),
    ],
)  # fmt: skip
def test_postgresql(answer: bytes, health: str) -> None:
    with listening(says(answer, struct.pack("!i", 196608) + b"user\0")) as port:
        assert probe(port, "postgresql").health == health


def test_a_postgresql_that_starts_up_says_so() -> None:
    with listening(says(postgres_error("57P03", "the database system is starting up"))) as port:
        assert probe(port, "postgresql").detail == "the database system is starting up"


def test_a_mysql_that_greets_is_healthy_and_says_its_version() -> None:
    with listening(greets(mysql_packet(MYSQL_GREETING))) as port:
        result = probe(port, "mysql")
    assert (result.health, result.detail) == ("healthy", "10.11.14-MariaDB-0+deb12u2")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\xff\x10\x04Too many connections", "Too many connections"),
        (b"\xff\x10\x04#08004Too many connections", "Too many connections"),
        (b"\xff\x69\x04Host '198.51.100.7' is blocked because of many errors", "Host '198.51.100.7' is blocked"),
        (b"\xff\x6a\x04Host '198.51.100.7' is not allowed to connect", "is not allowed to connect"),
        (b"\xff", "refused"),
    ],
)  # fmt: skip
def test_a_mysql_that_refuses_is_unhealthy_and_says_why(answer: bytes, told: str) -> None:
    with listening(greets(mysql_packet(answer))) as port:
        result = probe(port, "mysql")
    assert result.health == "unhealthy"
    assert told in result.detail
    assert "#" not in result.detail


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n",
        b"220 mail.example.net ESMTP Postfix\r\n",
        mysql_packet(MYSQL_GREETING, sequence=1),
        mysql_packet(b"\x09" + MYSQL_GREETING[1:]),
        mysql_packet(b"\x0a10.11.14-MariaDB"),
        mysql_packet(b"\x0a\0" + MYSQL_REST),
        mysql_packet(b"\x0a10.11.14-MariaDB\0" + MYSQL_REST[:8]),
        mysql_packet(b"\x0a10.11.14-MariaDB\0" + MYSQL_REST.replace(b"challeng\0", b"challenge")),
        mysql_packet(b""),
    ],
)
def test_what_is_no_greeting_of_mysql_is_unhealthy(answer: bytes) -> None:
    with listening(greets(answer)) as port:
        result = probe(port, "mysql")
    assert (result.health, result.detail) == ("unhealthy", "the answer is not MySQL")


def test_half_a_greeting_of_mysql_is_unhealthy() -> None:
    with listening(lambda connection: connection.sendall(mysql_packet(MYSQL_GREETING)[:20])) as port:
        assert probe(port, "mysql").health == "unhealthy"


@pytest.mark.parametrize(
    ("answer", "health", "detail"),
    [
        (b"VERSION 1.6.18\r\n", "healthy", "VERSION 1.6.18"),
        (b"ERROR Too many open connections\r\n", "unhealthy", "ERROR Too many open connections"),
        (b"SERVER_ERROR out of memory\r\n", "unhealthy", "SERVER_ERROR out of memory"),
        (b"VERSION\r\n", "unhealthy", "the answer is not memcached"),
        (b"HTTP/1.1 400 Bad Request\r\n", "unhealthy", "the answer is not memcached"),
        (b"\r\n", "unhealthy", "the answer is not memcached"),
    ],
)
def test_memcached(answer: bytes, health: str, detail: str) -> None:
    with listening(says(answer, b"version\r\n")) as port:
        result = probe(port, "memcached")
    assert (result.health, result.detail) == (health, detail)


def test_http_expects_a_status_at_a_path() -> None:
    with listening(says(b"HTTP/1.1 204 No Content\r\n\r\n", b"GET /ready HTTP/1.1\r\n")) as port:
        assert probe(port, "http", path="/ready", expect_status=204).health == "healthy"
        assert probe(port, "http", path="/ready").detail == "HTTP 204"
        assert probe(port, "http", path="/ready").health == "unhealthy"


def test_https_does_not_care_who_signed() -> None:
    with api_server() as server:
        server.answer = lambda _request: Reply({"fine": True})
        assert probe(server.port, "https").health == "healthy"


def test_a_server_that_hangs_up_is_unhealthy() -> None:
    with listening(lambda connection: None) as port:
        assert probe(port, "redis").health == "unhealthy"


def test_a_server_that_never_answers_costs_its_timeout_twice_and_no_more() -> None:
    def silent(connection: socket.socket) -> None:
        connection.recv(4096)
        time.sleep(0.3)

    with listening(silent) as port:
        started = time.monotonic()
        result = probe(port, "redis", timeout_seconds=0.1)
    assert (result.health, result.detail) == ("unhealthy", "no answer within 0.1 s")
    assert time.monotonic() - started < 2


def test_one_failure_is_not_yet_an_outage() -> None:
    answers = iter([b"-LOADING\r\n", b"+PONG\r\n"])

    def recovering(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(next(answers))

    with listening(recovering) as port:
        assert probe(port, "redis").health == "healthy"


def test_what_is_late_for_all_is_unknown_and_the_rest_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, listening(says(b"+PONG\r\n")) as port:
        slow = Target("127.0.0.1", silent.getsockname()[1], Health("redis", timeout_seconds=20))
        quick = Target("127.0.0.1", port, Health("redis"))
        started = time.monotonic()
        results = probe_all([slow, quick], deadline_seconds=0.5)
    assert time.monotonic() - started < 5
    assert (results[slow].health, results[quick].health) == ("unknown", "healthy")


def test_many_targets_are_asked_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        port = silent.getsockname()[1]
        targets = [Target("127.0.0.1", port, Health("redis", 0.3, f"/{number}")) for number in range(50)]
        started = time.monotonic()
        results = probe_all(targets)
    assert time.monotonic() - started < 5
    assert {result.health for result in results.values()} == {"unhealthy"}


def test_an_endpoint_without_a_check_is_not_asked() -> None:
    assert probe_all([Target("127.0.0.1", 9, Health("none"))]) == {}
