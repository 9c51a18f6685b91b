# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input, bad clients, bad providers, bad moments: each has an answer, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from ansible_collections.nhi.core.plugins.module_utils.redis_keys import spend_book_key
from nhi_services.router import app, tasks
from nhi_services.router.quota_store import wall_ms
from nhi_services.router.refresh import Refresher

from .mock_provider import MockProvider, hang
from .ports import free_port
from .router_process import RouterProcess
from .router_world import CHAT, KEY, World, configuration, digest, merge, play, until
from .valkey_server import ValkeyServer, valkey


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    with valkey() as running:
        yield running


async def settled(world: World) -> None:
    """Nothing is under way any more."""
    await until(lambda: not world.router.live.in_flight)
    assert not any(world.router.live.setup.picture.provider_in_flight.values())
    assert len(world.router.live.room) == 0


async def raw_request(world: World, head: str, body: bytes = b"", encoding: str = "latin-1") -> tuple[int, str]:
    """What comes back for bytes that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rsplit(":", 1)[1]))
    writer.write(head.replace("\n", "\r\n").encode(encoding) + b"\r\n" + body)
    async with asyncio.timeout(20):
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    writer.close()
    return int(answer.split()[1]), answer


def test_bad_bodies_are_told_what_is_wrong(server: ValkeyServer) -> None:
    bad: list[tuple[bytes, str]] = [
        (b"", "invalid_json"), (b"{", "invalid_json"), (b"[]", "invalid_json"), (b"nul", "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"), (b"[" * 100_000, "invalid_json"), (b'{"model": 1}', "invalid_value"),
        (b'{"model": "nhi/code"}', "invalid_value"), (b'{"model": "nhi/code", "messages": {}}', "invalid_value"),
        (b'{"model": "nhi/code", "messages": [1]}', "invalid_value"),
        (b'{"model": "nhi/code", "messages": [{"role": 1}]}', "invalid_value"),
        (b'{"stream": "yes", "messages": [{"role": "user"}]}', "invalid_value"),
        (b'{"max_tokens": -1, "messages": [{"role": "user"}]}', "invalid_value"),
        (b'{"max_tokens": 1e999, "messages": [{"role": "user"}]}', "invalid_value"),
        (b'{"model": "nhi/nothing", "messages": [{"role": "user"}]}', "unknown_task"),
        (b'{"model": "gpt-99", "messages": [{"role": "user"}]}', "model_not_found"),
    ]  # fmt: skip

    async def work(world: World) -> None:
        headers = {**world.headers, "Content-Type": "application/json"}
        for body, code in bad:
            async with world.session.post(world.url + "/v1/chat/completions", data=body, headers=headers) as answer:
                told = await answer.json()
                assert (answer.status // 100, told["error"]["code"]) == (4, code), body[:80]
        text = {**world.headers, "Content-Type": "text/plain"}
        async with world.session.post(world.url + "/v1/chat/completions", data=b"x=1", headers=text) as answer:
            assert answer.status == 415, await answer.text()
        large = json.dumps({"messages": [{"role": "user", "content": "x" * 1_100_000}]}).encode()
        for sent in (large, _in_parts(large)):
            async with world.session.post(world.url + "/v1/chat/completions", data=sent, headers=headers) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (413, "request_too_large")
        assert [provider.seen for provider in world.providers.values()] == [[], []]
        assert (await world.chat())[0] == 200
        await settled(world)

    play(server, work, listen={"max_body_mib": 1})


async def _in_parts(body: bytes) -> Any:
    for at in range(0, len(body), 65_536):
        yield body[at : at + 65_536]


def test_keys_are_needed_everywhere_but_for_health(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic abc"}, {"x-api-key": ""}):
            world.headers = headers
            assert (await world.chat())[0] == 401
            for path in ("/v1/models", "/v1/nhi/status", "/v1/nhi/route", "/v1/nhi/deferred"):
                async with world.session.get(world.url + path, headers=headers) as answer:
                    assert answer.status == 401, path
        head = "POST /v1/chat/completions HTTP/1.1\nHost: x\nAuthorization: Bearer \xff\xfe\nContent-Length: 0\n"
        assert (await raw_request(world, head))[0] == 401
        for path in ("/healthz", "/readyz", "/metrics"):
            async with world.session.get(world.url + path) as answer:
                assert answer.status == 200

    play(server, work)


def test_nothing_in_a_request_becomes_a_header(server: ValkeyServer) -> None:
    evil = "nhi/code\r\nX-Evil: 1"
    body = json.dumps({"model": "nhi/code", **CHAT}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\nHost: x\nAuthorization: Bearer key-of-aider\n"
    head += f"Content-Length: {len(body)}\nContent-Type: application/json\n"

    async def work(world: World) -> None:
        _code, told, headers = await world.chat(evil)
        assert told["error"]["code"] in ("model_not_found", "unknown_task")
        assert "X-Evil" not in headers
        for more in ("Task: code\n X-Evil: 1", "Task: c\xf6de", "Mode: \x01", "Task: a\rX-Evil: 1"):
            code, answer = await raw_request(world, f"{head}X-NHI-{more}\n", body)
            assert code == 400, (more, answer)
            assert "\r\nx-evil" not in answer.lower()
        code, answer = await raw_request(world, head + "anthropic-beta: \xff\n", body)
        assert code == 200, answer
        # What a provider says is no better: its words are for logs and headers only as one line.
        world.providers["good"].always = _evil
        code, _body, headers = await world.chat()
        assert (code, headers["X-NHI-Model"]) == (200, "fair-model")
        assert "X-Evil" not in headers

    play(server, work)


async def _evil(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "a\r\nX-Evil: 1", "type": "b\r\nX-Evil: 1"}}, status=500)


def test_slow_clients_are_hung_up_on(server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_FIRST_REQUEST_SECONDS", 0.4)
    monkeypatch.setattr(app, "_BODY_SECONDS", 0.4)

    async def work(world: World) -> None:
        port = int(world.url.rsplit(":", 1)[1])
        began = time.monotonic()
        slow = [await asyncio.open_connection("127.0.0.1", port) for _one in range(50)]
        for _reader, writer in slow:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: ")
        assert (await world.chat())[0] == 200, "others are served meanwhile"
        for reader, writer in slow:
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(10):
                    await reader.read()
            writer.close()
        assert time.monotonic() - began < 10, "much earlier than the limits that are shipped"
        head = "POST /v1/chat/completions HTTP/1.1\nHost: x\nAuthorization: Bearer key-of-aider\nContent-Length: 100\n"
        code, _answer = await raw_request(world, head + "Content-Type: application/json\n", b"{")
        assert code == 408
        await settled(world)

    play(server, work)


def test_a_provider_without_a_name_or_with_a_wrong_certificate_was_never_asked(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(MockProvider().whole(_request, {"model": "x"}))

    async def work(world: World) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        site = web.Application()
        site.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(site)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        try:
            _code, told, _headers = await world.chat()
            assert "good-model: its name can not be resolved" in told["error"]["message"]
            assert "fair-model: its TLS certificate or handshake failed" in told["error"]["message"]
            assert [await world.used(name) for name in ("good", "fair")] == [0, 0]
            world.router.take(world.router.live.setup.config.model_copy(update={"providers": {
                name: provider.model_copy(update={"ca_file": certificate})
                for name, provider in world.router.live.setup.config.providers.items()
            }}))  # fmt: skip
            assert (await world.chat())[2]["X-NHI-Model"] == "fair-model", "whose certificate is trusted now"
        finally:
            await runner.cleanup()

    nowhere = {"good": {"base_url": "http://nowhere.invalid/v1"}, "fair": {"base_url": f"https://127.0.0.1:{port}/v1"}}
    play(server, work, providers=nowhere)


@pytest.mark.parametrize("hours", [-50, -1, 1, 50])
def test_a_clock_that_jumps_changes_no_count(server: ValkeyServer, hours: int) -> None:
    async def work(world: World) -> None:
        before = await world.used("good")
        assert (await world.chat())[0] == 200
        world.router.live.store._now = lambda: wall_ms() + hours * 3_600_000
        for _one in range(3):
            assert (await world.chat())[0] == 200
        assert await world.used("good") == before + 4

    play(server, work)


def test_a_reload_with_a_mistake_changes_nothing_and_a_good_one_only_what_comes(
    server: ValkeyServer, tmp_path: Path
) -> None:
    path = tmp_path / "router.yml"

    async def work(world: World) -> None:
        world.router._path = path
        good = configuration(server, world.providers)
        for provider in world.providers.values():
            provider.delay = 1.0
        async with world.session.post(
            world.url + "/v1/chat/completions",
            json={"model": "nhi/code", **CHAT, "stream": True},
            headers=world.headers,
        ) as stream:
            await stream.content.readany()
            unknown, missing = merge(good, {"tasks": {"code": {"chain": ["nothing"]}}}), tmp_path / "missing"
            keyless = merge(good, {"providers": {"good": {"api_key_file": str(missing)}}})
            for bad in ("{", "[]", *map(yaml.safe_dump, ({**good, "unknown": 1}, unknown, keyless))):
                before = world.router.live.setup
                path.write_text(bad)
                world.router.reload()
                assert world.router.live.setup is before, bad
            path.unlink()
            world.router.reload()
            assert (await world.chat())[2]["X-NHI-Model"] == "good-model"
            path.write_text(yaml.safe_dump(merge(good, {
                "tasks": {"code": {"chain": ["fair-model"]}}, "agents": [{**good["agents"][0], "name": "renamed"}],
            })))  # fmt: skip
            world.router.reload()
            assert (await world.chat())[2]["X-NHI-Model"] == "fair-model"
            assert (await stream.content.read()).endswith(b"[DONE]\n\n"), "it began before, and ends as it began"
            assert stream.headers["X-NHI-Model"] == "good-model"
        await settled(world)

    play(server, work)


def test_two_hundred_idle_streams_cost_nobody_else_anything(server: ValkeyServer) -> None:
    async def stand_still(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"".join(MockProvider().events(body)[:3]))
        await asyncio.sleep(3600)
        raise AssertionError("unreachable")

    async def work(world: World) -> None:
        world.providers["good"].always = stand_still
        body = {"model": "good-model", **CHAT, "stream": True}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as many:
            url, headers = world.url + "/v1/chat/completions", world.headers
            streams = await asyncio.gather(*(many.post(url, json=body, headers=headers) for _one in range(200)))
            assert {stream.status for stream in streams} == {200}
            for _one in range(20):
                assert (await world.chat("fair-model"))[0] == 200
            for stream in streams:
                stream.close()
        await settled(world)
        # Nobody goes on for nobody.
        await until(lambda: world.providers["good"].hung_up == 200)
        await until(lambda: world.router.live.in_flight == 0)
        assert await world.used("good") == 200

    play(server, work, providers={"good": {"timeouts": {"idle": 60, "first_byte": 10, "connect": 5}}})


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_the_call_and_settles_its_quota(server: ValkeyServer, stream: bool) -> None:
    async def work(world: World) -> None:
        world.providers["good"].always = hang
        if stream:
            world.providers["good"].always = None
            world.providers["good"].delay = 5.0
        await world.used("good")
        asking = asyncio.create_task(world.chat(stream=stream))
        await until(lambda: world.providers["good"].seen)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: world.providers["good"].hung_up == 1)
        await until(lambda: world.router.live.in_flight == 0)
        await settled(world)
        assert await world.used("good") == 1, "the provider may have counted it"
        assert server.client().hlen(world.router.live.store.book) == 2 * 20, "no reservation is left open"
        assert world.providers["fair"].seen == []

    play(server, work, providers={"good": {"timeouts": {"first_byte": 60, "idle": 60}}})


def test_hanging_up_at_any_moment_leaves_no_reservation_open(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        await world.used("good")
        for n in range(120):
            asking = asyncio.create_task(world.chat())
            await asyncio.sleep(n % 60 / 10_000)
            asking.cancel()
            await asyncio.wait([asking])
        await until(lambda: world.router.live.in_flight == 0)
        await settled(world)
        await world.used("good")
        used = await world.used("good")
        assert used >= len(world.providers["good"].seen), "what was sent is counted"
        assert server.client().hlen(world.router.live.store.book) == 2 * 20, "no reservation is left open"
        assert server.client().hlen(spend_book_key(world.router.instance)) == 0, "nor any money"

    agents = [{"name": "aider", "key_sha256": digest(KEY), "task": "code", "daily_budget_usd": 1000}]
    priced = {"good": {"models": {"good-model": {"price": {"input": 1, "output": 1}}}}}
    play(server, work, agents=agents, providers=priced)


def test_a_client_that_hangs_up_while_it_waits_leaves_the_line(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        for state in world.router.live.setup.picture.states.values():
            state.close("a test", 2)
        asking = [asyncio.create_task(world.chat(stream=stream)) for stream in (False, True)]
        await until(lambda: len(world.router.live.room) == 2)
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        await settled(world)
        assert await world.used("good") == 0

    play(server, work)


def test_a_stream_outlives_redis_and_is_counted_once(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].delay = 1.5
        async with world.session.post(
            world.url + "/v1/chat/completions",
            json={"model": "nhi/code", **CHAT, "stream": True},
            headers=world.headers,
        ) as stream:
            await stream.content.readany()
            server.kill()
            code, _body, headers = await world.chat()
            assert (code, headers["X-NHI-Model"]) == (200, "good-model"), "from what was set aside"
            assert (await stream.content.read()).endswith(b"[DONE]\n\n")
            server.start()
        await world.router._refresher.once()
        assert (await world.chat())[0] == 200
        await world.used("good")
        sent = len(world.providers["good"].seen)
        assert await world.used("good") == sent >= 2
        assert not world.router.live.store.is_lost

    play(server, work)


@pytest.mark.slow
def test_sigterm_lets_streams_end_and_takes_no_more(server: ValkeyServer, tmp_path: Path) -> None:
    async def work() -> None:
        provider = MockProvider("good", delay=1.5)
        await provider.start()
        router = RouterProcess(tmp_path / "router", configuration(server, {"good": provider})).start()
        headers = {"Authorization": f"Bearer {KEY}"}
        try:
            async with aiohttp.ClientSession() as session:
                url, body = router.url + "/v1/chat/completions", {"model": "nhi/code", **CHAT}
                async with session.post(url, json={**body, "stream": True}, headers=headers) as stream:
                    await stream.content.readany()
                    ending = asyncio.create_task(asyncio.to_thread(router.end))
                    await asyncio.sleep(0.2)
                    async with session.post(url, json=body, headers=headers) as refused:
                        told = await refused.json()
                        assert (refused.status, told["error"]["code"]) == (503, "stopping")
                        assert refused.headers["Retry-After"] == "5"
                    assert (await stream.content.read()).endswith(b"[DONE]\n\n")
                assert await ending == 0
            assert len(provider.seen) == 1
        finally:
            router.end()
            await provider.stop()

    asyncio.run(work())


def test_it_stops_at_whatever_moment_it_is_told(server: ValkeyServer) -> None:
    """Also at the moment at which a round of the work beside the requests ends, where once it went on for ever."""

    async def work(world: World) -> None:
        live = world.router.live
        for at in range(60):
            refresher, over = Refresher(live, "other"), asyncio.Event()
            round_of = refresher.once

            async def once(round_of: Any = round_of, over: asyncio.Event = over) -> None:
                await round_of()
                over.set()

            refresher.once = once  # type: ignore[method-assign]
            refresher.start()
            if at % 2:
                await over.wait()
            else:
                await asyncio.sleep(at / 10000)
            async with asyncio.timeout(4):
                await refresher.stop()

    play(server, work, ["good"])


def test_a_task_that_lets_a_cancellation_go_by_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_AGAIN_SECONDS", 0.05)

    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def work() -> None:
        task = asyncio.create_task(deaf())
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await tasks.end_task(task)
        assert task.cancelled()

    asyncio.run(work())
