# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of scans read in a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.scan_write import ScanReport
from ansible_collections.nhi.core.plugins.module_utils.state_document import format_time, utc_now

Scan = Callable[..., ScanReport]


def this_moment() -> str:
    return format_time(utc_now())


def guest(report: ScanReport, vmid: int) -> dict[str, Any]:
    found: dict[str, Any] = next(g for g in report.document["infrastructure"]["guests"] if g["vmid"] == vmid)
    return found


def alert_ids(report: ScanReport) -> list[str]:
    return [alert["id"] for alert in report.document["alerts"]]
