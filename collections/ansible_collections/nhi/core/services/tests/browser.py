# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A page in headless Chromium, by the DevTools protocol: what it shows, what went wrong in it, and a picture of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import shutil
import tempfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

_READY_SECONDS = 60.0


def chromium() -> str | None:
    """The browser; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class CommandError(Exception):
    """The browser could not do it, such as in a page that is just replaced by another."""


class Page:
    """The only tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.faults: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; what the page complained of meanwhile is in `faults`."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                told = await self._socket.receive_json()
                if told.get("method") == "Runtime.exceptionThrown":
                    self.faults.append(str(told["params"]["exceptionDetails"]))
                elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                    self.faults.append(told["params"]["entry"]["text"])
                elif told.get("id") == number:
                    if "error" in told:
                        raise CommandError(str(told["error"]))
                    return dict(told["result"])

    async def value(self, expression: str) -> Any:
        """What an expression is in the page; CommandError where it can not be said."""
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise CommandError(str(told["exceptionDetails"]))
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until it is so; AssertionError with what the page shows when it does not come to that."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while True:
                    with contextlib.suppress(CommandError):
                        if await self.value(expression):
                            return
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise AssertionError(f"{expression}: {await self.value('document.body.innerText')}") from error

    async def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """A window, or a phone's screen."""
        scale = 3 if phone else 1
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    async def picture(self) -> bytes:
        """A PNG of the whole page."""
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(told["data"])


@contextlib.asynccontextmanager
async def page() -> AsyncIterator[Page]:
    """A browser of its own; gone with its profile afterwards."""
    program = chromium()
    assert program is not None, "chromium is not installed"
    profile = Path(tempfile.mkdtemp(prefix="nhi-browser-"))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-proxy-server", "about:blank"]
    process = await asyncio.create_subprocess_exec(
        program, *options, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        port = await _port(profile / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                tabs = await answer.json()
            [url] = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
            async with session.ws_connect(url, max_msg_size=0) as socket:
                made = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await made.call(f"{domain}.enable")
                yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)


async def _port(path: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(_READY_SECONDS):
        while True:
            with contextlib.suppress(OSError, ValueError, IndexError):
                return int(path.read_text().splitlines()[0])  # noqa: ASYNC240 -- a small file of this machine
            assert process.returncode is None, "chromium has ended"
            await asyncio.sleep(0.05)


def rows_that_differ(png: bytes) -> int:
    """How many different rows of pixels a picture has: a page that shows nothing has a few."""
    width = int.from_bytes(png[16:20], "big")
    data, at = b"", 8
    while at < len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    # 8 bits for each of three colours, or four with transparency; one byte before each row.
    raw, depth = zlib.decompress(data), 4 if png[25] == 6 else 3
    line = width * depth + 1
    return len({raw[start : start + line] for start in range(0, len(raw), line)})
