"""Commands (what is to be written) and ledger entries (what was written)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from memory_mcp.records.base import Json, dumps

DEFAULT_NAMESPACE = "default"
GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class Command:
    """One atomic write. `write_id` makes it idempotent: a replay of a command that is stored changes nothing.

    `at` is in microseconds since the epoch. `payload` is JSON, so that a command can wait in the pending journal.
    """

    operation: str
    namespace: str
    payload: Json
    write_id: str
    at: int
    actor: str = ""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Command:
        return cls(**json.loads(data))


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One change in the history: who did what to which record, with the record as it was afterwards.

    `position` is monotone in commit order over the whole store, `sequence` counts within the namespace, whose
    entries form one hash chain. The chain covers `payload_digest`, so a payload can be erased (None) without
    breaking it.
    """

    position: int
    sequence: int
    at: int
    namespace: str
    actor: str
    operation: str
    subject_kind: str
    subject_id: str
    write_id: str
    payload: str | None
    payload_digest: bytes
    previous_hash: bytes
    hash: bytes

    def expected_hash(self) -> bytes:
        """SHA-256 over the previous hash and all fields but the payload, which its digest stands for."""
        fields = [
            self.position,
            self.sequence,
            self.at,
            self.namespace,
            self.actor,
            self.operation,
            self.subject_kind,
            self.subject_id,
            self.write_id,
            self.payload_digest.hex(),
        ]
        return hashlib.sha256(self.previous_hash + dumps_fields(fields)).digest()

    def data(self) -> Json:
        """The payload as an object; empty when it was erased."""
        loaded: Json = json.loads(self.payload) if self.payload else {}
        return loaded


def dumps_fields(fields: list[Any]) -> bytes:
    """A JSON array: unlike joined text, no two lists of fields share it."""
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode()


def payload_digest(payload: str) -> bytes:
    return hashlib.sha256(payload.encode()).digest()


def namespace_hash(namespace: str) -> int:
    """63-bit number that leads every primary key, so that a store can be partitioned by it."""
    return int.from_bytes(hashlib.sha256(namespace.encode()).digest()[:8]) >> 1


@dataclass(frozen=True, slots=True)
class Written:
    """What a command brought: its result and the ledger entries that were committed with it.

    `pending` means that the store is out of order and the command waits, durably, in the journal.
    """

    result: Json
    entries: list[LedgerEntry] = field(default_factory=list)
    pending: bool = False

    @property
    def position(self) -> int:
        return self.entries[-1].position if self.entries else 0


__all__ = [
    "DEFAULT_NAMESPACE",
    "GENESIS",
    "Command",
    "LedgerEntry",
    "Written",
    "dumps",
    "namespace_hash",
    "payload_digest",
]
