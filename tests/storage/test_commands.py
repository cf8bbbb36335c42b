"""Commands: what each writes, what it refuses, and that it is all or nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.errors import (
    EpisodeClosedError,
    EpisodeExistsError,
    EpisodeNotFoundError,
    InternalError,
    MemoryMCPError,
    StepConflictError,
    TooLargeError,
)
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command, LedgerEntry, Written
from memory_mcp.retrieval.text import terms
from memory_mcp.storage import queries
from memory_mcp.storage.engine import StoreFailure
from memory_mcp.storage.ledger import verify
from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite import SqliteEngine
from memory_mcp.storage.sqlite_session import SqliteSession
from tests.storage.support import NOW, add, command, complete, create, header, outcome, receipt, show, step


async def episode(engine: SqliteEngine, episode_id: str, namespace: str = "default") -> Json | None:
    return await engine.read(lambda session: queries.episode(session, namespace, episode_id))


async def entries(engine: SqliteEngine, write_id: str) -> list[LedgerEntry]:
    return await engine.read(lambda session: queries.written(session, write_id))


async def found(engine: SqliteEngine, word: str) -> list[tuple[Any, ...]]:
    """The units that a word finds."""

    def search(session: Session) -> list[tuple[Any, ...]]:
        return session.all(
            "SELECT u.kind, u.subject_id, u.step_number FROM units_fts f JOIN units u ON u.unit_id = f.rowid"
            " WHERE units_fts MATCH $1 ORDER BY u.unit_id",
            terms(word)[0],
        )

    return await engine.read(search)


async def dump(engine: SqliteEngine) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is stored."""

    def read(session: Session) -> dict[str, list[tuple[Any, ...]]]:
        tables = session.all("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'units_fts_%'")
        return {
            name: session.all(f"SELECT * FROM {name}")
            for (name,) in tables
            if name not in ("units_fts", "sqlite_sequence")
        }

    stored = await engine.read(read)
    stored["words"] = await engine.read(lambda session: session.all("SELECT term, doc, cnt FROM units_vocab"))
    return stored


async def test_creating_an_episode_writes_row_entry_receipts_and_a_findable_task(engine: SqliteEngine) -> None:
    written = await engine.write(create("e1", receipts=[receipt("old")], write_id="w"))
    assert written.result["episode_id"] == "e1"
    assert written.result["started_at"] == NOW
    stored = await episode(engine, "e1")
    assert stored is not None
    assert (stored["status"], stored["steps"], stored["outcome"]) == ("open", [], None)
    assert [shown["memory_id"] for shown in stored["receipts"]] == ["old"]
    assert [entry.operation for entry in await entries(engine, "w")] == ["episode.created", "memory.shown"]
    assert await entries(engine, "w") == written.entries
    assert await found(engine, "task") == [("task", "e1", 0)]


async def test_steps_are_numbered_without_gaps_and_findable(engine: SqliteEngine) -> None:
    await engine.write(create("e1"))
    first = await engine.write(add("e1", step("docker"), step("pytest", error="redis refused")))
    second = await engine.write(add("e1", step("git", at=5), number=3))
    assert (first.result["step_numbers"], first.result["step_count"]) == ([1, 2], 2)
    assert (second.result["step_numbers"], second.result["step_count"]) == ([3], 3)
    stored = await episode(engine, "e1")
    assert stored is not None
    assert [(taken["step_number"], taken["tool"], taken["at"]) for taken in stored["steps"]] == [
        (1, "docker", NOW),
        (2, "pytest", NOW),
        (3, "git", 5),
    ]
    assert (stored["step_count"], stored["error_count"]) == (3, 1)
    assert await found(engine, "redis") == [("step", "e1", 2)]


async def test_completing_ends_the_episode_and_makes_its_lesson_findable(engine: SqliteEngine) -> None:
    await engine.write(create("e1"))
    payload = {"episode_id": "e1", "outcome": {**outcome("failure"), "reason": "the certificate expired"}}
    written = await engine.write(command("episode.complete", payload, at=NOW + 7))
    assert written.result["ended_at"] == NOW + 7
    stored = await episode(engine, "e1")
    assert stored is not None
    assert (stored["status"], stored["outcome"]["reason"]) == ("completed", "the certificate expired")
    assert await found(engine, "certificate") == [("lesson", "e1", 0)]


