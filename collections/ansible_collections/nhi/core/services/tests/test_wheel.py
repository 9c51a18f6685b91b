# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel carries what the command needs, and the same sources give the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.about import VERSION

SERVICES = Path(__file__).parents[1]
CORE = SERVICES.parent


def build(target: Path) -> Path:
    """The wheel, built with the installed hatchling: tests fetch nothing."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)],
        cwd=SERVICES,
        check=True,
        capture_output=True,
    )
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_it_carries_the_rules_and_the_catalogue_of_the_collection(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("plugins/module_utils", "*.py"), ("catalogue", "*.yml")):
        files = list((CORE / folder).glob(pattern))
        assert files
        assert {f"ansible_collections/nhi/core/{folder}/{file.name}" for file in files} <= names
    assert "nhi_services/router/migrations/versions/0001_router.sql" in names
    # With one of these, another collection installed beside ours could not be imported.
    assert not {name for name in names if name.startswith("ansible_collections") and name.endswith("__init__.py")}


def test_its_version_is_the_collection_s(wheel: Path) -> None:
    assert wheel.name.startswith(f"nhi_services-{VERSION}-")


def test_the_same_sources_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_command_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import nhi_services.cli as cli, sys\n"
        "from ansible_collections.nhi.core.plugins.module_utils import catalogue_files, state\n"
        "print(cli.__file__, state.__file__, len(catalogue_files.read_catalogue()))\n"
        "sys.exit(cli.main(['state', 'show', '--state-dir', 'nowhere']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
    )
    command, state, entries = done.stdout.split()
    assert Path(command).is_relative_to(tmp_path)
    assert Path(state).is_relative_to(tmp_path)
    assert int(entries) > 0
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
