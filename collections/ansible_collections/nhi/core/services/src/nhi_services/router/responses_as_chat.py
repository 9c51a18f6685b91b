# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of the OpenAI Responses form, put to providers as chat completions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from nhi_services.router.adapted import (
    Adapted,
    CallReader,
    Fragment,
    FromChat,
    Part,
    arguments_text,
    named_event,
    new_id,
    text_of,
)
from nhi_services.router.api_errors import ApiError
from nhi_services.router.asks import CHAT, RESPONSES, Ask
from nhi_services.router.phrasebook import Phrasebook
from nhi_services.router.streams import GarbageError

_ECHOED: Final[dict[str, Any]] = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True, "reasoning": None,
    "temperature": None, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": None,
    "user": None,
}  # fmt: skip
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_CODES: Final = {429: "rate_limit_exceeded", 400: "invalid_prompt"}


class ResponsesAsChat(FromChat):
    """Answers of chat completions as responses."""

    def __init__(self, ask: Ask, book: Phrasebook, inner: Adapted) -> None:
        super().__init__(inner)
        self.left_out = (*book.left_out, *inner.left_out)
        self._book = book
        self._assumed = ask.prompt_tokens
        asked = ask.body
        self._response: Part = {
            "id": new_id("resp"), "object": "response", "created_at": int(time.time()), "status": "in_progress",
            "error": None, "incomplete_details": None, "model": "", "output": [], "previous_response_id": None,
            "store": False, "truncation": "disabled", "usage": None,
            **{name: default if asked.get(name) is None else asked[name] for name, default in _ECHOED.items()},
        }  # fmt: skip
        self._calls = CallReader()
        self._open_calls: dict[int, _Call] = {}
        self._message: _Message | None = None
        self._items = 0
        self._output: dict[int, Part] = {}
        self._sequence = 0
        self._pieces = 0
        self._over = False

    def failed(self, error: ApiError) -> bytes:
        """The event that says so, after those that any stream begins with."""
        parts = [] if self._begun else list(self._opening(""))
        code = _CODES.get(error.status, "server_error")
        response = {**self._response, "status": "failed", "error": {"code": code, "message": error.message}}
        return b"".join(map(named_event, [*parts, self._numbered("response.failed", response=response)]))

    def _answer(self, parsed: Part) -> Part:
        [choice, *_others] = parsed["choices"]
        message = choice["message"]
        output: list[Part] = []
        said, refused = text_of(message.get("content")), message.get("refusal") or ""
        calls = message.get("tool_calls") or ()
        if said or refused or not calls:
            output.append(_message_item(new_id("msg"), said, refused, "completed"))
        for call in calls:
            function = call["function"]
            call_id, arguments = call.get("id") or new_id("call"), arguments_text(function.get("arguments"))
            output.append(self._book.item_of(new_id("fc"), call_id, function["name"], arguments))
        self._response["model"] = parsed.get("model") or ""
        return self._ended(output, choice.get("finish_reason") or "", parsed.get("usage"), 0)

    def _ended(self, output: list[Part], reason: str, usage: Any, pieces: int) -> Part:
        short = _INCOMPLETE.get(reason)
        return {
            **self._response, "status": "incomplete" if short else "completed", "output": output,
            "incomplete_details": {"reason": short} if short else None,
            "usage": _usage(usage, self._assumed, pieces),
        }  # fmt: skip

    def _numbered(self, kind: str, **more: Any) -> Part:
        part = {"type": kind, "sequence_number": self._sequence, **more}
        self._sequence += 1
        return part

    def _begin(self, model: str) -> Iterator[Part]:
        self._response["model"] = model
        yield self._numbered("response.created", response=self._response)
        yield self._alive()

    def _alive(self) -> Part:
        return self._numbered("response.in_progress", response=self._response)

    def _delta(self, delta: Part) -> Iterator[Part]:
        for kind, text in (("output_text", text_of(delta.get("content"))), ("refusal", delta.get("refusal") or "")):
            if text:
                yield from self._spoken(kind, text)
        for fragment in self._calls.read(delta):
            yield from self._called(fragment)

    def _spoken(self, kind: str, text: str) -> Iterator[Part]:
        message = self._message
        if message is None:
            message = self._message = _Message(new_id("msg"), self._items)
            self._items += 1
            item = {**_message_item(message.item_id, "", "", "in_progress"), "content": []}
            yield self._numbered("response.output_item.added", output_index=message.index, item=item)
        if kind not in message.texts:
            message.texts[kind] = []
            where = message.where(kind)
            yield self._numbered("response.content_part.added", **where, part=_content_part(kind, ""))
        message.texts[kind].append(text)
        self._pieces += 1
        yield self._numbered(f"response.{kind}.delta", **message.where(kind), delta=text, **_logprobs(kind))

    def _called(self, fragment: Fragment) -> Iterator[Part]:
        call = self._open_calls.get(fragment.number)
        if call is None:
            if not fragment.name:
                raise GarbageError("a tool call has no name")
            yield from self._close_message("completed")
            call = self._open_calls[fragment.number] = _Call(
                new_id("fc"), self._items, fragment.call_id, fragment.name, self._book.is_custom(fragment.name)
            )
            self._items += 1
            item = {**self._item(call), "status": "in_progress"}
            item["input" if call.is_custom else "arguments"] = ""
            yield self._numbered("response.output_item.added", output_index=call.index, item=item)
        if fragment.arguments:
            self._pieces += 1
            call.arguments.append(fragment.arguments)
            # A free text is wrapped in JSON: it can be told when that is whole.
            if not call.is_custom:
                yield self._numbered(
                    "response.function_call_arguments.delta", **call.where, delta=fragment.arguments
                )  # fmt: skip

    def _item(self, call: _Call) -> Part:
        return self._book.item_of(call.item_id, call.call_id, call.name, "".join(call.arguments))

    def _close_message(self, status: str) -> Iterator[Part]:
        message = self._message
        if message is None:
            return
        self._message = None
        for kind, pieces in message.texts.items():
            text, where = "".join(pieces), message.where(kind)
            said = {"text" if kind == "output_text" else "refusal": text}
            yield self._numbered(f"response.{kind}.done", **where, **said, **_logprobs(kind))
            yield self._numbered("response.content_part.done", **where, part=_content_part(kind, text))
        text, refusal = ("".join(message.texts.get(kind, ())) for kind in ("output_text", "refusal"))
        yield self._done(message.index, _message_item(message.item_id, text, refusal, status))

    def _close_call(self, call: _Call, status: str) -> Iterator[Part]:
        item = {**self._item(call), "status": status}
        if call.is_custom:
            yield self._numbered("response.custom_tool_call_input.delta", **call.where, delta=item["input"])
            yield self._numbered("response.custom_tool_call_input.done", **call.where, input=item["input"])
        else:
            yield self._numbered(
                "response.function_call_arguments.done", **call.where, name=item["name"], arguments=item["arguments"]
            )
        yield self._done(call.index, item)

    def _done(self, index: int, item: Part) -> Part:
        self._output[index] = item
        self._response["output"] = [self._output[at] for at in sorted(self._output)]
        return self._numbered("response.output_item.done", output_index=index, item=item)

    def _finish(self) -> Iterator[Part]:
        if self._over:
            return
        self._over = True
        status = "incomplete" if self._reason in _INCOMPLETE else "completed"
        yield from self._close_message(status)
        for call in self._open_calls.values():
            yield from self._close_call(call, status)
        response = self._ended(self._response["output"], self._reason, self._usage, self._pieces)
        yield self._numbered(f"response.{response['status']}", response=response)


