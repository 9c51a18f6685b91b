# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router and its peers before the same two upstreams; each proxy on one core, everything else on the other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from nhi_services.router.config import hash_key
from nhi_services.router.embedded import ROLE, Embedded, embedded_servers

from benchmarks import ROOT

PEERS = ROOT / "benchmarks/peers"
LITELLM = "litellm[proxy]==1.105.6"
PACKAGES = {
    "litellm": (LITELLM,),
    "minimal": ("uvicorn==0.54.0", "httptools==0.9.0", "uvloop==0.23.0", "aiohttp==3.14.5", "redis[hiredis]==8.1.0"),
}
KEY = "sk-benchmark"
MODEL = "bench"
DIRECT, NGINX, MINIMAL, BARE, LITELLM_PROXY, ROUTER, BUDGETED = (
    "upstream itself", "nginx", "minimal proxy", "the same, waiting for Redis without limit", "LiteLLM proxy",
    "nhi-router", "nhi-router, daily budget",
)  # fmt: skip
# About 1 KB in each direction.
PROMPT = "Say something about the weather in a few words. " * 18
_READY_SECONDS = 90.0
_USABLE = sorted(os.sched_getaffinity(0))
# One for the proxies, one for everything else; the same where there is only one.
PROXY_CORE, OTHER_CORE = _USABLE[0], _USABLE[-1]
_ANSWER = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It may rain. " * 60},
    }],
    "usage": {"prompt_tokens": 200, "completion_tokens": 180, "total_tokens": 380},
}  # fmt: skip


@dataclass
class Subject:
    """Something that answers; without a process it is an upstream."""

    name: str
    base_url: str
    stream_url: str
    process: subprocess.Popen[bytes] | None = None
    started_seconds: float = 0.0
    # Before the names of the models.
    prefix: str = ""

    def memory_mb(self) -> float:
        """Resident memory of its processes, at their largest."""
        if self.process is None:
            return 0.0
        pids = [self.process.pid, *_children(self.process.pid)]
        return sum(_peak_kb(pid) for pid in pids) / 1024


def body(subject: Subject, *, stream: bool = False) -> dict[str, Any]:
    """A request of about 1 KB."""
    model = f"{subject.prefix}{MODEL}-stream" if stream else f"{subject.prefix}{MODEL}"
    asked = {"model": model, "max_tokens": 500, "messages": [{"role": "user", "content": PROMPT}]}
    return {**asked, "stream": True} if stream else asked


def missing() -> list[str]:
    """Programs that are needed and are not here."""
    return [name for name in ("wrk", "nginx") if _program(name) is None]


def peers_python(cache: Path) -> dict[str, Path]:
    """A virtual environment for each peer, made where it is not there; the folder of its programs."""
    found = {}
    for name, packages in PACKAGES.items():
        home = cache / "peers" / name
        stamp = home / "installed"
        if not stamp.exists() or stamp.read_text() != " ".join(packages):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            subprocess.run([home / "bin/pip", "install", "--quiet", *packages], check=True)
            stamp.write_text(" ".join(packages))
        found[name] = home / "bin"
    return found


