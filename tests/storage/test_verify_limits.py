"""Checking a store: what no repair can know, what lies beside the database, and work that goes on meanwhile."""

from __future__ import annotations

import asyncio
import lzma
from contextlib import closing
from pathlib import Path

import lmdb
import pytest
from mcp import Client
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.errors import SchemaTooNewError, StorageUnavailableError
from memory_mcp.memory import Memory
from memory_mcp.records.episode import EpisodeDraft, StepDraft
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from memory_mcp.storage.cache import sealed
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.verify.findings import Finding
from tests.conftest import PATIENCE, call, connected, in_repository
from tests.services.support import eventually
from tests.storage.sound import NAMESPACES, contents, opened, repaired, run, told, verified
from tests.storage.support import add, carry_out
from tests.storage.test_verify import ONE

HOPELESS = {
    "an entry names another actor": ("UPDATE ledger SET actor = 'mallory' WHERE position = 5", "ledger", "entry"),
    "a payload was rewritten": (
        "UPDATE ledger SET payload = replace(payload, 'Repair', 'Forge') WHERE position = 1",
        "ledger",
        "default entry 1",
    ),
    "an entry is gone": ("DELETE FROM ledger WHERE position = 7", "ledger", "entry"),
    "a head is another": ("UPDATE namespaces SET head_hash = zeroblob(32)", "ledger", "entry"),
    "a payload was erased": (
        f"UPDATE ledger SET payload = NULL WHERE operation = 'episode.completed' AND subject_id = {ONE}",
        "rows",
        "default/",
    ),
    "a payload is none of its operation": (
        "UPDATE ledger SET payload = '{}' WHERE operation = 'episode.step_added' AND position < 9",
        "rows",
        "/",
    ),
    "a table has another shape": ("ALTER TABLE credits ADD COLUMN more TEXT", "schema", "table credits"),
    "the ledger is gone": ("DROP TABLE ledger", "schema", "table ledger"),
    "the store has no name": ("DELETE FROM meta WHERE key = 'store_id'", "schema", "meta"),
}


def errors(findings: list[Finding]) -> list[Finding]:
    return [item for item in findings if item.severity == "error" and not item.repaired]


@pytest.mark.parametrize("name", HOPELESS)
def test_what_no_repair_can_know_is_named_with_what_to_do(store: Path, name: str) -> None:
    statement, check, subject = HOPELESS[name]
    run(store, statement)
    for report in (verified(store), repaired(store)):
        found = [item for item in errors(report.findings) if item.check == check and subject in item.subject]
        assert found
        assert not any(item.repairable for item in found)
        assert "storage salvage" in found[0].hint
        assert "backup restore" in found[0].hint


def test_rows_are_not_made_what_a_damaged_ledger_says(store: Path) -> None:
    run(
        store,
        "UPDATE episodes SET task_description = 'forged'",
        "UPDATE ledger SET actor = 'mallory' WHERE namespace = 'default' AND sequence = 3",
    )
    repaired(store)
    with opened(store) as session:
        left = dict(session.all("SELECT task_description, namespace FROM episodes WHERE task_description = 'forged'"))
    assert left == {"forged": "default"}
    checks = {(item.check, item.subject.rsplit("/", 1)[0]) for item in errors(verified(store).findings)}
    assert ("rows", "default") in checks
    assert ("rows", NAMESPACES[1]) not in checks


def test_an_index_that_does_not_match_its_table_is_made_anew(store: Path) -> None:
    before = contents(store)
    columns = "type, name, tbl_name, rootpage, sql"
    with opened(store) as session:
        hidden = session.all(f"SELECT {columns} FROM sqlite_schema WHERE name = 'patterns_group'")
        session.run("PRAGMA writable_schema = ON")
        session.run("DELETE FROM sqlite_schema WHERE name = 'patterns_group'")
    # without its index in sight, the table changes alone
    run(store, "DELETE FROM patterns WHERE rowid = 1")
    with opened(store) as session:
        session.run("PRAGMA writable_schema = ON")
        session.run(f"INSERT INTO sqlite_schema ({columns}) VALUES ($1, $2, $3, $4, $5)", *hidden[0])
    assert ("sqlite", "index patterns_group") in {item[:2] for item in told(verified(store))}
    assert told(repaired(store)) == []
    assert contents(store) == before


