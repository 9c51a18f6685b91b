# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What whoever asked can do when everything is busy: wait, take a smaller local model, or have it done later."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from ansible_collections.nhi.core.plugins.module_utils.routing import LOCAL, Decision, decide

from nhi_services.router.api_errors import ApiError
from nhi_services.router.live import Live, Setup
from nhi_services.router.wanted import Wanted


def choice_error(live: Live, setup: Setup, wanted: Wanted, decision: Decision) -> ApiError:
    """409 with the options, each with what to send to choose it (blueprint 4.3)."""
    wait = _wait(decision)
    options = [wait, *_smaller(setup, wanted), *_postpone(live, setup)]
    listed = " ".join(f"{number}. {one['description']}" for number, one in enumerate(options, 1))
    message = f"No model can answer now. Options: {listed} Send the request again with what 'send' of an option says."
    retry = decision.retry_ms
    return ApiError(409, message, code="choice_needed", retry_ms=retry, extra={"options": options})


def _wait(decision: Decision) -> dict[str, Any]:
    retry = decision.retry_ms
    eta = None if retry is None else max(1, -(-retry // 1000))
    when = f"in about {_words(eta)}" if eta is not None else "at a time that nobody knows"
    sent = {"headers": {"X-NHI-Mode": "wait"}}
    return {"option": "wait", "description": f"Wait (next chance {when}).", "eta_seconds": eta, "send": sent}


def _smaller(setup: Setup, wanted: Wanted) -> list[dict[str, Any]]:
    """The best local model that is not in the task's chain and can answer now."""
    picture = setup.picture
    others = [m for m in picture.models.values() if m.kind == LOCAL and m.name not in wanted.demand.chain]
    chain = tuple(m.name for m in sorted(others, key=lambda model: -model.quality))
    readings = picture.readings(chain, stream=wanted.ask.stream)
    found = decide(
        replace(wanted.demand, chain=chain, pinned=False), picture.models, readings, picture.weights
    ).attempts
    if not found:
        return []
    model = picture.models[found[0]]
    quality = f"quality {model.quality:g} of 10"
    return [{
        "option": "smaller_model", "description": f"Use the local model {model.name} ({quality}).", "eta_seconds": 0,
        "model": model.name,
        "send": {"headers": {"X-NHI-Mode": "wait", "X-NHI-Task": ""}, "body": {"model": model.name}},
    }]  # fmt: skip


def _postpone(live: Live, setup: Setup) -> list[dict[str, Any]]:
    if live.deferred is None:
        return []
    until = next_morning(datetime.now(UTC), setup.config.routing.postpone_to, setup.config.routing.postpone_zone)
    text = until.isoformat()
    return [{
        "option": "postpone", "description": f"Postpone to {text} (it is done by itself then).", "until": text,
        "eta_seconds": max(0, round((until - datetime.now(UTC)).total_seconds())),
        "send": {"headers": {"X-NHI-Mode": "deferred", "X-NHI-Not-Before": text}},
    }]  # fmt: skip


def next_morning(now: datetime, at: time, zone: str) -> datetime:
    """The next moment at which clocks in the zone show that time."""
    local = now.astimezone(ZoneInfo(zone))
    found = datetime.combine(local.date(), at, local.tzinfo)
    return found if found > local else datetime.combine(local.date() + timedelta(days=1), at, local.tzinfo)


def _words(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{round(seconds / 60)} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
