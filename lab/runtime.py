"""A lab with its server around it: what the daemon runs, and what tests run in their own process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from aiohttp import web

from lab import bootstrap, sshkey, tls
from lab.config import LabConfig
from lab.core import Lab
from lab.drivers import DriverSettings, make
from lab.faults import fault_from
from lab.server.dispatch import Dispatcher
from lab.server.requestlog import RequestLog
from lab.server.transport import Server


class Runtime:
    """Starts and stops everything that one lab needs, in one directory."""

    def __init__(self, config: LabConfig, directory: Path) -> None:
        self.config = config
        self.directory = directory
        self.port = config.port
        driver = make(config.driver, DriverSettings(directory / "driver", config.subnet, config.bridge))
        self.lab = Lab(config, directory, driver)
        self.credentials = bootstrap.ensure(self.lab)
        self._request_log = RequestLog(directory / "requests.jsonl")
        self._server: Server | None = None

    async def start(self, log: Callable[[str], None]) -> None:
        """Driver first, then the port: whoever gets an answer can create guests."""
        sshkey.ensure(self.directory / "ssh")
        certificate, key = tls.ensure(self.directory / "tls", self.config.bind)
        self.lab.fingerprint = tls.fingerprint(certificate)
        log(f"making the driver '{self.config.driver}' ready")
        await self.lab.start(log)
        control = self._control if self.config.test_endpoint else None
        context = tls.server_context(certificate, key)
        self._server = Server(Dispatcher(self.lab), context, self._request_log, control)
        self.port = await self._server.listen(self.config.bind, self.config.port)
        bootstrap.write_environment(self.lab, self.credentials, self.port)
        log(f"the API answers at https://{self.config.bind}:{self.port}/api2/json")

    async def stop(self) -> None:
        """The guests stay as they are."""
        if self._server:
            await self._server.close()
        await self.lab.stop()
        self._request_log.close()

    async def _control(self, http: web.BaseRequest) -> web.Response:
        """The test-only endpoint /lab/faults: GET lists, POST adds, DELETE clears."""
        if http.headers.get("Authorization") != f"Bearer {self.credentials.control_secret}":
            return web.json_response({"error": "wrong or missing control secret (DIR/credentials.json)"}, status=403)
        if http.path != "/lab/faults":
            return web.json_response({"error": f"no such test endpoint: {http.path}"}, status=404)
        faults = self.lab.faults
        if http.method == "GET":
            return web.json_response([asdict(fault) for fault in faults.all()])
        if http.method == "DELETE":
            number = http.rel_url.query.get("id", "")
            return web.json_response({"cleared": faults.clear(int(number) if number.isdigit() else None)})
        try:
            fault = fault_from(json.loads(await http.text()))
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(asdict(faults.set(fault)))
