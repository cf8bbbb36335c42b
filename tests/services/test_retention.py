"""Retention: what no rule keeps is forgotten as operations of the ledger, by one process, and room comes back."""

from __future__ import annotations

from typing import Any

import pytest

from memory_mcp.errors import EpisodeNotFoundError, SettingsError
from memory_mcp.memory import Memory
from memory_mcp.records.episode import EpisodeDraft, Outcome, StepDraft
from memory_mcp.records.retention import RetentionRule
from memory_mcp.settings import Settings, load_settings
from memory_mcp.storage.ledger import verify
from memory_mcp.storage.retention import rule_for
from tests.conftest import ManualClock, Open
from tests.services.test_history import begin, rows, whole

DAY = 86_400


def ruled(settings: Settings, **rules: Any) -> Settings:
    named = {name.replace("__", "/"): RetentionRule(**rule) for name, rule in rules.items()}
    return settings.model_copy(update={"retention": named, "retention_seconds": 10.0})


async def apply(memory: Memory, clock: ManualClock) -> None:
    """Let the rules be applied, whatever the background has done already."""
    clock.advance(11)
    while await memory.retention.step():
        pass


async def kept(memory: Memory) -> set[str]:
    return {row[0] for row in (await rows(memory))["episodes"]}


async def aged(memory: Memory, clock: ManualClock, count: int, **more: Any) -> list[str]:
    """Closed episodes, a day apart, the oldest first."""
    names = []
    for _ in range(count):
        names.append(await whole(memory, "sniff", "!parse", "fix", **more))
        await memory.settle()
        clock.advance(DAY)
    return names


async def test_the_oldest_go_beyond_an_age(open_memory: Open, settings: Settings, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock, settings=ruled(settings, default={"max_age_days": 2.5}))
    names = await aged(memory, clock, 5)
    await apply(memory, clock)
    assert await kept(memory) == set(names[3:])


async def test_the_oldest_go_beyond_a_number(open_memory: Open, settings: Settings, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock, settings=ruled(settings, default={"max_episodes": 2}))
    names = await aged(memory, clock, 4)
    await apply(memory, clock)
    assert await kept(memory) == set(names[2:])


async def test_the_oldest_go_beyond_a_size(open_memory: Open, settings: Settings, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock)
    names = await aged(memory, clock, 4)
    size = await memory.store.read(
        lambda session: session.one("SELECT sum(octet_length(payload)) FROM ledger WHERE subject_id = $1", names[3])
    )
    other = await open_memory(clock=clock, settings=ruled(settings, default={"max_bytes": round(2.5 * size[0])}))
    await apply(other, clock)
    assert names[3] in await kept(other)
    assert names[0] not in await kept(other)
    assert len(await kept(other)) == 2


async def test_poor_episodes_go_whatever_their_age(open_memory: Open, settings: Settings, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock, settings=ruled(settings, default={"min_reward": 0.3}))
    poor = await aged(memory, clock, 2, kind="failure")
    rich = await aged(memory, clock, 2)
    await apply(memory, clock)
    assert await kept(memory) == set(rich)
    assert not set(poor) & await kept(memory)


async def test_open_episodes_are_never_touched(open_memory: Open, settings: Settings, clock: ManualClock) -> None:
    rule = {"max_age_days": 1, "max_episodes": 0, "max_bytes": 0, "min_reward": 1e9}
    memory = await open_memory(clock=clock, settings=ruled(settings, default=rule))
    episode_id = await begin(memory)
    step = StepDraft.model_validate({"tool": "think"})
    await memory.episodes.add_steps(episode_id, [step], "default")
    await whole(memory, "sniff")
    clock.advance(400 * DAY)
    await apply(memory, clock)
    assert await kept(memory) == {episode_id}
    await memory.episodes.add_steps(episode_id, [step], "default")


