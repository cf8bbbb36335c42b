"""The rows of a whole episode, as a state of it is put back: by a rollback, a repair, or a salvage."""

from __future__ import annotations

from memory_mcp.records.base import Json, dumps
from memory_mcp.records.ledger import namespace_hash
from memory_mcp.storage.operations import HEADER_FIELDS
from memory_mcp.storage.session import Session

_STEP_FIELDS = ("step_number", "at", "tool", "action", "latency_ms", "tokens_used", "predicted_outcome")


def put_episode(session: Session, episode: Json) -> None:
    """Insert the rows of a whole episode; its units are left to others."""
    ns_hash, episode_id = namespace_hash(episode["namespace"]), episode["episode_id"]
    header = {name: _column(episode[name]) for name in HEADER_FIELDS}
    header["outcome_type"] = episode["outcome"]["type"] if episode["outcome"] else None
    header["reward_total"] = episode["reward"]["total"] if episode["reward"] else None
    _insert(session, "episodes", {"ns_hash": ns_hash, **header})
    for step in episode["steps"]:
        row = {name: step[name] for name in _STEP_FIELDS}
        row |= {name: dumps(step[name]) for name in ("parameters", "result")}
        _insert(session, "steps", {"ns_hash": ns_hash, "episode_id": episode_id, **row, "version": episode["version"]})
    for receipt in episode["receipts"]:
        used = None if receipt["used"] is None else int(receipt["used"])
        row = {**receipt, "advice": dumps(receipt["advice"]), "used": used}
        _insert(session, "receipts", {"ns_hash": ns_hash, "episode_id": episode_id, **row})


def _insert(session: Session, table: str, row: Json) -> None:
    marks = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    session.run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *row.values())


def _column(value: object) -> object:
    return dumps(value) if isinstance(value, dict) else value