@contextlib.contextmanager
def subjects(scratch: Path, programs: Mapping[str, Path]) -> Iterator[dict[str, Subject]]:
    """All of them, running; gone afterwards."""
    os.sched_setaffinity(0, {OTHER_CORE})
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(embedded_servers(scratch / "servers"))
        upstream, streams = free_port(), free_port()
        stack.enter_context(_nginx(scratch / "upstream", _upstream_conf(upstream), OTHER_CORE, upstream))
        stack.enter_context(_running([sys.executable, PEERS / "stream_upstream.py", str(streams)], OTHER_CORE, streams))
        whole, parts = f"http://127.0.0.1:{upstream}", f"http://127.0.0.1:{streams}"
        made = {DIRECT: Subject(DIRECT, whole, parts)}
        port, second = free_port(), free_port()
        conf = _proxy_conf({port: upstream, second: streams})
        process = stack.enter_context(_nginx(scratch / "nginx", conf, PROXY_CORE, port))
        made[NGINX] = Subject(NGINX, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{second}", process)
        makers = (_minimal, _bare, _litellm, _router, _budgeted)
        for name, make in zip((MINIMAL, BARE, LITELLM_PROXY, ROUTER, BUDGETED), makers, strict=True):
            home = scratch / name.replace(" ", "-").replace(",", "")
            home.mkdir()
            made[name] = stack.enter_context(make(name, home, servers, (whole, parts), programs))
        yield made


Urls = tuple[str, str]
Programs = Mapping[str, Path]


@contextlib.contextmanager
def _minimal(
    name: str, _home: Path, servers: Embedded, urls: Urls, programs: Programs, limits: str = "yes"
) -> Iterator[Subject]:
    """One process for each upstream: it knows nothing but to hand on."""
    with contextlib.ExitStack() as stack:
        ports = [free_port(), free_port()]
        processes = []
        for port, url in zip(ports, urls, strict=True):
            argv = [programs["minimal"] / "uvicorn", "--app-dir", PEERS, "minimal_proxy:app", "--port", str(port)]
            argv += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
            env = {"UPSTREAM": url, "REDIS": servers.redis_url, "LIMITS": limits}
            processes.append(stack.enter_context(_running(argv, PROXY_CORE, port, env)))
        yield Subject(name, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", processes[0])


@contextlib.contextmanager
def _litellm(name: str, home: Path, _servers: Embedded, urls: Urls, programs: Programs) -> Iterator[Subject]:
    """As its documentation starts it, with a key, without a database; one worker."""
    models = [
        {"model_name": model, "litellm_params": {"model": "openai/m", "api_base": f"{url}/v1", "api_key": "x"}}
        for model, url in zip((MODEL, f"{MODEL}-stream"), urls, strict=True)
    ]
    config = {"model_list": models, "general_settings": {"master_key": KEY}, "litellm_settings": {"telemetry": False}}
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    argv = [programs["litellm"] / "litellm", "--config", home / "config.yaml", "--num_workers", "1"]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    started = time.monotonic()
    with _running(argv, PROXY_CORE, port, {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}) as process:
        url = f"http://127.0.0.1:{port}"
        _until_answers(f"{url}/health/liveliness", process)
        yield Subject(name, url, url, process, time.monotonic() - started)


@contextlib.contextmanager
def _router(
    name: str, home: Path, servers: Embedded, urls: Urls, _programs: Programs, **agent: Any
) -> Iterator[Subject]:
    """With everything switched on: keys, quotas by day and minute, three models to choose from, costs, books."""
    port = free_port()
    model = {"quality": 8, "context": 100_000, "max_output": 4000, "price": {"input": 0.1, "output": 0.4}}
    many = 1_000_000_000
    limits = {"requests_per_day": many, "requests_per_minute": many, "tokens_per_day": many * 1000}

    def provider(number: int, url: str) -> dict[str, Any]:
        models = {f"model-{number}": {**model, "quality": 9 - number, "upstream": "m"}}
        return {"base_url": f"{url}/v1", "limits": limits, "models": models}

    # The stream's upstream stands in a chain of its own.
    providers = {f"provider-{n}": provider(n, urls[0]) for n in range(3)} | {"streams": provider(3, urls[1])}
    tasks = {MODEL: [f"model-{n}" for n in range(3)], f"{MODEL}-stream": ["model-3"]}
    config = {
        "listen": {"port": port},
        "redis": {"url": servers.redis_url},
        "postgresql": {"dsn": servers.dsn(ROLE)},
        "spool": {"directory": str(home / "spool")},
        "agents": [{"name": "bench", "key_sha256": hash_key(KEY), "task": MODEL, **agent}],
        "providers": providers,
        "tasks": {task: {"chain": chain} for task, chain in tasks.items()},
    }
    path = home / "router.yml"
    path.write_text(yaml.safe_dump(config))
    started = time.monotonic()
    argv = [sys.executable, "-m", "nhi_services.router.main", "--config", path]
    with _running(argv, PROXY_CORE, port, log=home / "log") as process:
        url = f"http://127.0.0.1:{port}"
        _until_answers(f"{url}/readyz", process)
        yield Subject(name, url, url, process, time.monotonic() - started, "nhi/")


def _bare(name: str, home: Path, servers: Embedded, urls: Urls, programs: Programs) -> Any:
    return _minimal(name, home, servers, urls, programs, "no")


def _budgeted(name: str, home: Path, servers: Embedded, urls: Urls, programs: Programs) -> Any:
    return _router(name, home, servers, urls, programs, daily_budget_usd=1_000_000)


def _upstream_conf(port: int) -> str:
    answer = json.dumps(_ANSWER).replace("'", "")
    return (
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 100000000;\n"
        f"location / {{ default_type application/json; return 200 '{answer}'; }} }}"
    )


def _proxy_conf(ports: Mapping[int, int]) -> str:
    text = ""
    for port, upstream in ports.items():
        text += (
            f"upstream to{upstream} {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}\n"
            f"server {{ listen 127.0.0.1:{port}; keepalive_requests 100000000;\n"
            f"location / {{ proxy_pass http://to{upstream}; proxy_http_version 1.1; proxy_set_header Connection '';"
            " proxy_buffering off; } }\n"
        )
    return text


@contextlib.contextmanager
def _nginx(home: Path, servers: str, core: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    home.mkdir()
    paths = "".join(
        f"{name}_temp_path {home}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (home / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{ access_log off;\n{paths}{servers}\n}}\n"
    )
    argv = [_program("nginx") or "nginx", "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"]
    with _running(argv, core, port) as process:
        yield process


@contextlib.contextmanager
def _running(
    argv: Sequence[str | Path], core: int, port: int, env: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on one core that listens; ended afterwards."""
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, argv)], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        try:
            _until_listens(port, process)
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()


def _until_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r} did not start")
        time.sleep(0.01)


def _until_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- ours
            if answer.status == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{url} does not answer")
        time.sleep(0.01)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [*found, *(grandchild for child in found for grandchild in _children(child))]
    return []


def _peak_kb(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
