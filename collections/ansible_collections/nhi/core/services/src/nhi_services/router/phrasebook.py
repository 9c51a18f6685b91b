# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools and input of the OpenAI Responses form in the words of chat completions.

Nothing is kept from one request to the next, so the whole conversation has to come each time. Reasoning items and the
wished effort have no equivalent that all providers know; they stay here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from nhi_services.router.adapted import Part, UntranslatableError, arguments_text, text_of

_SAME: Final = ("temperature", "top_p", "stream", "parallel_tool_calls")
_FREE_TEXT: Final = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
_SEPARATOR: Final = "__"


@dataclass(frozen=True)
class Tool:
    """What a function of the chat form is in the Responses form."""

    name: str
    is_custom: bool = False
    namespace: str = ""


@dataclass
class Phrasebook:
    """How one request's tools are called on either side."""

    names: dict[str, Tool] = field(default_factory=dict)
    functions: list[Part] = field(default_factory=list)
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Phrasebook:
        """From a request's tools; those that OpenAI runs itself exist nowhere else, so they are left out."""
        book, left_out = cls(), []
        try:
            for tool in body.get("tools") or ():
                if not book._add(tool, ""):
                    left_out.append(f"the tool {tool['type']}")
        except (KeyError, TypeError, AttributeError) as error:
            raise UntranslatableError(f"a tool with a field that is missing or wrong ({error})") from error
        book.left_out = tuple(left_out)
        return book

    def _add(self, tool: Part, namespace: str) -> bool:
        kind = tool["type"]
        if kind == "namespace":
            added = [self._add(one, tool["name"]) for one in tool["tools"]]
            return all(added)
        if kind not in ("function", "custom"):
            return False
        name = f"{namespace}{_SEPARATOR}{tool['name']}" if namespace else tool["name"]
        self.names[name] = Tool(tool["name"], kind == "custom", namespace)
        function: Part = {"name": name}
        described = tool.get("description") or ""
        if kind == "custom":
            grammar = tool.get("format") or {}
            if grammar.get("type") == "grammar":
                described += f"\n\nThe input must follow this {grammar['syntax']} grammar:\n{grammar['definition']}"
            function["parameters"] = _FREE_TEXT
        else:
            function["parameters"] = tool.get("parameters") or {"type": "object", "properties": {}}
            if tool.get("strict") is not None:
                function["strict"] = tool["strict"]
        if described:
            function["description"] = described
        self.functions.append({"type": "function", "function": function})
        return True

    def chat_name(self, item: Part) -> str:
        """The name of the function that a call in the conversation was of."""
        namespace = item.get("namespace")
        return f"{namespace}{_SEPARATOR}{item['name']}" if namespace else str(item["name"])

    def chat_body(self, body: Mapping[str, Any], output_limit: str) -> dict[str, Any]:
        """The request as a chat completion; UntranslatableError for what can not be said there."""
        try:
            return self._chat_body(body, output_limit)
        except (KeyError, TypeError, AttributeError) as error:
            raise UntranslatableError(f"a field that is missing or of the wrong type ({error})") from error

    def _chat_body(self, body: Mapping[str, Any], output_limit: str) -> dict[str, Any]:
        messages: list[Part] = []
        if body.get("instructions"):
            messages.append({"role": "system", "content": body["instructions"]})
        if isinstance(body["input"], str):
            messages.append({"role": "user", "content": body["input"]})
        else:
            for item in body["input"]:
                self._add_item(messages, item)
        result: dict[str, Any] = {"messages": messages}
        result.update({name: body[name] for name in _SAME if body.get(name) is not None})
        if body.get("max_output_tokens") is not None:
            result[output_limit] = body["max_output_tokens"]
        if self.functions:
            result.update(self._choice(body.get("tool_choice")))
        else:
            result.pop("parallel_tool_calls", None)
        wanted = (body.get("text") or {}).get("format") or {}
        if wanted.get("type") == "json_schema":
            schema = {name: wanted[name] for name in ("name", "schema", "strict", "description") if name in wanted}
            result["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif wanted.get("type") == "json_object":
            result["response_format"] = {"type": "json_object"}
        return result

    def _choice(self, choice: Any) -> Part:
        if choice is None or isinstance(choice, str):
            return {"tools": self.functions} if choice is None else {"tools": self.functions, "tool_choice": choice}
        kind = choice["type"]
        if kind == "allowed_tools":
            allowed = {self.chat_name(tool) for tool in choice["tools"] if "name" in tool}
            tools = [tool for tool in self.functions if tool["function"]["name"] in allowed]
            return {"tools": tools, "tool_choice": choice["mode"]} if tools else {}
        if kind not in ("function", "custom"):
            raise UntranslatableError(f"the tool {kind}, which is demanded")
        return {
            "tools": self.functions, "tool_choice": {"type": "function", "function": {"name": self.chat_name(choice)}}
        }  # fmt: skip

    def _add_item(self, messages: list[Part], item: Part) -> None:
        """Add one item; calls belong to the assistant's message before them."""
        kind = item.get("type") or "message"
        if kind == "message":
            role = "system" if item["role"] in ("system", "developer") else item["role"]
            content = _content(item["content"])
            if role == "assistant" and messages and messages[-1].get("tool_calls"):
                # What was said after the calls: nothing may stand between those and their results.
                messages[-1]["content"] = "\n\n".join(
                    filter(None, (text_of(messages[-1]["content"]), text_of(content)))
                )
            else:
                messages.append({"role": role, "content": content})
        elif kind in ("function_call", "custom_tool_call"):
            given = arguments_text(item.get("arguments")) if kind == "function_call" else _free_text(item["input"])
            function = {"name": self.chat_name(item), "arguments": given}
            call = {"id": item["call_id"], "type": "function", "function": function}
            if not (messages and messages[-1]["role"] == "assistant"):
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            _add_output(messages, item)
        elif kind != "reasoning":
            raise UntranslatableError(f"an item of type {kind}")

    def item_of(self, item_id: str, call_id: str, name: str, arguments: str) -> Part:
        """A call of the model as an item."""
        tool = self.names.get(name) or Tool(name)
        item: Part = {"id": item_id, "call_id": call_id, "name": tool.name, "status": "completed"}
        if tool.namespace:
            item["namespace"] = tool.namespace
        if tool.is_custom:
            return {**item, "type": "custom_tool_call", "input": _input_of(arguments)}
        return {**item, "type": "function_call", "arguments": arguments or "{}"}

    def is_custom(self, name: str) -> bool:
        """Whether the tool takes a free text."""
        return name in self.names and self.names[name].is_custom


def _add_output(messages: list[Part], item: Part) -> None:
    """A result is a message; images in it come after all results, as tools' messages have only text."""
    content = _content(item["output"])
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
    message = {"role": "tool", "tool_call_id": item["call_id"], "content": text}
    pictures = [part for part in parts if part["type"] != "text"]
    if messages and messages[-1].get("role") == "user" and len(messages) > 1 and messages[-2]["role"] == "tool":
        messages.insert(-1, message)
        if not pictures:
            return
        shown = messages[-1]["content"]
        messages[-1]["content"] = [{"type": "text", "text": shown}] if isinstance(shown, str) else shown
        messages[-1]["content"].extend(pictures)
        return
    messages.append(message)
    if pictures:
        messages.append({"role": "user", "content": pictures})


def _content(content: Any) -> str | list[Part]:
    if isinstance(content, str):
        return content
    parts = list(_parts(content))
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _parts(content: list[Part]) -> Iterator[Part]:
    for part in content:
        kind = part["type"]
        if kind in ("input_text", "output_text", "text"):
            yield {"type": "text", "text": part["text"]}
        elif kind == "refusal":
            yield {"type": "text", "text": part["refusal"]}
        elif kind == "input_image" and part.get("image_url"):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            yield {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        elif kind == "input_file" and part.get("file_data"):
            yield {"type": "file", "file": {"filename": part.get("filename") or "file", "file_data": part["file_data"]}}
        else:
            raise UntranslatableError(f"content of type {kind} that is kept elsewhere")


def _free_text(text: str) -> str:
    return json.dumps({"input": text})


def _input_of(arguments: str) -> str:
    """The free text in a call's arguments; a model that forgot to wrap it has said it all the same."""
    try:
        given = json.loads(arguments)
    except ValueError:
        return arguments
    text = given.get("input") if isinstance(given, dict) else None
    return text if isinstance(text, str) else arguments
