# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restart would do, and what speaks against it."""

from __future__ import annotations

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import GraphError
from ansible_collections.nhi.core.plugins.module_utils.restart_history import Estimate
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.restart_lab import AFTERNOON, FREE, plan


def failed(*services: str, **options: object) -> dict[str, str]:
    return {c.name: c.message for c in plan(*services, **options).failed}  # type: ignore[arg-type]


def test_what_is_needed_is_restarted_first_by_its_unit_and_asked_as_the_catalogue_says() -> None:
    found = plan("nginx-web", "redis-cache")
    assert [s.text for s in found.steps] == [
        "Restart redis-cache: unit redis-server on redis-cache; then wait for tcp :6379",
        "Restart nginx-web: unit nginx on nginx-web; then wait for tcp :80",
    ]
    assert (found.action, found.failed) == ("restart", [])


def test_without_a_unit_the_guest_is_restarted_and_asked_at_the_ports_that_others_use() -> None:
    changes = {"shop": {"depends_on": [{"service": "postgres", "port": 5432}]}}
    step = plan("postgres", confirm="postgres", changes=changes).steps[0]
    assert (step.how, step.guest, step.vmid, [e.port for e in step.gate]) == ("guest", "postgres", 102, [5432])
    assert [e.port for e in plan("minio").steps[0].gate] == [22]
    whole = plan("redis-cache", whole_guests=True).steps[0]
    assert (whole.how, whole.unit, [e.port for e in whole.gate]) == ("guest", None, [6379])


def test_the_graph_may_name_a_unit_and_is_right() -> None:
    changes = {"redis-cache": {"unit": "valkey", **FREE}}
    assert plan("redis-cache", changes=changes).steps[0].unit == "valkey"


def test_a_guest_is_not_restarted_for_one_of_its_services() -> None:
    assert "loki would stop with its guest tools: write unit of grafana" in failed("grafana")["alone"]
    assert failed("loki") == {}
    together = plan("grafana", "loki")
    assert [(s.how, s.guest) for s in together.steps] == [("guest", "tools")]
    # What depends on it is part of the impact anyway.
    changes = {"loki": {"guest": "tools", "depends_on": ["grafana"]}}
    assert "alone" not in failed("grafana", changes=changes)


@pytest.mark.parametrize(
    ("service", "check", "words"),
    [
        ("brain-vm", "brain", "is the Brain, from which restarts are done"),
        ("lost", "placed", "lost runs on no guest that is known: write its guest"),
        ("away", "placed", "away runs on gone, which is no known guest"),
        ("off", "runs", "off, which carries off, does not run: start it with nhi_vm"),
        ("postgres", "approved", "a person who may decide that repeats it with confirm=postgres"),
    ],
)
def test_what_speaks_against_it_says_what_to_do(service: str, check: str, words: str) -> None:
    assert words in failed(service)[check]


def test_approval_is_by_name() -> None:
    assert "approved" in failed("postgres", confirm="redis-cache")
    assert failed("postgres", "redis-cache", confirm="postgres") == {}


def test_outside_the_window_it_is_scheduled_and_only_a_name_overrules_that() -> None:
    later = plan("minio", now=AFTERNOON)
    assert (later.action, later.failed) == ("schedule", [])
    assert later.summary()[0] == (
        "Not now, but in the next safe window: 2026-01-20 02:00 to 05:00 (Europe/Berlin), by the hours of minio."
    )
    assert plan("minio").action == "restart"
    assert "confirm=minio" in failed("minio", now=AFTERNOON, at_once=True)["window"]
    forced = plan("minio", now=AFTERNOON, at_once=True, confirm="minio")
    assert (forced.action, forced.failed) == ("restart", [])


def test_the_hours_of_dependents_count_too() -> None:
    changes = {"nginx-web": {"depends_on": ["redis-cache"], "restart_safe_hours": [5], **FREE}}
    assert plan("redis-cache", changes=changes).action == "schedule"


def test_without_a_common_hour_it_is_refused() -> None:
    changes = {"redis-cache": {"restart_safe_hours": [6], **FREE}}
    assert "no hour is safe for all of minio, redis-cache" in failed("minio", "redis-cache", changes=changes)["window"]


def test_a_window_with_too_little_time_left_is_not_begun() -> None:
    long = {"minio": Estimate(5400.0, 10800.0, 3)}
    assert plan("minio", estimates=long).action == "schedule"
    assert plan("minio", estimates={"minio": Estimate(5.0, 9.0, 3)}).action == "restart"


def test_an_unknown_service_is_an_error() -> None:
    with pytest.raises(GraphError, match="has no service rediss"):
        plan("rediss")
