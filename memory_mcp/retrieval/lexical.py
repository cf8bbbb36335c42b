"""The lexical leg: BM25 over the words of units, in FTS5."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import namespace_hash
from memory_mcp.retrieval.text import content_terms
from memory_mcp.storage.session import Session, placeholders

# FTS5 scores every document that has any of the terms: the rarest ones decide the order, common ones only cost
# (measured: 12 terms 40 ms, the 8 rarest 8 ms at 100k documents, with the same recall)
RAREST = 8
# it takes a microsecond for each of them; a term that half of all documents have hardly moves a score
MAX_SCORED = 5_000
MAX_TERMS = 64

# what a task is about says more about it than any of its steps, however often they say a word
# (same-task recall@1 on tau-bench with the words alone: all units alike .433, this weight .513)
OTHER_UNITS = 0.3


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

    def allows(self, header: Json) -> bool:
        """The same conditions on an episode that is at hand."""
        context = header["context"]
        outcome = header["outcome"]["type"] if header["outcome"] else ""
        wanted_and_given = (
            (self.domain, header["domain"]),
            (self.task_type, header["task_type"]),
            (self.outcome, outcome),
            (self.status, header["status"]),
            (self.language, context["language"]),
            (self.framework, context["framework"]),
        )
        named = all(wanted in ("", given) for wanted, given in wanted_and_given)
        return named and set(self.tags) <= set(context["tags"])


@dataclass(frozen=True, slots=True)
class LexicalHit:
    """A unit that shares words with the question; a greater score is better."""

    kind: str
    subject_id: str
    episode_id: str
    step_number: int
    score: float


def deciding_terms(session: Session, query: str) -> list[str]:
    """The terms of a question that decide: the rarest ones that occur at all."""
    wanted = content_terms(query)[:MAX_TERMS]
    if not wanted:
        return []
    known = session.all(f"SELECT term, doc FROM units_vocab WHERE term IN ({placeholders(len(wanted))})", *wanted)
    chosen: list[str] = []
    scored = 0
    for term, documents in sorted(known, key=lambda row: (row[1], row[0]))[:RAREST]:
        scored += documents
        if chosen and scored > MAX_SCORED:
            break
        chosen.append(term)
    return chosen


def search(session: Session, namespace: str, terms: list[str], limit: int) -> list[LexicalHit]:
    """Units of a namespace by BM25 (Robertson and Zaragoza 2009, with the constants of FTS5: k1 1.2, b 0.75), those
    that are not tasks with a part of their score."""
    if not terms:
        return []
    rows = session.all(
        "SELECT u.kind, u.subject_id, u.episode_id, u.step_number,"
        f" -bm25(units_fts) * CASE u.kind WHEN 'task' THEN 1.0 ELSE {OTHER_UNITS} END AS score"
        " FROM units_fts JOIN units u ON u.unit_id = units_fts.rowid"
        " WHERE units_fts MATCH $1 AND u.ns_hash = $2 ORDER BY score DESC, u.unit_id LIMIT $3",
        # quoted, a term is never an operator
        " OR ".join(f'"{term}"' for term in terms),
        namespace_hash(namespace),
        limit,
    )
    return [LexicalHit(*row) for row in rows]


def by_episode(hits: list[LexicalHit]) -> dict[str, float]:
    """Scores of episodes: that of the task, and that of the best of its other units."""
    best: dict[tuple[str, bool], float] = {}
    for hit in hits:
        if hit.kind != "pattern":
            key = hit.episode_id, hit.kind == "task"
            best[key] = max(best.get(key, 0.0), hit.score)
    scores: dict[str, float] = {}
    for (episode_id, _), score in best.items():
        scores[episode_id] = scores.get(episode_id, 0.0) + score
    return scores
