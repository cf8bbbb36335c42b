"""Meaning: the embedding model of this process, the follower that embeds new units, and the index over them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from memory_mcp.clock import Clock, IdFactory
from memory_mcp.errors import EmbedderError
from memory_mcp.records.ledger import DEFAULT_NAMESPACE, Command
from memory_mcp.retrieval.embedders.base import Embedder
from memory_mcp.retrieval.vectors import VectorIndex, pack
from memory_mcp.storage import queries
from memory_mcp.storage.learned import EMBEDDING, CursorMovedError
from memory_mcp.storage.leases import Lead, Lease, LeaseLostError, Leases
from memory_mcp.storage.session import Session
from memory_mcp.storage.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

State = Literal["loading", "ready", "off", "failed"]

_log = logging.getLogger(__name__)

_BATCH = 32
_QUERIES_KEPT = 256
# a model reads some hundred tokens; what lies far behind them would only be kept and compared
_MAX_CHARACTERS = 8_000


class Semantic:
    """The semantic leg. While it loads, fails or is off, searches go on with words alone and say so.

    Args:
        factory: makes the embedder; called on a thread, None means that there is none.
    """

    name = "embedding"

    def __init__(
        self, store: Store, clock: Clock, ids: IdFactory, leases: Leases, factory: Callable[[], Embedder | None]
    ) -> None:
        self.state: State = "loading"
        self.error = ""
        self.embedder: Embedder | None = None
        self.index: VectorIndex | None = None
        self.lead: Lead | None = None
        self._leases = leases
        self._working = asyncio.Lock()
        self._store = store
        self._clock = clock
        self._ids = ids
        self._factory = factory
        self._loaded = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._queries: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        store.on_replaced(self._forget)

    def start(self) -> None:
        """Load the model behind everything else."""
        self._loading = asyncio.create_task(self._load(), name="load-embedder")

    async def stop(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    async def loaded(self, timeout: float) -> bool:  # noqa: ASYNC109 - a bound on a wait, not a cancellation
        """Whether the model is ready, waiting for it a bounded time."""
        try:
            # not `wait_for`, which swallows a cancellation that comes together with the result
            async with asyncio.timeout(timeout):
                await self._loaded.wait()
        except TimeoutError:
            return False
        return self.state == "ready"

    async def query_vector(self, text: str) -> NDArray[np.float32] | None:
        """The unit vector of a question, or None when there is no model to make it."""
        if self.embedder is None:
            return None
        text = text[:_MAX_CHARACTERS]
        known = self._queries.get(text)
        if known is None:
            try:
                known = (await asyncio.to_thread(self.embedder.embed, [text]))[0]
            except EmbedderError as error:
                self._fail(error)
                return None
            self._queries[text] = known
            if len(self._queries) > _QUERIES_KEPT:
                self._queries.popitem(last=False)
        return known

    async def refresh(self) -> None:
        """Take over vectors that any process has stored."""
        index = self.index
        while index is not None:
            fresh = await self._store.read(index.refresh)
            more = index.extend(fresh)
            if index.wasteful:
                # searches under way go on with the old one
                self.index = index = index.compacted()
            if not more:
                return

    async def step(self) -> bool:
        """Embed some of the units that have no vector of this model yet, and take over what others have embedded."""
        if self.embedder is None and not await self.loaded(timeout=60.0):
            return False
        embedder, lead = self.embedder, self.lead
        if embedder is None or lead is None:
            return False
        async with self._working:
            more = await self._embed(embedder, lead)
            await self.refresh()
        return more

    async def catch_up(self) -> None:
        """Embed all units that there are now, or wait for the process that does.

        Raises:
            StorageUnavailableError: the store is out of order.
        """
        lead = self.lead
        if lead is None:
            return
        last = await self._store.read(
            lambda session: session.all("SELECT coalesce(max(unit_id), 0) FROM units WHERE embed = 1")[0][0]
        )

        def reached(session: Session) -> bool:
            left = session.one(
                "SELECT 1 FROM units WHERE embed = 1 AND unit_id > $1 AND unit_id <= $2 LIMIT 1",
                queries.cursor(session, lead.name),
                last,
            )
            return left is None or self.embedder is None

        await lead.until(reached, lambda: self.step())
        await self.refresh()

    async def _embed(self, embedder: Embedder, lead: Lead) -> bool:
        def look(session: Session) -> tuple[Lease, int, list[tuple[int, int, str]]]:
            cursor = queries.cursor(session, lead.name)
            rows = session.all(
                "SELECT unit_id, ns_hash, text FROM units WHERE embed = 1 AND unit_id > $1 ORDER BY unit_id LIMIT $2",
                cursor,
                _BATCH,
            )
            return lead.look(session), cursor, [(row[0], row[1], row[2]) for row in rows]

        seen, cursor, units = await self._store.read(look)
        turn = lead.turn(seen, waiting=bool(units))
        if turn is None:
            return False
        try:
            vectors = await asyncio.to_thread(embedder.embed, [text for _, _, text in units])
        except EmbedderError as error:
            self._fail(error)
            return False
        rows = [(unit_id, ns_hash, pack(row)) for (unit_id, ns_hash, _), row in zip(units, vectors, strict=True)]
        command = Command(
            operation="vectors.put",
            namespace=DEFAULT_NAMESPACE,
            payload={
                "model_id": embedder.model_id,
                "vectors": rows,
                "cursor": {"name": lead.name, "from": cursor, "to": units[-1][0], "claim": turn.claim()},
            },
            write_id=self._ids.new(),
            at=self._clock.now(),
        )
        try:
            await self._store.write_derived(command)
        except (CursorMovedError, LeaseLostError) as error:
            _log.debug("another process has embedded these units: %s", error)
            return True
        return len(units) == _BATCH

    async def _load(self) -> None:
        try:
            embedder = await asyncio.to_thread(self._factory)
            if embedder is None:
                self.state = "off"
                return
            self.index = VectorIndex(embedder.model_id, embedder.dimensions)
            # vectors of two models have nothing to do with each other
            self.lead = self._leases.lead(f"{EMBEDDING}:{embedder.model_id}")
            self.embedder = embedder
            self.state = "ready"
        except EmbedderError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - searching by words goes on whatever a provider does
            self._fail(EmbedderError(f"the embedder cannot be loaded: {error}"))
        finally:
            self._loaded.set()

    def _forget(self) -> None:
        """Begin with an empty index: the vectors were those of another store."""
        if self.index is not None:
            self.index = VectorIndex(self.index.model_id, self.index.dimensions)

    def _fail(self, error: EmbedderError) -> None:
        self.state = "failed"
        self.error = error.message
        self.embedder = None
        _log.error("searching by words alone: %s", error)
