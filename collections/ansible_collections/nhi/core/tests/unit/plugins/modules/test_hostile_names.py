# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A name that is given to a module never reaches a file, a path of the API or a line of output that is not its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_log import directory_of
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import api_path
from ansible_collections.nhi.core.plugins.modules import (
    nhi_dependency_info,
    nhi_restart,
    nhi_service,
    nhi_snapshot_info,
    nhi_state,
    nhi_state_diff_info,
    nhi_vm,
    nhi_vm_backup,
    nhi_vm_snapshot,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils import hostile
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import FakeClient, Run, runner
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import document, guest, write_state

NETWORK = {"range": "10.99.0.105-10.99.0.199", "prefix": 24}
# Which module is asked, and where the name goes; the empty name is none for an option that may be left out.
DOORS: dict[str, tuple[ModuleType, Callable[[str], dict[str, Any]]]] = {
    "guest to create": (nhi_vm, lambda n: {"name": n, "state": "started", "template": "debian-12", "network": NETWORK}),
    "guest to destroy": (nhi_vm, lambda n: {"name": n, "state": "absent", "confirm": n}),
    "guest to clone": (nhi_vm, lambda n: {"name": "copy", "state": "started", "clone": n or "?", "network": NETWORK}),
    "snapshot": (nhi_vm_snapshot, lambda n: {"name": "redis", "snapshot": n}),
    "snapshot to go back to": (
        nhi_vm_snapshot,
        lambda n: {"name": "redis", "snapshot": n, "state": "rollback", "confirm": "redis"},
    ),
    "backup to restore": (
        nhi_vm_backup,
        lambda n: {"name": "redis", "backup": f"local:backup/{n}", "state": "restored", "confirm": "redis"},
    ),
    "backup to remove": (nhi_vm_backup, lambda n: {"name": "redis", "backup": n or "?", "state": "absent"}),
    "service": (nhi_service, lambda n: {"name": "redis", "service": n or "?", "address": "::1", "catalogue": []}),
    "guest of a service": (nhi_service, lambda n: {"name": n, "state": "absent", "catalogue": []}),
    "state path": (nhi_state, lambda n: {"path": f"infrastructure.{n}.x"}),
    "moment": (nhi_snapshot_info, lambda n: {"at": n or "?"}),
    "moment of a diff": (nhi_state_diff_info, lambda n: {"since": n or "?"}),
    "service to restart": (nhi_restart, lambda n: {"services": [n]}),
    "restart to cancel": (nhi_restart, lambda n: {"cancel": n or "?"}),
    "service of the graph": (nhi_dependency_info, lambda n: {"services": [n]}),
}


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    client.add(105, "redis", running=True)
    for module in (nhi_vm, nhi_vm_snapshot, nhi_vm_backup):
        monkeypatch.setattr(module, "ProxmoxClient", lambda _endpoint: client)
    return client


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("door", DOORS)
def test_a_hostile_name_is_refused_in_one_line_and_touches_nothing(
    pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], door: str
) -> None:
    state_dir = tmp_path / "lab" / "infrastructure"
    write_state(state_dir, document([guest(105, "redis")]))
    (state_dir / "dependency_graph.json").write_text('{"services": {"redis": {}}}')
    module, options = DOORS[door]
    run: Run = runner(module, capsys, state_dir=str(state_dir))
    before = files(tmp_path)
    for name in hostile.NAMES:
        result = run(**options(name))
        assert result.get("failed") or result.get("value", "nothing") is None, (name, result)
        if result.get("failed"):
            assert result["msg"].isprintable(), (name, result["msg"])
    log = str(directory_of(state_dir).relative_to(tmp_path))
    written = {name for name in files(tmp_path) - before if not name.startswith(log) and not name.endswith(".lock")}
    assert written == set()
    assert pve.writes() == []
    for _method, path, _data in pve.calls:
        assert ".." not in path
        assert path.isprintable()
    assert verify(state_dir).whole


@pytest.mark.parametrize("name", [*hostile.NAMES, "\ud800"])
def test_a_part_of_a_path_of_the_api_stays_one_part(name: str) -> None:
    try:
        path = api_path(("nodes", "pve", "storage", name, "content"))
    except NHIError:
        return
    assert path.count("/") == 5
    assert path.isprintable()
    assert "/../" not in path
    assert not set(path) & set(" ?#{}\\;")
