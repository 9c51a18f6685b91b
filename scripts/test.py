"""Every suite, one after the other, with what each prints; one line for each at the end.

Usage: test.py [check|e2e|molecule]...
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
# Files that take minutes begin, so that none of them is alone at the end.
LONGEST = tuple(f"tests/test_{name}.py" for name in ("restart_containers", "service", "kills", "state_torture"))
NEEDS_ROOT = "this needs root, because it makes real containers. Run it as root to have it tested."


@dataclass(frozen=True)
class Suite:
    """A group of tests that runs as one command; `for_root` says what of it needs root: all, or a part."""

    name: str
    title: str
    argv: Sequence[str | Path]
    for_root: str = ""


def journeys() -> Suite:
    """All that takes long, on containers too where they can be made: several files at a time, as tests mostly wait."""
    marks = "slow or e2e or lxc" if os.geteuid() == 0 else "(slow or e2e) and not lxc"
    places: list[str | Path] = [*LONGEST, "tests", "lab/tests", CORE / "tests/unit", CORE / "services/tests"]
    at_once = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
    argv = ["python", "-m", "pytest", "-q", "--durations=8", "-m", marks, *at_once, *places]
    return Suite("e2e", "crash tests, races, journeys in memory and on real containers", argv, for_root="a part")


def suites() -> list[Suite]:
    """All suites in the order in which they run: what fails fast comes first."""
    return [
        Suite("check", "linters, types, sanity, documentation, fast tests", ["python", SCRIPTS / "check.py", "all"]),
        journeys(),
        Suite("molecule", "the roles on real containers", ["python", SCRIPTS / "molecule.py"], for_root="all"),
    ]


def run(suite: Suite, heading: str) -> tuple[str, float]:
    """Run one suite with its output passed through; say how it ended and how long it took."""
    print(f"\n==== {heading} {suite.name}: {suite.title}", flush=True)
    if suite.for_root and os.geteuid() != 0:
        print(f"**** SKIPPED, {suite.for_root} of it: {NEEDS_ROOT} ****", flush=True)
        if suite.for_root == "all":
            return "skipped", 0.0
    started = time.monotonic()
    argv = [str(argument) for argument in suite.argv]
    done = subprocess.run(argv, cwd=ROOT, env=environment({}), stdin=subprocess.DEVNULL, check=False)
    # pytest's 5: no test is marked so.
    ended = {0: "passed", 5: "skipped"}.get(done.returncode, "failed")
    return ended, time.monotonic() - started


def main(wanted: Sequence[str]) -> int:
    """Run the wanted suites, or all; fail if one failed."""
    known = {suite.name: suite for suite in suites()}
    if unknown := sorted(set(wanted) - set(known)):
        print(f"no such suite: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 64
    chosen = [suite for name, suite in known.items() if not wanted or name in wanted]
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
