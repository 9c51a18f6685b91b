# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever owns a guest chooses its name, its notes and what its services answer: all of it stays text."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.addresses import (
    agent_addresses,
    config_addresses,
    guest_nics,
    interface_addresses,
)
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import ProxmoxError, TaskError
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable, printable_parts
from ansible_collections.nhi.core.plugins.module_utils.probe import ProbeResult
from ansible_collections.nhi.core.plugins.module_utils.scan_options import ScanOptions, guest_wish
from ansible_collections.nhi.core.plugins.module_utils.scan_write import run_scan
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import canonical_bytes
from ansible_collections.nhi.core.tests.unit.plugins.module_utils import hostile
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_cluster import FakeCluster
from hypothesis import given
from hypothesis import strategies as st

ZONES = ("{{ lookup('pipe', 'id') }}", "-oProxyCommand=id", "$(id)", "a b")


@given(st.text())
def test_what_is_printable_stays_and_nothing_else_does(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert all(now in (was, "?", " ") for was, now in zip(text, shown, strict=True))
    assert printable_parts({"a": [text, 1, {"b": text}], "c": None}) == {"a": [shown, 1, {"b": shown}], "c": None}


def test_what_people_write_is_printable() -> None:
    assert printable("Jürgen\u00a0Größe 日本 ✓") == "Jürgen Größe 日本 ✓"


@pytest.mark.parametrize(
    "error", [ProxmoxError(f"no: {hostile.TEXT}"), TaskError(hostile.TEXT, upid="UPID:x", exitstatus="")]
)
def test_an_error_is_one_line_that_a_terminal_only_shows(error: ProxmoxError) -> None:
    assert str(error).isprintable()
    assert "TASK [forged]" in str(error)


@pytest.mark.parametrize("zone", ZONES)
def test_an_address_with_a_zone_goes_nowhere(zone: str) -> None:
    """Python takes any text for the zone; it would be the host that Ansible and ssh connect to."""
    evil = f"2001:db8::1%{zone}"
    assert config_addresses(guest_nics("lxc", {"net0": f"name=eth0,bridge=vmbr0,ip6={evil}/64"})) == []
    assert config_addresses(guest_nics("qemu", {"net0": "virtio=x", "ipconfig0": f"ip6={evil}/64"})) == []
    assert interface_addresses([{"name": "eth0", "inet6": f"{evil}/64"}]) == []
    listed = {"name": "eth0", "ip-addresses": [{"ip-address": evil, "prefix": 64}]}
    for found in (interface_addresses([listed]), agent_addresses({"result": [listed]})):
        assert [record["address"] for record in found] in ([], ["2001:db8::1"])


@pytest.mark.parametrize("guests", [[], ["101"]], ids=["whole", "partial"])
def test_a_scan_writes_down_text_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guests: list[str]) -> None:
    cluster = FakeCluster()
    row = cluster.qemu(101, hostile.TEXT, tags=f"svc-redis;svc-{hostile.TEXT}", pool=hostile.TEXT, lock=hostile.TEXT)
    cluster.config(row).update(description=hostile.TEXT.replace("\r\n", ""), digest=hostile.TEXT, meta=hostile.TEXT)
    cluster.agent(row, "10.0.0.51")
    answer = cluster.answers[f"{cluster.path(row)}/agent/network-get-interfaces"]
    answer["result"][0]["name"] = hostile.TEXT
    cluster.storage(hostile.TEXT, 0.99, plugintype=hostile.TEXT, content=hostile.TEXT)
    cluster.node(hostile.TEXT)
    cluster.answers["/version"] = {"version": hostile.TEXT}
    cluster.answers["/cluster/status"] = [{"type": "cluster", "name": hostile.TEXT}]
    monkeypatch.setattr(
        "ansible_collections.nhi.core.plugins.module_utils.scan.probe_all",
        lambda targets, **_more: {target: ProbeResult("unhealthy", hostile.TEXT) for target in targets},
    )
    for options in (ScanOptions(), ScanOptions(guests=guest_wish(guests), everything=True)):
        report = run_scan(
            StateStore(tmp_path), cluster, read_catalogue(), options, endpoint="lab", identity="x", by=this_program("t")
        )
    text = canonical_bytes(report.document).decode()
    assert [line for line in text.split("\n") if not line.isprintable()] == []
    assert "\\u00" not in text
    told = [alert["message"] for alert in report.document["alerts"] if alert["kind"] == "service_unhealthy"]
    # Nothing is evaluated or left out on the way: it is text, and all of it can be read.
    assert "{{ lookup('pipe', 'touch pwned') }}" in told[0]
    assert "TASK [forged]" in report.document["infrastructure"]["guests"][0]["description"]
