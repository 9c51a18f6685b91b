# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A state directory with guests, a policy and known host keys, and a stand-in for ssh, for tests of remote hands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.guest_host_key import HostKey, KnownHosts
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_ssh import FakeSsh
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    make_document,
    make_guest,
    make_service,
)

POLICY: dict[str, Any] = {
    "schema_version": 1,
    "operators": ["luca"],
    "rules": [],
    "exec": [
        {
            "commands": [["uptime"], ["seven"], ["show", "*"]],
            "reads": True,
            "decision": "allow",
            "reason": "looks only",
        },
        {"logs": True, "decision": "allow"},
        {"commands": [["reload", "*"], ["login", "--password=hunter2"]], "decision": "approve", "reason": "ask luca"},
        {"actors": ["luca"], "decision": "allow"},
    ],
}


class HandsLab:
    """The lab as an actor finds it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ssh = FakeSsh(directory / "ssh", monkeypatch)
        self.state_dir = directory / "state"
        self._env = monkeypatch
        cache = make_guest(105, name="redis-cache")
        off, web = make_guest(106, name="off", status="stopped"), make_guest(107, name="web")
        lab = make_document([cache, off, web])
        lab["infrastructure"]["services"] = [make_service(cache, "redis"), make_service(web, "nginx")]
        StateStore(self.state_dir).write(lab, expected_checksum=None)
        hosts = KnownHosts(self.state_dir / "known_hosts")
        for guest in (cache, off):
            hosts.replace([guest["name"], guest["address"]], [HostKey("ssh-ed25519", "AAAA")])
        self.policy(POLICY)
        self.act_as("aider")
        self.ssh.program("seven", "echo out; echo err >&2; exit 7")
        self.ssh.program("show", 'printf "%s\\n" "$@"')
        self.ssh.program("reload", "echo reloaded")

    def policy(self, policy: dict[str, Any] | None) -> None:
        """Put another policy in force, or none."""
        path = self.state_dir / "policy.json"
        path.unlink(missing_ok=True)
        if policy is not None:
            path.write_text(json.dumps(policy))

    def act_as(self, actor: str) -> None:
        """From now on somebody else asks."""
        self._env.setenv("NHI_ACTOR", actor)

    def audit(self) -> list[dict[str, Any]]:
        """Everything that the log was told, oldest first."""
        return [dict(entry) for entry in find(self.state_dir, Query())]