def test_an_orphan_is_removed(store: Path) -> None:
    before = contents(store)
    names = "at, tool, action, parameters, result"
    run(
        store,
        f"INSERT INTO steps (ns_hash, episode_id, step_number, {names}, version)"
        f" SELECT ns_hash, 'nobody', 1, {names}, 9 FROM steps LIMIT 1",
    )
    assert {item[0] for item in told(verified(store))} == {"foreign_keys"}
    assert told(repaired(store)) == []
    assert contents(store) == before


def test_an_episode_that_was_learned_twice_or_never_is_named(store: Path) -> None:
    with opened(store) as session:
        row = session.one("SELECT position, subject_id FROM ledger WHERE operation = 'episode.learned' LIMIT 1")
        assert row is not None
    run(store, f"UPDATE ledger SET operation = 'episode.seen' WHERE position = {row[0]}")
    found = [item for item in verified(store).findings if item.check == "cursors"]
    assert [(item.severity, item.subject) for item in found] == [("warning", f"default/{row[1]}")]
    run(store, f"UPDATE ledger SET operation = 'episode.learned' WHERE subject_id = '{row[1]}' AND position > 1"
        " AND operation IN ('episode.seen', 'write.conflict')",
        "UPDATE ledger SET operation = 'episode.learned', subject_id = '" + row[1] + "' WHERE position ="
        f" (SELECT min(position) FROM ledger WHERE position > {row[0]} AND namespace = 'default')")  # fmt: skip
    found = [item for item in verified(store).findings if item.check == "cursors" and "2 times" in item.problem]
    assert [(item.severity, item.subject) for item in found] == [("error", f"default/{row[1]}")]


def change_cache(data_dir: Path, prefix: bytes, old: bytes, new: bytes) -> int:
    changed = 0
    with closing(lmdb.open(str(data_dir / "cache"), map_size=1 << 28)) as env, env.begin(write=True) as txn:
        for name, value in list(txn.cursor()):
            if name.startswith(prefix) and old in value:
                version, payload = int.from_bytes(value[:8]), value[12:]
                txn.put(name, sealed(name, version, payload.replace(old, new)))
                changed += 1
    return changed


@pytest.mark.parametrize(
    ("prefix", "old", "new", "part"),
    [
        (b"e", b"Repair the flaky test 3", b"Forged", "task_description"),
        (b"s", b"3 passed", b"9 passed", "steps"),
        (b"R", b'"used":true', b'"used":false', "receipts"),
        (b"R", b'"used":false', b'"used":true', "receipts"),
    ],
)
def test_a_cache_that_contradicts_the_store_is_named_and_emptied(
    store: Path, prefix: bytes, old: bytes, new: bytes, part: str
) -> None:
    changed = change_cache(store, prefix, old, new)
    assert changed
    found = told(verified(store))
    assert len(found) == changed
    assert all(item[0] == "cache" and part in item[2] for item in found)
    before = (store / "memory.db").read_bytes()
    assert told(repaired(store)) == []
    assert (store / "memory.db").read_bytes() == before


def test_a_cache_that_is_behind_the_store_is_no_finding(store: Path) -> None:
    with opened(store) as session:
        row = session.one("SELECT episode_id FROM episodes WHERE namespace = 'default' AND status = 'open' LIMIT 1")
        assert row is not None
        carry_out(session, add(row[0]))
    assert told(verified(store)) == []


def test_a_cache_that_is_ahead_of_the_ledger_is_named(store: Path) -> None:
    change_cache(store, b"\x00applied", b"", b"")
    with closing(lmdb.open(str(store / "cache"), map_size=1 << 28)) as env, env.begin(write=True) as txn:
        txn.put(b"\x00applied", (10**6).to_bytes(8))
    assert [item[:2] for item in told(verified(store))] == [("cache", "cache")]
    assert told(repaired(store)) == []


def test_a_cache_that_is_cut_off_is_named_and_made_anew(store: Path) -> None:
    with (store / "cache" / "data.mdb").open("r+b") as file:
        file.truncate(9_000)
    assert [item[:2] for item in told(verified(store))] == [("cache", "cache")]
    assert told(repaired(store)) == []


def test_waiting_writes_are_counted_and_an_unreadable_journal_is_an_error(store: Path) -> None:
    journal = Journal(store / "pending")
    journal.open()
    for _ in range(3):
        journal.append(add("anything"))
    journal.close()
    report = verified(store)
    assert (report.waiting, report.findings) == (3, [])
    (store / "pending" / "data.mdb").write_bytes(b"this is no journal" * 1000)
    report = verified(store)
    assert [(item.check, item.severity) for item in report.findings] == [("journal", "error")]
    assert "keep a copy" in report.findings[0].hint


