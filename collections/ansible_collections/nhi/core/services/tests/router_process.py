# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi-router` as a process of its own, for tests that kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .ports import free_port

READY_SECONDS = 20.0


@dataclass
class RouterProcess:
    """Can be killed, stopped and started again on the same configuration."""

    home: Path
    config: dict[str, Any]
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.home / "router.log").read_text()

    def start(self) -> RouterProcess:
        self.home.mkdir(exist_ok=True)
        self.port = self.port or free_port()
        path = self.home / "router.yml"
        path.write_text(yaml.safe_dump({**self.config, "listen": {"port": self.port, "drain_seconds": 10}}))
        with (self.home / "router.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nhi_services.router.main", "--config", str(path)],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(self.log[-2000:])
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(timeout=READY_SECONDS)
        self.process = None
        return code