async def test_a_clock_that_was_set_back_gives_no_negative_duration(engine: SqliteEngine) -> None:
    await engine.write(create("e1"))
    assert (await engine.write(complete("e1", at=NOW - 1_000_000))).result["ended_at"] == NOW


def imported(episode_id: str, steps: int, *, closed: bool = True, write_id: str = "") -> Command:
    payload = {
        "episode": header(episode_id),
        "steps": [step(at=NOW + number) for number in range(steps)],
        "outcome": outcome() if closed else None,
        "ended_at": NOW + 99,
    }
    return command("episode.import", payload, write_id=write_id)


async def test_an_import_writes_a_whole_episode_in_one_transaction(engine: SqliteEngine) -> None:
    written = await engine.write(imported("e1", 3))
    assert [entry.operation for entry in written.entries] == [
        "episode.created",
        *["episode.step_added"] * 3,
        "episode.completed",
    ]
    await engine.write(imported("e2", 0, closed=False))
    closed, still_open = await episode(engine, "e1"), await episode(engine, "e2")
    assert closed is not None
    assert still_open is not None
    assert (closed["status"], len(closed["steps"]), closed["ended_at"]) == ("completed", 3, NOW + 99)
    assert (still_open["status"], still_open["steps"]) == ("open", [])


async def test_memory_that_is_shown_twice_after_the_same_step_counts_once(engine: SqliteEngine) -> None:
    await engine.write(create("e1", receipts=[receipt("a")]))
    again = await engine.write(show("e1", receipt("a"), receipt("b"), receipt("b")))
    nothing_new = await engine.write(show("e1", receipt("a")))
    stored = await episode(engine, "e1")
    assert stored is not None
    assert [shown["memory_id"] for shown in stored["receipts"]] == ["a", "b"]
    assert [shown["memory_id"] for shown in again.entries[0].data()["receipts"]] == ["b"]
    assert nothing_new.entries == []


async def test_a_conflict_is_kept_in_the_ledger_with_the_whole_command(engine: SqliteEngine) -> None:
    payload = {"command": {"operation": "episode.create", "payload": {"episode": header("e9")}, "at": 1}, "error": {}}
    written = await engine.write(command("write.conflict", payload))
    assert (written.entries[0].operation, written.entries[0].subject_id) == ("write.conflict", "e9")
    assert written.entries[0].data() == payload


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (add("nobody"), EpisodeNotFoundError),
        (complete("nobody"), EpisodeNotFoundError),
        (show("nobody", receipt("a")), EpisodeNotFoundError),
        (add("open", namespace="team/b"), EpisodeNotFoundError),
        (complete("open", namespace="team/b"), EpisodeNotFoundError),
        (create("open"), EpisodeExistsError),
        (create("done"), EpisodeExistsError),
        (imported("open", 1), EpisodeExistsError),
        (add("done"), EpisodeClosedError),
        (complete("done"), EpisodeClosedError),
        (show("done", receipt("a")), EpisodeClosedError),
        (add("open", number=1), StepConflictError),
        (add("open", number=3), StepConflictError),
        (add("open", *[step()] * 1000), TooLargeError),
        (command("episode.levitate", {}), InternalError),
        (command("episode.create", {}), InternalError),
        (add("open", step(tool={"not": "text"})), InternalError),
        (add("open", step(latency_ms=object())), InternalError),
        (add("open", step(tokens_used=2**70)), InternalError),
        (add("open", step(action="\ud800")), InternalError),
    ],
    ids=lambda case: f"{case.operation}-{case.write_id}" if isinstance(case, Command) else "",
)
async def test_a_refused_command_changes_nothing_and_leaves_its_neighbours_alone(
    engine: SqliteEngine, refused: Command, error: type[MemoryMCPError]
) -> None:
    await engine.write(create("open"))
    await engine.write(add("open"))
    await engine.write(create("done"))
    await engine.write(complete("done"))
    before = await dump(engine)
    with pytest.raises(error):
        await engine.write(refused)
    assert await dump(engine) == before
    answers = await asyncio.gather(
        engine.write(create("left")), engine.write(refused), engine.write(create("right")), return_exceptions=True
    )
    assert isinstance(answers[1], error)
    assert await episode(engine, "left")
    assert await episode(engine, "right")
    assert await engine.read(verify) == []


