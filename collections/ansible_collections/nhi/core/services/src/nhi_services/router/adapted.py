# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all ways have in common in which a request is put to a provider and its answer is brought back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nhi_services.router.api_errors import ApiError, anthropic_body
from nhi_services.router.asks import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, PATHS
from nhi_services.router.fast_json import dumps, loads
from nhi_services.router.streams import GarbageError, data_of
from nhi_services.router.upstream import UpstreamError

Part = dict[str, Any]
# Stands for the [DONE] that ends a stream of the OpenAI form.
DONE: Final[Part] = {"type": "[DONE]"}
_MESSAGE_STOP: Final[Part] = {"type": "message_stop"}
# While a model thinks, its client hears at least something once in so many parts.
_QUIET_PARTS: Final = 32
_ODD: Final = (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError)
# Where an answer of each form has what it says.
_ANSWERS: Final = {CHAT: "choices", COMPLETIONS: "choices", EMBEDDINGS: "data", MESSAGES: "content"}
_NO_ANSWER: Final = "its answer is not of the form that it should have"


class UntranslatableError(Exception):
    """A request has something that there is no word for in the provider's dialect; ``what`` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Adapted:
    """A request as the provider gets it; answers come back as they are.

    ``left_out`` names what the provider is not told of, though the answer may be worse for it.
    """

    left_out: tuple[str, ...] = ()

    def __init__(self, form: str, body: dict[str, Any]) -> None:
        self.form = form
        self.path = PATHS[form]
        self.body = body

    def whole(self, raw: bytes, parsed: Part) -> bytes:
        """A whole answer, as whoever asked understands it; UpstreamError for one that makes no sense."""
        if not isinstance(parsed.get(_ANSWERS[self.form]), list):
            raise UpstreamError(_NO_ANSWER, sent=True)
        return raw

    def event(self, event: bytes) -> bytes:
        """One event of a stream; GarbageError for one that makes no sense."""
        return event

    def end(self) -> bytes:
        """What ends a stream that the provider ended without a word."""
        return named_event(_MESSAGE_STOP) if self.form == MESSAGES else data_event(DONE)

    def failed(self, error: ApiError) -> bytes:
        """What ends a stream that can not be brought to its end."""
        return anthropic_failure(error) if self.form == MESSAGES else openai_failure(error)

    def refusal(self, _status: int, body: bytes, content_type: str) -> tuple[bytes, str]:
        """What a provider says of a request that it finds wrong, and the type of that."""
        return body, content_type


class Translated(Adapted):
    """A request of one form in another; ``inner`` is the same request, put to the provider."""

    def __init__(self, inner: Adapted) -> None:
        super().__init__(inner.form, inner.body)
        self._inner = inner
        self.left_out = inner.left_out
        self._quiet = 0

    def answer(self, parsed: Part) -> Part:
        """A whole answer of the provider in the form of whoever asked."""
        return self._answer(self._inner.answer(parsed) if isinstance(self._inner, Translated) else parsed)

    def parts(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Parts of a stream of the provider in the form of whoever asked."""
        for part in self._inner.parts(parts) if isinstance(self._inner, Translated) else parts:
            yield from self._part(part)

    def _answer(self, parsed: Part) -> Part:
        raise NotImplementedError

    def _part(self, part: Part) -> Iterator[Part]:
        raise NotImplementedError

    def written(self, part: Part) -> bytes:
        """A part as an event."""
        return named_event(part)

    def whole(self, _raw: bytes, parsed: Part) -> bytes:
        """A whole answer, translated."""
        try:
            return compact(self.answer(parsed))
        except _ODD as error:
            raise UpstreamError(_NO_ANSWER, sent=True) from error

    def event(self, event: bytes) -> bytes:
        """One event, translated; it may become none, or several."""
        data = data_of(event)
        if data is None:
            return event
        try:
            part = DONE if data == b"[DONE]" else loads(data)
            return b"".join(self.written(one) for one in self.parts([part]))
        except _ODD as error:
            raise GarbageError("an event is not of the form that it should have") from error

    def end(self) -> bytes:
        """The end in the form of whoever asked."""
        last = _MESSAGE_STOP if self.form == MESSAGES else DONE
        return b"".join(self.written(one) for one in self.parts([last]))

    def failed(self, error: ApiError) -> bytes:
        """An error of the OpenAI form."""
        return openai_failure(error)

    def refusal(self, status: int, body: bytes, _content_type: str) -> tuple[bytes, str]:
        """The same words in the shape that whoever asked knows."""
        error = ApiError(status, words_of_refusal(body), code="refused_by_provider")
        return compact(self.told(error)), "application/json"

    def told(self, error: ApiError) -> Part:
        """The shape of errors of whoever asked."""
        return error.body()

    def is_long_quiet(self) -> bool:
        """Whether it is time for a sign of life, as the parts have nothing for whoever asked."""
        self._quiet = (self._quiet + 1) % _QUIET_PARTS
        return self._quiet == 0


