# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router as a client of providers: one pool of connections, time limits by stage, faults by what they mean."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import aiohttp
from aiohttp.connector import Connection
from ansible_collections.nhi.core.plugins.module_utils.provider_limits import Heard, heard_in_headers
from multidict import CIMultiDict
from yarl import URL

from nhi_services.router.asks import MESSAGES
from nhi_services.router.config import ProviderConfig, read_secret_file
from nhi_services.router.fast_json import dumps

_ANTHROPIC_VERSION: Final = "2023-06-01"
_AGENT: Final = "nhi-router"
_MOST_BYTES: Final = 64 * 1024 * 1024
_LOOK_SECONDS: Final = 0.1
# What of the client's headers a provider of the Anthropic form has to know.
_FORWARDED: Final = ("anthropic-beta", "anthropic-version")


class UpstreamError(Exception):
    """A provider could not be asked, or gave no answer that can be used.

    ``sent``: it may have counted the request. ``what`` is a short reason without any content.
    """

    def __init__(self, what: str, *, sent: bool) -> None:
        super().__init__(what)
        self.what = what
        self.sent = sent


@dataclass
class Provider:
    """A provider with what has to be read from disk for it."""

    name: str
    config: ProviderConfig
    headers: CIMultiDict[str]
    native_headers: CIMultiDict[str]
    tls: ssl.SSLContext | bool
    timeout: aiohttp.ClientTimeout

    @classmethod
    def load(cls, name: str, config: ProviderConfig) -> Provider:
        """Read its key; ConfigError when that can not be read."""
        key = read_secret_file(config.api_key_file) if config.api_key_file else ""
        common = {
            "Content-Type": "application/json", "Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": _AGENT,
        }  # fmt: skip
        bearer = {"Authorization": f"Bearer {key}"} if key else {}
        native = {"anthropic-version": _ANTHROPIC_VERSION, **({"x-api-key": key} if key else {})}
        limits = config.timeouts
        tls: ssl.SSLContext | bool = True
        if config.ca_file:
            tls = ssl.create_default_context(cafile=str(config.ca_file))
        timeout = aiohttp.ClientTimeout(total=None, connect=limits.connect, sock_connect=limits.connect)
        headers, native_headers = CIMultiDict({**common, **bearer}), CIMultiDict({**common, **native})
        return cls(name, config, headers, native_headers, tls, timeout)


@dataclass
class Answer:
    """The head of an answer; read the body in any case, or release it."""

    response: aiohttp.ClientResponse
    sent_at: float
    headers_at: float

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.response.status

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of events."""
        return self.response.content_type == "text/event-stream"

    async def read(self, seconds: float) -> bytes:
        """The whole body; UpstreamError when it does not come, or has no end."""
        try:
            if self.response.content.is_eof():
                return self.response.content.read_nowait()
            async with asyncio.timeout(seconds):
                return await _bounded(self.response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.response.close()
            raise UpstreamError(f"its answer broke off: {_words(error)}", sent=True) from error

    def close(self) -> None:
        """Hang up: the provider should not go on."""
        self.response.close()


class _Heads:
    """Hangs up where no answer begins in time: a look at all of them now and then costs less than a timer for each."""

    def __init__(self) -> None:
        self._until: dict[Connection, float] = {}
        self._looking = False

    def expect(self, connection: Connection, seconds: float) -> None:
        """An answer has to begin within so many seconds."""
        self._until[connection] = time.monotonic() + seconds
        if not self._looking:
            self._look()

    def came(self, connection: Connection) -> bool:
        """It began, or nobody waits for it any more; False where it was too late."""
        return self._until.pop(connection, None) is not None

    def _look(self) -> None:
        now = time.monotonic()
        for connection in [one for one, until in self._until.items() if until <= now]:
            del self._until[connection]
            connection.close()
        self._looking = bool(self._until)
        if self._looking:
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)


class Upstream:
    """Sends requests to providers.

    By the parts of aiohttp that its ClientSession is made of: there are no cookies, redirects, proxies or traces here,
    and looking whether there are, with a timer for each request, takes a quarter of the session's time.
    """

    faults: Final = (aiohttp.ClientError,)

    @staticmethod
    def heard(answer: Answer, now_ms: int, requests_per: str) -> Heard | None:
        """What a good answer said of limits; None where it said nothing, which is found out at once."""
        headers = answer.response.headers
        if "x-ratelimit-limit-requests" in headers or "anthropic-ratelimit-requests-limit" in headers:
            return heard_in_headers(headers, now_ms, requests_per)
        return None

    def __init__(self) -> None:
        self._connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30)
        self._heads = _Heads()

    async def close(self) -> None:
        """Close all connections."""
        await self._connector.close()

    async def send(
        self, provider: Provider, form: str, path: str, body: Mapping[str, Any], client_headers: Mapping[str, str]
    ) -> Answer:
        """Send a request and wait for the head of the answer; UpstreamError when there is none."""
        headers = provider.headers
        if form == MESSAGES:
            headers = CIMultiDict(provider.native_headers)
            headers.update({name: client_headers[name] for name in _FORWARDED if name in client_headers})
        sent_at = time.monotonic()
        try:
            request = aiohttp.ClientRequest(
                "POST", _url(provider.config.base_url + path), headers=headers,
                data=aiohttp.BytesPayload(dumps(body)), loop=asyncio.get_running_loop(), ssl=provider.tls,
            )  # fmt: skip
            connection = await self._connector.connect(request, traces=[], timeout=provider.timeout)
        except TimeoutError as error:
            raise UpstreamError("it did not answer in time", sent=False) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamError(_words(error), sent=False) from error
        try:
            response = await self._exchange(request, connection, provider)
        except TimeoutError as error:
            raise UpstreamError("it did not answer in time", sent=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamError(_words(error), sent=True) from error
        return Answer(response, sent_at, time.monotonic())

    async def _exchange(
        self, request: aiohttp.ClientRequest, connection: Connection, provider: Provider
    ) -> aiohttp.ClientResponse:
        """Send a request and read the head of its answer."""
        if connection.protocol is None:
            raise aiohttp.ServerDisconnectedError
        limits = provider.config.timeouts
        self._heads.expect(connection, limits.first_byte)
        try:
            connection.protocol.set_response_params(read_until_eof=True, read_timeout=limits.idle)
            response = await request.send(connection)
            try:
                await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException as error:
            connection.close()
            if not self._heads.came(connection) and isinstance(error, aiohttp.ClientError):
                raise TimeoutError from error
            raise
        self._heads.came(connection)
        return response


@lru_cache(maxsize=256)
def _url(text: str) -> URL:
    return URL(text)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length
    if length is not None and length <= _MOST_BYTES:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > _MOST_BYTES:
            response.close()
            raise UpstreamError("its answer has no end", sent=True)
        parts.append(part)
    return b"".join(parts)


def _words(error: BaseException) -> str:
    """What happened, without addresses or content, which may hold more than a client should see."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name can not be resolved"
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return "its TLS certificate or handshake failed"
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "it can not be reached"
    if isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError)):
        return "it closed the connection"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "its answer is not complete"
    return f"it does not speak HTTP as it should ({type(error).__name__})"
