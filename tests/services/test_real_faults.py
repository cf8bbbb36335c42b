"""Faults at random, a disk that is really full, a store put back: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.errors import MemoryMCPError, StorageUnavailableError
from memory_mcp.memory import Memory
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import ManualClock
from tests.services.support import (
    LATER,
    NAMESPACE,
    a_life,
    eventually,
    open_files,
    operations,
    ready,
    start,
    took,
    tools_of,
    whole,
)
from tests.storage.support import FailingEngine


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the platform does not tell its open files")
async def test_opening_and_closing_many_memories_leaves_no_file_and_no_thread_behind(settings: Settings) -> None:

    async with Memory(settings) as memory:
        await start(memory)
    files, threads = open_files(), threading.active_count()
    for _ in range(200):
        async with Memory(settings):
            pass
    assert open_files() <= files
    # the event loop keeps a few threads for whoever needs one
    assert threading.active_count() <= threads + 8


@pytest.mark.parametrize("seed", range(8))
async def test_through_random_faults_every_acknowledged_write_is_there_exactly_once(
    settings: Settings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    engine = FailingEngine(SqliteEngine(settings.data_dir / "memory.db", TextRecipe()))
    memory = await Memory(settings, engine=engine, clock=clock).open()
    expected: dict[str, list[str]] = {}
    full = False
    append = Journal.append

    def maybe_append(self: Journal, command: Any) -> int:
        if full:
            raise StorageUnavailableError("full")
        return append(self, command)

    monkeypatch.setattr(Journal, "append", maybe_append)
    for number in range(60):
        fault = rng.random()
        if fault < 0.25:
            engine.fails = set(rng.sample(["read", "write", "open"], rng.randint(0, 2)))
        elif fault < 0.35:
            engine.ambiguous = rng.randint(0, 2)
        elif fault < 0.45:
            full = rng.random() < 0.3
        elif fault < 0.55:
            clock.advance(rng.choice([0.3, 5, LATER]))
        elif fault < 0.6:
            await memory.close()
            memory = await Memory(settings, engine=engine, clock=clock).open()
        elif fault < 0.65:
            shutil.rmtree(settings.data_dir / "cache", ignore_errors=True)
        # were a write refused whose commit happened all the same, nobody could say what is expected
        full = full and not engine.ambiguous
        try:
            if not expected or rng.random() < 0.2:
                expected[str((await start(memory, f"task {number}"))["episode_id"])] = []
            else:
                episode_id = rng.choice(list(expected))
                await took(memory, episode_id, f"t{number}")
                expected[episode_id].append(f"t{number}")
        except StorageUnavailableError:
            assert full
        if expected:
            episode_id = rng.choice(list(expected))
            try:
                told = await tools_of(memory, episode_id)
            except StorageUnavailableError:
                assert {"read", "open"} & engine.fails or memory.store.store_breaker.state != "closed"
            else:
                assert told == expected[episode_id]
    engine.fails, engine.ambiguous, full = set(), 0, False
    clock.advance(LATER)
    await eventually(lambda: memory.store.pending() == 0, clock)
    for episode_id, tools in expected.items():
        assert await tools_of(memory, episode_id) == tools
    written = await operations(memory)
    assert written.count("episode.created") == len(expected)
    assert written.count("episode.step_added") == sum(map(len, expected.values()))
    assert "write.conflict" not in written
    assert await whole(memory)
    await memory.store.catch_up()
    for episode_id in expected:
        stored = await memory.store.read(
            lambda session, name=episode_id: queries.episode(session, NAMESPACE, name)  # type: ignore[misc]
        )
        cached = memory.store.cache.episode(NAMESPACE, episode_id)
        assert cached is None or cached["steps"] == stored["steps"]
    await memory.close()


FULL_DISK = """
import asyncio, json, resource, sys
from pathlib import Path
from memory_mcp.errors import MemoryMCPError
from memory_mcp.memory import Memory
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from memory_mcp.storage.ledger import verify
from tests.services.support import NAMESPACE, finish, ready, start, took, tools_of

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(directory):
    often = {"breaker_reset_seconds": 0.2, "poll_seconds": 0.05}
    settings = Settings(data_dir=directory, embedder="none", retry_attempts=2, **often)
    told = {}
    async with Memory(settings) as memory:
        await ready(memory)
        log = directory / "memory.db-wal"
        first = (await start(memory))["episode_id"]
        while log.stat().st_size < 300_000:
            await took(memory, first, "before")
        count = len(await tools_of(memory, first))
        room(200_000)
        answers = [await took(memory, first, f"t{number}") for number in range(8)]
        second = await start(memory, "begun on a full disk")
        await took(memory, second["episode_id"], "a", "b")
        told["pending"] = all(answer.get("pending", False) for answer in [*answers, second])
        told["seen"] = [(await tools_of(memory, first))[count:], await tools_of(memory, second["episode_id"])]
        health = await memory.status.health()
        told["health"] = [health["overall"], health["journal"]["status"], health["journal"].get("pending_writes")]
        told["error"] = memory.store.write_breaker.last_error
        room(4096)
        try:
            await took(memory, first, "nowhere")
        except MemoryMCPError as error:
            told["refused"] = error.code
        told["unhealthy journal"] = (await memory.status.health())["journal"]["status"]
        room(resource.RLIM_INFINITY)
        async with asyncio.timeout(20):
            while memory.store.pending() or memory.store.journal_error or memory.store.cache_breaker.state != "closed":
                await asyncio.sleep(0.01)
        told["after"] = [(await tools_of(memory, first))[count:], await tools_of(memory, second["episode_id"])]
        await finish(memory, first)
        await memory.store.catch_up()
        told["overall"] = (await memory.status.health())["overall"]
        told["findings"] = len(await memory.store.read(verify))
        entries = await memory.store.read(lambda session: queries.ledger(session, 0, 10_000))
        told["steps"] = sum(entry.operation == "episode.step_added" for entry in entries) - count
    print(json.dumps(told))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_on_a_really_full_disk_writes_wait_and_are_replayed_when_there_is_room(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this platform has no limit on the size of files")
    tmp_path.joinpath("data").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    waited = [[f"t{number}" for number in range(8)], ["a", "b"]]
    assert told["pending"]
    assert told["seen"] == waited
    assert told["health"] == ["degraded", "degraded", 10]
    assert "StoreFailure" in told["error"]
    assert told["refused"] == "storage_unavailable"
    assert told["unhealthy journal"] == "unhealthy"
    assert told["after"] == waited
    assert told["overall"] == "healthy"
    assert told["findings"] == 0
    assert told["steps"] == 10


async def test_a_store_that_was_put_back_to_an_older_copy_is_not_contradicted_by_its_cache(settings: Settings) -> None:
    async with Memory(settings) as memory:
        await ready(memory)
        old = await a_life(memory)
    copy = (settings.data_dir / "memory.db").read_bytes()
    async with Memory(settings) as memory:
        new = await a_life(memory)
        await took(memory, str((await start(memory))["episode_id"]), "more")
    (settings.data_dir / "memory.db").write_bytes(copy)
    async with Memory(settings) as memory:
        assert await tools_of(memory, old) == ["git", "make"]
        with pytest.raises(MemoryMCPError) as refused:
            await memory.episodes.get(new, NAMESPACE)
        assert refused.value.code == "episode_not_found"
        await ready(memory)
        await a_life(memory)
        assert (await memory.status.health())["overall"] == "healthy"
