# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables, words and the status that is made of them."""

from __future__ import annotations

import io
import json
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.deployment import Record
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    NOON,
    full_document,
    make_alert,
    make_document,
    make_guest,
)
from nhi_services.status import policy_alerts, render, status_of
from nhi_services.table import Cell, Screen, lines_of, screen_of
from nhi_services.words import age_in_words, amount


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "never"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (125, "2 min"),
        (3600, "1 h"),
        (7805, "2 h 10 min"),
        (86400 * 3 + 3600 * 4 + 59, "3 d 4 h"),
        (86400, "1 d"),
    ],
)
def test_an_age_has_at_most_two_units(seconds: float | None, words: str) -> None:
    assert age_in_words(seconds) == words


def test_one_is_singular() -> None:
    assert (amount(1, "guests"), amount(0, "guests"), amount(2, "alerts")) == ("1 guest", "0 guests", "2 alerts")


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\u202e") == "a?[31mb?c?"
    assert Cell("\x07").text == "?"


ROWS = [[Cell("1"), Cell("a-rather-long-name"), Cell("x", "green")]]


def test_columns_are_as_wide_as_they_need_to_be_where_nobody_looks() -> None:
    lines = list(lines_of(Screen(), ("N", "NAME", "S"), ROWS, flexible="NAME"))
    assert lines == ["N  NAME                S", "1  a-rather-long-name  x"]


def test_a_name_is_cut_so_that_the_rest_fits() -> None:
    lines = list(lines_of(Screen(20), ("N", "NAME", "S"), ROWS, flexible="NAME"))
    assert lines == ["N  NAME            S", "1  a-rather-long…  x"]
    assert max(map(len, lines)) == 20


def test_the_last_column_is_folded() -> None:
    lines = list(lines_of(Screen(16), ("A", "MESSAGE"), [[Cell("1"), Cell("first second third")]], flexible="MESSAGE"))
    assert lines == ["A  MESSAGE", "1  first second", "   third"]


def test_colours_do_not_disturb_the_columns() -> None:
    lines = list(lines_of(Screen(None, colours=True), ("N", "NAME", "S"), ROWS, flexible="NAME"))
    assert lines[1] == "1  a-rather-long-name  \x1b[32mx\x1b[0m"


def test_a_pipe_has_neither_colours_nor_width() -> None:
    assert screen_of(io.StringIO(), {"COLUMNS": "20"}) == Screen(None, colours=False)


def test_a_terminal_has_both_unless_told_otherwise() -> None:
    assert screen_of(Terminal(), {"COLUMNS": "80"}) == Screen(80, colours=True)
    assert screen_of(Terminal(), {"COLUMNS": "80", "NO_COLOR": "1"}) == Screen(80, colours=False)
    assert screen_of(Terminal(), {"COLUMNS": "80", "TERM": "dumb"}) == Screen(80, colours=False)


def rendered(document: dict[str, object], *, after: timedelta = timedelta(seconds=41), width: int = 80) -> list[str]:
    return list(render(status_of(document, NOON + after), Screen(width)))


def test_the_status_shows_each_guest_and_each_alert() -> None:
    assert rendered(full_document()) == [
        "Proxmox VE, 2 guests, state 0, 41 s old",
        "VMID  GUEST        TYPE  ADDRESS      STATE    HEALTH   AGE",
        "102   guest-102    lxc   10.86.0.103  running  healthy  41 s",
        "105   redis-cache  lxc   10.86.0.106  running  healthy  41 s",
        "",
        "ALERT     SINCE  MESSAGE",
        "critical  41 s   The guest is down.",
    ]


def test_an_empty_lab_is_said_in_words() -> None:
    assert rendered(make_document())[1:] == ["There are no guests.", "", "No alerts."]


def test_the_cluster_is_named_when_it_is_known() -> None:
    document = make_document()
    document["infrastructure"]["cluster"] |= {"name": "lab", "version": "9.2.3"}
    assert rendered(document)[0].startswith("lab, Proxmox VE 9.2.3, 0 guests, ")


def test_old_and_unknown_facts_are_marked() -> None:
    guests = [make_guest(1), make_guest(2, observed_at=None, freshness="unknown", address=None)]
    lines = rendered(make_document(guests), after=timedelta(minutes=20))
    assert lines[2].endswith("20 min stale")
    assert lines[3].endswith("never")
    assert " -  " in lines[3]


def test_templates_are_not_guests_that_run() -> None:
    assert "There are no guests." in rendered(make_document([make_guest(9000, template=True)]))


def test_the_worst_alerts_come_first() -> None:
    document = make_document()
    document["alerts"] = [
        make_alert("a", severity="info", message="three"),
        make_alert("b", severity="warning", message="two"),
        make_alert("c", severity="critical", message="one"),
    ]
    assert [line.split()[-1] for line in rendered(document)[-3:]] == ["one", "two", "three"]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    document = make_document([make_guest(999999999, name="x" * 63, address="255.255.255.255", status="suspended")])
    document["alerts"] = [make_alert("x", message="A long story. " * 30)]
    assert max(map(len, rendered(document, width=width, after=timedelta(days=9, hours=23)))) <= width


def test_a_deployment_that_was_cut_off_is_a_warning_that_says_what_to_do() -> None:
    begun = Holder("run-1", "ada", 2**22 + 1, socket.gethostname(), NOON.isoformat(), "then")
    cut_off = Record("redis-cache", "redis", "cache", begun, deployment=begun)
    under_way = replace(cut_off, holder=Holder.me("run-2"))
    (alert,) = status_of(make_document(), NOON + timedelta(minutes=1), [cut_off, under_way]).alerts
    assert (alert.severity, alert.age_seconds) == ("warning", 60)
    assert "deployment of redis-cache (redis) was cut off: ada began it" in alert.message
    assert "playbooks/service.yml -e service=redis -e purpose=cache`" in alert.message
    assert "playbooks/remove_service.yml -e guest=redis-cache -e confirm=redis-cache`" in alert.message


def test_guests_that_only_the_policy_protects_are_told(tmp_path: Path) -> None:
    guests = [
        make_guest(100, name="brain-vm", type="qemu", protection=True),
        make_guest(102, name="postgres-lxc", protection=False),
        make_guest(103, name="vectors", tags=["kept"], protection=None),
        make_guest(105, name="redis-cache", protection=False),
        make_guest(9000, name="postgres-lxc", template=True, protection=False),
    ]
    document = make_document(guests)
    assert policy_alerts(document, tmp_path, NOON) == []
    protected = {"guests": ["brain-vm", "postgres-*"], "tags": ["kept"]}
    policy = {"schema_version": 1, "operators": ["ada"], "rules": [], "protected": protected}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    alerts = policy_alerts(document, tmp_path, NOON)
    assert [(alert.severity, alert.message) for alert in alerts] == [
        (
            "warning",
            "LXC 102 postgres-lxc is protected by the policy, but not in Proxmox VE: set protection: true (nhi_vm).",
        ),
        (
            "warning",
            "Whether Proxmox VE protects LXC 103 vectors, like the policy, is unknown: scan it.",
        ),
    ]
    assert status_of(document, NOON, more=alerts).alerts == tuple(alerts)


def test_a_broken_policy_does_not_hide_the_lab(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text("{")
    (alert,) = policy_alerts(make_document(), tmp_path, NOON)
    assert alert.severity == "critical"
    assert "nothing is allowed until it is corrected" in alert.message


def test_programs_get_the_same() -> None:
    data = json.loads(json.dumps(status_of(full_document(), NOON).as_data()))
    assert [guest["guest"] for guest in data["guests"]] == ["guest-102", "redis-cache"]
    assert data["guests"][1]["services"] == ["redis"]
    assert data["alerts"][0]["severity"] == "critical"