async def test_the_thousandth_step_is_taken_and_the_next_one_is_not(engine: SqliteEngine) -> None:
    await engine.write(create("e1"))
    await engine.write(add("e1", *[step()] * 999))
    with pytest.raises(TooLargeError):
        await engine.write(add("e1", step(), step()))
    assert (await engine.write(add("e1"))).result["step_numbers"] == [1000]
    with pytest.raises(TooLargeError):
        await engine.write(add("e1"))
    assert (await engine.write(complete("e1"))).result["step_count"] == 1000


class Boom(Exception):
    """A defect."""


@pytest.fixture
def failing_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Lets the n-th statement of the writer's next command fail with an error."""
    plan: dict[str, Any] = {"at": 0, "error": Boom("injected")}
    counting = {"on": False, "count": 0}

    def spy(name: str) -> None:
        real = getattr(SqliteSession, name)

        def spied(self: SqliteSession, sql: str, *values: Any) -> Any:
            if sql == "SAVEPOINT command":
                counting.update(on=True, count=0)
            elif sql in ("RELEASE command", "ROLLBACK TO command"):
                counting["on"] = False
            elif counting["on"]:
                counting["count"] += 1
                if counting["count"] == plan["at"]:
                    plan["hit"] = sql
                    raise plan["error"]
            return real(self, sql, *values)

        monkeypatch.setattr(SqliteSession, name, spied)

    for name in ("run", "one", "all", "many"):
        spy(name)
    return plan


@pytest.mark.parametrize("error", [Boom("injected"), sqlite.OperationalError("disk I/O error")], ids=["defect", "disk"])
@pytest.mark.parametrize(
    "interrupted",
    [
        create("new", receipts=[receipt("a"), receipt("b")]),
        add("open", step(), step(error="x"), receipts=[receipt("a")]),
        complete("open"),
        imported("new", 2),
        show("open", receipt("a")),
    ],
    ids=lambda case: case.operation,
)
async def test_a_command_that_fails_at_any_statement_leaves_nothing_behind(
    engine: SqliteEngine, failing_at: dict[str, Any], interrupted: Command, error: Exception
) -> None:
    await engine.write(create("open"))
    before = await dump(engine)
    failing_at["error"] = error
    for number in range(1, 200):
        failing_at["at"] = number
        failing_at.pop("hit", None)
        (answer,) = await asyncio.gather(engine.write(interrupted), return_exceptions=True)
        if "hit" not in failing_at:
            break
        assert isinstance(answer, InternalError if isinstance(error, Boom) else StoreFailure)
        assert await dump(engine) == before
    assert isinstance(answer, Written)
    assert number > 5
    assert await engine.read(verify) == []


