"""Labs for the journeys: a Proxmox VE API in memory for speed, on real containers for the truth.

The lab is started as a user starts it (`python -m lab up`) and reached over HTTPS and SSH only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Fixtures that start a lab.
LABS = frozenset({"memory_lab", "operator", "shared_lab", "untouched"})
COLLECTIONS = ROOT / "collections"


def free_port() -> int:
    """A TCP port of loopback that nobody listens on right now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """The environment without what would leak in: Proxmox settings and the CA bundle that overrides verify=False."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PROXMOX_", "NHI_", "ANSIBLE_"))}
    kept.pop("REQUESTS_CA_BUNDLE", None)
    kept.pop("CURL_CA_BUNDLE", None)
    # ansible.cfg makes a password for the vault at first use: not in the home of whoever runs the tests.
    kept["NHI_VAULT_PASSWORD_FILE"] = str(Path(os.environ.get("NHI_CACHE", tempfile.gettempdir())) / "vault-password")
    return kept


@dataclass
class Lab:
    """One running lab: `env` is what an operator would export, `directory` holds its logs and keys."""

    directory: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/api2/json"

    def command(self, *args: str, check: bool = True, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """`python -m lab VERB --dir DIRECTORY ...`."""
        verb, *rest = args
        return subprocess.run(
            [sys.executable, "-m", "lab", verb, *rest, "--dir", str(self.directory)],
            cwd=ROOT,
            env=clean_environment(),
            text=True,
            capture_output=True,
            check=check,
            timeout=timeout,
        )

    def up(self, *options: str) -> None:
        done = self.command("up", "--port", str(self.port), *options, check=False, timeout=900)
        if done.returncode:
            pytest.fail(f"the lab did not come up: {done.stdout}{done.stderr}")
        self.env = {}
        for line in (self.directory / "env").read_text().splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            if value:
                self.env[name] = shlex.split(value)[0]

    def down(self) -> None:
        self.command("down", check=False)

    def fault(self, *args: str) -> None:
        """`lab fault ARGS`, for example fault("set", "slow-node", "--delay", "2")."""
        self.command("fault", *args)

    def requests(self) -> list[dict[str, Any]]:
        """What the API was asked so far, oldest first: {time, method, path, status, ...}."""
        log = self.directory / "requests.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def writes(self) -> list[dict[str, Any]]:
        """The requests that were not reads (a ticket is a read)."""
        return [r for r in self.requests() if r["method"] != "GET" and not r["path"].endswith("/access/ticket")]


@dataclass
class Operator:
    """A person at the terminal: a lab, a state directory, and the repository's playbooks."""

    lab: Lab
    state_dir: Path
    extra: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {
            **clean_environment(),
            **self.lab.env,
            "NHI_STATE_DIR": str(self.state_dir),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            **self.extra,
        }

    def run(self, *argv: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, cwd=ROOT, env=self.environment(), text=True, capture_output=True, check=False, timeout=timeout
        )

    def playbook(self, name: str, *args: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
        """`ansible-playbook playbooks/NAME ARGS` with the operator's environment."""
        return self.run(tool("ansible-playbook"), f"playbooks/{name}", *args, timeout=timeout)

    def kill_playbook(self, at: str, name: str, *args: str) -> None:
        """Run a playbook and end it and all its processes by SIGKILL when its output has a line that begins so."""
        running = subprocess.Popen(
            [tool("ansible-playbook"), f"playbooks/{name}", *args], cwd=ROOT, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        assert running.stdout is not None
        seen = False
        for line in running.stdout:
            if not seen and line.startswith(at):
                seen = True
                os.killpg(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert seen, f"{name} has no {at}"

    def state(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.state_dir / "state.json").read_text())
        return document

    def module(self, name: str, /, **options: Any) -> dict[str, Any]:
        """Run nhi.core.NAME as Ansible would on the controller, without ansible-playbook's start-up; its result."""
        check = options.pop("_check", False)
        args = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check, "_ansible_diff": True}}
        done = subprocess.run(
            [sys.executable, "-m", f"ansible_collections.nhi.core.plugins.modules.{name}"],
            input=json.dumps(args),
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=False,
            timeout=600,
            env={**self.environment(), "PYTHONPATH": str(COLLECTIONS)},
        )
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            pytest.fail(f"{name} printed no result: {done.stdout}{done.stderr}")
        assert "Traceback" not in done.stderr, done.stderr
        return result


def tool(name: str) -> str:
    """A console script of the virtual environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts a lab of its own is a journey, and no part of the fast checks."""
    for item in items:
        if LABS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.e2e)


@contextlib.contextmanager
def running_lab(directory: Path, *options: str) -> Iterator[Lab]:
    lab = Lab(directory, free_port())
    try:
        lab.up(*options)
        yield lab
    finally:
        lab.down()


@pytest.fixture
def memory_lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab of its own for one test: in memory, without broadcast lag, faults allowed."""
    with running_lab(tmp_path / "lab", "--driver", "memory", "--no-lag", "--test-endpoint") as lab:
        yield lab


@pytest.fixture
def operator(memory_lab: Lab, tmp_path: Path) -> Operator:
    state = tmp_path / "infrastructure"
    state.mkdir()
    return Operator(memory_lab, state)


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator of a lab in memory that the tests of one file share."""
    directory = tmp_path_factory.mktemp("shared")
    with running_lab(directory / "lab", "--driver", "memory", "--no-lag", "--test-endpoint") as lab:
        state = directory / "infrastructure"
        state.mkdir()
        yield Operator(lab, state)
