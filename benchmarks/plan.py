# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan costs for a guest that many depend on: nhi_vm's check run against the bare requests that it makes.

    python -m benchmarks.plan [--dependents 50] [--rounds 200]

The module's part only: graph and state read from files, the guest read from the API, impact, order, safe window and
checks. Bare are the same requests over the same client, one after the other, and nothing else; and for what the graph
costs, json.load of the same file. The API is on this machine and answers at once, so that nothing hides behind it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.graph import find_graph
from ansible_collections.nhi.core.plugins.module_utils.guest_manager import GuestManager, Settings
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import Wanted
from ansible_collections.nhi.core.plugins.module_utils.impact import assess
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient, endpoint_from_params
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore

from benchmarks import RESULTS
from benchmarks.inventory import state_of
from benchmarks.scan import SECRET, TOKEN, USER, Api, server

# How much more than its bare requests a plan may take.
GOAL = 5.0
ROOT_SERVICE = "guest-0000"


class Recorded:
    """A client that remembers what was read."""

    def __init__(self, client: ProxmoxClient) -> None:
        self._client = client
        self.paths: list[tuple[Any, Any]] = []

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        self.paths.append((path, params))
        return self._client.get(path, params)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def graph_of(dependents: int) -> dict[str, Any]:
    """A tree in which each service needs one of those before it, so that most depend indirectly; a third has hours."""
    services: dict[str, Any] = {ROOT_SERVICE: {"criticality": "high"}}
    for number in range(1, dependents + 1):
        needed = f"guest-{(number - 1) // 3:04d}"
        hours = {"restart_safe_hours": [1, 2, 3, "23:30-00:30"]} if number % 3 == 0 else {}
        services[f"guest-{number:04d}"] = {"depends_on": [{"service": needed, "port": 5432, "use": "sql"}], **hours}
    return {"time_zone": "Europe/Berlin", "services": services}


def plan_of(client: Any, directory: Path) -> Any:
    """What the module does between its options and its result."""
    graph = find_graph(None, str(directory))
    settings = Settings(directory, check_mode=True, graph=graph)
    return GuestManager(client, Wanted(ROOT_SERVICE, "absent"), settings).run().plan


def timed(rounds: int, actions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The best of each in seconds, as what is more than that is the neighbours'; the actions take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _round in range(rounds):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(measured) for name, measured in seconds.items()}


def measure(api: Api, dependents: int, rounds: int, directory: Path) -> dict[str, float]:
    """Check run, bare requests, the graph's part, and bare json.load."""
    file = directory / "dependency_graph.json"
    file.write_text(json.dumps(graph_of(dependents)))
    StateStore(directory).write(state_of(dependents + 1), expected_checksum=None)
    host, _, port = api.url.removeprefix("https://").partition(":")
    endpoint = endpoint_from_params({
        "api_host": host, "api_port": int(port), "api_user": USER, "api_token_id": TOKEN, "api_token_secret": SECRET,
        "validate_certs": False, "ca_path": None, "timeout": 20.0,
    })  # fmt: skip
    with ProxmoxClient(endpoint) as client:
        recorded = Recorded(client)
        plan = plan_of(recorded, directory)
        if len(plan.impact.dependents) != dependents:
            raise SystemExit(f"the plan knows {len(plan.impact.dependents)} dependents, not {dependents}")

        def bare() -> None:
            for path, params in recorded.paths:
                client.get(path, params)

        def impact() -> None:
            graph = find_graph(None, str(directory))
            if graph is not None:
                assess(graph, [ROOT_SERVICE], {})

        return timed(rounds, {
            "plan": lambda: plan_of(client, directory), "bare": bare, "impact": impact,
            "json": lambda: json.loads(file.read_text()),
        })  # fmt: skip


def report(found: Mapping[str, float], dependents: int, rounds: int) -> list[str]:
    """The results as Markdown."""
    ms = {name: seconds * 1000 for name, seconds in found.items()}
    how = f"best of {rounds} rounds, all taking turns; Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    rows = {
        "check run of `nhi_vm`, the module's part": (ms["plan"], f"{ms['plan'] / ms['bare']:.2f} x its requests"),
        "the same requests, bare": (ms["bare"], "1"),
        "graph read, validated, impact with order and window": (
            ms["impact"], f"{ms['impact'] / ms['json']:.1f} x `json.load`",
        ),
        "`json.load` of the graph, bare": (ms["json"], "1"),
    }  # fmt: skip
    return [
        f"# Plan for a guest with {dependents} dependents",
        "",
        f"`python -m benchmarks.plan --dependents {dependents}`, {how}.",
        "",
        "| | time | against |",
        "| --- | ---: | ---: |",
        *(f"| {what} | {took:.2f} ms | {against} |" for what, (took, against) in rows.items()),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write results/plan.md; 1 when the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dependents", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory, server(options.dependents + 1, 1, 0.0) as api:
        found = measure(api, options.dependents, options.rounds, Path(directory))
    lines = report(found, options.dependents, options.rounds)
    print("\n".join(lines))
    (RESULTS / "plan.md").write_text("\n".join(lines) + "\n")
    ratio = found["plan"] / found["bare"]
    if ratio > GOAL:
        print(f"missed: a plan takes {ratio:.2f} times its requests, more than {GOAL}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
