"""The checker can fail: whatever is done to a store behind its back is found and named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
from sqlcipher3 import dbapi2 as sqlite

from benchmarks.common import synthetic_episode
from memory_mcp.memory import Memory
from memory_mcp.records.episode import ImportedEpisode
from memory_mcp.settings import Settings
from memory_mcp.storage.cache import sealed
from memory_mcp.storage.cache_layout import HEADER
from tests.durability import book
from tests.durability.audit import audit
from tests.durability.book import Book, Call, Entry, State

Harm = str | Callable[[Path], None]

_LEARNED = "SELECT position FROM ledger WHERE operation = 'episode.learned'"


@pytest.fixture
async def data(settings: Settings) -> Path:
    """A small store that is as it should be."""
    rng = random.Random(3)
    episodes = [ImportedEpisode.model_validate(synthetic_episode(rng, number)) for number in range(20)]
    async with Memory(settings) as memory:
        await asyncio.gather(*(memory.episodes.import_episode(item, "default") for item in episodes))
        await memory.settle()
        await memory.store.catch_up()
    assert audit(settings.data_dir).problems == []
    return settings.data_dir


def change_the_cache(data: Path) -> None:
    with lmdb.open(str(data / "cache"), map_size=1 << 28) as env, env.begin(write=True) as txn, txn.cursor() as cursor:
        assert cursor.set_range(HEADER)
        key, value = cursor.item()
        version, payload = int.from_bytes(value[:8]), value[12:]
        assert b'"status":"completed"' in payload
        other = payload.replace(b'"status":"completed"', b'"status":"abandoned"')
        txn.put(key, sealed(key, version, other))


def wind_the_cache_back(data: Path) -> None:
    with lmdb.open(str(data / "cache"), map_size=1 << 28) as env, env.begin(write=True) as txn:
        txn.put(b"\x00applied", (1).to_bytes(8))


def other_words(data: Path) -> None:
    statements = ("DELETE FROM units_fts WHERE rowid = 5", "INSERT INTO units_fts (rowid, terms) VALUES (5, 'other')")
    for statement in statements:
        execute(data, statement)


def execute(data: Path, statement: str) -> None:
    with closing(sqlite.connect(str(data / "memory.db"))) as connection:
        assert connection.execute(statement).rowcount
        connection.commit()


HARM: dict[str, tuple[Harm, str]] = {
    "a step is deleted": ("DELETE FROM steps WHERE rowid = 9", "steps are not the"),
    "a step is changed": ("UPDATE steps SET tool = 'other' WHERE rowid = 9", "steps are not the"),
    "an outcome is changed": ("UPDATE episodes SET outcome_type = outcome_type, outcome = '{}'", "outcome is not what"),
    "an episode is reopened": ("UPDATE episodes SET status = 'open' WHERE rowid = 3", "status is not what"),
    "an episode is deleted": ("DELETE FROM episodes WHERE rowid = 3", "the ledger has it and the store has not"),
    "a ledger entry is changed": ("UPDATE ledger SET payload = '{}' WHERE position = 7", "its payload was changed"),
    "an episode is learned from twice": (
        "INSERT INTO ledger SELECT position + 1, ns_hash, sequence + 1, at, namespace, actor, operation, subject_kind,"
        f" subject_id, 'again', payload, payload_digest, hash, hash FROM ledger WHERE position = (SELECT max(position)"
        f" FROM ({_LEARNED}))",
        "was learned from 2 times",
    ),
    "an episode is skipped": (f"DELETE FROM ledger WHERE position = ({_LEARNED} LIMIT 1)", "was skipped"),
    "a cursor goes back": ("UPDATE followers SET position = 3 WHERE name = 'learning'", "learning stands at 3"),
    "a scope counts once too often": ("UPDATE scope_stats SET episodes = episodes + 1", "scope_stats"),
    "a tool counts once too often": ("UPDATE tool_stats SET calls = calls + 1", "tool_stats"),
    "a pattern counts once too often": ("UPDATE pattern_counts SET successes = successes + 1", "pattern_counts"),
    "a source of a pattern is deleted": ("DELETE FROM pattern_sources WHERE rowid = 2", "pattern_sources"),
    "a group counts once too often": ("UPDATE group_counts SET failures = failures + 1", "group_counts"),
    "a unit is deleted": ("DELETE FROM units WHERE unit_id = 5", "is missing"),
    "a word is not to be found": ("DELETE FROM units_fts WHERE rowid = 5", "units_fts: 1 rows are missing"),
    "other words are found": (other_words, "the words of 1 units are not those of their texts"),
    "a vector belongs to nothing": ("INSERT INTO vectors VALUES (99999, 'm', 1, x'00')", "belong to no unit"),
    "the cache tells another story": (change_the_cache, "differs from the store in status"),
    "the cache is behind": (wind_the_cache_back, "cache: stands at 1 and the ledger at"),
}


@pytest.mark.parametrize("name", HARM)
async def test_the_audit_names_what_was_done_to_a_store(data: Path, name: str) -> None:
    harm, named = HARM[name]
    if isinstance(harm, str):
        execute(data, harm)
    else:
        harm(data)
    assert any(named in problem for problem in audit(data).problems)


def an_entry(**changes: Any) -> Entry:
    """Two steps and an outcome, all acknowledged."""
    done = State.ACKNOWLEDGED
    calls = [
        Call("steps", "w0-2", 2, done, [1, 2]),
        Call("steps", "w0-3", 1, done, [3]),
        Call("complete", "w0-4", 0, done),
    ]
    for call in calls:
        call.state = changes.get(call.name.replace("-", "_"), done)
    return Entry(Call("create", "w0-1", 0, changes.get("w0_1", done)), "e1", calls)


def told(**changes: Any) -> dict[str, Any]:
    """That episode as a door tells it."""
    steps = [book.step(name) for name in ("w0-2.0", "w0-2.1", "w0-3.0")]
    numbered = [{**step, "step_number": number} for number, step in enumerate(steps, 1)]
    return {**book.task("w0-1"), "status": "completed", "steps": numbered, "outcome": book.outcome("w0-4"), **changes}


def without(*numbers: int) -> dict[str, Any]:
    kept = [step for step in told()["steps"] if step["step_number"] not in numbers]
    return told(steps=[{**step, "step_number": number} for number, step in enumerate(kept, 1)])


def test_the_book_has_nothing_to_say_about_what_was_promised() -> None:
    assert book.compare(an_entry(), told()) == []
    assert book.compare(an_entry(w0_2=State.IN_FLIGHT), told()) == []
    assert book.compare(an_entry(w0_4=State.IN_FLIGHT), told(status="open", outcome=None)) == []


UNTOLD: dict[str, tuple[Entry, dict[str, Any] | None, str]] = {
    "the episode is lost": (an_entry(), None, "the episode is lost"),
    "a step is lost": (an_entry(), without(3), "w0-3: all 1 steps are lost"),
    "half a call is there": (an_entry(), without(2), "w0-2 (acknowledged): 1 of 2 steps are missing"),
    "half of what was in flight is there": (an_entry(w0_2=State.IN_FLIGHT), without(1), "w0-2 (in flight): 1 of 2"),
    "a step is there twice": (
        an_entry(),
        told(steps=[*told()["steps"], {**told()["steps"][2], "step_number": 4}]),
        "more than once",
    ),
    "a number is left out": (
        an_entry(),
        told(steps=[*told()["steps"][:2], {**told()["steps"][2], "step_number": 4}]),
        "step 4 stands where step 3 belongs",
    ),
    "what was refused is there": (an_entry(w0_3=State.REFUSED), told(), "w0-3: was refused and is there"),
    "a step has another content": (
        an_entry(),
        told(steps=[{**told()["steps"][0], "result": {"type": "success", "output": "?"}}, *told()["steps"][1:]]),
        "step 1 was changed",
    ),
    "a stranger's step is there": (
        an_entry(),
        told(steps=[*told()["steps"], {**book.step("w9-9.0"), "step_number": 4}]),
        "a step that nobody has written",
    ),
    "the outcome is lost": (an_entry(), told(status="open", outcome=None), "w0-4: its outcome is lost"),
    "another outcome is told": (an_entry(), told(outcome=book.outcome("w9-9")), "an outcome that nobody has written"),
    "the task is another one": (an_entry(), told(domain="elsewhere"), "domain was changed"),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_the_book_names_what_is_not_as_promised(name: str) -> None:
    entry, episode, named = UNTOLD[name]
    problems = book.compare(entry, episode)
    assert any(named in problem for problem in problems), problems


def test_the_book_counts_what_was_found_and_names_strangers_and_what_comes_late() -> None:
    pages = Book()
    pages.entries = [an_entry(w0_3=State.IN_FLIGHT)]
    problems, figures = pages.compare([without(3)])
    assert problems == []
    assert figures == {"acknowledged": 3, "found": 3, "in_flight_found": 0, "in_flight_absent": 1, "refused": 0}
    problems, _ = pages.compare([told(), {**told(), **book.task("w7-7")}])
    assert ["w0-3" in problem for problem in problems] == [True, False]
    assert "an episode that nobody has written" in problems[1]
