# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask endpoints from outside whether they are well, each in its own protocol, all at once, in bounded time.

No client libraries: each protocol needs one exchange of a few bytes, none needs a password, and none changes
anything at the other end.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from . import mongodb_wire
from .catalogue import Health

Answer = TypeVar("Answer")

_AT_ONCE = 256
_RETRY_PAUSE_SECONDS = 0.2
_LONGEST_DETAIL = 120
_POSTGRES_PROTOCOL = 196608
# What PostgreSQL says when it is there but does not let anybody in: starting or stopping, too many clients.
_POSTGRES_CLOSED = ("57P03", "53300")
_MYSQL_GREETING = 10
_MYSQL_ERROR = 255
# What a greeting holds at least behind its version: number of the session, half a challenge, a zero byte, abilities.
_MYSQL_REST = 4 + 8 + 1 + 2
_AMQP_HELLO = b"AMQP\0\0\x09\x01"
_AMQP_METHOD, _AMQP_START, _AMQP_LONGEST = 1, (10, 10), 131072
# A CONNECT of MQTT 3.1.1 with a clean session and no name of its own, so that two probes never throw each other out.
_MQTT_CONNECT = b"\x10\x0c\0\x04MQTT\x04\x02\0\x0a\0\0"
_MQTT_CONNACK = b"\x20\x02"
_MQTT_UNAVAILABLE = 3
_MQTT_ANSWERS = (
    "accepted",
    "another protocol version",
    "name refused",
    "server unavailable",
    "wrong login",
    "login wanted",
)


@dataclass(frozen=True)
class Target:
    """One thing to knock at."""

    address: str
    port: int
    health: Health


@dataclass(frozen=True)
class ProbeResult:
    """What came back: healthy or unhealthy, how fast, and in its own words."""

    health: str
    detail: str
    latency_ms: float | None = None


def probe_all(targets: Iterable[Target], *, deadline_seconds: float = 10.0) -> dict[Target, ProbeResult]:
    """Results of all targets; what is not done at the deadline is unknown."""
    wanted = [target for target in dict.fromkeys(targets) if target.health.type != "none"]
    if not wanted:
        return {}
    return asyncio.run(_probe_all(wanted, deadline_seconds))


async def _probe_all(targets: list[Target], deadline_seconds: float) -> dict[Target, ProbeResult]:
    gate = asyncio.Semaphore(_AT_ONCE)
    tasks = {target: asyncio.create_task(_probe_twice(target, gate)) for target in targets}
    _done, pending = await asyncio.wait(tasks.values(), timeout=deadline_seconds)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    late = ProbeResult("unknown", f"not answered before the deadline of {deadline_seconds:g} s for all probes")
    return {target: late if task in pending else task.result() for target, task in tasks.items()}


async def _probe_twice(target: Target, gate: asyncio.Semaphore) -> ProbeResult:
    """One failure may be a restart or a lost packet; two are an answer."""
    async with gate:
        first = await _probe(target)
    if first.health == "healthy":
        return first
    await asyncio.sleep(_RETRY_PAUSE_SECONDS)
    async with gate:
        return await _probe(target)


async def _probe(target: Target) -> ProbeResult:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(target.health.timeout_seconds):
            result = await _PROBES[target.health.type](target)
    except TimeoutError:
        return ProbeResult("unhealthy", f"no answer within {target.health.timeout_seconds:g} s")
    except ConnectionRefusedError:
        return ProbeResult("unhealthy", "connection refused")
    except asyncio.IncompleteReadError:
        return ProbeResult("unhealthy", "connection closed without an answer")
    except OSError as error:
        return ProbeResult("unhealthy", (error.strerror or str(error) or type(error).__name__)[:_LONGEST_DETAIL])
    return replace(result, latency_ms=round((time.perf_counter() - started) * 1000, 1))


