# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many tokens a prompt has: from a provider that tells at no cost, else estimated."""

from __future__ import annotations

from ansible_collections.nhi.core.plugins.module_utils.routing import decide

from nhi_services.router.asks import COUNT, MESSAGES
from nhi_services.router.judge import parse_good
from nhi_services.router.live import Live, Setup
from nhi_services.router.upstream import UpstreamError
from nhi_services.router.wanted import Wanted

_LONGEST_SECONDS = 5.0
# Fields of a request that have no place in a count.
_NOT_COUNTED = ("max_tokens", "stream", "stop_sequences", "temperature", "top_p", "top_k", "metadata", "service_tier")


async def count_tokens(live: Live, setup: Setup, wanted: Wanted) -> int:
    """Tokens of a request of the Messages form, for the model that would get it now."""
    picture, demand = setup.picture, wanted.demand
    decision = decide(
        demand, picture.models, picture.readings(demand.chain, stream=False), picture.weights, picture.preferred
    )
    name = next(iter(decision.attempts), None)
    provider = setup.providers[picture.models[name].provider] if name else None
    if name is None or provider is None or not provider.config.counts_tokens:
        return demand.prompt_tokens
    body = {key: value for key, value in wanted.ask.body.items() if key not in _NOT_COUNTED}
    body["model"] = provider.config.models[name].upstream
    try:
        answer = await live.upstream.send(provider, MESSAGES, COUNT, body, wanted.headers)
        told = await answer.read(_LONGEST_SECONDS)
    except UpstreamError:
        return demand.prompt_tokens
    parsed, _fault = parse_good(told, answer.response.content_type) if answer.status == 200 else (None, "")
    tokens = (parsed or {}).get("input_tokens")
    return tokens if isinstance(tokens, int) and tokens >= 0 else demand.prompt_tokens
