"""Followers: they outlive failures, and what they do is done exactly once, however often they are interrupted."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.errors import CacheUnavailableError, StorageUnavailableError
from memory_mcp.memory import Memory
from memory_mcp.records.episode import EpisodeDraft, Outcome
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from memory_mcp.storage.followers import Upkeep
from memory_mcp.storage.ledger import verify
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import PATIENCE, ManualClock, Open
from tests.storage.support import FailingEngine, add, complete, create, receipt, seize, step


class Scripted:
    """A follower whose steps do what a test says."""

    name = "scripted"

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.steps = 0

    async def step(self) -> bool:
        self.steps += 1
        what = self.script.pop(0) if self.script else False
        if isinstance(what, Exception):
            raise what
        if callable(what):
            return bool(await what())
        return bool(what)


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for rings no bell
            await asyncio.sleep(0.001)


async def first_look_is_over(clock: ManualClock) -> None:
    """From here on nothing rings by itself: the watch has told what it found when it started, and sleeps."""
    await eventually(lambda: clock.sleepers)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_follower_that_raises_is_counted_and_tried_again_after_a_pause(
    open_memory: Open, clock: ManualClock
) -> None:
    memory = await open_memory(clock=clock)
    await first_look_is_over(clock)
    follower = Scripted(ValueError("a defect"), StorageUnavailableError("away"), True, True, False)
    memory.upkeep.add(follower)
    await eventually(lambda: follower.steps == 1)
    assert memory.upkeep.failures["scripted"] == 1
    assert memory.upkeep.last_errors["scripted"] == "ValueError: a defect"
    # it does not burn time while it waits
    for _ in range(20):
        await asyncio.sleep(0)
    assert follower.steps == 1
    clock.advance(1)
    await eventually(lambda: memory.upkeep.failures["scripted"] == 2)
    clock.advance(1)
    await eventually(lambda: follower.steps == 5)
    memory.upkeep.ring()
    await eventually(lambda: follower.steps == 6)
    assert memory.upkeep.failures["scripted"] == 2


async def test_the_failure_of_one_follower_does_not_hold_up_another(open_memory: Open, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock)
    broken, sound = Scripted(*[ValueError("no")] * 50), Scripted(True)
    memory.upkeep.add(broken)
    memory.upkeep.add(sound)
    await eventually(lambda: sound.steps >= 2 and broken.steps == 1)
    memory.upkeep.ring()
    await eventually(lambda: sound.steps >= 3)
    assert broken.steps == 1


async def test_the_same_failure_again_and_again_is_logged_once(
    open_memory: Open, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = await open_memory(clock=clock)
    follower = Scripted(*[StorageUnavailableError(f"next trial in {number} s") for number in range(9)])
    memory.upkeep.add(follower)
    for number in range(1, 10):
        await eventually(lambda number=number: follower.steps == number)  # type: ignore[misc]
        clock.advance(1)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_a_follower_that_swallows_its_cancellation_ends_all_the_same(
    open_memory: Open, clock: ManualClock
) -> None:
    memory = await open_memory(clock=clock)
    inside = asyncio.Event()

    async def deaf() -> bool:
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return True
        return False

    memory.upkeep.add(Scripted(deaf))
    await asyncio.wait_for(inside.wait(), PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await memory.upkeep.stop()


async def test_commits_of_this_process_are_heard_of_at_once(open_memory: Open, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock)
    await first_look_is_over(clock)
    follower = Scripted()
    memory.upkeep.add(follower)
    await eventually(lambda: follower.steps == 1)
    await memory.store.write(create("e1"))
    await eventually(lambda: follower.steps == 2)


async def test_commits_of_others_are_heard_of_at_the_next_poll(open_memory: Open, clock: ManualClock) -> None:
    other = await open_memory()
    # it has no socket any more, so that it wakes nobody
    await other.upkeep.stop()
    memory = await open_memory(clock=clock)
    await first_look_is_over(clock)
    follower = Scripted()
    memory.upkeep.add(follower)
    await eventually(lambda: follower.steps == 1)
    await other.store.engine.write(create("e1"))
    await eventually(lambda: clock.advance(0.25) or follower.steps == 2)
    assert memory.wakes.received == 0
    await eventually(lambda: memory.store.cache.applied() == 1)
    assert (await memory.store.episode("default", "e1")).episode


async def test_the_cache_is_compared_with_the_ledger_from_time_to_time(open_memory: Open, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock)
    await eventually(lambda: memory.upkeep.last_sync)
    first = memory.upkeep.last_sync
    await eventually(lambda: clock.advance(10) or memory.upkeep.last_sync > first)
    assert memory.upkeep.last_sync - first >= 300 * 1_000_000


async def test_the_background_survives_a_store_that_cannot_be_opened(settings: Settings, clock: ManualClock) -> None:
    engine = FailingEngine(SqliteEngine(settings.data_dir / "memory.db", TextRecipe()))
    engine.fails = {"open"}
    async with Memory(settings, engine=engine, clock=clock) as memory:
        await eventually(lambda: clock.advance(0.25) or memory.upkeep.failures.get("sync", 0) > 3)
        engine.fails = set()
        clock.advance(31)
        await eventually(lambda: clock.advance(0.25) or memory.upkeep.last_sync)
        assert memory.store.store_breaker.state == "closed"


TABLES = {
    "pattern_counts": "pattern_id, domain, task_type, successes, failures, tried, resolved",
    "group_counts": "group_id, domain, task_type, successes, failures, tried, resolved",
    "pattern_sources": "pattern_id, episode_id, success, tried, resolved, steps",
    "scope_stats": "domain, task_type, episodes, successes, failures, round(reward_sum, 9), steps_sum, timed",
    "tool_stats": "domain, task_type, tool, calls, errors, timed",
    "credits": "memory_kind, memory_id, shown, shown_successes, used, used_successes",
    "receipts": "episode_id, shown_after, memory_kind, memory_id, used",
    "episodes": "episode_id, status, round(reward_total, 9), reflection",
    "followers": "name, position",
    "units": "kind, subject_id, step_number, embed, text",
}


async def lessons(memory: Memory) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that learning leaves."""
    told = {
        name: await memory.store.read(
            lambda session, sql=f"SELECT {columns} FROM {name}": sorted(session.all(sql), key=repr)  # type: ignore[misc]
        )
        for name, columns in TABLES.items()
    }
    entries = await memory.store.read(lambda session: queries.ledger(session, 0, 10_000, "episode.learned"))
    told["learned"] = sorted((entry.subject_id,) for entry in entries)
    return told


