"""What the command line does with a lab's directory and its daemon."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import embedded, pidfile
from lab.config import FILE, ConfigError, LabConfig
from lab.daemon import LOG_FILE, PID_FILE, READY
from lab.drivers import DriverSettings, make
from lab.drivers.base import Driver

Say = Callable[[str], None]

START_SECONDS = 600
STOP_SECONDS = 90
MADE_FILES = (
    FILE, "lab.db", "lab.db-wal", "lab.db-shm", "credentials.json", "env", "requests.jsonl", "faults.json",
    "faults.lock", LOG_FILE, PID_FILE, "vault-password",
)  # fmt: skip
MADE_DIRECTORIES = ("tasks", "tls", "ssh", "storage", "driver", "embedded", "vault")


class LabError(Exception):
    """One line: what happened, and what to do next."""


def running_pid(directory: Path) -> int | None:
    return pidfile.running_pid(directory / PID_FILE)


def remembered(directory: Path) -> LabConfig | None:
    """The settings of the lab in a directory, if there is one."""
    return LabConfig.load(directory) if (directory / FILE).exists() else None


def prepare(directory: Path, config: LabConfig) -> None:
    """Make the directory of a new lab, or remember changed settings of a stopped one."""
    before = remembered(directory)
    if before:
        fixed = ("driver", "subnet", "bridge", "nodes", "pve_version")
        changed = [name for name in fixed if getattr(before, name) != getattr(config, name)]
        if changed:
            raise LabError(
                f"the lab in {directory} was made with another {changed[0]}: run `down` first, or use another --dir"
            )
    elif directory.exists() and any(entry.name not in MADE_FILES for entry in directory.iterdir()):
        raise LabError(f"{directory} is not empty and no lab: choose another --dir")
    _driver(directory, config)  # refuses what it can not work with, while nothing is written yet
    directory.mkdir(parents=True, exist_ok=True)
    config.save(directory)


def _driver(directory: Path, config: LabConfig) -> Driver:
    return make(config.driver, DriverSettings(directory / "driver", config.subnet, config.bridge))


def start(directory: Path, say: Say) -> int:
    """Start the daemon and wait until it answers; its progress is repeated as it comes."""
    log = directory / LOG_FILE
    offset = log.stat().st_size if log.exists() else 0
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    with log.open("ab") as output, _interrupts_held_back() as held:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.daemon", str(directory.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": path},
        )
    try:
        if held:
            raise KeyboardInterrupt
        for line in _follow(log, offset, process):
            if line == READY:
                return process.pid
            say(line)
            if line.startswith("failed:"):
                break
    except KeyboardInterrupt:
        process.terminate()
        raise
    process.wait(STOP_SECONDS)
    raise LabError(f"the daemon did not start (exit code {process.returncode}): see {log}")


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[list[int]]:
    """Ctrl-C while a process is made must not hide that process: its number is noted, and it is for the caller."""
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    before = signal.signal(signal.SIGINT, lambda number, _frame: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(log: Path, offset: int, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """The progress lines in the daemon's log until it ends, or for at most START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    with log.open(encoding="utf-8", errors="replace") as stream:
        stream.seek(offset)
        while time.monotonic() < deadline:
            line = stream.readline()
            if not line:
                if process.poll() is not None:
                    return
                time.sleep(0.05)
            elif " lab.progress " in line:
                yield line.partition(" lab.progress ")[2].rstrip("\n")
    os.kill(process.pid, signal.SIGTERM)


def wait_for_answer(config: LabConfig, seconds: float = 10.0) -> bool:
    """Whether the port of a daemon that runs already takes connections, now or soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection((config.reachable, config.port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def stop(directory: Path, *, kill: bool = False) -> bool:
    """End the daemon; answers whether there was one."""
    pid = running_pid(directory)
    if pid is None:
        return False
    os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while running_pid(directory) is not None:
        if time.monotonic() > deadline:
            raise LabError(f"the daemon (pid {pid}) does not end: see {directory / LOG_FILE}")
        time.sleep(0.05)
    return True


def remove(directory: Path, say: Say) -> None:
    """Take away everything the driver made and all files of the lab; nothing else in the directory is touched."""
    config = LabConfig.load(directory)
    embedded.stop(directory)
    _driver(directory, config).down(say)
    for name in MADE_DIRECTORIES:
        if (directory / name).is_dir():
            shutil.rmtree(directory / name)
    for name in MADE_FILES:
        (directory / name).unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()


__all__ = [
    "ConfigError",
    "LabError",
    "prepare",
    "remembered",
    "remove",
    "running_pid",
    "start",
    "stop",
    "wait_for_answer",
]
