# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP interface of the router."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from importlib.resources import files
from typing import Final

from aiohttp import hdrs, web
from ansible_collections.nhi.core.plugins.module_utils.routing import decide
from prometheus_client import CONTENT_TYPE_LATEST

from nhi_services.router.adapted import words_of_refusal
from nhi_services.router.admission import Admission, BusyError
from nhi_services.router.api_errors import ApiError, anthropic_body, anthropic_status
from nhi_services.router.asks import (
    CHAT,
    COMPLETIONS,
    COUNT,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    Ask,
    parse_json,
    read_ask,
)
from nhi_services.router.attempts import Attempts, UpstreamRefusalError
from nhi_services.router.choices import choice_error
from nhi_services.router.config import ALIAS_PREFIX, AgentConfig, hash_key
from nhi_services.router.counting import count_tokens
from nhi_services.router.deferred_api import DeferredDesk
from nhi_services.router.forms import failure_event
from nhi_services.router.listing import is_anthropic, list_models, one_model
from nhi_services.router.live import Live, Setup
from nhi_services.router.metrics import Metrics
from nhi_services.router.openapi import document
from nhi_services.router.status import LastRequests, status_of
from nhi_services.router.trail import Trail
from nhi_services.router.wanted import Wanted, read_wanted

LOG: Final = logging.getLogger("nhi.router")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
}  # fmt: skip
_BODY_SECONDS: Final = 60.0
_MIB: Final = 1024 * 1024
_FIRST_REQUEST_SECONDS: Final = 15.0
_TASK: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Api:
    """Handlers that answer for a running router."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self._metrics, self._last = Metrics(live), LastRequests()
        live.recorders += [self._metrics, self._last]
        self._desk = DeferredDesk(live, self.agent_of)
        self._most_mib = live.setup.config.listen.max_body_mib
        self._silent: dict[int, web.RequestHandler] = {}

    def application(self) -> web.Application:
        """The application with its routes; more are added by those who have some."""
        app = web.Application(
            middlewares=[self._faults], client_max_size=self._most_mib * _MIB, handler_args={"access_log": None}
        )
        for path, form in (("chat/completions", CHAT), ("completions", COMPLETIONS), ("embeddings", EMBEDDINGS)):
            app.router.add_post(f"/v1/{path}", partial(self._serve, form=form))
        app.router.add_post("/v1/messages", partial(self._serve, form=MESSAGES))
        app.router.add_post(f"/v1{COUNT}", self.count)
        app.router.add_post("/v1/responses", partial(self._serve, form=RESPONSES))
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{name:.+}", self.one_model)
        app.router.add_post("/v1/nhi/route", self.route)
        app.router.add_get("/v1/nhi/route", self.route)
        app.router.add_get("/v1/nhi/status", self.status)
        self._desk.add_routes(app)
        app.router.add_get("/metrics", self.metrics_text)
        app.router.add_get("/openapi.json", self.openapi)
        app.router.add_get("/ui", self.ui)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        return app

    def agent_of(self, request: web.Request, setup: Setup) -> AgentConfig:
        """Whose key it is; ApiError 401 for none and for one that is not known."""
        given = request.headers.get(hdrs.AUTHORIZATION, "")
        key = given[7:] if given[:7].lower() == "bearer " else request.headers.get("x-api-key", "")
        if not key:
            raise ApiError(401, "An API key is needed: Authorization: Bearer KEY.", code="missing_api_key")
        agent = setup.agents.get(hash_key(key.strip()))
        if agent is None:
            raise ApiError(401, "The API key is not known here.", code="invalid_api_key")
        return agent

    async def _serve(self, request: web.Request, form: str) -> web.StreamResponse:
        live, setup = self.live, self.live.setup
        if live.draining:
            raise ApiError(503, "The router is stopping.", code="stopping", retry_ms=5000)
        agent = self.agent_of(request, setup)
        ask = await self._ask(request, form)
        wanted = read_wanted(request.headers, ask, agent, setup)
        trail = Trail(agent.name, wanted.demand.task, form, header_safe(ask.model), ask.stream)
        trail.user_agent = request.headers.get(hdrs.USER_AGENT, "")
        live.in_flight += 1
        try:
            attempts = Attempts(live, setup, wanted, trail)
            if wanted.defers:
                Admission(live, setup, wanted, trail).refuse_impossible()
                return await self._defer(wanted, trail)
            try:
                if ask.stream:
                    return await self._stream(request, attempts, trail, form)
                body, content_type = await attempts.whole()
            except BusyError as error:
                if wanted.when_busy == "deferred":
                    return await self._defer(wanted, trail)
                if wanted.when_busy == "choice":
                    raise choice_error(live, setup, wanted, error.decision) from error
                raise
            return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, **trail.headers()})
        except UpstreamRefusalError as error:
            trail.status, trail.outcome = error.status, "refused"
            return web.Response(
                status=error.status, body=error.body, content_type=_plain_type(error.content_type),
                headers=trail.headers(),
            )  # fmt: skip
        except ApiError as error:
            trail.status, trail.outcome = error.status, "failed"
            error.headers.update(trail.headers())
            raise
        except (asyncio.CancelledError, ConnectionResetError):
            trail.outcome = "gone"
            raise
        finally:
            live.in_flight -= 1
            live.finish(trail, setup)

    async def _defer(self, wanted: Wanted, trail: Trail) -> web.Response:
        response = await self._desk.take(wanted, trail.headers())
        trail.status, trail.outcome = 202, "deferred"
        return response

    async def _stream(self, request: web.Request, attempts: Attempts, trail: Trail, form: str) -> web.StreamResponse:
        """Relay a stream; what goes wrong before its first byte is an ordinary error."""
        response: web.StreamResponse | None = None
        blocks = attempts.stream()
        try:
            async for block in blocks:
                if response is None:
                    headers = {**trail.headers(), hdrs.CACHE_CONTROL: "no-cache", "X-Accel-Buffering": "no"}
                    response = web.StreamResponse(headers={**headers, hdrs.CONTENT_TYPE: "text/event-stream"})
                    await response.prepare(request)
                await response.write(block)
        except (ApiError, UpstreamRefusalError) as error:
            if response is None:
                raise
            trail.status, trail.outcome = error.status, "failed"
            if isinstance(error, UpstreamRefusalError):
                error = ApiError(error.status, words_of_refusal(error.body), code="refused_by_provider")
            await response.write(failure_event(form, error))
        finally:
            await blocks.aclose()
        if response is None:
            raise ApiError(502, "The stream was empty.", code="upstream_failed")
        await response.write_eof()
        return response

    async def _ask(self, request: web.Request, form: str) -> Ask:
        if request.content_type not in ("application/json", "application/octet-stream"):
            raise ApiError(
                415, "The body must be JSON (Content-Type: application/json).", code="unsupported_media_type"
            )
        try:
            if request.content.is_eof():
                raw = request.content.read_nowait()
            else:
                async with asyncio.timeout(_BODY_SECONDS):
                    raw = await request.read()
        except TimeoutError as error:
            raise ApiError(408, "The body did not come in time.", code="request_timeout") from error
        except web.HTTPRequestEntityTooLarge as error:
            raise self._too_large() from error
        if len(raw) > self._most_mib * _MIB:
            raise self._too_large()
        return read_ask(form, parse_json(raw), raw)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self._most_mib} MiB.", code="request_too_large")

    async def models(self, request: web.Request) -> web.Response:
        """All models, and the aliases of tasks."""
        setup = self.live.setup
        self.agent_of(request, setup)
        return web.json_response(list_models(setup, request.headers))

    async def one_model(self, request: web.Request) -> web.Response:
        """One of them."""
        setup = self.live.setup
        self.agent_of(request, setup)
        return web.json_response(one_model(setup, request.match_info["name"], request.headers))

    async def count(self, request: web.Request) -> web.Response:
        """How many tokens a request of the Messages form has."""
        setup = self.live.setup
        agent = self.agent_of(request, setup)
        wanted = read_wanted(request.headers, await self._ask(request, MESSAGES), agent, setup)
        return web.json_response({"input_tokens": await count_tokens(self.live, setup, wanted)})

    async def route(self, request: web.Request) -> web.Response:
        """What would be chosen now, and why; nothing is sent or reserved."""
        setup = self.live.setup
        agent = self.agent_of(request, setup)
        if request.method == "GET":
            task, model = request.query.get("task", ""), request.query.get("model", "")
            body = {"model": ALIAS_PREFIX + task if task else model, "messages": [{"role": "user", "content": ""}]}
            ask = read_ask(CHAT, body, b"")
        else:
            ask = await self._ask(request, CHAT)
        demand = read_wanted(request.headers, ask, agent, setup).demand
        picture = setup.picture
        readings = picture.readings(demand.chain, stream=ask.stream)
        decision = decide(demand, picture.models, readings, picture.weights, picture.preferred)
        return web.json_response({**decision.as_data(), "preferred_provider": picture.preferred})

    async def status(self, request: web.Request) -> web.Response:
        """Quotas, health, queue, GPU, the last decisions."""
        self.agent_of(request, self.live.setup)
        return web.json_response(status_of(self.live, self._last))

    async def metrics_text(self, _request: web.Request) -> web.Response:
        """For Prometheus."""
        self.live.record()
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, _request: web.Request) -> web.Response:
        """What it answers to."""
        return web.json_response(document())

    async def ui(self, _request: web.Request) -> web.Response:
        """The page; what it shows it asks for with a key."""
        page = files("nhi_services.router").joinpath("ui/index.html").read_bytes()
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=_PAGE_HEADERS)

    async def healthz(self, _request: web.Request) -> web.Response:
        """Whether the process works."""
        return web.json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether requests are welcome: 503 while it stops. A lost Redis or PostgreSQL is told, and is no reason."""
        told = {"redis": "lost" if self.live.store.is_lost else "ok", "in_flight": self.live.in_flight}
        if self.live.draining:
            return web.json_response({"status": "stopping", **told}, status=503)
        return web.json_response({"status": "ready", **told})

    @web.middleware
    async def _faults(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every fault in the shape that clients know, without a traceback."""
        self._silent.pop(id(request.protocol), None)
        try:
            return await handler(request)
        except ApiError as error:
            return self._told(request, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            told = ApiError(error.status, f"{error.reason}.", code="http_error")
            told.headers.update({name: error.headers[name] for name in (hdrs.ALLOW,) if name in error.headers})
            return self._told(request, told)
        except Exception:
            LOG.exception("a request failed")
            return self._told(request, ApiError(500, "The router has a fault; its log says more.", code="internal"))

    def _told(self, request: web.Request, error: ApiError) -> web.Response:
        if request.path.startswith("/v1/messages") or is_anthropic(request.headers):
            status = anthropic_status(error.status)
            return web.json_response(anthropic_body(error), status=status, headers=error.all_headers())
        return web.json_response(error.body(), status=error.status, headers=error.all_headers())

    def watch(self, handler: web.RequestHandler) -> web.RequestHandler:
        """A handler of a new connection, which is closed if it has not brought a whole request after a while."""
        self._silent[id(handler)] = handler

        def check() -> None:
            if self._silent.pop(id(handler), None) is not None and handler.transport is not None:
                handler.transport.close()

        asyncio.get_running_loop().call_later(_FIRST_REQUEST_SECONDS, check)
        return handler


@lru_cache(maxsize=256)
def header_safe(text: str) -> str:
    """A name from a request, fit for logs."""
    return text if _TASK.fullmatch(text.replace("/", "-").replace(":", "-").lower() or "-") else "?"


def _plain_type(content_type: str) -> str:
    return content_type if content_type in ("application/json", "text/plain") else "text/plain"
