# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random

import pytest
from ansible_collections.nhi.core.plugins.module_utils.endpoints import Wanted, choose_endpoint
from ansible_collections.nhi.core.plugins.module_utils.errors import EndpointError
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import endpoint, service


def test_the_answer_says_where_and_who() -> None:
    found = choose_endpoint([service("redis", 105, purpose="cache")], Wanted("redis"))

    assert found["host"] == "10.86.7.105"
    assert found["port"] == 6379
    assert found["url"] == "redis://10.86.7.105:6379"
    assert found["guest"] == "redis-105"
    assert found["purpose"] == "cache"
    assert found["health"] == "healthy"


def test_healthy_comes_before_fresh_and_fresh_before_the_lower_vmid() -> None:
    services = [
        service("redis", 101, health="unhealthy"),
        service("redis", 102, freshness="stale"),
        service("redis", 103),
        service("redis", 104),
    ]

    assert choose_endpoint(services, Wanted("redis"))["vmid"] == 103
    assert choose_endpoint(services[:2], Wanted("redis"))["vmid"] == 102


def test_the_same_state_gives_the_same_answer_in_any_order() -> None:
    services = [service("redis", vmid) for vmid in range(105, 125)]
    shuffle = random.Random(1).shuffle
    for _count in range(20):
        shuffle(services)
        assert choose_endpoint(services, Wanted("redis"))["vmid"] == 105


def test_purpose_guest_and_endpoint_narrow_the_choice() -> None:
    two = [endpoint("main", 6379, "10.86.7.106"), endpoint("metrics", 9121, "10.86.7.106")]
    services = [service("redis", 105, purpose="queue"), service("redis", 106, purpose="cache", endpoints=two)]

    assert choose_endpoint(services, Wanted("redis", purpose="cache"))["vmid"] == 106
    assert choose_endpoint(services, Wanted("redis", guest="redis-106"))["vmid"] == 106
    assert choose_endpoint(services, Wanted("redis", endpoint="metrics"))["port"] == 9121


def test_an_unknown_service_is_answered_with_those_that_exist() -> None:
    services = [service("redis", 105), service("postgresql", 102), service("redis", 106)]

    with pytest.raises(EndpointError, match=r"No instance offers service 'mongodb': the state has postgresql, redis\."):
        choose_endpoint(services, Wanted("mongodb"))


def test_an_unknown_purpose_is_answered_with_the_instances_that_exist() -> None:
    services = [service("redis", 105, purpose="queue"), service("postgresql", 102)]

    with pytest.raises(EndpointError, match=r"redis-105 \(purpose queue, endpoints main\)\.") as caught:
        choose_endpoint(services, Wanted("redis", purpose="cache"))
    assert "postgresql" not in str(caught.value)


def test_an_empty_state_says_what_to_do() -> None:
    with pytest.raises(EndpointError, match=r"has no services\. Create one, or scan again"):
        choose_endpoint([], Wanted("redis"))


@pytest.mark.parametrize("health", ["unhealthy", "unknown", "stopped"])
def test_an_instance_that_is_not_healthy_is_refused_unless_accepted(health: str) -> None:
    services = [service("redis", 105, health=health)]

    with pytest.raises(EndpointError, match=rf"No healthy instance .* redis-105 \(redis://.*\) is {health}"):
        choose_endpoint(services, Wanted("redis"))
    assert choose_endpoint(services, Wanted("redis"), allow_unhealthy=True)["health"] == health


def test_an_instance_without_an_address_is_never_healthy() -> None:
    with pytest.raises(EndpointError, match=r"redis-105 \(no address\) is unknown"):
        choose_endpoint([service("redis", 105, address=None)], Wanted("redis"))
