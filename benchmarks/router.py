# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the router costs, against the LiteLLM proxy, nginx and a minimal Python proxy.

    python -m benchmarks.router [--rounds 3] [--seconds 6] [--only NAME]

Needs wrk and nginx (apt install wrk nginx-light); LiteLLM is installed into the cache. All stand before the same
upstreams: nginx with a fixed answer, and one that streams. They take turns, so that a busy machine is equally busy for
all of them. Each proxy has one core; the load, the upstreams, Redis and PostgreSQL share the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from ansible_collections.nhi.core.plugins.module_utils.routing import Demand, decide
from nhi_services.router.config import load_config
from nhi_services.router.picture import Picture

from benchmarks import RESULTS
from benchmarks.router_world import (
    DIRECT,
    KEY,
    LITELLM,
    LITELLM_PROXY,
    MINIMAL,
    OTHER_CORE,
    PROXY_CORE,
    ROUTER,
    Subject,
    body,
    missing,
    peers_python,
    subjects,
)

CONNECTIONS, STREAMS = 16, 16
LITELLM_TIMES, MINIMAL_SHARE, ADDED_MS, FIRST_TOKEN_MS = 25.0, 0.5, 1.5, 10.0
MEMORY_MB, START_SECONDS, DECISION_MS = 150.0, 2.0, 1.0
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass
class Measured:
    """Of one subject, one number for each round."""

    per_second: list[float] = field(default_factory=list)
    median_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    first_token_ms: list[float] = field(default_factory=list)


def load(subject: Subject, connections: int, seconds: float, scratch: Path) -> tuple[float, float, float]:
    """Answers per second, median and 99th percentile in ms; SystemExit for a wrong answer."""
    script = scratch / "post.lua"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    script.write_text("\n".join(['wrk.method = "POST"', f"wrk.body = {json.dumps(json.dumps(body(subject)))}", *lines]))
    url = f"{subject.base_url}/v1/chat/completions"
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"]
    argv += ["--latency", "-s", script, url]
    done = subprocess.run([str(one) for one in argv], capture_output=True, text=True, check=True)
    said = done.stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"{subject.name} failed under load: {said}")
    latency = {part: float(n) * UNITS[unit] for part, n, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)\b", said)}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if rate is None:
        raise SystemExit(f"wrk said what is not understood: {said}")
    return float(rate[1]), latency["50"], latency["99"]


async def first_tokens(subject: Subject, seconds: float) -> float:
    """The median time to the first word, in ms, while so many streams are read at once."""
    times: list[float] = []
    url = f"{subject.stream_url}/v1/chat/completions"
    headers, deadline = {"Authorization": f"Bearer {KEY}"}, time.monotonic() + seconds
    asked = body(subject, stream=True)

    async def read(session: aiohttp.ClientSession, number: int) -> None:
        await asyncio.sleep(number * 0.035)
        while time.monotonic() < deadline:
            began, first = time.perf_counter(), 0.0
            async with session.post(url, json=asked, headers=headers) as answer:
                said = b""
                async for part in answer.content.iter_any():
                    said += part
                    if not first and b'"word0 ' in said:
                        first = time.perf_counter()
            if answer.status != 200 or b"[DONE]" not in said or not first:
                raise SystemExit(f"{subject.name} did not stream: {answer.status} {said[:300]!r}")
            times.append((first - began) * 1000)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(read(session, number) for number in range(STREAMS)))
    return statistics.median(times)


def compare(there: Mapping[str, Subject], rounds: int, seconds: float, scratch: Path) -> dict[str, Measured]:
    """Each in turn, round by round, after each was asked a little."""
    measured: dict[str, Measured] = defaultdict(Measured)
    for subject in there.values():
        load(subject, CONNECTIONS, 1, scratch)
    for number in range(rounds):
        for name, subject in there.items():
            rate, _median, p99 = load(subject, CONNECTIONS, seconds, scratch)
            _rate, median, _p99 = load(subject, 1, seconds / 2, scratch)
            one = measured[name]
            one.per_second.append(rate)
            one.p99_ms.append(p99)
            one.median_ms.append(median)
            one.first_token_ms.append(asyncio.run(first_tokens(subject, seconds / 2)))
            print(
                f"round {number + 1}: {name}: {rate:.0f}/s, p99 {p99:.1f} ms, median at 1 connection {median:.2f} ms,"
                f" first token {one.first_token_ms[-1]:.1f} ms", flush=True,
            )  # fmt: skip
    return measured


