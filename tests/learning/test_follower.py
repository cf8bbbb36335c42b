"""The learning follower: every completed episode teaches exactly once, whoever learns from it and whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memory_mcp.learning import follower
from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.records.episode import Episode
from memory_mcp.storage import pattern_queries
from memory_mcp.storage.session import Session
from tests.conftest import Open
from tests.learning.play import end, learn, live, log, start, take


async def counted(memory: Memory) -> tuple[list[Json], list[Any]]:
    def load(session: Session) -> tuple[list[Json], list[Any]]:
        rows = session.all("SELECT * FROM pattern_counts ORDER BY pattern_id, domain, task_type")
        return pattern_queries.scopes(session, "default"), rows

    return await memory.store.read(load)


async def test_completing_an_episode_answers_with_what_it_taught(open_memory: Open) -> None:
    memory = await open_memory()
    begun = await start(memory, "repair the login", domain="web", task_type="debugging")
    await take(memory, begun["episode_id"], ("run", "ValueError: bad 3"), ("fix", None, {"deep": True}), "run")
    answer = await end(memory, begun["episode_id"], "failure", reason="no time left")
    assert set(answer["reward"]) == {"total", "base", "efficiency", "complexity", "quality", "bonus"}
    assert answer["reflection"]["successes"][0]["steps"] == [1, 2, 3]
    assert answer["learned"]["patterns"]["error_recovery"] == 2
    assert answer["learned"]["recoveries"] == [
        "run fails with “ValueError: bad <n>”: fix",
        "run fails with “ValueError: bad <n>”: fix(deep=true)",
    ]


async def test_an_abstention_is_no_evidence_for_either_side(open_memory: Open) -> None:
    memory = await open_memory()
    await live(memory, "a task", "a", "b", outcome="abstained")
    scopes, patterns = await counted(memory)
    assert patterns == []
    assert (scopes[0]["episodes"], scopes[0]["successes"], scopes[0]["failures"]) == (1, 0, 0)


async def test_two_processes_that_learn_at_once_count_once(open_memory: Open) -> None:
    one, other = await open_memory(), await open_memory()
    for episode in log(12):
        await one.episodes.import_episode(episode, "default")
    await asyncio.gather(one.settle(), other.settle(), one.settle(), other.settle())
    alone = await open_memory(settings=one.settings.model_copy(update={"data_dir": one.settings.data_dir / "alone"}))
    await learn(alone, log(12))
    scopes, patterns = await counted(one)
    expected_scopes, expected_patterns = await counted(alone)
    assert patterns == expected_patterns
    assert [row["episodes"] for row in scopes] == [row["episodes"] for row in expected_scopes]


async def test_learning_that_was_interrupted_is_done_again_and_counts_once(
    open_memory: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = await open_memory()
    calls = 0
    learned = follower.learn

    def interrupted(*arguments: Any) -> Json:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return learned(*arguments)

    await memory.upkeep.stop()
    monkeypatch.setattr(follower, "learn", interrupted)
    for episode in log(6):
        await memory.episodes.import_episode(episode, "default")
    with pytest.raises(KeyboardInterrupt):
        await memory.settle()
    await memory.settle()
    scopes, _ = await counted(memory)
    assert sum(row["episodes"] for row in scopes) == 6


async def test_an_episode_that_trips_learning_does_not_keep_it_from_the_next(
    open_memory: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = await open_memory()
    learned = follower.learn

    def tripped(episode: Episode, history: Any) -> Json:
        if episode.task_description == "odd":
            raise ZeroDivisionError
        return learned(episode, history)

    monkeypatch.setattr(follower, "learn", tripped)
    odd = await live(memory, "odd", "a")
    await live(memory, "plain", "a")
    scopes, _ = await counted(memory)
    assert sum(row["episodes"] for row in scopes) == 1
    assert memory.learner.failed == 1
    assert odd in caplog.text


async def test_credit_is_counted_once_for_what_was_shown_and_used(open_memory: Open) -> None:
    memory = await open_memory()
    calls = [("run", "ValueError: bad"), ("fix", None, {"deep": True}), "run"]
    first = await live(memory, "repair the login form", *calls)
    begun = await start(memory, "repair the login form again")
    assert begun["playbook"]["source"] == first
    answer = await take(memory, begun["episode_id"], ("run", "ValueError: bad"))
    [lesson, *_] = answer["lessons"]
    await take(memory, begun["episode_id"], ("fix", None, {"deep": True}), "run")
    done = await end(memory, begun["episode_id"])
    assert set(done["learned"]["memories_used"]) >= {first, lesson["pattern_id"]}

    credits = await memory.store.read(
        lambda session: session.all("SELECT memory_id, shown, used, used_successes FROM credits ORDER BY memory_id")
    )
    by_id = {memory_id: rest for memory_id, *rest in credits}
    used = [rest for rest in by_id.values() if rest[1]]
    assert by_id[first][0] == by_id[lesson["pattern_id"]][0] == 1
    assert sum(rest[1] for rest in used) == pytest.approx(1)
    assert all(rest[1] == rest[2] for rest in used)
