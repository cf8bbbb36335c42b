"""Salvage: from a file with destroyed pages comes a sound store with all that can be read, and the loss is named."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.clock import SystemClock
from memory_mcp.errors import InvalidInputError, StorageUnavailableError, StoreCorruptError
from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.services.salvaging import salvage_store
from memory_mcp.services.verification import Report
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.replay import replay
from memory_mcp.storage.salvage import piece, ranges
from memory_mcp.storage.sqlite_session import Fts5Index
from memory_mcp.storage.transaction import Transaction
from tests.conftest import PATIENCE, call, connected
from tests.storage.sound import contents, copied, live, opened, run, told, verified
from tests.storage.support import add, bare_session, carry_out, complete, create, receipt, step

PAGE = 4096


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of some hundred episodes that nobody may change."""
    directory = tmp_path_factory.mktemp("large") / "data"
    asyncio.run(live(directory, episodes=200))
    return directory


def salvaged(store: Path, to: Path) -> Json:
    return salvage_store(store, to, SystemClock())


def pages_of(store: Path) -> int:
    return (store / "memory.db").stat().st_size // PAGE


def destroy(store: Path, pages: list[int], rng: random.Random) -> None:
    with (store / "memory.db").open("r+b") as file:
        for number in pages:
            file.seek((number - 1) * PAGE)
            file.write(rng.randbytes(PAGE))


def numbers(pairs: list[list[int]]) -> set[int]:
    return {number for first, last in pairs for number in range(first, last + 1)}


def everything(store: Path) -> tuple[dict[int, Any], dict[tuple[str, str], Json]]:
    """All ledger entries by position, and all episodes."""
    with opened(store) as session:
        entries = {entry.position: entry for entry in queries.ledger(session, 0, 100_000)}
        episodes = {
            (namespace, name): queries.episode(session, namespace, name) or {}
            for namespace, name in queries.episode_ids_newest_first(session, 100_000)
        }
    return entries, episodes


def errors_of(report: Report) -> list[str]:
    return [item.problem for item in report.findings if item.severity == "error"]


def bare(episode: Json) -> Json:
    """What an episode says, without when it was written."""
    return {name: value for name, value in episode.items() if name != "version"}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_from_a_file_with_destroyed_pages_all_is_saved_that_can_be_read(
    large: Path, tmp_path: Path, seed: int, share: float
) -> None:
    rng = random.Random(seed)
    store = copied(large, tmp_path / "damaged")
    pages = pages_of(store)
    destroy(store, rng.sample(range(1, pages + 1), max(1, round(share * pages))), rng)
    before = (store / "memory.db").read_bytes()
    report = salvaged(store, tmp_path / "new")
    assert (store / "memory.db").read_bytes() == before
    entries, episodes = everything(large)
    kept, rebuilt = everything(tmp_path / "new")
    lost = numbers(report["lost_positions"])
    # every entry is either there, byte for byte, or named as lost; nothing else is there but what the salvage wrote
    assert {position for position in entries if position not in kept} == lost
    added = {position: entry for position, entry in kept.items() if position > max(entries)}
    assert {entry.actor for entry in added.values()} <= {"salvage"}
    for position, entry in kept.items():
        assert position in added or entry == entries[position]
    # a page holds a few dozen rows: what was destroyed is bounded
    assert len(lost) <= 2 * share * len(entries) + 40
    perhaps = {*report["incomplete"], *report["perhaps_incomplete"]}
    for name, episode in episodes.items():
        full = f"{name[0]}/{name[1]}"
        if name in rebuilt and full not in perhaps:
            assert rebuilt[name]["steps"] == episode["steps"]
            assert rebuilt[name]["outcome"] == episode["outcome"]
            if full not in report["relearned"]:
                assert bare(rebuilt[name]) == bare(episode)
    assert rebuilt.keys() <= episodes.keys()
    missing = {f"{namespace}/{name}" for namespace, name in episodes.keys() - rebuilt.keys()}
    assert missing <= {*report["lost_episodes"], *_without_a_trace(large, lost, missing)}
    found = verified(tmp_path / "new")
    assert errors_of(found) == []
    assert all("a salvage noted" in item.problem for item in found.findings)


def _without_a_trace(large: Path, lost: set[int], names: set[str]) -> set[str]:
    """Episodes of which not one entry is left."""
    entries, _ = everything(large)
    left = {f"{entry.namespace}/{entry.subject_id}" for position, entry in entries.items() if position not in lost}
    return names - left


