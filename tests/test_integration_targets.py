"""The collection's integration targets, run by ansible-test as its developers run them, on a lab in memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Lab

INTEGRATION = ROOT / "collections/ansible_collections/nhi/core/tests/integration"
TARGETS = sorted(path.name for path in (INTEGRATION / "targets").glob("nhi_*"))

pytestmark = [pytest.mark.e2e]


@pytest.fixture
def settings(memory_lab: Lab) -> Iterator[Path]:
    """The file through which ansible-test hands variables to targets; it hands them no environment."""
    names = ("host", "port", "user", "token_id", "token_secret")
    api = {f"api_{name}": memory_lab.env[f"PROXMOX_{name.upper()}"] for name in names}
    config = INTEGRATION / "integration_config.yml"
    config.write_text(json.dumps({"proxmox_api": {**api, "validate_certs": False}}))
    yield config
    config.unlink()


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_passes(target: str, settings: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts/ansible_test.sh", "integration", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "failed=0" in done.stdout
