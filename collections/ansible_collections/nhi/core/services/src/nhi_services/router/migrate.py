# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the router's tables in PostgreSQL up to date: `nhi-router migrate`, run as whoever is to own them.

Alembic keeps the order of the migrations and what was applied; each is plain SQL, because partitions, triggers and
functions are. All of a run is one transaction. The router itself only needs the rights that are granted here.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any, Final

import psycopg
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from psycopg import sql

from nhi_services.postgres import DatabaseSettings, explained, open_connection
from nhi_services.settings import SettingsError, read_private

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


def migrate(
    settings: DatabaseSettings, role: str | None = None, *, owner: str | None = None, dry_run: bool = False
) -> list[str]:
    """Apply what is missing and let a role use it; the names of what was, or in a dry run would be, applied.

    ``owner`` is to own the tables, where it is not who connects: a superuser's functions could do anything.
    """
    try:
        from sqlalchemy.exc import DBAPIError
    except ImportError as error:
        raise MigrationError("the Python package alembic is missing: install nhi-services[router]") from error
    try:
        with contextlib.closing(open_connection(settings, _ABOUT, "nhi-router migrate")) as driver:
            return _migrate(driver, role, owner, dry_run=dry_run)
    except (psycopg.Error, DBAPIError) as error:
        cause = error if isinstance(error, psycopg.Error) else error.orig
        words = explained(cause) if isinstance(cause, psycopg.Error) else str(error)
        raise MigrationError(f"the tables of the router can not be brought up to date: {words}") from error


def _migrate(driver: psycopg.Connection[Any], role: str | None, owner: str | None, *, dry_run: bool) -> list[str]:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import StaticPool, create_engine

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    # One connection and one transaction, which Alembic wants to be given in this way.
    engine = create_engine("postgresql+psycopg://", creator=lambda: driver, poolclass=StaticPool)
    with engine.begin() as connection:
        # Whoever comes second finds nothing left to do.
        driver.execute("SELECT pg_advisory_xact_lock(hashtext('router.migrate'))")
        if owner:
            driver.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))
        missing = _missing(ScriptDirectory.from_config(config), _applied(driver))
        if missing and not dry_run:
            _make_schema(driver)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        if role and not dry_run:
            _grant(driver, role)
    return missing


def main(argv: list[str]) -> int:
    """`nhi-router migrate`; returns the exit code. A line begins with APPLY for each migration."""
    parser = argparse.ArgumentParser(
        prog="nhi-router migrate", description="Bring the tables in PostgreSQL up to date."
    )
    parser.add_argument("--dsn", required=True, help="the database, as somebody who may make the tables")
    parser.add_argument("--password-file", type=Path, help="file of mode 0600")
    parser.add_argument("--owner", help="role that is to own the tables, if it is not the one of --dsn")
    parser.add_argument("--grant-to", metavar="ROLE", help="role with which the router comes")
    parser.add_argument("--check", action="store_true", help="say what would be applied, and do nothing")
    given = parser.parse_args(argv)
    try:
        password = read_private(given.password_file, private=True) if given.password_file else None
        done = migrate(DatabaseSettings(given.dsn, password), given.grant_to, owner=given.owner, dry_run=given.check)
    except NHIError as error:
        print(f"nhi-router: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    for name in done:
        print(f"APPLY {name}")
    return 0


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
