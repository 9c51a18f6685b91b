# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lock keeps writers of a state directory apart: ``lock.json`` in it, or the environment where there is none.

    {"backend": "redis", "url": "redis://10.0.0.5:6379/0", "password_file": "/etc/nhi/redis_password"}

Without either it is the file lock alone. Where the file exists it decides, so that all who write in the directory
agree; the address of Redis and its password come from the environment where the file does not name them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from .errors import LockBackendError
from .files import explain, read_if_exists

FILE_NAME: Final = "lock.json"
BACKENDS: Final = ("file", "redis")
BACKEND_VARIABLE: Final = "NHI_LOCK_BACKEND"
URL_VARIABLE: Final = "NHI_REDIS_URL"
PASSWORD_VARIABLE: Final = "NHI_REDIS_PASSWORD"  # noqa: S105 -- a name
_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "backend": str, "url": str, "password_file": str, "lab": str, "ttl_seconds": (int, float),
}  # fmt: skip
# Shorter, and a pause of the garbage collector or of a virtual machine ends it; longer, and all wait for a dead Brain.
TTL_SECONDS: Final = 15.0
_SHORTEST_TTL_SECONDS: Final = 0.5


@dataclass(frozen=True)
class LockSettings:
    """How locks are kept; the password never shows in a repr."""

    backend: str = "file"
    url: str = field(default="", repr=False)
    password: str | None = field(default=None, repr=False)
    lab: str = "lab"
    ttl_seconds: float = TTL_SECONDS
    source: str = "the default"

    @property
    def address(self) -> str:
        """Host and port of Redis, fit for messages."""
        parts = urlsplit(self.url)
        return f"{parts.hostname or 'localhost'}:{parts.port or 6379}" if parts.scheme != "unix" else parts.path


def lock_settings(directory: Path, environment: Mapping[str, str] | None = None) -> LockSettings:
    """The settings of a state directory; LockBackendError says what is wrong with them."""
    environment = os.environ if environment is None else environment
    path = directory / FILE_NAME
    try:
        raw = read_if_exists(path)
    except OSError as error:
        raise LockBackendError(f"{path} can not be read: {explain(error)}. Correct its owner or mode.") from error
    if raw is None:
        given = {"backend": environment.get(BACKEND_VARIABLE) or "file"}
        return _settings(given, environment, f"the variable {BACKEND_VARIABLE}")
    return _settings(_parsed(raw, path), environment, str(path))


def _parsed(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        given = json.loads(raw)
    except ValueError as error:
        raise LockBackendError(f"{path} is not JSON ({error}). Correct it.") from error
    if not isinstance(given, dict):
        raise LockBackendError(f"{path} must hold an object with the keys {', '.join(_KINDS)}.")
    for name, value in given.items():
        if name not in _KINDS:
            raise LockBackendError(f"{name!r} in {path} is not a setting: use {', '.join(_KINDS)}.")
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            raise LockBackendError(f"{name} in {path} has the wrong type.")
    if urlsplit(given.get("url", "")).password:
        raise LockBackendError(f"The password does not belong into the url in {path}: name its file as password_file.")
    return given


def _settings(given: Mapping[str, Any], environment: Mapping[str, str], source: str) -> LockSettings:
    backend = given.get("backend", "file")
    if backend not in BACKENDS:
        raise LockBackendError(f"The lock backend {backend!r} in {source} is unknown: use {' or '.join(BACKENDS)}.")
    if backend == "file":
        return LockSettings(source=source)
    url = given.get("url") or environment.get(URL_VARIABLE, "")
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        raise LockBackendError(
            f"The lock backend redis in {source} needs url (or {URL_VARIABLE}) such as redis://HOST:6379/0."
        )
    ttl = float(given.get("ttl_seconds", TTL_SECONDS))
    if ttl < _SHORTEST_TTL_SECONDS:
        raise LockBackendError(f"ttl_seconds in {source} must be at least {_SHORTEST_TTL_SECONDS}.")
    password = _password(given["password_file"]) if "password_file" in given else environment.get(PASSWORD_VARIABLE)
    return LockSettings("redis", url, password or None, given.get("lab", "lab"), ttl, source)


def _password(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = explain(error) if isinstance(error, OSError) else "it is not text"
        raise LockBackendError(f"The password of Redis in {path} can not be read: {reason}.") from error
