"""The lexical leg: BM25 over the words of units, in FTS5."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory_mcp.records.ledger import namespace_hash
from memory_mcp.retrieval.text import content_terms
from memory_mcp.storage.session import Session, placeholders

# FTS5 scores every document that has any of the terms: the rarest ones decide the order, common ones only cost
# (measured: 12 terms 40 ms, the 8 rarest 8 ms at 100k documents, with the same recall)
RAREST = 8
MAX_TERMS = 256
CANDIDATES = 600


@dataclass(frozen=True, slots=True)
class Filter:
    """Hard conditions on episodes; only what the caller asked for."""

    domain: str = ""
    task_type: str = ""
    outcome: str = ""
    status: str = ""
    language: str = ""
    framework: str = ""
    tags: tuple[str, ...] = field(default_factory=tuple)

    def __bool__(self) -> bool:
        return any((self.domain, self.task_type, self.outcome, self.status, self.language, self.framework, self.tags))

    def sql(self, start: int) -> tuple[str, list[str]]:
        """Conditions on `e` (episodes) and their values, numbered from `start`."""
        parts: list[str] = []
        values: list[str] = []

        def add(template: str, value: str) -> None:
            parts.append(template.format(f"${start + len(values)}"))
            values.append(value)

        if self.domain:
            add("e.domain = {}", self.domain)
        if self.task_type:
            add("e.task_type = {}", self.task_type)
        if self.outcome:
            add("e.outcome_type = {}", self.outcome)
        if self.status:
            add("e.status = {}", self.status)
        if self.language:
            add("json_extract(e.context, '$.language') = {}", self.language)
        if self.framework:
            add("json_extract(e.context, '$.framework') = {}", self.framework)
        for tag in self.tags:
            add("EXISTS (SELECT 1 FROM json_each(e.context, '$.tags') WHERE value = {})", tag)
        return " AND ".join(parts), values


@dataclass(frozen=True, slots=True)
class LexicalHit:
    """A unit that shares words with the question; a greater score is better."""

    unit_id: int
    kind: str
    subject_id: str
    episode_id: str
    step_number: int
    score: float


def rarest_terms(session: Session, query: str) -> list[str]:
    """The terms of a question that decide: the rarest ones that occur at all."""
    wanted = content_terms(query)[:MAX_TERMS]
    if not wanted:
        return []
    known = session.all(f"SELECT term, doc FROM units_vocab WHERE term IN ({placeholders(len(wanted))})", *wanted)
    return [term for term, _ in sorted(known, key=lambda row: (row[1], row[0]))[:RAREST]]


def search(session: Session, namespace: str, query: str, where: Filter, limit: int = CANDIDATES) -> list[LexicalHit]:
    """Units of a namespace by BM25 (Robertson and Zaragoza 2009, with the constants of FTS5: k1 1.2, b 0.75)."""
    chosen = rarest_terms(session, query)
    if not chosen:
        return []
    # quoted, a term is never an operator
    match = " OR ".join(f'"{term}"' for term in chosen)
    condition, values = where.sql(4)
    join = "JOIN episodes e ON e.ns_hash = u.ns_hash AND e.episode_id = u.episode_id" if condition else ""
    rows = session.all(
        "SELECT u.unit_id, u.kind, u.subject_id, u.episode_id, u.step_number, -bm25(units_fts) AS score"
        f" FROM units_fts JOIN units u ON u.unit_id = units_fts.rowid {join}"
        f" WHERE units_fts MATCH $1 AND u.ns_hash = $2 {'AND ' + condition if condition else ''}"
        " ORDER BY score DESC, u.unit_id LIMIT $3",
        match,
        namespace_hash(namespace),
        limit,
        *values,
    )
    return [LexicalHit(*row) for row in rows]
