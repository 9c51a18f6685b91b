# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Proxmox VE node in memory: just enough of the client's protocol for guest plans, with switches to make it fail."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AlreadyExistsError,
    NotFoundError,
    ProxmoxError,
    TaskError,
)
from ansible_collections.nhi.core.plugins.module_utils.proxmox_tasks import TaskResult
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_backups import back_up, restore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_snapshots import snapshot_call

GIB = 1 << 30
NODE = "pve"
PRIVILEGES = (
    "VM.Allocate", "VM.Clone", "VM.PowerMgmt", "VM.Config.CPU", "VM.Config.Disk", "VM.Config.Memory",
    "VM.Config.Network", "VM.Config.Options", "VM.Config.HWType", "VM.Config.Cloudinit", "VM.Snapshot", "VM.Audit",
    "VM.Snapshot.Rollback", "VM.Backup", "Datastore.Allocate", "Datastore.AllocateSpace", "SDN.Use", "Sys.Modify",
)  # fmt: skip


class FakeProxmox:
    """One node "pve". ``calls`` has every request; ``hooks`` run before a request whose text they are named after."""

    def __init__(self) -> None:
        self.guests: dict[int, dict[str, Any]] = {}
        self.hidden: set[int] = set()
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.hooks: dict[str, Callable[[], None]] = {}
        self.failing_tasks: dict[str, str] = {}
        self.templates = ["local:vztmpl/debian-12-standard_12.2-1_amd64.tar.zst"]
        self.storages: list[dict[str, Any]] = [
            {"storage": "local", "content": "vztmpl,backup", "active": 1, "enabled": 1, "avail": 90 * GIB},
            {"storage": "local-lvm", "content": "rootdir,images", "active": 1, "enabled": 1, "avail": 50 * GIB},
        ]
        self.reports_address = True
        self.lacking: set[tuple[str, str]] = set()
        self.tasks: list[dict[str, Any]] = []
        self.snapshots_possible = True
        self.backups: dict[str, dict[str, Any]] = {}
        self.task_warnings = 0
        self.macs = False
        self.cores: int | None = None  # of the node; None where the token does not see it
        self.before_write: Callable[[], None] = lambda: None
        # Options that a running guest takes over at its next start only.
        self.slow = {
            "lxc": {"nameserver", "searchdomain", "features", "timezone"},
            "qemu": {"cores", "memory", "cpu", "ipconfig0", "nameserver", "searchdomain", "ciuser"},
        }

    def add(self, vmid: int, name: str, kind: str = "lxc", *, running: bool = False, **config: Any) -> None:
        key = "hostname" if kind == "lxc" else "name"
        base = {key: name, "cores": 1, "memory": 512}
        if kind == "lxc":
            base |= {"rootfs": f"local-lvm:vm-{vmid}-disk-0,size=4G", "unprivileged": 1}
        self.guests[vmid] = {
            "type": kind,
            "running": running,
            "config": {**base, **config},
            "pool": None,
            "snapshots": {},
            "pending": {},
        }

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _data in self.calls if method != "GET"]

    # The client's protocol

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        return self._call("GET", path, params)

    def post(self, path: Any, data: Mapping[str, Any] | None = None) -> Any:
        return self._call("POST", path, data)

    def put(self, path: Any, data: Mapping[str, Any] | None = None) -> Any:
        return self._call("PUT", path, data)

    def delete(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        return self._call("DELETE", path, params)

    def wait_task(self, upid: str, timeout_seconds: float = 300.0) -> TaskResult:
        kind = upid.split(":")[1]
        if kind in self.failing_tasks:
            text = self.failing_tasks[kind]
            raise TaskError(f"task {kind} failed: {text}", upid=upid, exitstatus=text)
        return TaskResult(upid, kind, "OK", self.task_warnings, 0.0)

    # The node

    def _call(self, method: str, path: Any, params: Mapping[str, Any] | None) -> Any:
        parts = path.strip("/").split("/") if isinstance(path, str) else [str(p) for p in path]
        given = {k: v for k, v in (params or {}).items() if v is not None}
        text = "/" + "/".join(parts)
        if method != "GET":
            self.before_write()
        self.calls.append((method, text, given))
        hook = self.hooks.get(f"{method} {text}")
        if hook:
            hook()
        match [method, *parts]:
            case ["POST", "nodes", _, ("lxc" | "qemu") as kind]:
                return self._create(kind, given)
            case [_, "nodes", _, ("lxc" | "qemu") as kind, vmid, *rest]:
                return self._guest(method, kind, int(vmid), rest, given)
            case ["DELETE", "nodes", _, "tasks", _]:
                return None
            case ["POST", "nodes", _, "vzdump"]:
                return back_up(self.backups, self.guests[int(given["vmid"])], given)
            case ["DELETE", "nodes", _, "storage", _, "content", volid]:
                del self.backups[volid]
                return "UPID:imgdel:x"
            case ["GET", *_]:
                return self._look(parts, given)
        raise ProxmoxError(f"Method '{method} {text}' not implemented", status=501)

    def _look(self, parts: list[str], given: dict[str, Any]) -> Any:
        match parts:
            case ["cluster", "resources"]:
                return self._resources()
            case ["cluster", "nextid"]:
                if given["vmid"] in self.guests:
                    raise AlreadyExistsError(f"VM {given['vmid']} already exists", status=400)
                return str(given["vmid"])
            case ["access", "permissions"]:
                path = given.get("path", "/")
                return {path: {p: 1 for p in PRIVILEGES if (p, path) not in self.lacking}}
            case ["nodes", _, "storage", name, "content"]:
                return self._content(name, given)
            case ["nodes", _, "vzdump", "extractconfig"]:
                return self.backups[given["volume"]]["text"]
            case ["nodes", _, "tasks"]:
                return [t for t in self.tasks if t["id"] == str(given["vmid"])]
        answers = {
            "pools": [{"poolid": "ai-lab"}], "storage": self.storages, "network": [{"iface": "vmbr0"}],
            "version": {"version": "9.2.3"}, "status": [], "tasks": self.tasks,
        }  # fmt: skip
        return answers[parts[-1]]

    def _content(self, storage: str, given: dict[str, Any]) -> list[dict[str, Any]]:
        if "content" not in given:
            return [{**d, "vmid": vmid} for vmid, g in self.guests.items() for d in _disks(g["config"], storage)]
        if given["content"] == "backup":
            return [b["row"] for b in self.backups.values() if given.get("vmid") in (None, b["row"]["vmid"])]
        return [{"volid": t} for t in self.templates]

    def _resources(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {"type": "storage", "node": NODE, "storage": "local", "content": "backup", "status": "available"}
        ]
        rows += [{"type": "node", "node": NODE, "status": "online", "maxmem": 32 * GIB, "mem": GIB}]
        rows[-1] |= {"maxcpu": self.cores} if self.cores else {}
        for vmid, guest in self.guests.items():
            if vmid in self.hidden:
                continue
            config = guest["config"]
            rows.append({
                "type": guest["type"], "vmid": vmid, "node": NODE, "name": config.get("hostname", config.get("name")),
                "status": "running" if guest["running"] else "stopped", "template": config.get("template", 0),
                "tags": config.get("tags", ""), "pool": guest["pool"], "maxmem": int(config.get("memory", 512)) << 20,
            })  # fmt: skip
        return rows

    def _create(self, kind: str, given: dict[str, Any]) -> str:
        vmid = int(given["vmid"])
        if "archive" in given or given.get("restore"):
            return restore(self.backups, self.guests, kind, given)
        if vmid in self.guests:
            raise AlreadyExistsError(f"CT {vmid} already exists on node 'pve'", status=500)
        config = {k: v for k, v in given.items() if k not in ("vmid", "pool", "ostemplate", "ssh-public-keys")}
        _allocate(vmid, config)
        if self.macs:
            config["net0"] += f",hwaddr=BC:24:11:00:00:{vmid:02X}"
        self.guests[vmid] = {
            "type": kind,
            "running": False,
            "config": config,
            "pool": given.get("pool"),
            "snapshots": {},
            "pending": {},
        }
        return f"UPID:{'vzcreate' if kind == 'lxc' else 'qmcreate'}:{vmid}"

    def _guest(self, method: str, kind: str, vmid: int, rest: list[str], given: dict[str, Any]) -> Any:
        guest = self.guests.get(vmid)
        if guest is None or guest["type"] != kind:
            raise NotFoundError(f"Configuration file 'nodes/pve/{kind}/{vmid}.conf' does not exist", status=500)
        config = guest["config"]
        if rest[:1] == ["snapshot"]:
            return snapshot_call(guest, method, rest[1:], given)
        if method == "GET":
            return self._look_at(guest, rest, given)
        match [method, *rest]:
            case ["PUT", "config"]:
                return self._configure(guest, given)
            case ["POST", "status", verb]:
                guest["running"] = verb == "start"
                guest["pending"] = {}
                return f"UPID:{verb}:{vmid}"
            case ["PUT", "resize"]:
                config[given["disk"]] = re.sub(r"size=\w+", f"size={given['size']}", config[given["disk"]])
                return f"UPID:resize:{vmid}"
            case ["POST", "clone"]:
                return self._clone(guest, kind, given)
            case ["DELETE"]:
                if guest["running"] or config.get("protection"):
                    raise ProxmoxError("container is running or protected", status=500)
                del self.guests[vmid]
                return f"UPID:vzdestroy:{vmid}"
        raise ProxmoxError(f"Method '{method} {rest}' not implemented", status=501)

    def _clone(self, guest: dict[str, Any], kind: str, given: dict[str, Any]) -> str:
        name, new_id = "hostname" if kind == "lxc" else "name", int(given["newid"])
        copy = {**self._origin(guest, given), name: given[name], "description": given["description"]}
        for key in ("template", "lock"):
            copy.pop(key, None)
        self._create(kind, {"vmid": new_id, "pool": given.get("pool")})
        self.guests[new_id]["config"] = copy
        return f"UPID:{'vz' if kind == 'lxc' else 'qm'}clone:{new_id}"

    def _origin(self, guest: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """What is cloned: the guest as it is, or a snapshot of it; everything is copied, also what should not be."""
        name = given.get("snapname") or given.get("snapshot")
        found: dict[str, Any] = guest["snapshots"][name]["config"] if name else guest["config"]
        return found

    def _look_at(self, guest: dict[str, Any], rest: list[str], given: dict[str, Any]) -> Any:
        config = self._origin(guest, given)
        match rest:
            case ["config"]:
                return {**config, "digest": _digest(config)}
            case ["status", "current"]:
                return {"status": "running" if guest["running"] else "stopped"}
            case ["interfaces"]:
                return self._interfaces(config)
            case ["feature"]:
                return {"hasFeature": int(self.snapshots_possible)}
            case ["pending" | "cloudinit"]:
                late = guest.get("pending", {})
                return [
                    {"key": k, "value": late.get(k, v), **({"pending": v} if k in late else {})}
                    for k, v in config.items()
                ]
        raise ProxmoxError(f"Method 'GET {rest}' not implemented", status=501)

    def _configure(self, guest: dict[str, Any], given: dict[str, Any]) -> None:
        config = guest["config"]
        if given.pop("digest", _digest(config)) != _digest(config):
            raise ProxmoxError("detected modified configuration - file changed by other user? Try again.", status=500)
        for key in filter(None, str(given.pop("delete", "")).split(",")):
            config.pop(key)
        if guest["running"]:
            guest.setdefault("pending", {}).update({k: config.get(k) for k in given if k in self.slow[guest["type"]]})
        config.update(given)
        _allocate(0, config)

    def _interfaces(self, config: dict[str, Any]) -> list[dict[str, Any]] | None:
        if not self.reports_address or "net0" not in config:
            return None
        net = dict(p.split("=", 1) for p in config["net0"].split(","))
        return [{"name": "eth0", "inet": "10.99.0.9/24" if net["ip"] == "dhcp" else net["ip"]}]


def _allocate(vmid: int, config: dict[str, Any]) -> None:
    """``local-lvm:8`` becomes a volume of 8 GiB."""
    for option in [o for o in config if re.fullmatch(r"rootfs|mp\d+", o)]:
        config[option] = re.sub(r"^([\w-]+):(\d+)(?=,|$)", rf"\1:vm-{vmid}-{option},size=\2G", str(config[option]))


def _disks(config: Mapping[str, Any], storage: str) -> list[dict[str, Any]]:
    text = str(config.get("rootfs", ""))
    if not text.startswith(f"{storage}:"):
        return []
    return [{"content": "rootdir", "size": int(text.partition("size=")[2].removesuffix("G") or 0) * GIB}]


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha1(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()
