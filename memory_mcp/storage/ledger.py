"""Checking the ledger: any change, removal or insertion of an entry breaks the chain of its namespace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memory_mcp.records.ledger import GENESIS, LedgerEntry, payload_digest
from memory_mcp.storage import queries
from memory_mcp.storage.session import Session

_BATCH = 500


SALVAGED = "store.salvaged"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with the ledger. `named` is a gap that a salvage has named: lost, but known to be."""

    namespace: str
    sequence: int
    problem: str
    named: bool = False


@dataclass(slots=True)
class _Gaps:
    """What salvages of a store have named as lost: sequences of each namespace, and positions of the whole store."""

    sequences: dict[str, set[int]]
    positions: set[int]


def verify(session: Session) -> list[Finding]:
    """Walk every chain; an empty list means that the history is whole.

    The end of a chain is held by its head, and the number of entries by their positions, which leave no gap. Whoever
    rewrites entries, heads and positions alike can be found out only by a copy of a head that is kept elsewhere.
    """
    gaps = _named_gaps(session)
    findings: list[Finding] = []
    walked = 0
    for namespace, head_sequence, head_hash in queries.chain_heads(session):
        named = gaps.sequences.get(namespace, set())
        previous, sequence = GENESIS, 0
        for entry in _entries(session, namespace):
            missing = _missing(sequence, entry.sequence)
            lost = bool(missing) and named.issuperset(missing or ())
            if missing and lost:
                findings.append(
                    Finding(namespace, missing[0], f"{_told(missing)} lost, as a salvage noted", named=True)
                )
            elif missing is None or missing:
                findings.append(Finding(namespace, entry.sequence, "the entry before it is missing"))
            findings += [Finding(namespace, entry.sequence, problem) for problem in _problems(entry, namespace)]
            if entry.previous_hash != previous and not lost:
                findings.append(Finding(namespace, entry.sequence, "it does not continue the entry before it"))
            previous, sequence = entry.hash, entry.sequence
            walked += 1
        if (sequence, previous) != (head_sequence, head_hash):
            findings.append(Finding(namespace, head_sequence, "the end of the chain is not where its head says"))
    if walked != queries.ledger_entries(session) or walked + len(gaps.positions) != queries.head_position(session):
        findings.append(Finding("", 0, "entries were removed, or belong to no chain"))
    return findings


def _missing(before: object, sequence: object) -> range | None:
    """The sequences between two entries; None where they are no numbers in order."""
    if not isinstance(before, int) or not isinstance(sequence, int) or sequence <= before:
        return None
    return range(before + 1, sequence)


def _told(missing: range) -> str:
    return "this entry was" if len(missing) == 1 else f"the entries from here to {missing[-1]} were"


def _named_gaps(session: Session) -> _Gaps:
    gaps = _Gaps({}, set())
    for entry in queries.ledger(session, 0, _BATCH, SALVAGED):
        try:
            data = entry.data()
            sequences = [number for first, last in data["sequences"] for number in range(first, last + 1)]
            positions = [number for first, last in data["positions"] for number in range(first, last + 1)]
        except (AttributeError, KeyError, TypeError, ValueError):
            # what such an entry does not name stays a gap
            continue
        gaps.sequences.setdefault(entry.namespace, set()).update(sequences)
        gaps.positions.update(positions)
    return gaps


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
