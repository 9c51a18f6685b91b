# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the audit log's copy in PostgreSQL: ``audit.toml`` beside ``nhi.toml``, or environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nhi_services.postgres import DatabaseSettings, read_password
from nhi_services.settings import DEFAULT_FILE, SettingsError, read_toml

FILE_NAME: Final = "audit.toml"
CREDENTIAL: Final = "audit_database_password"
DATABASE_VARIABLE: Final = "NHI_AUDIT_DATABASE"
PASSWORD_VARIABLE: Final = "NHI_AUDIT_PASSWORD"  # noqa: S105 -- a name

_KNOWN: Final = ("conninfo", "password_file")


def read_database_settings(environment: Mapping[str, str], config: Path | None = None) -> DatabaseSettings | None:
    """None where no database is configured; SettingsError when what is written there can not be used."""
    named = config or (Path(environment["NHI_CONFIG"]) if environment.get("NHI_CONFIG") else DEFAULT_FILE)
    path = named.with_name(FILE_NAME)
    table = _read(path)
    conninfo = environment.get(DATABASE_VARIABLE) or table.get("conninfo")
    if not conninfo:
        return None
    password = read_password(environment, PASSWORD_VARIABLE, CREDENTIAL, table.get("password_file"))
    return DatabaseSettings(conninfo, password)


def _read(path: Path) -> dict[str, Any]:
    content = read_toml(path, required=False)
    table = content.get("database", {})
    usable = isinstance(table, dict) and all(name in _KNOWN and isinstance(value, str) for name, value in table.items())
    if not usable or set(content) - {"database"}:
        raise SettingsError(f"{path} may hold a table [database] with the texts {' and '.join(_KNOWN)}, nothing else.")
    return dict(table)
