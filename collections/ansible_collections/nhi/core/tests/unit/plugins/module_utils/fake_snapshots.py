# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The snapshots of a guest in memory."""

from __future__ import annotations

from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.errors import ProxmoxError

TAKEN_AT = 1_800_000_000


def snapshot_call(guest: dict[str, Any], method: str, rest: list[str], given: dict[str, Any]) -> Any:
    """Answer a call below ``/snapshot``."""
    snapshots: dict[str, dict[str, Any]] = guest["snapshots"]
    match [method, *rest]:
        case ["GET"]:
            rows = [{"name": n, **{k: v for k, v in s.items() if k != "config"}} for n, s in snapshots.items()]
            return [*rows, {"name": "current", "description": "You are here!", "running": int(guest["running"])}]
        case ["POST"]:
            snapshots[given["snapname"]] = {
                "description": given.get("description", "") + "\n", "snaptime": TAKEN_AT + len(snapshots),
                "vmstate": given.get("vmstate", 0), "config": dict(guest["config"]),
            }  # fmt: skip
            return "UPID:snapshot:x"
        case ["GET", name, "config"]:
            return {**snapshots[name]["config"], "snaptime": TAKEN_AT, "description": snapshots[name]["description"]}
        case ["PUT", name, "config"]:
            snapshots[name]["description"] = given["description"]
            return None
        case ["DELETE", name]:
            del snapshots[name]
            return "UPID:delsnapshot:x"
        case ["POST", name, "rollback"]:
            guest["config"] = dict(snapshots[name]["config"])
            guest["running"] = bool(given["start"])
            return "UPID:rollback:x"
    raise ProxmoxError(f"Method '{method} snapshot {rest}' not implemented", status=501)
