"""Workers: each has a UPID, a log file and an end; those that a crash cut off end as `unexpected status`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from lab.drivers.base import DriverError
from lab.faults import Fault, Faults
from lab.model import TaskRecord
from lab.server.errors import ApiError
from lab.store import Store
from lab.upid import Upid

P = ParamSpec("P")
T = TypeVar("T")

KEPT = 2000
INTERRUPTED = "received interrupt"


class TaskError(Exception):
    """What becomes `TASK ERROR: <text>` and the exit status."""


class OrderedFailure(TaskError):
    """The fault "task-fail": its text is the exit status as it is."""


class Task:
    """A running worker, handed to the function that does its work."""

    def __init__(self, record: TaskRecord, log_path: Path, faults: Faults, executor: ThreadPoolExecutor) -> None:
        self.record = record
        self._log = log_path.open("a", encoding="utf-8", buffering=1)
        self._faults = faults
        self._executor = executor

    def log(self, line: str) -> None:
        """Write a line to the task's log; driver threads call it too."""
        self._log.write(line.rstrip("\n") + "\n")

    async def drive(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a driver call in a thread. An interrupt takes effect only when the driver has come back."""
        await self._wait_on_order()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))
        try:
            result = await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        except DriverError as error:
            raise TaskError(str(error)) from error
        self._fail_on_order()
        return result

    def _fault(self, kind: str) -> Fault | None:
        vmid = int(self.record.id) if self.record.id.isdigit() else 0
        return self._faults.take(kind, task=self.record.type, vmid=vmid, node=self.record.node)

    async def _wait_on_order(self) -> None:
        fault = self._fault("task-slow")
        if fault:
            await asyncio.sleep(fault.delay or 1.0)

    def _fail_on_order(self) -> None:
        fault = self._fault("task-fail")
        if fault:
            raise OrderedFailure(fault.text or "command failed: exit code 1 (fault task-fail)")

    def outcome(self) -> str:
        """How a worker that did its work ends: warnings are a success."""
        fault = self._fault("task-warn")
        if not fault:
            return "OK"
        self.log(f"WARN: {fault.text or 'something to look at (fault task-warn)'}")
        return "WARNINGS: 1"

    def close(self) -> None:
        self._log.close()


Work = Callable[[Task], Awaitable[None]]


class Tasks:
    """Starts workers, remembers them and their logs."""

    def __init__(self, store: Store, directory: Path, faults: Faults, executor: ThreadPoolExecutor) -> None:
        self._store = store
        self._directory = directory
        self._faults = faults
        self._executor = executor
        self._running: dict[str, asyncio.Task[None]] = {}
        directory.mkdir(exist_ok=True)
        self._close_orphans()
        self._next_pid = 1 + max((t.pid for t in store.tasks.values()), default=1000)

    def _close_orphans(self) -> None:
        """What ran when the daemon was killed has no last line: that is what `unexpected status` means."""
        for upid, record in self._store.tasks.items():
            if not record.exitstatus:
                record.endtime, record.exitstatus = int(time.time()), "unexpected status"
                self._store.tasks.save(upid)

    def start(self, node: str, kind: str, task_id: str, user: str, work: Work) -> str:
        """Begin a worker and answer its UPID at once."""
        pid, now = self._next_pid, int(time.time())
        self._next_pid += 1
        pstart = int(time.monotonic() * 100) & 0xFFFFFFFF
        upid = str(Upid(node, pid, pstart, now, kind, task_id, user))
        record = TaskRecord(upid, node, pid, pstart, now, kind, task_id, user)
        self._store.tasks[upid] = record
        self._forget_oldest()
        task = Task(record, self.log_path(upid), self._faults, self._executor)
        running = asyncio.get_running_loop().create_task(self._run(task, work), name=upid)
        self._running[upid] = running
        return upid

    async def _run(self, task: Task, work: Work) -> None:
        try:
            await work(task)
            status = task.outcome()
        except (TaskError, ApiError) as error:
            status = str(error).rstrip("\n")
        except asyncio.CancelledError:
            status = INTERRUPTED
        except Exception as error:  # a defect of the lab itself: the task must still end
            status = f"internal error of the lab: {error!r}"
            raise
        finally:
            succeeded = status == "OK" or status.startswith("WARNINGS: ")
            task.log(f"TASK {status}" if succeeded else f"TASK ERROR: {status}")
            task.close()
            task.record.endtime, task.record.exitstatus = int(time.time()), status
            if task.record.upid in self._store.tasks:
                self._store.tasks.save(task.record.upid)
            self._running.pop(task.record.upid, None)

    def _forget_oldest(self) -> None:
        ended = [upid for upid, record in self._store.tasks.items() if record.exitstatus]
        for upid in ended[: max(0, len(self._store.tasks) - KEPT)]:
            del self._store.tasks[upid]
            self.log_path(upid).unlink(missing_ok=True)

    async def stop(self, upid: str) -> None:
        """Interrupt a worker and wait for its end; nothing happens to one that has ended."""
        running = self._running.get(upid)
        if running:
            running.cancel()
            await asyncio.wait([running])

    async def wait(self, upid: str) -> TaskRecord:
        """Wait for the end of a worker."""
        running = self._running.get(upid)
        if running:
            await asyncio.wait([running])
        return self._store.tasks[upid]

    async def drain(self, seconds: float | None = None) -> None:
        """Wait for all workers; those that take longer than that are interrupted."""
        if self._running:
            _, late = await asyncio.wait(list(self._running.values()), timeout=seconds)
            for worker in late:
                worker.cancel()
        while self._running:
            await asyncio.wait(list(self._running.values()))

    def log_path(self, upid: str) -> Path:
        return self._directory / upid

    def log_lines(self, upid: str) -> list[str] | None:
        """The log so far; None when there never was one."""
        try:
            return self.log_path(upid).read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, OSError):
            return None
