# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model is chosen, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.routing import (
    LOCAL,
    Decision,
    Demand,
    Model,
    Reading,
    Weights,
    decide,
    degradation,
)
from hypothesis import given
from hypothesis import strategies as st

CHAT = frozenset({"chat"})
MODELS = {
    model.name: model
    for model in (
        Model("claude-sonnet", "claude", quality=9.5, context=200_000, max_output=8192),
        Model("gemini-2-flash", "gemini", quality=8.0, context=1_000_000, max_output=8192),
        Model("qwen-72b", "qwen", quality=7.0, context=32_000, max_output=8192),
        Model("gpu-local-32b", "gpu", LOCAL, quality=6.0, context=16_000, max_output=4096),
    )
}
CHAIN = tuple(MODELS)


def chosen(readings: dict[str, Reading], *, preferred: str | None = None, **demand: Any) -> Decision:
    return decide(Demand("code_generation", CHAIN, **demand), MODELS, readings, preferred=preferred)


def outs(decision: Decision) -> dict[str, str]:
    return {candidate.model: candidate.out for candidate in decision.candidates if candidate.out}


def test_the_score_is_the_blueprints_with_each_term_bounded() -> None:
    decision = chosen({"claude-sonnet": Reading(0.66, latency_ms=800), "qwen-72b": Reading(0.5, latency_ms=2000)})
    data = {candidate["model"]: candidate for candidate in decision.as_data()["candidates"]}
    assert data["claude-sonnet"]["terms"] == {"quota": 0.66, "latency": 1.0, "quality": 0.95}
    assert data["claude-sonnet"]["score"] == round(0.66 * 0.5 + 0.3 + 0.95 * 0.2, 4)
    assert data["qwen-72b"]["score"] == round(0.25 + 0.15 + 0.14, 4)
    assert decision.attempts == ("gemini-2-flash", "claude-sonnet", "qwen-72b", "gpu-local-32b")


def test_the_gpu_comes_first_where_no_score_reaches_the_threshold() -> None:
    low = {name: Reading(0.01, latency_ms=4900) for name in CHAIN[:3]}
    decision = chosen(low)
    assert decision.attempts[0] == "gpu-local-32b"
    assert "is below 0.3" in decision.reason
    busy = chosen({**low, "gpu-local-32b": Reading(closed="the GPU is RED", retry_ms=5000)})
    assert busy.attempts[0] == "claude-sonnet"


def test_a_slow_cloud_model_is_out_and_a_slow_gpu_is_not() -> None:
    decision = chosen({name: Reading(latency_ms=5000) for name in CHAIN})
    assert decision.attempts == ("gpu-local-32b",)
    assert "5000 ms is too long" in outs(decision)["claude-sonnet"]


def test_a_prompt_goes_to_no_model_that_it_does_not_fit() -> None:
    decision = chosen({}, prompt_tokens=30_000, output_tokens=8000)
    assert set(outs(decision)) == {"qwen-72b", "gpu-local-32b"}
    assert chosen({}, prompt_tokens=2_000_000).attempts == ()


def test_what_a_model_can_not_do_is_not_asked_of_it() -> None:
    decision = chosen({}, needs=frozenset({"chat", "images"}))
    assert decision.attempts == ()
    assert outs(decision)["qwen-72b"] == "can not do images"


def test_when_all_are_closed_the_wait_is_the_shortest_that_is_known() -> None:
    waits = {"claude-sonnet": 9000, "gemini-2-flash": 7000, "qwen-72b": None, "gpu-local-32b": 8000}
    decision = chosen({name: Reading(closed="busy", retry_ms=wait) for name, wait in waits.items()})
    assert (decision.attempts, decision.retry_ms) == ((), 7000)


def test_a_quota_that_runs_out_early_and_a_preferred_provider_shift_the_choice() -> None:
    even = {name: Reading(0.5, latency_ms=1000) for name in CHAIN}
    assert chosen(even).attempts[0] == "claude-sonnet"
    assert chosen({**even, "claude-sonnet": Reading(0.5, 0.4, 1000)}).attempts[0] == "gemini-2-flash"
    assert chosen(even, preferred="qwen").attempts[0] == "qwen-72b"


def test_a_model_that_was_named_is_asked_whatever_its_score() -> None:
    demand = Demand("", ("qwen-72b",), pinned=True)
    decision = decide(demand, MODELS, {"qwen-72b": Reading(0.01, latency_ms=60_000)})
    assert decision.attempts == ("qwen-72b",)
    too_long = decide(Demand("", ("qwen-72b",), output_tokens=9000, pinned=True), MODELS, {})
    assert "9000 tokens are more than the 8192" in outs(too_long)["qwen-72b"]


def test_a_worse_answer_is_told_and_one_that_merely_scored_better_is_not() -> None:
    decision = chosen({"claude-sonnet": Reading(closed="429")})
    assert degradation(decision, MODELS, "qwen-72b", {"gemini-2-flash": "503"}) == (
        "qwen-72b answered in place of claude-sonnet: 429"
    )
    assert degradation(chosen({}), MODELS, "qwen-72b", {}) == ""


READINGS = st.builds(
    Reading,
    quota_left=st.floats(0, 1), runway=st.floats(0, 1), latency_ms=st.none() | st.floats(0, 1e6),
    closed=st.sampled_from(["", "cooldown"]), retry_ms=st.none() | st.integers(0, 10**6),
)  # fmt: skip


@given(readings=st.fixed_dictionaries(dict.fromkeys(CHAIN, READINGS)), tokens=st.integers(0, 300_000))
def test_nobody_is_asked_who_is_out_and_scores_stay_in_their_bounds(readings: dict[str, Reading], tokens: int) -> None:
    decision = chosen(readings, prompt_tokens=tokens)
    by_name = {candidate.model: candidate for candidate in decision.candidates}
    assert set(decision.attempts) == {name for name in CHAIN if not by_name[name].out}
    assert all(0 <= c.score <= 1 for c in decision.candidates)
    cloud = [by_name[name].score for name in decision.attempts if not by_name[name].local]
    assert cloud == sorted(cloud, reverse=True)
    if decision.attempts and by_name[decision.attempts[0]].local:
        assert max(cloud, default=0) < Weights().threshold


@pytest.mark.parametrize("latency", [0.0, 1e-9])
def test_a_latency_of_nothing_is_a_full_term(latency: float) -> None:
    decision = chosen({"claude-sonnet": Reading(latency_ms=latency)})
    assert decision.candidates[0].terms["latency"] == 1.0
