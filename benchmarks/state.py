# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verified reads of state.json, and compare-and-swap by many writers, against the least that could be called so.

    python -m benchmarks.state [--guests 1000] [--rounds 60] [--writers 8] [--seconds 4] [--turns 3]

The least read is json.load of the same file, which notices no damage. The least writer takes flock, reads, changes one
number, and renames a flushed file over the old one: it can lose no update either, but holds the lock while it computes,
and has no checksum, no validation and no state that survives a crash between two files. All take turns.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.errors import ConflictError
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import Document

from benchmarks import RESULTS
from benchmarks.inventory import state_of

# Of the rate of json.load, and of the least writer.
READ_GOAL, WRITE_GOAL = 0.5, 0.1
LONGEST_WAIT_SECONDS = 60.0
SWAP, AMEND, BARE = "compare-and-swap", "`amend`, under the lock", "flock, rename, bare"
Write = Callable[[StateStore], int]


def bare_read(path: Path) -> Any:
    """The least read."""
    with path.open(encoding="utf-8") as file:
        return json.load(file)


def reads(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each read, verified and bare."""
    store = StateStore(directory)
    if store.read().document != bare_read(store.path):
        raise SystemExit("the two do not read the same: nothing is compared.")
    actions: dict[str, Callable[[], Any]] = {"verified": store.read, "bare": lambda: bare_read(store.path)}
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _round in range(rounds):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def counted(document: Document) -> int:
    """How many writes the document has seen."""
    return int(document["infrastructure"]["guests"][0]["uptime_seconds"])


def counted_on(document: Document) -> Document:
    """The same with one write more; the input stays as it is."""
    infrastructure = document["infrastructure"]
    first, *others = infrastructure["guests"]
    more = {**first, "uptime_seconds": first["uptime_seconds"] + 1}
    return {**document, "infrastructure": {**infrastructure, "guests": [more, *others]}}


def swap(store: StateStore) -> int:
    """One write by compare-and-swap; how many attempts found that somebody else had written."""
    conflicts = 0
    while True:
        current = store.read()
        try:
            store.write(counted_on(current.document), expected_checksum=current.checksum)
        except ConflictError:
            conflicts += 1
            continue
        return conflicts


def amend(store: StateStore) -> int:
    """One write with the lock held from read to write."""
    store.amend(lambda document: counted_on(document or {}))
    return 0


def bare_write(store: StateStore) -> int:
    """The least writer."""
    aside = store.path.with_name(f"bare.{os.getpid()}")
    with (store.directory / "bare.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        document = counted_on(json.loads(store.path.read_bytes()))
        with aside.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, sort_keys=True, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(store.path)
    return 0


@dataclass(frozen=True)
class Writes:
    """What several writers did in one turn."""

    done: int
    conflicts: int
    seconds: float
    lost: int
    fewest: int
    most: int


def _writer(directory: Path, write: Write, gate: Any, ends: Any, told: Any, seconds: float) -> None:
    store = StateStore(directory, lock_timeout=LONGEST_WAIT_SECONDS)
    done = conflicts = 0
    gate.wait()
    with ends.get_lock():
        ends.value = ends.value or time.monotonic() + seconds
    while time.monotonic() < ends.value:
        conflicts += write(store)
        done += 1
    told.put((done, conflicts))


def turn(guests: int, write: Write, writers: int, seconds: float) -> Writes:
    """Let so many processes write for so long, then count what arrived."""
    directory = Path(tempfile.mkdtemp(prefix="nhi-writers-"))
    try:
        store = StateStore(directory)
        store.write(state_of(guests), expected_checksum=None)
        before = counted(bare_read(store.path))
        context = multiprocessing.get_context("fork")
        gate, ends, told = context.Barrier(writers), context.Value("d", 0.0), context.Queue()
        arguments = (directory, write, gate, ends, told, seconds)
        processes = [context.Process(target=_writer, args=arguments) for _number in range(writers)]
        started = time.monotonic()
        for process in processes:
            process.start()
        counts = [told.get(timeout=seconds + 2 * LONGEST_WAIT_SECONDS) for _process in processes]
        took = time.monotonic() - started
        for process in processes:
            process.join()
        done = sum(count for count, _conflicts in counts)
        lost = done - (counted(bare_read(store.path)) - before)
        each = [count for count, _conflicts in counts]
        return Writes(done, sum(conflicts for _count, conflicts in counts), took, lost, min(each), max(each))
    finally:
        shutil.rmtree(directory)


def report(options: argparse.Namespace, seconds: dict[str, list[float]], writes: dict[str, list[Writes]]) -> list[str]:
    """The results as Markdown."""
    ms = {name: statistics.median(found) * 1000 for name, found in seconds.items()}
    how = (
        f"`python -m benchmarks.state --guests {options.guests} --writers {options.writers}`; Python "
        f"{platform.python_version()}, {os.cpu_count()} CPU cores, {datetime.now(UTC):%Y-%m-%d}."
    )
    rows = [
        ("verified against its checksum", ms["verified"], f"at least {READ_GOAL:g}"),
        ("`json.load`, bare", ms["bare"], ""),
    ]
    turns = f"{options.writers} writers, {options.write_guests} guests, {options.turns} turns of {options.seconds:g} s"
    explanation = (
        "A write of ours checks what changed against the schema, flushes document and checksum with their names, and "
        "leaves a valid state whenever it is killed; with compare-and-swap the change is computed without the lock, "
        "and again after a conflict. Bare flushes one file, checks nothing, and computes under the lock."
    )
    return [
        f"# state.json of {options.guests} guests: reads and writes",
        "",
        how,
        "",
        f"| read, median of {options.rounds} rounds | time | reads a second | rate / bare | goal |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | {took:.1f} ms | {1000 / took:.0f} | {ms['bare'] / took:.2f} | {goal} |"
            for name, took, goal in rows
        ),
        "",
        f"| {turns} | writes a second | rate / bare | conflicts a write | fewest, most by one writer | lost |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(_write_row(name, found, rate(writes[BARE])) for name, found in writes.items()),
        "",
        explanation,
    ]


def _write_row(name: str, turns: list[Writes], bare: float) -> str:
    conflicts = sum(one.conflicts for one in turns) / sum(one.done for one in turns)
    goal = f" (goal: {WRITE_GOAL:g})" if name == SWAP else ""
    spread = f"{min(one.fewest for one in turns)}, {max(one.most for one in turns)}"
    lost = sum(one.lost for one in turns)
    return f"| {name} | {rate(turns):.0f} | {rate(turns) / bare:.2f}{goal} | {conflicts:.2f} | {spread} | {lost} |"


def rate(turns: list[Writes]) -> float:
    """Writes a second, the median turn."""
    return statistics.median(one.done / one.seconds for one in turns)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write results/state.md; 1 when a goal was missed or an update lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--write-guests", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nhi-state-") as directory:
        StateStore(directory).write(state_of(options.guests), expected_checksum=None)
        seconds = reads(Path(directory), options.rounds)
    kinds: dict[str, Write] = {SWAP: swap, AMEND: amend, BARE: bare_write}
    writes: dict[str, list[Writes]] = {name: [] for name in kinds}
    for _turn in range(options.turns):
        for name, write in kinds.items():
            writes[name].append(turn(options.write_guests, write, options.writers, options.seconds))
    text = "\n".join(report(options, seconds, writes)) + "\n"
    print(text)
    (RESULTS / "state.md").write_text(text)
    problems = [f"{name} lost updates" for name, turns in writes.items() if any(one.lost for one in turns)]
    ratio = statistics.median(seconds["bare"]) / statistics.median(seconds["verified"])
    if ratio < READ_GOAL:
        problems.append(f"verified reads are {ratio:.2f} times as many as bare ones, less than {READ_GOAL}")
    swaps = rate(writes["compare-and-swap"]) / rate(writes["flock, rename, bare"])
    if swaps < WRITE_GOAL:
        problems.append(
            f"compare-and-swap writes {swaps:.2f} times as often as the least writer, less than {WRITE_GOAL}"
        )
    for problem in problems:
        print(f"missed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
