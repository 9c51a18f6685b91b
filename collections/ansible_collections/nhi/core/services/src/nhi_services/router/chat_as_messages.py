# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of the chat completions form, put to providers that speak Anthropic's Messages."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from nhi_services.router.adapted import (
    DONE,
    Adapted,
    Part,
    Translated,
    UntranslatableError,
    arguments_text,
    data_event,
    new_id,
    split_data_url,
    text_of,
)
from nhi_services.router.asks import Ask

_SAME: Final = ("top_p", "stream")
_REASONS: Final = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls", "refusal":
    "content_filter", "model_context_window_exceeded": "length", "pause_turn": "stop",
}  # fmt: skip
_NOT_IN_IDS: Final = re.compile(r"[^A-Za-z0-9_-]")
_JSON_ONLY: Final = "Answer with one JSON object and nothing else."


def messages_body(body: Mapping[str, Any], max_output: int) -> dict[str, Any]:
    """The request as Messages; UntranslatableError for what they have no words for."""
    try:
        return _messages_body(body, max_output)
    except (KeyError, TypeError, AttributeError) as error:
        raise UntranslatableError(f"a field that is missing or of the wrong type ({error})") from error


def _messages_body(body: Mapping[str, Any], max_output: int) -> dict[str, Any]:
    if (body.get("n") or 1) != 1:
        raise UntranslatableError("more than one answer (n)")
    if body.get("functions"):
        raise UntranslatableError("functions in place of tools")
    system = [text_of(m.get("content")) for m in body["messages"] if m["role"] in ("system", "developer")]
    messages = _turns(message for message in body["messages"] if message["role"] not in ("system", "developer"))
    if not messages:
        raise UntranslatableError("a conversation in which nobody has said anything")
    most = body.get("max_completion_tokens") or body.get("max_tokens") or max_output
    result: dict[str, Any] = {"max_tokens": most, "messages": messages}
    result.update({name: body[name] for name in _SAME if body.get(name) is not None})
    if body.get("temperature") is not None:
        result["temperature"] = min(1, body["temperature"])
    if body.get("stop"):
        result["stop_sequences"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    if body.get("tools"):
        result["tools"] = [_tool(tool) for tool in body["tools"]]
        result.update(_choice(body.get("tool_choice"), parallel=body.get("parallel_tool_calls") is not False))
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = {"type": "json_schema", "schema": wanted["json_schema"]["schema"]}
        result["output_config"] = {"format": schema}
    elif wanted.get("type") == "json_object":
        system.append(_JSON_ONLY)
    if any(system):
        result["system"] = [{"type": "text", "text": text} for text in system if text]
    return result


def _turns(messages: Iterator[Part]) -> list[Part]:
    """Messages by turns: what follows in the same role, as the results of several tools do, is one message."""
    turns: list[Part] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        blocks = list(_blocks(message))
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Part) -> Iterator[Part]:
    role, content = message["role"], message.get("content")
    if role == "tool":
        result: Part = {"type": "tool_result", "tool_use_id": _id(message["tool_call_id"])}
        yield {**result, "content": text_of(content)}
        return
    if role not in ("user", "assistant"):
        raise UntranslatableError(f"the role {role}")
    parts = [{"type": "text", "text": content or ""}] if content is None or isinstance(content, str) else content
    for part in parts:
        # Anthropic refuses blocks without text.
        if part["type"] != "text" or part["text"]:
            yield _block(part)
    for call in message.get("tool_calls") or ():
        arguments = arguments_text(call["function"].get("arguments"))
        try:
            given = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise UntranslatableError("a tool call whose arguments are no JSON object")
        yield {"type": "tool_use", "id": _id(call["id"]), "name": call["function"]["name"], "input": given}


def _block(part: Part) -> Part:
    kind = part["type"]
    if kind in ("text", "refusal"):
        return {"type": "text", "text": part[kind]}
    if kind == "image_url":
        image = part["image_url"]
        url = image if isinstance(image, str) else image["url"]
        return {"type": "image", "source": _source(url)}
    if kind == "file" and part["file"].get("file_data"):
        return {"type": "document", "source": _source(part["file"]["file_data"])}
    raise UntranslatableError(f"content of type {kind}")


def _source(url: str) -> Part:
    inline = split_data_url(url)
    if inline is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": inline[0], "data": inline[1]}


def _id(call_id: str) -> str:
    """Anthropic takes only some letters in ids, other providers make others."""
    return _NOT_IN_IDS.sub("_", call_id) or "_"


def _tool(tool: Part) -> Part:
    if tool["type"] != "function":
        raise UntranslatableError(f"the tool {tool['type']}")
    function = tool["function"]
    result = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}}
    result.update({name: function[name] for name in ("description", "strict") if function.get(name) is not None})
    return result


