"""Several Brains and the Redis between them: a real server, a wire to it that can be cut, processes that write.

A Brain counts in the state document, so that an update that was lost shows in the number.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import empty_document, generated_by, utc_now

from lab.embedded import answers, valkey_server

from .conftest import free_port

TTL_SECONDS = 0.6
PASSWORD = "correct horse battery"


@dataclass
class Redis:
    """A server that keeps nothing on its disk, so that a restart loses all."""

    directory: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        config = self.directory / "valkey.conf"
        lines = ("bind 127.0.0.1", f"port {self.port}", 'save ""', "appendonly no", f'requirepass "{PASSWORD}"')
        config.write_text("\n".join((*lines, f"dir {self.directory}", "")))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen([str(valkey_server()), str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not answers("127.0.0.1", self.port):
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Wire:
    """The network between one Brain and Redis; what is on its way when it is cut arrives once it is whole."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self._whole.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _address = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        threading.Thread(target=self._carry, args=(near, far), daemon=True).start()
        self._carry(far, near)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._whole.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass
class Site:
    """A state directory of a Brain, with its way to Redis."""

    directory: Path
    wire: Wire

    @property
    def store(self) -> StateStore:
        return StateStore(self.directory)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "NHI_REDIS_URL": f"redis://127.0.0.1:{self.wire.port}/0",
            "NHI_REDIS_PASSWORD": PASSWORD,
        }

    def count(self) -> int:
        return int(self.store.validate().document["api_providers"].get("counter", {"n": 0})["n"])

    def fence(self) -> int:
        return int(self.store.read().document["meta"]["fence"])


def counted(document: dict[str, Any] | None) -> dict[str, Any]:
    """The document with its counter one higher."""
    new = document or empty_document(generated_by("test", "0", "test", "test"), utc_now())
    n = new["api_providers"].get("counter", {"n": 0})["n"]
    return {**new, "api_providers": {"counter": {"n": n + 1}}}


class Writer:
    """A process of one Brain that stands still in the middle of a write, the lock in its hand, until it is told."""

    def __init__(self, site: Site, *, flock_reaches: bool = True) -> None:
        """With flock_reaches false the directory is as on a network disk whose locks stay on each host."""
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self.process = context.Process(
            target=_write_once, args=(site.directory, site.environment, flock_reaches, there), daemon=True
        )
        self.process.start()
        there.close()

    def has_the_lock(self) -> None:
        assert self._heard() == "inside"

    def goes_on(self) -> str:
        """What became of the write: `written`, or an error with its name."""
        self._here.send("go on")
        return self._heard()

    def writes(self) -> str:
        self.has_the_lock()
        return self.goes_on()

    def stopped(self) -> None:
        self._signal(signal.SIGSTOP)

    def continued(self) -> None:
        self._signal(signal.SIGCONT)

    def killed(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.join(10)

    def _signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def _heard(self) -> str:
        assert self._here.poll(60), "the writer says nothing"
        return str(self._here.recv())


def _write_once(directory: Path, environment: dict[str, str], flock_reaches: bool, pipe: Any) -> None:
    os.environ.update(environment)
    if not flock_reaches:
        fcntl.flock = lambda *_: None

    def change(document: dict[str, Any] | None) -> dict[str, Any]:
        pipe.send("inside")
        pipe.recv()
        return counted(document)

    try:
        StateStore(directory).amend(change)
        pipe.send("written")
    except NHIError as error:
        pipe.send(f"{type(error).__name__}: {error}")


def count_up(directory: Path, environment: dict[str, str], times: int, failed: Any) -> None:
    """Count in a process of its own on a disk whose locks do not reach: only Redis keeps the Brains apart."""
    os.environ.update(environment)
    fcntl.flock = lambda *_: None
    try:
        for _time in range(times):
            StateStore(directory).amend(counted)
    except NHIError as error:
        failed.put(str(error))
    else:
        failed.put(None)


@contextlib.contextmanager
def brains(directory: Path, redis: Redis, count: int, *, shared: bool) -> Iterator[list[Site]]:
    """Brains with a wire each, on one shared directory or on disks of their own."""
    sites = [Site(directory / ("shared" if shared else f"brain-{n}"), Wire(redis.port)) for n in range(count)]
    for site in sites:
        site.directory.mkdir(exist_ok=True)
        # What they must agree on; each has a way of its own to Redis.
        (site.directory / "lock.json").write_text(json.dumps({"backend": "redis", "ttl_seconds": TTL_SECONDS}))
    try:
        yield sites
    finally:
        for site in sites:
            site.wire.close()
