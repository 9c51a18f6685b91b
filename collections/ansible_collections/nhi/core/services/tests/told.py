# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers told in each form, and read again with every rule of that form checked: for tests of the translators."""

from __future__ import annotations

import json
from typing import Any

from nhi_services.router.streams import EventSplitter, data_of

Part = dict[str, Any]
# What a model says, in its order: ("text", TEXT) or ("call", ID, NAME, ARGUMENTS).
Said = tuple[Any, ...]


def parts_of(stream: bytes) -> list[Part]:
    """Events of a stream; [DONE] is {}. The name of an event must be its type."""
    parts = []
    for event in EventSplitter().feed(stream):
        data = data_of(event)
        if data is None:
            continue
        part = {} if data == b"[DONE]" else json.loads(data)
        if event.startswith(b"event: "):
            assert event.split(b"\n")[0] == b"event: " + part["type"].encode()
        parts.append(part)
    return parts


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def chat_stream(said: list[Said], size: int, usage: tuple[int, int] | None = (10, 5), reason: str = "") -> list[bytes]:
    """As a provider of the OpenAI form tells it."""
    deltas: list[Part] = [{"role": "assistant", "content": ""}]
    calls = 0
    for one in said:
        if one[0] == "text":
            deltas += [{"content": piece} for piece in pieces(one[1], size)]
            continue
        head: Part = {"index": calls, "id": one[1], "type": "function", "function": {"name": one[2], "arguments": ""}}
        deltas.append({"tool_calls": [head]})
        deltas += [
            {"tool_calls": [{"index": calls, "function": {"arguments": piece}}]}
            for piece in pieces(json.dumps(one[3]), size)
        ]
        calls += 1
    base: Part = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m"}
    chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    last = reason or ("tool_calls" if calls else "stop")
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": last}]})
    if usage:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        chunks.append({**base, "choices": [], "usage": counts})
    return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def chat_whole(said: list[Said], reason: str = "") -> Part:
    text = "".join(one[1] for one in said if one[0] == "text")
    calls = [
        {"id": one[1], "type": "function", "function": {"name": one[2], "arguments": json.dumps(one[3])}}
        for one in said
        if one[0] == "call"
    ]
    message: Part = {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "finish_reason": reason or ("tool_calls" if calls else "stop"), "message": message}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def messages_stream(said: list[Said], size: int, usage: tuple[int, int] = (10, 5), reason: str = "") -> list[bytes]:
    """As Anthropic tells it."""
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    start = {**head, "stop_reason": None, "usage": {"input_tokens": usage[0], "output_tokens": 1}}
    parts: list[Part] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, one in enumerate(said):
        if one[0] == "text":
            block: Part = {"type": "text", "text": ""}
            deltas: list[Part] = [{"type": "text_delta", "text": piece} for piece in pieces(one[1], size)]
        else:
            block = {"type": "tool_use", "id": one[1], "name": one[2], "input": {}}
            texts = ["", *pieces(json.dumps(one[3]), size)] if one[3] else [""]
            deltas = [{"type": "input_json_delta", "partial_json": text} for text in texts]
        parts.append({"type": "content_block_start", "index": index, "content_block": block})
        parts += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        parts.append({"type": "content_block_stop", "index": index})
    last = reason or ("tool_use" if any(one[0] == "call" for one in said) else "end_turn")
    delta = {"stop_reason": last, "stop_sequence": None}
    parts.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": usage[1]}})
    parts.append({"type": "message_stop"})
    return [f"event: {part['type']}\ndata: {json.dumps(part)}\n\n".encode() for part in parts]


def messages_whole(said: list[Said], reason: str = "") -> Part:
    content = [
        {"type": "text", "text": one[1]}
        if one[0] == "text"
        else {"type": "tool_use", "id": one[1], "name": one[2], "input": one[3]}
        for one in said
    ]
    last = reason or ("tool_use" if any(one[0] == "call" for one in said) else "end_turn")
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
    return {**head, "content": content, "stop_reason": last, "usage": {"input_tokens": 10, "output_tokens": 5}}


