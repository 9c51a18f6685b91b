# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `nhi` command as a person or a timer calls it: output, exit codes, one line per error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import UnreachableError
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import full_document, make_document
from nhi_services import cli, deps_command, scan_command
from nhi_services.cli import main

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS = "infrastructure.guests[?name=='redis-cache'].address | [0]"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PROXMOX_", "NHI_")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    settings = tmp_path / "nhi.toml"
    settings.touch()
    monkeypatch.setenv("NHI_CONFIG", str(settings))
    monkeypatch.setenv("NHI_STATE_DIR", str(tmp_path / "state"))
    for module in (cli, deps_command, scan_command):
        monkeypatch.setattr(module, "StateStore", partial(StateStore, patience=0))


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    store = StateStore(tmp_path / "state")
    store.write(full_document(), expected_checksum=None)
    return store


def edit(store: StateStore, old: str, new: str) -> None:
    store.path.write_text(store.path.read_text().replace(old, new))


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    text = capsys.readouterr().err
    assert text.startswith("nhi: ")
    assert text.count("\n") == 1
    return text


# nhi state validate


def test_a_valid_state_is_exit_code_0(store: StateStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "validate"]) == 0
    assert capsys.readouterr().out.startswith(f"{store.path} is valid: revision 1, ")


def test_verbose_says_what_was_checked(store: StateStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "validate", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert store.read().checksum in out
    assert "schema       version 1" in out
    assert "1 node, 2 guests" in out


@pytest.mark.usefixtures("store")
def test_an_edited_state_is_exit_code_1_until_it_is_accepted(
    store: StateStore, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(store, "redis-cache", "edited")
    assert main(["state", "validate"]) == 1
    assert "does not match its checksum" in error_line(capsys)
    assert main(["state", "validate", "--regenerate-checksum"]) == 0
    assert "with a new checksum" in capsys.readouterr().out
    assert main(["state", "validate", "--regenerate-checksum"]) == 0
    assert "was right already" in capsys.readouterr().out


def test_an_edit_against_the_schema_is_exit_code_1_and_stays_unaccepted(
    store: StateStore, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(store, '"healthy"', '"great"')
    recorded = store.recorded_checksum()
    assert main(["state", "validate", "--regenerate-checksum"]) == 1
    assert "'great' is not one of" in error_line(capsys)
    assert store.recorded_checksum() == recorded


def test_verbose_lists_every_error_of_a_state_against_the_schema(
    store: StateStore, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(store, '"healthy"', '"great"')
    raw = store.path.read_bytes()
    subprocess.run("sha256sum state.json > state.json.checksum", shell=True, check=True, cwd=store.directory)
    assert main(["state", "validate"]) == 1
    assert "(and 3 more; see them with --verbose)" in error_line(capsys)
    assert main(["state", "validate", "--verbose"]) == 1
    assert capsys.readouterr().out.count("'great' is not one of") == 4
    assert store.path.read_bytes() == raw


@pytest.mark.parametrize("command", [["state", "validate"], ["state", "show"], ["status"]])
def test_without_a_state_the_next_step_is_named(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 1
    assert "run a scan (`nhi scan`" in error_line(capsys)


# nhi state show


@pytest.mark.usefixtures("store")
def test_show_prints_a_text_as_it_is_and_anything_else_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "show", ADDRESS]) == 0
    assert capsys.readouterr().out == "10.86.0.106\n"
    assert main(["state", "show", ADDRESS, "--json"]) == 0
    assert capsys.readouterr().out == '"10.86.0.106"\n'
    assert main(["state", "show", "infrastructure.guests[].vmid"]) == 0
    assert json.loads(capsys.readouterr().out) == [102, 105]


def test_show_prints_the_whole_document(store: StateStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "show"]) == 0
    assert json.loads(capsys.readouterr().out) == store.read().document


@pytest.mark.usefixtures("store")
def test_show_fails_where_there_is_nothing_unless_json_can_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "show", "nothing"]) == 1
    assert "'nothing' names nothing" in error_line(capsys)
    assert main(["state", "show", "nothing", "--json"]) == 0
    assert capsys.readouterr().out == "null\n"
    assert main(["state", "show", "a["]) == 1
    assert "is not a JMESPath expression" in error_line(capsys)


# nhi status


@pytest.mark.usefixtures("store")
def test_status_prints_the_table_and_the_alerts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "redis-cache  lxc   10.86.0.106  running  healthy" in out
    assert "The guest is down." in out
    assert "\x1b" not in out
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revision"] == 1


