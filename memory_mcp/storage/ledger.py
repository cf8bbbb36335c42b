"""Checking the ledger: any change, removal or insertion of an entry breaks the chain of its namespace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memory_mcp.records.ledger import GENESIS, LedgerEntry, payload_digest
from memory_mcp.storage import queries
from memory_mcp.storage.session import Session

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with the ledger."""

    namespace: str
    sequence: int
    problem: str


def verify(session: Session) -> list[Finding]:
    """Walk every chain; an empty list means that the history is whole.

    The end of a chain is held by its head, and the number of entries by their positions, which leave no gap. Whoever
    rewrites entries, heads and positions alike can be found out only by a copy of a head that is kept elsewhere.
    """
    findings: list[Finding] = []
    walked = 0
    for namespace, head_sequence, head_hash in queries.chain_heads(session):
        previous, sequence = GENESIS, 0
        for entry in _entries(session, namespace):
            if not isinstance(sequence, int) or entry.sequence != sequence + 1:
                findings.append(Finding(namespace, entry.sequence, "the entry before it is missing"))
            findings += [Finding(namespace, entry.sequence, problem) for problem in _problems(entry, namespace)]
            if entry.previous_hash != previous:
                findings.append(Finding(namespace, entry.sequence, "it does not continue the entry before it"))
            previous, sequence = entry.hash, entry.sequence
            walked += 1
        if (sequence, previous) != (head_sequence, head_hash):
            findings.append(Finding(namespace, head_sequence, "the end of the chain is not where its head says"))
    if {walked} != {queries.head_position(session), queries.ledger_entries(session)}:
        findings.append(Finding("", 0, "entries were removed, or belong to no chain"))
    return findings


def _entries(session: Session, namespace: str) -> Iterator[LedgerEntry]:
    after = 0
    while entries := queries.chain(session, namespace, after, _BATCH):
        yield from entries
        after = entries[-1].sequence


def _problems(entry: LedgerEntry, namespace: str) -> Iterator[str]:
    if entry.namespace != namespace:
        yield "the entry names another namespace"
    try:
        if entry.payload is not None and payload_digest(entry.payload) != entry.payload_digest:
            yield "its payload was changed"
        if entry.expected_hash() != entry.hash:
            yield "a field was changed"
    except (AttributeError, TypeError, ValueError):
        # SQLite keeps any type in any column
        yield "a field has another type"
