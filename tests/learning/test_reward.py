"""The reward: monotone in the outcome, with all its components, relative to what is usual here."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.learning.history import Usual
from memory_mcp.learning.reward import reward
from memory_mcp.records.episode import Context, Episode, Outcome
from tests.learning.support import episode, steps, work

PARTS = {"total", "base", "efficiency", "complexity", "quality", "bonus"}


def usual(taken: float = 6.0, seconds: float | None = None) -> Usual:
    return Usual("domain", 20, 20, 0.5, taken, seconds)


@st.composite
def outcomes_from_bad_to_good(draw: st.DrawFn) -> list[Outcome]:
    """The same ending but for its type: a failure, an abstention, two partial successes, a success."""
    artifacts = draw(st.lists(st.just("a"), max_size=1))
    same: dict[str, Any] = {"artifacts": artifacts, "reason": draw(st.text("ab ", max_size=3))}
    low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    return [
        Outcome(type="failure", **same),
        Outcome(type="abstained", **same),
        Outcome(type="partial_success", score=low, **same),
        Outcome(type="partial_success", score=high, **same),
        Outcome(type="success", **same),
    ]


@given(
    outcomes_from_bad_to_good(),
    st.integers(0, 10**6),
    st.booleans(),
    st.one_of(st.none(), st.builds(usual, st.floats(1, 100), st.one_of(st.none(), st.floats(0.01, 10_000)))),
    st.sampled_from([None, "simple", "moderate", "complex"]),
)
def test_a_better_outcome_never_has_the_smaller_reward(
    outcomes: list[Outcome], seed: int, used: bool, known: Usual | None, complexity: Any
) -> None:
    one = work(Random(seed)).model_copy(update={"context": Context(complexity=complexity)})
    totals = []
    for outcome in outcomes:
        found = reward(one.model_copy(update={"outcome": outcome}), known, memory_used=used)
        assert found.keys() == PARTS
        assert all(math.isfinite(part) for part in found.values())
        product = found["base"] * found["efficiency"] * found["complexity"] * found["quality"]
        assert found["total"] == pytest.approx(product + found["bonus"], abs=2e-3)
        totals.append(found["total"])
    assert totals == sorted(totals)


def total(one: Episode, known: Usual | None = None) -> float:
    return float(reward(one, known, memory_used=False)["total"])


def test_fewer_steps_than_usual_are_worth_more() -> None:
    short, long = episode(steps("a", "b")), episode(steps(*"abcdefgh"))
    assert total(short, usual(4)) > total(long, usual(4))
    # without a history nothing is usual yet
    assert reward(short, None, memory_used=False)["efficiency"] == 1


def test_efficiency_is_relative_to_the_history_and_bounded() -> None:
    one = episode(steps(*"abcd"))
    assert [reward(one, usual(n), memory_used=False)["efficiency"] for n in (0.01, 4, 1_000)] == [0.5, 1, 1.5]


def test_time_counts_beside_steps() -> None:
    one = episode(steps(*"abcd"), started_at=0, ended_at=4_000_000)
    assert reward(one, usual(4, 16.0), memory_used=False)["efficiency"] == pytest.approx((1 + 1.5) / 2)


def test_failed_steps_lower_the_quality_and_overcoming_them_earns_a_bonus() -> None:
    clean = reward(episode(steps("a", "b", "c")), None, memory_used=False)
    stumbled = reward(episode(steps("a", ("b", "bad"), "b")), None, memory_used=False)
    assert stumbled["quality"] < clean["quality"]
    assert (clean["bonus"], stumbled["bonus"]) == (0, 0.1)


def test_use_of_memory_is_rewarded_only_where_it_led_to_success() -> None:
    bonuses = [
        reward(episode(steps("a"), outcome), None, memory_used=True)["bonus"]
        for outcome in ("failure", "abstained", "partial_success", "success")
    ]
    assert bonuses == [0, 0, 0, 0.05]


def test_an_episode_without_steps_has_a_reward() -> None:
    assert total(episode()) == 1
    assert total(episode(outcome="failure"), usual(5, 3.0)) == 0
