"""The process that serves a lab: `python -m lab.daemon DIR`, started by `python -m lab up`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

from lab import pidfile
from lab.config import ConfigError, LabConfig
from lab.drivers.base import DriverError
from lab.runtime import Runtime

PROGRESS = logging.getLogger("lab.progress")
PID_FILE = "daemon.pid"
LOG_FILE = "daemon.log"
READY = "ready"


async def serve(directory: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    config = LabConfig.load(directory)
    runtime = Runtime(config, directory)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        await runtime.start(PROGRESS.info)
        PROGRESS.info(READY)
        await ended.wait()
    finally:
        await runtime.stop()
    PROGRESS.info("stopped")


def run(directory: Path) -> int:
    """Hold the pid file and serve; one line when that cannot be."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
    )
    try:
        with pidfile.hold(directory / PID_FILE):
            asyncio.run(serve(directory))
    except pidfile.AlreadyRunning:
        PROGRESS.error("failed: a daemon already serves %s", directory)
        return 1
    except (ConfigError, DriverError, OSError) as error:
        PROGRESS.error("failed: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
