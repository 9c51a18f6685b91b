# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lock is used is never in doubt, and no password shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import LockBackendError
from ansible_collections.nhi.core.plugins.module_utils.lock_settings import LockSettings, lock_settings

if TYPE_CHECKING:
    from pathlib import Path

URL = "redis://10.0.0.5:6380/0"


def settings(directory: Path, environment: dict[str, str] | None = None, **given: Any) -> LockSettings:
    if given:
        (directory / "lock.json").write_text(json.dumps(given))
    return lock_settings(directory, environment or {})


def test_the_file_lock_is_the_default(tmp_path: Path) -> None:
    assert settings(tmp_path).backend == "file"
    assert settings(tmp_path, {"NHI_LOCK_BACKEND": "", "NHI_REDIS_URL": URL}).backend == "file"


def test_the_environment_counts_where_there_is_no_file(tmp_path: Path) -> None:
    environment = {"NHI_LOCK_BACKEND": "redis", "NHI_REDIS_URL": URL, "NHI_REDIS_PASSWORD": "sesame"}
    found = settings(tmp_path, environment)
    assert (found.backend, found.address, found.password) == ("redis", "10.0.0.5:6380", "sesame")
    assert "sesame" not in repr(found)
    assert settings(tmp_path, environment, backend="file").backend == "file"


def test_the_file_decides_and_the_environment_fills_in(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("sesame\n")
    given = {"backend": "redis", "password_file": str(tmp_path / "password"), "lab": "attic", "ttl_seconds": 5}
    found = settings(
        tmp_path, {"NHI_REDIS_URL": URL, "NHI_REDIS_PASSWORD": "other", "NHI_LOCK_BACKEND": "file"}, **given
    )
    assert (found.backend, found.url, found.password) == ("redis", URL, "sesame")
    assert (found.lab, found.ttl_seconds) == ("attic", 5.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": "etcd"}, "'etcd' .* is unknown: use file or redis"),
        ({"backend": "redis"}, "needs url"),
        ({"backend": "redis", "url": "http://x"}, "needs url"),
        ({"backend": "redis", "url": URL, "ttl_seconds": 0.1}, "ttl_seconds .* must be at least"),
        ({"backend": "redis", "url": URL, "ttl_seconds": True}, "ttl_seconds .* wrong type"),
        ({"backend": "redis", "uri": URL}, "'uri' .* is not a setting"),
        ({"backend": "redis", "url": "redis://u:secret@x"}, "password does not belong"),
        ({"backend": "redis", "url": URL, "password_file": "/nowhere/password"}, "/nowhere/password can not be read"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(LockBackendError, match=said) as caught:
        settings(tmp_path, {}, **given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("raw", ["", "{", "[]", '"redis"', "\xff"])
def test_a_damaged_file_lets_nobody_write(tmp_path: Path, raw: str) -> None:
    (tmp_path / "lock.json").write_bytes(raw.encode("latin-1"))
    with pytest.raises(LockBackendError, match=r"lock\.json"):
        settings(tmp_path)
