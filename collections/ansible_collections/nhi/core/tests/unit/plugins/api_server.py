# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HTTPS server on loopback that answers as a test tells it to, byte by byte where it matters."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

JSON = "application/json;charset=UTF-8"


@dataclass(frozen=True)
class Request:
    """What arrived; connection tells requests of one kept-alive connection."""

    method: str
    path: str
    query: dict[str, list[str]]
    form: dict[str, list[str]]
    headers: dict[str, str]
    connection: int


@dataclass
class Reply:
    """What to send back; drop closes the connection without an answer, close after it."""

    data: Any = None
    status: int = 200
    reason: str = "OK"
    body: bytes | None = None
    content_type: str = JSON
    delay: float = 0.0
    drop: bool = False
    close: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def bytes(self) -> bytes:
        """The body as it travels."""
        return json.dumps({"data": self.data, **self.extra}).encode() if self.body is None else self.body


def refusal(status: int, message: str, errors: dict[str, str] | None = None) -> Reply:
    """An error as Proxmox VE 9 reports it."""
    extra: dict[str, Any] = {"message": f"{message}\n"} | ({"errors": errors} if errors else {})
    return Reply(status=status, reason=message, extra=extra, close=True)


class ApiServer(ThreadingHTTPServer):
    """Keeps every request; the answer comes from a function that the test may exchange."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._context = context
        self.certificate = certificate
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Reply] = lambda _request: Reply()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [request.path for request in self.requests]

    def finish_request(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of many tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiServer

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        parts = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=parts.path.removeprefix("/api2/json"),
            query=parse_qs(parts.query),
            form=parse_qs(self.rfile.read(length).decode()),
            headers=dict(self.headers),
            connection=int(self.client_address[1]),
        )
        self.server.requests.append(request)
        reply = self.server.answer(request)
        time.sleep(reply.delay)
        self.close_connection = reply.close or reply.drop
        if reply.drop:
            return
        body = reply.bytes()
        self.send_response(reply.status, reply.reason)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(body)))
        if reply.close:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for loopback, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
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
    certificate, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, key_file


@contextlib.contextmanager
def api_server() -> Iterator[ApiServer]:
    """A server for the length of a with block."""
    with tempfile.TemporaryDirectory() as directory:
        server = ApiServer(*make_certificate(Path(directory)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