async def test_what_is_forgotten_by_a_rule_leaves_counts_and_history_right(
    open_memory: Open, settings: Settings, clock: ManualClock
) -> None:
    memory = await open_memory(clock=clock, settings=ruled(settings, default={"max_episodes": 3}))
    names = await aged(memory, clock, 6)
    await apply(memory, clock)
    assert await memory.store.read(verify) == []
    told = await memory.patterns.analyze("default", min_success_rate=0.0)
    assert told["statistics"]["episodes"] == 3
    entries = await memory.history.entries("default", episode_id=names[0])
    assert entries[-1]["operation"] == "episode.forgotten"
    assert entries[-1]["actor"] == "retention"
    with pytest.raises(EpisodeNotFoundError):
        await memory.episodes.get(names[0], "default")


async def test_of_two_processes_each_episode_is_forgotten_once(
    open_memory: Open, settings: Settings, clock: ManualClock
) -> None:
    mine = await open_memory(clock=clock)
    names = await aged(mine, clock, 4)
    with_rule = ruled(settings, default={"max_episodes": 1})
    one, other = await open_memory(clock=clock, settings=with_rule), await open_memory(clock=clock, settings=with_rule)
    for _ in range(3):
        await apply(one, clock)
        await apply(other, clock)
    for name in names[:3]:
        entries = await mine.history.entries("default", episode_id=name)
        assert [entry["operation"] for entry in entries].count("episode.forgotten") == 1


async def test_room_comes_back_to_the_file_system(open_memory: Open, settings: Settings, clock: ManualClock) -> None:
    memory = await open_memory(clock=clock)
    for number in range(60):
        draft = EpisodeDraft(task_description=f"a heavy one {number}")
        begun = await memory.episodes.create(draft, "default")
        step = {"tool": "cat", "result": {"output": f"{number} lorem ipsum " * 600}}
        await memory.episodes.add_steps(begun["episode_id"], [StepDraft.model_validate(step)] * 30, "default")
        await memory.episodes.complete(begun["episode_id"], Outcome(type="success"), "default")
    await memory.settle()
    file = settings.data_dir / "memory.db"
    await memory.store.engine.empty_log()
    before = file.stat().st_size
    ruler = await open_memory(clock=clock, settings=ruled(settings, **{"*": {"max_episodes": 5}}))
    await apply(ruler, clock)
    assert ruler.retention.compacted
    assert file.stat().st_size < before / 4
    assert len(await kept(memory)) == 5


def test_the_nearest_rule_counts() -> None:
    rules = {name: RetentionRule(max_episodes=number) for number, name in enumerate(("*", "team/*", "team/a", "x"))}
    for namespace, name in (
        ("team/a", "team/a"),
        ("team/a/b", "team/*"),
        ("team/b", "team/*"),
        ("team", "*"),
        ("x/y", "*"),
        ("x", "x"),
    ):
        assert rule_for(namespace, rules) is rules[name]
    assert rule_for("anything", {}) is None


def test_rules_come_from_environment_and_wrong_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_MCP_RETENTION", '{"team/*": {"max_age_days": 30, "min_reward": 0.2}}')
    assert load_settings().retention == {"team/*": RetentionRule(max_age_days=30, min_reward=0.2)}
    for wrong in ('{"*": {"max_age": 3}}', '{"*": {"max_episodes": -1}}', '{"*": 3}', "nonsense"):
        monkeypatch.setenv("MEMORY_MCP_RETENTION", wrong)
        with pytest.raises(SettingsError):
            load_settings()


async def test_an_episode_that_a_rule_takes_at_once_is_completed_all_the_same(
    open_memory: Open, settings: Settings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = await open_memory(clock=clock, settings=ruled(settings, default={"max_episodes": 0}))
    catch_up = memory.learner.catch_up

    async def and_then_it_is_gone(position: int) -> None:
        await catch_up(position)
        await apply(memory, clock)

    monkeypatch.setattr(memory.learner, "catch_up", and_then_it_is_gone)
    episode_id = await begin(memory)
    done = await memory.episodes.complete(episode_id, Outcome(type="success"), "default")
    assert (done["status"], done["learning"]) == ("completed", "gone")
