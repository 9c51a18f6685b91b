"""Run the scenarios of molecule/ on real guests, in a lab of their own that is removed afterwards.

Usage: molecule.py [--keep] [SCENARIO ...]
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from steps import ROOT, environment

SCENARIOS = ROOT / "molecule"
BRIDGE = "nhimolecule0"
SUBNET = "10.86.251.0/24"
AT_ONCE = 3
# Scenarios that take minutes begin, so that none of them is alone at the end.
LONGEST = ("audit_log", "agent_access", "llm_router", "state_scan")


@dataclass(frozen=True)
class Lab:
    """A lab in a directory; its API listens on the bridge, where the guests reach it too."""

    directory: Path
    bridge: str
    subnet: str

    @property
    def gateway(self) -> str:
        return re.sub(r"0/\d+$", "1", self.subnet)

    def up(self) -> None:
        """Start it with the real driver."""
        options = ["--driver", "lxc", "--port", str(free_port()), "--bind", self.gateway, "--no-lag"]
        self._run("up", *options, "--subnet", self.subnet, "--bridge", self.bridge)

    def down(self) -> None:
        """Remove it with its guests."""
        self._run("down")

    def environment(self) -> dict[str, str]:
        """What its `env` file exports: address and token of the API, key of the guests."""
        exported = (line.removeprefix("export ").partition("=") for line in self._env_file.read_text().splitlines())
        return {name: "".join(shlex.split(value)) for name, _equals, value in exported}

    @property
    def _env_file(self) -> Path:
        return self.directory / "env"

    def _run(self, verb: str, *options: str) -> None:
        argv = [sys.executable, "-m", "lab", verb, "--dir", str(self.directory), *options]
        subprocess.run(argv, cwd=ROOT, env=environment({}), check=True)


def free_port() -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def scenarios() -> list[str]:
    """Names of the scenarios that there are, those that take longest first."""
    found = sorted(path.parent.name for path in SCENARIOS.glob("*/molecule.yml"))
    return sorted(found, key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))


def guest_of(scenario: str) -> str:
    """The guest that a scenario converges on: molecule-NAME, as its molecule.yml says."""
    return f"molecule-{scenario.replace('_', '-')}"


def make_guests(wanted: Sequence[str], directory: Path, env: Mapping[str, str]) -> Path:
    """One guest for each scenario; returns the inventory that names them."""
    guests = ",".join(f'"{guest_of(name)}"' for name in wanted)
    variables = f'{{"guests": [{guests}], "directory": "{directory}"}}'
    argv = ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", "-e", variables]
    interpreter = f"ansible_python_interpreter={sys.executable}"
    settings = {**env, "NHI_STATE_DIR": str(directory / "state")}
    subprocess.run([*argv, "-e", interpreter, str(SCENARIOS / "guests.yml")], cwd=ROOT, env=settings, check=True)
    return directory / "hosts.yml"


def run_scenario(name: str, directory: Path, env: Mapping[str, str]) -> bool:
    """`molecule test` of one scenario; whether it passed. What it says is shown when it has ended."""
    settings = {
        "MOLECULE_EPHEMERAL_DIRECTORY": str(directory / "molecule" / name),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_PIPELINING": "true",
    }
    started = time.monotonic()
    argv = ["molecule", "test", "-s", name]
    done = subprocess.run(
        argv, cwd=ROOT, env={**env, **settings}, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    word = "failed" if done.returncode else "passed"
    print(f"{done.stdout}\nmolecule: {name} {word} in {time.monotonic() - started:.0f} s", flush=True)
    return done.returncode == 0


def test(wanted: Sequence[str], lab: Lab, directory: Path) -> list[str]:
    """Run the scenarios, a few at a time: they wait for packages more than they work. Returns those that failed."""
    lab.up()
    env = environment(lab.environment())
    hosts = make_guests(wanted, directory, env)
    env["NHI_MOLECULE_INVENTORY"] = str(hosts)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        passed = list(threads.map(lambda name: run_scenario(name, directory, env), wanted))
    return [name for name, good in zip(wanted, passed, strict=True) if not good]


def remove(directory: Path, lab: Lab) -> None:
    """Leave nothing of a run, of this one or of one that was killed."""
    if lab.directory.exists():
        lab.down()
    shutil.rmtree(directory, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", help=f"{', '.join(scenarios())} (all)")
    parser.add_argument("--keep", action="store_true", help="leave the lab and its guests as they are")
    parser.add_argument("--subnet", default=SUBNET, help="a /24 for the guests (%(default)s)")
    parser.add_argument("--bridge", default=BRIDGE, help="a bridge that does not exist yet (%(default)s)")
    options = parser.parse_args(arguments)
    wanted = options.scenario or scenarios()
    unknown = sorted(set(wanted) - set(scenarios()))
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are: {', '.join(scenarios())}")
    if os.geteuid() != 0:
        print("molecule: the guests are real containers, and making them needs root", file=sys.stderr)
        return 1
    directory = Path(os.environ["NHI_CACHE"]) / "molecule"
    lab = Lab(directory / "lab", options.bridge, options.subnet)
    remove(directory, lab)
    directory.mkdir(parents=True)
    try:
        failed = test(wanted, lab, directory)
    finally:
        if options.keep:
            print(f"molecule: kept in {directory}; remove it with `python -m lab down --dir {lab.directory}`")
        else:
            remove(directory, lab)
    print(f"molecule: failed: {', '.join(failed)}" if failed else f"molecule: passed: {', '.join(wanted)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
