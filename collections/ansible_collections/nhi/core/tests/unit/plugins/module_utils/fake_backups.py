# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backups of a node in memory."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.errors import AlreadyExistsError, ProxmoxError

_NOT_CONFIG = {"vmid", "ostemplate", "archive", "restore", "storage", "unique", "force", "pool"}


def back_up(backups: dict[str, dict[str, Any]], guest: dict[str, Any], given: dict[str, Any]) -> str:
    """``POST vzdump``."""
    kind, vmid = guest["type"], int(given["vmid"])
    volid = f"{given['storage']}:backup/vzdump-{kind}-{vmid}-{len(backups):04}.zst"
    lines = [f"#{line}" for line in str(guest["config"].get("description", "")).splitlines()]
    lines += [f"{k}: {v}" for k, v in guest["config"].items() if k != "description"]
    row = {"volid": volid, "vmid": vmid, "subtype": kind, "ctime": int(time.time()) + len(backups), "size": 1000}
    row |= {"notes": given.get("notes-template", ""), "protected": given.get("protected", 0)}
    text = "\n".join([*lines, "", "[snap]", "memory: 1"])
    backups[volid] = {"row": row, "text": text, "config": dict(guest["config"])}
    return f"UPID:vzdump:{vmid}"


def restore(
    backups: dict[str, dict[str, Any]], guests: dict[int, dict[str, Any]], kind: str, given: dict[str, Any]
) -> str:
    """``POST lxc`` and ``POST qemu`` from a backup."""
    vmid, there = int(given["vmid"]), guests.get(int(given["vmid"]))
    if there is not None and not given.get("force"):
        raise AlreadyExistsError(f"CT {vmid} already exists on node 'pve'", status=500)
    if there is not None and there["running"]:
        raise ProxmoxError(f"unable to restore CT {vmid} - container is running", status=500)
    backup = backups[given.get("ostemplate") or given["archive"]]
    config = {**backup["config"], **{k: v for k, v in given.items() if k not in _NOT_CONFIG}}
    guests[vmid] = {"type": kind, "running": False, "config": config, "pool": given.get("pool"), "snapshots": {}}
    return f"UPID:{'vz' if kind == 'lxc' else 'qm'}restore:{vmid}"
