"""Reading the rows: every question that services, followers and doors ask of the store."""

from __future__ import annotations

import json
import re
from typing import Any

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry, namespace_hash
from memory_mcp.storage.operations import HEADER_COLUMNS, header_from_row
from memory_mcp.storage.session import Session, placeholders

_ENTRY_COLUMNS = ", ".join(LedgerEntry.__slots__)
SCRUB_DUE = "scrub_due"
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


def entry(session: Session, position: int) -> LedgerEntry | None:
    """The entry at a position, or None."""
    row = session.one(f"SELECT {_ENTRY_COLUMNS} FROM ledger WHERE position = $1", position)
    return None if row is None else LedgerEntry(*row)


def history(
    session: Session, namespace: str, subject_id: str, *, after: int = 0, until: int = 1 << 62, kind: str = "episode"
) -> list[LedgerEntry]:
    """The entries about one record, in commit order, behind one position and up to another."""
    rows = session.all(
        f"SELECT {_ENTRY_COLUMNS} FROM ledger WHERE subject_id = $1 AND ns_hash = $2 AND subject_kind = $3"
        " AND position > $4 AND position <= $5 ORDER BY position",
        subject_id,
        namespace_hash(namespace),
        kind,
        after,
        until,
    )
    return [LedgerEntry(*row) for row in rows]


def snapshot(session: Session, namespace: str, name: str) -> LedgerEntry | None:
    """The entry that made a named snapshot, or None."""
    found = history(session, namespace, name, kind="snapshot")
    return found[0] if found else None


def snapshots(session: Session, namespace: str) -> list[LedgerEntry]:
    """The named snapshots of a namespace, oldest first."""
    rows = session.all(
        f"SELECT {_ENTRY_COLUMNS} FROM ledger WHERE operation = 'snapshot.created' AND ns_hash = $1 ORDER BY position",
        namespace_hash(namespace),
    )
    return [LedgerEntry(*row) for row in rows]


def episodes_changed_since(session: Session, namespace: str, position: int) -> list[str]:
    """Episodes with entries behind a position, those changed first in front."""
    rows = session.all(
        "SELECT subject_id FROM ledger WHERE ns_hash = $1 AND position > $2 AND subject_kind = 'episode'"
        " GROUP BY subject_id ORDER BY min(position)",
        namespace_hash(namespace),
        position,
    )
    return [str(row[0]) for row in rows]


def entries_naming(session: Session, namespace: str, memory_ids: set[str]) -> dict[str, list[int]]:
    """By episode, the positions of the entries that tell it was shown something of some memories."""
    if not memory_ids:
        return {}
    # most payloads name none of them, and need not be decoded
    named = re.compile("|".join(map(re.escape, sorted(memory_ids))))
    found: dict[str, list[int]] = {}
    for position, subject, payload in session.each(
        "SELECT position, subject_id, payload FROM ledger WHERE ns_hash = $1 AND payload IS NOT NULL"
        " AND operation IN ('memory.shown', 'episode.learned', 'episode.restored') ORDER BY position",
        namespace_hash(namespace),
    ):
        if named.search(payload) and any(
            receipt["memory_id"] in memory_ids for receipt in json.loads(payload).get("receipts", ())
        ):
            found.setdefault(str(subject), []).append(position)
    return found


def scrub_due(session: Session) -> int:
    """Since when (microseconds) something that was forgotten may still lie in the files; 0 when nothing does."""
    row = session.one("SELECT value FROM meta WHERE key = $1", SCRUB_DUE)
    return int(row[0]) if row else 0


def end_of_command(session: Session, position: int) -> int:
    """The position of the last entry of the command that wrote an entry."""
    row = session.one(
        "SELECT max(position) FROM ledger WHERE write_id = (SELECT write_id FROM ledger WHERE position = $1)", position
    )
    return int(row[0]) if row and row[0] is not None else position


def position_at(session: Session, at: int) -> int:
    """Position of the newest entry that was written at a time, or before it; 0 when there is none."""
    row = session.one("SELECT coalesce(max(position), 0) FROM ledger WHERE at <= $1", at)
    assert row is not None
    return int(row[0])


def changes(session: Session, namespace: str, after: int, limit: int) -> list[LedgerEntry]:
    """Entries of one namespace behind a position, in commit order."""
    rows = session.all(
        f"SELECT {_ENTRY_COLUMNS} FROM ledger WHERE position > $1 AND ns_hash = $2 ORDER BY position LIMIT $3",
        after,
        namespace_hash(namespace),
        limit,
    )
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
