# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything a guest plan needs to know, read from the live API: only GETs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Protocol

from .addresses import (
    Address,
    agent_addresses,
    config_addresses,
    guest_nics,
    interface_addresses,
    merge_addresses,
    primary_address,
)
from .errors import (
    AlreadyExistsError,
    GuestReplacedError,
    NotFoundError,
    ParameterError,
    PermissionDeniedError,
    PreflightError,
    ProxmoxError,
    UnreachableError,
)
from .guest import Check, Found
from .guest_config import fixed_address, flag, waiting_options
from .guest_identity import Identity
from .guest_spec import KINDS, LXC
from .proxmox_rows import refuse_blindness, with_numbers
from .proxmox_tasks import TaskResult

Row = Mapping[str, Any]
# pvedaemon has three workers a node, and others want to work too.
_PARALLEL_READS = 4


class Api(Protocol):
    """The calls of ProxmoxClient that guests need."""

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any: ...

    def post(self, path: Any, data: Mapping[str, Any] | None = None) -> Any: ...

    def put(self, path: Any, data: Mapping[str, Any] | None = None) -> Any: ...

    def delete(self, path: Any, params: Mapping[str, Any] | None = None) -> Any: ...

    def wait_task(self, upid: str, timeout_seconds: float = ...) -> TaskResult: ...


class Named(Protocol):
    """How a guest is asked for: by name, with a VMID where that is not enough."""

    @property
    def name(self) -> str: ...

    @property
    def vmid(self) -> int | None: ...


@dataclass(frozen=True)
class Cluster:
    """One reading of /cluster/resources; guests that were too new to have a name have got it."""

    rows: Sequence[Row]
    read_at: datetime

    @property
    def guests(self) -> list[Row]:
        """Every guest this token may see."""
        return [r for r in self.rows if r.get("type") in KINDS]

    def running(self) -> dict[str, bool]:
        """Whether each guest runs, as far as the cluster knows; by name."""
        found: dict[str, bool] = {}
        for row in self.guests:
            name = str(row.get("name", row["vmid"]))
            # "unknown" (a node that does not report) counts as running.
            found[name] = found.get(name, False) or row.get("status") != "stopped"
        return found


def guest_path(kind: str, node: str, vmid: int, *parts: str) -> tuple[str, ...]:
    """API path of a guest."""
    return ("nodes", node, kind, str(vmid), *parts)


def read_cluster(api: Api) -> Cluster:
    """All guests, nodes and storages in one call, plus one call for each guest without a name yet."""
    read_at = datetime.now(UTC)
    rows = [with_numbers(r) for r in api.get("/cluster/resources")]
    refuse_blindness(api, rows, "the API token")
    for row in rows:
        if row.get("type") in KINDS and not row.get("name"):
            _name_row(api, row)
    return Cluster(rows, read_at)


def _name_row(api: Api, row: dict[str, Any]) -> None:
    """Names travel with the statistics, up to 10 s late; the configuration has them at once."""
    try:
        config = api.get(guest_path(row["type"], row["node"], row["vmid"], "config"))
    except (NotFoundError, PermissionDeniedError, UnreachableError):
        return
    row["name"] = config.get("hostname") or config.get("name") or ""


def look_up(cluster: Cluster, wanted: Named) -> tuple[Row | None, Check]:
    """The guest that is meant as far as can be told, and whether that is certain."""
    named = sorted((r for r in cluster.guests if r.get("name") == wanted.name), key=lambda r: int(r["vmid"]))
    meant = named[0] if len(named) == 1 else None
    if wanted.vmid is not None:
        holder = next((r for r in cluster.guests if r["vmid"] == wanted.vmid), None)
        if holder is not None and holder.get("name") == wanted.name:
            return holder, Check("exists", passed=True, message=f"{_label(holder)} is there")
        if holder is not None:
            text = f"VMID {wanted.vmid} is {_label(holder)}, not {wanted.name}: correct vmid or name, or leave vmid out"
            return meant, Check("vmid", passed=False, message=text)
        if named:
            text = f"{wanted.name} is {_label(named[0])}, not VMID {wanted.vmid}: correct vmid or leave it out"
            return meant, Check("vmid", passed=False, message=text)
    if len(named) > 1:
        both = " and ".join(_label(r) for r in named)
        text = f"{wanted.name} could be {both}: set vmid to say which one, or rename one of them"
        return None, Check("exists", passed=False, message=text)
    text = f"{_label(meant)} is there" if meant else f"{wanted.name} is not there yet"
    return meant, Check("exists", passed=True, message=text)


