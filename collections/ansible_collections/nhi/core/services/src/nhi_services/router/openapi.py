# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the router answers to, as an OpenAPI document.

Bodies of models' requests are described as far as the router reads them; everything else in them passes through.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_WHOLE: Final[Schema] = {"type": "integer"}
_ANY: Final[Schema] = {"type": "object"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_TEXT_OR_LIST: Final[Schema] = {"anyOf": [_TEXT, {"type": "array"}]}
_POSITIVE: Final[Schema] = {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000_000}
_HEADERS: Final = (
    ("X-NHI-Task", "The task, whose chain of models is used.", _TEXT),
    ("X-NHI-Mode", "What happens when no model can answer now; `deferred` does not try before.",
     {"type": "string", "enum": ["wait", "deferred", "choice"]}),
    ("X-NHI-Not-Before", "With `deferred`: not before this moment.", {"type": "string", "format": "date-time"}),
    ("X-NHI-Continue", "Whether another model goes on with a stream that is cut: one text, of a chat or a completion.",
     {"type": "string", "enum": ["true", "false"]}),
)  # fmt: skip
_TOLD: Final = {
    "X-NHI-Request-Id": "Names the request in logs and books.", "X-NHI-Provider": "Who answered.",
    "X-NHI-Model": "Which model answered.", "X-NHI-Attempts": "How many models were asked.",
    "X-NHI-Queue-Ms": "How long the request waited.", "X-NHI-Quota-Left": "Requests of the day that are left.",
    "X-NHI-Degraded": "Why a worse model answered than the best of the chain.",
}  # fmt: skip
_WORDS: Final = {
    400: "The request is wrong.", 401: "The key is missing or not known.", 402: "The provider wants to be paid.",
    403: "The provider does not allow it.", 404: "There is no such thing.", 408: "The body did not come in time.",
    409: "Nothing can answer now, and the options are listed; or the task has ended.",
    413: "The body is too large.", 415: "The body is not JSON.", 422: "The provider can not take it.",
    429: "The budget is used up.", 502: "Every model that was asked failed.",
    529: "No model can answer now, a part is lost, or the router stops; Retry-After says when to come back.",
    503: "No model can answer now, a part is lost, or the router stops; Retry-After says when to come back.",
}  # fmt: skip


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(words: str, schema: Schema, headers: tuple[str, ...] = ()) -> dict[str, Any]:
    told = {name: {"description": _TOLD.get(name, ""), "schema": _TEXT} for name in headers}
    return {
        "description": words, "content": {"application/json": {"schema": schema}},
        **({"headers": told} if told else {}),
    }  # fmt: skip


def _errors(*codes: int, schema: str = "Error") -> dict[str, Any]:
    return {str(code): _json(_WORDS[code], _ref(schema)) for code in codes}


def _get(summary: str, schema: Schema, *codes: int, parameters: tuple[Schema, ...] = ()) -> dict[str, Any]:
    return {
        "summary": summary, "parameters": list(parameters),
        "responses": {"200": _json("As asked.", schema), **_errors(401, *codes)},
    }  # fmt: skip


def _open(summary: str, content_type: str, schema: Schema, *codes: int) -> dict[str, Any]:
    answers = {str(code): {"description": "So it is.", "content": {content_type: {"schema": schema}}} for code in codes}
    return {"summary": summary, "security": [], "responses": answers}


def _ask(summary: str, request: str, answer: str, error: str = "Error", *, streams: bool = True) -> dict[str, Any]:
    good = _json("The answer of a model, with what happened in the headers.", _ref(answer), tuple(_TOLD))
    if streams:
        good["content"]["text/event-stream"] = {}
    return {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "header", "description": words, "schema": schema} for name, words, schema in _HEADERS
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
        "responses": {
            "200": good, "202": _json("It is deferred.", _ref("Accepted")),
            **_errors(400, 401, 402, 403, 404, 408, 409, 413, 415, 422, 429, 502, _busy(error), schema=error),
        },
    }  # fmt: skip


def _busy(error: str) -> int:
    return 529 if error == "AnthropicError" else 503


def _path(name: str, schema: Schema | None = None) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema or {"type": "string", "minLength": 1}}


def _query(name: str) -> Schema:
    return {"name": name, "in": "query", "schema": _TEXT}


