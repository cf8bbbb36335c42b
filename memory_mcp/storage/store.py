"""The store as services see it: source of truth, cache and pending journal behind two circuit breakers.

    write   store (retried) ── fails ──> pending journal (synced) ── fails ──> error
    read    process ──> cache ──> store;   store out ──> cache and journal, marked as degraded

There is no other way to write, and no copy in memory that a crash could take away.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from memory_mcp.clock import Clock
from memory_mcp.errors import CacheUnavailableError, MemoryMCPError, StorageUnavailableError
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command, Written
from memory_mcp.storage import queries
from memory_mcp.storage.breaker import CircuitBreaker, with_retries
from memory_mcp.storage.cache import Cache, puts_for_episode
from memory_mcp.storage.engine import STORE_FAILURES, Engine
from memory_mcp.storage.fold import concerns, fold
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.session import Session

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CACHE_WRITE_SECONDS = 0.5
_REPLAY_TURN_SECONDS = 2.0
_REPLAY_BATCH = 64
_WARM_EPISODES = 500


@dataclass(frozen=True, slots=True)
class Loaded:
    """An episode as it was read. `degraded` says that the store could not be asked, `pending` how many writes to
    this episode still wait in the journal."""

    episode: Json | None
    degraded: bool = False
    pending: int = 0


class Store:
    """One data directory's records.

    Args:
        engine: the source of truth.
        cache: its write-through cache.
        journal: where writes wait while the engine is out of order.
        failures: failures in a row that open a breaker.
        reset_seconds: how long a breaker stays open before a trial.
        attempts: calls of the engine before they count as one failure.
    """

    def __init__(
        self,
        engine: Engine,
        cache: Cache,
        journal: Journal,
        clock: Clock,
        *,
        failures: int = 5,
        reset_seconds: float = 30.0,
        attempts: int = 3,
        rng: random.Random | None = None,
    ) -> None:
        self.engine = engine
        self.cache = cache
        self.journal = journal
        self.store_breaker = CircuitBreaker("store", clock, failures=failures, reset_seconds=reset_seconds)
        self.cache_breaker = CircuitBreaker("cache", clock, failures=failures, reset_seconds=reset_seconds)
        self.writes = {"committed": 0, "pending": 0, "refused": 0, "failed": 0, "replayed": 0, "conflicts": 0}
        self.journal_error = ""
        self._clock = clock
        self._attempts = attempts
        self._rng = rng or random.Random()
        self._opened = False
        self._opening = asyncio.Lock()
        self._draining = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="cache")

    async def open(self) -> None:
        """Open journal, engine and cache. Whichever fails leaves the store degraded, not closed.

        Raises:
            SchemaTooNewError: the store belongs to a newer program.
        """
        try:
            self.journal.open()
        except StorageUnavailableError as error:
            self.journal_error = str(error)
            _log.error("%s", error)
        try:
            await self._guarded(self._ensure_open)
        except StorageUnavailableError as error:
            _log.error("the store cannot be opened: %s", error)
        self.cache.store_id = self.engine.store_id
        try:
            self.cache.open()
        except CacheUnavailableError as error:
            _log.error("the cache cannot be opened: %s", error)
            self.cache_breaker.trip(error)

    async def close(self) -> None:
        """Finish the writes under way and close everything."""
        await self.engine.close()
        self._threads.shutdown(wait=False)
        try:
            self.cache.close()
        except CacheUnavailableError as error:
            _log.warning("%s", error)
        self.journal.close()

    @property
    def degraded(self) -> bool:
        """Whether the source of truth is out of order or writes wait for it."""
        return self.store_breaker.state != "closed" or bool(self.journal_error) or self.pending() > 0

    def pending(self) -> int:
        """Writes in the journal."""
        return 0 if self.journal_error else len(self.journal)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, on the event loop, whenever this process has committed something."""
        self._listeners.append(listener)

    async def write(self, command: Command) -> Written:
        """Carry out a command, or keep it durably until the store can.

        Raises:
            MemoryMCPError: the command was refused; nothing was written.
            StorageUnavailableError: neither store nor journal could take it.
        """
        cause: Exception | None = None
        if self.pending() == 0 or await self.drain():
            try:
                written = await self._commit(command)
            except StorageUnavailableError as error:
                cause = error
            except MemoryMCPError:
                self.writes["refused"] += 1
                raise
            else:
                self.writes["committed"] += 1
                return written
        try:
            await asyncio.to_thread(self.journal.append, command)
        except StorageUnavailableError:
            self.writes["failed"] += 1
            raise
        self.writes["pending"] += 1
        _log.warning("the store is out of order (%s); %s waits in the journal", cause, command.operation)
        return Written({}, pending=True)

    async def write_derived(self, command: Command) -> Written:
        """Carry out a follower's command. It is not worth a place in the journal: the follower will try again.

        Raises:
            StorageUnavailableError: the store is out of order.
        """
        return await self._commit(command)

    async def read(self, work: Callable[[Session], T]) -> T:
        """Ask the store.

        Raises:
            StorageUnavailableError: it is out of order.
        """

        async def call() -> T:
            await self._ensure_open()
            return await self.engine.read(work)

        return await self._guarded(call)

    async def episode(self, namespace: str, episode_id: str) -> Loaded:
        """Read an episode through the cache.

        Raises:
            StorageUnavailableError: the store is out of order and no copy of the episode is at hand.
        """
        waiting = self._waiting_for(namespace, episode_id)
        degraded = self.store_breaker.state != "closed"
        found = self.from_cache(lambda: self.cache.episode(namespace, episode_id))
        if found is None:
            try:
                found = await self.read(lambda session: queries.episode(session, namespace, episode_id))
            except StorageUnavailableError:
                if not waiting:
                    raise
                degraded = True
            else:
                degraded = False
                if found is not None:
                    puts = puts_for_episode(found)
                    await self._to_cache(lambda: self.cache.put(puts))
        for command in waiting:
            found = fold(found, command)
        return Loaded(found, degraded or bool(waiting), len(waiting))

    def from_cache(self, call: Callable[[], T]) -> T | None:
        """The answer of the cache, or None when it is out of order."""
        if not self._cache_allows():
            return None
        try:
            answer = call()
        except CacheUnavailableError as error:
            self._cache_failed(error)
            return None
        self.cache_breaker.success()
        return answer

    async def catch_up(self) -> None:
        """Bring the cache up to the ledger, in order.

        Raises:
            StorageUnavailableError: the store is out of order.
        """
        head = await self.read(queries.head_position)
        applied = self.from_cache(self._refreshed)
        if applied is None or applied == head:
            return
        if applied > head:
            # left over from a store that was replaced by an older copy
            self.from_cache(self.cache.rebuild)
        if applied == 0 or applied > head:
            await self._fill(head)
            return
        while applied < head and self.cache_breaker.state == "closed":
            entries = await self.read(lambda session, after=applied: queries.ledger(session, after, 256))  # type: ignore[misc]
            await self._to_cache(lambda entries=entries: self.cache.apply(entries))  # type: ignore[misc]
            applied = entries[-1].position

    async def drain(self) -> bool:
        """Replay the pending journal in order; True when nothing is left to wait for.

        A command that no longer fits what is stored loses: it is kept in the ledger as a conflict.
        """
        async with self._draining:
            if self.pending() == 0:
                return True
            lock = self.journal.replay_lock
            assert lock is not None
            with lock.held(0.0) as mine:
                return await self._replay() if mine else await self._other_replays()

    async def _replay(self) -> bool:
        while batch := self.journal.first(_REPLAY_BATCH):
            for sequence, command in batch:
                try:
                    await self._commit(command, replayed=True)
                    self.writes["replayed"] += 1
                except StorageUnavailableError:
                    return False
                except MemoryMCPError as error:
                    if not await self._record_conflict(command, error):
                        return False
                await asyncio.to_thread(self.journal.remove, sequence)
        return True

    async def _record_conflict(self, command: Command, error: MemoryMCPError) -> bool:
        conflict = Command(
            operation="write.conflict",
            namespace=command.namespace,
            payload={
                "command": {"operation": command.operation, "payload": command.payload, "at": command.at},
                "error": error.as_dict(),
            },
            write_id=f"{command.write_id}:conflict",
            at=self._clock.now(),
            actor=command.actor,
        )
        try:
            await self._commit(conflict, replayed=True)
        except StorageUnavailableError:
            return False
        self.writes["conflicts"] += 1
        _log.warning("a pending %s lost against the store: %s", command.operation, error)
        return True

    async def _other_replays(self) -> bool:
        until = self._clock.monotonic() + _REPLAY_TURN_SECONDS
        while self.pending():
            if self._clock.monotonic() >= until:
                return False
            await self._clock.sleep(0.01)
        return True

    async def _commit(self, command: Command, *, replayed: bool = False) -> Written:
        again = replayed

        async def call() -> Written:
            nonlocal again
            await self._ensure_open()
            known, again = again, True
            # a commit that failed may be durable all the same; from the second attempt on the write_id is looked up
            return await self.engine.write(command, replayed=known)

        written = await self._guarded(call)
        if written.entries:
            await self._to_cache(lambda: self.cache.apply(written.entries))
            for listener in self._listeners:
                listener()
        return written

    async def _guarded(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the engine through its breaker, with retries."""
        if not self.store_breaker.allow():
            raise StorageUnavailableError(
                f"the store is out of order ({self.store_breaker.last_error});"
                f" the next trial is in {self.store_breaker.retry_after:.0f} s"
            )
        try:
            answer = await with_retries(
                call,
                retry_on=STORE_FAILURES,
                clock=self._clock,
                attempts=self._attempts,
                rng=self._rng,
            )
        except STORE_FAILURES as error:
            self.store_breaker.failure(error)
            raise StorageUnavailableError(f"the store is out of order: {error}") from error
        except MemoryMCPError:
            self.store_breaker.success()
            raise
        except BaseException:
            self.store_breaker.release()
            raise
        self.store_breaker.success()
        return answer

    async def _ensure_open(self) -> None:
        if self._opened:
            return
        async with self._opening:
            if not self._opened:
                await self.engine.open()
                self._opened = True

    async def _to_cache(self, call: Callable[[], None]) -> None:
        """Write to the cache on its own thread: a writer of another process that was stopped holds LMDB's lock."""
        if not self._cache_allows():
            return
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.run_in_executor(self._threads, call), _CACHE_WRITE_SECONDS)
        except TimeoutError:
            self._cache_failed(CacheUnavailableError("a write to the cache does not end"))
        except CacheUnavailableError as error:
            self._cache_failed(error)
        else:
            self.cache_breaker.success()

    def _cache_allows(self) -> bool:
        trial = self.cache_breaker.state == "half_open"
        if not self.cache_breaker.allow():
            return False
        if trial:
            try:
                self.cache.rebuild()
            except CacheUnavailableError as error:
                self._cache_failed(error)
                return False
        return True

    def _cache_failed(self, error: CacheUnavailableError) -> None:
        self.cache_breaker.failure(error)
        _log.warning("the cache failed: %s", error)

    async def _fill(self, head: int) -> None:
        """Fill an empty cache with what was written last; anything else comes with the first read."""
        self.from_cache(lambda: self.cache.skip_to(head))
        newest = await self.read(lambda session: queries.episode_ids_newest_first(session, _WARM_EPISODES))
        for namespace, episode_id in newest:
            found = await self.read(
                lambda session, name=namespace, subject=episode_id: queries.episode(session, name, subject)  # type: ignore[misc]
            )
            if found is not None:
                await self._to_cache(lambda episode=found: self.cache.put(puts_for_episode(episode)))  # type: ignore[misc]

    def _refreshed(self) -> int:
        self.cache.refresh()
        return self.cache.applied()

    def _waiting_for(self, namespace: str, episode_id: str) -> list[Command]:
        if self.pending() == 0:
            return []
        return [command for _, command in self.journal.first() if concerns(command, namespace, episode_id)]
