# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile texts in files that `nhi` reads: no command lets them play with the terminal, forge a row, or break JSON."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog
from ansible_collections.nhi.core.plugins.module_utils.deployment import DEPLOYMENT, Deployment
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder
from ansible_collections.nhi.core.plugins.module_utils.restart_jobs import RestartJobs
from ansible_collections.nhi.core.plugins.module_utils.restart_plan import RestartWish
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.histories import known
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.hostile import NAMES, TEXT
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import document, guest, service, write_state
from nhi_services.cli import main

# A comma would separate two services.
SERVICE = TEXT.replace(",", "")
GRAPH = {"services": {SERVICE: {"description": TEXT, "guest": TEXT}, "shop": {"depends_on": [SERVICE]}}}
COMMANDS = {
    "status": ["status"], "services": ["services"], "state": ["state", "show"],
    "description": ["state", "show", "infrastructure.guests[0].description"],
    "names": ["state", "show", "infrastructure.guests[].name"], "validate": ["state", "validate", "--verbose"],
    "history": ["history", "list"], "diff": ["diff", "2 hours ago"], "rollback": ["rollback", "2 hours ago"],
    "deps": ["deps"], "impact": ["deps", SERVICE], "mermaid": ["deps", "--format", "mermaid"],
    "svg": ["deps", "--format", "svg"], "restarts": ["restarts"], "audit": ["audit", "search"],
    "tail": ["audit", "tail"], "verify": ["audit", "verify"], "freeze": ["freeze", TEXT],
    "recover": ["recover"],
}  # fmt: skip
JSON = {
    "status": ["status", "--json"], "services": ["services", "--json"], "state": ["state", "show", "--json"],
    "history": ["history", "list", "--json"], "diff": ["diff", "2 hours ago", "--json"],
    "rollback": ["rollback", "2 hours ago", "--json"], "deps": ["deps", "--format", "json"],
    "restarts": ["restarts", "--json"], "recover": ["recover", "--json"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state directory in which every text that somebody else chose is hostile, from before texts were cleaned."""
    for name in list(os.environ):
        if name.startswith(("PROXMOX_", "NHI_")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    (tmp_path / "nhi.toml").touch()
    directory = tmp_path / "state"
    monkeypatch.setenv("NHI_CONFIG", str(tmp_path / "nhi.toml"))
    monkeypatch.setenv("NHI_STATE_DIR", str(directory))
    evil = guest(101, TEXT, description=TEXT, tags=[TEXT], pool=TEXT, node=TEXT, status=TEXT, address=TEXT)
    state = document([evil], [service(TEXT, 101, guest=TEXT, purpose=TEXT, address=TEXT)])
    state["infrastructure"]["cluster"].update(name=TEXT, version=TEXT)
    now = utc_now().isoformat(timespec="microseconds")
    state["alerts"] = [{
        "id": f"x:{TEXT}", "severity": "warning", "kind": "x", "subject": TEXT, "message": TEXT, "since": now,
        "observed_at": now,
    }]  # fmt: skip
    write_state(directory, state)
    then = utc_now() - timedelta(hours=3)
    History(directory).take(known(document(), then), then, reason=TEXT, actor=TEXT)
    (directory / "dependency_graph.json").write_text(json.dumps(GRAPH))
    AuditLog(directory).append(
        {"operation": TEXT, "outcome": "refused", "actor": TEXT, "subject": TEXT, "reason": TEXT}
    )
    opened = Deployment.open(directory, "redis", create=True)
    assert opened is not None
    with contextlib.closing(opened) as deployment:
        deployment.begin(DEPLOYMENT, Holder(TEXT, TEXT, 2**22 + 1, Holder.me("x").host, now, "x"), TEXT, TEXT)
    at = datetime(2099, 1, 1, tzinfo=UTC)
    RestartJobs(directory).schedule(RestartWish((TEXT,)), at, None, TEXT)
    return directory


def said(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    code = main(command)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    for line in (captured.out + captured.err).split("\n"):
        assert line.isprintable(), line
        assert not line.startswith("TASK [forged]")
    return captured.out


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_lets_a_text_do_more_than_be_read(capsys: pytest.CaptureFixture[str], command: str) -> None:
    out = said(capsys, COMMANDS[command])
    if command in ("svg", "mermaid"):
        assert "<script" not in out
    if command == "svg":
        assert {element.tag.rpartition("}")[2] for element in ET.fromstring(out).iter()}.isdisjoint({"script"})
    if command not in ("validate", "verify", "mermaid", "svg"):
        assert "forged" in out


@pytest.mark.parametrize("command", JSON)
def test_json_brings_every_text_back_as_it_was(capsys: pytest.CaptureFixture[str], command: str) -> None:
    out = said(capsys, JSON[command])
    json.loads(out)
    assert json.dumps(TEXT.split("\r", maxsplit=1)[0])[1:-1].split("\\", maxsplit=1)[0] in out


@pytest.mark.parametrize(
    "command",
    [["plans"], ["approve"], ["reject"], ["state", "show"], ["state", "show", "--at"], ["diff"], ["rollback"], ["deps"],
     ["restarts", "cancel"]],
    ids=" ".join,
)  # fmt: skip
def test_a_hostile_name_is_refused_in_one_line(
    lab: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in lab.rglob("*")}
    for name in NAMES:
        # A name that begins with a hyphen is an option, which the parser refuses itself.
        if name and not name.startswith("-"):
            assert main([*command, name]) in (1, 2)
            captured = capsys.readouterr()
            assert captured.out == ""
            assert captured.err.startswith("nhi: ")
            assert captured.err[:-1].isprintable()
    changed = {path for path in lab.rglob("*") if path.stat().st_mtime_ns != before.get(path) and path.is_file()}
    assert {path for path in changed if path.suffix != ".lock" and path.parent.name != "audit"} == set()
