"""From a request to an answer, in the order of checks that clients can observe."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.core import Lab
from lab.server.call import Call, Paged
from lab.server.checks import DeclaredCheck
from lab.server.errors import ApiError, PlainError, Unauthorized, failure, not_implemented
from lab.server.router import Route, Router, routes
from lab.server.schema import Endpoint, load
from lab.swap import swap_on_order

LOG = logging.getLogger("lab.api")
CONTENT_TYPE = "application/json;charset=UTF-8"
CAPTIVE_PAGE = (
    "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in to the network.</body></html>"
)


@dataclass
class Request:
    """What transport has understood of a request; `path` is below the formatter."""

    method: str
    path: str
    formatter: str = "json"
    authorization: str = ""
    cookie: str | None = None
    csrf: str | None = None
    query: dict[str, Any] = field(default_factory=dict)
    body: Callable[[], Awaitable[dict[str, Any]]] | None = None  # called after authentication


@dataclass
class Answer:
    """What transport sends; `params` and `user` are for the request log."""

    status: int
    reason: str
    body: str = ""
    content_type: str | None = CONTENT_TYPE
    user: str = ""
    params: dict[str, Any] | None = None


class Dispatcher:
    """The API of one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._router = Router(routes())
        self._endpoints = load(lab.config.pve_version)

    async def answer(self, request: Request) -> Answer:
        """Every outcome is an answer; a defect of the lab itself is a 500 and a traceback in its log."""
        seen = Answer(200, "OK")
        try:
            data = await self._handle(request, seen)
        except PlainError as error:
            return self._finish(seen, error.status, error.reason, error.body, f"text/{error.kind};charset=UTF-8")
        except Unauthorized as error:
            await asyncio.sleep(self._lab.config.auth_delay)
            if not error.body:
                return self._finish(seen, 401, error.reason, "", None)
            return self._finish(seen, 401, error.reason, _error_body(error))
        except ApiError as error:
            return self._error(request, seen, error)
        except Exception as error:  # the one place that turns a defect into an answer
            LOG.exception("%s %s", request.method, request.path)
            return self._error(request, seen, failure(f"internal error of the lab: {error!r}"))
        return self._finish(seen, 200, "OK", _success_body(request.formatter, data))

    def _finish(self, seen: Answer, status: int, reason: str, body: str, content: str | None = CONTENT_TYPE) -> Answer:
        return Answer(status, reason, body, content, seen.user, seen.params)

    def _error(self, request: Request, seen: Answer, error: ApiError) -> Answer:
        if request.formatter == "extjs":
            document = {"success": 0, "status": error.status, "message": _message(error), "data": None}
            if error.errors:
                document["errors"] = error.errors
            return self._finish(seen, 200, "OK", json.dumps(document))
        return self._finish(seen, error.status, error.reason, _error_body(error))

    async def _handle(self, request: Request, seen: Answer) -> Any:
        await self._early_faults(request)
        found = self._router.find(request.method, request.path)
        endpoint = self._endpoints[request.method, found[0].path] if found else None
        if endpoint is None or not endpoint.world:
            seen.user = self._lab.auth.authenticate(request.authorization, request.cookie, request.csrf, request.method)
        query, body = request.query, await request.body() if request.body else {}
        seen.params = params = {**query, **body}
        if found is None or endpoint is None:
            raise not_implemented(request.method, request.path)
        route, placeholders = found
        _refuse_conflicts(placeholders, params)
        _refuse_conflicts(query, body)
        return await self._call(route, endpoint, seen.user, placeholders, {**params, **placeholders})

    async def _call(
        self, route: Route, endpoint: Endpoint, auth_id: str, placeholders: dict[str, str], given: dict[str, Any]
    ) -> Any:
        if not endpoint.allow_token and "!" in auth_id:
            path = "/api2/json" + route.path.format(**placeholders)
            raise ApiError(
                403, f"Permission check failed (URI '{path}' not available with API token, need proper ticket.)"
            )
        if "check" in endpoint.permissions and endpoint.permissions.get("user") != "all":
            DeclaredCheck(self._lab.permissions, auth_id, given).enforce(endpoint.permissions["check"])
        if "node" in placeholders:
            self._check_node(placeholders["node"])
        call = Call(self._lab, auth_id, route.kind, placeholders, endpoint.verify(given))
        return await route.handler(call)

    def _check_node(self, node: str) -> None:
        if node not in self._lab.config.nodes:
            text = (
                f"hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known"
            )
            raise failure(text)
        if self._lab.faults.take("node-offline", node=node):
            raise PlainError(595, "Connection timed out", "")

    async def _early_faults(self, request: Request) -> None:
        """Faults between the client and the API: they need no login."""
        faults = self._lab.faults
        parts = request.path.split("/")
        node = parts[2] if len(parts) > 2 and parts[1] == "nodes" else ""
        facts = {"path": request.path, "method": request.method, "node": node}
        if faults.take("daemon-crash", **facts):
            self._lab.crash()
        if faults.take("captive-html", **facts):
            raise PlainError(200, "OK", CAPTIVE_PAGE, kind="html")
        await swap_on_order(self._lab, facts)
        slow = faults.take("slow", **facts)
        if slow:
            await asyncio.sleep(slow.delay or 1.0)
        timeout = faults.take("proxy-timeout", **facts)
        if timeout:
            await asyncio.sleep(timeout.delay or 30.0)
            raise PlainError(596, "Connection timed out", "")


def _refuse_conflicts(uri: Mapping[str, Any], params: dict[str, Any]) -> None:
    conflicting = [name for name in uri.keys() & params.keys() if str(params[name]) != str(uri[name])]
    if conflicting:
        text = "duplicate parameter (already defined in URI) with conflicting values!"
        raise ApiError(400, "Parameter verification failed.", dict.fromkeys(conflicting, text))


def _message(error: ApiError) -> str:
    return error.message if error.status == 501 else error.message.rstrip("\n") + "\n"


def _error_body(error: ApiError) -> str:
    document: dict[str, Any] = {"data": None, "message": _message(error)}
    if error.errors:
        document["errors"] = error.errors
    return json.dumps(document)


def _success_body(formatter: str, data: Any) -> str:
    document: dict[str, Any] = {"data": data}
    if isinstance(data, Paged):
        document = {"data": data.data, "total": data.total}
    if formatter == "extjs":
        document["success"] = 1
    return json.dumps(document)