def test_a_store_of_an_older_schema_is_checked_as_what_it_is(tmp_path: Path) -> None:
    packed = in_repository("tests", "storage", "data", "schema-1.db.xz").read_bytes()
    (tmp_path / "memory.db").write_bytes(lzma.decompress(packed))
    report = verified(tmp_path)
    assert [(item.check, item.severity) for item in report.findings] == [("schema", "warning")]
    assert "version 1" in report.findings[0].problem


def test_a_store_of_a_newer_program_is_not_judged(store: Path) -> None:
    run(store, "UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(SchemaTooNewError):
        verified(store)


def test_where_no_store_is_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError):
        verified(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("spoil", ["cut", "garbage", "foreign"])
def test_a_file_that_is_no_store_is_a_finding(store: Path, spoil: str) -> None:
    file = store / "memory.db"
    if spoil == "cut":
        file.write_bytes(file.read_bytes()[:-8192])
    elif spoil == "garbage":
        file.write_bytes(b"nothing of ours" * 1000)
    else:
        file.unlink()
        with closing(sqlite.connect(str(file))) as connection:
            connection.execute("CREATE TABLE recipes (name TEXT)")
    assert [item.check for item in errors(verified(store).findings)] == ["sqlite"]
    assert [item.check for item in errors(repaired(store).findings)] == ["sqlite"]


def test_a_quick_check_finds_what_needs_no_reading_of_rows(store: Path) -> None:
    run(store, "UPDATE scope_stats SET episodes = 0", "UPDATE ledger SET actor = 'x' WHERE position = 3")
    assert {item[0] for item in told(verified(store, quick=True))} == {"ledger"}
    assert {item[0] for item in told(verified(store))} == {"ledger", "learned"}


async def test_beside_servers_that_write_a_sound_store_has_no_finding(store: Path) -> None:
    settings = Settings(data_dir=store, embedder="none")
    async with Memory(settings) as memory:
        done = asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                made = await memory.episodes.create(EpisodeDraft(task_description="meanwhile"), "default")
                await memory.episodes.add_steps(made["episode_id"], [StepDraft(tool="bash")], "default")

        writing = asyncio.create_task(write())
        try:
            reports = [await asyncio.to_thread(verified, store) for _ in range(5)]
        finally:
            done.set()
            await asyncio.wait_for(writing, PATIENCE)
    positions = [report.position for report in reports]
    assert positions[0] < positions[-1]
    assert [told(report) for report in reports] == [[]] * 5


async def ready(client: Client) -> None:
    """Wait for the model: until it is there, answers go by words alone."""
    async with asyncio.timeout(PATIENCE):
        while (await call(client, "health_check"))["memory_system"]["semantic_search"] == "loading":  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)


async def test_after_a_repair_the_server_answers_as_before(store: Path) -> None:
    async with connected(store) as client:
        question = {"query": "flaky münchen service", "limit": 50}
        await ready(client)
        before = await call(client, "query_memory", **question)
        episode_id = before["episodes"][0]["episode_id"]
        whole = await call(client, "get_episode", episode_id=episode_id)
    run(
        store,
        f"UPDATE episodes SET task_description = 'forged', outcome_type = NULL WHERE episode_id = '{episode_id}'",
        f"DELETE FROM steps WHERE episode_id = '{episode_id}'",
        "DELETE FROM units WHERE unit_id % 3 = 0",
        "DELETE FROM pattern_counts",
        "UPDATE scope_stats SET successes = 0",
        "DROP INDEX episodes_recent",
        "DELETE FROM vectors WHERE unit_id % 2 = 0",
        "UPDATE units_fts_data SET block = zeroblob(length(block)) WHERE id > 100",
    )
    report = repaired(store)
    assert told(report) == []
    async with connected(store) as client:
        await ready(client)
        # the vectors are made again behind the answers
        await eventually(lambda: _embedded(store))
        assert told(verified(store)) == []
        after = await call(client, "query_memory", **question)
        assert await call(client, "get_episode", episode_id=episode_id) == whole
    # of two that fit alike, the newer unit comes first
    assert {item["episode_id"]: item for item in after["episodes"]} == {
        item["episode_id"]: item for item in before["episodes"]
    }
    assert after["insights"] == before["insights"]


def _embedded(data_dir: Path) -> bool:
    with opened(data_dir) as session:
        row = session.one("SELECT count(*) FROM units u WHERE embed = 1 AND NOT EXISTS"
                          " (SELECT 1 FROM vectors v WHERE v.unit_id = u.unit_id)")  # fmt: skip
        assert queries.head_position(session)
    assert row is not None
    return int(row[0]) == 0
