# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_vm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import guest_host_key
from ansible_collections.nhi.core.plugins.module_utils.deployment import DEPLOYMENT, begin, look
from ansible_collections.nhi.core.plugins.module_utils.guest_host_key import HostKey
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder
from ansible_collections.nhi.core.plugins.modules import nhi_vm
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import FakeClient, Run, runner


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    monkeypatch.setattr(nhi_vm, "ProxmoxClient", lambda endpoint: client)
    return client


@pytest.fixture
def run(pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(nhi_vm, capsys, state_dir=str(tmp_path))


def test_the_result_tells_everything_that_is_documented(pve: FakeClient, run: Run) -> None:
    pve.add(105, "redis", memory=256)
    result = run(name="redis", memory=512, check=True)
    assert result["changed"]
    assert result["diff"] == {"before": {"memory": 256}, "after": {"memory": 512}}
    assert result["vm"]["memory"] == 512
    assert result["actions"] == [{"kind": "configure", "text": "Set on LXC 105 redis on pve: memory 256 -> 512"}]
    assert {c["check"] for c in result["preflight"]} == {"exists", "identity", "lock", "privileges"}
    assert result["summary"] == [result["actions"][0]["text"]]
    assert pve.writes() == []


def test_a_failure_is_one_line(run: Run) -> None:
    result = run(name="redis", state="started")
    assert result["msg"].startswith("a new container needs a template; templates on pve: local:vztmpl/debian-12")
    assert "\n" not in result["msg"]


def test_absent_says_when_there_is_no_such_guest(run: Run) -> None:
    result = run(name="redsi", state="absent", confirm="redsi")
    assert not result["changed"]
    assert result["summary"] == ["No guest that this token may see is called redsi: nothing to do."]


def test_the_graph_beside_the_state_is_read_unasked(pve: FakeClient, run: Run, tmp_path: Path) -> None:
    pve.add(102, "db")
    assert "No dependency graph was read" in str(run(name="db", state="absent", check=True)["warnings"])
    graph = {"services": {"db": {}, "web": {"depends_on": ["db"]}}}
    (tmp_path / "dependency_graph.json").write_text(json.dumps(graph))
    result = run(name="db", state="absent", check=True)
    assert result["impact"]["stop_order"] == ["web"]
    assert result["vm"] is None
    assert "web would stop working" in str(result["warnings"])
    assert (
        "dependency_graph.json does not exist"
        in run(name="db", dependency_graph=str(tmp_path / "x" / "dependency_graph.json"))["msg"]
    )


@pytest.mark.parametrize(
    "options", [{"state": "running"}, {"type": "docker"}, {"network": {"adress": "x"}}, {"cores": "x"}]
)
def test_an_unknown_option_or_value_is_refused_by_the_argument_spec(
    run: Run, pve: FakeClient, options: dict[str, Any]
) -> None:
    assert run(name="redis", **options)["failed"]
    assert pve.calls == []


def test_only_the_guest_of_the_named_operation_is_destroyed(pve: FakeClient, run: Run) -> None:
    pve.add(105, "redis", description="Redis.\n\nnhi: op-other")
    gone = {"name": "redis", "state": "absent", "confirm": "redis"}
    refused = run(**gone, made_by="op-mine")
    assert "was made by op-other, not by op-mine: it is left alone" in refused["msg"]
    assert pve.writes() == []
    assert run(**gone, made_by="op-other")["changed"]
    assert pve.guests == {}


def test_nothing_is_destroyed_for_a_deployment_that_made_nothing(pve: FakeClient, run: Run) -> None:
    pve.add(105, "redis", description="Redis.\n\nnhi: op-other")
    assert "left alone" in run(name="redis", state="absent", confirm="redis", made_by=[])["msg"]
    assert run(name="redis", state="absent", confirm="redis", made_by=["op-mine", "op-other"])["changed"]


def test_the_operation_is_in_the_record_of_its_deployment_before_it_makes_a_guest(
    pve: FakeClient, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path, "redis", DEPLOYMENT, Holder.me("run-1"))
    known: list[tuple[str, ...]] = []
    real = pve.post

    def post(*args: Any, **more: Any) -> Any:
        record = look(tmp_path, "redis")
        known.append(record.made if record else ())
        return real(*args, **more)

    monkeypatch.setattr(pve, "post", post)
    run(name="redis", template="debian-12", deployment="run-1", check=True)
    assert known == []
    result = run(name="redis", template="debian-12", deployment="run-1", wait=False)
    assert result["changed"], result
    assert known[0] == (result["operation"],)
    assert run(name="redis", deployment="run-2")["msg"].endswith(
        "Nothing was done for run-2, which is not held any more"
    )


def test_a_guest_that_answers_with_another_key_is_told_with_the_failure(
    pve: FakeClient, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "known_hosts"
    pve.add(105, "redis", running=True, net0="name=eth0,bridge=vmbr0,ip=192.0.2.105/24")
    shown = [HostKey("ssh-ed25519", "QUJD")]
    monkeypatch.setattr(guest_host_key, "scan_host_keys", lambda _address: shown)
    first = run(name="redis", known_hosts=str(file))
    assert (first["host_key"], first["changed"]) == ("first_sight", True)
    again = run(name="redis", known_hosts=str(file))
    assert (again["host_key"], again["changed"]) == ("unchanged", False)
    shown[:] = [HostKey("ssh-ed25519", "REVG")]
    changed = run(name="redis", known_hosts=str(file))
    assert "shows another SSH host key" in changed["msg"]
    assert changed["vm"]["vmid"] == 105
    assert run(name="redis", known_hosts=str(file), check=True)["host_key"] is None
    pve.guests[105]["running"] = False
    run(name="redis", state="absent", confirm="redis", known_hosts=str(file))
    assert file.read_text() == ""


@pytest.mark.parametrize(("state", "recorded"), [("started", "DIFFERENT"), ("present", "")])
def test_the_host_key_of_a_replaced_guest_goes_with_it(
    pve: FakeClient, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, recorded: str
) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("redis,192.0.2.105 ssh-ed25519 OLD\nother ssh-ed25519 THEIRS\n")
    pve.add(105, "redis", net0="name=eth0,bridge=vmbr0,ip=192.0.2.105/24")
    monkeypatch.setattr(guest_host_key, "scan_host_keys", lambda _address: [HostKey("ssh-ed25519", "DIFFERENT")])
    options = {"state": state, "template": "debian-12", "disk": 2, "replace": "redis", "known_hosts": str(file)}
    shown = run(name="redis", **options, check=True)
    assert shown["replaced"]["vmid"] == 105
    assert "redis,192.0.2.105 ssh-ed25519 OLD" in file.read_text()
    done = run(name="redis", **options)
    assert (done["vmid"], done["replaced"]["destroyed"]) == (106, True)
    lines = [f"redis,192.0.2.105 ssh-ed25519 {recorded}"] if recorded else []
    assert sorted(file.read_text().splitlines()) == sorted(["other ssh-ed25519 THEIRS", *lines])
    again = run(name="redis", **options)
    assert (again["changed"], again["replaced"]) == (False, None)
