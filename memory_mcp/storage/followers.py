"""Followers of the ledger, and the upkeep that runs behind the services.

A follower does in the background what a change calls for (learning, embedding), keeps a cursor that moves together
with its effects, and may be stopped at any instant. It hears of commits of its own process at once, and of those of
other processes by a poll of the database's version.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from memory_mcp.clock import Clock
from memory_mcp.errors import MemoryMCPError
from memory_mcp.storage.engine import STORE_FAILURES, StoreMovedError
from memory_mcp.storage.store import Store

_log = logging.getLogger(__name__)

_FAILURE_PAUSE = 1.0


class Follower(Protocol):
    """Something that follows the ledger."""

    name: str

    async def step(self) -> bool:
        """Do a bounded piece of work; True when there may be more to do at once."""
        ...


class Upkeep:
    """Runs the followers, keeps the cache level with the ledger, and replays the journal when the store is back.

    Args:
        poll_seconds: how often the database is asked whether other processes have written.
        sync_seconds: how often cache and ledger are compared even when nothing seems to have happened.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        poll_seconds: float = 0.25,
        sync_seconds: float = 300.0,
    ) -> None:
        self.failures: dict[str, int] = {}
        self.last_errors: dict[str, str] = {}
        self.last_sync = 0
        self._store = store
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._sync_seconds = sync_seconds
        self._followers: list[Follower] = []
        self._bells: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []
        # what is failing right now, so that the log tells it once
        self._failing: dict[str, type[Exception]] = {}

    def add(self, follower: Follower) -> None:
        """Have a follower run from the next `start` on, or now if that was called."""
        bell = asyncio.Event()
        bell.set()
        self._bells.append(bell)
        self._followers.append(follower)
        if self._tasks:
            self._tasks.append(asyncio.create_task(self._follow(follower, bell), name=follower.name))

    def start(self) -> None:
        """Begin; the work ends with `stop`."""
        self._store.on_change(self.ring)
        self._tasks.append(asyncio.create_task(self._watch(), name="watch"))
        for follower, bell in zip(self._followers, self._bells, strict=True):
            self._tasks.append(asyncio.create_task(self._follow(follower, bell), name=follower.name))

    async def stop(self) -> None:
        """End all work. What a follower has not committed will be done again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def ring(self) -> None:
        """Tell the followers that there may be something to do."""
        for bell in self._bells:
            bell.set()

    async def sync(self) -> None:
        """Replay what is pending and bring the cache up to the ledger.

        Raises:
            StorageUnavailableError: the store is out of order.
        """
        await self._store.drain()
        await self._store.catch_up()
        self.last_sync = self._clock.now()

    async def _follow(self, follower: Follower, bell: asyncio.Event) -> None:
        while not _cancelled():
            await bell.wait()
            bell.clear()
            try:
                while await follower.step() and not _cancelled():  # noqa: ASYNC110 - the work is in the step
                    await asyncio.sleep(0)
                self._failing.pop(follower.name, None)
            except Exception as error:  # noqa: BLE001 - a follower must outlive any single failure; it is counted
                self._failed(follower.name, error)
                await self._clock.sleep(_FAILURE_PAUSE)
                bell.set()

    async def _watch(self) -> None:
        known: tuple[int, tuple[int, int]] | None = None
        next_sync = 0.0
        while not _cancelled():
            try:
                if self._ailing() or self._clock.monotonic() >= next_sync:
                    await self.sync()
                    if not self._ailing():
                        # some are due by time, and not because something was written
                        self.ring()
                    next_sync = self._clock.monotonic() + self._sync_seconds
                # somebody has written, or the cache is another file
                seen = (await self._store.data_version(), self._store.cache.file)
                if seen != known:
                    await self._store.catch_up()
                    self.ring()
                    known = seen
                self._failing.pop("sync", None)
            except Exception as error:  # noqa: BLE001 - as above
                if isinstance(error, StoreMovedError):
                    # let go of the file at once, and look again and again for a good one
                    next_sync = 0.0
                self._failed("sync", error)
            await self._clock.sleep(self._poll_seconds)

    def _ailing(self) -> bool:
        store = self._store
        return store.degraded or bool(store.journal_error) or store.cache_breaker.state == "half_open"

    def _failed(self, name: str, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        known = self._failing.get(name) is type(error)
        self._failing[name] = type(error)
        self.failures[name] = self.failures.get(name, 0) + 1
        self.last_errors[name] = text
        if known:
            _log.debug("%s: again %s", name, text)
        elif isinstance(error, (MemoryMCPError, *STORE_FAILURES)):
            _log.warning("%s: %s", name, error)
        else:
            _log.exception("%s failed", name)


def _cancelled() -> bool:
    """Whether this task was told to end, also where something on the way has swallowed that (`wait_for` does)."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