@pytest.fixture
async def unlearned(tmp_path: Path) -> Path:
    """A data directory with completed episodes that nobody has learned from yet."""
    directory = tmp_path / "unlearned"
    directory.mkdir()
    engine = SqliteEngine(directory / "memory.db", TextRecipe())
    await engine.open()
    tools = ["git", "make", "pytest", "docker"]
    for number in range(14):
        name = f"e{number}"
        shown = [receipt(f"e{each}") for each in range(max(0, number - 2), number)]
        await engine.write(create(name, receipts=shown))
        for at, tool in enumerate(tools[number % 3 :]):
            failed = (number + at) % 4 == 0
            await engine.write(add(name, step(tool, error=f"Error {tool}: exit {at}" if failed else "")))
        await engine.write(complete(name, "failure" if number % 3 == 0 else "success"))
    await engine.close()
    return directory


def copy_of(directory: Path, name: str) -> Settings:
    target = directory.parent / name
    shutil.copytree(directory, target)
    return Settings(data_dir=target, embedder="none", retry_attempts=1)


@pytest.fixture
async def expected(unlearned: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What learning without any interruption leaves."""
    async with Memory(copy_of(unlearned, "undisturbed"), clock=ManualClock()) as memory:
        await memory.settle()
        told = await lessons(memory)
    assert len(told["learned"]) == 14
    assert told["pattern_counts"]
    assert any(used for *_, used in told["receipts"])
    return told


@pytest.mark.parametrize("seed", range(4))
async def test_learning_that_is_interrupted_anywhere_loses_and_doubles_nothing(
    unlearned: Path, expected: dict[str, list[tuple[Any, ...]]], seed: int
) -> None:
    rng = random.Random(seed)
    settings = copy_of(unlearned, "interrupted")
    interrupted = 0
    for _ in range(12):
        engine = FailingEngine(SqliteEngine(settings.data_dir / "memory.db", TextRecipe()))
        async with Memory(settings, engine=engine, clock=ManualClock()) as memory:
            if rng.random() < 0.4:
                engine.ambiguous = 1
            # stopped right after some call of the store was begun; the follower and this task work at the same time
            call, count = rng.choice(["read", "write"]), rng.randint(1, 5)
            working = asyncio.create_task(memory.learner.step())
            while engine.calls[call] < count and not working.done():  # noqa: ASYNC110
                await asyncio.sleep(0)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            interrupted += working.cancelled()
    assert interrupted
    async with Memory(settings, clock=ManualClock()) as memory:
        await memory.settle()
        assert await lessons(memory) == expected
        assert await memory.store.read(verify) == []


async def test_two_learners_at_once_leave_each_effect_once(
    unlearned: Path, expected: dict[str, list[tuple[Any, ...]]]
) -> None:
    settings = copy_of(unlearned, "shared")
    async with Memory(settings, clock=ManualClock()) as one, Memory(settings, clock=ManualClock()) as other:
        await asyncio.gather(one.settle(), other.settle(), one.learner.step(), other.learner.step())
        await one.settle()
        assert await lessons(one) == expected
        assert await lessons(other) == expected
        assert one.learner.learned + other.learner.learned == 14


async def test_what_another_process_has_learned_is_answered_before_the_cache_has_it(open_memory: Open) -> None:
    one, other = await open_memory(clock=ManualClock()), await open_memory(clock=ManualClock())
    other.store.cache_breaker.trip(CacheUnavailableError("it does not write to the cache that both share"))
    await seize(other)
    begun = await one.episodes.create(EpisodeDraft(task_description="learned elsewhere"), "default", token_budget=0)
    done = await one.episodes.complete(begun["episode_id"], Outcome(type="success"), "default")
    assert (one.learner.learned, other.learner.learned) == (0, 1)
    assert done["reward"]
    assert (await one.episodes.get(begun["episode_id"], "default"))["reward"] == done["reward"]


async def test_stopping_twice_and_starting_again_is_fine(open_memory: Open, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock)
    upkeep = Upkeep(memory.store, clock)
    follower = Scripted()
    upkeep.add(follower)
    for number in range(1, 4):
        upkeep.start()
        upkeep.ring()
        await eventually(lambda number=number: follower.steps >= number)  # type: ignore[misc]
        await upkeep.stop()
        await upkeep.stop()
