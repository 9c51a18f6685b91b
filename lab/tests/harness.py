"""A lab in the test's own process: its event loop runs in a thread, requests go over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from lab.config import LabConfig
from lab.core import Lab
from lab.faults import Fault
from lab.runtime import Runtime

T = TypeVar("T")

TEMPLATE = "local:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst"
FAST = LabConfig(port=0, lag=False, auth_delay=0.05, test_endpoint=True)


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    reason: str
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def data(self) -> Any:
        assert self.status == 200, f"{self.status} {self.reason}: {self.text}"
        return self.json["data"]

    @property
    def errors(self) -> dict[str, str]:
        assert self.status == 400, f"{self.status} {self.reason}: {self.text}"
        errors: dict[str, str] = self.json["errors"]
        return errors


class RunningLab:
    """A lab under test; requests are root@pam's unless told otherwise."""

    def __init__(self, directory: Path, config: LabConfig = FAST) -> None:
        self.directory = directory
        self.config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab", daemon=True)
        self._thread.start()
        self.runtime = self._start()
        self._root: dict[str, str] = {}

    def _start(self) -> Runtime:
        async def start() -> Runtime:
            runtime = Runtime(self.config, self.directory)
            await runtime.start(lambda line: None)
            return runtime

        return self.run(start())

    @property
    def lab(self) -> Lab:
        return self.runtime.lab

    @property
    def port(self) -> int:
        return self.runtime.port

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something in the lab's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def restart(self) -> None:
        """A new daemon for the same directory."""
        self.run(self.runtime.stop())
        self.runtime = self._start()

    def close(self) -> None:
        self.run(self.runtime.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def token(self, tokenid: str) -> dict[str, str]:
        """Header of one of the prepared tokens: reader, operator, creator, demo."""
        secret = self.runtime.credentials.tokens[tokenid]
        return {"Authorization": f"PVEAPIToken=nhi@pve!{tokenid}={secret}"}

    def new_token(self, userid: str, tokenid: str, **fields: int) -> dict[str, str]:
        async def issue() -> str:
            return self.lab.auth.issue_token(userid, tokenid, **fields)

        return {"Authorization": f"PVEAPIToken={userid}!{tokenid}={self.run(issue())}"}

    @property
    def root(self) -> dict[str, str]:
        """Headers of a session of root@pam."""
        if not self._root:
            login = {"username": "root@pam", "password": self.runtime.credentials.root_password}
            session = self.request("POST", "/access/ticket", login, headers={}).data
            cookie = "PVEAuthCookie=" + session["ticket"].replace("=", "%3D")
            self._root = {"Cookie": cookie, "CSRFPreventionToken": session["CSRFPreventionToken"]}
        return self._root

    def request(
        self, method: str, path: str, params: dict[str, Any] | None = None, headers: dict[str, str] | None = None,
        base: str = "/api2/json",
    ) -> Reply:  # fmt: skip
        """Parameters travel as a form, or in the query of GET and DELETE."""
        sent = dict(self.root if headers is None else headers)
        body, target = None, base + path
        if params and method in ("GET", "DELETE"):
            target += "?" + urlencode(params)
        elif params:
            body = urlencode(params)
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        return self.raw(method, target, body, sent)

    def raw(self, method: str, target: str, body: str | bytes | None, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=30, context=ssl._create_unverified_context()
        )
        with contextlib.closing(connection):
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, answer.reason, names, answer.read().decode())

    def get(self, path: str, **params: Any) -> Any:
        return self.request("GET", path, params).data

    def wait(self, upid: str) -> str:
        """The exit status of a task."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            status = self.get(f"/nodes/{upid.split(':')[1]}/tasks/{upid}/status")
            if status["status"] == "stopped":
                return str(status["exitstatus"])
            time.sleep(0.01)
        raise AssertionError(f"task did not end: {upid}")

    def task(self, method: str, path: str, params: dict[str, Any] | None = None) -> str:
        """Begin a task and answer its exit status."""
        return self.wait(self.request(method, path, params).data)

    def container(self, vmid: int = 101, **options: Any) -> int:
        """A finished container."""
        params = {"vmid": vmid, "ostemplate": TEMPLATE, "rootfs": "local-lvm:4", "hostname": f"ct{vmid}", **options}
        assert self.task("POST", "/nodes/pve/lxc", params) == "OK"
        return vmid

    def machine(self, vmid: int = 200, **options: Any) -> int:
        params = {"vmid": vmid, "name": f"vm{vmid}", "scsi0": "local-lvm:8", "agent": "1", **options}
        assert self.task("POST", "/nodes/pve/qemu", params) == "OK"
        return vmid

    def fault(self, kind: str, **conditions: Any) -> Fault:
        return self.lab.faults.set(Fault(kind, **conditions))


@contextlib.contextmanager
def running(directory: Path, **settings: Any) -> Iterator[RunningLab]:
    """A lab for as long as the block lasts."""
    lab = RunningLab(directory, replace(FAST, **settings))
    try:
        yield lab
    finally:
        lab.close()
