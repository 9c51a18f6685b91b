# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster in a dictionary: a client that answers from it and keeps what it was asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.errors import NotFoundError, ProxmoxError
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import api_path

GIB = 1024**3


class FakeCluster:
    """Answers GETs; a value that is an exception is raised."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {
            "/version": {"version": "9.2.3"},
            "/cluster/status": [{"type": "cluster", "name": "lab"}],
            "/access/permissions": {"/": {"VM.Audit": 1}},
            "/cluster/tasks": [],
        }
        self.asked: list[str] = []
        self.most_at_once: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.node("pve")

    @property
    def calls(self) -> int:
        """How many requests were made."""
        return len(self.asked)

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        """What the cluster says."""
        url = api_path(path)
        node = url.split("/")[2] if url.startswith("/nodes/") else ""
        with self._lock:
            self.asked.append(url)
            self._now[node] += 1
            self.most_at_once[node] = max(self.most_at_once[node], self._now[node])
        try:
            return self._answer(url)
        finally:
            with self._lock:
                self._now[node] -= 1

    def _answer(self, url: str) -> Any:
        if url == "/cluster/resources":
            return [dict(row) for row in self.rows]
        if url not in self.answers:
            for row in self.rows:
                if "vmid" in row and url == f"{self.path(row)}/status/current":
                    return dict(row)
            raise NotFoundError(f"no answer for {url}", status=500, reason="Configuration file does not exist")
        answer = self.answers[url]
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def forget(self) -> None:
        """Start a new list of what was asked."""
        self.asked.clear()

    def node(self, name: str, status: str = "online") -> dict[str, Any]:
        """Add a node."""
        row: dict[str, Any] = {
            "id": f"node/{name}",
            "type": "node",
            "node": name,
            "status": status,
            "maxcpu": 8,
            "cpu": 0.1,
        }
        row |= {"maxmem": 32 * GIB, "mem": 4 * GIB, "disk": GIB, "maxdisk": 90 * GIB, "uptime": 1000}
        self.rows.append(row)
        return row

    def storage(self, name: str, used: float, node: str = "pve", **more: Any) -> dict[str, Any]:
        """Add a storage that is full to a part."""
        row: dict[str, Any] = {
            "id": f"storage/{node}/{name}",
            "type": "storage",
            "storage": name,
            "node": node,
            "status": "available",
        }
        row |= {"plugintype": "dir", "content": "iso,backup", "maxdisk": 100 * GIB, "disk": int(used * 100 * GIB)}
        self.rows.append(row | more)
        return self.rows[-1]

    def lxc(self, vmid: int, name: str, ip: str = "10.0.0.5/24", **more: Any) -> dict[str, Any]:
        """Add a running container with a configuration."""
        row = self._guest("lxc", vmid, name, more)
        mac = f"BC:24:11:00:00:{vmid % 256:02X}"
        net = f"name=eth0,bridge=vmbr0,hwaddr={mac},ip={ip}"
        self.answers[f"{self.path(row)}/config"] = {"hostname": name, "net0": net, "digest": f"digest-{vmid}"}
        return row

    def qemu(self, vmid: int, name: str, ip: str = "dhcp", agent: str = "1", **more: Any) -> dict[str, Any]:
        """Add a running virtual machine with a configuration."""
        row = self._guest("qemu", vmid, name, more)
        config = {"name": name, "digest": f"digest-{vmid}", "ipconfig0": f"ip={ip}", "agent": agent}
        config["net0"] = f"virtio=BC:24:11:00:01:{vmid % 256:02X},bridge=vmbr0"
        self.answers[f"{self.path(row)}/config"] = config
        return row

    def interfaces(self, row: dict[str, Any], address: str) -> None:
        """Let a container report an address."""
        self.answers[f"{self.path(row)}/interfaces"] = [
            {"name": "lo", "hwaddr": "00:00:00:00:00:00", "inet": "127.0.0.1/8"},
            {"name": "eth0", "hwaddr": "bc:24:11:00:00:01", "inet": f"{address}/24"},
        ]

    def agent(self, row: dict[str, Any], answer: str | Exception) -> None:
        """Let a virtual machine's agent report an address, or fail."""
        entry = [{"ip-address": answer, "ip-address-type": "ipv4", "prefix": 24}]
        result = {"result": [{"name": "ens18", "hardware-address": "bc:24:11:00:01:01", "ip-addresses": entry}]}
        self.answers[f"{self.path(row)}/agent/network-get-interfaces"] = result if isinstance(answer, str) else answer

    def config(self, row: dict[str, Any]) -> dict[str, Any]:
        """A guest's configuration, to be changed."""
        config: dict[str, Any] = self.answers[f"{self.path(row)}/config"]
        return config

    @staticmethod
    def path(row: dict[str, Any]) -> str:
        """Where a guest's calls are."""
        return f"/nodes/{row['node']}/{row['type']}/{row['vmid']}"

    def _guest(self, kind: str, vmid: int, name: str, more: dict[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": f"{kind}/{vmid}",
            "type": kind,
            "vmid": vmid,
            "name": name,
            "node": "pve",
            "status": "running",
        }
        row |= {
            "template": 0,
            "maxcpu": 2,
            "cpu": 0.01,
            "maxmem": GIB,
            "mem": GIB // 8,
            "maxdisk": 8 * GIB,
            "disk": GIB,
        }
        self.rows.append(row | {"uptime": 5000} | more)
        return self.rows[-1]


def silent_agent() -> ProxmoxError:
    """What a client raises for a guest agent that does not answer."""
    return ProxmoxError("the agent of the guest does not run", status=500, reason="QEMU guest agent is not running")
