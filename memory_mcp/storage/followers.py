"""Followers of the ledger, and the upkeep that runs behind the services.

A follower does in the background what a change calls for (learning, embedding), keeps a cursor that moves together
with its effects, and may be stopped at any instant. It hears of commits of its own process at once, of those of other
processes by their wakes, and in any case by a poll of the database's version.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from memory_mcp.clock import Clock
from memory_mcp.errors import MemoryMCPError
from memory_mcp.storage.engine import STORE_FAILURES, StoreMovedError
from memory_mcp.storage.leases import Lead, rung
from memory_mcp.storage.store import Store
from memory_mcp.storage.wakes import Wakes

_log = logging.getLogger(__name__)

_FAILURE_PAUSE = 1.0
# where wakes work, the poll only finds what a process committed just before it died
_POLL_WITH_WAKES = 1.0
# a process that writes all the time is not followed more closely than this
_WAKE_SPACING = 0.05
# work of another process is left to that process for so long: it is at it already, most of the time
# (there is hardly any, there is a lot all the time)
_PATIENCE = (0.1, 1.0)
_SPREAD_SECONDS = 0.1


class Follower(Protocol):
    """Something that follows the ledger. One that only one process may lead at a time also has a `lead: Lead`."""

    name: str

    async def step(self) -> bool:
        """Do a bounded piece of work; True when there may be more to do at once."""
        ...


class Upkeep:
    """Runs the followers, keeps the cache level with the ledger, and replays the journal when the store is back.

    Args:
        wakes: how other processes tell of their commits; without any there is only the poll.
        poll_seconds: how often the database is asked whether other processes have written; where wakes work, once in
            a second is enough.
        sync_seconds: how often cache and ledger are compared even when nothing seems to have happened.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        wakes: Wakes | None = None,
        *,
        poll_seconds: float = 0.25,
        sync_seconds: float = 300.0,
    ) -> None:
        self.failures: dict[str, int] = {}
        self.last_errors: dict[str, str] = {}
        self.last_sync = 0
        self._store = store
        self._clock = clock
        self._wakes = wakes
        self._woken = asyncio.Event()
        self._spread = random.Random()
        # one catch-up at a time
        self._following = asyncio.Lock()
        self._poll_seconds = poll_seconds
        self._sync_seconds = sync_seconds
        self._followers: list[Follower] = []
        self._bells: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._late: asyncio.TimerHandle | None = None
        self._started = False
        self._listening = False
        # where the cache stood when this process looked last
        self._level = 0
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
        if not self._started:
            self._started = True
            self._store.on_change(self.ring)
            if self._wakes is not None:
                self._store.on_commit(self._wakes.send)
        self._open_wakes()
        self._tasks.append(asyncio.create_task(self._watch(), name="watch"))
        for follower, bell in zip(self._followers, self._bells, strict=True):
            self._tasks.append(asyncio.create_task(self._follow(follower, bell), name=follower.name))

    async def stop(self) -> None:
        """End all work. What a follower has not committed will be done again."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._listening = False
        if self._wakes is not None:
            # a process that does nothing in the background leads nothing
            self._wakes.close()

    def ring(self) -> None:
        """Tell the followers that there may be something to do."""
        for bell in self._bells:
            bell.set()
        self._tell_waiting()

    async def sync(self) -> None:
        """Replay what is pending and bring the cache up to the ledger.

        Raises:
            StorageUnavailableError: the store is out of order.
        """
        await self._store.drain()
        await self._store.catch_up()
        self.last_sync = self._clock.now()

    def _open_wakes(self) -> None:
        if self._wakes is not None and self._wakes.open(self._heard) and not self._listening:
            self._listening = True
            self._tasks.append(asyncio.create_task(self._listen(), name="listen"))

    async def _follow(self, follower: Follower, bell: asyncio.Event) -> None:
        while not _cancelled():
            lead = _lead(follower)
            await rung(bell, self._clock, None if lead is None else lead.look_again)
            bell.clear()
            try:
                while await follower.step() and not _cancelled():  # noqa: ASYNC110 - the work is in the step
                    await asyncio.sleep(0)
                self._failing.pop(follower.name, None)
            except Exception as error:  # noqa: BLE001 - a follower must outlive any single failure; it is counted
                self._failed(follower.name, error)
                await self._clock.sleep(_FAILURE_PAUSE)
                bell.set()

    def _heard(self, asked: bool) -> None:
        """Wakes have come. Whoever waits for a leader, and a leader who is asked for, go ahead of all the rest."""
        self._woken.set()
        self._tell_waiting()
        if asked:
            self._ring_if(lambda lead: lead is not None and lead.leads)

    def _tell_waiting(self) -> None:
        for follower in self._followers:
            if (lead := _lead(follower)) is not None:
                lead.heard()

    def _ring_if(self, condition: Callable[[Lead | None], bool]) -> None:
        for follower, bell in zip(self._followers, self._bells, strict=True):
            if condition(_lead(follower)):
                bell.set()

    async def _listen(self) -> None:
        while not _cancelled():
            await self._woken.wait()
            self._woken.clear()
            try:
                if not self._cache_moved():
                    # the writer is about to; were all to do it at once, each would wait for all others
                    await asyncio.sleep(self._spread.uniform(0, _SPREAD_SECONDS))
                    if not self._cache_moved():
                        await self._follow_others()
                self._ring_others()
            except Exception as error:  # noqa: BLE001 - as above; the watch tries again
                self._failed("sync", error)
            # this paces the work, whatever the program takes for time
            await asyncio.sleep(_WAKE_SPACING)

    def _cache_moved(self) -> bool:
        """Whether the writer has brought the shared cache up itself, as it does as long as nothing is wrong."""
        before, self._level = self._level, self._store.from_cache(self._store.cache.applied) or 0
        return self._level > before

    async def _follow_others(self) -> None:
        async with self._following:
            await self._store.catch_up()

    def _ring_others(self) -> None:
        """Have the followers look for what other processes have written: now, or where only one may do it, later."""
        self._tell_waiting()
        self._ring_if(lambda lead: lead is None)
        if self._late is None:
            busy = self._wakes is not None and self._wakes.busy
            self._late = asyncio.get_running_loop().call_later(_PATIENCE[busy], self._ring_late)

    def _ring_late(self) -> None:
        self._late = None
        self._ring_if(lambda lead: lead is not None)

    async def _watch(self) -> None:
        known: tuple[int, tuple[int, int, int]] | None = None
        next_sync = 0.0
        read_only = ""
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
                    await self._follow_others()
                    self._ring_others()
                    known = seen
                before, read_only = read_only, self._store.read_only
                if self._wakes is not None:
                    if before and not read_only and not self._wakes.working:
                        # there was no place for a socket
                        self._open_wakes()
                    self._wakes.ensure()
                self._failing.pop("sync", None)
            except Exception as error:  # noqa: BLE001 - as above
                if isinstance(error, StoreMovedError):
                    # let go of the file at once, and look again and again for a good one
                    next_sync = 0.0
                self._failed("sync", error)
            await self._clock.sleep(self._pause())

    def _pause(self) -> float:
        told = self._wakes is not None and self._wakes.working and not self._ailing()
        return max(self._poll_seconds, _POLL_WITH_WAKES) if told else self._poll_seconds

    def _ailing(self) -> bool:
        store = self._store
        return bool(store.degraded or store.read_only or store.journal_error) or (
            store.cache_breaker.state == "half_open"
        )

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


def _lead(follower: Follower) -> Lead | None:
    # only known when the follower has loaded what it works with
    lead: Lead | None = getattr(follower, "lead", None)
    return lead


def _cancelled() -> bool:
    """Whether this task was told to end, also where something on the way has swallowed that (`wait_for` does)."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
