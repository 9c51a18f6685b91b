# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers for tests, one of each for a file; whoever needs another overrides the fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .postgres_server import PostgresServer, postgres_server
from .router_database import RouterDatabase, router_database
from .valkey_server import ValkeyServer, valkey


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    """A Valkey that keeps nothing."""
    with valkey(append_only=False) as running:
        yield running


@pytest.fixture
def server(shared: ValkeyServer) -> ValkeyServer:
    """The same, emptied."""
    shared.client().flushall()
    return shared


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL, which tests may stop and start."""
    with postgres_server() as running:
        yield running


@pytest.fixture(scope="module")
def made(postgres: PostgresServer) -> Iterator[RouterDatabase]:
    """A database with the router's tables."""
    with router_database(postgres) as database:
        yield database


@pytest.fixture
def database(made: RouterDatabase) -> RouterDatabase:
    """The same, emptied."""
    return made.emptied()
