"""Checking the ledger: any change, removal or insertion of an entry breaks the chain of its namespace."""

from __future__ import annotations

from dataclasses import dataclass

from memory_mcp.records.ledger import GENESIS, payload_digest
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
    """Walk every chain; an empty list means that the history is whole."""
    findings: list[Finding] = []
    for namespace, head_sequence, head_hash in queries.chain_heads(session):
        previous, sequence = GENESIS, 0
        while entries := queries.chain(session, namespace, sequence, _BATCH):
            for entry in entries:
                if entry.sequence != sequence + 1:
                    findings.append(Finding(namespace, sequence + 1, "an entry is missing"))
                if entry.namespace != namespace:
                    findings.append(Finding(namespace, entry.sequence, "the entry names another namespace"))
                if entry.previous_hash != previous:
                    findings.append(Finding(namespace, entry.sequence, "it does not continue the entry before it"))
                if entry.payload is not None and payload_digest(entry.payload) != entry.payload_digest:
                    findings.append(Finding(namespace, entry.sequence, "its payload was changed"))
                if entry.expected_hash() != entry.hash:
                    findings.append(Finding(namespace, entry.sequence, "a field was changed"))
                previous, sequence = entry.hash, entry.sequence
        if (sequence, previous) != (head_sequence, head_hash):
            findings.append(Finding(namespace, head_sequence, "the end of the chain is not where its head says"))
    return findings
