"""A circuit breaker, and retries with exponential backoff."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from memory_mcp.clock import Clock

State = Literal["closed", "open", "half_open"]

T = TypeVar("T")


class CircuitBreaker:
    """Stops calling something that keeps failing.

    closed → open after `failures` failures in a row; open → half-open after `reset_seconds`; half-open lets one
    trial through: success closes, failure opens again (Nygard, Release It!, 2nd ed., chapter 5).
    """

    def __init__(self, name: str, clock: Clock, *, failures: int = 5, reset_seconds: float = 30.0) -> None:
        self.name = name
        self.transitions = 0
        self.last_error = ""
        self._clock = clock
        self._limit = failures
        self._reset_seconds = reset_seconds
        self._failures = 0
        self._opened_at: float | None = None
        self._trial = False

    @property
    def state(self) -> State:
        if self._opened_at is None:
            return "closed"
        if self._clock.monotonic() - self._opened_at >= self._reset_seconds:
            return "half_open"
        return "open"

    @property
    def failures(self) -> int:
        """Failures in a row so far."""
        return self._failures

    @property
    def retry_after(self) -> float:
        """Seconds until the next trial; 0 when one may start now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._reset_seconds - (self._clock.monotonic() - self._opened_at))

    def allow(self) -> bool:
        """Whether a call may go through now. In the half-open state only the first caller gets a yes."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._trial:
            return False
        self._trial = True
        return True

    def success(self) -> None:
        """Report that a call worked."""
        if self._opened_at is not None:
            self.transitions += 1
        self._failures = 0
        self._opened_at = None
        self._trial = False

    def failure(self, error: BaseException) -> None:
        """Report that a call failed, after its retries."""
        self._failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        if self._trial or (self._opened_at is None and self._failures >= self._limit):
            self._opened_at = self._clock.monotonic()
            self.transitions += 1
        self._trial = False

    def trip(self, error: BaseException) -> None:
        """Open at once, for failures that no further call can cure."""
        self._failures = max(self._failures, self._limit - 1)
        self.failure(error)

    def release(self) -> None:
        """Give a trial back that ended without telling anything about the guarded thing."""
        self._trial = False


async def with_retries(
    call: Callable[[], Awaitable[T]],
    *,
    retry_on: type[Exception] | tuple[type[Exception], ...],
    clock: Clock,
    attempts: int = 3,
    base_seconds: float = 0.02,
    cap_seconds: float = 1.0,
    rng: random.Random | None = None,
) -> T:
    """Call up to `attempts` times; between calls wait a random part of a doubling span ("full jitter").

    Source of the waiting rule: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Raises:
        the last error of `call` when all attempts failed, and any error not named in `retry_on` at once.
    """
    draw = (rng or random).random
    for attempt in range(1, attempts + 1):
        try:
            return await call()
        except retry_on:
            if attempt == attempts:
                raise
            await clock.sleep(draw() * min(cap_seconds, base_seconds * 2**attempt))
    raise AssertionError("attempts must be at least 1")
