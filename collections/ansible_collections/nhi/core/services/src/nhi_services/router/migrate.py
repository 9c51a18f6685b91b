# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the router's tables in PostgreSQL up to date: `nhi-router migrate`, run as whoever is to own them.

Alembic keeps the order of the migrations and what was applied; each is plain SQL, because partitions, triggers and
functions are. All of a run is one transaction. The router itself only needs the rights that are granted here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import psycopg
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from psycopg import sql

from nhi_services.postgres import DatabaseSettings, explained, open_connection

SCRIPTS: Final = Path(__file__).with_name("migrations")
_ABOUT: Final = "of the router"
_RIGHTS: Final = (
    "GRANT USAGE ON SCHEMA router TO {role}",
    "GRANT USAGE ON SEQUENCE router.api_requests_id TO {role}",
    "GRANT SELECT, INSERT ON router.api_requests, router.routing_log TO {role}",
    "GRANT SELECT ON router.api_usage_hour, router.api_usage_day, router.migration TO {role}",
    "GRANT SELECT, INSERT ON router.deferred_tasks TO {role}",
    "GRANT UPDATE (due_at, status, attempts, lease_owner, lease_until) ON router.deferred_tasks TO {role}",
    "GRANT UPDATE (result, error, finished_at, bytes) ON router.deferred_tasks TO {role}",
    "GRANT UPDATE (notice_at, notice_attempts, notified_at) ON router.deferred_tasks TO {role}",
    "GRANT EXECUTE ON FUNCTION router.keep TO {role}",
)


class MigrationError(NHIError):
    """The tables can not be brought up to date; nothing was changed."""


def migrate(settings: DatabaseSettings, role: str | None = None, *, dry_run: bool = False) -> list[str]:
    """Apply what is missing and let a role use it; the names of what was, or in a dry run would be, applied."""
    try:
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory
        from sqlalchemy import NullPool, create_engine
    except ImportError as error:
        raise MigrationError("the Python package alembic is missing: install nhi-services[router]") from error

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: open_connection(settings, _ABOUT, "nhi-router migrate"),
        poolclass=NullPool,
    )  # fmt: skip
    try:
        with engine.begin() as connection:
            driver: psycopg.Connection[Any] = connection.connection.dbapi_connection  # type: ignore[assignment]
            # Whoever comes second finds nothing left to do.
            driver.execute("SELECT pg_advisory_xact_lock(hashtext('router.migrate'))")
            missing = _missing(scripts, _applied(driver))
            if not dry_run:
                if missing:
                    _make_schema(driver)
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
                if role:
                    _grant(driver, role)
            return missing
    except psycopg.Error as error:
        raise MigrationError(f"the tables of the router can not be brought up to date: {explained(error)}") from error
    finally:
        engine.dispose()


def apply_sql(revision: str) -> None:
    """Run the SQL file of a migration, over the connection on which Alembic is at work."""
    from alembic import op

    driver: Any = op.get_bind().connection.dbapi_connection
    driver.execute((SCRIPTS / "versions" / f"{revision}.sql").read_text(encoding="utf-8"))


def _applied(driver: psycopg.Connection[Any]) -> str | None:
    if driver.execute("SELECT to_regclass('router.migration')").fetchone() == (None,):
        return None
    row = driver.execute("SELECT version_num FROM router.migration").fetchone()
    return str(row[0]) if row else None


def _missing(scripts: Any, applied: str | None) -> list[str]:
    """Names of migrations that are to be applied, in order."""
    known = [one.revision for one in scripts.walk_revisions()]
    known.reverse()
    if applied is None:
        return known
    if applied not in known:
        raise MigrationError(
            f"the tables of the router are at {applied}, which this nhi-router does not know: install a newer one"
        )
    return known[known.index(applied) + 1 :]


def _make_schema(driver: psycopg.Connection[Any]) -> None:
    # CREATE SCHEMA IF NOT EXISTS would ask for the right to make one where there is one already.
    if driver.execute("SELECT to_regnamespace('router')").fetchone() == (None,):
        driver.execute("CREATE SCHEMA router")


def _grant(driver: psycopg.Connection[Any], role: str) -> None:
    for right in _RIGHTS:
        driver.execute(sql.SQL(right).format(role=sql.Identifier(role)))
