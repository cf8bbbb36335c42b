"""The store as services see it: source of truth, cache and pending journal behind circuit breakers.

    write   store (retried) ── fails ──> pending journal (synced) ── fails ──> error
    read    process ──> cache ──> store;   store out ──> cache and journal, marked as degraded

There is no other way to write, and no copy in memory that a crash could take away. Reading and writing the store have
a breaker each, because on a full disk, or behind a process that was stopped, one works without the other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from memory_mcp.clock import Clock
from memory_mcp.errors import EpisodeClosedError, MemoryMCPError, StorageUnavailableError, StoreCorruptError
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command, Written
from memory_mcp.storage import queries
from memory_mcp.storage.breaker import CircuitBreaker, with_retries
from memory_mcp.storage.cache import Cache
from memory_mcp.storage.cache_guard import CacheGuard
from memory_mcp.storage.engine import STORE_FAILURES, Engine, StoreFailure, StoreMovedError, StoreReadOnlyError
from memory_mcp.storage.fold import fold
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.pending import Pending
from memory_mcp.storage.session import Session

T = TypeVar("T")

_log = logging.getLogger(__name__)

_NEEDS_OPEN = ("episode.add_steps", "episode.complete", "memory.show")
_CATCH_UP_BATCH = 256
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
        breaker = partial(CircuitBreaker, clock=clock, failures=failures, reset_seconds=reset_seconds)
        self.store_breaker = breaker("store")
        self.write_breaker = breaker("store_writes")
        self.cache_breaker = breaker("cache")
        # a damaged page stays damaged, and is not seen by whoever reads another one
        self.damage: StoreCorruptError | None = None
        self._writes = {"committed": 0, "pending": 0, "refused": 0, "failed": 0}
        self._clock = clock
        self._attempts = attempts
        self._rng = rng or random.Random()
        self._opened = False
        self._opening = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._messengers: list[Callable[[], None]] = []
        self._replaced_listeners: list[Callable[[], None]] = []
        self._store_id = ""
        # what the log has told
        self._read_only = ""
        self._failure: MemoryMCPError | None = None
        self._guard = CacheGuard(cache, self.cache_breaker)
        self._pending = Pending(journal, clock, partial(self._commit, replayed=True))

    async def open(self) -> None:
        """Open journal, engine and cache. Whichever fails leaves the store degraded, not closed.

        Raises:
            SchemaTooNewError: the store belongs to a newer program.
        """
        self._pending.open()
        try:
            await self._guarded(self._ensure_open, self.store_breaker)
        except StorageUnavailableError as error:
            _log.error("the store cannot be opened: %s", error)
            self._guard.open("")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish the writes under way and close everything."""
        try:
            await self.engine.close()
        finally:
            self._guard.close()
            self._pending.close()

    @property
    def degraded(self) -> bool:
        """Whether the source of truth is out of order, or writes wait for it: answers may lack something."""
        return any(breaker.state != "closed" for breaker in (self.store_breaker, self.write_breaker)) or (
            self.pending() > 0
        )

    @property
    def read_only(self) -> str:
        """Why the store can only be read; empty when it can be written."""
        return self.engine.read_only

    @property
    def journal_error(self) -> str:
        """Why the pending journal could not take a write; empty when it can."""
        return self._pending.error

    @property
    def writes(self) -> dict[str, int]:
        """What became of the writes of this process."""
        return {**self._writes, "replayed": self._pending.replayed, "conflicts": self._pending.conflicts}

    def pending(self) -> int:
        """Writes in the journal."""
        return self._pending.count(stranded=bool(self.read_only))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, on the event loop, whenever this process has committed something."""
        self._listeners.append(listener)

    def on_commit(self, messenger: Callable[[], None]) -> None:
        """Have `messenger` called, on the event loop, after every commit, also one that left no entry in the ledger."""
        self._messengers.append(messenger)

    def on_replaced(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, on the event loop, when another store has taken this one's place (a restore):
        whatever is remembered of the old one, its ledger positions too, must be dropped."""
        self._replaced_listeners.append(listener)

    async def data_version(self) -> int:
        """A number that changes when somebody else has committed.

        Raises:
            StoreFailure: the database failed.
        """
        try:
            return await self.engine.data_version()
        except StoreMovedError:
            self._opened = False
            raise

    async def write(self, command: Command) -> Written:
        """Carry out a command, or keep it durably until the store can.

        Raises:
            MemoryMCPError: the command was refused; nothing was written.
            StorageUnavailableError: neither store nor journal could take it.
        """
        cause: Exception | None = None
        # a write must not overtake those that wait
        if self.pending() == 0 or await self._pending.drain():
            try:
                written = await self._commit(command)
            except StorageUnavailableError as error:
                cause = error
            except MemoryMCPError:
                self._writes["refused"] += 1
                raise
            else:
                self._writes["committed"] += 1
                return written
        self._refuse_what_contradicts(command)
        try:
            await self._pending.append(command)
        except StorageUnavailableError:
            self._writes["failed"] += 1
            if isinstance(cause, StoreReadOnlyError):
                # this says what to do about both
                raise cause from None
            raise
        self._writes["pending"] += 1
        _log.warning("%s waits in the journal: %s", command.operation, cause or "others wait before it")
        return Written({}, pending=True)

    async def write_derived(self, command: Command) -> Written:
        """Carry out a command that has no place in the journal: a follower will try again, and who changes history
        wants to know what it did.

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

        return await self._guarded(call, self.store_breaker)

    async def episode(self, namespace: str, episode_id: str) -> Loaded:
        """Read an episode through the cache.

        Raises:
            StorageUnavailableError: the store is out of order and no copy of the episode is at hand.
        """
        waiting = self._pending.writes_to(namespace, episode_id, stranded=bool(self.read_only))
        cached = self.from_cache(lambda: self.cache.episode(namespace, episode_id))
        if cached is not None and not waiting and not self._guard.behind():
            return Loaded(cached, degraded=self.store_breaker.state != "closed")

        def ask(session: Session) -> tuple[Json | None, int, list[Command]]:
            # a commit that seemed to fail may have happened
            open_writes = [command for command in waiting if not queries.written(session, command.write_id)]
            return *_snapshot(session, namespace, episode_id), open_writes

        try:
            stored, position, waiting = await self.read(ask)
        except StorageUnavailableError:
            found = _folded(cached, waiting)
            if found is None:
                raise
            return Loaded(found, degraded=True, pending=len(waiting))
        if stored is not None:
            await self._guard.tell(partial(self.cache.fill, stored, position))
        return Loaded(_folded(stored, waiting), degraded=bool(waiting), pending=len(waiting))

    def seen(self, position: int) -> None:
        """Note what a caller was told about: no later read of this process will know less."""
        self._guard.missed(position)

    def from_cache(self, call: Callable[[], T]) -> T | None:
        """The answer of the cache, or None when it is out of order."""
        return self._guard.ask(call)

    async def catch_up(self) -> None:
        """Bring the cache up to the ledger, in order.

        Raises:
            StorageUnavailableError: the store is out of order.
        """
        head, applied = await self._levels(self.read)
        started = self.from_cache(self.cache.started)
        if started is False:
            await self._fill(head)
        if not started or applied is None:
            return
        while applied < head:
            entries = await self.read(partial(queries.ledger, after=applied, limit=_CATCH_UP_BATCH))
            if not entries or not await self._guard.tell(partial(self.cache.apply, entries)):
                self._guard.missed(head)
                return
            applied = entries[-1].position

    async def compact(self) -> bool:
        """Give free pages back to the file system; whether nothing that was erased is left in the database's files.

        Raises:
            StorageUnavailableError: the store is out of order.
        """

        async def call() -> bool:
            await self._ensure_open()
            return await self.engine.compact()

        return await self._guarded(call, self.write_breaker)

    async def wasteful(self) -> bool:
        """Whether so much of the database is free pages that `compact` is worth its work."""
        return await self.read(self.engine.wasteful)

    async def rebuild_cache(self) -> None:
        """Make the cache anew, so that nothing that was erased is left in its pages."""
        self.from_cache(self.cache.rebuild)
        await self.catch_up()

    async def renew_journal(self) -> None:
        """Make an empty journal anew, so that nothing of what once waited is left in its pages."""
        await self._pending.renew()

    async def drain(self) -> bool:
        """Replay what waits in the journal, in order; True when nothing is left to wait for."""
        return await self._pending.drain()

    def _refuse_what_contradicts(self, command: Command) -> None:
        """Refuse what cache and journal show to be impossible, before it is promised to be carried out later."""
        episode_id = command.payload.get("episode_id")
        if command.operation not in _NEEDS_OPEN or episode_id is None:
            return
        cached = self.from_cache(lambda: self.cache.episode(command.namespace, episode_id))
        known = _folded(cached, self._pending.writes_to(command.namespace, episode_id))
        if known is not None and known["status"] != "open":
            self._writes["refused"] += 1
            raise EpisodeClosedError(f"episode {episode_id!r} is {known['status']} and takes no more writes")

    async def _commit(self, command: Command, *, replayed: bool = False) -> Written:
        again = replayed

        async def call() -> Written:
            nonlocal again
            await self._ensure_open()
            known, again = again, True
            # a commit that failed may be durable all the same; from the second attempt on the write_id is looked up
            return await self.engine.write(command, replayed=known)

        written = await self._guarded(call, self.write_breaker)
        if written.entries:
            if not await self._guard.tell(partial(self.cache.apply, written.entries)):
                self._guard.missed(written.position)
            for listener in self._listeners:
                listener()
        for messenger in self._messengers:
            messenger()
        return written

    async def _guarded(self, call: Callable[[], Awaitable[T]], breaker: CircuitBreaker) -> T:
        """Call the engine through a breaker, with retries."""
        if not breaker.allow():
            if self.damage is not None:
                raise StoreCorruptError(self.damage.message, hint=self.damage.hint)
            raise StorageUnavailableError(
                f"the store is out of order ({breaker.last_error}); the next trial is in {breaker.retry_after:.0f} s",
                hint=self._failure.hint if self._failure else "",
            ) from self._failure

        async def watched() -> T:
            try:
                answer = await call()
            except StoreMovedError:
                # the next attempt opens what lies there now
                self._opened = False
                raise
            self._notice_replacement()
            return answer

        try:
            answer = await with_retries(
                watched, retry_on=StoreFailure, clock=self._clock, attempts=self._attempts, rng=self._rng
            )
        except STORE_FAILURES as error:
            breaker.failure(error)
            self._failure = error
            if isinstance(error, StoreCorruptError):
                self.damage = StoreCorruptError(error.message, hint=error.hint)
                raise
            raise StorageUnavailableError(f"the store is out of order: {error}", hint=error.hint) from error
        except MemoryMCPError:
            breaker.success()
            raise
        except BaseException:
            breaker.release()
            raise
        breaker.success()
        return answer

    async def _ensure_open(self) -> None:
        if self._opened and self.engine.writable_again():
            self._opened = False
        if self._opened:
            return
        async with self._opening:
            if not self._opened:
                # connections to a file that was taken away may be left
                await self.engine.close()
                await self.engine.open()
                try:
                    self._notice_replacement()
                    self._guard.open(self.engine.store_id)
                    head, _ = await self._levels(self.engine.read)
                    # whoever wrote last may not have reached the cache any more
                    self._guard.missed(head)
                except BaseException:
                    # the next trial opens it anew; connections left behind would keep the process alive
                    await self.engine.close()
                    raise
                self._opened = True
                self.damage = None
                self._tell_read_only()

    def _tell_read_only(self) -> None:
        known, self._read_only = self._read_only, self.read_only
        if self._read_only and not known:
            _log.warning("the store can only be read: %s", self._read_only)
        elif known and not self._read_only:
            _log.info("the store can be written again")

    def _notice_replacement(self) -> None:
        found = self.engine.store_id
        known, self._store_id = self._store_id, found
        if known in ("", found):
            return
        _log.warning("the store was replaced by another one; everything remembered of it is dropped")
        self._guard.replaced(found)
        for listener in (*self._replaced_listeners, *self._listeners):
            listener()

    async def _fill(self, head: int) -> None:
        """Fill an empty cache with what was written last; anything else comes with the first read."""
        if not await self._guard.tell(partial(self.cache.start, head)):
            return
        newest = await self.read(partial(queries.episode_ids_newest_first, limit=_WARM_EPISODES))
        for namespace, episode_id in newest:
            found, position = await self.read(partial(_snapshot, namespace=namespace, episode_id=episode_id))
            if found is not None:
                await self._guard.tell(partial(self.cache.fill, found, position))

    async def _levels(self, ask: Callable[[Callable[[Session], int]], Awaitable[int]]) -> tuple[int, int | None]:
        """Where the ledger stands, and what the cache has applied of it; None when the cache is out of order.

        The cache is asked first. It never knows of more than the ledger, so what it has applied by then cannot lie
        behind where the ledger stands later, however many processes write meanwhile.
        """
        applied = self.from_cache(lambda: self._look())
        head = await ask(queries.head_position)
        if applied is not None and applied > head:
            # left over from a store that was replaced by an older copy
            applied = self.from_cache(lambda: self._look(rebuild=True))
        return head, applied

    def _look(self, *, rebuild: bool = False) -> int:
        self.cache.refresh()
        if rebuild:
            self.cache.rebuild()
        return self.cache.applied()


def _snapshot(session: Session, namespace: str, episode_id: str) -> tuple[Json | None, int]:
    return queries.episode(session, namespace, episode_id), queries.head_position(session)


def _folded(episode: Json | None, commands: list[Command]) -> Json | None:
    for command in commands:
        episode = fold(episode, command)
    return episode
