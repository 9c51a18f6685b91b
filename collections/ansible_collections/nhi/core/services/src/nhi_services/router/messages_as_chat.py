# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of the Anthropic Messages form, put to providers that speak chat completions.

Caching hints, sampling by top_k, thinking and the user's id have no equivalent that all providers know; they stay here.
Thinking does not go back either: a block without Anthropic's signature would be refused by the next provider.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from nhi_services.router.adapted import (
    Adapted,
    CallReader,
    Fragment,
    FromChat,
    Part,
    UntranslatableError,
    anthropic_failure,
    arguments_text,
    new_id,
    text_of,
)
from nhi_services.router.api_errors import ApiError, anthropic_body
from nhi_services.router.asks import Ask
from nhi_services.router.streams import GarbageError

_SAME: Final = ("temperature", "top_p", "stream")
_STOP_REASONS: Final = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use",
    "content_filter": "refusal",
}  # fmt: skip
_FORGOTTEN: Final = ("thinking", "redacted_thinking")


def chat_body(body: Mapping[str, Any], output_limit: str) -> dict[str, Any]:
    """The request as a chat completion; UntranslatableError for what only Anthropic's own API can do."""
    try:
        return _chat_body(body, output_limit)
    except (KeyError, TypeError, AttributeError) as error:
        raise UntranslatableError(f"a field that is missing or of the wrong type ({error})") from error


def _chat_body(body: Mapping[str, Any], output_limit: str) -> dict[str, Any]:
    messages: list[Part] = []
    if body.get("system"):
        messages.append({"role": "system", "content": _joined(body["system"])})
    for message in body["messages"]:
        messages.extend(_chat_messages(message))
    result: dict[str, Any] = {"messages": messages}
    result.update({name: body[name] for name in _SAME if body.get(name) is not None})
    if body.get("max_tokens") is not None:
        result[output_limit] = body["max_tokens"]
    if body.get("stop_sequences"):
        result["stop"] = body["stop_sequences"]
    if body.get("tools"):
        result["tools"] = [_chat_tool(tool) for tool in body["tools"]]
        result.update(_chat_choice(body.get("tool_choice") or {}))
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format")
    if wanted:
        schema = {"name": "answer", "schema": wanted["schema"], "strict": True}
        result["response_format"] = {"type": "json_schema", "json_schema": schema}
    return result


def _joined(content: Any) -> str:
    """Blocks of text as one."""
    if isinstance(content, str):
        return content
    for block in content:
        if block["type"] != "text":
            raise UntranslatableError(f"a block of type {block['type']} among texts")
    return "\n\n".join(block["text"] for block in content)


def _chat_messages(message: Part) -> Iterator[Part]:
    """A message as one or more: results of tools are messages of their own, before what else was said."""
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    blocks = [block for block in content if block["type"] not in _FORGOTTEN]
    if role == "assistant":
        yield _chat_assistant(blocks)
        return
    parts: list[Part] = []
    for block in blocks:
        if block["type"] == "tool_result":
            text, images = _result(block)
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}
            parts.extend(images)
        else:
            parts.append(_chat_part(block))
    if parts:
        yield {"role": role, "content": _plain_if_it_can_be(parts)}


