"""A broken cache, seen through the public interface: every answer is as if nothing were wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.memory import Memory
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from tests.conftest import ManualClock, Open
from tests.services.support import LATER, a_life, eventually, ready, start, took, tools_of
from tests.storage.support import create


def garbage(cache: Path) -> None:
    (cache / "data.mdb").write_bytes(os.urandom(200_000))


def garbage_in_the_pages(cache: Path) -> None:
    with (cache / "data.mdb").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(8192)
        file.write(os.urandom(max(0, size - 8192)))


def deleted(cache: Path) -> None:
    shutil.rmtree(cache)


def replaced_by_a_file(cache: Path) -> None:
    shutil.rmtree(cache)
    cache.write_text("in the way")


def truncated(cache: Path) -> None:
    os.truncate(cache / "data.mdb", 8192)


DAMAGE = [garbage, garbage_in_the_pages, deleted, replaced_by_a_file, truncated]


@pytest.mark.parametrize("harm", DAMAGE, ids=lambda harm: harm.__name__)
async def test_a_cache_that_was_damaged_before_the_start_is_not_noticed(
    settings: Settings, open_memory: Open, harm: Callable[[Path], None]
) -> None:
    async with Memory(settings) as first:
        before = await a_life(first)
    harm(settings.data_dir / "cache")
    memory = await open_memory()
    assert len(await tools_of(memory, before)) == 2
    await a_life(memory)
    await ready(memory)
    assert (await memory.status.health())["overall"] == "healthy"


@pytest.mark.parametrize("harm", [garbage_in_the_pages, deleted, replaced_by_a_file], ids=lambda harm: harm.__name__)
async def test_a_cache_that_is_damaged_while_it_is_in_use_costs_nobody_an_answer_and_heals(
    memory: Memory, clock: ManualClock, settings: Settings, harm: Callable[[Path], None]
) -> None:
    before = await a_life(memory)
    harm(settings.data_dir / "cache")
    await a_life(memory)
    clock.advance(LATER)
    await a_life(memory)
    assert await tools_of(memory, before) == ["git", "make"]
    await eventually(lambda: memory.store.cache_breaker.state == "closed", clock)
    await memory.store.catch_up()
    assert (await memory.status.health())["overall"] == "healthy"
    assert memory.store.cache.applied() == await memory.store.read(queries.head_position)


async def test_a_cache_that_cannot_be_made_is_told_by_health_and_heals_when_it_can(
    settings: Settings, open_memory: Open, clock: ManualClock
) -> None:
    in_the_way = settings.data_dir / "cache.lock"
    in_the_way.mkdir(parents=True)
    memory = await open_memory(clock=clock)
    await a_life(memory)
    health = await memory.status.health()
    assert health["overall"] == "degraded"
    assert health["cache_storage"]["status"] == "unhealthy"
    assert "cache" in health["cache_storage"]["error"]
    clock.advance(LATER)
    assert (await memory.status.health())["overall"] == "degraded"
    in_the_way.rmdir()
    clock.advance(LATER)
    await eventually(lambda: memory.store.cache_breaker.state == "closed", clock)
    await ready(memory)
    before = memory.store.cache.hits
    await a_life(memory)
    assert memory.store.cache.hits > before
    assert (await memory.status.health())["overall"] == "healthy"


async def test_a_cache_that_fails_at_every_write_does_not_serve_what_is_out_of_date(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    from memory_mcp.errors import CacheUnavailableError

    episode_id = str((await start(memory))["episode_id"])
    await took(memory, episode_id, "git")
    assert await tools_of(memory, episode_id) == ["git"]
    broken = True
    real = memory.store.cache.apply

    def apply(entries: Any) -> None:
        if broken:
            raise CacheUnavailableError("no room")
        real(entries)

    monkeypatch.setattr(memory.store.cache, "apply", apply)
    monkeypatch.setattr(memory.store.cache, "fill", lambda *_: apply([]))
    for number in range(2, 5):
        await took(memory, episode_id, "make")
        assert len(await tools_of(memory, episode_id)) == number
    broken = False
    await eventually(lambda: memory.store.cache.applied() == 5, clock)
    misses = memory.store.cache.misses
    assert len(await tools_of(memory, episode_id)) == 4
    assert memory.store.cache.misses == misses


async def test_a_cache_whose_writes_hang_slows_one_call_down_and_no_more(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:

    go = threading.Event()
    monkeypatch.setattr(memory.store.cache, "apply", lambda _entries: go.wait(20))
    monkeypatch.setattr(memory.store.cache, "fill", lambda *_: go.wait(20))
    monkeypatch.setattr("memory_mcp.storage.cache_guard._WRITE_SECONDS", 0.05)
    try:
        started = asyncio.get_running_loop().time()
        await a_life(memory)
        assert asyncio.get_running_loop().time() - started < 2
        assert (await memory.status.health())["cache_storage"]["status"] == "unhealthy"
    finally:
        go.set()


async def test_a_cache_is_not_taken_for_a_strangers_because_another_process_writes_meanwhile(
    open_memory: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await open_memory(clock=ManualClock()), await open_memory(clock=ManualClock())
    await one.upkeep.stop()
    await other.upkeep.stop()
    read, numbers = one.store.engine.read, iter(range(1_000))

    async def slowly(work: Any) -> Any:
        answer = await read(work)
        if work is queries.head_position:
            # between the answer of the store and what is made of it, the other one writes, and the cache has it
            await other.store.write(create(f"meanwhile-{next(numbers)}"))
        return answer

    monkeypatch.setattr(one.store.engine, "read", slowly)
    before = one.store.cache.file
    for _ in range(5):
        await one.store.catch_up()
    assert one.store.cache.file == before
    assert one.store.cache.rebuilds == 0
    assert one.store.cache.applied() == 5
