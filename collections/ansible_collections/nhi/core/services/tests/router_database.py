# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases with the router's tables for tests, each with an owner and the role with which the router comes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from nhi_services.postgres import DatabaseSettings
from nhi_services.router.migrate import migrate

from .postgres_server import PostgresServer

OWNER, ROUTER, PASSWORD = "router_owner", "nhi_router", "router-s3cret"
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class RouterDatabase:
    """One database on a server that may be stopped and started."""

    server: PostgresServer
    name: str

    @property
    def owner(self) -> DatabaseSettings:
        return self._as(OWNER)

    @property
    def router(self) -> DatabaseSettings:
        return self._as(ROUTER)

    def _as(self, user: str) -> DatabaseSettings:
        conninfo = f"host=127.0.0.1 port={self.server.port} dbname={self.name} user={user}"
        return DatabaseSettings(conninfo, PASSWORD)

    def emptied(self) -> RouterDatabase:
        """The same with empty tables, on a running server."""
        if self.server.process is None:
            self.server.start()
        tables = ("api_requests", "routing_log", "api_usage_hour", "api_usage_day", "deferred_tasks")
        self.ask(f"TRUNCATE {', '.join(f'router.{table}' for table in tables)}")
        return self

    def ask(self, query: str) -> str:
        """As the superuser."""
        return str(self.server.psql(query, database=self.name).stdout).strip()


@contextlib.contextmanager
def router_database(server: PostgresServer, *, migrated: bool = True) -> Iterator[RouterDatabase]:
    """A new one, dropped afterwards."""
    if server.process is None:
        server.start()
    made = RouterDatabase(server, f"router_{next(_NUMBERS)}")
    for role in (OWNER, ROUTER):
        if not server.psql(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'").stdout:
            server.psql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    server.psql(f"CREATE DATABASE {made.name} OWNER {OWNER}")
    try:
        if migrated:
            migrate(made.owner, ROUTER)
        yield made
    finally:
        if server.process is None:
            server.start()
        server.psql(f"DROP DATABASE {made.name} WITH (FORCE)")
