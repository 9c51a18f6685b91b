# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scan with addresses: nhi.core.nhi_state_scan against ansible-inventory with community.proxmox and want_facts.

    python -m benchmarks.scan [--guests 200 1000] [--nodes 10] [--delay 0.02] [--rounds 5]

Both ask the same server, which answers each request after a fixed time and works on three requests of a node at once.
Nothing is compared unless both found the address of every running guest. Health checks are off: the guests exist only
as answers. Peers are given as whole runs; the module's own time and the whole run of its playbook stand side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import ansible.release

from benchmarks import RESULTS, ROOT
from benchmarks.pve_world import World

USER, TOKEN, SECRET = "bench@pve", "reader", "b9a7c6de-1111-4222-8333-444455556666"
# The goals, as parts of the peer's time.
GOALS = {200: {"cold": 30, "warm": 100}, 1000: {"cold": 40}}
WARM_CALLS = 3
PLAYBOOK = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - nhi.core.nhi_state_scan: {options}
"""
INVENTORY = """\
plugin: community.proxmox.proxmox
url: {url}
user: {user}
token_id: {token}
token_secret: {secret}
validate_certs: false
want_facts: true
"""


@dataclass
class Measured:
    """Runs of one thing: whole seconds, the module's own seconds where there is one, requests."""

    whole: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of what is compared: the module's own time, or the whole run of a peer."""
        return statistics.median(self.own or self.whole)


@dataclass(frozen=True)
class Api:
    """The server under measurement."""

    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def requests(self) -> int:
        """How many requests it has answered so far."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = HTTPSConnection("127.0.0.1", self.port, context=context)
        connection.request("GET", "/requests")
        return int(connection.getresponse().read())


@contextmanager
def server(guests: int, nodes: int, delay: float) -> Iterator[Api]:
    """A server of its own process; ended by its process id."""
    options = ["--guests", str(guests), "--nodes", str(nodes), "--delay", str(delay)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.pve_server", *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.strip().isdigit():
            raise SystemExit("the server of the benchmark did not come up")
        yield Api(int(line))
    finally:
        process.terminate()
        process.wait()


def environment(**more: str) -> dict[str, str]:
    """Without what would leak in: settings of Proxmox, of Ansible, and the CA bundle that overrides verify=False."""
    leaking = ("PROXMOX_", "ANSIBLE_", "NHI_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(leaking)}
    return kept | {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"), "ANSIBLE_LOCALHOST_WARNING": "false"} | more


def program(name: str, *arguments: str, directory: Path, **more: str) -> tuple[float, bytes]:
    """Run a console script of Ansible; its whole duration and output."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).parent / name), *arguments],
        cwd=directory, env=environment(**more), capture_output=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{name} failed: {(done.stderr or done.stdout).decode()[-2000:]}")
    return seconds, done.stdout


def measure_peer(api: Api, directory: Path, measured: Measured) -> dict[str, set[str]]:
    """One whole run of ansible-inventory; the IPv4 addresses it found, by host."""
    source = directory / "lab.proxmox.yml"
    source.write_text(INVENTORY.format(url=api.url, user=USER, token=TOKEN, secret=SECRET))
    before = api.requests()
    seconds, output = program("ansible-inventory", "-i", str(source), "--list", directory=directory)
    measured.whole.append(seconds)
    measured.calls.append(api.requests() - before)
    hosts = json.loads(output, object_hook=unwrapped)["_meta"]["hostvars"]
    return {name: peer_addresses(facts) for name, facts in hosts.items()}


def unwrapped(item: dict[str, Any]) -> Any:
    """ansible-inventory writes text from outside as {"__ansible_unsafe": text}."""
    return item.get("__ansible_unsafe", item)


def peer_addresses(facts: Mapping[str, Any]) -> set[str]:
    """What community.proxmox knows of a guest's addresses, from the container's interfaces or the agent."""
    listed = [item.get("inet") for item in facts.get("proxmox_lxc_interfaces", ())]
    listed += [cidr for item in facts.get("proxmox_agent_interfaces", ()) for cidr in item["ip-addresses"]]
    plain = {str(cidr).partition("/")[0] for cidr in listed if cidr}
    return {address for address in plain if not address.startswith("127.") and ":" not in address}


