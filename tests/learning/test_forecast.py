"""Forecasts: refused where little is known, and sane where more is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.learning.forecast import Precedent, forecast
from memory_mcp.learning.history import History
from memory_mcp.records.base import Json


def history(successes: int, failures: int, domain: str = "d", task_type: str = "t") -> History:
    episodes = successes + failures
    row: Json = {
        "domain": domain,
        "task_type": task_type,
        "episodes": episodes,
        "successes": successes,
        "failures": failures,
        "log_steps_sum": episodes * 1.6,
        "timed": 0,
        "log_seconds_sum": 0.0,
    }
    return History([row], [])


def alike(success: bool, count: int, relevance: float = 1.0) -> list[Precedent]:
    return [Precedent(relevance, success, 4 + number, 60.0) for number in range(count)]


def test_below_five_episodes_nothing_is_claimed() -> None:
    for known in (History([], []), history(2, 2)):
        found = forecast(alike(True, 3), known, "d", "t")
        assert found == {"insufficient_evidence": True, "needed_episodes": 5}


def test_without_precedents_the_base_rate_is_the_forecast() -> None:
    found = forecast([], history(8, 2), "d", "t")
    assert found["success_probability"] == found["base_rate"] == 0.8
    assert found["steps"] == {"median": 5.0}
    assert "seconds" not in found


def test_the_narrowest_scope_with_enough_episodes_is_the_base() -> None:
    narrow, wide = history(5, 0), history(0, 15, task_type="other")
    both = History([*narrow._scopes, *wide._scopes], [])
    assert forecast([], both, "d", "t")["base_rate"] == 1
    assert forecast([], both, "d", "unseen")["base_rate"] == 0.25
    assert forecast([], both, "elsewhere", "t")["base_rate"] == 0.25


@given(st.integers(0, 10), st.integers(0, 10), st.floats(0, 1), st.integers(0, 30), st.integers(0, 30))
def test_a_forecast_is_a_probability_inside_its_interval(
    good: int, bad: int, relevance: float, successes: int, failures: int
) -> None:
    found = forecast(
        alike(True, good, relevance) + alike(False, bad, relevance), history(successes, failures), "d", "t"
    )
    if successes + failures < 5:
        assert found["insufficient_evidence"]
        return
    low, high = found["interval"]
    assert 0 <= low <= found["success_probability"] <= high <= 1
    assert found["basis"] == {"precedents": min(10, good + bad), "episodes": successes + failures}


def test_precedents_move_the_forecast_as_far_as_they_are_alike() -> None:
    known = history(10, 10)
    good, slightly, bad = (
        forecast(one, known, "d", "t")["success_probability"]
        for one in (alike(True, 6), alike(True, 6, 0.1), alike(False, 6))
    )
    assert bad < 0.3 < 0.5 < slightly < 0.6 < 0.7 < good


def test_effort_is_that_of_successes() -> None:
    found = forecast([*alike(True, 3), Precedent(1.0, False, 90, 9_000.0)], history(5, 5), "d", "t")
    assert found["steps"] == {"median": 5, "low": 4.2, "high": 5.8}
    assert found["seconds"] == {"median": 60, "low": 60, "high": 60}