async def _exchange(
    target: Target, request: bytes, read: Callable[[asyncio.StreamReader], Awaitable[Answer]], *, tls: bool = False
) -> Answer:
    context = _anybody() if tls else None
    reader, writer = await asyncio.open_connection(target.address, target.port, ssl=context)
    try:
        if request:
            writer.write(request)
            await writer.drain()
        return await read(reader)
    finally:
        writer.close()


def _anybody() -> ssl.SSLContext:
    """Whether the certificate is trusted is the client's question; a probe asks whether anybody is there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _nothing(_reader: asyncio.StreamReader) -> bytes:
    return b""


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        return b""


async def _tcp(target: Target) -> ProbeResult:
    await _exchange(target, b"", _nothing)
    return ProbeResult("healthy", "connected")


async def _http(target: Target) -> ProbeResult:
    request = f"GET {target.health.path} HTTP/1.1\r\nHost: {target.address}:{target.port}\r\nConnection: close\r\n\r\n"
    line = await _exchange(target, request.encode(), _line, tls=target.health.type == "https")
    words = line.decode("latin-1").split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        return ProbeResult("unhealthy", "the answer is not HTTP")
    good = int(words[1]) == target.health.expect_status
    return ProbeResult("healthy" if good else "unhealthy", f"HTTP {words[1]}")


async def _redis(target: Target) -> ProbeResult:
    line = await _exchange(target, b"PING\r\n", _line)
    text = line.decode("utf-8", "replace").strip()
    if text == "+PONG":
        return ProbeResult("healthy", "PONG")
    # It serves, and wants a password that a probe does not have.
    if text.startswith(("-NOAUTH", "-NOPERM")):
        return ProbeResult("healthy", text.split()[0].lstrip("-"))
    return ProbeResult("unhealthy", (text.lstrip("-") or "the answer is not Redis")[:_LONGEST_DETAIL])


async def _amqp(target: Target) -> ProbeResult:
    """Begin AMQP 0-9-1: a server that takes clients answers with Connection.Start."""
    answer = await _exchange(target, _AMQP_HELLO, _amqp_frame)
    if answer == _AMQP_START:
        return ProbeResult("healthy", "Connection.Start")
    if answer == (-1, -1):
        return ProbeResult("unhealthy", "speaks another version of AMQP than 0-9-1")
    return ProbeResult("unhealthy", "the answer is not AMQP")


async def _amqp_frame(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Class and method of the first frame; (-1, -1) for another version, (0, 0) for no AMQP at all."""
    head = await reader.readexactly(7)
    if head[:4] == _AMQP_HELLO[:4]:
        return (-1, -1)
    kind, channel, size = struct.unpack("!BHI", head)
    if (kind, channel) != (_AMQP_METHOD, 0) or not 4 <= size <= _AMQP_LONGEST:
        return (0, 0)
    first, second = struct.unpack_from("!HH", await reader.readexactly(size))
    return (first, second)


async def _mqtt(target: Target) -> ProbeResult:
    """Ask to be let in: whoever answers that, if only with "not you", serves."""
    answer = await _exchange(target, _MQTT_CONNECT, _mqtt_answer)
    if answer is None:
        return ProbeResult("unhealthy", "the answer is not MQTT")
    detail = _MQTT_ANSWERS[answer] if answer < len(_MQTT_ANSWERS) else f"CONNACK {answer}"
    return ProbeResult("unhealthy" if answer == _MQTT_UNAVAILABLE else "healthy", detail)


async def _mqtt_answer(reader: asyncio.StreamReader) -> int | None:
    answer = await reader.readexactly(4)
    return answer[3] if answer[:2] == _MQTT_CONNACK else None


async def _mongodb(target: Target) -> ProbeResult:
    """Say hello, which needs no login."""
    fields = mongodb_wire.answer_fields(await _exchange(target, mongodb_wire.hello_request(), _mongodb_body))
    if fields.get("ok") == 1:
        return ProbeResult("healthy", "takes writes" if fields.get("isWritablePrimary") else "takes no writes")
    detail = str(fields.get("errmsg") or "") if "ok" in fields else "the answer is not MongoDB"
    return ProbeResult("unhealthy", (detail or "ok is not 1")[:_LONGEST_DETAIL])


