# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration files that belong together: compared, checked, and put in place all or none."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shlex
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigFilesError
from .files import discard, explain, sync_directory, write_new

_ASIDE, _EARLIER = ".nhi-new", ".nhi-old"
_VALIDATE_SECONDS = 60.0


@dataclass(frozen=True)
class ConfigFile:
    """What a file should be. Without ``owner``, ``group`` or ``mode`` it keeps what it has."""

    path: Path
    content: bytes
    owner: str | None = None
    group: str | None = None
    mode: int | None = None
    validate: str | None = None

    @classmethod
    def parse(cls, options: dict[str, Any]) -> ConfigFile:
        """As the module's option has it; ConfigFilesError for what can not be meant."""
        path, mode = Path(options["path"]), options.get("mode")
        if not path.is_absolute() or ".." in path.parts:
            raise ConfigFilesError(f"{path} is no absolute path without '..': name the file in full")
        if mode is not None and not (mode.isdigit() and set(mode) <= set("01234567") and len(mode) in (3, 4)):
            raise ConfigFilesError(f"mode '{mode}' of {path} is not octal: write it such as \"0644\"")
        validate = options.get("validate")
        if validate and "%s" not in validate:
            raise ConfigFilesError(f"validate of {path} does not say where the file goes: put %s there")
        bits = int(mode, 8) if mode is not None else None
        content = options["content"].encode()
        return cls(path, content, options.get("owner"), options.get("group"), bits, validate)


@dataclass(frozen=True)
class Found:
    """What a file is now."""

    content: bytes
    uid: int
    gid: int
    mode: int

    def attributes(self) -> dict[str, str]:
        """For people: owner, group and mode."""
        return {
            "owner": _name(self.uid, pwd.getpwuid),
            "group": _name(self.gid, grp.getgrgid),
            "mode": _octal(self.mode),
        }


@dataclass(frozen=True)
class Change:
    """A file that is not what it should be; ``before`` is None where there is none (or a link) yet."""

    file: ConfigFile
    before: Found | None

    @property
    def rewrites(self) -> bool:
        """Whether the content differs, and not only owner or mode."""
        return self.before is None or self.before.content != self.file.content

    def diff(self) -> list[dict[str, Any]]:
        """In Ansible's form: one for the content, one for owner and mode."""
        file, before = self.file, self.before
        shown: list[dict[str, Any]] = []
        if self.rewrites:
            header = {"before_header": str(file.path), "after_header": str(file.path)}
            shown.append({**header, "before": _text(before.content if before else b""), "after": _text(file.content)})
        now: dict[str, str] = before.attributes() if before else {}
        wanted = {
            "owner": file.owner,
            "group": file.group,
            "mode": _octal(file.mode) if file.mode is not None else None,
        }
        differing = {key: value for key, value in wanted.items() if value is not None and now.get(key) != value}
        if differing:
            old = {key: now[key] for key in differing if key in now}
            path = {"path": str(file.path)}
            shown.append({"before": {**path, **old}, "after": {**path, **differing}})
        return shown


