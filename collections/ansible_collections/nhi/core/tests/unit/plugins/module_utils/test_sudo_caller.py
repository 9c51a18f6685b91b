# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who sudo says that asks, and that a variable alone says nothing."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils import lock
from ansible_collections.nhi.core.plugins.module_utils.lock import current_person
from ansible_collections.nhi.core.plugins.module_utils.sudo_caller import sudo_caller

ME = pwd.getpwuid(os.getuid())
SAYS = {"SUDO_USER": ME.pw_name, "SUDO_UID": str(ME.pw_uid)}


def processes(root: Path, name: str = "sudo", uids: str = f"{ME.pw_uid}\t0\t0\t0") -> Path:
    """A /proc whose process 7 is the one above."""
    (root / "7").mkdir()
    (root / "7/status").write_text(f"Name:\t{name}\nState:\tS (sleeping)\nUid:\t{uids}\nGid:\t0\t0\t0\t0\n")
    return root


def test_sudo_vouches_for_whom_it_runs_a_program(tmp_path: Path) -> None:
    assert sudo_caller(SAYS, parent=7, processes=processes(tmp_path)) == ME.pw_name


@pytest.mark.parametrize(
    "above",
    [{"name": "bash"}, {"name": "sudo2"}, {"uids": "1000\t1000\t1000\t1000"}, {"uids": "4242\t0\t0\t0"},
     {"uids": f"{ME.pw_uid}\t0\t0\t1000"}, {"uids": f"{ME.pw_uid}\t1000\t0\t0"}, {"uids": ""}],
)  # fmt: skip
def test_nobody_else_does(tmp_path: Path, above: dict[str, str]) -> None:
    assert sudo_caller(SAYS, parent=7, processes=processes(tmp_path, **above)) is None
    assert sudo_caller(SAYS, parent=8, processes=tmp_path) is None
    assert sudo_caller(SAYS) is None


@pytest.mark.parametrize(
    "variables",
    [{}, {"SUDO_USER": ME.pw_name}, {"SUDO_UID": str(ME.pw_uid)}, {**SAYS, "SUDO_UID": "4242"},
     {**SAYS, "SUDO_USER": "no-such-user"}, {**SAYS, "SUDO_USER": "a\0b"}, {"SUDO_USER": "", "SUDO_UID": ""}],
)  # fmt: skip
def test_name_and_number_have_to_be_those_of_one_user(tmp_path: Path, variables: dict[str, str]) -> None:
    assert sudo_caller(variables, parent=7, processes=processes(tmp_path)) is None


def test_a_person_is_who_sudo_vouches_for_and_not_what_a_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 64999)
    monkeypatch.setenv("SUDO_USER", "luca")
    monkeypatch.setenv("SUDO_UID", "64999")
    monkeypatch.setenv("NHI_ACTOR", "luca")
    assert current_person() != "luca"
    monkeypatch.setattr(lock, "sudo_caller", lambda: "luca")
    assert current_person() == "luca"
