# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a router takes from the answers of providers: limits, and pauses that they ask for."""

from __future__ import annotations

import random

from ansible_collections.nhi.core.plugins.module_utils.provider_limits import Heard
from ansible_collections.nhi.core.plugins.module_utils.quota import day_at
from ansible_collections.nhi.core.plugins.module_utils.quota_book import Scope, at_least

from nhi_services.router.judge import KEY_PAUSE_SECONDS, Judgement, Kind
from nhi_services.router.live import Live, Setup


class Learner:
    """Writes what was heard into the picture of this router, and into Redis for the others."""

    def __init__(self, live: Live, setup: Setup) -> None:
        self._live = live
        self._setup = setup

    def refusal(self, scope: Scope, judgement: Judgement) -> None:
        """Close what the provider wants closed, and keep what it said of its limits."""
        heard = judgement.heard
        state = self._setup.picture.states[scope.model]
        self.learn(scope, heard)
        if judgement.kind is Kind.LIMIT:
            ms = self._pause_ms(scope, heard)
            state.failures_in_a_row += 1
            state.close(f"its provider asked for a pause ({judgement.what})", ms / 1000)
            self._live.pause(scope.provider, scope.model if heard.of_model or heard.until_reset else None, "429", ms)
        elif judgement.kind is Kind.KEY:
            state.close(f"its provider refuses our key or the model's name ({judgement.what})", KEY_PAUSE_SECONDS)

    def learn(self, scope: Scope, heard: Heard) -> None:
        model = scope.model if heard.of_model else None
        known = self._setup.picture.learned.get(scope.provider, {}).get(model or "", {})
        news = {name: value for name, value in heard.limits.items() if known.get(name) != value}
        configured = (scope.model_limits if model else scope.provider_limits).as_dict()
        news = {name: value for name, value in news.items() if configured.get(name) != value}
        if news:
            self._live.learn(scope.provider, news, model)
            learned = {key: dict(value) for key, value in self._setup.picture.learned.get(scope.provider, {}).items()}
            learned.setdefault(model or "", {}).update(news)
            self._setup.picture.learn(scope.provider, learned)
        left = heard.left.get("requests_per_day")
        limit = heard.limits.get("requests_per_day")
        if left is not None and limit is not None:
            call = at_least(scope, self._live.store.now_ms, requests=limit - left)
            self._live.store.settler.put(call)

    def _pause_ms(self, scope: Scope, heard: Heard) -> int:
        """As long as the provider says, until its day ends, or longer each time where it says nothing."""
        now = self._live.store.now_ms
        if heard.until_reset:
            return day_at(scope.zone, now).end_ms - now
        if heard.wait_ms is not None:
            return max(100, heard.wait_ms)
        routing = self._setup.config.routing
        failures = self._setup.picture.states[scope.model].failures_in_a_row
        pause = min(routing.longest_cooldown_seconds, routing.cooldown_seconds * 2.0 ** min(failures, 16))
        return round(pause * 1000 * random.uniform(0.8, 1.2))  # noqa: S311 -- no secret
