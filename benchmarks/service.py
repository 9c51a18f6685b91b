# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the command to a Redis that answers on a new container: playbooks/service.yml against community.proxmox.

    python -m benchmarks.service [--rounds 3] [--subnet 10.86.252.0/24] [--bridge nhibench0]

Needs root: the guests are real containers of a lab of its own. The peer
(benchmarks/peers/service_community_complete.yml) is what an experienced user writes for the same result: one module for
each step, apt lists read only when old, no facts of the controller, no pause. It is run with Ansible's default settings
and with pipelining; beside it stands one that does less (service_community.yml). All run in turn, each round a new
guest; the lab plays no ten seconds of stale lists, in which the peer's second task fails as it does on a real cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import ansible.release

from benchmarks import RESULTS, ROOT

GOAL = 2.0
SAME, SAME_PIPELINED, LESS, OURS = "same", "same, pipelining", "less", "nhi"
NAMES = {
    SAME: "community.proxmox, the same result",
    SAME_PIPELINED: "the same, with pipelining",
    LESS: "less done, with pipelining",
    OURS: "`playbooks/service.yml`",
}
TEMPLATE = "local:vztmpl/debian-12-standard_12_amd64.tar.zst"
# Where a task's time is counted; the first that fits.
PARTS = (
    ("guest: make, start, wait", r"^(Create the guest|Create it|Start it|Wait for SSH)$"),
    ("apt", r"(Install from the lists as they are, unless they are old|Install the package)$"),
    ("facts", r"(Gather the guest's facts|Gathering Facts)$"),
    (
        "role: configure and run",
        r"(nhi\.core\.redis :|^Write the conf|^Make a directory|^Start after the network|^Run it now|^Restart Redis)",
    ),
    ("check, register, scan", r"^(Check it from outside and register it|Wait until it answers)$"),
)  # fmt: skip
REST = "Ansible: start, includes, small tasks"
RECAP = re.compile(r"^(\S.*?) -+ (\d+\.\d+)s$", re.MULTILINE)


