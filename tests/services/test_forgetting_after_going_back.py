"""Forgetting what was taken back, and going back to what was forgotten: found by a critic, one test each."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import pytest

from memory_mcp.errors import StorageUnavailableError
from memory_mcp.memory import Memory
from memory_mcp.records.episode import EpisodeDraft, Outcome, StepDraft
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from tests.conftest import PATIENCE, ManualClock, Open
from tests.services.test_forgetting import SECRET, files_with, secret_episode, secret_like
from tests.services.test_history import found, head, rows, whole


@pytest.fixture
async def memory(open_memory: Open, clock: ManualClock) -> Memory:
    return await open_memory(clock=clock)


async def test_an_undo_after_a_forget_brings_nothing_back_that_another_episode_was_shown(
    memory: Memory, settings: Settings
) -> None:
    secret = await secret_episode(memory)
    before = await head(memory)
    other = await secret_like(memory)
    done = await memory.history.roll_back(str(before), "default")
    assert done["removed"] == [other]
    forgotten = await memory.forgetting.forget([secret], "default")
    assert forgotten["shown_to"] == [other]
    assert files_with(settings.data_dir, SECRET) == []
    undone = await memory.history.undo(done["position"], "default")
    assert undone["episodes"] == [other]
    assert SECRET not in json.dumps(await memory.episodes.get(other, "default"))
    changes = [change async for change in memory.history.changes("default", 0)]
    assert SECRET not in json.dumps(changes)
    assert files_with(settings.data_dir, SECRET) == []
    assert found(settings) == []


async def test_the_words_of_patterns_go_when_their_episode_was_taken_back_before(
    memory: Memory, settings: Settings
) -> None:
    secret = await secret_episode(memory)
    entries = await memory.history.entries("default", episode_id=secret)
    completed = next(entry["position"] for entry in entries if entry["operation"] == "episode.completed")
    await memory.history.undo(completed, "default")
    await memory.forgetting.forget([secret], "default")
    assert files_with(settings.data_dir, SECRET) == []
    assert found(settings) == []


async def test_patterns_come_back_with_an_episode_although_the_one_they_were_shared_with_is_forgotten(
    memory: Memory, settings: Settings
) -> None:
    first = await whole(memory, "sniff", "!parse", "fix", "parse")
    await memory.settle()
    before = await head(memory)
    await whole(memory, "sniff", "!parse", "fix", "parse")
    await memory.settle()
    done = await memory.history.roll_back(str(before), "default")
    await memory.forgetting.forget([first], "default")
    await memory.history.undo(done["position"], "default")
    told = await memory.patterns.analyze("default", min_success_rate=0.0)
    assert told["statistics"]["episodes"] == 1
    assert (await rows(memory))["pattern_counts"]
    assert found(settings) == []


async def test_retention_leaves_a_store_in_which_nothing_is_found(
    open_memory: Open, settings: Settings, clock: ManualClock
) -> None:
    from tests.services.test_retention import apply, ruled

    memory = await open_memory(clock=clock, settings=ruled(settings, default={"max_episodes": 1}))
    for _ in range(3):
        await whole(memory, "sniff", "!parse", "fix", "parse")
        await memory.settle()
        clock.advance(1)
    await apply(memory, clock)
    assert len((await rows(memory))["episodes"]) == 1
    assert found(settings) == []


async def test_evidence_of_a_moment_is_left_out_rather_than_replaced_by_a_later_one(memory: Memory) -> None:
    secret = await secret_episode(memory)
    draft = EpisodeDraft(task_description="open the vault once more", domain="vault")
    other = (await memory.episodes.create(draft, "default"))["episode_id"]
    await memory.episodes.add_steps(other, [StepDraft(tool="vault", action="try")], "default")
    await memory.episodes.complete(other, Outcome(type="success"), "default")
    await memory.settle()
    then = str(await head(memory))
    entries = await memory.history.entries("default", episode_id=other)
    completed = next(entry["position"] for entry in entries if entry["operation"] == "episode.completed")
    await memory.history.undo(completed, "default")
    await memory.episodes.complete(other, Outcome(type="failure"), "default")
    await memory.settle()
    await memory.forgetting.forget([secret], "default")
    told = (await memory.patterns.analyze("default", min_success_rate=0.0, as_of=then))["statistics"]
    assert (told["episodes"], told["success_rate"]) == (0, None)


async def test_a_moment_in_the_middle_of_a_command_is_its_end(memory: Memory) -> None:
    draft = EpisodeDraft(task_description="several at once")
    name = (await memory.episodes.create(draft, "default"))["episode_id"]
    first = await head(memory)
    await memory.episodes.add_steps(name, [StepDraft(tool=f"t{number}") for number in range(4)], "default")
    for position in range(first + 1, first + 5):
        assert len((await memory.history.episode(name, "default", str(position))).steps) == 4
    assert len((await memory.history.episode(name, "default", str(first))).steps) == 0


async def test_what_could_not_be_cleaned_is_said_and_finished_later(
    memory: Memory, settings: Settings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await secret_episode(memory)

    async def no_room() -> bool:
        raise StorageUnavailableError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(memory.store, "compact", no_room)
        done = await memory.forgetting.forget([secret], "default")
    assert (done["scrubbed"], done["scrub_error"]) == (False, "no space left")
    assert any("erasure" in item for item in found(settings))
    await memory.forgetting.step()
    assert await memory.store.read(queries.scrub_due), "its author is left a minute"
    clock.advance(61)
    await memory.forgetting.step()
    assert files_with(settings.data_dir, SECRET) == []
    assert found(settings) == []


@pytest.mark.skipif(os.name != "posix", reason="only POSIX kills without a warning")
async def test_a_forget_that_is_killed_before_it_has_cleaned_the_files_is_finished_by_the_next_process(
    memory: Memory, open_memory: Open, settings: Settings, clock: ManualClock
) -> None:
    secret = await secret_episode(memory)
    await memory.close()
    script = (
        "import asyncio, os, signal, sys; from pathlib import Path\n"
        "from memory_mcp.memory import Memory; from memory_mcp.settings import Settings\n"
        "async def work():\n"
        "    async with Memory(Settings(data_dir=Path(sys.argv[1]), embedder='none')) as memory:\n"
        "        async def killed(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "        memory.store.compact = killed\n"
        "        await memory.forgetting.forget([sys.argv[2]], 'default')\n"
        "asyncio.run(work())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(settings.data_dir), secret)
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
    assert any("erasure" in item for item in found(settings))
    clock.advance(10**9)
    next_one = await open_memory(clock=clock)
    await next_one.forgetting.step()
    assert files_with(settings.data_dir, SECRET) == []
    assert found(settings) == []