def test_where_only_an_index_is_destroyed_nothing_is_lost(store: Path, tmp_path: Path) -> None:
    before = contents(store)
    with opened(store) as session:
        roots = session.all("SELECT rootpage FROM sqlite_schema WHERE type = 'index' AND name LIKE '%ledger%'")
    destroy(store, [root for (root,) in roots], random.Random(1))
    report = salvaged(store, tmp_path / "new")
    assert report["lost_positions"] == []
    assert report["pieced"] == report["incomplete"] == report["lost_episodes"] == []
    assert contents(tmp_path / "new") == before
    assert verified(tmp_path / "new").findings == []


def test_without_its_first_page_a_file_is_saved_all_the_same(store: Path, tmp_path: Path) -> None:
    entries, episodes = everything(store)
    destroy(store, [1], random.Random(1))
    report = salvaged(store, tmp_path / "new")
    assert report["lost_positions"] == []
    assert everything(tmp_path / "new") == (entries, episodes)


def test_a_file_that_was_cut_off_is_saved_up_to_there(large: Path, tmp_path: Path) -> None:
    store = copied(large, tmp_path / "damaged")
    file = store / "memory.db"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3 + 1000])
    report = salvaged(store, tmp_path / "new")
    assert report["lost_positions"]
    assert report["entries"] > 100
    assert errors_of(verified(tmp_path / "new")) == []