@dataclass
class _Message:
    """The message that is being told: its texts by kind."""

    item_id: str
    index: int
    texts: dict[str, list[str]] = field(default_factory=dict)

    def where(self, kind: str) -> Part:
        """Fields that say which part of which item an event is about."""
        return {"item_id": self.item_id, "output_index": self.index, "content_index": list(self.texts).index(kind)}


@dataclass
class _Call:
    """A tool call that is being told."""

    item_id: str
    index: int
    call_id: str
    name: str
    is_custom: bool
    arguments: list[str] = field(default_factory=list)

    @property
    def where(self) -> Part:
        """Fields that say which item an event is about."""
        return {"item_id": self.item_id, "output_index": self.index}


def failed_at_once(error: ApiError) -> bytes:
    """A stream of which nothing else has come."""
    nobody = Adapted(CHAT, {})
    ask = Ask(RESPONSES, {}, "", stream=True, prompt_tokens=0, output_tokens=0, needs=frozenset())
    return ResponsesAsChat(ask, Phrasebook(), nobody).failed(error)


def _message_item(item_id: str, text: str, refusal: str, status: str) -> Part:
    content = [_content_part("output_text", text)] if text or not refusal else []
    if refusal:
        content.append(_content_part("refusal", refusal))
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _content_part(kind: str, text: str) -> Part:
    if kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _logprobs(kind: str) -> Part:
    return {"logprobs": []} if kind == "output_text" else {}


def _usage(usage: Any, assumed_input: int, assumed_output: int) -> Part:
    known = usage if isinstance(usage, dict) else {}
    into = known.get("prompt_tokens", assumed_input) or 0
    out = known.get("completion_tokens", assumed_output) or 0
    cached = (known.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thought = (known.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": into, "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": out, "output_tokens_details": {"reasoning_tokens": thought}, "total_tokens": into + out,
    }  # fmt: skip
