"""An episode as its ledger entries tell it: what the rows must be, and what they were at any earlier position.

The counterpart of `fold`, which goes by commands that are not carried out yet; a test holds it to the rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage.operations import HEADER_FIELDS, in_order

GONE = ("episode.removed", "episode.forgotten")
OPERATIONS = (
    "episode.created",
    "episode.step_added",
    "memory.shown",
    "episode.completed",
    "episode.learned",
    "episode.restored",
    *GONE,
)


def replay(entries: Iterable[LedgerEntry]) -> Json | None:
    """The whole episode after some entries of one subject, in ledger order, exactly as `queries.episode` gives it.

    None where there is none: it was not created yet, was removed or forgotten, or a payload that tells of it was
    erased. Entries of operations that change no episode are passed over.
    """
    episode: Json | None = None
    for entry in entries:
        if entry.subject_kind == "episode" and entry.operation in OPERATIONS:
            episode = _after(episode, entry)
    return None if episode is None else {**episode, "receipts": in_order(episode["receipts"])}


def _after(episode: Json | None, entry: LedgerEntry) -> Json | None:
    if entry.operation in GONE or entry.payload is None:
        return None
    data = entry.data()
    if entry.operation in ("episode.created", "episode.restored"):
        return _whole(data, entry.position)
    if episode is None:
        # what came before was erased or is lost, and a part is no episode
        return None
    if entry.operation == "episode.step_added":
        return _stepped(episode, data["step"], entry.position)
    if entry.operation == "memory.shown":
        return {**episode, "receipts": [*episode["receipts"], *data["receipts"]], "version": entry.position}
    known = {"steps": episode["steps"], "receipts": episode["receipts"]}
    return _whole({**known, **data}, entry.position)


def _whole(data: Json, position: int) -> Json:
    header = {name: data["episode"][name] for name in HEADER_FIELDS}
    steps, receipts = data.get("steps", []), data.get("receipts", [])
    return {**header, "version": position, "steps": list(steps), "receipts": list(receipts)}


def _stepped(episode: Json, step: Json, position: int) -> Json:
    failed = step["result"]["type"] != "success"
    return {
        **episode,
        "steps": [*episode["steps"], step],
        "step_count": step["step_number"],
        "error_count": episode["error_count"] + failed,
        "version": position,
    }
