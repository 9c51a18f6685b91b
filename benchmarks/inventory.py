"""`ansible-inventory --list` from state.json, against the same hosts, groups and variables in static sources.

    python -m benchmarks.inventory [--hosts 1000] [--rounds 7]

The sources take turns, so that a busy machine is equally busy for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ansible
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import (
    Document,
    empty_document,
    format_time,
    generated_by,
    utc_now,
)
from ansible_collections.nhi.core.plugins.plugin_utils.state_hosts import inventory_hosts
from ansible_collections.nhi.core.plugins.plugin_utils.state_source import read_state

from benchmarks import RESULTS, ROOT

PLUGIN_LIMIT_SECONDS = 0.1
NODES = 10
SERVICES = ("redis", "postgresql", "chromadb")


@dataclass(frozen=True)
class Measured:
    """Durations of one thing, in seconds."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def state_of(hosts: int) -> Document:
    """A lab of that many guests: two addresses each, three tags, a service on every third."""
    now = format_time(utc_now())
    document = empty_document(generated_by("benchmark", "0.1.0", "benchmark", "localhost"), utc_now())
    for number in range(hosts):
        guest = _guest(number, now)
        document["infrastructure"]["guests"].append(guest)
        if number % 3 == 0:
            document["infrastructure"]["services"].append(_service(guest, now))
    return document


def _guest(number: int, now: str) -> dict[str, Any]:
    address = f"10.{86 + number // 62500}.{number // 250 % 250}.{number % 250 + 2}"
    common = {"interface": "eth0", "mac": f"BC:24:11:00:{number // 256 % 256:02X}:{number % 256:02X}"}
    return {
        "vmid": 100 + number,
        "name": f"guest-{100 + number}",
        "type": "qemu" if number % 4 == 0 else "lxc",
        "node": f"pve{number % NODES}",
        "status": "stopped" if number % 5 == 0 else "running",
        "template": False,
        "tags": [f"svc-{_service_name(number)}", f"team-{number % 7}", "lab"],
        "pool": "ai-lab",
        "lock": None,
        "protection": False,
        "cores": 2,
        "memory_mib": 1024,
        "disk_mib": 8192,
        "uptime_seconds": 3600,
        "cpu_usage": 0.01,
        "memory_used_mib": 200,
        "config_digest": f"{number:040x}",
        "created_at": now,
        "description": None,
        "addresses": [
            {"address": address, "prefix": 16, "family": "ipv4", "source": "config", **common},
            {"address": f"fd00:86::{number + 2:x}", "prefix": 64, "family": "ipv6", "source": "interfaces", **common},
        ],
        "address": address,
        "health": "healthy",
        "observed_at": now,
        "source": "api:/cluster/resources",
        "freshness": "fresh",
    }


def _service_name(number: int) -> str:
    return SERVICES[number % len(SERVICES)]


def _service(guest: Mapping[str, Any], now: str) -> dict[str, Any]:
    name = _service_name(guest["vmid"] - 100)
    url = f"{name}://{guest['address']}:6379"
    return {
        "name": name,
        "service": name,
        "purpose": None,
        "type": guest["type"],
        "tags": guest["tags"],
        "guest": guest["name"],
        "vmid": guest["vmid"],
        "address": guest["address"],
        "endpoints": [
            {
                "name": "main",
                "protocol": "tcp",
                "port": 6379,
                "url": url,
                "health": "healthy",
                "latency_ms": 0.6,
                "detail": None,
                "observed_at": now,
            }
        ],
        "health": "healthy",
        "observed_at": now,
        "source": "probe",
        "freshness": "fresh",
    }


