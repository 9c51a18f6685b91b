"""Tasks: lists, status, log, stop."""

from __future__ import annotations

from typing import Any

from lab.model import TaskRecord
from lab.server.call import Call, Paged
from lab.server.errors import bad_parameter
from lab.server.router import route
from lab.upid import Upid


def may_see(call: Call, record: TaskRecord) -> bool:
    """One's own, and those of one's other tokens; a user sees those of their tokens."""
    return record.user.partition("!")[0] == call.userid


def owns(call: Call, record: TaskRecord) -> bool:
    """A token sees only its own in lists, a user also those of their tokens."""
    return record.user == call.auth_id or record.user.startswith(f"{call.auth_id}!")


def listed(record: TaskRecord, *, saved: bool = False) -> dict[str, Any]:
    """An entry of a task list."""
    shown: dict[str, Any] = {
        "upid": record.upid, "node": record.node, "pid": record.pid, "pstart": record.pstart,
        "starttime": record.starttime, "type": record.type, "id": record.id, "user": record.user,
    }  # fmt: skip
    if record.exitstatus:
        shown |= {"endtime": record.endtime, "status": record.exitstatus}
    if saved:
        shown["saved"] = "1" if record.exitstatus else "0"
    return shown


def _find(call: Call, missing: str = "no such task") -> TaskRecord:
    upid = str(call.params["upid"])
    if Upid.parse(upid) is None:
        raise bad_parameter("upid", "unable to parse worker upid")
    record = call.lab.store.tasks.get(upid)
    if record is None:
        raise bad_parameter("upid", missing)
    return record


def _require_owner(call: Call, record: TaskRecord, otherwise: str) -> None:
    if not may_see(call, record):
        call.require(f"/nodes/{call.node}", otherwise)


@route("GET", "/nodes/{node}/tasks")
async def node_tasks(call: Call) -> Any:
    everything = call.has(f"/nodes/{call.node}", "Sys.Audit")
    records = [
        record
        for record in call.lab.store.tasks.values()
        if record.node == call.node and (everything or owns(call, record)) and _wanted(call.params, record)
    ]
    records.sort(key=lambda record: (-record.starttime, -record.pid))
    first, limit = int(call.params.get("start", 0)), int(call.params.get("limit", 50))
    page = records[first : first + limit] if limit else records[first:]
    return Paged([_with_running(listed(record)) for record in page], len(records))


def _with_running(shown: dict[str, Any]) -> dict[str, Any]:
    return shown if "status" in shown else {**shown, "status": "RUNNING"}


def _wanted(params: dict[str, Any], record: TaskRecord) -> bool:
    ended = bool(record.exitstatus)
    source = params.get("source", "archive")
    conditions = [
        source == "all" or ended == (source == "archive"),
        not params.get("errors") or (ended and record.exitstatus != "OK"),
        "vmid" not in params or record.id == str(params["vmid"]),
        "since" not in params or record.starttime >= params["since"],
        "until" not in params or record.starttime <= params["until"],
        "typefilter" not in params or record.type == params["typefilter"],
        params.get("userfilter", "") in record.user,
        "statusfilter" not in params or _status_type(record) in params["statusfilter"],
    ]
    return all(conditions)


def _status_type(record: TaskRecord) -> str:
    if record.exitstatus == "OK":
        return "ok"
    if record.exitstatus.startswith("WARNINGS"):
        return "warning"
    return "unknown" if record.exitstatus in ("", "unexpected status") else "error"


@route("GET", "/nodes/{node}/tasks/{upid}")
async def task_index(call: Call) -> Any:
    return [{"name": "log"}, {"name": "status"}]


@route("GET", "/nodes/{node}/tasks/{upid}/status")
async def task_status(call: Call) -> Any:
    record = _find(call)
    _require_owner(call, record, "Sys.Audit")
    user, _, tokenid = record.user.partition("!")
    shown: dict[str, Any] = {
        "upid": record.upid, "node": record.node, "pid": record.pid, "pstart": record.pstart,
        "starttime": record.starttime, "type": record.type, "id": record.id, "user": user, "status": "running",
    }  # fmt: skip
    if tokenid:
        shown["tokenid"] = tokenid
    if record.exitstatus:
        shown |= {"status": "stopped", "exitstatus": record.exitstatus}
    return shown


@route("GET", "/nodes/{node}/tasks/{upid}/log")
async def task_log(call: Call) -> Any:
    """For a task that never was, the real API answers one object in place of a list."""
    upid = str(call.params["upid"])
    parsed = Upid.parse(upid)
    if parsed is None:
        raise bad_parameter("upid", "unable to parse worker upid")
    record = call.lab.store.tasks.get(upid)
    owner = record.user if record else parsed.user
    if owner.partition("!")[0] != call.userid:
        call.require(f"/nodes/{call.node}", "Sys.Audit")
    lines = call.lab.tasks.log_lines(upid) if record else None
    if lines is None:
        return Paged({"n": 1, "t": "unable to open file - No such file or directory"}, 1)
    first, limit = int(call.params.get("start", 0)), int(call.params.get("limit", 50))
    page = lines[first : first + limit] if limit else lines[first:]
    return Paged([{"n": first + number, "t": line} for number, line in enumerate(page, start=1)], len(lines))


@route("DELETE", "/nodes/{node}/tasks/{upid}")
async def task_stop(call: Call) -> None:
    record = _find(call)
    _require_owner(call, record, "Sys.Modify")
    await call.lab.tasks.stop(record.upid)