def compare(files: Iterable[ConfigFile]) -> list[Change]:
    """Those that are not as they should be; ConfigFilesError for what is in the way."""
    wanted = list(files)
    paths = [file.path for file in wanted]
    twice = sorted({str(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise ConfigFilesError(f"{', '.join(twice)} is named twice: say once what it should hold")
    return [change for change in (Change(file, _found(file.path)) for file in wanted) if _differs(change)]


def check(changes: Iterable[Change]) -> None:
    """Let each program that reads one of the files say whether it could; ConfigFilesError with what it said."""
    with tempfile.TemporaryDirectory(prefix="nhi-files-") as directory:
        for number, change in enumerate(changes):
            if not change.file.validate or not change.rewrites:
                continue
            # Under its own name: some programs judge a file by it.
            place = Path(directory) / str(number) / change.file.path.name
            place.parent.mkdir()
            write_new(place, change.file.content, 0o600)
            _validate(change.file, place)


def unread(files: Iterable[ConfigFile], unit: str, *, reload_counts: bool = False) -> list[Path]:
    """Those that are younger than the last start (or reload) of the unit, which runs without having read them.

    A run that ended between writing a file and restarting its service leaves such a one, and no later run would
    see anything left to change. Nothing when the unit does not run: it reads them when it starts.
    """
    which = "StateChangeTimestampMonotonic" if reload_counts else "ExecMainStartTimestampMonotonic"
    argv = ["systemctl", "show", f"--property=ActiveState,{which}", unit]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_VALIDATE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []  # no systemd: there is nobody to ask
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if shown.get("ActiveState") != "active" or not int(shown.get(which) or 0):
        return []
    read_at = time.time() - (time.monotonic() - int(shown[which]) / 1e6)
    return [file.path for file in files if file.path.exists() and file.path.stat().st_mtime > read_at]


def put_in_place(changes: Sequence[Change]) -> None:
    """All of them, or none: ConfigFilesError when one could not be written, after the others are what they were."""
    made: list[Path] = []
    done: list[Change] = []
    try:
        for change in changes:
            _make_parents(change.file.path.parent, made)
            _stage(change)
        for change in changes:
            _keep_earlier(change)
            done.append(change)
            _aside(change.file.path).rename(change.file.path)
        for directory in {change.file.path.parent for change in changes}:
            sync_directory(directory)
    except BaseException as e:
        for change in reversed(done):
            _restore(change)
        discard(*(_aside(change.file.path) for change in changes))
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        if isinstance(e, OSError):
            which = e.filename or changes[len(done) - 1].file.path
            raise ConfigFilesError(f"{which} can not be written: {explain(e)}; nothing was changed") from e
        raise
    discard(*(_earlier(change.file.path) for change in done))


def _found(path: Path) -> Found | None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigFilesError(f"{path} is there and no file: move it away, or name another path")
    try:
        content = path.read_bytes()
    except OSError as e:
        raise ConfigFilesError(f"{path} can not be read: {explain(e)}; run this as root") from e
    return Found(content, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def _differs(change: Change) -> bool:
    file, before = change.file, change.before
    if before is None or change.rewrites:
        return True
    # Of a user who is not there yet the file can not be.
    now = before.attributes()
    others = (file.owner not in (None, now["owner"]), file.group not in (None, now["group"]))
    return any(others) or file.mode not in (None, before.mode)


def _validate(file: ConfigFile, place: Path) -> None:
    argv = [word.replace("%s", str(place)) for word in shlex.split(file.validate or "")]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", check=False, timeout=_VALIDATE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ConfigFilesError(
            f"{argv[0]}, which is to check {file.path}, did not run: {e}; nothing was changed"
        ) from e
    if done.returncode:
        said = " | ".join(line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
        raise ConfigFilesError(
            f"{file.path} would not be understood, says {argv[0]} (exit status {done.returncode}):"
            f" {said.replace(str(place), str(file.path)) or 'no reason given'}; nothing was changed"
        )


def _make_parents(directory: Path, made: list[Path]) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o755)
        path.chmod(0o755)
        made.append(path)


def _stage(change: Change) -> None:
    """The new file, complete with owner and mode, beside the one that counts."""
    file, before, aside = change.file, change.before, _aside(change.file.path)
    write_new(aside, file.content, 0o600)
    uid = _id(file.owner, pwd.getpwnam, "user") if file.owner else before.uid if before else -1
    gid = _id(file.group, grp.getgrnam, "group") if file.group else before.gid if before else -1
    os.chown(aside, uid, gid)
    mode = file.mode if file.mode is not None else before.mode if before else 0o644
    aside.chmod(mode)


def _id(name: str, find: Any, what: str) -> int:
    try:
        entry = find(name)
    except KeyError:
        raise ConfigFilesError(f"there is no {what} {name} on this host: nothing was changed") from None
    return int(entry[2])


def _keep_earlier(change: Change) -> None:
    earlier = _earlier(change.file.path)
    discard(earlier)
    # A hard link: what was there keeps owner, mode and all else. A link is kept as the link that it is.
    with contextlib.suppress(FileNotFoundError):
        os.link(change.file.path, earlier, follow_symlinks=False)


def _restore(change: Change) -> None:
    path, earlier = change.file.path, _earlier(change.file.path)
    if earlier.is_symlink() or earlier.exists():
        earlier.replace(path)
        # Of two names of one file rename leaves both.
        discard(earlier)
    else:
        discard(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{_ASIDE}")


def _earlier(path: Path) -> Path:
    return path.with_name(f".{path.name}{_EARLIER}")


def _name(number: int, find: Any) -> str:
    try:
        return str(find(number)[0])
    except KeyError:
        return str(number)


def _octal(mode: int) -> str:
    return f"{mode:04o}"


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"({len(content)} bytes that are no text)\n"
