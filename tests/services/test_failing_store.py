"""A failing store, seen through the public interface: nothing is lost or doubled, and health tells."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable
from typing import Any

import pytest

from memory_mcp.errors import EpisodeClosedError, MemoryMCPError, SchemaTooNewError, StorageUnavailableError
from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.retrieval.search import Query
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from memory_mcp.storage.journal import Journal
from tests.conftest import PATIENCE, ManualClock, Open
from tests.services.support import (
    LATER,
    NAMESPACE,
    a_life,
    eventually,
    finish,
    open_files,
    operations,
    ready,
    start,
    took,
    tools_of,
    whole,
)
from tests.storage.support import FailingEngine


async def test_while_the_store_fails_known_episodes_are_told_and_marked(memory: Memory, engine: FailingEngine) -> None:
    episode_id = await a_life(memory)
    engine.fails = {"read", "write"}
    for _ in range(10):
        # the first few answers come before the breaker knows; from then on each is marked
        told = await memory.episodes.get(episode_id, NAMESPACE)
        assert [step["tool"] for step in told["steps"]] == ["git", "make"]
        await memory.recall.query(Query(text="broken cache life", namespace=NAMESPACE))
    assert told["degraded"]
    found = await memory.recall.query(Query(text="broken cache life", namespace=NAMESPACE))
    assert [episode["episode_id"] for episode in found["episodes"]] == [episode_id]
    assert found["degraded"]
    health = await memory.status.health()
    assert health["overall"] == "degraded"
    assert health["primary_storage"]["status"] == "unhealthy"
    assert health["primary_storage"]["breaker"] == "open"
    with pytest.raises(StorageUnavailableError):
        await memory.episodes.get("never heard of", NAMESPACE)


async def test_writes_wait_while_the_store_fails_and_are_told_before_and_after_they_are_replayed(
    memory: Memory, engine: FailingEngine, clock: ManualClock
) -> None:
    known = str((await start(memory, "known"))["episode_id"])
    await took(memory, known, "git")
    engine.fails = {"read", "write"}
    fresh = await start(memory, "fresh")
    assert fresh["pending"]
    new = str(fresh["episode_id"])
    for tool in ("a", "b", "c"):
        assert (await took(memory, new, tool))["pending"]
        assert (await took(memory, known, tool.upper()))["pending"]
    done = await finish(memory, new)
    assert done["pending"]
    told = await memory.episodes.get(new, NAMESPACE)
    assert told["status"] == "completed"
    assert [step["tool"] for step in told["steps"]] == ["a", "b", "c"]
    assert (told["pending"], told["degraded"], told["pending_writes"]) == (True, True, 5)
    told = await memory.episodes.get(known, NAMESPACE)
    assert [step["tool"] for step in told["steps"]] == ["git", "A", "B", "C"]
    assert told["pending_writes"] == 3
    health = await memory.status.health()
    assert (health["overall"], health["journal"]["pending_writes"]) == ("degraded", 8)

    engine.fails = set()
    clock.advance(LATER)
    await eventually(lambda: memory.store.pending() == 0, clock)
    for episode_id, tools in ((new, ["a", "b", "c"]), (known, ["git", "A", "B", "C"])):
        told = await memory.episodes.get(episode_id, NAMESPACE)
        assert [step["tool"] for step in told["steps"]] == tools
        assert "pending" not in told
        assert "degraded" not in told
    order = [operation for operation in await operations(memory) if operation != "episode.learned"]
    assert order == [
        "episode.created",
        "episode.step_added",
        "episode.created",
        *["episode.step_added"] * 6,
        "episode.completed",
    ]
    await memory.settle()
    assert (await memory.episodes.get(new, NAMESPACE))["reward"]["total"] > 0
    assert await whole(memory)
    assert (await memory.status.health())["overall"] == "healthy"


async def test_a_journal_that_is_taken_away_while_it_is_needed_comes_back_with_what_it_held(
    memory: Memory, settings: Settings, engine: FailingEngine, clock: ManualClock
) -> None:
    engine.fails = {"read", "write"}
    before = str((await start(memory, "before the journal is gone"))["episode_id"])
    shutil.rmtree(settings.data_dir / "pending")
    after = str((await start(memory, "after the journal is gone"))["episode_id"])
    # what is promised is in files that another process finds
    other = Journal(settings.data_dir / "pending")
    other.open()
    assert [command.payload["episode"]["episode_id"] for _, command in other.first()] == [before, after]
    other.close()
    engine.fails = set()
    clock.advance(LATER)
    await eventually(lambda: memory.store.pending() == 0, clock)
    for episode_id in (before, after):
        assert await tools_of(memory, episode_id) == []
    assert await whole(memory)


async def test_what_is_known_to_be_impossible_is_refused_and_does_not_wait(
    memory: Memory, engine: FailingEngine
) -> None:
    done, doing = [str((await start(memory))["episode_id"]) for _ in range(2)]
    await finish(memory, done)
    engine.fails = {"read", "write"}
    await finish(memory, doing)
    for episode_id in (done, doing):
        for call in (took(memory, episode_id, "too late"), finish(memory, episode_id, "failure")):
            with pytest.raises(EpisodeClosedError):
                await call
    assert memory.store.pending() == 1


async def test_a_write_does_not_overtake_those_that_wait(
    memory: Memory, engine: FailingEngine, clock: ManualClock
) -> None:
    episode_id = str((await start(memory))["episode_id"])
    engine.fails = {"write"}
    await took(memory, episode_id, "first")
    await took(memory, episode_id, "second")
    engine.fails = set()
    answer = await took(memory, episode_id, "third")
    assert "pending" not in answer
    assert answer["step_numbers"] == [3]
    assert await tools_of(memory, episode_id) == ["first", "second", "third"]


async def test_concurrent_writes_while_the_store_comes_and_goes_are_all_there_once(
    memory: Memory, engine: FailingEngine, clock: ManualClock
) -> None:
    episodes = [str((await start(memory, f"task {number}"))["episode_id"]) for number in range(4)]

    async def work(episode_id: str) -> None:
        for number in range(12):
            await took(memory, episode_id, f"t{number}")

    async def weather() -> None:
        for number in range(30):
            engine.fails = {"write"} if number % 3 else set()
            engine.ambiguous = number % 2
            await asyncio.sleep(0)
            clock.advance(LATER)
            await asyncio.sleep(0.002)
        engine.fails, engine.ambiguous = set(), 0

    await asyncio.gather(weather(), *(work(episode_id) for episode_id in episodes))
    clock.advance(LATER)
    await eventually(lambda: memory.store.pending() == 0, clock)
    for episode_id in episodes:
        assert await tools_of(memory, episode_id) == [f"t{number}" for number in range(12)]
    assert await whole(memory)


async def test_pending_writes_outlive_the_process_that_took_them(
    settings: Settings, engine: FailingEngine, clock: ManualClock
) -> None:
    async with Memory(settings, engine=engine, clock=clock) as memory:
        await ready(memory)
        engine.fails = {"read", "write"}
        episode_id = str((await start(memory, "taken while the store was out"))["episode_id"])
        await took(memory, episode_id, "a", "b")
    async with Memory(settings, engine=engine, clock=clock) as memory:
        told = await memory.episodes.get(episode_id, NAMESPACE)
        assert [step["tool"] for step in told["steps"]] == ["a", "b"]
        assert told["degraded"]
        await took(memory, episode_id, "c")
    engine.fails = {"open"}
    async with Memory(settings, engine=engine, clock=clock) as memory:
        assert await tools_of(memory, episode_id) == ["a", "b", "c"]
        await finish(memory, episode_id)
        assert (await memory.status.health())["overall"] == "degraded"
    async with Memory(settings) as memory:
        await eventually(lambda: memory.store.pending() == 0)
        told = await memory.episodes.get(episode_id, NAMESPACE)
        assert (told["status"], [step["tool"] for step in told["steps"]]) == ("completed", ["a", "b", "c"])
        await memory.settle()
        assert (await memory.episodes.get(episode_id, NAMESPACE))["reward"]
        assert await whole(memory)


async def test_a_pending_write_that_no_longer_fits_is_kept_as_a_conflict(
    memory: Memory, engine: FailingEngine, clock: ManualClock
) -> None:
    episode_id = str((await start(memory))["episode_id"])
    engine.fails = {"write"}
    assert (await took(memory, episode_id, "ahead of its time", number=9))["pending"]
    assert (await took(memory, "nobody", "lost"))["pending"]
    assert await tools_of(memory, episode_id) == []
    engine.fails = set()
    await eventually(lambda: memory.store.pending() == 0, clock)
    entries = await memory.store.read(lambda session: queries.ledger(session, 0, 100, "write.conflict"))
    kept = [(entry.subject_id, entry.data()["error"]["code"]) for entry in entries]
    assert kept == [(episode_id, "step_conflict"), ("nobody", "episode_not_found")]
    assert entries[0].data()["command"]["payload"]["steps"][0]["tool"] == "ahead of its time"
    assert memory.store.writes["conflicts"] == 2
    assert await whole(memory)


@pytest.mark.parametrize("readable", [True, False], ids=["readable", "unreadable"])
async def test_a_commit_that_failed_after_it_was_durable_is_there_once(
    memory: Memory, engine: FailingEngine, clock: ManualClock, readable: bool
) -> None:
    episode_id = str((await start(memory))["episode_id"])

    async def ambiguously(write: Awaitable[Json]) -> Json:
        engine.ambiguous = 1
        if not readable:
            engine.fails = {"read"}
        answer = await write
        engine.fails = set()
        return answer

    assert (await ambiguously(took(memory, episode_id, "a", "b")))["pending"]
    assert await tools_of(memory, episode_id) == ["a", "b"]
    created = await ambiguously(start(memory, "another"))
    assert (await memory.episodes.get(created["episode_id"], NAMESPACE))["steps"] == []
    await ambiguously(finish(memory, episode_id))
    assert (await memory.episodes.get(episode_id, NAMESPACE))["status"] == "completed"
    await eventually(lambda: memory.store.pending() == 0, clock)
    await memory.settle()
    assert await tools_of(memory, episode_id) == ["a", "b"]
    written = await operations(memory)
    assert written.count("episode.created") == 2
    assert written.count("episode.step_added") == 2
    assert written.count("episode.completed") == written.count("episode.learned") == 1
    assert "write.conflict" not in written
    assert await whole(memory)


async def test_a_repeated_attempt_after_a_durable_commit_gives_the_first_answer(
    settings: Settings, engine: FailingEngine, open_memory: Open
) -> None:
    memory = await open_memory(engine=engine, settings=settings.model_copy(update={"retry_attempts": 3}))
    episode_id = str((await start(memory))["episode_id"])
    engine.ambiguous = 2
    answer = await took(memory, episode_id, "a", "b")
    assert (answer["step_numbers"], answer["step_count"]) == ([1, 2], 2)
    assert "pending" not in answer
    assert await tools_of(memory, episode_id) == ["a", "b"]


async def test_without_store_and_journal_a_write_is_refused_and_health_says_so(
    memory: Memory, engine: FailingEngine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode_id = await a_life(memory)
    engine.fails = {"read", "write"}

    def full(self: Journal, *_: object) -> int:
        raise StorageUnavailableError("no space left for the pending journal")

    with monkeypatch.context() as broken:
        broken.setattr(Journal, "append", full)
        broken.setattr(Journal, "probe", full)
        for _ in range(3):
            with pytest.raises(StorageUnavailableError) as refused:
                await start(memory)
            assert refused.value.code == "storage_unavailable"
        clock.advance(1)
        health = await memory.status.health()
        assert health["overall"] == "unhealthy"
        assert health["journal"]["status"] == "unhealthy"
        # what is known can still be told
        assert await tools_of(memory, episode_id) == ["git", "make"]
    # room again: the journal takes writes at once, and health hears of it without one
    await eventually(lambda: not memory.store.journal_error, clock)
    assert (await start(memory))["pending"]
    assert (await memory.status.health())["overall"] == "degraded"


async def test_a_journal_that_could_not_be_opened_is_opened_as_soon_as_it_can_be(
    settings: Settings, engine: FailingEngine, open_memory: Open, clock: ManualClock
) -> None:
    (settings.data_dir / "pending" / "replay.lock").mkdir(parents=True)
    memory = await open_memory(engine=engine, clock=clock)
    await a_life(memory)
    health = await memory.status.health()
    assert (health["overall"], health["journal"]["status"]) == ("degraded", "unhealthy")
    engine.fails = {"write"}
    with pytest.raises(StorageUnavailableError):
        await start(memory)
    (settings.data_dir / "pending" / "replay.lock").rmdir()
    await eventually(lambda: not memory.store.journal_error, clock)
    assert (await start(memory))["pending"]


async def test_a_damaged_journal_is_kept_and_told_by_health_while_the_store_works(
    settings: Settings, open_memory: Open
) -> None:
    (settings.data_dir / "pending").mkdir(parents=True)
    file = settings.data_dir / "pending" / "data.mdb"
    file.write_bytes(b"these may be somebody's acknowledged writes" * 1000)
    before = file.read_bytes()
    memory = await open_memory()
    await a_life(memory)
    health = await memory.status.health()
    assert (health["overall"], health["journal"]["status"]) == ("degraded", "unhealthy")
    assert file.read_bytes() == before


async def test_refusals_are_no_failures_of_the_store(memory: Memory, engine: FailingEngine) -> None:
    for _ in range(20):
        with pytest.raises(MemoryMCPError) as refused:
            await took(memory, "nobody", "x")
        assert refused.value.code == "episode_not_found"
    assert memory.store.write_breaker.state == "closed"
    assert memory.store.write_breaker.failures == 0
    assert memory.store.pending() == 0


async def test_the_breaker_spares_a_failing_store_and_comes_back_by_one_trial(
    memory: Memory, engine: FailingEngine, clock: ManualClock
) -> None:
    engine.fails = {"write"}
    for number in range(5):
        await start(memory, f"task {number}")
    assert memory.store.write_breaker.state == "open"
    calls = engine.calls["write"]
    for number in range(20):
        await start(memory, f"more {number}")
    assert engine.calls["write"] == calls
    clock.advance(LATER)
    engine.fails = set()
    await eventually(lambda: memory.store.pending() == 0, clock)
    assert memory.store.write_breaker.state == "closed"
    assert (await operations(memory)).count("episode.created") == 25


async def test_a_call_that_is_cancelled_during_the_trial_gives_the_trial_back(
    memory: Memory, engine: FailingEngine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.fails = {"write", "read"}
    for number in range(6):
        await start(memory, f"task {number}")
    assert memory.store.store_breaker.state == "open"
    hanging = asyncio.Event()

    async def hang(*_: Any, **__: Any) -> Any:
        hanging.set()
        await asyncio.Event().wait()

    await memory.upkeep.stop()
    clock.advance(LATER)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "read", hang)
        trial = asyncio.create_task(memory.store.read(queries.head_position))
        await asyncio.wait_for(hanging.wait(), PATIENCE)
        assert not memory.store.store_breaker.allow()
        trial.cancel()
        await asyncio.wait([trial])
    engine.fails = set()
    assert await memory.store.read(queries.head_position) == 0
    assert memory.store.store_breaker.state == "closed"


async def test_a_store_that_opens_late_is_used_with_its_own_cache(
    settings: Settings, engine: FailingEngine, open_memory: Open, clock: ManualClock
) -> None:
    async with Memory(settings) as first:
        episode_id = await a_life(first)
    # a cache that was copied here from somewhere else
    elsewhere = settings.model_copy(update={"data_dir": settings.data_dir.parent / "elsewhere"})
    async with Memory(elsewhere) as other:
        foreign = await a_life(other)
    shutil.rmtree(settings.data_dir / "cache")
    shutil.copytree(elsewhere.data_dir / "cache", settings.data_dir / "cache")
    engine.fails = {"open"}
    memory = await open_memory(engine=engine, clock=clock)
    assert (await memory.status.health())["primary_storage"]["status"] == "unhealthy"
    engine.fails = set()
    clock.advance(LATER)
    assert await tools_of(memory, episode_id) == ["git", "make"]
    with pytest.raises(MemoryMCPError) as refused:
        await memory.episodes.get(foreign, NAMESPACE)
    assert refused.value.code == "episode_not_found"


async def test_a_memory_of_a_newer_program_is_refused_and_leaves_nothing_open(settings: Settings) -> None:
    async with Memory(settings) as memory:
        await memory.store.engine.read(lambda session: session.all("SELECT 1"))
    from sqlcipher3 import dbapi2 as sqlite

    connection = sqlite.connect(str(settings.data_dir / "memory.db"), isolation_level=None)
    connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    connection.close()
    descriptors = open_files()
    for _ in range(5):
        with pytest.raises(SchemaTooNewError):
            await Memory(settings).open()
    assert open_files() == descriptors


@pytest.mark.parametrize("make", [b"garbage" * 5000, b""], ids=["garbage", "empty"])
async def test_over_a_damaged_database_writes_are_taken_and_wait(
    settings: Settings, open_memory: Open, make: bytes
) -> None:
    settings.data_dir.mkdir(parents=True)
    file = settings.data_dir / "memory.db"
    file.write_bytes(make)
    memory = await open_memory()
    if not make:
        await a_life(memory)
        return
    health = await memory.status.health()
    # what is damaged does not come back by itself, and until then nobody replays what waits
    assert (health["overall"], health["primary_storage"]["code"]) == ("unhealthy", "store_corrupt")
    assert "not a SQLite database" in health["primary_storage"]["error"]
    episode_id = str((await start(memory))["episode_id"])
    assert (await took(memory, episode_id, "a"))["pending"]
    assert await tools_of(memory, episode_id) == ["a"]
    assert file.read_bytes() == make


async def test_a_directory_where_nothing_can_be_written_is_told_and_not_a_crash(
    settings: Settings, open_memory: Open
) -> None:
    for name in ("memory.lock", "pending/replay.lock", "cache.lock"):
        (settings.data_dir / name).mkdir(parents=True)
    memory = await open_memory()
    assert (await memory.status.health())["overall"] == "unhealthy"
    with pytest.raises(StorageUnavailableError):
        await start(memory)
    with pytest.raises(StorageUnavailableError):
        await memory.episodes.get("any", NAMESPACE)
