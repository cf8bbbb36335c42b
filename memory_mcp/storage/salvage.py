"""What can still be read of a damaged store: ledger entries, which prove themselves by their hashes, and rows.

Rows prove nothing; they only fill what the ledger lost, and tell of what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry, namespace_hash, payload_digest
from memory_mcp.storage.operations import HEADER_FIELDS, header_from_row, in_order
from memory_mcp.storage.queries import step_from_row
from memory_mcp.storage.replay import GONE, OPERATIONS, replay
from memory_mcp.storage.sqlite_pages import Pages, Record

Name = tuple[str, str]

# namespace hash and episode_id, as every row has them
_Owner = tuple[int, str]
_Part = dict[str, list[Record]]

_LEDGER, _EPISODES, _STEPS, _RECEIPTS, _NAMESPACES, _META = 14, 20, 12, 9, 5, 2


@dataclass(slots=True)
class Salvaged:
    """What was read. `heads` is `{namespace: (sequence, hash, created_at)}`; `rows` are whole or partial episodes."""

    store_id: str = ""
    entries: dict[int, LedgerEntry] = field(default_factory=dict)
    lost_payloads: list[int] = field(default_factory=list)
    heads: dict[str, tuple[int, bytes, int]] = field(default_factory=dict)
    rows: dict[Name, Json] = field(default_factory=dict)

    @property
    def last_position(self) -> int:
        """The last position that was ever given, as far as anything tells."""
        versions = (row["version"] for row in self.rows.values())
        # positions have no gaps, so there are as many as there are entries in all chains
        return max([*self.entries, *versions, sum(head[0] for head in self.heads.values())], default=0)

    @property
    def lost_positions(self) -> list[list[int]]:
        """Ranges of positions whose entries could not be read."""
        return ranges(set(range(1, self.last_position + 1)) - self.entries.keys())

    def lost_sequences(self, namespace: str) -> list[list[int]]:
        """Ranges of a namespace's sequences whose entries could not be read."""
        known = {entry.sequence for entry in self.entries.values() if entry.namespace == namespace}
        return ranges(set(range(1, self.heads[namespace][0] + 1)) - known)

    def histories(self) -> dict[Name, list[LedgerEntry]]:
        """The entries of every episode in their order."""
        found: dict[Name, list[LedgerEntry]] = {}
        for _, entry in sorted(self.entries.items()):
            if entry.subject_kind == "episode" and entry.operation in OPERATIONS:
                found.setdefault((entry.namespace, entry.subject_id), []).append(entry)
        return found


@dataclass(frozen=True, slots=True)
class Pieced:
    """An episode pieced together. `by_ledger` says that the ledger alone tells it; `whole` that no part is known to be
    missing. `episode` is None where there is none, or too little is left of it."""

    episode: Json | None
    by_ledger: bool
    whole: bool


def collect(pages: Pages) -> Salvaged:
    """Read all that can be read."""
    found = Salvaged()
    parts: dict[_Owner, _Part] = {}
    take: dict[int, Callable[[int, Record], None]] = {
        _LEDGER: lambda rowid, row: _take_entry(found, rowid, row),
        _NAMESPACES: lambda _, row: _take_head(found, row),
        _META: lambda _, row: _take_meta(found, row),
        _EPISODES: lambda _, row: _take_part(parts, "headers", row),
        _STEPS: lambda _, row: _take_part(parts, "steps", row),
        _RECEIPTS: lambda _, row: _take_part(parts, "receipts", row),
    }
    for rowid, row in pages.rows(set(take)):
        take[len(row)](rowid, row)
    _keep_forgotten(found)
    for entry in found.entries.values():
        sequence, _, created_at = found.heads.get(entry.namespace, (0, b"", entry.at))
        if entry.sequence >= sequence:
            found.heads[entry.namespace] = (entry.sequence, entry.hash, created_at)
    for (ns_hash, _), part in parts.items():
        episode = _from_rows(part)
        if episode is not None and namespace_hash(episode["namespace"]) == ns_hash:
            found.rows[episode["namespace"], episode["episode_id"]] = episode
    found.lost_payloads.sort()
    return found


