# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams of server-sent events: relayed whole event by whole event, so that a cut one never looks like an end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from nhi_services.router.asks import tokens_of
from nhi_services.router.fast_json import loads

_MOST_BYTES: Final = 8 * 1024 * 1024
_WORTH_A_LOOK: Final = (
    b'"usage"',
    b"[DONE]",
    b'"error"',
    b"finish_reason",
    b"message_stop",
    b"stop_reason",
    b"event: error",
)


class GarbageError(Exception):
    """What comes is no stream of events."""


class EventSplitter:
    """Cuts a stream of bytes into whole events, each with its blank line; comments count as events of their own."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Events that are complete now; GarbageError for one without an end."""
        data = self._rest + data
        if b"\r" in data:
            # A carriage return at the end may be half of a line's end.
            held = data.endswith(b"\r")
            data = data[: -1 if held else None].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + (b"\r" if held else b"")
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > _MOST_BYTES:
            raise GarbageError("an event has no end")
        return [event + b"\n\n" for event in events if event.strip(b"\n")]

    @property
    def is_torn(self) -> bool:
        """Whether the stream ended in the middle of an event."""
        return bool(self._rest.strip())


def data_of(event: bytes) -> bytes | None:
    """The data of an event; None for a comment."""
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


@dataclass
class StreamWatch:
    """What a stream of the OpenAI or Anthropic form has told so far, event by event."""

    keep_usage: bool = True
    is_done: bool = False
    has_content: bool = False
    error: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    has_usage: bool = False
    events: int = 0
    is_finished: bool = False
    collect: bool = False
    text: list[str] = field(default_factory=list)
    has_calls: bool = False

    @property
    def fault(self) -> str:
        """Why the stream, now that it has ended, is no whole answer; empty where it is one."""
        if self.error:
            return self.error
        if not self.has_content:
            return "its stream was empty"
        return "" if self.is_done or self.is_finished else "its stream was cut"

    def see(self, event: bytes) -> bytes | None:
        """Look at an event and return what the client is to get of it; None for nothing."""
        data = data_of(event)
        if data is None:
            return None
        self.events += 1
        if self.has_content and not self.collect and not any(word in event for word in _WORTH_A_LOOK):
            return event
        if data == b"[DONE]":
            self.is_done = True
            return event
        try:
            part = loads(data)
        except ValueError:
            self.error = "it sent an event that is not JSON"
            return None
        return event if self._understand(part) else None

    def _understand(self, part: Any) -> bool:
        """Whether the client is to see the event."""
        if not isinstance(part, dict):
            self.error = "it sent an event that is no object"
            return False
        if part.get("error") or part.get("type") == "error":
            self.error = "it sent an error in its stream"
            return False
        self._count(part)
        kind = part.get("type")
        self._read_message(kind, part.get("delta"))
        self._read_choices(part.get("choices"))
        if part.get("choices") or kind in ("content_block_start", "content_block_delta", "message_start"):
            self.has_content = True
            return True
        only_usage = part.get("choices") == [] and part.get("usage") is not None
        return self.keep_usage or not only_usage

    def _read_choices(self, choices: Any) -> None:
        """Whether the model came to its end, and its text where that is wanted."""
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            self.is_finished = self.is_finished or bool(choice.get("finish_reason"))
            if self.collect:
                self._collect(choice)

    def _collect(self, choice: dict[str, Any]) -> None:
        """The text of a chat or a completion, and whether there is more than text."""
        delta = choice.get("delta")
        said = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        if isinstance(said, str):
            self.text.append(said)
        if isinstance(delta, dict) and (delta.get("tool_calls") or delta.get("function_call")):
            self.has_calls = True

    def _read_message(self, kind: Any, delta: Any) -> None:
        """The same of a stream of the Anthropic form."""
        self.is_done = self.is_done or kind == "message_stop"
        if kind == "message_delta" and isinstance(delta, dict):
            self.is_finished = self.is_finished or bool(delta.get("stop_reason"))
        elif self.collect and kind == "content_block_delta" and isinstance(delta, dict):
            self.text.append(str(delta.get("text") or ""))

    def _count(self, part: dict[str, Any]) -> None:
        message = part.get("message")
        for usage in (part.get("usage"), message.get("usage") if isinstance(message, dict) else None):
            tokens = tokens_of(usage)
            if tokens is not None:
                self.has_usage = True
                self.input_tokens = max(self.input_tokens, tokens[0])
                self.output_tokens = max(self.output_tokens, tokens[1])


def events_in(data: bytes) -> Iterator[bytes]:
    """All whole events in a block, for tests and tools."""
    yield from EventSplitter().feed(data)