def _schemas() -> dict[str, Schema]:
    message = _object({"role": _TEXT})
    common: dict[str, Schema] = {"model": {"type": "string", "maxLength": 200}, "stream": {"type": ["boolean", "null"]}}
    limits = {"max_tokens": _POSITIVE, "max_completion_tokens": _POSITIVE}
    messages = {"type": "array", "items": message, "minItems": 1}
    content: Schema = {"anyOf": [_TEXT, {"type": "array", "items": _object({"type": _TEXT})}]}
    turn = _object({"role": {"enum": ["user", "assistant"]}, "content": content})
    turns = {"type": "array", "items": turn, "minItems": 1}
    options = {"type": "array", "items": _object({"option": _TEXT, "description": _TEXT, "send": _ANY})}
    error = _object({"message": _TEXT, "type": _TEXT_OR_NULL}, {"param": _TEXT_OR_NULL, "code": {}, "options": options})
    task = {
        "object": {"const": "nhi.deferred"}, "id": {"type": "string", "format": "uuid"}, "url": _TEXT,
        "status": {"enum": ["pending", "running", "done", "failed", "cancelled"]}, "task_type": _TEXT,
        "attempts": _WHOLE, "created_at": _TEXT, "finished_at": _TEXT_OR_NULL, "due_at": _TEXT_OR_NULL,
        "error": _TEXT_OR_NULL,
    }  # fmt: skip
    model = _object({"id": _TEXT, "object": _TEXT, "created": _WHOLE, "owned_by": _TEXT})
    return {
        "Error": _object({"error": error}),
        "AnthropicError": _object({"type": {"const": "error"}, "error": _object({"type": _TEXT, "message": _TEXT})}),
        "ChatRequest": _object({"messages": messages}, {**common, **limits, "tools": {"type": ["array", "null"]}}),
        "CompletionRequest": _object({"prompt": _TEXT_OR_LIST}, {**common, **limits}),
        "EmbeddingRequest": _object({"input": _TEXT_OR_LIST}, common),
        "MessagesRequest": _object({"messages": turns}, {**common, "max_tokens": _POSITIVE}),
        "ResponsesRequest": _object(
            {"input": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": _ANY, "minItems": 1}]}},
            {**common, "max_output_tokens": _POSITIVE},
        ),
        "Response": _object({"output": {"type": "array"}}, {"usage": _ANY}),
        "Count": _object({"input_tokens": _WHOLE}),
        "Chat": _object({"choices": {"type": "array"}}, {"usage": _ANY}),
        "Embeddings": _object({"data": {"type": "array"}}),
        "Message": _object({"content": {"type": "array"}}),
        "Accepted": _object(
            {"id": _TEXT, "object": {"const": "nhi.deferred"}, "status": {"const": "pending"}, "url": _TEXT},
            {"due_at": _TEXT},
        ),
        "Deferred": _object(task, {"result": {}, "headers": {"type": ["object", "null"]}}),
        "DeferredList": _object({"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Deferred")}}),
        "Model": model,
        "Models": _object({"data": {"type": "array", "items": _ANY}}, {"object": _TEXT}),
        "Decision": _object(
            {"task": _TEXT, "chosen": _TEXT_OR_NULL, "attempts": {"type": "array", "items": _TEXT}, "reason": _TEXT,
             "candidates": {"type": "array", "items": _object({"model": _TEXT, "provider": _TEXT, "local": {}})},
             "preferred_provider": _TEXT_OR_NULL},
        ),
        "Status": _object({"providers": _ANY, "tasks": _ANY, "last": {"type": "array"}, "gpu": _TEXT}),
    }  # fmt: skip


def _paths() -> dict[str, Any]:
    chat, status = _ref("ChatRequest"), _object({"status": _TEXT})
    explained = _get("What would be chosen now, and why.", _ref("Decision"), 400, 404, 408, 413, 415)
    posted = {**explained, "requestBody": {"required": True, "content": {"application/json": {"schema": chat}}}}
    identity = _path("id")
    counting = _ask("Count tokens.", "MessagesRequest", "Count", "AnthropicError", streams=False)
    return {
        "/v1/chat/completions": {"post": _ask("Chat.", "ChatRequest", "Chat")},
        "/v1/completions": {"post": _ask("Complete a text.", "CompletionRequest", "Chat")},
        "/v1/embeddings": {"post": _ask("Embed.", "EmbeddingRequest", "Embeddings", streams=False)},
        "/v1/messages": {"post": _ask("Chat in Anthropic's form.", "MessagesRequest", "Message", "AnthropicError")},
        "/v1/messages/count_tokens": {"post": counting},
        "/v1/responses": {"post": _ask("The Responses form.", "ResponsesRequest", "Response")},
        "/v1/models": {"get": _get("All models, and the aliases of tasks.", _ref("Models"))},
        "/v1/models/{name}": {"get": _get("One of them.", _ref("Model"), 404, parameters=(_path("name"),))},
        "/v1/nhi/route": {
            "get": {**explained, "parameters": [_query("task"), _query("model")]},
            "post": {**posted, "parameters": [{"name": n, "in": "header", "schema": s} for n, _w, s in _HEADERS[:2]]},
        },
        "/v1/nhi/status": {"get": _get("Quotas, health, who waits, the last decisions.", _ref("Status"))},
        "/v1/nhi/deferred": {"get": _get("The agent's last deferred tasks.", _ref("DeferredList"), 503)},
        "/v1/nhi/deferred/{id}": {
            "get": _get("A task, with its result once it is done.", _ref("Deferred"), 404, 503, parameters=(identity,)),
            "delete": _get("Cancel it.", _ref("Deferred"), 404, 409, 503, parameters=(identity,)),
        },
        "/metrics": {"get": _open("For Prometheus.", "text/plain", _TEXT, 200)},
        "/ui": {"get": _open("A page for people.", "text/html", _TEXT, 200)},
        "/healthz": {"get": _open("Whether the process works.", "application/json", status, 200)},
        "/readyz": {"get": _open("Whether requests are welcome.", "application/json", status, 200, 503)},
        "/openapi.json": {"get": _open("This document.", "application/json", _ANY, 200)},
    }  # fmt: skip


def document() -> dict[str, Any]:
    """The whole document."""
    try:
        number = version("nhi-services")
    except PackageNotFoundError:
        number = "0"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nhi-router", "version": number,
            "description": "Language models of several providers behind one address, within their limits.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }  # fmt: skip
