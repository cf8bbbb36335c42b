"""The checker: clients write through real server processes, which are killed at random instants, and nothing is lost.

    kill       while it works, starts, or learns; one server or two at once; the others go on
    check      everybody rests; followers and cache settle; then
               the book against the store, the store against itself, and what the door tells against the book

The same seed makes the same choices, but not the same instants: those belong to the machine.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

from memory_mcp.memory import boot_id
from memory_mcp.storage import queries
from memory_mcp.storage.cache import Cache
from memory_mcp.storage.learned import LEARNING
from tests.conftest import PATIENCE, PROGRAM, call
from tests.durability.audit import audit, reading
from tests.durability.book import Book, Entry, State, compare
from tests.durability.writer import Writer

Json = dict[str, Any]

_STYLES = {"working": 0.45, "starting": 0.2, "learning": 0.2, "two at once": 0.15}
_AT_ONCE = 16
# above what any episode of a run takes
_BUDGET = 1_000_000
_SETTLE_SECONDS = 2 * PATIENCE


class Run:
    """A data directory, the clients that write to it, and what came of it.

    Args:
        directory: where data and notes are kept.
        writers: number of clients, each with a server of its own.
        embedding: number of those whose server has the default embedding model.
        environment: for the servers.
    """

    def __init__(
        self, directory: Path, *, writers: int = 4, embedding: int = 1, seed: int = 0, **environment: str
    ) -> None:
        self.data_dir = directory / "data"
        self.scratch = directory / "processes"
        self.scratch.mkdir(parents=True)
        self.seed = seed
        self.environment = {"MEMORY_MCP_CACHE_DIR": str(directory / "user-cache"), **environment}
        self.book = Book()
        self.problems: list[str] = []
        self.pending = 0
        self.longest = 0.0
        self.over = False
        self.going = asyncio.Event()
        self.going.set()
        self.kills: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._embedding = embedding
        self._shared: list[Entry] = []
        self._checked: dict[str, int] = {}
        self._figures: Json = {}
        self.writers = [
            Writer(self, number, "--log-level", "ERROR", *(() if number < embedding else ("--embedder", "none")))
            for number in range(writers)
        ]

    async def run(self, kills: int, *, check_every: int = 25) -> Json:
        """Kill that often and check in between and at the end; the figures, `problems` among them."""
        started = time.perf_counter()
        checks = 0
        async with asyncio.TaskGroup() as group:
            for writer in self.writers:
                group.create_task(writer.live(), name=writer.name)
            while (done := self.kills.total()) < kills:
                await self._kill_until(min(kills, done + check_every))
                await self._check()
                checks += 1
            self.over = True
            self.going.set()
        await self._look_anew()
        return {
            "kills": self.kills.total(),
            "by_style": dict(self.kills),
            **self._figures,
            "accepted_as_pending": self.pending,
            "restarts": sum(writer.starts - 1 for writer in self.writers),
            "checks": checks,
            "longest_call_s": round(self.longest, 2),
            "seconds": round(time.perf_counter() - started, 1),
            "problems": self.problems,
        }

    def shared(self) -> Entry | None:
        """An episode that all may write to."""
        self._shared = [entry for entry in self._shared if not entry.closing]
        return self._shared[0] if self._shared else None

    def share(self, entry: Entry) -> None:
        self._shared.append(entry)

    # killing ------------------------------------------------------------------------------------------------------

    async def _kill_until(self, kills: int) -> None:
        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "working": self._working,
            "starting": self._starting,
            "learning": self._learning,
            "two at once": self._two,
        }
        while self.kills.total() < kills:
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))
            style = self._rng.choices(list(_STYLES), list(_STYLES.values()))[0]
            await ways[style]()

    async def _victims(self, count: int) -> list[Writer]:
        async with asyncio.timeout(PATIENCE):
            while True:
                there = [writer for writer in self.writers if writer.connected.is_set()]
                if len(there) >= count:
                    return self._rng.sample(there, count)
                await asyncio.sleep(0.005)

    async def _working(self) -> None:
        (victim,) = await self._victims(1)
        await self._kill(victim, "working")

    async def _two(self) -> None:
        for victim in await self._victims(2):
            await self._kill(victim, "two at once")

    async def _starting(self) -> None:
        (victim,) = await self._victims(1)
        starts = victim.starts
        await self._kill(victim, "working")
        async with asyncio.timeout(PATIENCE):
            while victim.starts == starts:  # noqa: ASYNC110 - it waits for the end of a process, too
                await asyncio.sleep(0.001)
        await victim.pid()
        # from the first instruction to behind the opening of store, cache and model
        await asyncio.sleep(self._rng.uniform(0.0, 1.2))
        if victim.starts == starts + 1:
            await self._kill(victim, "starting")

    async def _learning(self) -> None:
        victim = self._rng.choice(self.writers)
        victim.completing.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await victim.completing.wait()
            # completing and learning from it take some milliseconds
            await asyncio.sleep(self._rng.uniform(0.0, 0.03))
            await self._kill(victim, "learning")

    async def _kill(self, victim: Writer, style: str) -> None:
        if not victim.killed:
            await victim.kill()
            self.kills[style] += 1

    # checking -----------------------------------------------------------------------------------------------------

    async def _check(self) -> None:
        """Have everybody rest, and hold book, store, and what the door tells against each other."""
        self.going.clear()
        async with asyncio.timeout(_SETTLE_SECONDS):
            await asyncio.gather(*(writer.resting.wait() for writer in self.writers))
        await self._settle()
        found = await asyncio.to_thread(audit, self.data_dir, embedded=self._embedding > 0)
        self.problems += found.problems
        problems, figures = self.book.compare(found.episodes)
        self.problems += problems
        self._figures = {**figures, **found.figures}
        versions = {item["episode_id"]: item["version"] for item in found.episodes}
        changed = {name for name, version in versions.items() if self._checked.get(name) != version}
        self._checked = versions
        client = self._rng.choice(self.writers).client
        assert client is not None
        await self._read_through(client, changed)
        self.going.set()

    async def _settle(self) -> None:
        """Wait until followers and cache have caught up, as they have to by themselves."""
        until = time.monotonic() + _SETTLE_SECONDS
        while not await asyncio.to_thread(settled, self.data_dir, embedded=self._embedding > 0):
            if time.monotonic() > until:
                self.problems.append("followers and cache did not catch up")
                return
            await asyncio.sleep(0.05)

    async def _read_through(self, client: Client, episode_ids: set[str]) -> None:
        known = {entry.episode_id: entry for entry in self.book.entries if entry.episode_id in episode_ids}
        waiting = list(known.values())
        while waiting:
            batch, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            told = await asyncio.gather(
                *(call(client, "get_episode", episode_id=entry.episode_id, token_budget=_BUDGET) for entry in batch)
            )
            for entry, episode in zip(batch, told, strict=True):
                assert "next_step" not in episode
                self.problems += [f"as told: {problem}" for problem in compare(entry, episode)]
                if episode.get("pending") or episode.get("degraded"):
                    self.problems.append(f"as told: {entry.create.name} is marked as pending or degraded")

    async def _look_anew(self) -> None:
        """A server that has seen nothing of all this finds everything."""
        written = {entry.episode_id for entry in self.book.entries if entry.create.state is State.ACKNOWLEDGED}
        # not `connected`, which bounds all of it: after many kills there is much to read
        parameters = StdioServerParameters(
            command=str(PROGRAM),
            args=["serve", "--data-dir", str(self.data_dir), "--embedder", "none"],
            env={**os.environ, **self.environment},
        )
        async with Client(parameters) as client:
            await self._read_through(client, written)
            health = await call(client, "health_check")
            if health["overall"] != "healthy":
                self.problems.append(f"a new server is not well: {health}")


def settled(data_dir: Path, *, embedded: bool) -> bool:
    """Whether nothing is left to do for followers and cache."""
    with reading(data_dir) as session:
        head = queries.head_position(session)
        if queries.cursor(session, LEARNING) != queries.last_position(session, "episode.completed"):
            return False
        bare = session.one("SELECT 1 FROM units WHERE embed = 1 AND unit_id NOT IN (SELECT unit_id FROM vectors)")
        if embedded and bare is not None:
            return False
        row = session.one("SELECT value FROM meta WHERE key = 'store_id'")
        assert row is not None
    cache = Cache(data_dir / "cache", str(row[0]), boot_id())
    cache.open()
    try:
        return cache.applied() == head
    finally:
        cache.close()
