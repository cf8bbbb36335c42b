"""What was learned up to a position of the ledger: counts as they were, from the entries that made them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from memory_mcp.learning.follower import effects_of
from memory_mcp.learning.tally import Change, Tally
from memory_mcp.records.base import Json
from memory_mcp.records.episode import episode_from
from memory_mcp.records.ledger import LedgerEntry, namespace_hash
from memory_mcp.storage import effects, queries
from memory_mcp.storage.pattern_queries import RECOUNTS, GroupCounts
from memory_mcp.storage.replay import replay
from memory_mcp.storage.session import Row, Session, placeholders

_KINDS = ("episode.learned", *RECOUNTS)

Key = tuple[str, ...]
Sums = defaultdict[Key, list[float]]


class Past:
    """The counts of a namespace at a position. Attributes are as `pattern_queries` tells the present ones.

    Attributes:
        scopes, tools: running totals.
        sources: `{pattern_id: [{episode_id, success, …}]}`, newest first.
    """

    def __init__(self, session: Session, namespace: str, position: int) -> None:
        self.sources: dict[str, list[Json]] = {}
        self._patterns = _sums(4)
        self._groups = _sums(2)
        self._scopes = _sums(8)
        self._tools = _sums(4)
        ended: dict[str, int] = {}
        for header, told in _counted(session, namespace, position):
            ended[header["episode_id"]] = header["ended_at"]
            self._count(header, told)
        for known in self.sources.values():
            known.sort(key=lambda source: (-ended[source["episode_id"]], source["episode_id"]))
        self.scopes = _rows(
            self._scopes,
            *("domain", "task_type", "episodes", "successes", "failures"),
            *("reward_sum", "steps_sum", "log_steps_sum", "timed", "log_seconds_sum"),
        )
        self.tools = _rows(self._tools, "domain", "task_type", "tool", "calls", "errors", "timed", "latency_ms_sum")
        self._bodies = _bodies(session, namespace)

    def tally(self) -> Tally:
        """The counts of the patterns, as a book is made from them."""
        support: dict[str, float] = defaultdict(float)
        for (pattern_id, _, _), (successes, failures, _, _) in self._patterns.items():
            support[pattern_id] += successes + failures
        rows: list[Row] = []
        for (pattern_id, domain, task_type), counts in sorted(self._patterns.items()):
            kind, group_id, body = self._bodies.get(pattern_id, ("", "", ""))
            # the same choice as in `pattern_queries.pattern_counts`; one that was forgotten since has no words any more
            if kind and (support[pattern_id] >= 2 or kind == "error_recovery"):
                rows.append((pattern_id, kind, group_id, body, domain, task_type, *map(int, counts)))
        groups: GroupCounts = {}
        for (group_id, domain, task_type), (successes, failures) in self._groups.items():
            groups.setdefault(group_id, {})[domain, task_type] = (int(successes), int(failures))
        tally = Tally()
        tally.take(Change(0, 0, whole=True, rows=rows, groups=groups))
        return tally

    def _count(self, header: Json, told: Json) -> None:
        scope = (header["domain"], header["task_type"])
        stats, success = told["stats"], told["success"]
        seconds = stats["log_seconds"]
        _add(
            self._scopes[scope],
            *(1, success is True, success is False, told["reward"], stats["steps"], stats["log_steps"]),
            *(seconds is not None, seconds or 0.0),
        )
        for tool in told["tools"]:
            called = (tool[name] for name in ("calls", "errors", "timed", "latency_ms_sum"))
            _add(self._tools[*scope, tool["tool"]], *called)
        if success is None:
            return
        for group in told["groups"]:
            _add(self._groups[group["group_id"], *scope], success, not success)
        for pattern in told["patterns"]:
            tried = (pattern["tried"], pattern["resolved"])
            _add(self._patterns[pattern["pattern_id"], *scope], success, not success, *tried)
            source = {name: pattern[name] for name in ("tried", "resolved", "steps")}
            known = self.sources.setdefault(pattern["pattern_id"], [])
            known.append({"episode_id": header["episode_id"], "success": success, **source})


def _counted(session: Session, namespace: str, position: int) -> Iterator[tuple[Json, Json]]:
    """`(header, effects)` of the episodes that were learned from at a position, in the order of the ledger."""
    latest: dict[str, tuple[int, str]] = {}
    for at, operation, subject in session.all(
        f"SELECT position, operation, subject_id FROM ledger WHERE ns_hash = $1 AND position <= $2"
        f" AND operation IN ({placeholders(len(_KINDS), 3)}) ORDER BY position",
        namespace_hash(namespace),
        position,
        *_KINDS,
    ):
        latest[subject] = (at, operation)
    for at, subject in sorted((at, subject) for subject, (at, _) in latest.items()):
        entry = queries.entry(session, at)
        if entry is not None and entry.payload is None:
            entry = _kept(session, namespace, subject, at)
        if entry is None or entry.operation not in ("episode.learned", "episode.restored"):
            continue
        header, told = entry.data()["episode"], effects.told_by(entry)
        if told is None and entry.operation == "episode.learned":
            # written by a version that did not note them
            state = replay(queries.history(session, namespace, subject, until=at))
            told = effects_of(episode_from(state)) if state is not None else None
        if told is not None:
            yield header, told


def _kept(session: Session, namespace: str, subject: str, at: int) -> LedgerEntry | None:
    """The entry that took over what an erased one told, when something that the episode was shown was forgotten."""
    later = queries.history(session, namespace, subject, after=at)
    return next((entry for entry in later if at in entry.data().get("stands_for", ())), None)


def _bodies(session: Session, namespace: str) -> dict[str, tuple[str, str, str]]:
    rows = session.all(
        "SELECT pattern_id, kind, group_id, body FROM patterns WHERE ns_hash = $1", namespace_hash(namespace)
    )
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def _sums(width: int) -> Sums:
    return defaultdict(lambda: [0] * width)


def _add(sums: list[float], *amounts: float) -> None:
    for place, amount in enumerate(amounts):
        sums[place] += amount


def _rows(sums: Sums, *names: str) -> list[Json]:
    return [dict(zip(names, (*key, *values), strict=True)) for key, values in sorted(sums.items())]
