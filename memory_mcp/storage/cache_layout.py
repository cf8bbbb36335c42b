"""What the cache holds, and under which keys: the parts of an episode, each with the version that wrote it."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from memory_mcp.records.base import Json, dumps
from memory_mcp.records.ledger import LedgerEntry

# header, a step, number of steps, receipts of one showing, all receipts up to a version
HEADER, STEP, COUNT, SHOWN, RECEIPTS = b"e", b"s", b"n", b"r", b"R"

Put = tuple[bytes, int, bytes]

_NUMBER = struct.Struct(">Q")


def key(kind: bytes, namespace: str, subject: str, number: int = 0) -> bytes:
    """A key of fixed length, whatever the caller calls the subject: `kind ‖ hash(namespace, subject) ‖ number`."""
    # with the length in front, no two pairs of names give the same text
    name = f"{len(namespace)}:{namespace}{subject}".encode("utf-8", "surrogatepass")
    return kind + hashlib.blake2b(name, digest_size=16).digest() + _NUMBER.pack(number)


def puts_for(entry: LedgerEntry) -> list[Put]:
    """What an entry of the ledger changes in the cache. What is gone becomes `null`."""
    if entry.payload is None or entry.subject_kind != "episode":
        return []
    data = entry.data()
    puts: list[Put] = []

    def put(kind: bytes, value: Any, number: int = 0) -> None:
        puts.append((key(kind, entry.namespace, entry.subject_id, number), entry.position, dumps(value).encode()))

    if entry.operation == "episode.step_added":
        step = data["step"]
        put(STEP, step, step["step_number"])
        put(COUNT, step["step_number"])
    elif entry.operation == "memory.shown":
        put(SHOWN, data["receipts"], entry.position)
    elif entry.operation == "episode.created":
        put(HEADER, data["episode"])
        put(COUNT, 0)
        put(RECEIPTS, [])
    elif entry.operation == "episode.restored":
        header, steps = data["episode"], data["steps"]
        put(HEADER, header)
        put(COUNT, len(steps))
        put(RECEIPTS, data["receipts"])
        for step in steps:
            put(STEP, step, step["step_number"])
        for number in range(len(steps) + 1, data["steps_before"] + 1):
            put(STEP, None, number)
    elif entry.operation in ("episode.removed", "episode.forgotten"):
        # not deleted: an older value that comes late must meet a newer one
        put(HEADER, None)
        put(RECEIPTS, [])
        put(COUNT, 0)
        for number in range(1, data.get("step_count", 0) + 1):
            put(STEP, None, number)
    elif "episode" in data:
        put(HEADER, data["episode"])
        if "receipts" in data:
            put(RECEIPTS, data["receipts"])
    return puts


def puts_for_episode(episode: Json) -> list[Put]:
    """A whole episode as it was read from the store, for filling the cache on a miss."""
    namespace, subject, version = episode["namespace"], episode["episode_id"], episode["version"]
    header = {name: value for name, value in episode.items() if name not in ("steps", "receipts")}
    puts = [
        (key(HEADER, namespace, subject), version, dumps(header).encode()),
        (key(COUNT, namespace, subject), version, dumps(len(episode["steps"])).encode()),
        (key(RECEIPTS, namespace, subject), version, dumps(episode["receipts"]).encode()),
    ]
    for step in episode["steps"]:
        puts.append((key(STEP, namespace, subject, step["step_number"]), version, dumps(step).encode()))
    return puts