class FromChat(Translated):
    """Answers of chat completions in another form; how that begins, goes on and ends is its own."""

    def __init__(self, inner: Adapted) -> None:
        super().__init__(inner)
        self._begun = False
        self._usage: Part | None = None
        self._reason = ""

    def _opening(self, model: str) -> Iterator[Part]:
        self._begun = True
        yield from self._begin(model)

    def _part(self, part: Part) -> Iterator[Part]:
        if not self._begun:
            yield from self._opening(part.get("model") or "")
        if part is DONE:
            yield from self._finish()
            return
        if isinstance(part.get("usage"), dict):
            self._usage = part["usage"]
        choices = [choice for choice in part.get("choices") or () if not choice.get("index")]
        spoke = False
        for choice in choices:
            for said in self._delta(choice.get("delta") or {}):
                spoke = True
                yield said
            self._reason = choice.get("finish_reason") or self._reason
        if choices and not spoke and self.is_long_quiet():
            yield self._alive()

    def _begin(self, model: str) -> Iterator[Part]:
        raise NotImplementedError

    def _delta(self, delta: Part) -> Iterator[Part]:
        raise NotImplementedError

    def _finish(self) -> Iterator[Part]:
        raise NotImplementedError

    def _alive(self) -> Part:
        """What is sent while the model thinks."""
        raise NotImplementedError


@dataclass(frozen=True)
class Fragment:
    """A piece of a tool call in a stream; ``number`` counts the calls, ``is_new`` is true for a call's first piece."""

    number: int
    is_new: bool
    call_id: str
    name: str
    arguments: str


class CallReader:
    """Reads tool calls from the chunks of a stream of the OpenAI form.

    Providers differ: some leave out the index, some use index 0 for each call, some repeat a call's id.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, str]] = {}
        self._count = 0

    def read(self, delta: Mapping[str, Any]) -> Iterator[Fragment]:
        """The pieces in one chunk."""
        for place, entry in enumerate(delta.get("tool_calls") or ()):
            given = entry.get("index")
            index = place if given is None else given
            call_id, function = entry.get("id") or "", entry.get("function") or {}
            known = self._known.get(index)
            is_new = known is None or bool(call_id and known[1] and call_id != known[1])
            if known is None or is_new:
                known = self._known[index] = (self._count, call_id or new_id("call"))
                self._count += 1
            yield Fragment(
                known[0], is_new, known[1], function.get("name") or "", arguments_text(function.get("arguments"))
            )


def arguments_text(arguments: Any) -> str:
    """Arguments of a call as the text that they should be."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def text_of(content: Any) -> str:
    """The text in the content of a message of the OpenAI form: a text, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content if part.get("type", "text") == "text")


def split_data_url(url: str) -> tuple[str, str] | None:
    """Type and base64 of a data URL; None for another URL."""
    if not url.startswith("data:"):
        return None
    head, _comma, data = url[5:].partition(",")
    kind, _semicolon, coding = head.partition(";")
    if not coding.endswith("base64"):
        raise UntranslatableError("a data URL that is not base64")
    return kind, data


def words_of_refusal(body: bytes) -> str:
    """The message in an error of the OpenAI or Anthropic form."""
    try:
        error = json.loads(body)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except _ODD:
        message = None
    return message if isinstance(message, str) and message else "The provider refuses the request."


def new_id(prefix: str) -> str:
    """An identifier that there is once."""
    return f"{prefix}_{uuid.uuid4().hex}"


def compact(data: Any) -> bytes:
    """JSON without blanks."""
    return dumps(data)


def data_event(part: Part) -> bytes:
    """An event as chat completions have them."""
    return b"data: [DONE]\n\n" if part is DONE else b"data: " + compact(part) + b"\n\n"


def named_event(part: Part) -> bytes:
    """An event with its type as name, as the Messages and Responses APIs have them."""
    return b"event: " + str(part["type"]).encode() + b"\ndata: " + compact(part) + b"\n\n"


def openai_failure(error: ApiError) -> bytes:
    """The event that ends a stream of the OpenAI form before its end."""
    return data_event(error.body())


def anthropic_failure(error: ApiError) -> bytes:
    """The event that ends a stream of the Anthropic form before its end."""
    return named_event(anthropic_body(error))
