"""Forgetting: nothing of an episode is left anywhere, what others taught stays, and the history still verifies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_mcp.errors import EpisodeNotFoundError, InvalidInputError, StorageUnavailableError
from memory_mcp.memory import Memory
from memory_mcp.records.episode import EpisodeDraft, Outcome, StepDraft
from memory_mcp.retrieval.search import Query
from memory_mcp.settings import Settings
from memory_mcp.storage.ledger import verify
from tests.conftest import ManualClock, Open
from tests.services.test_history import head, rows, some_work, whole

SECRET = "xyzzy-s3cr3t-frobnicator"


@pytest.fixture
async def memory(open_memory: Open, clock: ManualClock) -> Memory:
    return await open_memory(clock=clock)


async def secret_episode(memory: Memory) -> str:
    """An episode with the secret in its task, steps, parameters, error and outcome."""
    draft = EpisodeDraft(task_description=f"open the vault {SECRET}", domain="vault", metadata={"key": SECRET})
    episode_id = str((await memory.episodes.create(draft, "default"))["episode_id"])
    results: list[dict[str, Any]] = [
        {"type": "error", "message": f"ValueError: wrong key {SECRET}"},
        {"output": f"opened {SECRET}"},
    ]
    for result in results:
        step = {"tool": "vault", "action": f"try {SECRET}", "parameters": {"key": SECRET}, "result": result}
        await memory.episodes.add_steps(episode_id, [StepDraft.model_validate(step)], "default")
    await memory.episodes.complete(episode_id, Outcome(type="success", verdict=f"with {SECRET}"), "default")
    await memory.settle()
    return episode_id


def files_with(directory: Path, text: str) -> list[str]:
    return [
        str(path.relative_to(directory))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and any(form in path.read_bytes() for form in (text.encode(), text.split("-")[1].encode()))
    ]


async def test_nothing_of_a_forgotten_episode_is_left_in_any_file(memory: Memory) -> None:
    await some_work(memory)
    forgotten = await secret_episode(memory)
    # a later one is shown what the first taught, and is given its parameters as advice
    other = await secret_like(memory)
    assert files_with(memory.settings.data_dir, SECRET)
    done = await memory.forgetting.forget([forgotten], "default", reason="asked for")
    assert done["scrubbed"] is True
    assert done["shown_to"] == [other]
    assert files_with(memory.settings.data_dir, SECRET) == []
    assert await memory.store.read(verify) == []
    with pytest.raises(EpisodeNotFoundError):
        await memory.episodes.get(forgotten, "default")
    found = await memory.recall.query(Query(text=f"open the vault {SECRET}", namespace="default"))
    assert forgotten not in [item["episode_id"] for item in found["episodes"]]
    assert SECRET not in str(found)
    kept = await memory.episodes.get(other, "default")
    assert SECRET not in str(kept)
    assert (await memory.history.episode(other, "default", "2999-01-01")).version == kept["version"]


async def secret_like(memory: Memory) -> str:
    draft = EpisodeDraft(task_description="open the vault once more", domain="vault")
    begun = await memory.episodes.create(draft, "default")
    assert SECRET in str(begun)
    step = {
        "tool": "vault",
        "action": "try",
        "parameters": {},
        "result": {"type": "error", "message": "ValueError: wrong"},
    }
    await memory.episodes.add_steps(begun["episode_id"], [StepDraft.model_validate(step)], "default")
    await memory.episodes.complete(begun["episode_id"], Outcome(type="failure"), "default")
    await memory.settle()
    return str(begun["episode_id"])


async def test_what_others_taught_is_known_of_the_past_after_one_of_them_is_forgotten(memory: Memory) -> None:
    first = await secret_episode(memory)
    await secret_like(memory)
    await memory.history.create_snapshot("then", "default")
    await memory.forgetting.forget([first], "default")
    now = await memory.patterns.analyze("default", min_success_rate=0.0, limit=200)
    assert now["statistics"]["episodes"] == 1
    assert await memory.patterns.analyze("default", min_success_rate=0.0, limit=200, as_of="then") == now


async def test_forgetting_leaves_what_would_be_there_had_the_episode_never_been(memory: Memory) -> None:
    await some_work(memory)
    before = await rows(memory)
    extra = await whole(memory, "parse", "!parse", "fix", kind="failure")
    await memory.settle()
    assert (await rows(memory))["pattern_counts"] != before["pattern_counts"]
    await memory.forgetting.forget([extra], "default")
    after = await rows(memory)
    for table in after:
        if table != "credits":
            assert after[table] == before[table], table


async def test_a_dry_run_lists_what_hangs_on_an_episode_and_changes_nothing(memory: Memory) -> None:
    names = await some_work(memory)
    extra = await whole(memory, "parse", "!parse", "fix", "unheard of", kind="failure")
    await memory.settle()
    before, position = await rows(memory), await head(memory)
    await memory.history.create_snapshot("with it", "default")
    radius = await memory.forgetting.preview([extra], "default")
    assert radius["episodes"][0]["step_count"] == 4
    assert radius["patterns"]["vanish"]
    assert radius["patterns"]["recounted"]
    assert radius["scopes"] == [{"domain": "files", "task_type": "debugging"}]
    assert radius["search_units"] == 6
    assert radius["snapshots"] == ["with it"]
    assert await rows(memory) == before
    assert await head(memory) == position + 1
    done = await memory.forgetting.forget([extra, names[-1]], "default")
    assert {name["episode_id"] for name in done["episodes"]} == {extra, names[-1]}
    vanished = set(radius["patterns"]["vanish"])
    assert not vanished & {row[0] for row in (await rows(memory))["pattern_counts"]}


async def test_a_rollback_does_not_bring_back_what_was_forgotten(memory: Memory) -> None:
    names = await some_work(memory)
    await memory.history.create_snapshot("with it", "default")
    await memory.forgetting.forget([names[0]], "default")
    before = await rows(memory)
    done = await memory.history.roll_back("with it", "default")
    assert names[0] in done["beyond_recall"]
    with pytest.raises(EpisodeNotFoundError):
        await memory.episodes.get(names[0], "default")
    assert (await rows(memory))["episodes"] == before["episodes"]


async def test_a_list_with_an_unknown_episode_forgets_none(memory: Memory) -> None:
    names = await some_work(memory)
    before = await rows(memory)
    for wrong in ([names[0], "nobody"], [], [names[0], names[0]]):
        with pytest.raises((EpisodeNotFoundError, InvalidInputError)):
            await memory.forgetting.forget(wrong, "default")
        with pytest.raises((EpisodeNotFoundError, InvalidInputError)):
            await memory.forgetting.preview(wrong, "default")
    with pytest.raises(EpisodeNotFoundError):
        await memory.forgetting.forget([names[0]], "another/namespace")
    assert await rows(memory) == before


async def test_what_waited_in_the_journal_is_forgotten_too(memory: Memory) -> None:
    memory.store.write_breaker.trip(StorageUnavailableError("out"))
    draft = EpisodeDraft(task_description=f"while the store is out {SECRET}")
    begun = await memory.episodes.create(draft, "default")
    assert begun["pending"] is True
    memory.store.write_breaker.success()
    assert await memory.store.drain()
    done = await memory.forgetting.forget([begun["episode_id"]], "default")
    assert done["scrubbed"] is True
    assert files_with(memory.settings.data_dir, SECRET) == []


async def test_what_was_forgotten_is_no_longer_found_by_meaning_in_another_process(
    open_memory: Open, settings: Settings, clock: ManualClock
) -> None:
    with_model = settings.model_copy(update={"embedder": "minilm"})
    one = await open_memory(clock=clock, settings=with_model)
    other = await open_memory(clock=clock, settings=with_model)
    names = [await whole(one, "sniff", text="a purple elephant dances in the rain") for _ in range(2)]
    await one.settle()
    await other.settle()
    question = Query(text="animals outside in bad weather", namespace="default")
    assert {item["episode_id"] for item in (await other.recall.query(question))["episodes"]} == set(names)
    await one.forgetting.forget([names[0]], "default")
    assert [item["episode_id"] for item in (await other.recall.query(question))["episodes"]] == [names[1]]
    assert other.semantic.index is not None
    assert other.semantic.index.dead
