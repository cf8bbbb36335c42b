"""Circuit breaker and retries, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.storage.breaker import CircuitBreaker, with_retries
from memory_mcp.storage.engine import StoreFailure
from tests.conftest import ManualClock

ERROR = StoreFailure("broken")


def broken(clock: ManualClock) -> CircuitBreaker:
    """An open breaker."""
    breaker = CircuitBreaker("store", clock, failures=5, reset_seconds=30)
    for _ in range(5):
        breaker.failure(ERROR)
    return breaker


def test_five_failures_in_a_row_open_the_breaker(clock: ManualClock) -> None:
    breaker = CircuitBreaker("store", clock, failures=5, reset_seconds=30)
    for number in range(1, 6):
        assert breaker.allow()
        assert breaker.state == "closed"
        breaker.failure(ERROR)
        assert breaker.failures == number
    assert breaker.state == "open"
    assert not breaker.allow()
    assert breaker.transitions == 1
    assert breaker.last_error == "StoreFailure: broken"


def test_a_success_in_between_starts_the_count_again(clock: ManualClock) -> None:
    breaker = CircuitBreaker("store", clock, failures=5)
    for _ in range(4):
        breaker.failure(ERROR)
    breaker.success()
    for _ in range(4):
        breaker.failure(ERROR)
    assert breaker.state == "closed"


def test_a_trial_is_let_through_when_the_time_is_up_and_not_before(clock: ManualClock) -> None:
    breaker = broken(clock)
    clock.advance(29.9)
    assert not breaker.allow()
    assert breaker.retry_after == pytest.approx(0.1)
    clock.advance(0.2)
    assert breaker.state == "half_open"
    assert breaker.retry_after == 0
    assert [breaker.allow() for _ in range(3)] == [True, False, False]


def test_a_trial_that_works_closes_the_breaker(clock: ManualClock) -> None:
    breaker = broken(clock)
    clock.advance(30)
    assert breaker.allow()
    breaker.success()
    assert breaker.state == "closed"
    assert [breaker.allow() for _ in range(3)] == [True] * 3
    assert breaker.transitions == 2


def test_a_trial_that_fails_opens_the_breaker_for_another_whole_span(clock: ManualClock) -> None:
    breaker = broken(clock)
    clock.advance(30)
    assert breaker.allow()
    breaker.failure(ERROR)
    assert breaker.state == "open"
    clock.advance(29.9)
    assert not breaker.allow()
    clock.advance(0.1)
    assert breaker.allow()


def test_a_trial_that_told_nothing_is_given_back(clock: ManualClock) -> None:
    breaker = broken(clock)
    clock.advance(30)
    assert breaker.allow()
    breaker.release()
    assert breaker.state == "half_open"
    assert breaker.allow()


def test_a_straggler_that_fails_while_open_does_not_prolong_the_wait(clock: ManualClock) -> None:
    breaker = broken(clock)
    clock.advance(20)
    breaker.failure(ERROR)
    clock.advance(10)
    assert breaker.state == "half_open"


def test_tripping_opens_at_once(clock: ManualClock) -> None:
    breaker = CircuitBreaker("cache", clock, failures=5)
    breaker.trip(ERROR)
    assert breaker.state == "open"
    assert breaker.failures == 5


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["call ok", "call fails", "call dies", "wait", "wait long"]), max_size=40))
def test_whatever_happens_a_breaker_lets_a_call_through_again_after_its_span(events: list[str]) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("store", clock, failures=3, reset_seconds=30)
    for event in events:
        if event.startswith("wait"):
            clock.advance(31 if event == "wait long" else 7)
        elif breaker.allow():
            if event == "call ok":
                breaker.success()
            elif event == "call fails":
                breaker.failure(ERROR)
            else:
                breaker.release()
    clock.advance(30)
    assert breaker.allow()


async def retried(clock: ManualClock, outcomes: list[Exception | str], rng: random.Random) -> tuple[str, list[float]]:
    """The answer of a call with these outcomes, and how long was waited before each further attempt."""
    waits: list[float] = []
    calls = iter(outcomes)

    async def call() -> str:
        outcome = next(calls)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    clock.sleep = sleep  # type: ignore[method-assign]
    answer = await with_retries(
        call, retry_on=StoreFailure, clock=clock, attempts=4, base_seconds=0.02, cap_seconds=0.1, rng=rng
    )
    return answer, waits


@given(seed=st.integers(0, 1000), failures=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_the_waits_between_attempts_stay_within_full_jitter(seed: int, failures: int) -> None:
    outcomes: list[Exception | str] = [*[ERROR] * failures, "answer"]
    answer, waits = asyncio.run(retried(ManualClock(), outcomes, random.Random(seed)))
    assert answer == "answer"
    assert len(waits) == failures
    for waited, most in zip(waits, [0.04, 0.08, 0.1], strict=False):
        assert 0 <= waited <= most


def test_the_waits_use_the_whole_span(clock: ManualClock) -> None:
    rng = random.Random(1)
    firsts = [asyncio.run(retried(ManualClock(), [ERROR, "x"], rng))[1][0] for _ in range(200)]
    assert min(firsts) < 0.004
    assert max(firsts) > 0.036


async def test_the_last_failure_is_raised_when_all_attempts_failed(clock: ManualClock) -> None:
    last = StoreFailure("the last one")
    with pytest.raises(StoreFailure) as raised:
        await retried(clock, [ERROR, ERROR, ERROR, last], random.Random(1))
    assert raised.value is last


async def test_an_error_of_another_kind_is_not_retried(clock: ManualClock) -> None:
    with pytest.raises(LookupError):
        await retried(clock, [LookupError("no"), "never asked"], random.Random(1))
