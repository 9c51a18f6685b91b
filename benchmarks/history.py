# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot of the state and a diff of two, against the least that could be called so.

    python -m benchmarks.history [--guests 1000] [--rounds 25]

The least snapshot is a copy that was flushed to the disk with its name. The least diff loads both documents with `json`
and compares guest by guest. Each takes turns with ours, so that a busy machine is equally busy for both.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.history_view import compare_moments
from ansible_collections.nhi.core.plugins.module_utils.retention import Retention
from ansible_collections.nhi.core.plugins.module_utils.snapshots import KnownState
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import canonical_bytes, checksum_of, utc_now

from benchmarks import RESULTS
from benchmarks.inventory import state_of

# How many times the least our own may take: two files instead of one, each name flushed; all kinds instead of guests.
LIMITS = {"snapshot": 5.0, "diff": 4.0}


@dataclass(frozen=True)
class Pair:
    """One job done by us and by the least that does it, in seconds of each round."""

    name: str
    ours: tuple[float, ...]
    least: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.least)


def timed(action: Callable[[], Any]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def synced_copy(source: Path, target: Path) -> None:
    """The least snapshot."""
    shutil.copyfile(source, target)
    for path in (target, target.parent):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def bare_diff(before: Path, after: Path) -> list[int]:
    """The least diff: VMIDs that differ."""
    old, new = (
        {guest["vmid"]: guest for guest in json.loads(path.read_bytes())["infrastructure"]["guests"]}
        for path in (before, after)
    )
    return [vmid for vmid in sorted(old.keys() | new.keys()) if old.get(vmid) != new.get(vmid)]


def snapshots(directory: Path, rounds: int) -> Pair:
    """Keep a state that is new each time."""
    store, ours, least = StateStore(directory), [], []
    copies = directory / "copies"
    copies.mkdir()
    for number in range(rounds):
        store.update(lambda document: document or {})
        history = History(directory)

        def take(history: History = history) -> None:
            state = store.read_known()
            if state is None or not history.take(state, utc_now(), reason="benchmark", actor="benchmark").new:
                raise SystemExit("no new snapshot was taken: nothing is compared.")

        ours.append(timed(take))
        least.append(timed(lambda number=number: synced_copy(store.path, copies / f"{number}.json")))
    return Pair("snapshot", tuple(ours), tuple(least))


def diffs(directory: Path, rounds: int) -> Pair:
    """Compare yesterday's snapshot with now: every tenth guest was corrected, one is gone, one is new."""
    store = StateStore(directory)
    now = store.read().document
    then = copy.deepcopy(now)
    for guest in then["infrastructure"]["guests"][::10]:
        guest.update(memory_mib=512, config_digest="0" * 40)
    then["infrastructure"]["guests"].pop()
    raw = canonical_bytes(then)
    yesterday = utc_now() - timedelta(days=1)
    taken = History(directory).take(KnownState(raw, checksum_of(raw), yesterday), yesterday, reason="", actor="")
    if taken.snapshot is None:
        raise SystemExit("no snapshot was taken: nothing is compared.")
    path, name = taken.snapshot.path, str(taken.snapshot.name)
    found = {change.vmid for change in compare_moments(directory, name).changes if change.kind == "guest"}
    if found != set(bare_diff(path, store.path)):
        raise SystemExit("ours and the least do not see the same guests: nothing is compared.")
    ours, least = [], []
    for _round in range(rounds):
        ours.append(timed(lambda: compare_moments(directory, name)))
        least.append(timed(lambda: bare_diff(path, store.path)))
    return Pair("diff", tuple(ours), tuple(least))


def retention(directory: Path) -> tuple[int, float]:
    """How many snapshots a retention run looked at and how many seconds it took when most stay."""
    history = History(directory)
    count = len(history.snapshots())
    return count, timed(lambda: history.prune(Retention(), utc_now()))


def report(guests: int, pairs: list[Pair], pruned: tuple[int, float]) -> str:
    """The results as Markdown."""
    circumstances = (
        f"`python -m benchmarks.history --guests {guests}`, {len(pairs[0].ours)} rounds; Python "
        f"{platform.python_version()}, {os.cpu_count()} CPU cores, {datetime.now(UTC):%Y-%m-%d}."
    )
    lines = [
        f"# History of a lab of {guests} guests",
        "",
        circumstances,
        "",
        "| | ours, median | the least, median | ours / the least | goal |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for pair in pairs:
        ours, least = (statistics.median(seconds) * 1000 for seconds in (pair.ours, pair.least))
        lines.append(
            f"| {pair.name} | {ours:.1f} ms | {least:.1f} ms | {pair.ratio:.2f} x | at most {LIMITS[pair.name]:g} x |"
        )
    explanation = (
        "The least snapshot is a copy, flushed with its name; ours verifies the state, looks whether it is kept "
        "already, and writes a checksum too. The least diff loads both with `json` and compares guests; ours verifies "
        "both, and compares services, nodes, storage and alerts as well."
    )
    lines += [
        "",
        explanation,
        "",
        f"A retention run that verifies {pruned[0]} snapshots takes {pruned[1]:.2f} s.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write results/history.md; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="nhi-history-"))
    try:
        StateStore(directory).write(state_of(options.guests), expected_checksum=None)
        pairs = [snapshots(directory, options.rounds), diffs(directory, options.rounds)]
        pruned = retention(directory)
    finally:
        shutil.rmtree(directory)
    text = report(options.guests, pairs, pruned)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "history.md").write_text(text)
    problems = [pair for pair in pairs if pair.ratio > LIMITS[pair.name]]
    for pair in problems:
        print(f"missed: {pair.name} takes {pair.ratio:.2f} times the least", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