def decision_ms() -> tuple[float, float]:
    """Median and 99th percentile of a decision between the models of the blueprint's task of code."""
    import nhi_services.router

    config = load_config(Path(nhi_services.router.__file__).parent / "examples/blueprint.yml")
    picture = Picture(config)
    demand = Demand("code_generation", config.tasks["code_generation"].chain, 500, 500)
    times = []
    for _number in range(20_000):
        began = time.perf_counter()
        decide(demand, picture.models, picture.readings(demand.chain, stream=False), picture.weights, None)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def table(there: Mapping[str, Subject], measured: Mapping[str, Measured]) -> list[str]:
    """As Markdown."""
    base = measured[DIRECT]
    ours = statistics.median(measured[ROUTER].per_second)
    heads = (
        "median of the rounds", f"answers/s, {CONNECTIONS} connections", "nhi-router is", "p99 ms",
        "added median ms, 1 connection", f"added ms to the first token, {STREAMS} streams", "peak memory MB", "start s",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, one in measured.items():
        rate = statistics.median(one.per_second)
        added, first = added_ms(one, base), added_first_ms(one, base)
        subject = there[name]
        memory = f"{subject.memory_mb():.0f}" if subject.process else ""
        start = f"{subject.started_seconds:.2f}" if subject.started_seconds else ""
        lines.append(
            f"| {name} | {rate:.0f} | {ours / rate:.2f} x | {statistics.median(one.p99_ms):.1f} | {added:.2f} |"
            f" {first:.1f} | {memory} | {start} |"
        )
    return lines


def added_ms(one: Measured, base: Measured) -> float:
    """What a median answer takes longer than from the upstream itself, in the same rounds."""
    return statistics.median(a - b for a, b in zip(one.median_ms, base.median_ms, strict=True))


def added_first_ms(one: Measured, base: Measured) -> float:
    """The same of the first word of a stream."""
    return statistics.median(a - b for a, b in zip(one.first_token_ms, base.first_token_ms, strict=True))


def verdicts(
    there: Mapping[str, Subject], measured: Mapping[str, Measured], decision: tuple[float, float]
) -> list[tuple[bool, str]]:
    """Each goal, whether it was reached, and in words."""
    ours, base, subject = measured[ROUTER], measured[DIRECT], there[ROUTER]
    added, first, memory = added_ms(ours, base), added_first_ms(ours, base), subject.memory_mb()
    start, (median, p99) = subject.started_seconds, decision
    told = []
    for peer, goal in ((LITELLM_PROXY, LITELLM_TIMES), (MINIMAL, MINIMAL_SHARE)):
        if peer in measured:
            times = statistics.median(ours.per_second) / statistics.median(measured[peer].per_second)
            told.append((times >= goal, f"answers/s, times the {peer}'s: {times:.2f} (goal at least {goal:g})"))
    return [
        *told,
        (added <= ADDED_MS, f"added median: {added:.2f} ms (goal at most {ADDED_MS:g})"),
        (first <= FIRST_TOKEN_MS, f"added to the first token: {first:.1f} ms (goal at most {FIRST_TOKEN_MS:g})"),
        (memory < MEMORY_MB, f"memory: {memory:.0f} MB (goal under {MEMORY_MB:g})"),
        (start < START_SECONDS, f"start: {start:.2f} s (goal under {START_SECONDS:g})"),
        (p99 < DECISION_MS, f"decision: median {median:.3f} ms, p99 {p99:.3f} ms (goal under {DECISION_MS:g})"),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write results/router.md; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only", action="append", help="measure only this one beside the upstream; writes nothing")
    options = parser.parse_args(arguments)
    if lacking := missing():
        print(f"benchmarks.router: {' and '.join(lacking)} missing: apt install wrk nginx-light", file=sys.stderr)
        return 0
    usual, loaded = os.sched_getaffinity(0), os.getloadavg()[0]
    programs = peers_python(Path(os.environ["NHI_CACHE"]))
    try:
        with tempfile.TemporaryDirectory(prefix="nhi-bench-") as name:
            scratch = Path(name)
            scratch.chmod(0o711)
            with subjects(scratch, programs) as there:
                if options.only:
                    there = {one: there[one] for one in (DIRECT, *options.only)}
                measured = compare(there, options.rounds, options.seconds, scratch)
                decision = decision_ms()
                rows = table(there, measured)
                goals = verdicts(there, measured, decision) if ROUTER in measured else []
    finally:
        os.sched_setaffinity(0, usual)
    circumstances = (
        f"`python -m benchmarks.router`, {options.rounds} rounds in turn, {options.seconds:g} s of wrk each, bodies of"
        f" 1 KB; {LITELLM}, Python {platform.python_version()}, {os.cpu_count()} CPU cores (load average {loaded:.1f}"
        f" when it began), {datetime.now(UTC):%Y-%m-%d}. Each proxy on core {PROXY_CORE}; wrk, upstreams, Valkey and"
        f" PostgreSQL on core {OTHER_CORE}, which is what bounds nginx. The minimal proxy is uvicorn, one Lua call, and"
        " aiohttp (benchmarks/peers/minimal_proxy.py). nhi-router checks keys, keeps quotas by day and minute, scores"
        " three models, counts metrics, logs, and writes each request and decision to PostgreSQL."
    )
    lines = [f"- {'reached' if good else '**missed**'}: {words}" for good, words in goals]
    text = "\n".join(["# The router", "", circumstances, "", *rows, "", *lines, ""])
    print(text)
    if not options.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "router.md").write_text(text)
    return 0 if all(good for good, _words in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