def look_up_guest(api: Api, cluster: Cluster, wanted: Named) -> tuple[Found | None, Check]:
    """The guest that is meant, read now: the name in a row may be that of the last guest with this VMID."""
    read: dict[int, Found] = {}
    rows: list[Row] = []
    for row in cluster.rows:
        if row.get("type") in KINDS and (row.get("name") == wanted.name or row["vmid"] == wanted.vmid):
            found = read[int(row["vmid"])] = read_guest(api, row)
            row = {**row, "name": found.name}
        rows.append(row)
    meant, check = look_up(Cluster(rows, cluster.read_at), wanted)
    return (None if meant is None else read[int(meant["vmid"])]), check


def _label(row: Row) -> str:
    return f"{KINDS[row['type']]} {row['vmid']} {row.get('name') or '(no name yet)'} on {row['node']}"


def read_guest(api: Api, row: Row) -> Found:
    """The guest as it is right now: what /cluster/resources says of it may be ten seconds old."""
    kind, node, vmid = str(row["type"]), str(row["node"]), int(row["vmid"])
    config = api.get(guest_path(kind, node, vmid, "config"))
    status = api.get(guest_path(kind, node, vmid, "status", "current"))
    lock = config.get("lock") or status.get("lock") or None
    return Found(
        vmid=vmid,
        type=kind,
        node=node,
        name=str(config.get("hostname" if kind == LXC else "name") or row.get("name") or ""),
        running=status.get("status") == "running",
        config=config,
        pool=row.get("pool") or None,
        lock=lock,
        holder=_lock_holder(api, node, vmid) if lock else None,
    )


def read_pending(api: Api, found: Found) -> list[str] | None:
    """Options of a running guest that wait for its next restart; None when nobody can tell."""
    if not found.running:
        return []
    try:
        entries = list(api.get(guest_path(found.type, found.node, found.vmid, "pending")))
        if found.type != LXC:
            # What cloud-init is told at the next start has a list of its own.
            entries += api.get(guest_path(found.type, found.node, found.vmid, "cloudinit"))
    except ProxmoxError:
        return None  # a help to the operator, and nothing to fail for
    return waiting_options(entries)


def refuse_if_changed(api: Api, found: Found) -> None:
    """PreflightError when the guest is no longer the one a plan was made for: VMIDs are used again."""
    wrong, now = _contradictions(api, found)
    if now is not None and Identity.of(found).is_edited(Identity.of(now)) and not wrong:
        raise PreflightError(f"{found.label} was changed while this run looked at it: nothing was done, run again")
    if wrong:
        raise GuestReplacedError(f"{found.label} {wrong}: nothing was done, look and run again")


def refuse_if_replaced(api: Api, found: Found) -> None:
    """The same in the middle of a run, whose own steps may have changed the configuration."""
    wrong, _now = _contradictions(api, found)
    if wrong:
        raise GuestReplacedError(f"{found.label} {wrong}: the guest that is there was left alone, look and run again")


def _contradictions(api: Api, found: Found) -> tuple[str, Found | None]:
    """What shows that another guest, or none, took the place of this one; empty when nothing does."""
    try:
        now = read_guest(api, {"type": found.type, "node": found.node, "vmid": found.vmid})
    except (NotFoundError, PermissionDeniedError):
        return "is gone, or another guest took its VMID, since this run looked at it", None
    wrong = Identity.of(found).differences(Identity.of(now), "all")
    return (f"is another guest than this run looked at: {', '.join(wrong)}" if wrong else ""), now


def _lock_holder(api: Api, node: str, vmid: int) -> str | None:
    """The running task of the guest in words, as far as this token may see it."""
    try:
        tasks = api.get(("nodes", node, "tasks"), {"vmid": vmid, "source": "active"})
    except ProxmoxError:
        return None  # the lock is what matters; who holds it is only a help
    running = [t for t in tasks if not t.get("endtime")]
    if not running:
        return None
    newest = max(running, key=lambda t: int(t.get("starttime") or 0))
    since = datetime.fromtimestamp(int(newest.get("starttime") or 0), UTC)
    return f"task {newest.get('type')} of {newest.get('user')} since {since:%Y-%m-%d %H:%M:%S} UTC"


