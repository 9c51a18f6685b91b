"""What the lab remembers: plain records that the store keeps as JSON."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

Config = dict[str, Any]


@dataclass
class Snapshot:
    """A guest's configuration at a moment; the driver keeps the files."""

    config: Config
    snaptime: int
    description: str = ""
    parent: str = ""


@dataclass
class Guest:
    """A container or machine; `config` is what GET config shows, without the digest."""

    vmid: int
    kind: str
    node: str
    config: Config
    created: int
    pool: str = ""
    parent: str = ""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    firewall: dict[str, Any] = field(default_factory=lambda: {"options": {}, "rules": []})
    booted: Config = field(default_factory=dict)  # what still holds of options changed since the start; None: not set

    @classmethod
    def load(cls, snapshots: dict[str, dict[str, Any]], **fields: Any) -> Guest:
        """From the store, where everything is plain JSON."""
        return cls(snapshots={name: Snapshot(**value) for name, value in snapshots.items()}, **fields)

    @property
    def name(self) -> str:
        return str(self.config.get("hostname" if self.kind == "lxc" else "name", ""))

    @property
    def lock(self) -> str:
        return str(self.config.get("lock", ""))

    @property
    def effective(self) -> Config:
        """The options with which it runs: what waits for the next start is left out."""
        config = {**self.config, **self.booted}
        return {option: value for option, value in config.items() if value is not None}

    @property
    def is_template(self) -> bool:
        return bool(self.config.get("template"))

    def rendered(self) -> str:
        """The configuration file as the node would keep it."""
        sections = [_render(self.config)]
        for name, snapshot in sorted(self.snapshots.items()):
            sections.append(f"[{name}]\n{_render(snapshot.config)}snaptime: {snapshot.snaptime}\n")
        return "\n".join(sections)

    @property
    def digest(self) -> str:
        return hashlib.sha1(self.rendered().encode(), usedforsecurity=False).hexdigest()


def _render(config: Config) -> str:
    description = str(config.get("description", ""))
    lines = [f"#{quote(line, safe=' :/.,-_()')}" for line in description.splitlines()]
    lines += [f"{key}: {value}" for key, value in sorted(config.items()) if key != "description"]
    return "".join(line + "\n" for line in lines)


@dataclass
class User:
    """A login; `password` is a salted hash or empty."""

    userid: str
    enable: int = 1
    expire: int = 0
    comment: str = ""
    email: str = ""
    firstname: str = ""
    lastname: str = ""
    password: str = ""


@dataclass
class Token:
    """An API token; only the hash of its secret is kept."""

    userid: str
    tokenid: str
    secret_hash: str
    privsep: int = 1
    expire: int = 0
    comment: str = ""


@dataclass
class Role:
    roleid: str
    privs: list[str]
    special: int = 0


@dataclass
class Acl:
    """One grant: `ugid` is a user or a full token id."""

    path: str
    ugid: str
    type: str
    roleid: str
    propagate: int = 1

    @property
    def key(self) -> str:
        return f"{self.path} {self.ugid} {self.roleid}"


@dataclass
class Pool:
    poolid: str
    comment: str = ""
    storages: list[str] = field(default_factory=list)


@dataclass
class Storage:
    storage: str
    type: str
    content: list[str]
    path: str = ""
    thinpool: str = ""
    vgname: str = ""
    shared: int = 0  # the same volumes on every node
    nodes: list[str] = field(default_factory=list)  # empty: there on all of them

    def is_on(self, node: str) -> bool:
        return not self.nodes or node in self.nodes

    def holds(self, backup: Backup, node: str) -> bool:
        """Whether the node sees that backup here: on a local storage only the one that wrote it."""
        return self.is_on(node) and (bool(self.shared) or backup.node == node)

    @property
    def snapshots(self) -> bool:
        return self.type in ("lvmthin", "zfspool", "btrfs")


@dataclass
class Backup:
    """An archive on a storage, with the configuration inside it."""

    volid: str
    node: str
    vmid: int
    kind: str
    ctime: int
    config: Config
    size: int = 0
    notes: str = ""
    protected: int = 0


@dataclass
class TaskRecord:
    """A worker; `exitstatus` is empty while it runs."""

    upid: str
    node: str
    pid: int
    pstart: int
    starttime: int
    type: str
    id: str
    user: str
    endtime: int = 0
    exitstatus: str = ""
