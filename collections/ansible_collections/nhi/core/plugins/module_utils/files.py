# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that survive a crash: written aside, flushed to the disk, then put in place by rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_if_exists(path: Path) -> bytes | None:
    """The whole file, or None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def give_to_owner_of(directory: Path, made: Path | int) -> None:
    """What root makes in somebody's directory belongs to them, so that they can go on with it."""
    if os.geteuid() != 0:
        return
    place = directory.stat()
    if place.st_uid != 0:
        os.chown(made, place.st_uid, place.st_gid)


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file under a name that nothing relies on, and wait until its content is on the disk.

    Whatever had the name is unlinked, never truncated: a reader that has it open keeps what it opened, and
    a leftover of another user is no obstacle.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        give_to_owner_of(path.parent, descriptor)
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Give a file a new content that survives a crash: a reader, or whoever comes after one, finds all of one or other.

    For files of which one process at a time writes. OSError leaves the file as it was, and nothing beside it.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        write_new(aside, data, mode)
        aside.replace(path)
    except OSError:
        discard(aside)
        raise
    sync_directory(path.parent)


def write_once(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file that is not there; FileExistsError for all but the first of several who do so at once."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        write_new(aside, data, mode)
        # A link is never made over a file that is there.
        os.link(aside, path)
        sync_directory(path.parent)
    finally:
        discard(aside)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    _sync(path, os.O_RDONLY | os.O_CLOEXEC)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where the file system can tell."""
    try:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        # Folders shared into a virtual machine know no such thing.
        if error.errno != errno.EINVAL:
            raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(*paths: Path) -> None:
    """Remove leftovers as far as possible; one that stays does no harm."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def explain(error: OSError) -> str:
    """The reason of an OSError without its number and path, which the message around it gives."""
    return (error.strerror or str(error)).lower()
