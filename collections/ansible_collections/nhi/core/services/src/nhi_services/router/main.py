# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi-router`: read the configuration, answer, reload on SIGHUP, stop cleanly on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError

from nhi_services.router.app import Api
from nhi_services.router.books import Books
from nhi_services.router.config import ConfigError, RouterConfig, hash_key, load_config, read_secret_file
from nhi_services.router.cost_metrics import CostMetrics
from nhi_services.router.deferred_run import Deferring
from nhi_services.router.fast_json import dumps
from nhi_services.router.live import Live, Setup
from nhi_services.router.quota_store import QuotaStore
from nhi_services.router.redis_scripts import redis_client
from nhi_services.router.refresh import Refresher
from nhi_services.router.spending import Spending
from nhi_services.router.trail import Trail
from nhi_services.router.upstream import Upstream

LOG: Final = logging.getLogger("nhi.router")
_LOG_SECONDS: Final = 0.1
# Objects that are made between two looks for garbage: almost all of a request's are gone without one.
_GARBAGE: Final = (50_000, 20, 50)
DEFAULT_FILE: Final = Path("/etc/nhi/router.yml")


class JsonLines(logging.Formatter):
    """One JSON object a line, as journald and Loki like it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage(),
        }  # fmt: skip
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class RequestLog:
    """Writes one line for each request, without prompt, answer or key: those of a moment together."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def record(self, trail: Trail, _setup: Setup) -> None:
        """Take it down."""
        if not LOG.isEnabledFor(logging.INFO):
            return
        now = trail.ended_at
        moment = f"{_second(int(now))}.{int(now % 1 * 1000):03d}Z"
        about = {"time": moment, "level": "info", "logger": LOG.name, "message": "request"}
        self._lines.append(dumps({**about, **trail.as_log()}))
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(_LOG_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what there is."""
        if self._lines:
            print(b"\n".join(self._lines).decode(), flush=True)
            self._lines.clear()


@lru_cache(maxsize=2)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def make_live(config: RouterConfig, instance: str) -> Live:
    """A router for a configuration; nothing is asked yet."""
    setup = Setup.of(config)
    password = read_secret_file(config.redis.password_file) if config.redis.password_file else None
    client = redis_client(config.redis.url, password)
    store = QuotaStore(client, instance, config.instances)
    live = Live(setup, client, store, Upstream())
    live.purse = Spending(client, store.settler, lambda: store.now_ms, instance, config.instances)
    live.purse.budgets = config.budgets()
    return live


class Router:
    """A router that runs in an event loop."""

    def __init__(self, config: RouterConfig, path: Path | None = None) -> None:
        self.instance = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.live = make_live(config, self.instance)
        self.books = Books(config, self.instance)
        self._log = RequestLog()
        self.live.recorders += [self._log, *self.books.recorders]
        if self.live.purse is not None:
            self.live.told["costs"] = self.live.purse.as_data
            self.live.collectors.append(CostMetrics(self.books, self.live.purse))
        self.live.told["books"] = self.books.ledger.as_data
        self.live.deferred = self.books.deferred
        self.deferring = Deferring(self.live, self.books.deferred) if self.books.deferred else None
        self.api = Api(self.live)
        self.application = self.api.application()
        self._path = path
        self._refresher = Refresher(self.live, self.instance)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self, *, reuse_port: bool = False) -> None:
        """Answer from now on."""
        self.live.store.settler.start()
        self._refresher.start()
        self.books.start()
        if self.deferring is not None:
            self.deferring.start()
        self._runner = web.AppRunner(self.application, handle_signals=False, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        listen = self.live.setup.config.listen
        make, watch = self._runner.server, self.api.watch
        if make is None:
            raise RuntimeError("the runner has no server after its setup")
        self._server = await asyncio.get_running_loop().create_server(
            lambda: watch(make()), listen.host, listen.port, backlog=1024, reuse_port=reuse_port or None
        )
        LOG.info("listening", extra={"fields": {"host": listen.host, "port": listen.port, "instance": self.instance}})

    def reload(self) -> None:
        """Take a new configuration for requests that come from now on; one with faults changes nothing."""
        if self._path is None:
            return
        try:
            self.take(load_config(self._path))
        except ConfigError as error:
            LOG.error("the configuration stays as it was: %s", error)  # noqa: TRY400 -- the message says it all
            return
        LOG.info("the configuration was read again")

    def take(self, config: RouterConfig) -> None:
        """Work by another configuration from now on; ConfigError leaves everything as it was."""
        before = self.live.setup.config
        self.live.setup = Setup.of(config, self.live.setup)
        for part in ("listen", "redis", "postgresql", "spool"):
            if getattr(before, part) != getattr(config, part):
                LOG.warning("%s changes when the router is started again", part)
        self.books.reload(config)
        if self.deferring is not None:
            self.deferring.reload(config.deferred)
        if self.live.purse is not None:
            self.live.purse.budgets = config.budgets()

    async def stop(self) -> None:
        """Take no more requests, let those under way end, and settle what they used."""
        self.live.draining = True
        if self.deferring is not None:
            await self.deferring.close()
        deadline = time.monotonic() + self.live.setup.config.listen.drain_seconds
        while self.live.in_flight and time.monotonic() < deadline:  # noqa: ASYNC110 -- counted, not signalled
            await asyncio.sleep(0.05)
        if self._server:
            self._server.close()
        if self._runner:
            await self._runner.cleanup()
        await self._refresher.stop()
        self.live.record()
        await self.books.close()
        if self.live.purse is not None:
            self.live.purse.flush()
        unsettled = await self.live.store.settler.close(5.0)
        if unsettled:
            LOG.warning("%d reservations could not be settled: their quota counts as used", unsettled)
        await self.live.upstream.close()
        await self.live.redis.aclose()
        self._log.flush()


def tell_systemd(state: str) -> None:
    """Say how far the service is (sd_notify), where systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            systemd.sendall(state.encode())


async def serve(router: Router, *, reuse_port: bool = False, ready: Callable[[], None] = lambda: None) -> None:
    """Run until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, router.reload)
    await router.start(reuse_port=reuse_port)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE)
    tell_systemd("READY=1")
    ready()
    await ended.wait()
    tell_systemd("STOPPING=1")
    await router.stop()


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["migrate"]:
        # What it needs, the router itself does not.
        from nhi_services.router import migrate

        return migrate.main(argv[1:])
    if argv == ["hash-key"]:
        return _hash_key_of_input()
    parser = argparse.ArgumentParser(prog="nhi-router", description=__doc__)
    parser.add_argument("--config", type=Path, help=f"NHI_ROUTER_CONFIG, else {DEFAULT_FILE}")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--dev", action="store_true", help="try it: with servers of its own, and a key that it prints")
    parser.add_argument("--port", type=int, help="with --dev: listen here")
    parser.add_argument("--reuse-port", action="store_true", help="let several routers listen on the same port")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    arguments = parser.parse_args(argv)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    # A reload before there is anything to reload does not end the program.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(level=arguments.log_level.upper(), handlers=[handler])
    if arguments.port is not None and not arguments.dev:
        parser.error("--port goes with --dev: elsewhere router.yml says it")
    try:
        if arguments.dev:
            return _try_out(arguments)
        path = arguments.config or Path(os.environ.get("NHI_ROUTER_CONFIG", DEFAULT_FILE))
        config = load_config(path)
        Setup.of(config)
    except NHIError as error:
        print(f"nhi-router: {error}", file=sys.stderr)
        return 2
    if arguments.check:
        print(f"{path} is valid")
        return 0
    _run(lambda: serve(Router(config, path), reuse_port=arguments.reuse_port))
    return 0


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    import uvloop

    async def run() -> None:
        await work()

    uvloop.run(run())


def _try_out(arguments: argparse.Namespace) -> int:
    from nhi_services.router import dev

    logging.getLogger("alembic").setLevel(logging.WARNING)
    # A signal before the router listens ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (
        contextlib.closing(socket.create_server(("127.0.0.1", 0))) as echo_socket,
        dev.trial(
            os.environ, arguments.port, arguments.config, f"http://127.0.0.1:{echo_socket.getsockname()[1]}/v1"
        ) as trial,
    ):
        config = load_config(trial.config)
        Setup.of(config)

        async def work() -> None:
            echo = web.AppRunner(dev.echo_application(), handle_signals=False, access_log=None)
            await echo.setup()
            await web.SockSite(echo, echo_socket).start()
            try:
                await serve(Router(config, trial.config), ready=lambda: print(trial.words, flush=True))
            finally:
                await echo.cleanup()

        _run(work)
    return 0


def _hash_key_of_input() -> int:
    """`nhi-router hash-key`: the key on standard input, so that no list of processes shows it."""
    key = sys.stdin.readline().strip()
    if not key or any(ord(letter) < 0x21 or ord(letter) > 0x7E for letter in key):
        print(
            "nhi-router: the key is empty or has letters that no key has; it is read from standard input",
            file=sys.stderr,
        )
        return 2
    print(hash_key(key))
    return 0


if __name__ == "__main__":
    sys.exit(main())
