"""Books of patterns: the same in any order, after any restart, in any process, however they were brought up to date."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from memory_mcp.learning.patterns import Book, PatternBooks, compile_book
from memory_mcp.learning.tally import Tally
from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.settings import Settings
from tests.conftest import Open
from tests.learning.play import learn, log


def read(book: Book) -> dict[str, Any]:
    return {p.pattern_id: (p.kind, p.body, p.evidence, p.tried, p.resolved, p.known.domains) for p in book}


async def analysed(memory: Memory, **arguments: Any) -> Json:
    return await memory.patterns.analyze("default", min_success_rate=0.0, limit=10_000, **arguments)


async def test_the_order_in_which_episodes_are_learned_does_not_matter(open_memory: Open, tmp_path: Path) -> None:
    episodes = log(25)
    found = []
    for seed in (1, 2):
        memory = await open_memory(settings=Settings(data_dir=tmp_path / str(seed), embedder="none"))
        await learn(memory, Random(seed).sample(episodes, len(episodes)))
        found.append([await analysed(memory), await analysed(memory, domain="search", task_type="testing")])
    assert found[0] == found[1]
    assert len(found[0][0]["patterns"]) > 100
    assert found[0][0]["statistics"]["episodes"] == 25


async def test_a_book_brought_up_to_date_equals_one_that_is_read_anew(open_memory: Open) -> None:
    memory = await open_memory()
    kept = PatternBooks(memory.store)
    for number in range(6):
        await learn(memory, log(3, seed=number))
        for scope in (("", ""), ("search", ""), ("", "testing"), ("search", "testing"), ("unknown", "")):
            fresh = await PatternBooks(memory.store).book("default", *scope)
            assert read(await kept.book("default", *scope)) == read(fresh)
    # the first one read everything, the later ones only what had changed
    assert len(read(await kept.book("default"))) > 100


async def test_a_book_is_renewed_only_when_its_namespace_has_learned(open_memory: Open) -> None:
    memory = await open_memory()
    books = PatternBooks(memory.store)
    await learn(memory, log(4))
    before = await books.book("default")
    await learn(memory, log(4, seed=1), namespace="elsewhere")
    assert await books.book("default") is before
    assert read(await books.book("elsewhere")) != read(before)
    await learn(memory, log(4, seed=2))
    assert await books.book("default") is not before


async def test_other_processes_see_what_one_has_learned(open_memory: Open) -> None:
    one, other = await open_memory(), await open_memory()
    await learn(one, log(5))
    first = await PatternBooks(other.store).book("default")
    assert read(first) == read(await PatternBooks(one.store).book("default"))
    books = PatternBooks(other.store)
    await books.book("default")
    await learn(one, log(5, seed=1))
    assert read(await books.book("default")) == read(await PatternBooks(one.store).book("default"))


async def test_an_episode_that_is_imported_twice_counts_once(open_memory: Open) -> None:
    memory = await open_memory()
    await learn(memory, log(6))
    before = await analysed(memory)
    await learn(memory, log(6))
    assert await analysed(memory) == before


async def test_a_restart_keeps_every_pattern(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, embedder="none")
    async with Memory(settings) as memory:
        await learn(memory, log(8))
        before = await analysed(memory)
    async with Memory(settings) as memory:
        assert await analysed(memory) == before


async def test_many_changes_at_once_are_read_as_a_whole(open_memory: Open, monkeypatch: Any) -> None:
    monkeypatch.setattr("memory_mcp.learning.tally._MOST_EPISODES", 3)
    memory = await open_memory()
    books = PatternBooks(memory.store)
    await learn(memory, log(2))
    await books.book("default")
    await learn(memory, log(8, seed=1))
    assert read(await books.book("default")) == read(await PatternBooks(memory.store).book("default"))


def test_an_empty_store_has_an_empty_book() -> None:
    book = compile_book(Tally())
    assert (len(book), list(book), book.pitfalls(), book.some(["x"])) == (0, [], [], [])
    assert book.recoveries("g") == book.similar_recoveries({"tool": "run", "template": "ValueError: no"}) == []