async def _mongodb_body(reader: asyncio.StreamReader) -> bytes:
    size = mongodb_wire.body_size(await reader.readexactly(mongodb_wire.HEADER_SIZE))
    return b"" if size is None else await reader.readexactly(size)


async def _postgresql(target: Target) -> ProbeResult:
    """What pg_isready does: begin a session and see whether the server talks about authentication."""
    body = struct.pack("!i", _POSTGRES_PROTOCOL) + b"user\0nhi_probe\0database\0postgres\0application_name\0nhi\0\0"
    answer = await _exchange(target, struct.pack("!i", len(body) + 4) + body, _postgres_message)
    kind, fields = answer[:1], answer[5:].split(b"\0")
    if kind == b"R":
        return ProbeResult("healthy", "accepts connections")
    if kind != b"E":
        return ProbeResult("unhealthy", "the answer is not PostgreSQL")
    texts = {field[:1]: field[1:].decode("utf-8", "replace") for field in fields if field}
    closed = texts.get(b"C", "") in _POSTGRES_CLOSED
    detail = texts.get(b"M", "")[:_LONGEST_DETAIL] if closed else "accepts connections"
    return ProbeResult("unhealthy" if closed else "healthy", detail)


async def _postgres_message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    length = struct.unpack("!i", head[1:])[0]
    if head[:1] not in (b"R", b"E") or not 4 <= length <= 16384:
        return head[:1].replace(b"R", b"?").replace(b"E", b"?")
    return head + await reader.readexactly(length - 4)


async def _mysql(target: Target) -> ProbeResult:
    """Read the greeting. Without skip_name_resolve a server counts sessions that end there, and blocks us some day."""
    packet = await _exchange(target, b"", _mysql_packet)
    kind, body = packet[:1], packet[1:]
    if kind == bytes([_MYSQL_ERROR]):
        # A number, then words; a state of five characters comes between them in some versions.
        words = body[8:] if body[2:3] == b"#" else body[2:]
        return ProbeResult("unhealthy", words.decode("utf-8", "replace").strip()[:_LONGEST_DETAIL] or "refused")
    version, end, rest = body.partition(b"\0")
    if kind != bytes([_MYSQL_GREETING]) or not version or not end or len(rest) < _MYSQL_REST or rest[12] != 0:
        return ProbeResult("unhealthy", "the answer is not MySQL")
    return ProbeResult("healthy", version.decode("utf-8", "replace").removeprefix("5.5.5-")[:_LONGEST_DETAIL])


async def _mysql_packet(reader: asyncio.StreamReader) -> bytes:
    """The first packet's content, or nothing when it can not be one."""
    head = await reader.readexactly(4)
    length = int.from_bytes(head[:3], "little")
    if head[3] != 0 or not 0 < length <= 16384:
        return b""
    return await reader.readexactly(length)


async def _memcached(target: Target) -> ProbeResult:
    line = await _exchange(target, b"version\r\n", _line)
    text = line.decode("utf-8", "replace").strip()
    if text.startswith("VERSION "):
        return ProbeResult("healthy", text[:_LONGEST_DETAIL])
    errors = ("ERROR", "SERVER_ERROR", "CLIENT_ERROR")
    return ProbeResult(
        "unhealthy", text[:_LONGEST_DETAIL] if text.startswith(errors) else "the answer is not memcached"
    )


_PROBES: dict[str, Callable[[Target], Awaitable[ProbeResult]]] = {
    "tcp": _tcp,
    "http": _http,
    "https": _http,
    "redis": _redis,
    "amqp": _amqp,
    "mqtt": _mqtt,
    "mongodb": _mongodb,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "memcached": _memcached,
}
