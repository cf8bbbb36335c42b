"""A sound store that has lived: learned, embedded, in two namespaces, and ways to spoil it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.memory import Memory, boot_id
from memory_mcp.records.episode import EpisodeDraft, ImportedEpisode, Outcome, StepDraft, StepResult
from memory_mcp.services.verification import Report, Verifier
from memory_mcp.settings import Settings
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.sqlite_session import SqliteSession
from memory_mcp.storage.verify.followed import LEARNED_TABLES
from tests.storage.support import add

NAMESPACES = ("default", "team/zürich")
LEFT_OUT = {"steps": {"version"}, "units": {"unit_id"}}


async def live(data_dir: Path, episodes: int = 14) -> None:
    """Fill a directory the way servers do."""
    settings = Settings(data_dir=data_dir)
    done = ""
    async with Memory(settings) as memory:
        for number in range(episodes):
            namespace = NAMESPACES[number % 3 == 2]
            draft = EpisodeDraft(
                task_description=f"Repair the flaky test {number} of the münchen 日本語 🧪 service",
                domain=("payments", "search")[number % 2],
                task_type="debugging",
                metadata={"ticket": number},
            )
            episode_id = (await memory.episodes.create(draft, namespace))["episode_id"]
            for step in _work(number):
                await memory.episodes.add_steps(episode_id, [step], namespace)
            if number % 7 != 6:
                ending = ("success", "failure", "success", "partial_success", "abstained")[number % 5]
                await memory.episodes.complete(episode_id, Outcome(type=ending, verdict=f"fällt {number}"), namespace)
                done = episode_id if namespace == "default" else done
        for number in range(3):
            whole = ImportedEpisode(
                task_description=f"An imported task {number}",
                source_id=f"log:{number}",
                steps=_work(number),
                outcome=Outcome(type="success") if number else None,
            )
            await memory.episodes.import_episode(whole, "default")
        await memory.settle()
    journal = Journal(data_dir / "pending")
    journal.open()
    journal.append(add(done))
    journal.close()
    async with Memory(settings) as memory:
        # the write comes too late, and is kept as a conflict
        assert await memory.store.drain()
        await memory.settle()
        await memory.upkeep.sync()


def _work(number: int) -> list[StepDraft]:
    error = StepResult(type="error", message=f"TimeoutError: no answer from host {number}")
    return [
        StepDraft(tool="pytest", action="run", parameters={"path": "tests", "k": number % 2}, result=error),
        StepDraft(tool="docker", parameters={"service": "redis", "a": 1}, latency_ms=12.5, predicted_outcome=0.75),
        StepDraft(tool="pytest", action="run ß again", result=StepResult(output="3 passed"), tokens_used=number),
    ]


@contextmanager
def opened(data_dir: Path, *, foreign_keys: bool = False) -> Iterator[SqliteSession]:
    """A connection that may do anything, and commits at once."""
    with closing(sqlite.connect(str(data_dir / "memory.db"), isolation_level=None)) as connection:
        connection.execute(f"PRAGMA foreign_keys = {foreign_keys}")
        yield SqliteSession(connection)


def run(data_dir: Path, *statements: str) -> None:
    """Change the database; a statement in the middle sees what those before it did."""
    with opened(data_dir) as session:
        for statement in statements:
            session.run(statement)


def verified(data_dir: Path, **options: Any) -> Report:
    return Verifier(data_dir, boot_id(), **options).verify()


def repaired(data_dir: Path, **options: Any) -> Report:
    return Verifier(data_dir, boot_id(), **options).repair()


def told(report: Report) -> list[tuple[str, str, str]]:
    """`(check, subject, problem)` of everything that is still wrong."""
    return [(item.check, item.subject, item.problem) for item in report.findings if not item.repaired]


def contents(data_dir: Path) -> dict[str, list[Any]]:
    """Everything that a repair must bring back, without the numbers that it gives anew."""
    tables = ("meta", "namespaces", "ledger", "followers", "episodes", "steps", "receipts", "units", *LEARNED_TABLES)
    found: dict[str, list[Any]] = {}
    with opened(data_dir) as session:
        for table in tables:
            names = [row[1] for row in session.all(f"PRAGMA table_info({table})")]
            kept = ", ".join(name for name in names if name not in LEFT_OUT.get(table, ()))
            found[table] = sorted(session.all(f"SELECT {kept} FROM {table}"), key=repr)
    # vectors that were deleted are made again by a server
    found["followers"] = [row for row in found["followers"] if row[0] == "learning"]
    return found


def copied(source: Path, target: Path) -> Path:
    """A store of its own with the same contents; without the lock files of LMDB, which hold no data."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("lock.mdb"))
    return target
