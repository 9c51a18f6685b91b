# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi-router --dev`: a router to try out, with servers of its own and providers whose keys are in the environment.

The key of provider ``claude`` is NHI_CLAUDE_KEY. Without any key, the provider ``echo`` answers with what it was asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from aiohttp import web

from nhi_services.router.config import ConfigError, hash_key, parse_config
from nhi_services.router.embedded import ROLE, EmbeddedError, embedded_servers

_EXAMPLE: Final = Path(__file__).with_name("examples") / "blueprint.yml"
_ECHO_TASK: Final = "quick_queries"


@dataclass(frozen=True)
class Trial:
    """What a router that is tried out runs on."""

    config: Path
    key: str
    port: int
    providers: tuple[str, ...]

    @property
    def words(self) -> str:
        """What to do with it."""
        asked = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hello!"}]})
        echo = " (no key of a provider is in the environment, such as NHI_CLAUDE_KEY)" if self.is_echo else ""
        return (
            f"Providers: {', '.join(self.providers)}{echo}\n"
            f"Configuration: {self.config}\n"
            f"Base URL:  http://127.0.0.1:{self.port}/v1\n"
            f"API key:   {self.key}\n"
            f"Page:      http://127.0.0.1:{self.port}/ui\n\n"
            f"curl http://127.0.0.1:{self.port}/v1/chat/completions -H 'Authorization: Bearer {self.key}' \\\n"
            f"  -H 'Content-Type: application/json' -d '{asked}'\n"
        )

    @property
    def is_echo(self) -> bool:
        """Whether only the stand-in answers."""
        return self.providers == ("echo",)


def home_of(environment: Mapping[str, str]) -> Path:
    """Where it keeps its data. Root's own home is closed to the user that PostgreSQL runs as."""
    if given := environment.get("XDG_STATE_HOME"):
        return Path(given).absolute() / "nhi-router"
    return Path("/var/lib/nhi-router-dev") if os.geteuid() == 0 else Path.home() / ".local/state/nhi-router"


@contextlib.contextmanager
def trial(environment: Mapping[str, str], port: int | None, given: Path | None, echo_url: str) -> Iterator[Trial]:
    """Servers that run, and a configuration with them; ``given`` is one with providers of its own."""
    home = home_of(environment)
    with embedded_servers(home) as servers:
        key = _kept_key(home / "key")
        base = providers_with_keys(environment, home / "keys", echo_url) if given is None else _given(given)
        listen = {**base.get("listen", {}), **({"port": port} if port else {})}
        document = {
            **base,
            "listen": listen,
            "redis": {"url": servers.redis_url},
            "postgresql": {"dsn": servers.dsn(ROLE)},
            "spool": {"directory": str(home / "spool")},
        }
        first = next(iter(document.get("tasks") or {}), None)
        document["agents"] = [
            *document.get("agents", []), {"name": "trial", "key_sha256": hash_key(key), "task": first}
        ]  # fmt: skip
        config = parse_config(document, str(given or "the configuration of --dev"))
        path = home / "router.yml"
        text = f"# Written by nhi-router --dev at each start.\n{yaml.safe_dump(document, sort_keys=False)}"
        _write_private(path, text)
        yield Trial(path, key, config.listen.port, tuple(config.providers))


def echo_application() -> web.Application:
    """A stand-in for a provider that needs no key, so that a first request works: it says what it was asked."""
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/v1/chat/completions", _echo)
    return application


async def _echo(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    text = f"echo, no language model: {_last_words(body)}"
    about = {"id": f"echo-{secrets.token_hex(6)}", "created": int(time.time()), "model": "echo"}
    used = {"prompt_tokens": max(1, len(json.dumps(body)) // 4), "completion_tokens": max(1, len(text) // 4)}
    usage = {**used, "total_tokens": sum(used.values())}
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response({**about, "object": "chat.completion", "choices": [choice], "usage": usage})
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    about["object"] = "chat.completion.chunk"
    words = text.split(" ")
    for at, word in enumerate(words):
        delta = {"content": word if at == 0 else f" {word}"}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if at == len(words) - 1 else None}
        await answer.write(f"data: {json.dumps({**about, 'choices': [choice]})}\n\n".encode())
    await answer.write(f"data: {json.dumps({**about, 'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())
    return answer


def _last_words(body: Mapping[str, Any]) -> str:
    messages = body.get("messages") or [{}]
    content = messages[-1].get("content") or ""
    return content if isinstance(content, str) else json.dumps(content)


def providers_with_keys(environment: Mapping[str, str], directory: Path, echo_url: str) -> dict[str, Any]:
    """The example with the providers whose key is there; else the stand-in."""
    example = yaml.safe_load(_EXAMPLE.read_text(encoding="utf-8"))
    providers = {}
    for name, provider in example["providers"].items():
        key = environment.get(f"NHI_{name.upper()}_KEY", "").strip()
        if key and "api_key_file" in provider:
            directory.mkdir(exist_ok=True, mode=0o700)
            path = directory / name
            _write_private(path, f"{key}\n")
            providers[name] = {**provider, "api_key_file": str(path)}
    if not providers:
        echo = {"upstream": "echo", "quality": 5, "context": 100_000, "max_output": 8192}
        providers = {
            "echo": {"base_url": echo_url, "kind": "local", "semaphore": False, "models": {"echo": echo}}
        }  # fmt: skip
        return {"providers": providers, "tasks": {_ECHO_TASK: {"chain": ["echo"]}}}
    known = {model for provider in providers.values() for model in provider["models"]}
    chains = {task: [model for model in one["chain"] if model in known] for task, one in example["tasks"].items()}
    # A task that none of the models is meant for is done by what there is.
    tasks = {task: {**example["tasks"][task], "chain": chain or sorted(known)} for task, chain in chains.items()}
    return {"providers": providers, "tasks": tasks}


def _given(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can not be read as YAML.") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must be a mapping.")
    return document


def _kept_key(path: Path) -> str:
    """The same at each start, so that clients stay configured."""
    with contextlib.suppress(OSError):
        if kept := path.read_text(encoding="utf-8").strip():
            return kept
    key = f"nhi-{secrets.token_urlsafe(24)}"
    _write_private(path, f"{key}\n")
    return key


def _write_private(path: Path, text: str) -> None:
    making = path.with_name(f"{path.name}.new")
    making.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        making.rename(path)
    except OSError as error:
        raise EmbeddedError(f"{path} can not be written: {error.strerror}") from error
