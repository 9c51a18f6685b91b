"""Three agents share two providers of language models. One is used up, and the other answers without an error.

The providers are stand-ins on loopback; the router, Valkey and PostgreSQL are real. All of it ends with this program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from nhi_services.router.config import hash_key
from nhi_services.router.dev import echo_application

AGENTS = ("aider", "codex", "open-interpreter")
ROUNDS = 4
LIMIT = 6
ASK = {"model": "nhi/code_generation", "messages": [{"role": "user", "content": "Write a test."}], "max_tokens": 64}


def configuration(urls: dict[str, str]) -> dict[str, Any]:
    """The better provider allows few requests a day."""
    sonnet = {"upstream": "sonnet", "quality": 9.5, "context": 200_000, "max_output": 8192}
    deepseek = {"upstream": "deepseek-chat", "quality": 7.5, "context": 64_000, "max_output": 8192}
    return {
        "agents": [{"name": name, "key_sha256": hash_key(f"key-of-{name}")} for name in AGENTS],
        "providers": {
            "claude": {
                "base_url": urls["claude"],
                "limits": {"requests_per_day": LIMIT},
                "models": {"claude-sonnet": {**sonnet, "price": {"input": 3.0, "output": 15.0}}},
            },
            "deepseek": {
                "base_url": urls["deepseek"],
                "limits": {"requests_per_day": 2000},
                "models": {"deepseek-v3": {**deepseek, "price": {"input": 0.27, "output": 1.1}}},
            },
        },
        "tasks": {"code_generation": {"chain": ["claude-sonnet", "deepseek-v3"]}},
        # Quality decides, until there is nothing left.
        "routing": {"quota": 0.1, "latency": 0.1, "quality": 0.8, "threshold": 0.1},
    }


@contextlib.asynccontextmanager
async def stand_ins(*names: str) -> AsyncIterator[dict[str, str]]:
    """Providers, and where they are."""
    runners, urls = [], {}
    for name in names:
        runner = web.AppRunner(echo_application(), access_log=None)
        await runner.setup()
        runners.append(runner)
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        urls[name] = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    try:
        yield urls
    finally:
        for runner in runners:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def router(home: Path, config: Path) -> AsyncIterator[str]:
    """A router with servers of its own, and where it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    argv = ["--dev", "--config", str(config), "--port", str(port), "--log-level", "warning"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nhi_services.router.main", *argv,
        env={**os.environ, "XDG_STATE_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said = b""
    try:
        while process.stdout and b"curl" not in said:
            async with asyncio.timeout(60):
                line = await process.stdout.readline()
            if not line:
                raise SystemExit(f"demo: the router did not start: {said.decode()}")
            said += line
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def ask(session: aiohttp.ClientSession, url: str, agent: str) -> str:
    """Send one request and say who answered; an error ends the demonstration."""
    headers = {"Authorization": f"Bearer key-of-{agent}"}
    async with session.post(f"{url}/v1/chat/completions", json=ASK, headers=headers) as answer:
        text = await answer.text()
        if answer.status != 200:
            raise SystemExit(f"demo: {agent} was answered {answer.status}: {text}")
        told = {name: answer.headers.get(f"X-NHI-{name}", "") for name in ("Provider", "Degraded", "Quota-Left")}
        left = f"left today: {told['Quota-Left']}" if told["Quota-Left"] else ""
        print(f"  {agent:18}{told['Provider']:10}{told['Degraded'] or left}", flush=True)
        return told["Provider"]


async def demonstrate(home: Path, config: Path) -> list[str]:
    """Which provider answered each request."""
    async with stand_ins("claude", "deepseek") as urls:
        await asyncio.to_thread(config.write_text, yaml.safe_dump(configuration(urls)))
        async with router(home, config) as url, aiohttp.ClientSession() as session:
            print(f"  claude allows {LIMIT} requests a day; {', '.join(AGENTS)} send {ROUNDS} each")
            answered = [await ask(session, url, agent) for _ in range(ROUNDS) for agent in AGENTS]
            # Costs are written in batches.
            await asyncio.sleep(1.5)
            print("$ nhi costs --by agent", flush=True)
            costs = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "nhi_services", "costs", "--by", "agent",
                env={**os.environ, "NHI_ROUTER_CONFIG": str(home / "nhi-router" / "router.yml")},
            )  # fmt: skip
            if await costs.wait():
                raise SystemExit("demo: the costs can not be told")
    return answered


def main() -> int:
    """Run it."""
    home = Path(tempfile.mkdtemp(prefix="nhi-demo-"))
    # PostgreSQL's user passes through where root runs this.
    home.chmod(0o711)
    try:
        answered = asyncio.run(demonstrate(home, home / "providers.yml"))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if answered != ["claude"] * LIMIT + ["deepseek"] * (len(AGENTS) * ROUNDS - LIMIT):
        raise SystemExit(f"demo: not the providers that should have answered: {', '.join(answered)}")
    print(f"  {len(answered)} requests, no error: claude {LIMIT}, then deepseek {len(answered) - LIMIT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