def _chat_assistant(blocks: list[Part]) -> Part:
    calls = [
        {
            "id": block["id"], "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block.get("input") or {})},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]  # fmt: skip
    said = _joined([block for block in blocks if block["type"] != "tool_use"])
    answer: Part = {"role": "assistant", "content": said or (None if calls else "")}
    return {**answer, "tool_calls": calls} if calls else answer


def _result(block: Part) -> tuple[str, list[Part]]:
    """Text of a tool's result, and its images, which have no place in a message of a tool."""
    content = block.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [_chat_part(one) for one in content]
    text = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
    if block.get("is_error"):
        text = f"[error] {text}"
    return text, [part for part in parts if part["type"] != "text"]


def _chat_part(block: Part) -> Part:
    kind, source = block["type"], block.get("source") or {}
    if kind == "text":
        return {"type": "text", "text": block["text"]}
    if kind == "image" and source.get("type") == "base64":
        return {"type": "image_url", "image_url": {"url": f"data:{source['media_type']};base64,{source['data']}"}}
    if kind == "image" and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": source["url"]}}
    if kind == "document" and source.get("type") == "text":
        return {"type": "text", "text": source["data"]}
    if kind == "document" and source.get("type") == "base64":
        data = f"data:{source['media_type']};base64,{source['data']}"
        return {"type": "file", "file": {"filename": block.get("title") or "document.pdf", "file_data": data}}
    raise UntranslatableError(f"a block of type {kind}{' from ' + str(source['type']) if 'type' in source else ''}")


def _plain_if_it_can_be(parts: list[Part]) -> str | list[Part]:
    """Text alone is a text: not every provider takes lists."""
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _chat_tool(tool: Part) -> Part:
    if tool.get("type") not in (None, "custom"):
        raise UntranslatableError(f"the tool {tool['type']}")
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    function.update({name: tool[name] for name in ("description", "strict") if tool.get(name) is not None})
    return {"type": "function", "function": function}


def _chat_choice(choice: Part) -> Part:
    kinds = {"auto": "auto", "any": "required", "none": "none"}
    result: Part = {}
    if choice.get("type") == "tool":
        result["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice:
        result["tool_choice"] = kinds.get(choice["type"], "auto")
    if choice.get("disable_parallel_tool_use"):
        result["parallel_tool_calls"] = False
    return result


class MessagesAsChat(FromChat):
    """Answers of chat completions as messages."""

    def __init__(self, ask: Ask, inner: Adapted) -> None:
        super().__init__(inner)
        self._assumed = ask.prompt_tokens
        self._calls = CallReader()
        self._over = False
        self._block = -1
        # What the open block is: a text, or the number of a call.
        self._open: str | int | None = None
        self._pieces = 0

    def failed(self, error: ApiError) -> bytes:
        """An error of the Anthropic form."""
        return anthropic_failure(error)

    def told(self, error: ApiError) -> Part:
        """An error of the Anthropic form."""
        return anthropic_body(error)

    def _answer(self, parsed: Part) -> Part:
        [choice, *_others] = parsed["choices"]
        message = choice["message"]
        said = text_of(message.get("content")) or message.get("refusal") or ""
        content: list[Part] = [{"type": "text", "text": said}] if said else []
        for call in message.get("tool_calls") or ():
            arguments = arguments_text(call["function"].get("arguments"))
            given = json.loads(arguments) if arguments.strip() else {}
            if not isinstance(given, dict):
                raise TypeError("arguments that are no object")
            named = {"id": call.get("id") or new_id("toolu"), "name": call["function"]["name"]}
            content.append({"type": "tool_use", **named, "input": given})
        calls = bool(message.get("tool_calls"))
        reason = _stop_reason(choice.get("finish_reason"), calls=calls, refused=bool(message.get("refusal")))
        return {
            "id": new_id("msg"), "type": "message", "role": "assistant", "model": parsed.get("model") or "",
            "content": content, "stop_reason": reason, "stop_sequence": None,
            "usage": _usage(parsed.get("usage"), self._assumed, 0),
        }  # fmt: skip

    def _begin(self, model: str) -> Iterator[Part]:
        usage = {"input_tokens": self._assumed, "output_tokens": 0}
        message: Part = {
            "id": new_id("msg"), "type": "message", "role": "assistant", "model": model,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        yield {"type": "message_start", "message": message}
        yield self._alive()

    def _alive(self) -> Part:
        return {"type": "ping"}

    def _delta(self, delta: Part) -> Iterator[Part]:
        text = text_of(delta.get("content")) or delta.get("refusal") or ""
        if delta.get("refusal"):
            self._reason = "content_filter"
        if text:
            if self._open != "text":
                yield from self._next("text", {"type": "text", "text": ""})
            yield self._said({"type": "text_delta", "text": text})
        for fragment in self._calls.read(delta):
            yield from self._called(fragment)

    def _called(self, fragment: Fragment) -> Iterator[Part]:
        if fragment.is_new:
            if not fragment.name:
                raise GarbageError("a tool call has no name")
            tool = {"type": "tool_use", "id": fragment.call_id, "name": fragment.name, "input": {}}
            yield from self._next(fragment.number, tool)
        elif self._open != fragment.number:
            # Blocks come one after the other in this form.
            raise GarbageError("its tool calls are mixed up")
        if fragment.arguments:
            yield self._said({"type": "input_json_delta", "partial_json": fragment.arguments})

    def _next(self, what: str | int, block: Part) -> Iterator[Part]:
        yield from self._close()
        self._block += 1
        self._open = what
        yield {"type": "content_block_start", "index": self._block, "content_block": block}

    def _close(self) -> Iterator[Part]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._block}

    def _said(self, delta: Part) -> Part:
        self._pieces += 1
        return {"type": "content_block_delta", "index": self._block, "delta": delta}

    def _finish(self) -> Iterator[Part]:
        if self._over:
            return
        self._over = True
        called = isinstance(self._open, int)
        yield from self._close()
        reason = _stop_reason(self._reason, calls=called)
        usage = _usage(self._usage, self._assumed, self._pieces)
        yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
        yield {"type": "message_stop"}


def _stop_reason(given: Any, *, calls: bool, refused: bool = False) -> str:
    """Some providers say stop where tools are to be called."""
    if refused:
        return "refusal"
    reason = _STOP_REASONS.get(given or "stop", "end_turn")
    return "tool_use" if calls and reason == "end_turn" else reason


def _usage(usage: Any, assumed_input: int, assumed_output: int) -> Part:
    """Tokens as Anthropic counts them: those from a cache are not among the input's."""
    if not isinstance(usage, dict):
        return {"input_tokens": assumed_input, "output_tokens": assumed_output}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    into = max(0, (usage.get("prompt_tokens") or 0) - cached)
    return {
        "input_tokens": into, "output_tokens": usage.get("completion_tokens") or 0,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached,
    }  # fmt: skip