def measure_scan(api: Api, directory: Path, measured: Measured) -> dict[str, str]:
    """One run of a playbook that scans; the address of each running guest in state.json."""
    options = {
        "api_host": "127.0.0.1", "api_port": api.port, "api_user": USER, "api_token_id": TOKEN,
        "api_token_secret": SECRET, "validate_certs": False, "state_dir": str(directory / "state"),
        "health_checks": False,
    }  # fmt: skip
    playbook = directory / "scan.yml"
    playbook.write_text(PLAYBOOK.format(options=json.dumps(options)))
    before = api.requests()
    seconds, output = program(
        "ansible-playbook", str(playbook),
        directory=directory, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json",
    )  # fmt: skip
    result = json.loads(output)["plays"][0]["tasks"][0]["hosts"]["localhost"]
    calls = api.requests() - before
    if calls != result["api_calls"]:
        raise SystemExit(f"the module says it made {result['api_calls']} requests, the server counted {calls}")
    measured.whole.append(seconds)
    measured.own.append(result["durations"]["total"])
    measured.calls.append(calls)
    state = json.loads((directory / "state" / "state.json").read_text())
    guests = state["infrastructure"]["guests"]
    return {guest["name"]: guest["address"] for guest in guests if guest["status"] == "running"}


def compare(guests: int, nodes: int, delay: float, rounds: int) -> dict[str, Measured]:
    """Peer once, then cold and warm scans; refuses to compare clients that did not find the same."""
    runs = {"peer": Measured(), "cold": Measured(), "warm": Measured()}
    truth = World(guests, nodes).addresses()
    directory = Path(tempfile.mkdtemp(prefix="nhi-scan-"))
    try:
        with server(guests, nodes, delay) as api:
            found = measure_peer(api, directory, runs["peer"])
            check("community.proxmox", {name: {address} for name, address in truth.items()},
                  {name: found.get(name, set()) for name in truth})  # fmt: skip
            for _round in range(rounds):
                shutil.rmtree(directory / "state", ignore_errors=True)
                for kind in ("cold", "warm"):
                    check(f"the {kind} scan", truth, measure_scan(api, directory, runs[kind]))
    finally:
        shutil.rmtree(directory)
    return runs


def check(who: str, truth: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Every running guest must have been found at its address."""
    wrong = sorted(name for name in truth.keys() | found.keys() if truth.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise SystemExit(
            f"{who} is wrong about {len(wrong)} guests, nothing is compared: {name} is at {truth.get(name)},"
            f" and it says {found.get(name)}"
        )


def table(guests: int, runs: Mapping[str, Measured]) -> list[str]:
    """One table of Markdown for one size of lab."""
    peer = runs["peer"]
    names = {"peer": "`ansible-inventory`, community.proxmox, `want_facts`", "cold": "`nhi_state_scan`, cold",
             "warm": "`nhi_state_scan`, nothing changed"}  # fmt: skip
    lines = [
        f"## {guests} guests",
        "",
        "| | requests | module's own time | whole run | peer's whole run / own time | peer / whole run |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, run in runs.items():
        whole = statistics.median(run.whole)
        own = f"{run.seconds:.3f} s" if run.own else "-"
        ratio = f"{peer.seconds / run.seconds:.0f} x" if run.own else "1 x"
        goal = GOALS.get(guests, {}).get(kind)
        ratio += f" (goal {goal} x)" if goal else ""
        calls = f"{statistics.median(run.calls):.0f}"
        lines.append(f"| {names[kind]} | {calls} | {own} | {whole:.2f} s | {ratio} | {peer.seconds / whole:.1f} x |")
    return [*lines, ""]


def missed(guests: int, runs: Mapping[str, Measured]) -> list[str]:
    """The goals that were not reached."""
    problems = [
        f"{guests} guests, {kind}: {runs['peer'].seconds / runs[kind].seconds:.1f} times as fast, goal {goal}"
        for kind, goal in GOALS.get(guests, {}).items()
        if runs["peer"].seconds / runs[kind].seconds < goal
    ]
    if max(runs["warm"].calls) > WARM_CALLS:
        problems.append(f"{guests} guests, warm: {max(runs['warm'].calls)} requests, goal {WARM_CALLS}")
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write results/scan.md; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guests", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds each request takes")
    parser.add_argument("--rounds", type=int, default=5, help="scans of each kind; the median counts")
    options = parser.parse_args(arguments)
    circumstances = (
        f"`python -m benchmarks.scan`, {options.nodes} nodes, {options.delay * 1000:.0f} ms per request, three requests"
        f" of a node at once, median of {options.rounds} scans, one run of the peer;"
        f" ansible-core {ansible.release.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPU cores"
        f" (load average {os.getloadavg()[0]:.1f} when it began), {datetime.now(UTC):%Y-%m-%d}."
        " Both found the same address of every running guest."
    )
    lines = ["# Scan with addresses", "", circumstances, ""]
    problems: list[str] = []
    for guests in options.guests:
        runs = compare(guests, options.nodes, options.delay, options.rounds)
        lines += table(guests, runs)
        problems += missed(guests, runs)
    text = "\n".join(lines)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scan.md").write_text(text)
    for problem in problems:
        print(f"missed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