# nhi scan


class FakeClient:
    """A Proxmox VE with one node and nothing on it."""

    def __init__(self, endpoint: Any) -> None:
        self.endpoint = endpoint
        self.calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        pass

    def get(self, path: Any, _params: Mapping[str, Any] | None = None) -> Any:
        self.calls += 1
        answers = {
            "/cluster/resources": [{"type": "node", "id": "node/pve", "node": "pve", "status": "online"}],
            "/version": {"version": "9.2.3"},
            "/cluster/status": [],
            "/access/permissions": {"/": {"VM.Audit": 1}},
        }
        return answers.get(path, [])


class DeadClient(FakeClient):
    def get(self, path: Any, _params: Mapping[str, Any] | None = None) -> Any:
        raise UnreachableError(f"{self.endpoint.server} does not answer: connection refused.")


@pytest.fixture
def proxmox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXMOX_HOST", "pve.example.net")
    monkeypatch.setenv("PROXMOX_USER", "nhi@pve")
    monkeypatch.setenv("PROXMOX_TOKEN_ID", "reader")
    monkeypatch.setenv("PROXMOX_TOKEN_SECRET", "s3cret")
    monkeypatch.setattr(scan_command, "ProxmoxClient", FakeClient)


@pytest.mark.usefixtures("proxmox")
def test_a_scan_writes_the_state_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan"]) == 0
    assert capsys.readouterr().out.startswith("0 guests on 1 node, 0 running, 0 not up to date; ")
    document = StateStore(tmp_path / "state").read().document
    assert [node["name"] for node in document["infrastructure"]["nodes"]] == ["pve"]
    assert document["meta"]["generated_by"]["program"] == "nhi scan"
    assert "s3cret" not in json.dumps(document)


@pytest.mark.usefixtures("proxmox")
def test_a_scan_can_be_tried_without_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["nodes"] == 1
    assert not (tmp_path / "state").exists()


@pytest.mark.usefixtures("proxmox")
def test_a_scan_that_fails_keeps_the_state(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan_command, "ProxmoxClient", DeadClient)
    before = store.read()
    assert main(["scan"]) == 1
    assert "pve.example.net:8006 does not answer" in error_line(capsys)
    assert store.read() == before


@pytest.mark.usefixtures("proxmox")
def test_a_scan_does_not_overwrite_a_damaged_state(store: StateStore, capsys: pytest.CaptureFixture[str]) -> None:
    edit(store, "redis-cache", "edited")
    before = store.path.read_bytes()
    assert main(["scan"]) == 1
    assert "does not match its checksum" in error_line(capsys)
    assert store.path.read_bytes() == before


@pytest.mark.usefixtures("proxmox")
def test_a_scan_interrupted_by_ctrl_c_is_one_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scan_command, "run_scan", interrupted)
    assert main(["scan"]) == 130
    assert error_line(capsys) == "nhi: interrupted\n"


def test_missing_settings_are_wrong_usage_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan"]) == 2
    line = error_line(capsys)
    for variable in ("PROXMOX_HOST", "PROXMOX_USER", "PROXMOX_TOKEN_ID", "PROXMOX_TOKEN_SECRET"):
        assert variable in line


# Usage