def piece(entries: list[LedgerEntry], rows: Json | None) -> Pieced:
    """An episode from what is left of its history, and of its rows where that is not enough."""
    last = entries[-1].position if entries else 0
    newer = rows is not None and rows["version"] > last
    if entries and entries[-1].operation in GONE and not newer:
        return Pieced(None, by_ledger=True, whole=True)
    told, best = replay(entries), _together(entries, rows)
    if best is None:
        return Pieced(None, by_ledger=True, whole=False)
    # where the rows are as new as anything, they tell all that the ledger lost
    complete = (rows is not None and rows["version"] >= last) or (best == told and _in_a_row(entries))
    return Pieced(best, by_ledger=best == told, whole=complete and _without_holes(best))


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """`[[first, last], …]` of the runs of consecutive numbers."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _take_entry(found: Salvaged, rowid: int, row: Record) -> None:
    _, ns_hash, sequence, *rest = row
    try:
        entry = LedgerEntry(rowid, sequence, *rest)
        if entry.expected_hash() != entry.hash or namespace_hash(entry.namespace) != ns_hash:
            return
        if entry.payload is not None and payload_digest(entry.payload) != entry.payload_digest:
            found.lost_payloads.append(rowid)
            entry = replace(entry, payload=None)
    except (AttributeError, TypeError, ValueError):
        return
    found.entries[rowid] = entry


def _take_head(found: Salvaged, row: Record) -> None:
    ns_hash, namespace, created_at, sequence, digest = row
    texts = isinstance(namespace, str) and isinstance(digest, bytes) and len(digest) == 32
    if texts and isinstance(sequence, int) and isinstance(created_at, int) and namespace_hash(namespace) == ns_hash:
        found.heads[namespace] = (sequence, digest, created_at)


def _take_meta(found: Salvaged, row: Record) -> None:
    if row[0] == "store_id" and isinstance(row[1], str):
        found.store_id = row[1]


def _take_part(parts: dict[_Owner, _Part], kind: str, row: Record) -> None:
    if isinstance(row[0], int) and isinstance(row[1], str):
        parts.setdefault((row[0], row[1]), {}).setdefault(kind, []).append(row)


def _keep_forgotten(found: Salvaged) -> None:
    """What was forgotten stays forgotten, even where an old copy of a page still tells it."""
    for entry in list(found.entries.values()):
        if entry.operation == "episode.forgotten":
            for position, other in found.entries.items():
                same = (other.namespace, other.subject_id) == (entry.namespace, entry.subject_id)
                if same and position < entry.position:
                    found.entries[position] = replace(other, payload=None)


def _from_rows(part: _Part) -> Json | None:
    """An episode from its rows; None without a readable header."""
    try:
        header = _header(part["headers"][-1])
        steps = [step_from_row(row[2:11]) for row in part.get("steps", [])]
        receipts = [_receipt(row[2:]) for row in part.get("receipts", [])]
        steps.sort(key=lambda step: step["step_number"])
        return {**header, "steps": steps, "receipts": in_order(receipts)}
    except (KeyError, TypeError, ValueError):
        return None


# all columns of the table, in its order
_EPISODE_COLUMNS = (
    *("ns_hash", "episode_id", "namespace", "actor", "status", "task_type", "domain", "task_description", "context"),
    *("metadata", "outcome_type", "outcome", "reward_total", "reward", "reflection", "step_count", "error_count"),
    *("started_at", "ended_at", "version"),
)


def _header(row: Record) -> Json:
    named = dict(zip(_EPISODE_COLUMNS, row, strict=True))
    header = header_from_row(tuple(named[name] for name in HEADER_FIELDS))
    if not isinstance(header["version"], int) or not isinstance(header["step_count"], int):
        raise TypeError("a number is none")
    return header


def _receipt(row: Record) -> Json:
    shown_after, kind, memory_id, rank, advice, shown_at, used = row
    return {
        "shown_after": shown_after,
        "memory_kind": kind,
        "memory_id": memory_id,
        "rank": rank,
        "advice": json.loads(advice),
        "shown_at": shown_at,
        "used": None if used is None else bool(used),
    }


def _together(entries: list[LedgerEntry], rows: Json | None) -> Json | None:
    """The newest header that anything tells, with every step and receipt of it that is left."""
    header: Json | None = None
    steps: dict[int, Json] = {}
    receipts: dict[tuple[int, str, str], Json] = {}
    for entry in entries:
        data = entry.data()
        if entry.operation in GONE or "steps" in data:
            header, steps, receipts = None, {}, {}
        if "episode" in data:
            header = {**{name: data["episode"][name] for name in HEADER_FIELDS}, "version": entry.position}
        for step in [*data.get("steps", []), *([data["step"]] if "step" in data else [])]:
            steps[step["step_number"]] = step
        receipts |= {_key(receipt): receipt for receipt in data.get("receipts", [])}
    if rows is not None:
        newest = header is None or rows["version"] >= header["version"]
        header = {name: rows[name] for name in HEADER_FIELDS} if newest else header
        steps = {step["step_number"]: step for step in rows["steps"]} | steps
        stored = {_key(receipt): receipt for receipt in rows["receipts"]}
        # only learning tells which were used, and it may be what the ledger lost
        receipts = receipts | stored if newest else stored | receipts
    if header is None:
        return None
    last = entries[-1].position if entries else 0
    failed = sum(step["result"]["type"] != "success" for step in steps.values())
    return {
        **header,
        "step_count": max([header["step_count"], *steps]),
        "error_count": max(header["error_count"], failed),
        "version": max(header["version"], last),
        "steps": [step for _, step in sorted(steps.items())],
        "receipts": in_order(list(receipts.values())),
    }


def _key(receipt: Json) -> tuple[int, str, str]:
    return receipt["shown_after"], receipt["memory_kind"], receipt["memory_id"]


def _without_holes(episode: Json) -> bool:
    return [step["step_number"] for step in episode["steps"]] == list(range(1, episode["step_count"] + 1))


def _in_a_row(entries: list[LedgerEntry]) -> bool:
    """Whether no completion is missing before what was learned from it."""
    operations = [entry.operation for entry in entries]
    return "episode.learned" not in operations or "episode.completed" in operations
