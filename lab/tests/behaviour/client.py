"""A small HTTP client that hides nothing: status line, headers, body and the fate of the connection."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
BASE = "/api2/json"


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int
    reason: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    seconds: float

    @property
    def line(self) -> str:
        return f"{self.status} {self.reason}"

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.body)
        assert isinstance(document, dict), document
        return document

    @property
    def data(self) -> Any:
        assert self.status == 200, (self.line, self.text)
        return self.json["data"]

    @property
    def errors(self) -> dict[str, str]:
        assert self.line == "400 Parameter verification failed.", (self.line, self.text)
        errors: dict[str, str] = self.json["errors"]
        return errors


class Wire:
    """One connection, TLS unless said otherwise, for one request after the other."""

    def __init__(self, port: int, *, tls: bool = True, timeout: float = 45) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.is_kept = True  # as far as the answers tell
        self._socket = _unverified().wrap_socket(plain) if tls else plain

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, request: bytes) -> Answer:
        """Write the bytes as they are, read one answer."""
        start = time.monotonic()
        self._socket.sendall(request)
        answer = http.client.HTTPResponse(self._socket, method=request.split(b" ", 1)[0].decode())
        answer.begin()
        self.is_kept = not answer.will_close
        body = answer.read()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, answer.reason, headers, body, time.monotonic() - start)

    def is_closed(self, seconds: float = 1) -> bool:
        """Whether the other end hangs up within that time."""
        before = self._socket.gettimeout()
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1) == b""
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(before)


@cache
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Kept(threading.local):
    """The idle connections of a thread, by port."""

    def __init__(self) -> None:
        self.wires: dict[int, Wire] = {}


_kept = _Kept()


def _exchange(port: int, request: bytes) -> Answer:
    """Over the kept connection if there is one and the other end has not left it meanwhile."""
    wire = _kept.wires.pop(port, None)
    if wire is not None and wire.is_closed(0):
        wire.close()
        wire = None
    wire = wire or Wire(port)
    try:
        answer = wire.send(request)
    except BaseException:
        wire.close()
        raise
    if wire.is_kept:
        _kept.wires[port] = wire
    else:
        wire.close()
    return answer


def encode(params: Mapping[str, Any]) -> str:
    """Form or query string; a list becomes a repeated key."""
    return urllib.parse.urlencode(params, doseq=True)


@dataclass(frozen=True)
class Api:
    """The API as one caller sees it: `headers` say who it is."""

    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    base: str = BASE

    def signed(self, **headers: str) -> Api:
        """The same API with these headers instead: `Cookie="..."`."""
        return replace(self, headers=headers)

    def request(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> bytes:
        """The bytes of a request; underscores in header names become dashes."""
        named = {"Host": f"127.0.0.1:{self.port}", **self.headers}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        if body and "Content-Length" not in named and "Transfer-Encoding" not in named:
            named["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def send(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> Answer:
        """One request; `target` is the whole path of the URL. Connections are kept while the answers allow it."""
        return _exchange(self.port, self.request(method, target, body, **headers))

    def get(self, path: str, /, **params: Any) -> Answer:
        return self._with_query("GET", path, params)

    def delete(self, path: str, /, **params: Any) -> Answer:
        return self._with_query("DELETE", path, params)

    def post(self, path: str, /, **params: Any) -> Answer:
        return self._with_form("POST", path, params)

    def put(self, path: str, /, **params: Any) -> Answer:
        return self._with_form("PUT", path, params)

    def call(self, method: str, path: str, params: Mapping[str, Any]) -> Answer:
        """Parameters where this method takes them: query for GET and DELETE, body for the others."""
        as_query = method in ("GET", "DELETE")
        return (self._with_query if as_query else self._with_form)(method, path, params)

    def _with_query(self, method: str, path: str, params: Mapping[str, Any]) -> Answer:
        return self.send(method, f"{self.base}{path}" + (f"?{encode(params)}" if params else ""))

    def _with_form(self, method: str, path: str, params: Mapping[str, Any]) -> Answer:
        body = encode(params).encode()
        return self.send(method, self.base + path, body, Content_Type=FORM, Content_Length=str(len(body)))


def expect(answer: Answer, line: str) -> None:
    """An error of a handled call: its text is the reason phrase and, with a line feed, the message."""
    assert answer.line == line, (answer.line, answer.text)
    assert answer.json.get("data", "absent") is None
    assert answer.json["message"] == line.split(" ", 1)[1] + "\n"
    assert answer.headers["content-type"] == "application/json;charset=UTF-8"
