"""The lab as a person starts it: its command line, its directory, its `env` file."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def command(verb: str, directory: Path, *options: str) -> str:
    """`python -m lab VERB`, as a person would type it."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", verb, "--dir", str(directory), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(directory: Path) -> dict[str, str]:
    """What the lab's `env` file exports."""
    lines = (directory / "env").read_text().splitlines()
    pairs = (line.removeprefix("export ").partition("=") for line in lines if "=" in line)
    return {name: shlex.split(value)[0] for name, _, value in pairs}


def root_password(directory: Path) -> str:
    """The password of root@pam."""
    return str(json.loads((directory / "credentials.json").read_text())["root_password"])
