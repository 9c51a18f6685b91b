# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI document and the router agree: whatever Schemathesis sends is answered as the document says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from nhi_services.router.openapi import document
from schemathesis.checks import (
    CheckContext,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from .router_world import KEY, World, world
from .valkey_server import valkey

pytestmark = pytest.mark.slow

EXAMPLES = 12
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
DOCUMENT = document()
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


@pytest.fixture(scope="module")
def router() -> Iterator[World]:
    """One that runs in a thread of its own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    found: list[World] = []
    ended = asyncio.Event()

    async def run() -> None:
        with valkey(append_only=False) as server:
            routing = {"wait_seconds": 0.2, "breaker_failures": 1_000_000}
            async with world(server, routing=routing) as there:
                for provider in there.providers.values():
                    provider.seen = _Nothing()
                found.append(there)
                ready.set()
                await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield found[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(30)


class _Nothing(list[Any]):
    def append(self, _one: Any) -> None:
        pass


def test_every_route_is_in_the_document_and_nothing_else(router: World) -> None:
    served = {
        (resource.canonical.replace("{name:.+}", "{name}"), route.method.lower())
        for resource in router.router.application.router.resources()
        for route in resource
        if route.method != "HEAD"
    }
    assert served == set(OPERATIONS)


def test_the_document_is_served_to_everybody(router: World) -> None:
    answer = requests.get(router.url + "/openapi.json", timeout=5)
    assert (answer.status_code, answer.json()) == (200, DOCUMENT)


def test_a_wrong_method_names_the_right_ones(router: World) -> None:
    answer = requests.put(router.url + "/v1/models", timeout=5)
    assert (answer.status_code, set(answer.headers["Allow"].split(","))) == (405, {"GET", "HEAD"})


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_answers_are_as_the_document_says(router: World, path: str, method: str) -> None:
    seen: set[int] = set()
    seen_bodies: list[Any] = []

    def no_fault(_context: CheckContext, response: Any, _case: Any) -> None:
        assert response.status_code != 500, response.text
        seen.add(response.status_code)

    schema = schemathesis.openapi.from_dict(DOCUMENT)
    operation = schema[path][method.upper()]

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Any) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        if isinstance(case.body, dict) and len(seen_bodies) % 2:
            # Half of them to a model that there is, as only these come to a provider.
            case.body["model"], case.headers = "nhi/code", {}
        seen_bodies.append(case.body)
        case.call_and_validate(base_url=router.url, headers=headers, checks=[no_fault, *CHECKS])

    ask()
    assert seen & {200, 404, 503}
    assert 200 in seen or "{" in path or "deferred" in path, seen
