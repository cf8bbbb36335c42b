"""Which episodes a rule of retention no longer keeps. Open episodes are always kept."""

from __future__ import annotations

from memory_mcp.records.ledger import namespace_hash
from memory_mcp.records.retention import RetentionRule
from memory_mcp.storage.session import Session

EVERY = "*"
_DAY = 86_400_000_000


def rule_for(namespace: str, rules: dict[str, RetentionRule]) -> RetentionRule | None:
    """The rule of a namespace: its own, else that of the nearest `…/*` above it, else that of `*`."""
    if namespace in rules:
        return rules[namespace]
    above = namespace
    while "/" in above:
        above = above.rpartition("/")[0]
        if f"{above}/{EVERY}" in rules:
            return rules[f"{above}/{EVERY}"]
    return rules.get(EVERY)


def no_longer_kept(session: Session, namespace: str, rule: RetentionRule, now: int, limit: int) -> list[str]:
    """Ids of closed episodes that a rule no longer keeps at a time in microseconds, oldest first, at most `limit`."""
    ns_hash = namespace_hash(namespace)
    found: dict[str, int] = {}
    for rows in (
        _too_old(session, ns_hash, rule, now, limit),
        _too_poor(session, ns_hash, rule, limit),
        _too_many(session, ns_hash, rule, limit),
        _too_much(session, ns_hash, rule),
    ):
        found.update(rows)
    return sorted(found, key=lambda name: (found[name], name))[:limit]


def _too_old(session: Session, ns_hash: int, rule: RetentionRule, now: int, limit: int) -> list[tuple[str, int]]:
    if rule.max_age_days is None:
        return []
    return _pairs(
        session.all(
            "SELECT episode_id, ended_at FROM episodes WHERE ns_hash = $1 AND status <> 'open' AND ended_at < $2"
            " ORDER BY ended_at, episode_id LIMIT $3",
            ns_hash,
            now - round(rule.max_age_days * _DAY),
            limit,
        )
    )


def _too_poor(session: Session, ns_hash: int, rule: RetentionRule, limit: int) -> list[tuple[str, int]]:
    if rule.min_reward is None:
        return []
    return _pairs(
        session.all(
            "SELECT episode_id, ended_at FROM episodes WHERE ns_hash = $1 AND status <> 'open' AND reward_total < $2"
            " ORDER BY ended_at, episode_id LIMIT $3",
            ns_hash,
            rule.min_reward,
            limit,
        )
    )


def _too_many(session: Session, ns_hash: int, rule: RetentionRule, limit: int) -> list[tuple[str, int]]:
    if rule.max_episodes is None:
        return []
    row = session.one("SELECT count(*) FROM episodes WHERE ns_hash = $1 AND status <> 'open'", ns_hash)
    assert row is not None
    return _pairs(
        session.all(
            "SELECT episode_id, ended_at FROM episodes WHERE ns_hash = $1 AND status <> 'open'"
            " ORDER BY ended_at, episode_id LIMIT $2",
            ns_hash,
            max(0, min(limit, row[0] - rule.max_episodes)),
        )
    )


def _too_much(session: Session, ns_hash: int, rule: RetentionRule) -> list[tuple[str, int]]:
    if rule.max_bytes is None:
        return []
    return _pairs(
        session.all(
            "SELECT episode_id, ended_at FROM ("
            " SELECT e.episode_id, e.ended_at,"
            "  sum(l.bytes) OVER (ORDER BY e.ended_at DESC, e.episode_id DESC) AS kept"
            " FROM episodes e JOIN ("
            "  SELECT subject_id, sum(octet_length(payload)) AS bytes FROM ledger"
            "  WHERE ns_hash = $1 AND subject_kind = 'episode' GROUP BY subject_id"
            " ) l ON l.subject_id = e.episode_id"
            " WHERE e.ns_hash = $1 AND e.status <> 'open') AS sizes WHERE kept > $2",
            ns_hash,
            rule.max_bytes,
        )
    )


def _pairs(rows: list[tuple[object, ...]]) -> list[tuple[str, int]]:
    return [(str(name), int(str(ended_at))) for name, ended_at in rows]