def ansible_inventory(source: Path) -> bytes:
    """What `ansible-inventory --list` prints for a source, with this checkout's collection and nothing else set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "NHI_"))}
    settings = {
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
    }
    program = Path(sys.executable).parent / "ansible-inventory"
    done = subprocess.run(
        [program, "-i", source, "--list"], cwd=source.parent, env=kept | settings, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"ansible-inventory failed on {source}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def write_sources(directory: Path, hosts: int) -> dict[str, Path]:
    """The same inventory three times: state.json, a JSON file for the yaml plugin, an inventory script."""
    StateStore(directory).write(state_of(hosts), expected_checksum=None)
    # Ages would differ from run to run; a limit that nothing reaches keeps every guest as it is.
    plugin = directory / "lab.nhi_state.yml"
    plugin.write_text("plugin: nhi.core.nhi_state\nstate_dir: .\nstale_after: 0\n")
    listed = json.loads(ansible_inventory(plugin))
    static = directory / "static.json"
    static.write_text(json.dumps(as_static(listed)))
    data = directory / "listed.json"
    data.write_text(json.dumps(listed))
    script = directory / "script"
    script.write_text(f"#!/bin/sh\nexec cat {data}\n")
    script.chmod(0o755)
    return {"state.json, nhi.core.nhi_state": plugin, "static JSON file": static, "inventory script": script}


def as_static(listed: Mapping[str, Any]) -> dict[str, Any]:
    """The output of `--list` in the form that the yaml plugin reads."""
    groups = {
        name: {key: dict.fromkeys(group.get(key, ())) for key in ("hosts", "children")}
        for name, group in listed.items()
        if name not in ("_meta", "all", "ungrouped")
    }
    return {"all": {"hosts": listed["_meta"]["hostvars"], "children": groups}}


def comparable(output: bytes) -> Any:
    """Hosts and groups with hosts, in no order, and without ages, which grow while we measure."""
    listed = json.loads(output)
    for variables in listed["_meta"]["hostvars"].values():
        variables.pop("nhi_age_seconds")
    groups = {name: sorted(group["hosts"]) for name, group in listed.items() if "hosts" in group}
    return listed["_meta"]["hostvars"], groups


def timed(name: str, action: Callable[[], Any], rounds: int) -> Measured:
    """How long an action takes, that many times."""
    seconds = []
    for _round in range(rounds):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return Measured(name, tuple(seconds))


def compare_sources(sources: Mapping[str, Path], rounds: int) -> list[Measured]:
    """`ansible-inventory --list` on each source in turn; all of them must say the same."""
    outputs = {name: comparable(ansible_inventory(path)) for name, path in sources.items()}
    first, *others = outputs
    for name in others:
        if outputs[name] != outputs[first]:
            raise SystemExit(f"{name} does not say the same as {first}: nothing is compared.")
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for _round in range(rounds):
        for name, path in sources.items():
            seconds[name].extend(timed(name, partial(ansible_inventory, path), 1).seconds)
    return [Measured(name, tuple(values)) for name, values in seconds.items()]


def own_work(directory: Path, rounds: int) -> list[Measured]:
    """The plugin's own part: read and verify the state, and make hosts of its guests."""
    now = utc_now()
    read_and_shaped = timed(
        "read, verify and shape",
        lambda: list(inventory_hosts(read_state(str(directory), max_age=86400, now=now), now=now, stale_after=900)),
        rounds,
    )
    return [timed("read and verify", lambda: StateStore(directory).read(), rounds), read_and_shaped]


def report(hosts: int, runs: list[Measured], own: list[Measured]) -> str:
    """The results as Markdown."""
    ours = runs[0].median
    circumstances = (
        f"`python -m benchmarks.inventory --hosts {hosts}`, {len(runs[0].seconds)} rounds, sources taking turns; "
        f"ansible-core {ansible.release.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPU cores, {datetime.now(UTC):%Y-%m-%d}."
    )
    lines = [
        f"# Inventory of {hosts} hosts",
        "",
        circumstances,
        "",
        "| `ansible-inventory --list` from | median | best | state.json takes |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [f"| {run.name} | {run.median:.2f} s | {run.best:.2f} s | {ours / run.median:.2f} x |" for run in runs]
    lines += ["", "| the plugin's own work | median | best |", "| --- | ---: | ---: |"]
    lines += [f"| {work.name} | {work.median * 1000:.1f} ms | {work.best * 1000:.1f} ms |" for work in own]
    return "\n".join(lines) + "\n"


def missed(runs: list[Measured], own: list[Measured]) -> list[str]:
    """The goals that were not reached."""
    ours, static, *_others = runs
    found = []
    if ours.median > static.median:
        found.append(f"{ours.name} takes longer than {static.name}")
    found += [
        f"{work.name} takes more than {PLUGIN_LIMIT_SECONDS * 1000:.0f} ms"
        for work in own
        if work.median > PLUGIN_LIMIT_SECONDS
    ]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write results/inventory.md; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="nhi-inventory-"))
    try:
        sources = write_sources(directory, options.hosts)
        runs = compare_sources(sources, options.rounds)
        own = own_work(directory, options.rounds * 5)
    finally:
        shutil.rmtree(directory)
    text = report(options.hosts, runs, own)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "inventory.md").write_text(text)
    problems = missed(runs, own)
    for problem in problems:
        print(f"missed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
