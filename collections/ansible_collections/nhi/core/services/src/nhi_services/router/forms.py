# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a request in one form is put to a provider that speaks another, and its answer brought back."""

from __future__ import annotations

from typing import Any

from nhi_services.router.asks import CHAT, COMPLETIONS, PATHS, Ask
from nhi_services.router.config import ModelConfig, ProviderConfig

_OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens")


class Adapted:
    """A request as the provider gets it; answers come back as they are."""

    def __init__(self, form: str, body: dict[str, Any]) -> None:
        self.form = form
        self.path = PATHS[form]
        self.body = body

    def whole(self, raw: bytes, _parsed: dict[str, Any]) -> bytes:
        """A whole answer, as whoever asked understands it."""
        return raw

    def event(self, event: bytes) -> bytes:
        """One event of a stream."""
        return event

    def end(self) -> bytes:
        """What ends a stream that the provider ended without a word."""
        return b"data: [DONE]\n\n"


def adapt(ask: Ask, provider: ProviderConfig, model: ModelConfig) -> Adapted:
    """The request for a model of a provider: its name there, no more output than it can give."""
    body = {**ask.body, "model": model.upstream}
    for name in _OUTPUT_LIMITS:
        if isinstance(body.get(name), int) and body[name] > model.max_output:
            body[name] = model.max_output
    if ask.stream and ask.form in (CHAT, COMPLETIONS) and provider.stream_usage and not ask.wants_usage:
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return Adapted(ask.form, body)
