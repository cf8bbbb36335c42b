"""Reading what has been learned: counts of patterns, contrast groups, scopes and tools."""

from __future__ import annotations

import json

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import namespace_hash
from memory_mcp.storage import queries
from memory_mcp.storage.session import Row, Session, placeholders

Scope = tuple[str, str]
GroupCounts = dict[str, dict[Scope, tuple[int, int]]]

# of a pattern that only one episode shows, no more is known than that episode itself tells; a way out of an error is
# worth having all the same
_LOADED = "(c.support >= 2 OR p.kind = 'error_recovery')"


def pattern_counts(session: Session, namespace: str, pattern_ids: list[str] | None = None) -> list[Row]:
    """`(pattern_id, kind, group_id, body, domain, task_type, successes, failures, tried, resolved)`, one row for each
    stratum of each pattern; of all patterns or of some."""
    if pattern_ids == []:
        return []
    some = f"AND pattern_id IN ({placeholders(len(pattern_ids), 2)})" if pattern_ids else ""
    return session.all(
        "SELECT p.pattern_id, p.kind, p.group_id, p.body,"
        " c.domain, c.task_type, c.successes, c.failures, c.tried, c.resolved"
        " FROM (SELECT *, sum(successes + failures) OVER (PARTITION BY pattern_id) AS support FROM pattern_counts"
        f"      WHERE ns_hash = $1 {some}) c"
        " JOIN patterns p ON p.ns_hash = c.ns_hash AND p.pattern_id = c.pattern_id"
        f" WHERE {_LOADED}",
        namespace_hash(namespace),
        *(pattern_ids or ()),
    )


def group_counts(session: Session, namespace: str, pattern_ids: list[str] | None = None) -> GroupCounts:
    """`{group_id: {(domain, task_type): (successes, failures)}}` of all groups, or of those of some patterns and of
    the group of all episodes."""
    some = ""
    if pattern_ids is not None:
        named = placeholders(len(pattern_ids), 2) or "NULL"
        some = (
            "AND (group_id = '' OR group_id IN"
            f" (SELECT group_id FROM patterns WHERE ns_hash = $1 AND pattern_id IN ({named})))"
        )
    found: GroupCounts = {}
    for group_id, domain, task_type, successes, failures in session.all(
        f"SELECT group_id, domain, task_type, successes, failures FROM group_counts WHERE ns_hash = $1 {some}",
        namespace_hash(namespace),
        *(pattern_ids or ()),
    ):
        found.setdefault(group_id, {})[domain, task_type] = (successes, failures)
    return found


# what takes evidence away, or brings it back
RECOUNTS = ("episode.restored", "episode.removed", "episode.forgotten")


def last_change(session: Session) -> int:
    """Position of the newest entry that has changed the counts of patterns; 0 when there is none."""
    return max(queries.last_position(session, operation) for operation in ("episode.learned", *RECOUNTS))


def last_revision(session: Session) -> int:
    """Position of the newest entry by which an episode was taken back or put back; 0 when there is none."""
    return max(queries.last_position(session, operation) for operation in RECOUNTS)


def units_of_revised(session: Session, after: int) -> dict[str, set[int]]:
    """The units of every episode that was taken back or put back behind a position of the ledger."""
    revised = session.all(
        f"SELECT DISTINCT ns_hash, subject_id FROM ledger WHERE operation IN ({placeholders(len(RECOUNTS), 2)})"
        " AND position > $1",
        after,
        *RECOUNTS,
    )
    return {
        episode_id: {
            row[0]
            for row in session.all(
                "SELECT unit_id FROM units WHERE ns_hash = $1 AND subject_id = $2", ns_hash, episode_id
            )
        }
        for ns_hash, episode_id in revised
    }


def learned_since(session: Session, namespace: str, after: int, limit: int) -> list[list[str]] | None:
    """For each episode learned behind a position of the ledger, the ids of the patterns that it shows; None if there
    are more than `limit`, if evidence was taken away as well, or if the ledger does not tell any more."""
    recounted = session.one(
        f"SELECT 1 FROM ledger WHERE operation IN ({placeholders(len(RECOUNTS), 3)}) AND position > $1"
        " AND ns_hash = $2 LIMIT 1",
        after,
        namespace_hash(namespace),
        *RECOUNTS,
    )
    if recounted:
        return None
    payloads = session.all(
        "SELECT payload FROM ledger WHERE operation = 'episode.learned' AND position > $1 AND ns_hash = $2"
        " ORDER BY position LIMIT $3",
        after,
        namespace_hash(namespace),
        limit + 1,
    )
    if len(payloads) > limit or any(payload is None for (payload,) in payloads):
        return None
    return [[pattern["pattern_id"] for pattern in json.loads(payload)["patterns"]] for (payload,) in payloads]


