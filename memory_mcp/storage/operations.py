"""What each command does to the rows. Every change of a record passes through here, whichever engine stores it.

A handler runs inside a transaction, checks the command against what is stored, writes the rows, and appends the
ledger entries. The result of a command is told from the entries it left, so a replay gives the same one.
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

Handler = Callable[[Transaction, Json], None]

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


def new_episode(draft: Json) -> Json:
    """An episode as it starts."""
    return {**draft, "status": "open", "outcome": None, "reward": None, "reflection": None, "ended_at": None}


def numbered_step(draft: Json, number: int, at: int) -> Json:
    """A step as it is kept."""
    return {**draft, "step_number": number, "at": at if draft.get("at") is None else draft["at"]}


def shown_receipts(receipts: list[Json], at: int) -> list[Json]:
    """Receipts as they are kept, in the order of their rank."""
    return [{**receipt, "rank": rank, "shown_at": at, "used": None} for rank, receipt in enumerate(receipts, 1)]


def in_order(receipts: list[Json]) -> list[Json]:
    """Receipts in the order in which they were shown, as `queries.receipts` gives them."""
    order = ("shown_after", "shown_at", "rank", "memory_kind", "memory_id")
    return sorted(receipts, key=lambda receipt: tuple(receipt[name] for name in order))


def closed_by(episode: Json, outcome: Json, at: int) -> Json:
    """What completing changes; a clock that was set back must not give an episode a negative duration."""
    return {"status": "completed", "outcome": outcome, "ended_at": max(at, episode["started_at"])}


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


def create_episode(tx: Transaction, payload: Json) -> None:
    """`{episode, receipts}`: start an episode, and note which memory was shown with it."""
    header = _insert_episode(tx, payload["episode"])
    _insert_receipts(tx, header["episode_id"], payload.get("receipts", []))


def add_steps(tx: Transaction, payload: Json) -> None:
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
    for step in payload["steps"]:
        _append_step(tx, header, step)
    _insert_receipts(tx, header["episode_id"], payload.get("receipts", []))


def complete_episode(tx: Transaction, payload: Json) -> None:
    """`{episode_id, outcome}`: end an open episode."""
    header = load_header(tx, payload["episode_id"])
    _require_open(header)
    _close_episode(tx, header, payload["outcome"], tx.command.at)


def import_episode(tx: Transaction, payload: Json) -> None:
    """`{episode, steps, outcome, ended_at}`: a whole episode in one piece."""
    header = _insert_episode(tx, payload["episode"])
    for step in payload["steps"]:
        _append_step(tx, header, step)
    if payload["outcome"] is not None:
        _close_episode(tx, header, payload["outcome"], payload["ended_at"])


def show_memory(tx: Transaction, payload: Json) -> None:
    """`{episode_id, receipts}`: note which memory was shown to an open episode outside of its own calls."""
    header = load_header(tx, payload["episode_id"])
    _require_open(header)
    _insert_receipts(tx, header["episode_id"], payload["receipts"])


def record_conflict(tx: Transaction, payload: Json) -> None:
    """`{command, error}`: a pending write that the store refused when it was replayed; nothing of it is lost."""
    command = payload["command"]
    subject = command["payload"].get("episode_id") or command["payload"].get("episode", {}).get("episode_id", "")
    tx.append("write.conflict", "episode", str(subject), payload)


def _insert_header(tx: Transaction, episode: Json) -> None:
    """Insert an episode's own row."""
    names = ", ".join(HEADER_FIELDS)
    values = [
        dumps(episode[name]) if name in _JSON_FIELDS and episode[name] is not None else episode[name]
        for name in HEADER_FIELDS
    ]
    marks = ", ".join(f"${number}" for number in range(2, len(values) + 2))
    tx.session.run(f"INSERT INTO episodes (ns_hash, {names}) VALUES ($1, {marks})", tx.ns_hash, *values)


