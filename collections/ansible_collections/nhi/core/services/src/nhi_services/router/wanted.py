# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Task, chain and manners of a request: from its headers, its model's name, or what its key has as default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.routing import Demand

from nhi_services.router.api_errors import ApiError
from nhi_services.router.asks import Ask
from nhi_services.router.config import ALIAS_PREFIX, AgentConfig
from nhi_services.router.live import Setup

MODES: Final = ("wait", "deferred", "choice")
# What clients put in front of a name, or send when they have none.
_CLIENT_PREFIX: Final = "openai/"
_ANY: Final = frozenset({"", "auto", ALIAS_PREFIX + "auto"})


@dataclass(slots=True)
class Wanted:
    """A request with everything that decides how it is served."""

    ask: Ask
    agent: AgentConfig
    demand: Demand
    when_busy: str
    wait_seconds: float
    headers: Mapping[str, str]
    continues: bool = False
    # Not now: kept at once, and not done before a moment if one is named.
    defers: bool = False
    not_before: datetime | None = None


def read_wanted(headers: Mapping[str, str], ask: Ask, agent: AgentConfig, setup: Setup) -> Wanted:
    """How a request is to be served; ApiError for a task, model or mode that there is not."""
    config = setup.config
    task, chain, pinned = _chain(headers.get("X-NHI-Task", "").strip(), ask.model, agent, setup)
    mode = headers.get("X-NHI-Mode", "").lower()
    if mode and mode not in MODES:
        raise ApiError(400, f"X-NHI-Mode must be one of {', '.join(MODES)}.", code="invalid_value")
    when_busy = mode or (config.tasks[task].when_busy if task in config.tasks else "wait")
    demand = Demand(task, chain, ask.prompt_tokens, ask.output_tokens, ask.needs, pinned)
    continues = headers.get("X-NHI-Continue", "").lower() in ("1", "true", "yes")
    defers, not_before = mode == "deferred", headers.get("X-NHI-Not-Before", "").strip()
    if not_before and not defers:
        raise ApiError(400, "X-NHI-Not-Before is for X-NHI-Mode: deferred.", code="invalid_value")
    return Wanted(
        ask, agent, demand, when_busy, config.routing.wait_seconds, headers, continues, defers,
        _moment(not_before) if not_before else None,
    )  # fmt: skip


def _chain(named: str, model: str, agent: AgentConfig, setup: Setup) -> tuple[str, tuple[str, ...], bool]:
    """The task, its models, and whether one model was named."""
    config = setup.config
    name = model if model in setup.picture.models else model.removeprefix(_CLIENT_PREFIX)
    if not named and name in setup.picture.models:
        return "pinned", (name,), True
    task = named or name.removeprefix(ALIAS_PREFIX)
    if not named and name in _ANY:
        task = agent.task or next(iter(config.tasks))
    elif not named and not name.startswith(ALIAS_PREFIX):
        task = ""
    if task in config.tasks:
        return task, config.chain_of(task), False
    if named or name.startswith(ALIAS_PREFIX):
        raise ApiError(400, f"There is no such task: there are {', '.join(config.tasks)}.", code="unknown_task")
    message = "There is no such model here: GET /v1/models lists them."
    raise ApiError(404, message, param="model", code="model_not_found")


def _moment(text: str) -> datetime:
    """A moment in a header, with its zone; ApiError 400 for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        # Times at the edge of the calendar have no equivalent in UTC.
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = "X-NHI-Not-Before must be a time with its zone, such as 2026-01-31T08:00:00Z."
        raise ApiError(400, message, code="invalid_value") from error