@pytest.mark.parametrize("arguments", [[], ["state"], ["nothing"], ["scan", "--api-token-secret", "x"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: nhi" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_gets_no_traceback(tmp_path: Path) -> None:
    document = make_document()
    document["api_providers"] = {"x": {"filler": ["x" * 100] * 2000}}
    StateStore(tmp_path / "state").write(document, expected_checksum=None)
    done = subprocess.run(
        f"{sys.executable} -m nhi_services state show | head -n 1",
        shell=True,
        check=True,
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_text_that_the_output_has_no_character_for_is_escaped(tmp_path: Path) -> None:
    document = make_document()
    document["api_providers"] = {"x": {"name": "Jürgen \ud800"}}
    StateStore(tmp_path / "state").write(document, expected_checksum=None)
    done = subprocess.run(
        [sys.executable, "-m", "nhi_services", "state", "show", "api_providers.x.name"],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONIOENCODING": "ascii",
        },
    )
    assert done.stdout == "J\\xfcrgen \\ud800\n"


# nhi services


@pytest.mark.usefixtures("store")
def test_services_that_run_and_services_that_can_be_had_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["services", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert [(s["service"], s["guest"]) for s in listing["services"]] == [("redis", "redis-cache")]
    assert {"redis", "postgresql"} <= {offer["service"] for offer in listing["catalogue"]}
    assert main(["services"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("SERVICE")
    assert listing["services"][0]["urls"][0] in out


def test_before_the_first_scan_services_says_what_can_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["services", "--state-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("No service is known to run.")
    assert "postgresql" in out


# nhi deps


GRAPH: dict[str, Any] = {"services": {
    "redis-cache": {"can_restart_without_approval": True, "restart_safe_hours": [2]},
    "shop": {"depends_on": [{"service": "redis-cache", "port": 6379, "use": "cache"}]},
}}  # fmt: skip


@pytest.fixture
def graph(store: StateStore) -> Path:
    path = store.directory / "dependency_graph.json"
    path.write_text(json.dumps(GRAPH))
    return path


def test_deps_shows_the_graph_with_the_health_of_the_last_scan(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deps"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^redis-cache +healthy +medium +redis-cache +02:00-03:00 +-$", out, re.MULTILINE)
    assert re.search(r"^shop +unknown +medium +- +always, approval +redis-cache cache :6379$", out, re.MULTILINE)
    assert "Start order: redis-cache -> shop" in out
    assert "Guest guest-102 is not in the dependency graph" in out


def test_deps_of_a_service_tell_what_stops_with_it(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deps", "redis-cache"]) == 0
    out = capsys.readouterr().out
    assert "Stop order: shop -> redis-cache" in out
    assert "Next safe window: " in out
    assert main(["deps", "nobody"]) == 1
    assert "has no service nobody" in error_line(capsys)


@pytest.mark.parametrize(
    ("form", "beginning"), [("svg", "<svg "), ("mermaid", "flowchart LR"), ("json", "{"), ("schema", "{")]
)
def test_deps_in_other_forms(graph: Path, form: str, beginning: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deps", "--format", form]) == 0
    out = capsys.readouterr().out
    assert out.startswith(beginning)
    if beginning == "{":
        json.loads(out)


def test_a_graph_with_a_cycle_is_exit_code_1_and_prints_it(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph.write_text('{"services": {"a": {"depends_on": ["b"]}, "b": {"depends_on": ["a"]}}}')
    assert main(["deps"]) == 1
    assert " -> " in error_line(capsys)


# nhi restart, nhi restarts


@pytest.fixture
def api(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HOST": "pve.example.net", "USER": "nhi@pve", "TOKEN_ID": "x", "TOKEN_SECRET": "y"}.items():
        monkeypatch.setenv(f"PROXMOX_{name}", value)


def test_a_restart_outside_its_hours_is_scheduled_listed_and_cancelled(
    api: None, graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = json.loads(json.dumps({**GRAPH, "time_zone": "UTC"}))
    closed["services"]["redis-cache"]["restart_safe_hours"] = [(datetime.now(UTC).hour + 12) % 24]
    graph.write_text(json.dumps(closed))
    assert main(["restart", "redis-cache", "--check"]) == 0
    assert "Not now, but in the next safe window" in capsys.readouterr().out
    assert main(["restarts"]) == 0
    assert capsys.readouterr().out == "No restart is scheduled.\n"
    assert main(["restart", "redis-cache"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Scheduled as restart-")
    assert "Nobody has looked for scheduled restarts here" in said.err
    assert main(["restarts"]) == 0
    assert re.search(r"^restart-\w+ +scheduled +.* redis-cache ", capsys.readouterr().out, re.MULTILINE)
    assert main(["restarts", "run"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["restarts", "cancel", "redis-cache"]) == 0
    assert capsys.readouterr().out.endswith("(redis-cache) is cancelled.\n")
    assert main(["restarts", "cancel", "redis-cache"]) == 1
    assert "there is none" in error_line(capsys)


def test_a_restart_that_is_refused_is_one_line_and_exit_code_1(api: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restart", "shop"]) == 1
    assert "shop runs on no guest that is known" in error_line(capsys)


@pytest.mark.parametrize("words", [["restart", "redis-cache"], ["restarts", "cancel"], ["restarts", "run", "x"]])
def test_what_is_missing_for_a_restart_is_exit_code_2(
    graph: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error_line(capsys)


def test_who_only_looks_at_restarts_needs_no_token(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restarts", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cut_off": [], "jobs": [], "watched": False}