def _insert_step(tx: Transaction, episode_id: str, step: Json, version: int) -> None:
    """Insert a numbered step, and make it findable."""
    tx.session.run(
        "INSERT INTO steps (ns_hash, episode_id, step_number, at, tool, action, parameters, result, latency_ms,"
        " tokens_used, predicted_outcome, version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        tx.ns_hash,
        episode_id,
        step["step_number"],
        step["at"],
        step["tool"],
        step["action"],
        dumps(step["parameters"]),
        dumps(step["result"]),
        step["latency_ms"],
        step["tokens_used"],
        step["predicted_outcome"],
        version,
    )
    tx.put_unit("step", episode_id, episode_id, tx.recipe.step(step), step_number=step["step_number"])


def _insert_episode(tx: Transaction, draft: Json) -> Json:
    exists = tx.session.one(
        "SELECT 1 FROM episodes WHERE ns_hash = $1 AND episode_id = $2", tx.ns_hash, draft["episode_id"]
    )
    if exists:
        raise EpisodeExistsError(f"episode {draft['episode_id']!r} is stored already")
    episode = {**new_episode(draft), "step_count": 0, "error_count": 0, "version": tx.next_position()}
    _insert_header(tx, episode)
    tx.put_unit("task", episode["episode_id"], episode["episode_id"], tx.recipe.task(episode), embed=True)
    tx.append("episode.created", "episode", episode["episode_id"], {"episode": episode})
    return episode


def _append_step(tx: Transaction, header: Json, draft: Json) -> None:
    number = header["step_count"] + 1
    if number > MAX_STEPS:
        raise TooLargeError(f"an episode has at most {MAX_STEPS} steps", hint="Complete it and start a new one.")
    position = tx.next_position()
    step = numbered_step(draft, number, tx.command.at)
    failed = step["result"]["type"] != "success"
    header.update(step_count=number, error_count=header["error_count"] + failed, version=position)
    _insert_step(tx, header["episode_id"], step, position)
    tx.session.run(
        "UPDATE episodes SET step_count = $3, error_count = $4, version = $5 WHERE ns_hash = $1 AND episode_id = $2",
        tx.ns_hash,
        header["episode_id"],
        number,
        header["error_count"],
        position,
    )
    tx.append("episode.step_added", "episode", header["episode_id"], {"step": step})


def _close_episode(tx: Transaction, header: Json, outcome: Json, ended_at: int) -> None:
    header.update(closed_by(header, outcome, ended_at), version=tx.next_position())
    tx.session.run(
        "UPDATE episodes SET status = 'completed', outcome_type = $3, outcome = $4, ended_at = $5, version = $6"
        " WHERE ns_hash = $1 AND episode_id = $2",
        tx.ns_hash,
        header["episode_id"],
        outcome["type"],
        dumps(outcome),
        header["ended_at"],
        header["version"],
    )
    # findable by words at once; learning adds the reflection and then has it embedded
    tx.put_unit("lesson", header["episode_id"], header["episode_id"], tx.recipe.lesson(header))
    tx.append("episode.completed", "episode", header["episode_id"], {"episode": header})


def _insert_receipts(tx: Transaction, episode_id: str, receipts: list[Json]) -> None:
    shown: list[Json] = []
    for receipt in shown_receipts(receipts, tx.command.at):
        inserted = tx.session.run(
            "INSERT INTO receipts (ns_hash, episode_id, shown_after, memory_kind, memory_id, rank, advice, shown_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
            tx.ns_hash,
            episode_id,
            receipt["shown_after"],
            receipt["memory_kind"],
            receipt["memory_id"],
            receipt["rank"],
            dumps(receipt["advice"]),
            receipt["shown_at"],
        )
        # what was shown already after the same step counts once
        if inserted:
            shown.append(receipt)
    if shown:
        entry = tx.append("memory.shown", "episode", episode_id, {"receipts": shown})
        tx.session.run(
            "UPDATE episodes SET version = $3 WHERE ns_hash = $1 AND episode_id = $2",
            tx.ns_hash,
            episode_id,
            entry.position,
        )


def _require_open(header: Json) -> None:
    if header["status"] != "open":
        raise EpisodeClosedError(f"episode {header['episode_id']!r} is {header['status']} and takes no more writes")


def result_of(entries: list[LedgerEntry]) -> Json:
    """The result of a command, from the entries it left: `{episode_id, step_numbers?, step_count?, …}`."""
    result: Json = {}
    for entry in entries:
        data = entry.data()
        result["episode_id"] = entry.subject_id
        if "step" in data:
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
