# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to PostgreSQL: how one is named, where its password comes from, and what a failure says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nhi_services.settings import SettingsError, read_private

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS: Final = 5


@dataclass(frozen=True)
class DatabaseSettings:
    """How to reach a database: what libpq calls a connection string, without the password."""

    conninfo: str
    password: str | None = field(default=None, repr=False)


def read_password(environment: Mapping[str, str], variable: str, credential: str, file: str | None) -> str | None:
    """A password from a variable, a systemd credential, or a private file; None where there is none."""
    if password := environment.get(variable):
        return password
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        found = Path(directory) / credential
        if found.exists():
            return read_private(found, private=False)
    return read_private(Path(file).expanduser(), private=True) if file else None


def conninfo_of(settings: DatabaseSettings, about: str, program: str) -> str:
    """The connection string of the database "of the router", or of whom; SettingsError when it can not be used."""
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict, make_conninfo
    except ImportError as error:
        raise SettingsError("the Python package psycopg is missing: install nhi-services[audit,router]") from error
    try:
        given = conninfo_to_dict(settings.conninfo)
    except psycopg.Error as error:
        raise SettingsError(f"the conninfo of the database {about} is not valid: {explained(error)}") from error
    if given.get("password"):
        raise SettingsError(
            f"the conninfo of the database {about} holds a password, which everybody may see there: put it into a file"
            " of mode 0600 and name that as password_file"
        )
    options: dict[str, str | int] = {"connect_timeout": CONNECT_SECONDS, "application_name": program}
    if settings.password is not None:
        options["password"] = settings.password
    return make_conninfo(settings.conninfo, **options)


def open_connection(
    settings: DatabaseSettings, about: str, program: str, *, autocommit: bool = False
) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection; psycopg.Error when the database does not answer."""
    conninfo = conninfo_of(settings, about, program)
    import psycopg

    return psycopg.connect(conninfo, autocommit=autocommit)


def explained(error: psycopg.Error) -> str:
    """What the server or the driver said, in one line."""
    lines = (error.diag.message_primary or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