def read_chat(stream: bytes) -> tuple[list[Said], Part]:
    """What a stream of chat completions says, and its usage and reason."""
    *chunks, last = parts_of(stream)
    assert last == {}, "it must end with [DONE]"
    text: list[str] = []
    calls: dict[int, list[str]] = {}
    told: Part = {}
    for chunk in chunks:
        assert "error" not in chunk
        told.update({"usage": chunk["usage"]} if chunk.get("usage") else {})
        for choice in chunk["choices"]:
            assert "reason" not in told, "nothing comes after the end"
            text.append(choice["delta"].get("content") or "")
            for call in choice["delta"].get("tool_calls") or ():
                if call["index"] not in calls:
                    assert call["index"] == len(calls)
                    calls[call["index"]] = [call["id"], call["function"]["name"], ""]
                calls[call["index"]][2] += call["function"]["arguments"]
            told.update({"reason": choice["finish_reason"]} if choice["finish_reason"] else {})
    return merged([("text", "".join(text)), *(("call", c[0], c[1], json.loads(c[2])) for c in calls.values())]), told


def read_messages(stream: bytes) -> tuple[list[Said], Part]:
    """The same of a stream of the Anthropic form."""
    parts = parts_of(stream)
    assert [part["type"] for part in parts[:1] + parts[-2:]] == ["message_start", "message_delta", "message_stop"]
    blocks: list[list[Any]] = []
    is_open = False
    for part in parts[1:-2]:
        if part["type"] == "ping":
            continue
        if part["type"] == "content_block_start":
            assert not is_open
            assert part["index"] == len(blocks)
            is_open = True
            block = part["content_block"]
            blocks.append(["text", ""] if block["type"] == "text" else ["call", block["id"], block["name"], ""])
            continue
        assert is_open
        assert part["index"] == len(blocks) - 1
        if part["type"] == "content_block_stop":
            is_open = False
        else:
            assert part["type"] == "content_block_delta"
            kind = "text" if blocks[-1][0] == "text" else "partial_json"
            blocks[-1][-1] += part["delta"][kind]
    assert not is_open
    said = [("text", b[1]) if b[0] == "text" else ("call", b[1], b[2], json.loads(b[3] or "{}")) for b in blocks]
    start = parts[0]["message"]["usage"]
    return said, {"usage": {**start, **parts[-2]["usage"]}, "reason": parts[-2]["delta"]["stop_reason"]}


def read_responses(stream: bytes) -> tuple[list[Said], Part]:
    """The same of a stream of the Responses form."""
    parts = parts_of(stream)
    assert [part["sequence_number"] for part in parts] == list(range(len(parts)))
    assert [part["type"] for part in parts[:2]] == ["response.created", "response.in_progress"]
    response = parts[-1]["response"]
    assert parts[-1]["type"] == f"response.{response['status']}"
    added: dict[int, Part] = {}
    done: dict[int, Part] = {}
    texts: dict[int, str] = {}
    for part in parts[2:-1]:
        kind = part["type"].removeprefix("response.")
        if kind == "in_progress":
            continue
        at = part["output_index"]
        if kind == "output_item.added":
            assert at == len(added)
            added[at], texts[at] = part["item"], ""
            continue
        item = added[at]
        if kind == "output_item.done":
            assert at not in done
            assert part["item"]["id"] == item["id"]
            done[at] = part["item"]
            continue
        assert part["item_id"] == item["id"]
        if kind.endswith(".delta"):
            assert at not in done
            texts[at] += part["delta"]
        elif kind in ("output_text.done", "function_call_arguments.done", "custom_tool_call_input.done"):
            assert (part.get("text") or part.get("arguments") or part.get("input") or "") == texts[at]
    assert response["output"] == [done[at] for at in range(len(added))]
    return said_in(response), {"usage": response["usage"], "reason": response["status"]}


def said_in(response: Part) -> list[Said]:
    """What a whole response says."""
    said: list[Said] = []
    for item in response["output"]:
        if item["type"] == "message":
            said += [("text", part["text"]) for part in item["content"]]
        elif item["type"] == "function_call":
            said.append(("call", item["call_id"], item["name"], json.loads(item["arguments"])))
        else:
            said.append(("call", item["call_id"], item["name"], {"input": item["input"]}))
    return said


def merged(said: list[Said]) -> list[Said]:
    """All text first and as one, as the chat form has it; without what is empty."""
    text = "".join(one[1] for one in said if one[0] == "text")
    return [*([("text", text)] if text else []), *(one for one in said if one[0] == "call")]
