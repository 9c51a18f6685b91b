"""HTTP as the real daemon speaks it: TLS and a redirect on one port, keep-alive dropped on errors."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, unquote
from weakref import WeakKeyDictionary

from aiohttp import web

from lab.server.dispatch import Answer, Dispatcher, Request
from lab.server.errors import PlainError
from lab.server.requestlog import RequestLog

LOG = logging.getLogger("lab.transport")
MAX_BODY = 512 * 1024
MAX_HEADERS = 64
MAX_REQUESTS = 1000  # per connection
COMPRESSED_FROM = 1024
PARSER = "/usr/share/perl5/PVE/APIServer/AnyEvent.pm"
TLS_HANDSHAKE = b"\x16"
PEEK_SECONDS = 10.0
FORMATTERS = {"json", "extjs"}
METHODS = {"GET", "POST", "PUT", "DELETE"}

ControlHandler = Callable[[web.BaseRequest], Awaitable[web.Response]]


class Server:
    """Listens, tells TLS from plain HTTP by the first byte, and hands requests to the dispatcher."""

    def __init__(
        self, dispatcher: Dispatcher, context: ssl.SSLContext, log: RequestLog, control: ControlHandler | None = None
    ) -> None:
        self._dispatcher = dispatcher
        self._context = context
        self._log = log
        self._control = control
        self._api = web.Server(self._serve, access_log=None, keepalive_timeout=60)
        self._redirect = web.Server(_redirect, access_log=None)
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._served: WeakKeyDictionary[asyncio.Transport | None, int] = WeakKeyDictionary()

    async def listen(self, host: str, port: int) -> int:
        """Begin to serve; answers the port (of interest when 0 was asked)."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from error
        self._socket.listen(512)
        self._socket.settimeout(0)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(self._socket), name="accept")
        return int(self._socket.getsockname()[1])

    async def close(self) -> None:
        if self._accepting and self._socket:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._socket.close()
        for task in self._connecting:
            task.cancel()
        await self._api.shutdown(1)
        await self._redirect.shutdown(1)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # too many open files: wait for some to close
                LOG.warning("accept: %s", error)
                await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection.settimeout(0)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(PEEK_SECONDS):
                first = await _peek(connection)
            if first == TLS_HANDSHAKE:
                await loop.connect_accepted_socket(self._api, connection, ssl=self._context)
            elif first:
                await loop.connect_accepted_socket(self._redirect, connection)
            else:
                connection.close()
        except (TimeoutError, OSError):  # ssl.SSLError is an OSError: a client that does not trust us
            connection.close()

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        started = time.monotonic()
        path = re.sub(r"/{2,}", "/", unquote(http.rel_url.raw_path)).rstrip("/") or "/"
        if path.startswith("/lab/") and self._control:
            return await self._control(http)
        try:
            request = self._understand(http, path)
        except PlainError as error:
            answer = Answer(error.status, error.reason, error.body, "text/plain;charset=UTF-8")
        else:
            answer = await self._dispatcher.answer(request)
        self._log.write(http.method, path, answer, time.monotonic() - started)
        response = _response(answer, http.headers.get("Accept-Encoding", ""))
        self._served[http.transport] = self._served.get(http.transport, 0) + 1
        if answer.status >= 400 or self._served[http.transport] >= MAX_REQUESTS:
            response.force_close()
        return response

    def _understand(self, http: web.BaseRequest, path: str) -> Request:
        if len(http.headers) > MAX_HEADERS:
            raise PlainError(500, f"too many http header lines (> {MAX_HEADERS})")
        if http.method not in METHODS:
            raise PlainError(501, f"method '{http.method}' not available", "")
        match = re.fullmatch(r"/api2/([^/]+)(/.*)?", path)
        if not match:
            raise PlainError(500, f"no such file '{path}'")
        if match[1] not in FORMATTERS:
            raise PlainError(501, f"no formatter for uri {match[2] or '/'}, {match[1]}")
        return Request(
            method=http.method,
            path=match[2] or "/",
            formatter=match[1],
            authorization=http.headers.get("Authorization", ""),
            cookie=http.cookies.get("PVEAuthCookie"),
            csrf=http.headers.get("CSRFPreventionToken"),
            query=_pairs(http.rel_url.raw_query_string),
            body=lambda: _read_body(http),
        )


async def _peek(connection: socket.socket) -> bytes:
    """The first byte, left in the socket."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            return connection.recv(1, socket.MSG_PEEK)
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)


def _pairs(text: str) -> dict[str, Any]:
    """Form fields; a key that is repeated becomes a list."""
    found: dict[str, Any] = {}
    for key, value in parse_qsl(text, keep_blank_values=True, encoding="utf-8"):
        if key in found:
            earlier = found[key] if isinstance(found[key], list) else [found[key]]
            found[key] = [*earlier, value]
        else:
            found[key] = value
    return found


async def _read_body(http: web.BaseRequest) -> dict[str, Any]:
    """The parameters in the body; refusals are plain text, as they come from before the API."""
    if http.headers.get("Transfer-Encoding"):
        raise PlainError(501, "chunked transfer encoding not supported")
    length = http.content_length or 0
    if not length:
        return {}
    if http.method in ("GET", "DELETE"):
        raise PlainError(501, f"Unexpected content for method '{http.method}'")
    if length > MAX_BODY:
        raise PlainError(501, "for data too large")
    text = (await http.read()).decode("utf-8", errors="replace")
    content_type = (
        http.headers.get("Content-Type", "application/x-www-form-urlencoded").partition(";")[0].strip().lower()
    )
    if content_type == "application/x-www-form-urlencoded":
        return _pairs(text)
    if content_type == "application/json":
        return _json_object(text)
    raise PlainError(506, f"upload 'Content-Type '{content_type}' not implemented")


def _json_object(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        where = 'at character offset 0 (before "' + text[:20].replace("\n", " ") + '...")'
        text = f"malformed JSON string, neither tag, array, object, number, string or atom, {where}"
        raise PlainError(500, f"{text} at {PARSER} line 917.") from None
    if not isinstance(document, dict):
        raise PlainError(500, f"Not a HASH reference at {PARSER} line 918.")
    return {key: value for key, value in document.items() if value is not None}


def _response(answer: Answer, accepted: str) -> web.Response:
    response = web.Response(status=answer.status, reason=answer.reason.encode("ascii", "replace").decode())
    if answer.content_type:
        body = answer.body.encode()
        packed = len(body) > COMPRESSED_FROM and "gzip" in accepted
        response.body = gzip.compress(body, 1) if packed else body
        if packed:
            response.headers["Content-Encoding"] = "gzip"
        response.headers["Content-Type"] = answer.content_type
    now = formatdate(usegmt=True)
    response.headers.update(
        {
            "Server": "pve-api-daemon/3.0",
            "Cache-Control": "max-age=0",
            "Pragma": "no-cache",
            "Date": now,
            "Expires": now,
        }
    )
    return response


async def _redirect(http: web.BaseRequest) -> web.Response:
    """Plain HTTP on the TLS port."""
    status = 301 if http.method in ("GET", "HEAD") else 308
    response = web.Response(status=status, headers={"Location": f"https://{http.host}{http.rel_url.raw_path_qs}"})
    response.force_close()
    return response
