"""What each command does to the rows. Every change of a record passes through here, whichever engine stores it.

A handler runs inside a transaction, checks the command against what is stored, writes the rows, and appends the
ledger entries. It returns the result of the command as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from memory_mcp.errors import (
    EpisodeClosedError,
    EpisodeExistsError,
    EpisodeNotFoundError,
    StepConflictError,
    TooLargeError,
)
from memory_mcp.records.base import MAX_STEPS, Json, dumps
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage.transaction import Transaction

Handler = Callable[[Transaction, Json], Json]

HEADER_FIELDS = (
    "episode_id",
    "namespace",
    "actor",
    "status",
    "task_type",
    "domain",
    "task_description",
    "context",
    "metadata",
    "outcome",
    "reward",
    "reflection",
    "step_count",
    "error_count",
    "started_at",
    "ended_at",
    "version",
)
_JSON_FIELDS = frozenset({"context", "metadata", "outcome", "reward", "reflection"})
HEADER_COLUMNS = ", ".join(HEADER_FIELDS)


def header_from_row(row: tuple[Any, ...]) -> Json:
    """An episode without its steps, from the columns `HEADER_COLUMNS`."""
    return {
        name: json.loads(value) if name in _JSON_FIELDS and value is not None else value
        for name, value in zip(HEADER_FIELDS, row, strict=True)
    }


def load_header(tx: Transaction, episode_id: str) -> Json:
    """The episode's row.

    Raises:
        EpisodeNotFoundError
    """
    row = tx.session.one(
        f"SELECT {HEADER_COLUMNS} FROM episodes WHERE ns_hash = $1 AND episode_id = $2", tx.ns_hash, episode_id
    )
    if row is None:
        raise EpisodeNotFoundError(f"there is no episode {episode_id!r} in namespace {tx.command.namespace!r}")
    return header_from_row(row)


def create_episode(tx: Transaction, payload: Json) -> Json:
    """`{episode, receipts}`: start an episode, and note which memory was shown with it."""
    episode = payload["episode"]
    _insert_episode(tx, episode)
    _insert_receipts(tx, episode["episode_id"], payload.get("receipts", []))
    return {"episode_id": episode["episode_id"], "started_at": episode["started_at"]}


def add_steps(tx: Transaction, payload: Json) -> Json:
    """`{episode_id, steps, step_number, receipts}`: append steps to an open episode.

    `step_number`, if not 0, is the number that the caller expects the first step to get.
    """
    header = load_header(tx, payload["episode_id"])
    _require_open(header)
    expected = payload.get("step_number", 0)
    if expected and expected != header["step_count"] + 1:
        raise StepConflictError(
            f"step_number {expected} does not follow: the episode has {header['step_count']} steps",
        )
    numbers = [_append_step(tx, header, step) for step in payload["steps"]]
    _insert_receipts(tx, header["episode_id"], payload.get("receipts", []))
    return {"episode_id": header["episode_id"], "step_numbers": numbers, "step_count": header["step_count"]}


def complete_episode(tx: Transaction, payload: Json) -> Json:
    """`{episode_id, outcome}`: end an open episode."""
    header = load_header(tx, payload["episode_id"])
    _require_open(header)
    _close_episode(tx, header, payload["outcome"], tx.command.at)
    return {"episode_id": header["episode_id"], "ended_at": header["ended_at"], "step_count": header["step_count"]}


def import_episode(tx: Transaction, payload: Json) -> Json:
    """`{episode, steps, outcome, ended_at}`: a whole episode in one piece."""
    header = payload["episode"]
    _insert_episode(tx, header)
    for step in payload["steps"]:
        _append_step(tx, header, step)
    if payload["outcome"] is not None:
        _close_episode(tx, header, payload["outcome"], payload["ended_at"])
    return {"episode_id": header["episode_id"], "step_count": header["step_count"]}


def show_memory(tx: Transaction, payload: Json) -> Json:
    """`{episode_id, receipts}`: note which memory was shown to an open episode outside of its own calls."""
    header = load_header(tx, payload["episode_id"])
    _require_open(header)
    _insert_receipts(tx, header["episode_id"], payload["receipts"])
    return {"episode_id": header["episode_id"]}


def record_conflict(tx: Transaction, payload: Json) -> Json:
    """`{command, error}`: a pending write that the store refused when it was replayed; nothing of it is lost."""
    command = payload["command"]
    subject = command["payload"].get("episode_id") or command["payload"].get("episode", {}).get("episode_id", "")
    tx.append("write.conflict", "episode", str(subject), payload)
    return {}


def _insert_episode(tx: Transaction, episode: Json) -> None:
    exists = tx.session.one(
        "SELECT 1 FROM episodes WHERE ns_hash = $1 AND episode_id = $2", tx.ns_hash, episode["episode_id"]
    )
    if exists:
        raise EpisodeExistsError(f"episode {episode['episode_id']!r} is stored already")
    episode.update(step_count=0, error_count=0, status="open", version=tx.next_position())
    episode.update(outcome=None, reward=None, reflection=None, ended_at=None)
    names = ", ".join(HEADER_FIELDS)
    values = [
        dumps(episode[name]) if name in _JSON_FIELDS and episode[name] is not None else episode[name]
        for name in HEADER_FIELDS
    ]
    marks = ", ".join(f"${number}" for number in range(2, len(values) + 2))
    tx.session.run(f"INSERT INTO episodes (ns_hash, {names}) VALUES ($1, {marks})", tx.ns_hash, *values)
    tx.put_unit("task", episode["episode_id"], episode["episode_id"], tx.recipe.task(episode), embed=True)
    tx.append("episode.created", "episode", episode["episode_id"], {"episode": episode})


def _append_step(tx: Transaction, header: Json, draft: Json) -> int:
    number = header["step_count"] + 1
    if number > MAX_STEPS:
        raise TooLargeError(f"an episode has at most {MAX_STEPS} steps", hint="Complete it and start a new one.")
    position = tx.next_position()
    step = {**draft, "step_number": number}
    if step.get("at") is None:
        step["at"] = tx.command.at
    failed = step["result"]["type"] != "success"
    header.update(step_count=number, error_count=header["error_count"] + failed, version=position)
    tx.session.run(
        "INSERT INTO steps (ns_hash, episode_id, step_number, at, tool, action, parameters, result, latency_ms,"
        " tokens_used, predicted_outcome, version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        tx.ns_hash,
        header["episode_id"],
        number,
        step["at"],
        step["tool"],
        step["action"],
        dumps(step["parameters"]),
        dumps(step["result"]),
        step["latency_ms"],
        step["tokens_used"],
        step["predicted_outcome"],
        position,
    )
    tx.session.run(
        "UPDATE episodes SET step_count = $3, error_count = $4, version = $5 WHERE ns_hash = $1 AND episode_id = $2",
        tx.ns_hash,
        header["episode_id"],
        number,
        header["error_count"],
        position,
    )
    tx.put_unit("step", header["episode_id"], header["episode_id"], tx.recipe.step(step), step_number=number)
    tx.append("episode.step_added", "episode", header["episode_id"], {"step": step})
    return int(number)


def _close_episode(tx: Transaction, header: Json, outcome: Json, ended_at: int) -> None:
    # a clock that was set back must not give an episode a negative duration
    ended_at = max(ended_at, header["started_at"])
    header.update(status="completed", outcome=outcome, ended_at=ended_at, version=tx.next_position())
    tx.session.run(
        "UPDATE episodes SET status = 'completed', outcome_type = $3, outcome = $4, ended_at = $5, version = $6"
        " WHERE ns_hash = $1 AND episode_id = $2",
        tx.ns_hash,
        header["episode_id"],
        outcome["type"],
        dumps(outcome),
        ended_at,
        header["version"],
    )
    # findable by words at once; learning adds the reflection and then has it embedded
    tx.put_unit("lesson", header["episode_id"], header["episode_id"], tx.recipe.lesson(header))
    tx.append("episode.completed", "episode", header["episode_id"], {"episode": header})


def _insert_receipts(tx: Transaction, episode_id: str, receipts: list[Json]) -> None:
    if not receipts:
        return
    shown = [
        {**receipt, "rank": rank, "shown_at": tx.command.at, "used": None} for rank, receipt in enumerate(receipts, 1)
    ]
    tx.session.many(
        "INSERT INTO receipts (ns_hash, episode_id, shown_after, memory_kind, memory_id, rank, advice, shown_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        [
            (
                tx.ns_hash,
                episode_id,
                receipt["shown_after"],
                receipt["memory_kind"],
                receipt["memory_id"],
                receipt["rank"],
                dumps(receipt["advice"]),
                receipt["shown_at"],
            )
            for receipt in shown
        ],
    )
    tx.append("memory.shown", "episode", episode_id, {"receipts": shown})


def _require_open(header: Json) -> None:
    if header["status"] != "open":
        raise EpisodeClosedError(f"episode {header['episode_id']!r} is {header['status']} and takes no more writes")


def result_of(entries: list[LedgerEntry]) -> Json:
    """The result of a command that is stored already, from the entries it left."""
    result: Json = {"episode_id": entries[0].subject_id, "already_applied": True}
    for entry in entries:
        data = entry.data()
        if entry.operation == "episode.step_added":
            result.setdefault("step_numbers", []).append(data["step"]["step_number"])
            result["step_count"] = data["step"]["step_number"]
        elif "episode" in data:
            result.update({name: data["episode"][name] for name in ("started_at", "ended_at", "step_count")})
    return result


OPERATIONS: dict[str, Handler] = {
    "episode.create": create_episode,
    "episode.add_steps": add_steps,
    "episode.complete": complete_episode,
    "episode.import": import_episode,
    "memory.show": show_memory,
    "write.conflict": record_conflict,
}
