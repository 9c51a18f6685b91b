# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When every model is busy: the choice is the client's, and what was deferred is done, whoever is restarted."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from pathlib import Path
from typing import Any

import pytest
from nhi_services.router.choices import next_morning
from nhi_services.router.config import RouterConfig
from nhi_services.router.main import Router

from .mock_provider import status
from .router_database import PASSWORD, RouterDatabase
from .router_world import World, digest, play
from .valkey_server import ValkeyServer, valkey

pytestmark = pytest.mark.slow

DEFERRED = {"X_NHI_Mode": "deferred"}
NONE = {"limits": {"requests_per_day": 0}}
OTHER = {"Authorization": "Bearer key-of-oi"}


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    with valkey() as running:
        yield running


@pytest.fixture
def books(made: RouterDatabase, tmp_path: Path) -> dict[str, Any]:
    database = made.emptied()
    (tmp_path / "password").write_text(PASSWORD)
    return {
        "postgresql": {"dsn": database.router.conninfo, "password_file": str(tmp_path / "password")},
        "agents": [
            {"name": "aider", "key_sha256": digest("key-of-aider"), "task": "code"},
            {"name": "oi", "key_sha256": digest("key-of-oi"), "task": "code"},
        ],
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for tasks often, and again soon where there was no room."""
    monkeypatch.setattr("nhi_services.router.deferred_run.POLL_SECONDS", 0.1)
    monkeypatch.setattr("nhi_services.router.deferred_run.SOONEST_SECONDS", 0.2)


async def get(world: World, url: str, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, Any]:
    async with world.session.request(method, world.url + url, headers=headers or world.headers) as answer:
        return answer.status, await answer.json()


async def ended(world: World, url: str, seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        code, told = await get(world, url)
        if code == 200 and told["finished_at"]:
            return told
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.1)


def test_a_deferred_request_is_done_and_its_answer_is_for_its_agent(server: ValkeyServer, books: Any) -> None:
    async def work(world: World) -> None:
        code, told, headers = await world.chat(stream=True, seed=7, headers=DEFERRED)
        assert (code, told["status"], headers["Location"]) == (202, "pending", told["url"])
        done = await ended(world, told["url"])
        assert (done["status"], done["result"]["choices"][0]["message"]["content"]) == ("done", "Hello!")
        assert done["headers"]["X-NHI-Model"] == "good-model"
        [(_path, sent, _headers)] = world.providers["good"].seen
        assert (sent["seed"], sent.get("stream")) == (7, None)
        assert (await get(world, told["url"], headers=OTHER))[0] == 404
        assert (await get(world, told["url"], "DELETE", OTHER))[0] == 404
        assert (await get(world, "/v1/nhi/deferred/nonsense"))[0] == 404
        assert (await get(world, told["url"], "DELETE"))[0] == 409, "it has ended"
        _code, mine = await get(world, "/v1/nhi/deferred")
        assert [(one["id"], "result" in one) for one in mine["data"]] == [(told["id"], False)]
        assert (await get(world, "/v1/nhi/deferred", headers=OTHER))[1]["data"] == []

    play(server, work, **books)


def test_what_is_cancelled_is_not_done(server: ValkeyServer, books: Any) -> None:
    async def work(world: World) -> None:
        later = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
        kept = [await world.chat(headers={**DEFERRED, "X_NHI_Not_Before": later}) for _one in range(2)]
        one, two = (told["url"] for _code, told, _headers in kept)
        assert kept[0][1]["due_at"] == later
        code, told = await get(world, one, "DELETE")
        assert (code, told["status"]) == (200, "cancelled")
        assert (await get(world, one, "DELETE"))[0] == 200, "once more does no harm"
        assert world.providers["good"].seen == [], "not before its time"
        await ended(world, two)
        assert len(world.providers["good"].seen) == 1
        code, told, _headers = await world.chat(headers={**DEFERRED, "X_NHI_Not_Before": "tomorrow"})
        assert (code, told["error"]["code"]) == (400, "invalid_value")

    play(server, work, **books)


def test_several_are_done_side_by_side(server: ValkeyServer, books: Any) -> None:
    async def work(world: World) -> None:
        both = asyncio.Barrier(2)

        async def together(_request: Any, _body: Any) -> None:
            async with asyncio.timeout(10):
                await both.wait()

        world.providers["good"].faults.extend([together, together])
        told = [(await world.chat(seed=number, headers=DEFERRED))[1] for number in range(2)]
        assert [(await ended(world, one["url"]))["status"] for one in told] == ["done", "done"]
        assert len(world.providers["good"].seen) == 2, "neither was asked for twice"

    play(server, work, **books, providers={"good": {"timeouts": {"first_byte": 20, "idle": 20, "total": 20}}})


def test_a_busy_task_is_deferred_and_done_when_there_is_quota_again(server: ValkeyServer, books: Any) -> None:
    async def work(world: World) -> None:
        for provider in world.providers.values():
            provider.faults.append(status(429, None, Retry_After="2"))
        code, told, _headers = await world.chat()
        assert code == 202
        await asyncio.sleep(1)
        code, waiting = await get(world, told["url"])
        assert (waiting["status"], waiting["attempts"]) in (("pending", 0), ("running", 1)), "waiting is no attempt"
        done = await ended(world, told["url"])
        assert done["status"] == "done"

    play(server, work, tasks={"code": {"when_busy": "deferred"}}, **books)


def test_what_a_provider_refuses_has_failed_with_its_words(server: ValkeyServer, books: Any) -> None:
    async def work(world: World) -> None:
        world.providers["good"].always = status(400, {"error": {"message": "temperature is wrong"}})
        _code, told, _headers = await world.chat(headers=DEFERRED)
        done = await ended(world, told["url"])
        assert (done["status"], done["result"]) == ("failed", None)
        assert done["error"] == "good-model refuses the request (HTTP 400): temperature is wrong"
        code, told, _headers = await world.chat(messages=[{"role": "user", "content": "x" * 99_999}], headers=DEFERRED)
        assert (code, told["error"]["code"]) == (400, "context_length_exceeded"), "refused before it is kept"

    play(server, work, **books)


def test_whoever_is_named_is_told_of_the_end(server: ValkeyServer, books: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    hook = [sys.executable, "-c", f"import sys; open({str(notes)!r}, 'a').write(sys.stdin.read() + chr(10))"]

    async def work(world: World) -> None:
        await ended(world, (await world.chat(headers=DEFERRED))[1]["url"])
        config = world.router.live.setup.config.model_dump(mode="json")
        named = {"deferred": {"notify": {"command": hook}}}
        world.router.take(RouterConfig.model_validate({**config, **named}))
        told = (await world.chat(headers=DEFERRED))[1]
        await ended(world, told["url"])
        for _once in range(100):
            if notes.exists() and notes.read_text().endswith("\n"):
                break
            await asyncio.sleep(0.1)
        [note] = [json.loads(line) for line in notes.read_text().splitlines()]
        assert (note["id"], note["status"], note["agent"]) == (told["id"], "done", "aider")

    play(server, work, **books)


def test_without_a_database_the_client_is_told_what_to_do(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        code, told, _headers = await world.chat(headers=DEFERRED)
        assert (code, told["error"]["code"]) == (503, "deferred_unavailable")
        assert "postgresql" in told["error"]["message"]
        assert (await get(world, "/v1/nhi/deferred"))[0] == 503

    play(server, work)


def test_nothing_is_lost_by_restarts(server: ValkeyServer, books: Any, made: RouterDatabase) -> None:
    """Router, Redis and PostgreSQL go one after the other while tasks wait and one is being done."""

    async def work(world: World) -> None:
        world.providers["good"].delay = 0.5
        urls = [(await world.chat(seed=n, headers=DEFERRED))[1]["url"] for n in range(6)]
        await asyncio.sleep(0.3)
        config = world.router.live.setup.config
        await world.router.stop()
        server.kill()
        server.start()
        world.router = Router(config)
        await world.router.start()
        await asyncio.sleep(0.3)
        made.server.stop(signal.SIGKILL)
        code, told, headers = await world.chat(headers=DEFERRED)
        assert (code, told["error"]["code"], headers["Retry-After"]) == (503, "database_lost", "10"), (
            "nothing is promised"
        )
        assert (await world.chat())[0] == 200, "what needs no database goes on"
        made.server.start()
        done = [await ended(world, url, 30) for url in urls]
        assert [one["status"] for one in done] == ["done"] * 6
        await world.router.stop()
        world.router = Router(config)
        await world.router.start()
        assert (await ended(world, urls[0]))["result"]["choices"]

    # A lease that was held when PostgreSQL was killed has to end before its task is done again.
    play(server, work, **books, deferred={"lease_seconds": 5})


def test_the_choice_comes_with_what_to_send(server: ValkeyServer, books: Any) -> None:
    local = {"base_url": "http://127.0.0.1:9/v1", "kind": "local", "semaphore": False, "models": {
        "small": {"upstream": "s", "quality": 4, "context": 8000, "max_output": 1000, "capabilities": ["chat"]},
    }}  # fmt: skip

    async def work(world: World) -> None:
        code, told, headers = await world.chat()
        assert (code, told["error"]["code"]) == (409, "choice_needed")
        wait, smaller, postpone = told["error"]["options"]
        assert (wait["option"], smaller["option"], postpone["option"]) == ("wait", "smaller_model", "postpone")
        assert wait["eta_seconds"] == int(headers["Retry-After"])
        assert smaller["model"] == "small"
        assert smaller["send"]["body"] == {"model": "small"}
        until = datetime.fromisoformat(postpone["until"])
        assert (until.hour, until.minute, until > datetime.now(UTC)) == (6, 30, True)
        assert all(one["description"] in told["error"]["message"] for one in (wait, smaller, postpone))
        sent = {name.replace("-", "_"): value for name, value in postpone["send"]["headers"].items()}
        code, kept, _headers = await world.chat(headers=sent)
        assert (code, kept["due_at"]) == (202, until.astimezone(UTC).isoformat())
        code, told, _headers = await world.chat(stream=True, headers={"X_NHI_Mode": "choice"})
        assert code == 409, "a stream that has not begun"

    routing = {"postpone_to": "06:30:00", "postpone_zone": "Europe/Rome"}
    providers = {"good": NONE, "fair": NONE, "local": local}
    play(server, work, providers=providers, tasks={"code": {"when_busy": "choice"}}, routing=routing, **books)


def test_morning_is_the_next_one_by_the_clocks_of_the_zone() -> None:
    at = clock(8)
    before_change = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert next_morning(before_change, at, "Europe/Rome").isoformat() == "2026-10-25T08:00:00+01:00"
    assert next_morning(datetime(2026, 1, 1, 7, 59, tzinfo=UTC), at, "UTC") == datetime(2026, 1, 1, 8, tzinfo=UTC)
    assert next_morning(datetime(2026, 1, 1, 8, tzinfo=UTC), at, "UTC") == datetime(2026, 1, 2, 8, tzinfo=UTC)
