"""Run named commands side by side, one line for each as it ends; output only of those that failed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN_LINES = 60
CORE = ROOT / "collections/ansible_collections/nhi/core"


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str
    argv: Sequence[str | Path]
    cwd: Path = ROOT
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """How a step ended."""

    step: Step
    returncode: int
    seconds: float
    output: str

    @property
    def failed(self) -> bool:
        """Whether the step did not succeed."""
        return self.returncode != 0


def environment(extra: dict[str, str]) -> dict[str, str]:
    """The caller's environment with this checkout's tools first and without what changes how they behave.

    A CA bundle named for `requests` overrides verify=False, Ansible's variables override ansible.cfg, and those of
    a lab that is up would lead tests to it.
    """
    overriding = ("ANSIBLE_", "PROXMOX_", "NHI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(overriding)}
    kept = {name: value for name, value in kept.items() if name not in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")}
    kept["NHI_CACHE"] = os.environ["NHI_CACHE"]
    kept["NHI_VAULT_PASSWORD_FILE"] = str(Path(os.environ["NHI_CACHE"]) / "vault-password")
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    kept["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    return {**kept, **extra}


def run(step: Step) -> Result:
    """Run one step to its end with its output captured."""
    started = time.monotonic()
    done = subprocess.run(
        [str(argument) for argument in step.argv],
        cwd=step.cwd,
        env=environment(step.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Result(step, done.returncode, time.monotonic() - started, done.stdout)


def keep(result: Result) -> Path:
    """Write all that a step said to a file."""
    log = Path(os.environ["NHI_CACHE"]) / "log" / f"{result.step.name.replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(result.output)
    return log


def show(result: Result) -> None:
    """One line for the step; everything it said if it failed."""
    word = "FAIL" if result.failed else "ok"
    print(f"{word:>5}  {result.step.name:<28} {result.seconds:6.1f} s", flush=True)
    if result.failed:
        lines = result.output.rstrip().splitlines()
        print("".join(f"       | {line}\n" for line in lines[-SHOWN_LINES:]), end="")
        if len(lines) > SHOWN_LINES:
            print(f"       | ... the last {SHOWN_LINES} of {len(lines)} lines; all of them: {keep(result)}")
        print(flush=True)


def run_lanes(lanes: Sequence[Sequence[Step]]) -> list[Result]:
    """Run lanes at the same time, the steps within a lane one after the other; show each step as it ends."""
    printing = threading.Lock()

    def run_lane(lane: Sequence[Step]) -> list[Result]:
        results = []
        for step in lane:
            results.append(run(step))
            with printing:
                show(results[-1])
        return results

    with ThreadPoolExecutor(len(lanes)) as pool:
        return [result for lane in pool.map(run_lane, lanes) for result in lane]
