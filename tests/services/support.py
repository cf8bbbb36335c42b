"""Living through faults: short ways to do things with a memory, and to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.records.episode import EpisodeDraft, Outcome, StepDraft, StepResult
from memory_mcp.retrieval.search import Query
from memory_mcp.storage import queries
from memory_mcp.storage.ledger import verify
from tests.conftest import PATIENCE, ManualClock

NAMESPACE = "default"

# longer than a breaker stays open
LATER = 31.0


async def eventually(condition: Callable[[], Any], clock: ManualClock | None = None) -> None:
    """Wait, within bounds, until something is so; the clock goes on meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            if clock is not None:
                clock.advance(0.25)
            await asyncio.sleep(0.001)


async def ready(memory: Memory) -> None:
    """Wait until the first comparison of cache and ledger is done."""
    await eventually(lambda: memory.upkeep.last_sync)


async def start(memory: Memory, task: str = "repair the build") -> Json:
    return await memory.episodes.create(EpisodeDraft(task_description=task), NAMESPACE)


async def took(memory: Memory, episode_id: str, *tools: str, number: int = 0) -> Json:
    steps = [StepDraft(tool=tool, result=StepResult(output=f"{tool} worked")) for tool in tools]
    return await memory.episodes.add_steps(episode_id, steps, NAMESPACE, step_number=number)


async def finish(memory: Memory, episode_id: str, outcome: Any = "success") -> Json:
    return await memory.episodes.complete(episode_id, Outcome(type=outcome), NAMESPACE)


async def tools_of(memory: Memory, episode_id: str) -> list[str]:
    return [step["tool"] for step in (await memory.episodes.get(episode_id, NAMESPACE))["steps"]]


async def operations(memory: Memory) -> list[str]:
    entries = await memory.store.read(lambda session: queries.ledger(session, 0, 10_000))
    return [entry.operation for entry in entries]


async def whole(memory: Memory) -> bool:
    return await memory.store.read(verify) == []


async def a_life(memory: Memory) -> str:
    """A whole episode; every answer must be as if nothing were wrong."""
    episode_id = str((await start(memory, "a life with a broken cache"))["episode_id"])
    assert (await took(memory, episode_id, "git"))["step_count"] == 1
    assert await tools_of(memory, episode_id) == ["git"]
    assert (await took(memory, episode_id, "make"))["step_numbers"] == [2]
    assert await tools_of(memory, episode_id) == ["git", "make"]
    done = await finish(memory, episode_id)
    assert done["reward"]["total"] > 0
    told = await memory.episodes.get(episode_id, NAMESPACE)
    assert told["status"] == "completed"
    assert told["reward"] == done["reward"]
    found = await memory.recall.query(Query(text="a life with a broken cache", namespace=NAMESPACE))
    assert episode_id in [episode["episode_id"] for episode in found["episodes"]]
    for answer in (done, told, found):
        assert "degraded" not in answer
        assert "pending" not in answer
    return episode_id


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
