"""The lab itself: its records, its driver, its workers, and the look-ups that all of the API shares."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from lab.broadcast import Broadcast, Status
from lab.config import LabConfig
from lab.drivers.base import Driver, DriverError, Usage
from lab.faults import Faults
from lab.guests.kinds import KINDS, Kind
from lab.model import Backup, Guest, Storage
from lab.server.auth import Authenticator
from lab.server.errors import failure
from lab.server.permissions import Permissions
from lab.server.privileges import builtin_roles
from lab.store import Store
from lab.tasks import Tasks

P = ParamSpec("P")
T = TypeVar("T")

CONFIG_LOCK_SECONDS = 10.0
DRIVER_THREADS = 32
DRAIN_SECONDS = 15.0
VERSIONS = {8: ("8.4.21", "8.4"), 9: ("9.2.3", "9.2")}
BRIDGE = "vmbr0"
CGROUP_MODE = 2


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Lab:
    """One lab in one directory; all methods belong to the event loop's thread."""

    def __init__(self, config: LabConfig, directory: Path, driver: Driver) -> None:
        self.config = config
        self.directory = directory
        self.driver = driver
        self.store = Store(directory / "lab.db")
        self.executor = ThreadPoolExecutor(DRIVER_THREADS, thread_name_prefix="driver")
        self.faults = Faults(directory / "faults.json")
        self.tasks = Tasks(self.store, directory / "tasks", self.faults, self.executor)
        self.permissions = Permissions(self.store, config.pve_version)
        self.auth = Authenticator(self.store)
        self.broadcast = Broadcast(self._read_statuses, lag=config.lag)
        self.crash: Callable[[], None] = _kill_self
        self.started = time.time()
        self.fingerprint = ""  # of the TLS certificate
        self._locks: dict[int, asyncio.Lock] = {}
        self._backups: dict[str, asyncio.Lock] = {}

    @property
    def version(self) -> tuple[str, str]:
        """(version, release) of the product that is played."""
        return VERSIONS[self.config.pve_version]

    def privilege_roles(self) -> dict[str, set[str]]:
        return builtin_roles(self.config.pve_version)

    # -- guests -------------------------------------------------------------------------------------------------

    def guest(self, node: str, kind: str, vmid: int) -> Guest:
        """The guest, or the 500 that a missing configuration file is."""
        found = self.store.guests.get(vmid)
        if found is None or found.kind != kind or found.node != node:
            raise failure(f"Configuration file '{KINDS[kind].config_path(node, vmid)}' does not exist")
        return found

    def check_vmid_unused(self, vmid: int) -> None:
        taken = self.store.guests.get(vmid)
        if taken:
            raise failure(f"{KINDS[taken.kind].label} {vmid} already exists on node '{taken.node}'")

    def check_lock(self, guest: Guest) -> None:
        """The lock in the configuration, real or ordered as a fault."""
        fault = self.faults.find("stuck-lock", vmid=guest.vmid, node=guest.node)
        lock = guest.lock or ((fault.text or "backup") if fault else "")
        if lock:
            raise failure(f"{KINDS[guest.kind].label} is locked ({lock})")

    def lock_shown(self, guest: Guest) -> str:
        fault = self.faults.find("stuck-lock", vmid=guest.vmid, node=guest.node)
        return guest.lock or ((fault.text or "backup") if fault else "")

    @asynccontextmanager
    async def config_lock(self, kind: Kind, vmid: int) -> AsyncIterator[None]:
        """The lock on a guest's configuration file; one change at a time."""
        lock = self._locks.setdefault(vmid, asyncio.Lock())
        timeout = failure(f"can't lock file '{kind.lock_file.format(vmid)}' - got timeout")
        fault = self.faults.take("config-lock", vmid=vmid)
        if fault:
            await asyncio.sleep(fault.delay or CONFIG_LOCK_SECONDS)
            raise timeout
        try:
            async with asyncio.timeout(CONFIG_LOCK_SECONDS):  # wait_for loses an interrupt that comes just now
                await lock.acquire()
        except TimeoutError:
            raise timeout from None
        try:
            yield
        finally:
            lock.release()

    @asynccontextmanager
    async def backup_lock(self, node: str, log: Callable[[str], None]) -> AsyncIterator[None]:
        """One backup job at a time on a node."""
        lock = self._backups.setdefault(node, asyncio.Lock())
        if lock.locked():
            log("INFO: trying to get global lock - waiting...")
        async with lock:
            yield

    # -- driver -------------------------------------------------------------------------------------------------

    async def drive(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A driver call outside of a task; a failure is a 500."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self.executor, lambda: function(*args, **kwargs))
        except DriverError as error:
            raise failure(str(error)) from error

    async def usage(self, vmid: int) -> Usage:
        """A guest's numbers right now; one the driver does not know does not run."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, self._usage, vmid)

    def _usage(self, vmid: int) -> Usage:
        try:
            return self.driver.usage(vmid)
        except DriverError:
            return Usage(running=False)

    async def _read_statuses(self) -> dict[int, Status]:
        names = {
            guest.vmid: guest.name
            for guest in self.store.guests.values()
            if not self.faults.find("node-offline", node=guest.node)
        }

        def read() -> dict[int, Status]:
            return {vmid: Status(name, self._usage(vmid)) for vmid, name in names.items()}

        return await asyncio.get_running_loop().run_in_executor(self.executor, read)

    # -- storages -----------------------------------------------------------------------------------------------

    def storage(self, name: str, node: str = "") -> Storage:
        """A storage that there is, on that node if one is named."""
        found = self.store.storages.get(name)
        if found is None:
            raise failure(f"storage '{name}' does not exist")
        if node and not found.is_on(node):
            raise failure(f"storage '{name}' is not available on node '{node}'")
        return found

    def backup(self, volid: str, node: str) -> Backup | None:
        """The backup, if the node sees it."""
        found = self.store.backups.get(volid)
        storage = self.store.storages.get(volid.partition(":")[0])
        return found if found and storage and storage.holds(found, node) else None

    def check_space(self, *names: str) -> None:
        """The fault "storage full", for work that is about to write."""
        for name in names:
            if self.faults.take("storage-full", storage=name):
                raise failure(_no_space(self.store.storages[name]))

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self, log: Callable[[str], None]) -> None:
        """Make the driver ready and begin the rounds of status."""
        await asyncio.get_running_loop().run_in_executor(self.executor, self.driver.up, log)
        await self.broadcast.start()

    async def stop(self) -> None:
        """Leave the guests as they are."""
        await self.broadcast.stop()
        await self.tasks.drain(DRAIN_SECONDS)
        self.executor.shutdown()
        self.store.close()


def _no_space(storage: Storage) -> str:
    if storage.type == "dir":
        return f"write failed: No space left on device ({storage.path})"
    return (
        f"Cannot create new thin volume, free space in thin pool {storage.vgname}/{storage.thinpool} reached threshold."
    )
