"""A memory: store, followers and services of one data directory, in this process."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from memory_mcp.clock import Clock, IdFactory, SystemClock
from memory_mcp.errors import StorageUnavailableError
from memory_mcp.learning.follower import OCCASIONS, Learner
from memory_mcp.learning.guidance import Guidance
from memory_mcp.learning.patterns import PatternBooks
from memory_mcp.metrics import Metrics
from memory_mcp.retrieval.embedders import create_embedder
from memory_mcp.retrieval.embedders.base import Embedder
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.retrieval.search import Search
from memory_mcp.retrieval.semantic import Semantic
from memory_mcp.services.analysis import PatternService
from memory_mcp.services.episodes import EpisodeService
from memory_mcp.services.forgetting import ForgetService
from memory_mcp.services.history import HistoryService
from memory_mcp.services.recall import RecallService
from memory_mcp.services.retention import Retention
from memory_mcp.services.status import StatusService
from memory_mcp.settings import Settings
from memory_mcp.storage import filesystem
from memory_mcp.storage.backup import place_of
from memory_mcp.storage.backup_schedule import ScheduledBackups
from memory_mcp.storage.cache import Cache
from memory_mcp.storage.engine import Engine
from memory_mcp.storage.followers import Upkeep
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.leases import Leases
from memory_mcp.storage.queries import last_position
from memory_mcp.storage.sqlite import SqliteEngine
from memory_mcp.storage.store import Store
from memory_mcp.storage.wakes import Wakes

_log = logging.getLogger(__name__)


class Memory:
    """Everything that a door needs. Use it as an asynchronous context manager, or call `open` and `close`.

    Args:
        settings: where the data lies and how it is treated.
        clock, rng: time and randomness, for tests.
        engine: the source of truth in place of the SQLite file in `settings.data_dir`.
        embedder: makes the embedding model in place of the one that the settings name.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        engine: Engine | None = None,
        embedder: Callable[[], Embedder | None] | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.ids = IdFactory(self.clock)
        self.metrics = Metrics()
        data = settings.data_dir
        self.store = Store(
            engine
            or SqliteEngine(
                data / "memory.db",
                TextRecipe(),
                lock_seconds=settings.lock_seconds,
                busy_seconds=settings.busy_seconds,
                synchronous=settings.synchronous,
                clock=self.clock,
            ),
            Cache(data / "cache", "", boot_id(), entries=settings.cache_entries),
            Journal(data / "pending"),
            self.clock,
            failures=settings.breaker_failures,
            reset_seconds=settings.breaker_reset_seconds,
            attempts=settings.retry_attempts,
            rng=rng,
        )
        self.wakes = Wakes(data)
        self.leases = Leases(self.store, self.wakes, self.clock, boot_id(), settings.lease_seconds)
        self.semantic = Semantic(
            self.store,
            self.clock,
            self.ids,
            self.leases,
            embedder or (lambda: create_embedder(settings.embedder, settings.embedding_model)),
        )
        self.learner = Learner(self.store, self.clock, self.ids, self.leases)
        self.upkeep = Upkeep(
            self.store,
            self.clock,
            self.wakes,
            poll_seconds=settings.poll_seconds,
            sync_seconds=settings.sync_seconds,
        )
        self.upkeep.add(self.learner)
        self.upkeep.add(self.semantic)
        self.retention = Retention(
            self.store, self.clock, self.ids, self.leases, settings.retention, settings.retention_seconds
        )
        self.upkeep.add(self.retention)
        self.backups = ScheduledBackups(
            self.store, data, self.clock, hours=settings.backup_hours, keep=settings.backup_keep
        )
        if settings.backup_hours:
            self.upkeep.add(self.backups)
        search = Search(self.store, self.semantic, self.clock)
        books = PatternBooks(self.store)
        guidance = Guidance(self.store, search, books)
        self.episodes = EpisodeService(
            self.store, guidance, self.learner, self.metrics, self.clock, self.ids, settings.actor
        )
        self.history = HistoryService(self.store, self.clock, self.ids, settings.actor)
        self.forgetting = ForgetService(self.store, self.clock, self.ids, place_of(data), settings.actor)
        self.upkeep.add(self.forgetting)
        self.recall = RecallService(self.store, search, self.semantic, books)
        self.patterns = PatternService(self.store, books)
        self.status = StatusService(
            self.store,
            self.semantic,
            self.learner,
            self.upkeep,
            self.leases,
            self.metrics,
            data,
            self.backups,
            self.retention,
        )

    async def open(self) -> Self:
        """Open the store and start what runs behind it; the embedding model loads in the background.

        Raises:
            SchemaTooNewError: the data directory was written by a newer version.
            StorageUnavailableError: the data directory cannot be made.
            NetworkFileSystemError: it lies on a network.
            MigrationRefusedError: the store is of an older version, and no copy of it can be saved.
        """
        try:
            self.settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageUnavailableError(
                f"cannot make the data directory {self.settings.data_dir}: {error}",
                hint="Choose another one with --data-dir.",
            ) from error
        if not self.settings.allow_network_file_system:
            filesystem.refuse_network(self.settings.data_dir)
        await self.store.open()
        self.semantic.start()
        self.upkeep.start()
        return self

    async def close(self) -> None:
        """Stop the background work and close the store. Whatever was acknowledged is on disk already."""
        await self.upkeep.stop()
        await self.semantic.stop()
        await self.store.close()

    async def settle(self) -> None:
        """Wait until everything completed so far is learned and embedded. For imports, demonstrations and tests.

        Raises:
            StorageUnavailableError: the store is out of order.
        """
        await self.learner.catch_up(
            await self.store.read(lambda session: max(last_position(session, name) for name in OCCASIONS))
        )
        if await self.semantic.loaded(timeout=120.0):
            await self.semantic.catch_up()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def boot_id() -> str:
    """What identifies this boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        return str(int(psutil.boot_time()))