@dataclass
class Measured:
    """Runs of one way: whole seconds, seconds by part, requests to the API."""

    whole: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    calls: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of the whole runs."""
        return statistics.median(self.whole)


@dataclass(frozen=True)
class Lab:
    """A lab with real containers; `env` is what an operator would export."""

    directory: Path
    network: str
    env: Mapping[str, str]

    def requests(self) -> int:
        """How many requests its API has answered so far."""
        return len((self.directory / "requests.jsonl").read_text().splitlines())


def environment() -> dict[str, str]:
    """Without what would leak in."""
    leaking = ("PROXMOX_", "ANSIBLE_", "NHI_STATE", "NHI_VAULT", "NHI_LAB", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(leaking)}
    callbacks = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks", "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all"}
    return kept | callbacks | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}


@contextmanager
def running_lab(directory: Path, subnet: str, bridge: str) -> Iterator[Lab]:
    """A lab of its own, removed afterwards."""
    verb = [sys.executable, "-m", "lab"]
    where = ["--dir", str(directory)]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    options = ["--driver", "lxc", "--port", port, "--subnet", subnet, "--bridge", bridge, "--no-lag"]
    try:
        subprocess.run([*verb, "up", *where, *options], cwd=ROOT, env=environment(), check=True)
        lines = (directory / "env").read_text().splitlines()
        pairs = (line.removeprefix("export ").partition("=") for line in lines)
        env = {name: "".join(shlex.split(value)) for name, _equals, value in pairs}
        yield Lab(directory, subnet.rpartition(".")[0], env)
    finally:
        subprocess.run([*verb, "down", *where], cwd=ROOT, env=environment(), check=True)


def timed(argv: Sequence[str], lab: Lab, run: Measured, **more: str) -> None:
    """Run a playbook, note where its seconds went, and make sure that what it promised is there."""
    before = lab.requests()
    started = time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), *argv],
        cwd=ROOT, env={**environment(), **lab.env, **more}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    whole = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{argv} failed: {done.stdout[-3000:]}{done.stderr[-1000:]}")
    said = re.search(r"redis is available at ([\d.]+):6379", done.stdout)
    if not said:
        raise SystemExit(f"{argv} does not say where Redis is: {done.stdout[-3000:]}")
    with socket.create_connection((said[1], 6379), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        if connection.recv(20) != b"+PONG\r\n":
            raise SystemExit(f"{argv} is done and no Redis answers at {said[1]}")
    run.whole.append(whole)
    run.calls.append(lab.requests() - before)
    spent: dict[str, float] = defaultdict(float)
    for name, seconds in RECAP.findall(done.stdout.partition("TASKS RECAP")[2]):
        part = next((part for part, pattern in PARTS if re.search(pattern, name)), REST)
        spent[part] += float(seconds)
    spent[REST] += whole - sum(spent.values())
    for part in (*(part for part, _pattern in PARTS), REST):
        run.parts[part].append(spent[part])


def compare(lab: Lab, rounds: int, scratch: Path) -> dict[str, Measured]:
    """Every way in turn, each round with new guests."""
    runs = {who: Measured() for who in NAMES}
    state = scratch / "infrastructure"
    state.mkdir()
    shutil.copy(ROOT / "infrastructure/dependency_graph.json", state)
    config = scratch / "ansible.cfg"
    config.write_text("[defaults]\nlocalhost_warning = false\ninterpreter_python = auto_silent\n")
    for count in range(rounds):
        ways = ((SAME, "service_community_complete", "false"), (SAME_PIPELINED, "service_community_complete", "true"),
                (LESS, "service_community", "true"))  # fmt: skip
        for offset, (who, playbook, pipelining) in enumerate(ways):
            number = 120 + 2 * count + offset
            variables = {
                "node": lab.env["NHI_NODE"], "template": TEMPLATE, "network": lab.network, "registry": str(scratch),
                "gateway": f"{lab.network}.1", "key": lab.env["NHI_SSH_KEY"],
                "known_hosts": str(scratch / "known_hosts"),
            }  # fmt: skip
            if who == LESS:
                variables |= {"vmid": number, "guest": f"less-{number}", "address": f"{lab.network}.{number}"}
            argv = ["-i", "localhost,", f"benchmarks/peers/{playbook}.yml", "-e", json.dumps(variables)]
            more = {"ANSIBLE_CONFIG": str(config), "ANSIBLE_PIPELINING": pipelining}
            timed(argv, lab, runs[who], **more)
        more = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NHI_STATE_DIR": str(state)}
        argv = ["playbooks/service.yml", "-e", "service=redis", "-e", f"purpose=round{count}"]
        timed(argv, lab, runs[OURS], **more)
    return runs


def table(runs: Mapping[str, Measured]) -> list[str]:
    """Where the seconds go, as Markdown."""
    lines = ["| seconds, median | " + " | ".join(NAMES[who] for who in runs) + " |", "| --- |" + " ---: |" * len(runs)]
    for part in runs[OURS].parts:
        cells = (f"{statistics.median(run.parts[part]):.2f}" for run in runs.values())
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    lines.append("| **command to available** | " + " | ".join(f"**{run.seconds:.2f}**" for run in runs.values()) + " |")
    ranges = (f"{min(run.whole):.2f} to {max(run.whole):.2f}" for run in runs.values())
    lines.append("| fastest to slowest | " + " | ".join(ranges) + " |")
    lines.append(
        "| requests to the API | " + " | ".join(f"{statistics.median(r.calls):.0f}" for r in runs.values()) + " |"
    )
    ratios = (f"{run.seconds / runs[OURS].seconds:.2f}" for run in runs.values())
    return [*lines, "| times as long as `service.yml` | " + " | ".join(ratios) + " |", ""]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write results/service.md; 1 when the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subnet", default="10.86.252.0/24")
    parser.add_argument("--bridge", default="nhibench0")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("benchmarks.service: the guests are real containers, and making them needs root", file=sys.stderr)
        return 0
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="nhi-bench-") as name:
        scratch = Path(name)
        with running_lab(scratch / "lab", options.subnet, options.bridge) as lab:
            runs = compare(lab, options.rounds, scratch)
    ratio = runs[SAME].seconds / runs[OURS].seconds
    circumstances = (
        f"`python -m benchmarks.service`, {options.rounds} rounds in turn, new guests each; ansible-core"
        f" {ansible.release.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPU cores (load average"
        f" {load:.1f} when it began), {datetime.now(UTC):%Y-%m-%d}. Each ended with a Redis that answered PING from"
        " outside. The same result is: VMID and address chosen, host key recorded, Redis configured and asked,"
        " monitoring target and dependency registered, the state of the cluster written down. `less done` is given VMID"
        " and address, trusts the first host key, registers nothing. `service.yml` also verifies the host key against"
        " the creating task and can undo all of it."
    )
    verdict = (
        f"Goal: the same result through community.proxmox takes {GOAL:g} times as long. Measured: {ratio:.2f} times."
    )
    text = "\n".join(["# A service by name, on a new container", "", circumstances, "", *table(runs), verdict, ""])
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "service.md").write_text(text)
    if ratio < GOAL:
        print(f"missed: {ratio:.2f} times as fast, goal {GOAL:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
