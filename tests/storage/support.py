"""What the tests of storage and resilience are written with: commands, a bare session, an engine that fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command, Written
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import migrations, queries
from memory_mcp.storage.engine import StoreFailure
from memory_mcp.storage.learned import FOLLOWER_OPERATIONS, LEARNING
from memory_mcp.storage.leases import Turn
from memory_mcp.storage.operations import OPERATIONS
from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite import SqliteEngine
from memory_mcp.storage.sqlite_session import Fts5Index, SqliteSession
from memory_mcp.storage.transaction import Transaction

T = TypeVar("T")

NOW = 1_700_000_000_000_000

_numbers = itertools.count(1)


def command(operation: str, payload: Json, *, namespace: str = "default", write_id: str = "", at: int = NOW) -> Command:
    """A command with an id of its own."""
    return Command(operation, namespace, payload, write_id or f"w{next(_numbers)}", at, "tester")


def header(episode_id: str, *, namespace: str = "default", **changes: Any) -> Json:
    """An episode as a service announces it."""
    return {
        "episode_id": episode_id,
        "namespace": namespace,
        "actor": "tester",
        "task_type": "other",
        "domain": "demo",
        "task_description": f"task of {episode_id}",
        "context": {"language": "", "framework": "", "complexity": None, "tags": []},
        "metadata": {},
        "started_at": NOW,
        **changes,
    }


def step(tool: str = "bash", *, error: str = "", **changes: Any) -> Json:
    """A step as a service reports it."""
    result = {"type": "error" if error else "success", "output": "", "message": error, "truncated": False}
    draft = {"tool": tool, "action": "act", "parameters": {}, "result": result}
    return {**draft, "latency_ms": None, "tokens_used": None, "predicted_outcome": None, "at": None, **changes}


def outcome(kind: str = "success") -> Json:
    return {
        "type": kind,
        "verdict": "",
        "artifacts": [],
        "completed": [],
        "failed": [],
        "reason": "",
        "score": None,
    }


def receipt(memory_id: str, *, after: int = 0) -> Json:
    advice = {"choice": {"tool": "pytest"}}
    return {"shown_after": after, "memory_kind": "episode", "memory_id": memory_id, "advice": advice}


def create(episode_id: str, *, namespace: str = "default", receipts: list[Json] | None = None, **more: Any) -> Command:
    payload = {"episode": header(episode_id, namespace=namespace), "receipts": receipts or []}
    return command("episode.create", payload, namespace=namespace, **more)


def add(episode_id: str, *steps: Json, number: int = 0, receipts: list[Json] | None = None, **more: Any) -> Command:
    payload = {
        "episode_id": episode_id,
        "steps": list(steps or [step()]),
        "step_number": number,
        "receipts": receipts or [],
    }
    return command("episode.add_steps", payload, **more)


def complete(episode_id: str, kind: str = "success", **more: Any) -> Command:
    return command("episode.complete", {"episode_id": episode_id, "outcome": outcome(kind)}, **more)


def show(episode_id: str, *receipts: Json, **more: Any) -> Command:
    return command("memory.show", {"episode_id": episode_id, "receipts": list(receipts)}, **more)


class FailingEngine:
    """The real engine behind switches. `fails` names what fails: open, read, write; `ambiguous` counts writes whose
    commit happens and is then reported as failed."""

    name = "sqlite"

    def __init__(self, engine: SqliteEngine) -> None:
        self.real = engine
        self.fails: set[str] = set()
        self.ambiguous = 0
        self.calls = {"open": 0, "read": 0, "write": 0}

    @property
    def store_id(self) -> str:
        return self.real.store_id

    @property
    def read_only(self) -> str:
        return self.real.read_only

    def writable_again(self) -> bool:
        return self.real.writable_again()

    async def open(self) -> None:
        self._called("open")
        await self.real.open()

    async def close(self) -> None:
        await self.real.close()

    async def read(self, work: Callable[[Session], T]) -> T:
        self._called("read")
        return await self.real.read(work)

    async def write(self, command: Command, *, replayed: bool = False) -> Written:
        self._called("write")
        written = await self.real.write(command, replayed=replayed)
        if self.ambiguous > 0:
            self.ambiguous -= 1
            raise StoreFailure("the disk went away after the commit")
        return written

    async def data_version(self) -> int:
        if "read" in self.fails:
            raise StoreFailure("injected: read")
        return await self.real.data_version()

    def _called(self, what: str) -> None:
        self.calls[what] += 1
        if what in self.fails:
            raise StoreFailure(f"injected: {what}")


def bare_session() -> SqliteSession:
    """A store in memory, without engine and threads."""
    session = SqliteSession(sqlite.connect(":memory:", isolation_level=None))
    migrations.migrate(session, "sqlite", "test-store", before=0)
    return session


def carry_out(session: Session, command: Command) -> Written:
    """Carry out a command as an engine does, without its transaction."""
    transaction = Transaction(session, command, TextRecipe(), Fts5Index())
    (OPERATIONS | FOLLOWER_OPERATIONS)[command.operation](transaction, command.payload)
    return Written({}, transaction.entries)


def learn(episode_id: str, *used: str, shown: list[Json] | None = None, namespace: str = "default") -> Command:
    """What the learning follower writes, reduced to what the storage layer looks at. Its cursor is one of its own."""
    receipts = [
        {
            **{name: item[name] for name in ("shown_after", "memory_kind", "memory_id")},
            "used": item["memory_id"] in used,
        }
        for item in shown or []
    ]
    payload = {
        "episode_id": episode_id,
        "success": True,
        "reward": {"total": 1.25},
        "reflection": {"successes": [{"text": "it worked", "steps": [1]}]},
        "stats": {"steps": 1, "log_steps": 0.0, "log_seconds": None},
        "tools": [],
        "contributions": [],
        "groups": [],
        "credits": [],
        "receipts": receipts,
        "cursor": {"name": f"learning of {namespace} {episode_id}", "from": 0, "to": 1},
    }
    return command("episode.learn", payload, namespace=namespace)


async def seize(memory: Memory) -> Turn:
    """Have a memory lead learning, as if it had written a part of what it has to learn from."""
    lead = memory.learner.lead
    turn = lead.turn(await memory.store.read(lead.look), waiting=True)
    assert turn is not None
    at = await memory.store.read(lambda session: queries.cursor(session, LEARNING))
    move = {"name": LEARNING, "from": at, "to": at, "claim": turn.claim()}
    await memory.store.write_derived(command("cursor.move", {"cursor": move}))
    return turn
