"""Every suite, one after the other, with what each prints; one line for each at the end.

Usage: test.py [check|e2e|lxc|molecule]...
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steps import CORE, ROOT, environment

SCRIPTS = ROOT / "scripts"


@dataclass(frozen=True)
class Suite:
    """A group of tests that runs as one command."""

    name: str
    title: str
    argv: Sequence[str | Path]
    root_only: bool = False


def pytest(marks: str, *paths: str | Path) -> list[str | Path]:
    """The command that runs marked tests and names the slowest."""
    return ["python", "-m", "pytest", "-q", "--durations=8", "-m", marks, *paths]


def suites() -> list[Suite]:
    """All suites in the order in which they run: what fails fast comes first.

    Tests wait more than they work, so several files run at a time; those in tests/ begin, since they take longest.
    """
    places = ("tests", "lab/tests", CORE / "tests/unit", CORE / "services/tests")
    three = ("-n", "3", "--dist", "loadfile")
    return [
        Suite("check", "linters, types, sanity, documentation, fast tests", ["python", SCRIPTS / "check.py", "all"]),
        Suite("e2e", "crash tests, races, journeys in memory", pytest("(slow or e2e) and not lxc", *three, *places)),
        Suite("lxc", "the lab and the journeys on real containers", pytest("lxc", *three, *places), root_only=True),
        Suite("molecule", "the roles on real containers", ["python", SCRIPTS / "molecule.py"], root_only=True),
    ]


def run(suite: Suite, heading: str) -> tuple[str, float]:
    """Run one suite with its output passed through; say how it ended and how long it took."""
    print(f"\n==== {heading} {suite.name}: {suite.title}", flush=True)
    if suite.root_only and os.geteuid() != 0:
        print("**** SKIPPED: this needs root, because it makes real containers. Run it as root to have it tested. ****")
        return "skipped", 0.0
    started = time.monotonic()
    argv = [str(argument) for argument in suite.argv]
    done = subprocess.run(argv, cwd=ROOT, env=environment({}), stdin=subprocess.DEVNULL, check=False)
    # pytest's 5: no test is marked so.
    ended = {0: "passed", 5: "skipped"}.get(done.returncode, "failed")
    return ended, time.monotonic() - started


def main(wanted: Sequence[str]) -> int:
    """Run the wanted suites, or all; fail if one failed."""
    chosen = [suite for suite in suites() if not wanted or suite.name in wanted]
    if not chosen:
        print(f"no such suite; there are: {', '.join(suite.name for suite in suites())}", file=sys.stderr)
        return 64
    ended = [(suite, *run(suite, f"[{at}/{len(chosen)}]")) for at, suite in enumerate(chosen, 1)]
    print("\n==== summary")
    for suite, word, seconds in ended:
        print(f"{word:>8}  {suite.name:<12} {seconds:7.1f} s  {suite.title}")
    words = [word for _suite, word, _seconds in ended]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("passed", "failed", "skipped"))
    print(f"suites: {counts}")
    return 1 if "failed" in words else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
