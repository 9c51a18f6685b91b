# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serve a World over HTTPS, each request after a fixed time, at most a few at once per node.

It is made to cost little, so that a measurement is about the client: answers are made beforehand and sent as they are.
Like a node's pvedaemon, it works on three requests of one node at a time and lets the others wait.

    python -m benchmarks.pve_server --guests 200 --nodes 10 --delay 0.02

prints the port it listens on. GET /requests tells how many requests were answered.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import ipaddress
import ssl
import sys
import tempfile
from collections import deque
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.pve_world import World

_HEAD = (
    b"HTTP/1.1 %s\r\nCache-Control: max-age=0\r\nConnection: %s\r\nPragma: no-cache\r\nServer: pve-api-daemon/3.0\r\n"
    b"Content-Length: %d\r\nContent-Type: application/json;charset=UTF-8\r\n\r\n%s"
)


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole HTTP answer; errors end the connection, as they do at pveproxy."""
    return _HEAD % (status, b"Keep-Alive" if status.startswith(b"2") else b"close", len(body), body)


class Node:
    """The workers of one node: a few requests at a time, each for the same while."""

    def __init__(self, delay: float, workers: int) -> None:
        self._delay = delay
        self._free = workers
        self._waiting: deque[tuple[Connection, bytes]] = deque()

    def ask(self, connection: Connection, content: bytes) -> None:
        if self._free:
            self._free -= 1
            asyncio.get_running_loop().call_later(self._delay, self._done, connection, content)
        else:
            self._waiting.append((connection, content))

    def _done(self, connection: Connection, content: bytes) -> None:
        connection.reply(content)
        self._free += 1
        if self._waiting:
            self.ask(*self._waiting.popleft())


class Server:
    """Answers, workers and the count of requests."""

    def __init__(self, world: World, delay: float, workers: int) -> None:
        self.answers = {path.encode(): answer(body) for path, body in world.answers().items()}
        self.nodes = {name.encode(): Node(delay, workers) for name in world.nodes}
        self.proxy = Node(delay, workers)
        self.requests = 0

    def handle(self, connection: Connection, target: bytes, head: bytes) -> None:
        if target == b"/requests":
            connection.reply(answer(str(self.requests).encode()))
            return
        self.requests += 1
        path = target.partition(b"?")[0].removeprefix(b"/api2/json")
        if b"PVEAPIToken=" not in head:
            connection.reply(answer(b"", b"401 No ticket"))
            return
        content = self.answers.get(path) or answer(b'{"data":null}', b"501 Method 'GET' not implemented")
        words = path.split(b"/", 3)
        worker = self.nodes.get(words[2]) if len(words) > 3 and words[1] == b"nodes" else None
        (worker or self.proxy).ask(connection, content)


class Connection(asyncio.Protocol):
    """One client; requests have no bodies."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[:end], self._received[end + 4 :]
            self._server.handle(self, head.split(b" ", 2)[1], head)

    def reply(self, content: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(content)
            if b"Connection: close" in content[:200]:
                self._transport.close()


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for loopback with an RSA key, like the one a new Proxmox VE makes."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_file, file = directory / "key.pem", directory / "certificate.pem"
    key_file.touch(mode=0o600)
    plain = serialization.NoEncryption()
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return file, key_file


async def serve(server: Server, port: int) -> None:
    """Listen until the process is told to end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        context.load_cert_chain(*certificate(Path(directory)))
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", port, ssl=context, backlog=512)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guests", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds each request takes")
    parser.add_argument("--workers", type=int, default=3, help="requests of one node that are worked on at once")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = Server(World(options.guests, options.nodes), options.delay, options.workers)
    asyncio.run(serve(server, options.port))


if __name__ == "__main__":
    main()