async def test_concurrent_writes_share_transactions_and_each_is_durable_when_it_is_acknowledged(
    engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = []
    real = SqliteSession.run

    def run(self: SqliteSession, sql: str, *values: Any) -> int:
        if sql == "BEGIN IMMEDIATE":
            transactions.append(sql)
        return real(self, sql, *values)

    monkeypatch.setattr(SqliteSession, "run", run)
    other = sqlite.connect(str(engine.path))

    async def write(number: int) -> None:
        if number % 10 == 0:
            with pytest.raises(EpisodeNotFoundError):
                await engine.write(complete(f"missing{number}"))
            return
        written = await engine.write(create(f"e{number}"))
        seen = other.execute("SELECT max(position) FROM ledger").fetchone()[0]
        assert seen >= written.position
        assert other.execute("SELECT count(*) FROM episodes WHERE episode_id = ?", (f"e{number}",)).fetchone() == (1,)

    await asyncio.gather(*(write(number) for number in range(200)))
    assert other.execute("SELECT count(*) FROM episodes").fetchone() == (180,)
    other.close()
    # what arrives while one transaction runs shares the next one
    assert len(transactions) <= 4
    assert await engine.read(verify) == []


async def test_nobody_is_answered_before_the_commit(engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    real = SqliteSession.run

    def run(self: SqliteSession, sql: str, *values: Any) -> int:
        if sql == "COMMIT":
            loop.call_soon_threadsafe(reached.set)
            assert go.wait(10)
        return real(self, sql, *values)

    monkeypatch.setattr(SqliteSession, "run", run)
    writes = [asyncio.create_task(engine.write(create(f"e{number}"))) for number in range(5)]
    await asyncio.wait_for(reached.wait(), 10)
    assert not any(write.done() for write in writes)
    assert await episode(engine, "e0") is None
    go.set()
    assert all(written.entries for written in await asyncio.gather(*writes))


async def test_positions_follow_the_order_of_commits(engine: SqliteEngine) -> None:
    last = 0
    for number in range(20):
        written = await engine.write(create(f"e{number}", namespace=f"team/{number % 3}"))
        assert [entry.position for entry in written.entries] == [last + 1]
        last = written.position


@pytest.mark.parametrize(
    "replayed",
    [
        create("new", receipts=[receipt("a")]),
        add("open", step(), step(error="x"), receipts=[receipt("a")]),
        complete("open"),
        imported("new", 2),
        imported("new", 0, closed=False),
        show("open", receipt("a")),
        command("write.conflict", {"command": {"payload": {"episode_id": "open"}}, "error": {}}),
    ],
    ids=lambda case: case.operation,
)
async def test_a_replay_changes_nothing_and_gives_the_same_result(engine: SqliteEngine, replayed: Command) -> None:
    await engine.write(create("open"))
    first = await engine.write(replayed, replayed=True)
    before = await dump(engine)
    again = await engine.write(replayed, replayed=True)
    assert again == first
    assert await dump(engine) == before


async def test_carrying_out_a_command_does_not_change_it(engine: SqliteEngine) -> None:
    given, same = imported("e1", 2, write_id="w"), imported("e1", 2, write_id="w")
    await engine.write(given)
    assert given == same


async def test_a_write_whose_caller_gave_up_is_carried_out_all_the_same(engine: SqliteEngine) -> None:
    given_up = asyncio.create_task(engine.write(create("e1")))
    await asyncio.sleep(0)
    given_up.cancel()
    refused = asyncio.create_task(engine.write(complete("nobody")))
    await asyncio.sleep(0)
    refused.cancel()
    await engine.write(create("e2"))
    assert await episode(engine, "e1")
    assert given_up.cancelled()
    assert refused.cancelled()


async def test_closing_answers_every_write_that_was_waiting(engine: SqliteEngine) -> None:
    writes = [asyncio.create_task(engine.write(create(f"e{number}"))) for number in range(600)]
    await asyncio.sleep(0)
    late: list[asyncio.Task[Any]] = []
    closing = asyncio.create_task(engine.close())
    while not closing.done():
        late.append(asyncio.create_task(engine.write(create(f"late{len(late)}"))))
        await asyncio.sleep(0)
    answers = await asyncio.wait_for(asyncio.gather(*writes, *late, return_exceptions=True), 10)
    assert not [answer for answer in answers[:600] if isinstance(answer, BaseException)]
    assert all(isinstance(answer, StoreFailure) for answer in answers[600:])
    with pytest.raises(StoreFailure):
        await engine.read(queries.head_position)
    with pytest.raises(StoreFailure):
        await engine.data_version()
    await engine.open()
    assert await engine.read(queries.ledger_entries) == 600


async def test_a_commit_task_that_is_cancelled_leaves_nobody_waiting(engine: SqliteEngine) -> None:
    writes = [asyncio.create_task(engine.write(create(f"e{number}"))) for number in range(3)]
    await asyncio.sleep(0)
    assert engine._flushing is not None
    await asyncio.sleep(0)
    engine._flushing.cancel()
    done, waiting = await asyncio.wait(writes, timeout=10)
    assert not waiting
    assert all(write.cancelled() for write in done)
    assert (await engine.write(create("later"))).entries
