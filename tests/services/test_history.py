"""The past: what was, going back to it, and taking back single operations; what was learned goes along."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memory_mcp.errors import (
    BeyondRecallError,
    EntryNotFoundError,
    EpisodeNotFoundError,
    InvalidInputError,
    LaterChangesError,
    NotUndoableError,
    SnapshotExistsError,
    SnapshotNotFoundError,
)
from memory_mcp.memory import Memory, boot_id
from memory_mcp.records.episode import EpisodeDraft, Outcome, StepDraft
from memory_mcp.services.verification import Verifier
from memory_mcp.settings import Settings
from memory_mcp.storage.ledger import verify
from tests.conftest import ManualClock, Open

# what learning leaves, and what can be found, without the numbers that only tell when it was written
TABLES = {
    "episodes": "episode_id, status, outcome_type, reward_total, reward, reflection, step_count, error_count, ended_at",
    "steps": "episode_id, step_number, tool, action, result",
    "receipts": "episode_id, shown_after, memory_kind, memory_id, rank, advice, used",
    "pattern_counts": "pattern_id, domain, task_type, successes, failures, tried, resolved",
    "group_counts": "group_id, domain, task_type, successes, failures, tried, resolved",
    "pattern_sources": "pattern_id, episode_id, success, tried, resolved, steps, at",
    "scope_stats": "domain, task_type, episodes, successes, failures, round(reward_sum, 9), round(log_steps_sum, 9)",
    "tool_stats": "domain, task_type, tool, calls, errors, timed, round(latency_ms_sum, 9)",
    "credits": "memory_kind, memory_id, round(shown, 9), round(shown_successes, 9), round(used, 9)",
    "units": "kind, subject_id, step_number, embed, text",
}


@pytest.fixture
async def memory(open_memory: Open, clock: ManualClock) -> Memory:
    return await open_memory(clock=clock)


async def rows(memory: Memory) -> dict[str, list[tuple[Any, ...]]]:
    """All records, and all that was derived from them."""
    return {
        name: await memory.store.read(
            lambda session, sql=f"SELECT {columns} FROM {name}": sorted(session.all(sql), key=repr)  # type: ignore[misc]
        )
        for name, columns in TABLES.items()
    }


async def begin(memory: Memory, text: str = "repair a broken csv file", namespace: str = "default") -> str:
    draft = EpisodeDraft(task_description=text, task_type="debugging", domain="files")
    return str((await memory.episodes.create(draft, namespace))["episode_id"])


async def work(memory: Memory, episode_id: str, *tools: str, namespace: str = "default") -> None:
    for tool in tools:
        result = {"type": "error", "message": "ValueError: bad"} if tool.startswith("!") else {"output": "fine"}
        step = StepDraft.model_validate({"tool": tool.lstrip("!"), "action": "do it", "result": result})
        await memory.episodes.add_steps(episode_id, [step], namespace)


async def whole(memory: Memory, *tools: str, kind: str = "success", text: str = "repair a broken csv file") -> str:
    episode_id = await begin(memory, text)
    await work(memory, episode_id, *tools)
    await memory.episodes.complete(episode_id, Outcome(type=kind), "default")  # type: ignore[arg-type]
    return episode_id


async def some_work(memory: Memory) -> list[str]:
    names = [await whole(memory, "sniff", "!parse", "fix", "parse") for _ in range(3)]
    names.append(await whole(memory, "parse", "!parse", kind="failure"))
    names.append(await begin(memory, "still open"))
    await work(memory, names[-1], "look", "think")
    await memory.settle()
    return names


async def head(memory: Memory) -> int:
    return int((await memory.status.health())["primary_storage"]["ledger_position"])


async def test_a_rollback_brings_back_every_record_and_all_that_was_learned(memory: Memory) -> None:
    names = await some_work(memory)
    before = await rows(memory)
    made = await memory.history.create_snapshot("good", "default")
    assert await memory.history.snapshots("default") == [{**made, "created_at": "2023-11-14T22:13:20.000Z"}]
    await work(memory, names[-1], "more")
    await memory.episodes.complete(names[-1], Outcome(type="failure"), "default")
    await whole(memory, "sniff", "!parse", "fix", "parse")
    await memory.settle()
    after = await rows(memory)
    assert after != before
    done = await memory.history.roll_back("good", "default")
    assert done["restored"] == [names[-1]]
    assert len(done["removed"]) == 1
    await memory.settle()
    assert await rows(memory) == before
    undone = await memory.history.undo(done["position"], "default")
    await memory.settle()
    assert await rows(memory) == after
    again = await memory.history.undo(undone["position"], "default")
    assert await rows(memory) == before
    assert again["operation"] == "episode.restored" or again["episodes"]
    assert await memory.store.read(verify) == []
    for name in names:
        cached, stored = (
            await memory.episodes.get(name, "default"),
            await memory.history.episode(name, "default", "2999-01-01"),
        )
        assert cached["version"] == stored.version


async def test_reads_of_the_past_tell_what_was_then(memory: Memory, clock: ManualClock) -> None:
    episode_id = await begin(memory)
    moments = [(await head(memory), "open", 0)]
    for number in (1, 2):
        clock.advance(60)
        await work(memory, episode_id, "sniff")
        moments.append((await head(memory), "open", number))
    noon = clock.now()
    clock.advance(60)
    await memory.episodes.complete(episode_id, Outcome(type="success"), "default")
    for position, status, steps in moments:
        was = await memory.history.episode(episode_id, "default", str(position))
        assert (was.status, len(was.steps)) == (status, steps)
    from memory_mcp.clock import iso

    assert (await memory.history.episode(episode_id, "default", iso(noon))).status == "open"
    assert (await memory.history.episode(episode_id, "default", "2999-01-01")).status == "completed"
    with pytest.raises(EpisodeNotFoundError):
        await memory.history.episode(episode_id, "default", "2001-01-01")
    with pytest.raises(SnapshotNotFoundError):
        await memory.history.episode(episode_id, "default", "no such thing")


async def test_patterns_of_the_past_are_those_that_were_listed_then(memory: Memory) -> None:
    await some_work(memory)
    listed = await memory.patterns.analyze("default", min_success_rate=0.0, limit=200)
    made = await memory.history.create_snapshot("then", "default")
    other = await whole(memory, "sniff", "!parse", "fix", "parse", kind="failure")
    await memory.settle()
    assert await memory.patterns.analyze("default", min_success_rate=0.0, limit=200) != listed
    assert await memory.patterns.analyze("default", min_success_rate=0.0, limit=200, as_of="then") == listed
    assert (
        await memory.patterns.analyze("default", min_success_rate=0.0, limit=200, as_of=str(made["position"])) == listed
    )
    await memory.forgetting.forget([other], "default")
    assert await memory.patterns.analyze("default", min_success_rate=0.0, limit=200) == listed
    with pytest.raises(SnapshotNotFoundError):
        await memory.patterns.analyze("default", as_of="never")


async def test_one_operation_is_undone_as_if_it_had_not_been(memory: Memory) -> None:
    names = await some_work(memory)
    before = await rows(memory)
    await memory.episodes.complete(names[-1], Outcome(type="success"), "default")
    await memory.settle()
    entries = await memory.history.entries("default", episode_id=names[-1])
    completed = next(entry for entry in entries if entry["operation"] == "episode.completed")
    await memory.history.undo(completed["position"], "default")
    await memory.settle()
    assert await rows(memory) == before
    await work(memory, names[-1], "goes on")
    assert (await memory.episodes.get(names[-1], "default"))["steps"][-1]["tool"] == "goes on"


async def test_undoing_the_creation_removes_an_episode_and_undoing_that_brings_it_back(memory: Memory) -> None:
    episode_id = await begin(memory, "created by mistake")
    position = (await memory.history.entries("default", episode_id=episode_id))[0]["position"]
    undone = await memory.history.undo(position, "default")
    with pytest.raises(EpisodeNotFoundError):
        await memory.episodes.get(episode_id, "default")
    assert (await memory.recall.query(_query("created by mistake")))["episodes"] == []
    await memory.history.undo(undone["position"], "default")
    assert (await memory.episodes.get(episode_id, "default"))["task_description"] == "created by mistake"
    assert (await memory.recall.query(_query("created by mistake")))["episodes"]


def _query(text: str) -> Any:
    from memory_mcp.retrieval.search import Query

    return Query(text=text, namespace="default")


async def test_what_was_changed_again_cannot_be_undone_before_the_later_changes(memory: Memory) -> None:
    episode_id = await begin(memory)
    await work(memory, episode_id, "one", "two")
    positions = [entry["position"] for entry in await memory.history.entries("default", episode_id=episode_id)]
    before = await rows(memory)
    with pytest.raises(LaterChangesError, match=str(positions[2])):
        await memory.history.undo(positions[1], "default")
    assert await rows(memory) == before
    await memory.history.undo(positions[2], "default")
    assert len((await memory.episodes.get(episode_id, "default"))["steps"]) == 1


async def test_what_cannot_be_undone_says_so(memory: Memory) -> None:
    name = await whole(memory, "sniff")
    await memory.settle()
    entries = await memory.history.entries("default", episode_id=name)
    learned = next(entry for entry in entries if entry["operation"] == "episode.learned")
    with pytest.raises(NotUndoableError):
        await memory.history.undo(learned["position"], "default")
    with pytest.raises(EntryNotFoundError):
        await memory.history.undo(10_000, "default")
    with pytest.raises(EntryNotFoundError):
        await memory.history.undo(1, "another/namespace")
    done = await memory.forgetting.forget([name], "default")
    with pytest.raises(NotUndoableError):
        await memory.history.undo(done["position"], "default")
    with pytest.raises(BeyondRecallError):
        await memory.history.episode(name, "default", str(learned["position"]))


async def test_a_rollback_leaves_other_namespaces_alone(memory: Memory) -> None:
    await memory.history.create_snapshot("empty", "default")
    here, there = await begin(memory), await begin(memory, namespace="team/other")
    await memory.history.roll_back("empty", "default")
    with pytest.raises(EpisodeNotFoundError):
        await memory.episodes.get(here, "default")
    assert await memory.episodes.get(there, "team/other")
    with pytest.raises(SnapshotNotFoundError):
        await memory.history.roll_back("empty", "team/other")


async def test_an_episode_put_back_before_it_was_learned_from_is_learned_from_again(memory: Memory) -> None:
    name = await whole(memory, "sniff", "!parse", "fix", "parse")
    await memory.settle()
    learned = await rows(memory)
    entries = await memory.history.entries("default", episode_id=name)
    completed = next(entry["position"] for entry in entries if entry["operation"] == "episode.completed")
    await memory.history.roll_back(str(completed), "default")
    assert (await memory.episodes.get(name, "default")).get("reward") is None
    await memory.settle()
    assert await rows(memory) == learned


async def test_snapshots_have_names_of_their_own(memory: Memory) -> None:
    await memory.history.create_snapshot("before the release", "default")
    with pytest.raises(SnapshotExistsError):
        await memory.history.create_snapshot("before the release", "default")
    await memory.history.create_snapshot("before the release", "team/other")
    for name in ("", "  ", "12", "2024-01-01", "x" * 300):
        with pytest.raises(InvalidInputError):
            await memory.history.create_snapshot(name, "default")


async def test_the_changes_since_a_position_are_exported_in_order_and_whole(memory: Memory) -> None:
    await some_work(memory)
    start = await head(memory)
    name = await whole(memory, "sniff", "!parse", "fix", "parse")
    await begin(memory, namespace="team/other")
    found = [change async for change in memory.history.changes("default", start)]
    assert [change["position"] for change in found] == sorted(change["position"] for change in found)
    assert {change["subject_id"] for change in found} == {name}
    assert found[0]["operation"] == "episode.created"
    assert json.dumps(found)
    episodes = [episode async for episode in memory.history.changed_episodes("default", start)]
    assert [episode.episode_id for episode in episodes] == [name]
    assert len(episodes[0].steps) == 4


async def test_going_back_and_forgetting_leave_a_store_in_which_nothing_is_found(
    memory: Memory, settings: Settings
) -> None:
    names = await some_work(memory)
    assert found(settings) == []
    await memory.history.create_snapshot("good", "default")
    more = await whole(memory, "other", "!tools", "altogether")
    await memory.episodes.complete(names[-1], Outcome(type="failure"), "default")
    await memory.settle()
    done = await memory.history.roll_back("good", "default")
    assert found(settings) == []
    await memory.history.undo(done["position"], "default")
    assert found(settings) == []
    await memory.forgetting.forget([more, names[0]], "default")
    assert found(settings) == []
    await memory.history.roll_back("good", "default")
    await memory.settle()
    assert found(settings) == []


def found(settings: Settings) -> list[str]:
    """What `storage verify` finds."""
    return [
        f"{item.check}: {item.subject}: {item.problem}"
        for item in Verifier(settings.data_dir, boot_id()).verify().findings
    ]
