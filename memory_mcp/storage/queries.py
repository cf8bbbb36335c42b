"""Reading the rows: every question that services, followers and doors ask of the store."""

from __future__ import annotations

import json
from typing import Any

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry, namespace_hash
from memory_mcp.storage.operations import HEADER_COLUMNS, header_from_row
from memory_mcp.storage.session import Session, placeholders

_ENTRY_COLUMNS = ", ".join(LedgerEntry.__slots__)
_STEP_COLUMNS = "step_number, at, tool, action, parameters, result, latency_ms, tokens_used, predicted_outcome"


def episode(session: Session, namespace: str, episode_id: str) -> Json | None:
    """A whole episode with its steps and receipts, or None."""
    found = episodes(session, namespace, [episode_id])
    return found.get(episode_id)


def episodes(session: Session, namespace: str, episode_ids: list[str]) -> dict[str, Json]:
    """Whole episodes by id; ids that do not exist are left out."""
    if not episode_ids:
        return {}
    ns_hash = namespace_hash(namespace)
    found = headers(session, namespace, episode_ids)
    for header in found.values():
        header["steps"] = []
        header["receipts"] = []
    ids = list(found)
    if not ids:
        return {}
    marks = placeholders(len(ids), 2)
    for row in session.all(
        f"SELECT episode_id, {_STEP_COLUMNS} FROM steps WHERE ns_hash = $1 AND episode_id IN ({marks})"
        " ORDER BY episode_id, step_number",
        ns_hash,
        *ids,
    ):
        found[row[0]]["steps"].append(step_from_row(row[1:]))
    for owner, receipt in receipts(session, ns_hash, ids):
        found[owner]["receipts"].append(receipt)
    return found


def headers(session: Session, namespace: str, episode_ids: list[str]) -> dict[str, Json]:
    """Episodes without steps by id."""
    if not episode_ids:
        return {}
    rows = session.all(
        f"SELECT {HEADER_COLUMNS} FROM episodes WHERE ns_hash = $1"
        f" AND episode_id IN ({placeholders(len(episode_ids), 2)})",
        namespace_hash(namespace),
        *episode_ids,
    )
    return {row[0]: header_from_row(row) for row in rows}


def receipts(session: Session, ns_hash: int, episode_ids: list[str]) -> list[tuple[str, Json]]:
    """`(episode_id, receipt)` of what was shown to episodes, in the order in which it was shown."""
    rows = session.all(
        "SELECT episode_id, shown_after, memory_kind, memory_id, rank, advice, shown_at, used FROM receipts"
        f" WHERE ns_hash = $1 AND episode_id IN ({placeholders(len(episode_ids), 2)})"
        " ORDER BY episode_id, shown_after, shown_at, rank, memory_kind, memory_id",
        ns_hash,
        *episode_ids,
    )
    return [
        (
            row[0],
            {
                "shown_after": row[1],
                "memory_kind": row[2],
                "memory_id": row[3],
                "rank": row[4],
                "advice": json.loads(row[5]),
                "shown_at": row[6],
                "used": None if row[7] is None else bool(row[7]),
            },
        )
        for row in rows
    ]


def step_from_row(row: tuple[Any, ...]) -> Json:
    return {
        "step_number": row[0],
        "at": row[1],
        "tool": row[2],
        "action": row[3],
        "parameters": json.loads(row[4]),
        "result": json.loads(row[5]),
        "latency_ms": row[6],
        "tokens_used": row[7],
        "predicted_outcome": row[8],
    }


def ledger(session: Session, after: int, limit: int, operation: str = "") -> list[LedgerEntry]:
    """Ledger entries behind a position in commit order, of one operation if it is named."""
    condition = "AND operation = $3" if operation else ""
    values = (after, limit, operation) if operation else (after, limit)
    rows = session.all(
        f"SELECT {_ENTRY_COLUMNS} FROM ledger WHERE position > $1 {condition} ORDER BY position LIMIT $2", *values
    )
    return [LedgerEntry(*row) for row in rows]


def written(session: Session, write_id: str) -> list[LedgerEntry]:
    """The entries that a command left; none when it was never carried out."""
    rows = session.all(f"SELECT {_ENTRY_COLUMNS} FROM ledger WHERE write_id = $1 ORDER BY position", write_id)
    return [LedgerEntry(*row) for row in rows]


def chain(session: Session, namespace: str, after_sequence: int, limit: int) -> list[LedgerEntry]:
    """Entries of one namespace's chain behind a sequence number."""
    rows = session.all(
        f"SELECT {_ENTRY_COLUMNS} FROM ledger WHERE ns_hash = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
        namespace_hash(namespace),
        after_sequence,
        limit,
    )
    return [LedgerEntry(*row) for row in rows]


def chain_heads(session: Session) -> list[tuple[str, int, bytes]]:
    """`(namespace, sequence, hash)` of every chain."""
    return [
        (str(row[0]), row[1], row[2])
        for row in session.all("SELECT namespace, head_sequence, head_hash FROM namespaces ORDER BY namespace")
    ]


def head_position(session: Session) -> int:
    """Position of the newest ledger entry; 0 when there is none."""
    row = session.one("SELECT coalesce(max(position), 0) FROM ledger")
    assert row is not None
    return int(row[0])


def ledger_entries(session: Session) -> int:
    """Number of ledger entries."""
    row = session.one("SELECT count(*) FROM ledger")
    assert row is not None
    return int(row[0])


def last_position(session: Session, operation: str) -> int:
    """Position of the newest entry of an operation; 0 when there is none."""
    row = session.one("SELECT coalesce(max(position), 0) FROM ledger WHERE operation = $1", operation)
    assert row is not None
    return int(row[0])


def cursor(session: Session, name: str) -> int:
    """Where a follower stands; 0 before its first effect."""
    row = session.one("SELECT position FROM followers WHERE name = $1", name)
    return int(row[0]) if row else 0


def episode_ids_newest_first(session: Session, limit: int) -> list[tuple[str, str]]:
    """`(namespace, episode_id)` of the episodes written last."""
    return [
        (row[0], row[1])
        for row in session.all("SELECT namespace, episode_id FROM episodes ORDER BY version DESC LIMIT $1", limit)
    ]


def counts(session: Session, namespace: str) -> Json:
    """Numbers of episodes by status and outcome, steps, patterns, and ledger entries of a namespace."""
    ns_hash = namespace_hash(namespace)
    status: dict[str, int] = dict(
        session.all("SELECT status, count(*) FROM episodes WHERE ns_hash = $1 GROUP BY status", ns_hash)
    )
    outcome: dict[str, int] = dict(
        session.all(
            "SELECT outcome_type, count(*) FROM episodes WHERE ns_hash = $1 AND outcome_type IS NOT NULL"
            " GROUP BY outcome_type",
            ns_hash,
        )
    )
    totals = session.one(
        "SELECT count(*), coalesce(sum(step_count), 0), coalesce(sum(error_count), 0), avg(reward_total)"
        " FROM episodes WHERE ns_hash = $1",
        ns_hash,
    )
    entries = session.one("SELECT coalesce(max(head_sequence), 0) FROM namespaces WHERE ns_hash = $1", ns_hash)
    assert totals is not None
    assert entries is not None
    return {
        "total": totals[0],
        "open": status.get("open", 0),
        "completed": status.get("completed", 0),
        "outcomes": outcome,
        "steps": totals[1],
        "failed_steps": totals[2],
        "mean_reward": totals[3],
        "ledger_entries": entries[0],
    }