async def test_what_lies_only_in_the_log_is_saved_and_a_server_may_run_meanwhile(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with connected(data) as client:
        made = await call(client, "create_episode", task_description="still in the log")
        await call(client, "add_episode_step", episode_id=made["episode_id"], tool="bash")
        assert (data / "memory.db-wal").stat().st_size > 0
        report = await asyncio.to_thread(salvaged, data, tmp_path / "new")
        assert report["lost_positions"] == []
        await call(client, "add_episode_step", episode_id=made["episode_id"], tool="git")
    async with connected(tmp_path / "new") as client:
        found = await call(client, "get_episode", episode_id=made["episode_id"])
    assert [item["tool"] for item in found["steps"]] == ["bash"]


async def test_a_server_goes_on_with_a_salvaged_store(large: Path, tmp_path: Path) -> None:
    store = copied(large, tmp_path / "damaged")
    rng = random.Random(7)
    destroy(store, rng.sample(range(1, pages_of(store) + 1), pages_of(store) // 10), rng)
    report = salvaged(store, tmp_path / "new")
    assert report["lost_positions"]
    async with connected(tmp_path / "new") as client:
        made = await call(client, "create_episode", task_description="Repair the flaky test 500 of the münchen service")
        await call(client, "add_episode_step", episode_id=made["episode_id"], tool="pytest")
        ended = await call(client, "complete_episode", episode_id=made["episode_id"], outcome_type="success")
        assert ended["reward"]["total"] > 0
        answer = await call(client, "query_memory", query="flaky münchen service", limit=10)
        assert len(answer["episodes"]) == 10
        health = await call(client, "health_check")
        assert health["overall"] == "healthy"
    async with Memory(Settings(data_dir=tmp_path / "new")) as memory:
        await asyncio.wait_for(memory.settle(), PATIENCE)
    found = verified(tmp_path / "new")
    assert errors_of(found) == []
    # nothing was learned twice, and nothing is left to learn
    assert [item for item in found.findings if item.check in ("cursors", "learned")] == []


def test_waiting_writes_come_along(store: Path, tmp_path: Path) -> None:
    journal = Journal(store / "pending")
    journal.open()
    waiting = [add("anything"), create("new")]
    for item in waiting:
        journal.append(item)
    journal.close()
    assert salvaged(store, tmp_path / "new")["pending"] == 2
    taken = Journal(tmp_path / "new" / "pending")
    taken.open()
    assert [item for _, item in taken.first()] == waiting
    taken.close()


def test_learning_that_was_lost_is_done_again_once(store: Path, tmp_path: Path) -> None:
    with opened(store) as session:
        row = session.one("SELECT count(*) FROM ledger WHERE operation = 'episode.learned' AND namespace = 'default'")
        assert row is not None
        assert row[0] >= 3
    # as if the page with this entry and those with its rows had been destroyed
    run(
        store,
        "DELETE FROM ledger WHERE position = (SELECT min(position) FROM ledger WHERE operation = 'episode.learned')",
        "DELETE FROM episodes",
        "DELETE FROM steps",
        "DELETE FROM receipts",
    )
    report = salvaged(store, tmp_path / "new")
    assert len(numbers(report["lost_positions"])) == 1
    found = verified(tmp_path / "new")
    assert errors_of(found) == []
    assert [item.check for item in found.findings] == ["ledger"]
    with opened(tmp_path / "new") as session:
        assert session.all("SELECT 1 FROM episodes WHERE outcome IS NOT NULL AND reward IS NULL") == []


def test_what_was_forgotten_is_not_brought_back(store: Path, tmp_path: Path) -> None:
    with opened(store) as session:
        row = session.one("SELECT episode_id, namespace FROM episodes WHERE status = 'open' LIMIT 1")
        assert row is not None
        position = queries.head_position(session) + 1
    run(store, f"UPDATE ledger SET operation = 'episode.created' WHERE position = {position}")
    with opened(store) as session:
        tx = Transaction(session, Command("forget", row[1], {}, "w", 1), TextRecipe(), Fts5Index())
        tx.append("episode.forgotten", "episode", row[0], {})
    # the payloads and rows are still there, as they may be on an old copy of a page
    salvaged(store, tmp_path / "new")
    with opened(tmp_path / "new") as session:
        assert queries.episode(session, row[1], row[0]) is None
        history = [entry for entry in queries.chain(session, row[1], 0, 10_000) if entry.subject_id == row[0]]
    assert {entry.payload for entry in history[:-1]} == {None}
    assert told(verified(tmp_path / "new")) == []


def test_what_lies_on_pages_that_were_given_up_is_not_brought_back(store: Path, tmp_path: Path) -> None:
    with opened(store) as session:
        for number in range(200):
            session.run("SAVEPOINT ghost")
            session.run(
                "INSERT INTO episodes SELECT ns_hash, 'ghost' || $1, namespace, actor, status, task_type, domain,"
                " task_description, context, metadata, NULL, NULL, NULL, NULL, NULL, 0, 0, started_at, NULL, 9999"
                " FROM episodes WHERE namespace = 'default' LIMIT 1",
                number,
            )
            session.run("RELEASE ghost")
        session.run("DELETE FROM episodes WHERE episode_id LIKE 'ghost%'")
        assert session.all("PRAGMA freelist_count") != [(0,)]
        session.run("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"ghost" in (store / "memory.db").read_bytes()
    report = salvaged(store, tmp_path / "new")
    assert report["lost_positions"] == []
    assert not [name for name in (*report["pieced"], *report["lost_episodes"]) if "ghost" in name]


def test_only_an_empty_directory_is_filled(store: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("mine")
    with pytest.raises(InvalidInputError):
        salvaged(store, tmp_path / "new")
    with pytest.raises(InvalidInputError):
        salvaged(store, tmp_path / "new" / "mine")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


@pytest.mark.parametrize("content", [b"", b"nothing of ours" * 5000])
def test_where_nothing_is_left_nothing_is_made(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "memory.db").write_bytes(content)
    with pytest.raises(StoreCorruptError):
        salvaged(tmp_path / "data", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(StorageUnavailableError):
        salvaged(tmp_path / "nowhere", tmp_path / "new")


LOST = {
    "nothing": "",
    "its beginning": "episode.created",
    "its steps": "episode.step_added",
    "its end": "episode.completed",
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("with_rows", [True, False])
def test_an_episode_is_pieced_together_from_entries_and_rows(name: str, with_rows: bool) -> None:
    session = bare_session()
    for item in (create("a", receipts=[receipt("p")]), add("a", step(), step(error="boom")), complete("a")):
        carry_out(session, item)
    whole = queries.episode(session, "default", "a")
    assert whole is not None
    left = [entry for entry in queries.chain(session, "default", 0, 100) if entry.operation != LOST[name]]
    pieced = piece(left, whole if with_rows else None)
    assert pieced.episode is not None
    if with_rows:
        assert (pieced.episode, pieced.whole) == (whole, True)
    elif name == "its end":
        # that it ended, nothing tells any more
        assert (pieced.episode["status"], pieced.by_ledger) == ("open", True)
    else:
        assert pieced.whole == (name == "nothing")
        assert pieced.episode["outcome"] == whole["outcome"]
        assert pieced.episode["steps"] == ([] if name == "its steps" else whole["steps"])
    if pieced.by_ledger:
        assert replay(left) == pieced.episode


def test_ranges_are_runs_of_consecutive_numbers() -> None:
    assert ranges([]) == []
    assert ranges([5, 1, 2, 3, 7, 8]) == [[1, 3], [5, 5], [7, 8]]