def sources(session: Session, namespace: str, pattern_ids: list[str], limit: int) -> dict[str, list[Json]]:
    """The newest episodes behind each pattern: `{episode_id, success, tried, resolved, steps}`."""
    if not pattern_ids:
        return {}
    rows = session.all(
        "SELECT pattern_id, episode_id, success, tried, resolved, steps FROM ("
        " SELECT pattern_id, episode_id, success, tried, resolved, steps,"
        "  row_number() OVER (PARTITION BY pattern_id ORDER BY at DESC, episode_id) AS age"
        f" FROM pattern_sources WHERE ns_hash = $1 AND pattern_id IN ({placeholders(len(pattern_ids), 3)})"
        ") AS newest WHERE age <= $2 ORDER BY pattern_id, age",
        namespace_hash(namespace),
        limit,
        *pattern_ids,
    )
    found: dict[str, list[Json]] = {}
    for pattern_id, episode_id, success, tried, resolved, steps in rows:
        found.setdefault(pattern_id, []).append(
            {
                "episode_id": episode_id,
                "success": bool(success),
                "tried": tried,
                "resolved": resolved,
                "steps": json.loads(steps),
            }
        )
    return found


def patterns_of_episodes(session: Session, namespace: str, episode_ids: list[str]) -> dict[str, list[str]]:
    """`{pattern_id: [episode_id]}` for the patterns that some episodes show."""
    if not episode_ids:
        return {}
    found: dict[str, list[str]] = {}
    # `success` is asked for so that no index answers alone: SQLite would take the primary key's, and read all of it
    for pattern_id, episode_id, _ in session.all(
        "SELECT pattern_id, episode_id, success FROM pattern_sources WHERE ns_hash = $1"
        f" AND episode_id IN ({placeholders(len(episode_ids), 2)})",
        namespace_hash(namespace),
        *episode_ids,
    ):
        found.setdefault(pattern_id, []).append(episode_id)
    return found


def learned_from(session: Session, namespace: str, episode_id: str) -> list[tuple[str, Json, bool]]:
    """`(kind, body, resolved)` of every pattern that an episode is evidence for."""
    rows = session.all(
        "SELECT p.kind, p.body, s.resolved FROM pattern_sources s"
        " JOIN patterns p ON p.ns_hash = s.ns_hash AND p.pattern_id = s.pattern_id"
        " WHERE s.ns_hash = $1 AND s.episode_id = $2 ORDER BY p.kind, p.pattern_id",
        namespace_hash(namespace),
        episode_id,
    )
    return [(kind, json.loads(body), resolved > 0) for kind, body, resolved in rows]


def scopes(session: Session, namespace: str) -> list[Json]:
    """Running totals of completed episodes by domain and task type."""
    names = (
        "domain",
        "task_type",
        "episodes",
        "successes",
        "failures",
        "reward_sum",
        "steps_sum",
        "log_steps_sum",
        "timed",
        "log_seconds_sum",
    )
    rows = session.all(
        f"SELECT {', '.join(names)} FROM scope_stats WHERE ns_hash = $1 ORDER BY domain, task_type",
        namespace_hash(namespace),
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def tools(session: Session, namespace: str) -> list[Json]:
    """Running totals of calls by domain, task type and tool."""
    names = ("domain", "task_type", "tool", "calls", "errors", "timed", "latency_ms_sum")
    rows = session.all(
        f"SELECT {', '.join(names)} FROM tool_stats WHERE ns_hash = $1 ORDER BY domain, task_type, tool",
        namespace_hash(namespace),
    )
    return [dict(zip(names, row, strict=True)) for row in rows]


def memory_effect(session: Session, namespace: str) -> Json:
    """Receipts: how often memory was shown and used, and how the episodes ended."""
    row = session.one(
        "SELECT count(*), coalesce(sum(used), 0), count(DISTINCT episode_id) FROM receipts WHERE ns_hash = $1",
        namespace_hash(namespace),
    )
    assert row is not None
    return {"shown": row[0], "used": row[1], "episodes": row[2]}
