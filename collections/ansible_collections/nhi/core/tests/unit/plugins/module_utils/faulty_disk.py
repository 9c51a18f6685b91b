# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system that fails on demand: processes that die between two system calls, disks that fill up, power that goes.

The calls still reach the real file system. `FaultyOs` decides at which of them something happens; `DiskModel` follows
what of it would survive a power loss, as POSIX promises it and no better: a file's content once it was fsynced, a
directory's names once the directory was fsynced, each name on its own and in no order.
"""

from __future__ import annotations

import copy
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

Disk = dict[str, bytes]


class ProcessKilledError(BaseException):
    """The simulated process is gone; like SIGKILL, nothing but the kernel cleans up after it."""


@dataclass
class Call:
    """One system call that changes the disk."""

    name: str
    arguments: tuple[Any, ...]


@dataclass
class FaultyOs:
    """Patch the os functions that change files; at call number `at` (from 0), do what `fault` says.

    fault gets the call and the real function; it may raise before or after calling it.
    """

    at: int = -1
    fault: Callable[[Call, Callable[..., Any]], Any] | None = None
    observer: Callable[[Call, Any], None] | None = None
    calls: list[Call] = field(default_factory=list)
    dead: bool = False

    @contextmanager
    def installed(self) -> Iterator[FaultyOs]:
        with mock.patch.multiple(
            os,
            open=self._wrapped(os.open),
            write=self._wrapped(os.write),
            pwrite=self._wrapped(os.pwrite),
            ftruncate=self._wrapped(os.ftruncate),
            fchmod=self._wrapped(os.fchmod),
            fsync=self._wrapped(os.fsync),
            replace=self._wrapped(os.replace),
            unlink=self._wrapped(os.unlink),
        ):
            yield self

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            this = Call(real.__name__, arguments)
            if real is REAL_OPEN and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            if self.dead:
                if this.name == "ftruncate":
                    return None
                raise ProcessKilledError
            self.calls.append(this)
            if len(self.calls) - 1 == self.at and self.fault is not None:
                return self.fault(this, lambda: self._observed(this, real, arguments, options))
            return self._observed(this, real, arguments, options)

        return call

    def _observed(
        self, call: Call, real: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        result = real(*arguments, **options)
        if self.observer is not None:
            self.observer(call, result)
        return result

    def kill_before(self, _call: Call, _real: Callable[..., Any]) -> None:
        self.dead = True
        raise ProcessKilledError

    def kill_after(self, _call: Call, real: Callable[..., Any]) -> None:
        with suppress(OSError):
            real()
        self.dead = True
        raise ProcessKilledError

    def kill_half_way(self, call: Call, real: Callable[..., Any]) -> None:
        """A write that got half of its bytes out; for other calls the same as kill_before."""
        if call.name == "write":
            descriptor, data = call.arguments
            half = bytes(data)[: len(data) // 2]
            REAL_WRITE(descriptor, half)
            if self.observer is not None:
                self.observer(Call("write", (descriptor, half)), len(half))
        self.kill_before(call, real)


REAL_OPEN = os.open
REAL_WRITE = os.write


@dataclass
class DiskModel:
    """What of one directory is on the disk for certain, and what may or may not be."""

    directory: Path
    names: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    durable_names: dict[str, int] = field(default_factory=dict)
    durable_contents: dict[int, bytes] = field(default_factory=dict)
    pending: list[tuple[str, ...]] = field(default_factory=list)
    _descriptors: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path) -> DiskModel:
        """A directory whose present content has been on the disk for long."""
        model = cls(directory)
        for number, path in enumerate(sorted(directory.iterdir())):
            model.names[path.name] = number
            model.contents[number] = path.read_bytes()
        model.durable_names = dict(model.names)
        model.durable_contents = dict(model.contents)
        return model

    def observe(self, call: Call, result: Any) -> None:
        handler = getattr(self, f"_on_{call.name}", None)
        if handler is not None:
            handler(*call.arguments, result=result)

    def _on_open(self, path: Path, flags: int, _mode: int = 0, *, result: int) -> None:
        name = Path(path).name
        if name in self.names and not flags & os.O_EXCL:
            self._descriptors[result] = self.names[name]
            return
        inode = len(self.contents)
        self.contents[inode] = b""
        self._descriptors[result] = inode
        self._record(("set", name, str(inode)))
        self.names[name] = inode

    def _on_write(self, descriptor: int, data: bytes, *, result: int) -> None:
        self.contents[self._descriptors[descriptor]] += bytes(data)[:result]

    def _on_fsync(self, descriptor: int, *, result: None) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.durable_names = dict(self.names)
            self.pending.clear()
            return
        # A descriptor opened for reading belongs to a file that is there already.
        inode = self._descriptors.get(descriptor)
        for number in [inode] if inode is not None else list(self.contents):
            self.durable_contents[number] = self.contents[number]

    def _on_replace(self, source: Path, target: Path, *, result: None) -> None:
        inode = self.names.pop(Path(source).name)
        self.names[Path(target).name] = inode
        self._record(("move", Path(source).name, Path(target).name, str(inode)))

    def _on_unlink(self, path: Path, *, result: None) -> None:
        self.names.pop(Path(path).name)
        self._record(("delete", Path(path).name))

    def _record(self, change: tuple[str, ...]) -> None:
        self.pending.append(change)

    def snapshot(self) -> DiskModel:
        return copy.deepcopy(self)

    def after_power_loss(self) -> Iterator[Disk]:
        """Every content that the directory may have when the power goes now."""
        for outcome in itertools.product(*(_outcomes(change) for change in self.pending)):
            names = dict(self.durable_names)
            for steps in outcome:
                for name, inode in steps:
                    if inode is None:
                        names.pop(name, None)
                    else:
                        names[name] = inode
            yield from self._with_contents(names)

    def _with_contents(self, names: dict[str, int]) -> Iterator[Disk]:
        order = sorted(names.items())
        for combination in itertools.product(*(self._possible(inode) for _name, inode in order)):
            yield {name: content for (name, _inode), content in zip(order, combination, strict=True)}

    def _possible(self, inode: int) -> set[bytes]:
        full, durable = self.contents[inode], self.durable_contents.get(inode, b"")
        if full == durable:
            return {full}
        # What was flushed stays; of what was appended since, some blocks may be there and others be zero.
        kept = durable if full.startswith(durable) else b""
        new = full[len(kept) :]
        return {durable, full, kept + new[: len(new) // 2], kept + bytes(len(new))}


Steps: TypeAlias = "tuple[tuple[str, int | None], ...]"


def _outcomes(change: tuple[str, ...]) -> list[Steps]:
    """What may be left of one change of names: nothing, all, or a rename whose old name is still there."""
    if change[0] == "set":
        return [(), ((change[1], int(change[2])),)]
    if change[0] == "delete":
        return [(), ((change[1], None),)]
    _kind, source, target, inode = change
    return [(), ((target, int(inode)),), ((target, int(inode)), (source, None))]
