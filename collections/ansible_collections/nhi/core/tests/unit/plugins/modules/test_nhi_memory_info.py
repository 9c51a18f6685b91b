# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host may use: its memory, or its cgroup's limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.nhi.core.plugins.module_utils import memory
from ansible_collections.nhi.core.plugins.modules import nhi_memory_info

GIB = 2**30


@pytest.mark.parametrize(
    ("v2", "v1", "limit"),
    [
        (str(GIB // 2), None, 512),
        (None, str(GIB), 1024),
        ("max", None, None),
        (None, "9223372036854771712", None),
        (None, None, None),
        (str(GIB // 2), str(GIB // 4), 256),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, v2: str | None, v1: str | None, limit: int | None) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:       {2 * GIB // 1024} kB\nMemFree:         1000 kB\n")
    paths = (tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes")
    for path, text in zip(paths, (v2, v1), strict=True):
        if text:
            path.write_text(text + "\n")
    found = memory.read_memory(meminfo, paths)
    assert (found.total_mib, found.limit_mib, found.available_mib) == (2048, limit, limit or 2048)


def test_the_module_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({}), pytest.raises(SystemExit):
        nhi_memory_info.main()
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["available_mib"] <= result["total_mib"]
    assert not result["changed"]


def test_a_system_that_does_not_say_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nhi_memory_info, "read_memory", lambda: memory.read_memory(tmp_path / "none", ()))
    with patch_module_args({}), pytest.raises(SystemExit):
        nhi_memory_info.main()
    result = json.loads(capsys.readouterr().out)
    assert result["failed"]
    assert "does not say how much memory" in result["msg"]