def vmid_is_free(api: Api, vmid: int) -> bool:
    """Whether no guest has the VMID, also none that this token can not see: nextid needs no privilege."""
    try:
        api.get("/cluster/nextid", {"vmid": vmid})
    except (AlreadyExistsError, ParameterError):
        return False
    return True


def storages(api: Api, node: str) -> list[Row]:
    """Storages of a node that this token may use."""
    return [with_numbers(r) for r in api.get(("nodes", node, "storage"))]


def template_volumes(api: Api, node: str, rows: Iterable[Row]) -> list[str]:
    """Volume ids of all container templates of a node."""
    found: list[str] = []
    for row in rows:
        usable = "vztmpl" in str(row.get("content") or "").split(",") and flag(row.get("active", 1))
        if usable and flag(row.get("enabled", 1)):
            content = api.get(("nodes", node, "storage", str(row["storage"]), "content"), {"content": "vztmpl"})
            found.extend(str(v["volid"]) for v in content)
    return found


def disks_on(api: Api, node: str, storage: str) -> dict[int, int]:
    """Bytes of the disks on a storage by the VMID of their guest, as far as this token may see them."""
    found: dict[int, int] = {}
    for row in api.get(("nodes", node, "storage", storage, "content")):
        if row.get("content") in ("images", "rootdir"):
            vmid = int(row.get("vmid") or 0)
            found[vmid] = found.get(vmid, 0) + int(row.get("size") or 0)
    return found


def bridges(api: Api, node: str) -> list[Row]:
    """Bridges of a node that this token may use."""
    return list(api.get(("nodes", node, "network"), {"type": "any_bridge"}))


def configured_addresses(api: Api, guests: Sequence[Row]) -> tuple[dict[Address, str], list[str]]:
    """Fixed addresses of guests with who has them, and the names of guests whose configuration could not be read."""
    taken: dict[Address, str] = {}
    unread: list[str] = []
    for row, config in _configurations(api, guests):
        if config is None:
            unread.append(_label(row))
            continue
        for record in config_addresses(guest_nics(str(row["type"]), config)):
            taken[ip_address(record["address"])] = _label(row)
    return taken, unread


def _configurations(api: Api, guests: Sequence[Row]) -> Iterator[tuple[Row, Mapping[str, Any] | None]]:
    """Each guest with its configuration, empty when it is gone, None when it can not be read."""

    def one(row: Row) -> Mapping[str, Any] | None:
        try:
            config: Mapping[str, Any] = api.get(guest_path(row["type"], row["node"], row["vmid"], "config"))
        except NotFoundError:
            return {}  # destroyed since the cluster was read
        except (PermissionDeniedError, UnreachableError):
            return None
        return config

    with ThreadPoolExecutor(_PARALLEL_READS) as threads:
        yield from zip(guests, threads.map(one, guests), strict=True)


def reported_addresses(api: Api, found: Found) -> list[dict[str, Any]]:
    """IPv4 address records a running guest reports of itself; empty while it can not say."""
    try:
        if found.type == LXC:
            records = interface_addresses(api.get(guest_path(LXC, found.node, found.vmid, "interfaces")))
        else:
            answer = api.get(guest_path(found.type, found.node, found.vmid, "agent", "network-get-interfaces"))
            records = agent_addresses(answer)
    except (PermissionDeniedError, UnreachableError):
        raise
    except ProxmoxError:
        return []  # no agent yet, or the guest is on its way up or down
    return [r for r in merge_addresses(records) if r["family"] == "ipv4"]


def live_address(api: Api, found: Found) -> str | None:
    """Where a running guest can be reached: its fixed address once it is up, else the first one it reports."""
    records = reported_addresses(api, found)
    fixed = fixed_address(found.config, found.type)
    if fixed is not None:
        return str(fixed.ip) if any(r["address"] == str(fixed.ip) for r in records) else None
    return primary_address(records, guest_nics(found.type, found.config))
