"""One lab in memory for clients that know nothing of it, and a runner for Ansible modules as they were published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.tests.behaviour.process import command, environment, free_port, root_password


@dataclass(frozen=True)
class Clients:
    """What an operator exports, without what would leak in from outside."""

    port: int
    directory: Path
    exported: dict[str, str]
    root_password: str

    @property
    def env(self) -> dict[str, str]:
        leaks = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # requests would prefer them to verify=False
        kept = {k: v for k, v in os.environ.items() if k not in leaks and not k.startswith(("PROXMOX_", "ANSIBLE_"))}
        return {**kept, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}

    @property
    def login(self) -> dict[str, Any]:
        """Options of the modules: root@pam with its password."""
        return {
            "api_host": "127.0.0.1",
            "api_port": self.port,
            "api_user": "root@pam",
            "api_password": self.root_password,
            "validate_certs": False,
        }

    def module(self, name: str, /, **options: Any) -> dict[str, Any]:
        """Run community.proxmox.NAME as published; its result."""
        arguments = {"ANSIBLE_MODULE_ARGS": {**self.login, **options}}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", f"ansible_collections.community.proxmox.plugins.modules.{name}"],
            input=json.dumps(arguments),
            env=self.env,
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.stdout, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def ok(self, name: str, /, **options: Any) -> dict[str, Any]:
        """The same, and it must succeed."""
        result = self.module(name, **options)
        assert not result.get("failed"), result.get("msg") or result
        return result

    def run(self, program: str, *args: str, cwd: Path, **env: str) -> str:
        """A console script of this virtual environment; what it printed."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *args],
            cwd=cwd,
            env={**self.env, **env},
            text=True,
            capture_output=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    directory, port = tmp_path_factory.mktemp("lab") / "lab", free_port()
    try:
        command("up", directory, "--port", str(port), "--driver", "memory", "--no-lag")
        yield Clients(port, directory, environment(directory), root_password(directory))
    finally:
        command("down", directory)


@pytest.fixture(autouse=True)
def _no_certificate_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """requests prefers these to verify=False."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
