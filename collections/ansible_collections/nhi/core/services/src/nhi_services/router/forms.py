# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a request in one form is put to a provider that speaks another, and its answer brought back.

Chat completions are what all forms can be said in; a provider that speaks another dialect gets them translated again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from nhi_services.router.adapted import Adapted, UntranslatableError, anthropic_failure, openai_failure
from nhi_services.router.api_errors import ApiError
from nhi_services.router.asks import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, Ask
from nhi_services.router.chat_as_messages import ChatAsMessages, messages_body
from nhi_services.router.config import ModelConfig, ProviderConfig
from nhi_services.router.messages_as_chat import MessagesAsChat, chat_body
from nhi_services.router.phrasebook import Phrasebook
from nhi_services.router.responses_as_chat import ResponsesAsChat, failed_at_once

_OUTPUT_LIMITS: Final = ("max_completion_tokens", "max_tokens")
# Anthropic's least budget for thinking.
_LEAST_THINKING: Final = 1024


def adapt(ask: Ask, provider: ProviderConfig, model: ModelConfig) -> Adapted:
    """The request for a model of a provider; UntranslatableError where the provider has no words for it."""
    if ask.form == RESPONSES:
        book = Phrasebook.of(ask.body)
        inner = adapt(replace(ask, form=CHAT, body=book.chat_body(ask.body, provider.output_limit)), provider, model)
        return ResponsesAsChat(ask, book, inner)
    if ask.form == MESSAGES and provider.dialect == "openai":
        inner = adapt(replace(ask, form=CHAT, body=chat_body(ask.body, provider.output_limit)), provider, model)
        return MessagesAsChat(ask, inner)
    if ask.form == CHAT and provider.dialect == "anthropic":
        inner = adapt(replace(ask, form=MESSAGES, body=messages_body(ask.body, model.max_output)), provider, model)
        return ChatAsMessages(ask, inner)
    if ask.form in (COMPLETIONS, EMBEDDINGS) and provider.dialect == "anthropic":
        raise UntranslatableError(f"{ask.form}, which Anthropic's API does not have")
    return _as_it_is(ask, provider, model)


def _as_it_is(ask: Ask, provider: ProviderConfig, model: ModelConfig) -> Adapted:
    """With the model's name there, and no more output than it can give."""
    body = {**ask.body, "model": model.upstream}
    for name in _OUTPUT_LIMITS:
        if isinstance(body.get(name), int) and body[name] > model.max_output:
            body[name] = model.max_output
            _leave_room_to_answer(body, model.max_output)
    if ask.stream and ask.form in (CHAT, COMPLETIONS) and provider.stream_usage:
        options = body.get("stream_options")
        if not isinstance(options, dict) or options.get("include_usage") is not True:
            body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return Adapted(ask.form, body)


def _leave_room_to_answer(body: dict[str, Any], most: int) -> None:
    """A budget for thinking must be below the limit of the output, which has just been lowered."""
    thinking = body.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if isinstance(budget, int) and budget >= most:
        if most // 2 >= _LEAST_THINKING:
            body["thinking"] = {**body["thinking"], "budget_tokens": most // 2}
        else:
            del body["thinking"]


def failure_event(form: str, error: ApiError) -> bytes:
    """What ends a stream of which nothing has come yet."""
    if form == RESPONSES:
        return failed_at_once(error)
    return anthropic_failure(error) if form == MESSAGES else openai_failure(error)
