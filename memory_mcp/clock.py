"""Time and identity. Both are injected, so that tests decide what time it is."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID


class Clock(Protocol):
    """Where the program learns the time and how it waits."""

    def now(self) -> int:
        """Wall clock, microseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class IdFactory:
    """UUIDv7 identifiers (RFC 9562, section 5.7) that sort by creation, also within one millisecond."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_ms = 0
        self._counter = 0

    def new(self) -> str:
        """A new identifier in canonical text form."""
        ms = max(self._clock.now() // 1000, self._last_ms)
        if ms == self._last_ms:
            self._counter += 1
            if self._counter >= 1 << 12:
                ms, self._counter = ms + 1, 0
        else:
            # a random start leaves room to count up, and keeps two processes apart (RFC 9562, section 6.2, method 1)
            self._counter = int.from_bytes(os.urandom(2)) & 0x7FF
        self._last_ms = ms
        tail = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
        value = (ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | self._counter << 64 | 0b10 << 62 | tail
        return str(UUID(int=value))


def iso(at: int) -> str:
    """Microseconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at / 1_000_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(text: str) -> int:
    """ISO 8601 as microseconds since the epoch; without a zone it is UTC.

    Raises:
        ValueError: the text is not ISO 8601.
    """
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return round(when.timestamp() * 1_000_000)