def _choice(choice: Any, *, parallel: bool) -> Part:
    kinds = {"auto": "auto", "required": "any", "none": "none"}
    result: Part | None = None
    if isinstance(choice, dict):
        result = {"type": "tool", "name": choice["function"]["name"]}
    elif choice is not None:
        result = {"type": kinds[choice]}
    if not parallel and (result is None or result["type"] != "none"):
        result = {**(result or {"type": "auto"}), "disable_parallel_tool_use": True}
    return {} if result is None else {"tool_choice": result}


class ChatAsMessages(Translated):
    """Answers of Messages as chat completions."""

    def __init__(self, ask: Ask, inner: Adapted) -> None:
        super().__init__(inner)
        self._wants_usage = ask.wants_usage
        self._head: Part = {}
        self._usage: Part = {}
        # The number among the calls of the block that is open.
        self._calls: dict[int, int] = {}
        self._silent: set[int] = set()
        self._reason = ""
        self._over = False

    def written(self, part: Part) -> bytes:
        """A chunk."""
        return data_event(part)

    def _answer(self, parsed: Part) -> Part:
        said = "".join(block["text"] for block in parsed["content"] if block["type"] == "text")
        message: Part = {"role": "assistant", "content": said or None}
        calls = [block for block in parsed["content"] if block["type"] == "tool_use"]
        if calls:
            message["tool_calls"] = [
                {
                    "id": block["id"], "type": "function",
                    "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
                }
                for block in calls
            ]  # fmt: skip
        elif not said:
            message["content"] = ""
        reason = _REASONS.get(parsed.get("stop_reason") or "", "stop")
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        head = {"id": new_id("chatcmpl"), "object": "chat.completion", "created": int(time.time())}
        return {
            **head, "model": parsed.get("model") or "", "choices": [choice], "usage": _usage(parsed.get("usage") or {})
        }  # fmt: skip

    def _part(self, part: Part) -> Iterator[Part]:
        kind = part["type"]
        if kind == "message_start":
            message = part["message"]
            self._usage.update(message.get("usage") or {})
            self._begin(message.get("model") or "")
            yield self._chunk({"role": "assistant", "content": ""})
        elif kind == "content_block_start" and part["content_block"]["type"] == "tool_use":
            block, number = part["content_block"], len(self._calls)
            self._calls[part["index"]] = number
            given = json.dumps(block["input"]) if block.get("input") else ""
            if not given:
                self._silent.add(part["index"])
            function = {"name": block["name"], "arguments": given}
            call = {"index": number, "id": block["id"], "type": "function", "function": function}
            yield self._chunk({"tool_calls": [call]})
        elif kind == "content_block_start" and part["content_block"].get("text"):
            yield self._chunk({"content": part["content_block"]["text"]})
        elif kind == "content_block_delta":
            yield from self._delta(part["index"], part["delta"])
        elif kind == "content_block_stop" and part["index"] in self._silent:
            # A call without arguments has an empty object of them here.
            yield from self._arguments(part["index"], "{}")
        elif kind == "message_delta":
            self._usage.update({name: n for name, n in (part.get("usage") or {}).items() if n is not None})
            reason = part["delta"].get("stop_reason")
            if reason:
                self._reason = reason
                yield self._chunk({}, _REASONS.get(reason, "stop"))
        elif kind == "message_stop":
            yield from self._finish()

    def _delta(self, index: int, delta: Part) -> Iterator[Part]:
        if delta["type"] == "text_delta":
            yield self._chunk({"content": delta["text"]})
        elif delta["type"] == "input_json_delta" and index in self._calls:
            if delta["partial_json"]:
                yield from self._arguments(index, delta["partial_json"])
        elif delta["type"] == "thinking_delta" and self.is_long_quiet():
            yield self._chunk({"content": ""})

    def _arguments(self, index: int, text: str) -> Iterator[Part]:
        self._silent.discard(index)
        yield self._chunk({"tool_calls": [{"index": self._calls[index], "function": {"arguments": text}}]})

    def _finish(self) -> Iterator[Part]:
        if self._over:
            return
        self._over = True
        if not self._reason:
            yield self._chunk({}, "stop")
        if self._wants_usage:
            yield {**self._chunk({}), "choices": [], "usage": _usage(self._usage)}
        yield DONE

    def _begin(self, model: str) -> None:
        head = {"id": new_id("chatcmpl"), "object": "chat.completion.chunk", "created": int(time.time())}
        self._head = {**head, "model": model}

    def _chunk(self, delta: Part, reason: str | None = None) -> Part:
        if not self._head:
            self._begin("")
        return {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def _usage(usage: Mapping[str, Any]) -> Part:
    """Tokens as OpenAI counts them: all of the input, and how many of it came from a cache."""
    cached = usage.get("cache_read_input_tokens") or 0
    into = (usage.get("input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0) + cached
    out = usage.get("output_tokens") or 0
    return {
        "prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip
