# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the API as they are meant: numbers that travel as text, and lists that are empty for want of a right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from .errors import PermissionDeniedError, ProxmoxError

GUESTS = ("lxc", "qemu")
# What a client counts with or compares; releases and endpoints differ in whether it comes as a number.
_NUMBERS = (
    *("vmid", "cpu", "maxcpu", "mem", "maxmem", "disk", "maxdisk", "uptime", "size", "ctime", "starttime", "endtime"),
    *("avail", "total", "used"),
)  # fmt: skip


class Reader(Protocol):
    """The one call of a client that reading needs."""

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any: ...


def with_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its numbers as numbers, whatever they came as."""
    return {key: number(value) if key in _NUMBERS else value for key, value in row.items()}


def number(value: Any) -> Any:
    """A number that came as text; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value


def refuse_blindness(api: Reader, rows: Iterable[Mapping[str, Any]], identity: str) -> None:
    """A token without rights gets empty lists and no error: PermissionDeniedError instead of an empty lab."""
    if any(row.get("type") in GUESTS for row in rows):
        return
    try:
        permissions = api.get("/access/permissions")
    except ProxmoxError:
        return  # what this token may do can not be told; an empty lab is possible
    if any("VM.Audit" in privileges for privileges in (permissions or {}).values()):
        return
    error = PermissionDeniedError(
        f"{identity} sees no guest at all because it has VM.Audit nowhere: give the user and the token (with"
        " privilege separation each needs it) a role such as PVEAuditor on /",
        path="/cluster/resources",
    )
    error.privilege, error.acl_path = "VM.Audit", "/"
    raise error
