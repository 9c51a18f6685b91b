# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page /ui in a real browser: what it shows on a desk and on a phone, that it lives, that nothing in it is markup.

The pictures stay in the folder log/ui of the cache.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from .browser import Page, chromium, page, rows_that_differ
from .mock_provider import status
from .router_world import KEY, World, digest, play
from .valkey_server import ValkeyServer

pytestmark = [
    pytest.mark.slow, pytest.mark.skipif(chromium() is None, reason="needs chromium: apt install chromium")
]  # fmt: skip
PICTURES = Path(os.environ.get("NHI_CACHE", tempfile.gettempdir())) / "log/ui"
LAST_ROW = "document.querySelector('#last tbody tr').innerText"


def keep(png: bytes, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / f"{name}.png").write_bytes(png)


async def looks_right(there: Page, name: str) -> None:
    """Nothing sticks out, nothing lies on something else, and there is something to see."""
    assert await there.value("document.scrollingElement.scrollWidth <= window.innerWidth"), f"{name} scrolls sideways"
    overlapping = """(() => {
        const boxes = [...document.querySelectorAll('header, .card, .wrap, h2')].map(e => e.getBoundingClientRect());
        const over = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
        return boxes.filter((a, at) => !a.width || !a.height || boxes.slice(at + 1).some(b => over(a, b))).length;
    })()"""  # noqa: E501 -- JavaScript
    assert await there.value(overlapping) == 0
    png = await there.picture()
    keep(png, name)
    assert rows_that_differ(png) > 100


def test_it_shows_how_things_stand_and_lives(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].faults.append(status(429, Retry_After="600"))
        assert (await world.chat())[2]["X-NHI-Degraded"]
        async with page() as there:
            await there.resize(1280, 900)
            await there.call("Page.navigate", url=f"{world.url}/ui#key={KEY}")
            await there.until("document.querySelectorAll('.card').length === 2")
            assert KEY not in await there.value("location.href"), "the key is taken out of the address"
            # What a refused request had reserved was given back.
            for words in (
                "good-model",
                "980 of 1,000 left",
                "0 used, 20 set aside",
                "1 used, 20 set aside",
                "Redis ok",
            ):
                await there.until(f"document.body.innerText.includes({words!r})")
            row = await there.value(LAST_ROW)
            assert "fair-model" in row
            assert "good-model: " in row, "why it was another"
            assert "aider" in row
            await looks_right(there, "desk")
            # It lives: another request is seen without a reload.
            await there.value("window.sameDocument = true")
            for _number in range(3):
                assert (await world.chat())[0] == 200
            await there.until("document.querySelectorAll('#last tbody tr').length === 4")
            assert await there.value("window.sameDocument")
            await there.resize(390, 844, phone=True)
            await looks_right(there, "phone")
            # It says when the router is gone, and keeps what it knew.
            await world.router.stop()
            await there.until("!document.getElementById('lost').hidden")
            assert "good-model" in await there.value("document.body.innerText")
            assert [fault for fault in there.faults if "Failed to load" not in fault and "ERR_" not in fault] == []

    play(server, work)


def test_nothing_that_it_shows_is_markup_and_a_wrong_key_is_asked_for_again(server: ValkeyServer) -> None:
    agents = [{"name": "aider", "key_sha256": digest(KEY), "task": "code"}]

    async def work(world: World) -> None:
        world.providers["good"].always = status(500, {"error": {"message": "<img src=x onerror=alert(1)>"}})
        await world.chat(headers={"X-NHI-Task": "code"}, user="<script>window.broken = true</script>")
        await world.chat(model="<img src=x onerror='window.broken = true'>")
        async with page() as there:
            await there.resize(390, 844, phone=True)
            await there.call("Page.navigate", url=f"{world.url}/ui#key=wrong")
            await there.until("!document.getElementById('ask').hidden")
            assert await there.value("document.getElementById('page').hidden")
            await there.value(f"document.getElementById('key').value = {KEY!r}")
            await there.value("document.querySelector('#ask button').click()")
            await there.until("document.querySelectorAll('.card').length === 2")
            assert await there.value("document.querySelectorAll('#page img, #page script').length") == 0
            assert not await there.value("window.broken")

    play(server, work, agents=agents)
