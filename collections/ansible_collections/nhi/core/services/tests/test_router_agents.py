# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Aider, Open Interpreter, Claude Code and Codex, as they are shipped, at work through the router.

They are large, so each has a place of its own, which nothing else needs:

    python3 -m venv ~/.cache/nhi/clients/aider && ~/.cache/nhi/clients/aider/bin/pip install aider-chat==0.86.2
    python3 -m venv ~/.cache/nhi/clients/interpreter &&
        ~/.cache/nhi/clients/interpreter/bin/pip install open-interpreter==0.4.3 setuptools
    npm install --ignore-scripts --prefix ~/.cache/nhi/clients/npm
        @anthropic-ai/claude-code@2.1.197 @openai/codex@0.171.0
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from .mock_provider import status
from .router_world import KEY, World, play
from .valkey_server import ValkeyServer

CLIENTS = Path(os.environ.get("NHI_CLIENTS", "~/.cache/nhi/clients")).expanduser()
AIDER = CLIENTS / "aider/bin/aider"
INTERPRETER = CLIENTS / "interpreter/bin/interpreter"
CLAUDE = CLIENTS / "npm/node_modules/@anthropic-ai/claude-code-linux-x64/claude"
CODEX = CLIENTS / "npm/node_modules/.bin/codex"
pytestmark = pytest.mark.slow


def needs(program: Path) -> pytest.MarkDecorator:
    reason = f"there is no {program}: the first lines of this file say how to install it"
    return pytest.mark.skipif(not program.exists(), reason=reason)


async def work_of(program: Path, *arguments: str, home: Path, said: str = "", **environment: str) -> str:
    """Run a client in a home of its own and return what it prints."""
    known = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        program, *arguments, cwd=home, env={**known, "HOME": str(home), "TERM": "dumb", **environment},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(120):
            told, _none = await process.communicate(said.encode())
    finally:
        if process.returncode is None:
            process.kill()
    return told.decode(errors="replace")


@needs(AIDER)
@pytest.mark.parametrize("form", ["openai", "anthropic"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_aider_edits_a_file_while_a_provider_fails(
    server: ValkeyServer, tmp_path: Path, form: str, dialect: str
) -> None:
    async def work(world: World) -> None:
        good, fair = world.providers.values()
        good.always = status(500)
        fair.words = ("hello.py\n", "```\n", 'print("hello from', ' the lab")\n', "```\n")
        told = await work_of(
            AIDER, "--model", f"{form}/nhi/code", "--weak-model", f"{form}/nhi/code", "--edit-format", "whole",
            "--no-git", "--yes-always", "--no-analytics", "--no-check-update", "--no-show-release-notes",
            "--no-show-model-warnings", "--disable-playwright", "--message", "Say hello.", "hello.py", home=tmp_path,
            OPENAI_API_BASE=f"{world.url}/v1", OPENAI_API_KEY=KEY,
            ANTHROPIC_API_BASE=world.url, ANTHROPIC_API_KEY=KEY,
        )  # fmt: skip
        assert (tmp_path / "hello.py").read_text() == 'print("hello from the lab")\n', told
        assert "Applied edit to hello.py" in told
        assert good.seen
        assert {path for path, _body, _headers in fair.seen} == {
            "/v1/messages" if dialect == "anthropic" else "/v1/chat/completions"
        }
        assert fair.seen[0][1]["stream"] is True

    # Its prompt is a few thousand tokens.
    large = {"context": 100_000}
    play(server, work, providers={
        "good": {"models": {"good-model": large}}, "fair": {"dialect": dialect, "models": {"fair-model": large}},
    })  # fmt: skip


@needs(INTERPRETER)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_open_interpreter_runs_what_a_model_calls_for(server: ValkeyServer, tmp_path: Path, dialect: str) -> None:
    async def work(world: World) -> None:
        good = world.providers["good"]
        good.calls = (("execute", {"language": "shell", "code": "echo made-$((40 + 2)) > made; cat made"}),)
        told = await work_of(
            INTERPRETER, "--plain", "--auto_run", "--disable_telemetry", "--model", "openai/nhi/code",
            "--api_base", f"{world.url}/v1", "--api_key", KEY, "--llm_supports_functions",
            "--context_window", "8000", "--max_tokens", "500", home=tmp_path, said="Make it.\n",
        )  # fmt: skip
        assert (tmp_path / "made").read_text() == "made-42\n", told
        assert "Hello!" in told
        assert len(good.seen) >= 2
        result = good.seen[-1][1]["messages"]
        assert "made-42" in str(result), "it went back to the model"

    play(server, work, ["good"], providers={
        "good": {"dialect": dialect, "models": {"good-model": {"context": 100_000}}},
    })  # fmt: skip


@needs(CLAUDE)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_claude_code_writes_a_file_while_a_provider_fails(server: ValkeyServer, tmp_path: Path, dialect: str) -> None:
    async def work(world: World) -> None:
        good, fair = world.providers.values()
        good.always = status(500)
        fair.calls = (("Write", {"file_path": str(tmp_path / "made"), "content": "made-42"}),)
        told = await work_of(
            CLAUDE, "--print", "--permission-mode", "acceptEdits", "Make it.", home=tmp_path,
            ANTHROPIC_BASE_URL=world.url, ANTHROPIC_AUTH_TOKEN=KEY, ANTHROPIC_MODEL="nhi/code",
            ANTHROPIC_SMALL_FAST_MODEL="nhi/code", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        )  # fmt: skip
        assert (tmp_path / "made").read_text() == "made-42", told
        assert "Hello!" in told
        assert good.seen

    large = {"context": 200_000, "max_output": 32_000}
    play(server, work, providers={
        "good": {"models": {"good-model": large}}, "fair": {"dialect": dialect, "models": {"fair-model": large}},
    })  # fmt: skip


@needs(CODEX)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_codex_runs_what_a_model_calls_for(server: ValkeyServer, tmp_path: Path, dialect: str) -> None:
    async def work(world: World) -> None:
        good = world.providers["good"]
        good.calls = (("exec_command", {"cmd": "echo made-$((40 + 2)) > made; cat made"}),)
        told = await work_of(
            CODEX, "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--model", "nhi/code",
            "-c", "model_provider=nhi", "-c", f'model_providers.nhi={{name="nhi", base_url="{world.url}/v1", '
            'env_key="NHI_KEY", wire_api="responses"}', "Make it.", home=tmp_path, NHI_KEY=KEY,
        )  # fmt: skip
        assert (tmp_path / "made").read_text() == "made-42\n", told
        assert "Hello!" in told
        assert "made-42" in str(good.seen[-1][1]["messages"]), "it went back to the model"

    play(server, work, ["good"], providers={
        "good": {"dialect": dialect, "models": {"good-model": {"context": 200_000, "max_output": 32_000}}},
    })  # fmt: skip
