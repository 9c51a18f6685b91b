# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node in memory and a state directory: where tests let guests be made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.guest_manager import GuestManager
from ansible_collections.nhi.core.plugins.module_utils.guest_run import Outcome, Settings
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import wanted_from_params
from ansible_collections.nhi.core.plugins.module_utils.guest_wait import Patience
from ansible_collections.nhi.core.plugins.module_utils.reservations import Choice, Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_proxmox import FakeProxmox

NETWORK = {"range": "10.99.0.105-10.99.0.199", "prefix": 24, "gateway": "10.99.0.1"}
REDIS: dict[str, Any] = {"name": "redis", "state": "started", "template": "debian-12", "network": NETWORK}


class GuestLab:
    def __init__(self, directory: Path) -> None:
        self.pve = FakeProxmox()
        self.state_dir = directory / "infrastructure"
        self.told: list[str] = []

    def run(self, options: dict[str, Any], **settings: Any) -> Outcome:
        wanted = wanted_from_params({"state": "present", "vmid_range": "105-199", **options})
        settings = {"patience": Patience(task=1.0), "tell": self.told.append, **settings}
        return GuestManager(self.pve, wanted, Settings(self.state_dir, **settings)).run()

    @contextlib.contextmanager
    def holding(self, operation: str, name: str, address: str) -> Iterator[None]:
        """While another run is about to use an address."""
        ledger = Reservations(self.state_dir)
        ip = ip_address(address)
        choice = Choice(150, {0: ip}) if isinstance(ip, IPv4Address) else Choice(150, {}, {0: ip})
        ledger.reserve(operation, name, datetime.now(UTC), lambda _held: choice)
        yield
        ledger.release(operation)

    def reserved(self) -> list[str]:
        return sorted(map(str, Reservations(self.state_dir).peek().addresses))
