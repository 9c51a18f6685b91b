# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router that is tried out: it answers at once, its servers end with it, a killed one does not stop the next."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from nhi_services.router import dev, main
from nhi_services.router.config import hash_key, parse_config

from .ports import free_port


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # Below /tmp, where the user that PostgreSQL runs as may pass.
    made = Path(tempfile.mkdtemp(prefix="nhi-dev-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def router(home: Path) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_KEY")}
    process = subprocess.Popen(
        [sys.executable, "-m", "nhi_services.router.main", "--dev", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environment, "XDG_STATE_HOME": str(home)},
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    try:
        while "curl" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield process, port, (home / "nhi-router" / "key").read_text().strip()
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def ask(port: int, key: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hello!"}]}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found = json.load(answer)
        assert isinstance(found, dict)
        return found


def servers(home: Path) -> list[str]:
    listed = subprocess.run(["ps", "-wweo", "stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(home) in line and not line.startswith("Z")]


def test_it_answers_and_its_servers_end_with_it_also_when_it_is_killed(home: Path) -> None:
    with router(home) as (process, port, key):
        assert ask(port, key)["choices"][0]["message"]["content"] == "echo, no language model: Hello!"
        assert len(servers(home)) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    with router(home) as (process, port, kept):
        assert kept == key
        assert ask(port, key)["model"] == "echo"
        second = subprocess.run(
            [sys.executable, "-m", "nhi_services.router.main", "--dev"],
            capture_output=True, text=True, check=False, timeout=20, env={**os.environ, "XDG_STATE_HOME": str(home)},
        )  # fmt: skip
        assert second.returncode == 2
        assert "another nhi-router --dev uses" in second.stderr
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 15
        while servers(home) and time.monotonic() < deadline:
            time.sleep(0.05)
        if sys.platform.startswith("linux"):
            assert servers(home) == []


def test_what_it_keeps_is_private(home: Path) -> None:
    with router(home):
        pass
    for name in ("key", "router.yml"):
        assert stat.S_IMODE((home / "nhi-router" / name).stat().st_mode) == 0o600
    assert servers(home) == []


def test_providers_whose_key_is_there_are_used_and_the_key_is_only_in_its_file(tmp_path: Path) -> None:
    document = dev.providers_with_keys({"NHI_CLAUDE_KEY": "sk-s3cret"}, tmp_path / "keys", "http://127.0.0.1:1/v1")
    config = parse_config(document)

    assert list(config.providers) == ["claude"]
    assert set(config.tasks) == {"code_generation", "creative_writing", "data_analysis", "quick_queries"}
    assert all(task.chain == ["claude-sonnet"] for task in config.tasks.values())
    assert "s3cret" not in yaml.safe_dump(document)
    kept = tmp_path / "keys" / "claude"
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == ("sk-s3cret\n", 0o600)


@pytest.mark.parametrize(("given", "code"), [("key-of-aider\n", 0), ("\n", 2), ("two words\n", 2)])
def test_hash_key_reads_the_key_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str, code: int
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))

    assert main.main(["hash-key"]) == code
    assert capsys.readouterr().out == ("" if code else f"{hash_key(given.strip())}\n")
