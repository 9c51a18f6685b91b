"""A running lab and the people, containers and tasks that a test needs on it, all made through its API."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.faults import Fault, Faults
from lab.tests.behaviour.client import Answer, Api

NODE = "pve"
MISSING = 987654321  # a VMID that nobody makes
PASSWORD = "correct-horse-battery"


def until(condition: Callable[[], Any], what: str, seconds: float = 10) -> Any:
    """The first true value of `condition`, asked again every 20 ms."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


@dataclass
class World:
    """A lab with its administrator's password; everything else is found out or made."""

    port: int
    root_password: str
    directory: Path
    _vmids: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _roles: dict[frozenset[str], str] = field(default_factory=dict)

    # People

    @cached_property
    def anonymous(self) -> Api:
        return Api(self.port)

    def login(self, username: str, password: str) -> Api:
        """Someone with a ticket and its CSRF token."""
        ticket = self.anonymous.post("/access/ticket", username=username, password=password).data
        return self.anonymous.signed(
            Cookie=f"PVEAuthCookie={ticket['ticket']}", CSRFPreventionToken=ticket["CSRFPreventionToken"]
        )

    @cached_property
    def root(self) -> Api:
        """root@pam by ticket: the only one for whom nothing is forbidden."""
        return self.login("root@pam", self.root_password)

    def user(self, acl: Mapping[str, Iterable[str]] | None = None, *, propagate: bool = True) -> str:
        """A new user of realm pve, able to log in, with exactly these privileges on these paths."""
        return self._user(acl, propagate=propagate, password=PASSWORD)

    def _user(self, acl: Mapping[str, Iterable[str]] | None, *, propagate: bool, **fields: Any) -> str:
        userid = f"user{next(self._numbers)}@pve"
        assert self.root.post("/access/users", userid=userid, **fields).data is None
        for path, privileges in (acl or {}).items():
            self.grant(path, privileges, users=userid, propagate=int(propagate))
        return userid

    def grant(self, path: str, privileges: Iterable[str], **whom: Any) -> None:
        """One more entry of the access control list: `users=` or `tokens=`."""
        if privileges:
            self.root.put("/access/acl", path=path, roles=self.role(privileges), **whom).data  # noqa: B018

    def role(self, privileges: Iterable[str]) -> str:
        """The name of a role with exactly these privileges."""
        wanted = frozenset(privileges)
        if wanted not in self._roles:
            name = f"Role{len(self._roles) + 1}"
            self.root.post("/access/roles", roleid=name, privs=",".join(sorted(wanted))).data  # noqa: B018
            self._roles[wanted] = name
        return self._roles[wanted]

    def token(self, userid: str, name: str = "test", **options: Any) -> Api:
        """A new token of that user; without privilege separation unless asked for."""
        made = self.root.post(f"/access/users/{userid}/token/{name}", **{"privsep": 0, **options}).data
        return self.anonymous.signed(Authorization=f"PVEAPIToken={made['full-tokenid']}={made['value']}")

    def someone(self, acl: Mapping[str, Iterable[str]] | None = None, *, propagate: bool = True) -> Api:
        """A new user's token with exactly these privileges on these paths; none: nobody in particular."""
        return self.token(self._user(acl, propagate=propagate))

    @cached_property
    def nobody(self) -> Api:
        """Someone known who may do nothing."""
        return self.someone()

    @cached_property
    def operator(self) -> Api:
        """A token, not root@pam, with every privilege everywhere."""
        userid = self.user()
        self.root.put("/access/acl", path="/", roles="Administrator", users=userid).data  # noqa: B018
        return self.token(userid)

    # What the lab has

    @cached_property
    def template(self) -> str:
        """The volume id of a container template."""
        content: list[dict[str, Any]] = self.root.get(f"/nodes/{NODE}/storage/local/content", content="vztmpl").data
        return str(content[0]["volid"])

    @cached_property
    def storage(self) -> str:
        """A storage that takes container directories."""
        return self.storage_for("rootdir")

    def storage_for(self, content: str) -> str:
        stores: list[dict[str, Any]] = self.root.get(f"/nodes/{NODE}/storage", content=content).data
        return str(stores[0]["storage"])

    @cached_property
    def bridge(self) -> str:
        found: list[dict[str, Any]] = self.root.get(f"/nodes/{NODE}/network", type="bridge").data
        return str(found[0]["iface"])

    @contextlib.contextmanager
    def fault(self, kind: str, **conditions: Any) -> Iterator[None]:
        """While inside, this goes wrong."""
        faults = Faults(self.directory / "faults.json")
        ordered = faults.set(Fault(kind, **conditions))
        try:
            yield
        finally:
            faults.clear(ordered.id)

    # Containers and tasks

    def vmid(self) -> int:
        return next(self._vmids)

    def wanted(self, **options: Any) -> dict[str, Any]:
        """Parameters of a container that can be made."""
        base = {"vmid": self.vmid(), "ostemplate": self.template, "storage": self.storage, "memory": 64}
        return {name: value for name, value in {**base, **options}.items() if value is not None}

    def create(self, api: Api | None = None, **options: Any) -> Answer:
        return (api or self.root).post(f"/nodes/{NODE}/lxc", **self.wanted(**options))

    def container(self, *, running: bool = False, **options: Any) -> int:
        """A container that is there; its VMID."""
        wanted = self.wanted(**options)
        self.succeeds(self.root.post(f"/nodes/{NODE}/lxc", **wanted))
        if running:
            self.succeeds(self.root.post(ct(wanted["vmid"], "/status/start")))
        return int(wanted["vmid"])

    def machine(self, *, running: bool = False, **options: Any) -> int:
        """A virtual machine that is there; its VMID."""
        vmid = self.vmid()
        self.succeeds(self.root.post(f"/nodes/{NODE}/qemu", vmid=vmid, memory=64, **options))
        if running:
            self.succeeds(self.root.post(vm(vmid, "/status/start")))
        return vmid

    def config(self, vmid: int) -> dict[str, Any]:
        config: dict[str, Any] = self.root.get(ct(vmid, "/config")).data
        return config

    def exit_status(self, upid: str) -> str:
        """How the task ended, once it has."""

        def ended() -> dict[str, Any] | None:
            status: dict[str, Any] = self.root.get(f"{task(upid)}/status").data
            return status if status["status"] == "stopped" else None

        return str(until(ended, upid)["exitstatus"])

    def log(self, upid: str) -> list[str]:
        return [line["t"] for line in self.root.get(f"{task(upid)}/log", limit=500).data]

    def succeeds(self, answer: Answer) -> str:
        """The call answered 200 with a UPID and its task ended well; the UPID."""
        upid = str(answer.data)
        assert self.exit_status(upid) == "OK", self.log(upid)
        return upid

    def fails(self, answer: Answer, text: str) -> str:
        """The call answered 200 with a UPID but its task ended with that text; the UPID."""
        upid = str(answer.data)
        assert self.exit_status(upid) == text
        assert self.log(upid)[-1] == f"TASK ERROR: {text}"
        return upid

    def resources(self, api: Api | None = None, **params: Any) -> dict[str, dict[str, Any]]:
        """/cluster/resources by id."""
        return {row["id"]: row for row in (api or self.root).get("/cluster/resources", **params).data}


def ct(vmid: int, path: str = "") -> str:
    return f"/nodes/{NODE}/lxc/{vmid}{path}"


def vm(vmid: int, path: str = "") -> str:
    return f"/nodes/{NODE}/qemu/{vmid}{path}"


def task(upid: str) -> str:
    return f"/nodes/{upid.split(':')[1]}/tasks/{upid}"
