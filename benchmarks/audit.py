# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs a playbook run to be told to the audit log.

    python -m benchmarks.audit [--rounds 15] [--tasks 2]

The same playbook without a callback, with nhi.core.nhi_audit, and with community.general.log_plays, which keeps a file
of its own for each host. The shortest run is the dearest. They take turns, so that a busy machine is equally busy for
all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import ansible
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify

from benchmarks import RESULTS, ROOT

LIMIT = 1.05
CALLBACKS = {"none": "", "nhi.core.nhi_audit": "nhi.core.nhi_audit", "log_plays": "community.general.log_plays"}
HOSTS = 5
APPENDS = 200


def write_playbook(directory: Path, tasks: int) -> None:
    lines = ["- hosts: all", "  gather_facts: false", "  tasks:"]
    lines += [f"    - ansible.builtin.command: {{argv: [echo, '{number}']}}" for number in range(tasks)]
    (directory / "play.yml").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Cost:
    """What one run took, in seconds: on the clock, and of the processors."""

    wall: float
    cpu: float


def run(directory: Path, callback: str) -> Cost:
    """One run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "NHI_"))}
    settings = {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        **({"ANSIBLE_CALLBACKS_ENABLED": callback} if callback else {}),
        "ANSIBLE_LOG_FOLDER": str(directory / "plays"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "NHI_STATE_DIR": str(directory),
    }
    hosts = ",".join(f"host-{number}" for number in range(HOSTS))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", f"{hosts},", "-c", "local", "play.yml"]
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(argv, cwd=directory, env=kept | settings, capture_output=True, check=False)
    seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise SystemExit(f"the playbook failed with {callback}: {(done.stdout + done.stderr).decode()[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(seconds, cpu)


def ratios(mine: list[Cost], bare: list[Cost], kind: str) -> tuple[float, float]:
    """The median of one kind of cost, and of its ratio to that of the run without a callback in the same round."""
    pairs = [(getattr(one, kind), getattr(other, kind)) for one, other in zip(mine, bare, strict=True)]
    return statistics.median(one for one, _other in pairs), statistics.median(one / other for one, other in pairs)


def append_milliseconds(directory: Path) -> float:
    """Median time of one entry, on the disk of the directory."""
    log, times = AuditLog(directory / "appends"), []
    for number in range(APPENDS):
        started = time.perf_counter()
        log.append({"operation": "benchmark", "outcome": "done", "subject": f"guest-{number}"})
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What the audit callback costs a run.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=2)
    options = parser.parse_args(argv)
    costs: dict[str, list[Cost]] = {name: [] for name in CALLBACKS}
    with tempfile.TemporaryDirectory(prefix="nhi-bench-", dir=ROOT / "benchmarks") as name:
        directory = Path(name)
        write_playbook(directory, options.tasks)
        for _round in range(options.rounds + 1):
            for callback, enabled in CALLBACKS.items():
                costs[callback].append(run(directory, enabled))
        report = verify(directory)
        if not report.whole or report.entries != 2 * (options.rounds + 1):
            raise SystemExit(f"the log is not what it should be: {report.as_data()}")
        one = append_milliseconds(directory)
    # The first round warms the caches up.
    rows = {
        name: [ratios(times[1:], costs["none"][1:], kind) for kind in ("wall", "cpu")] for name, times in costs.items()
    }
    lines = [
        "# Audit of a playbook run",
        "",
        f"`python -m benchmarks.audit`, {HOSTS} hosts, {options.tasks} tasks, {options.rounds} rounds, taking turns;",
        f"ansible-core {ansible.__version__}, {os.cpu_count()} CPU cores, {datetime.now(UTC).date()}.",
        "Medians; the ratio is that of each round, so that it does not matter what else the machine did.",
        "",
        "| callback | time | ratio to none | processor time | ratio to none |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {n} | {wall[0]:.2f} s | {wall[1]:.3f} | {cpu[0]:.2f} s | {cpu[1]:.3f} |"
            for n, (wall, cpu) in rows.items()
        ),
        "",
        f"One entry, flushed to the disk: {one:.1f} ms (median of {APPENDS}).",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.joinpath("audit.md").write_text(text)
    ratio = max(kind[1] for kind in rows["nhi.core.nhi_audit"])
    if ratio > LIMIT:
        print(f"missed: the callback costs {100 * (ratio - 1):.1f} % of the run, more than {100 * (LIMIT - 1):.0f} %")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
