"""What learning from one episode adds to the counts, and how it is taken back exactly.

Effects are `{success, reward, stats, tools, groups, patterns, credits}`. They stand in the ledger with the entry that
counted them, so that taking them back never depends on how a later version of the program would mine the episode.
"""

from __future__ import annotations

import json
import logging

from memory_mcp.records.base import Json, dumps
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage import queries
from memory_mcp.storage.session import Session
from memory_mcp.storage.transaction import Transaction

_log = logging.getLogger(__name__)

# one episode is no evidence for anything; a pattern becomes findable when a second one shows it
FINDABLE_SOURCES = 2

_CREDITS = ("shown", "shown_successes", "used", "used_successes")
NAMES = ("success", "stats", "tools", "groups", "patterns", "credits")


def told_by(entry: LedgerEntry) -> Json | None:
    """The effects that an entry of the ledger tells of; None where it tells of none."""
    data = entry.data()
    if entry.operation == "episode.restored":
        restored: Json | None = data.get("effects")
        return restored
    if entry.operation != "episode.learned" or "stats" not in data:
        return None
    return {**{name: data[name] for name in NAMES}, "reward": data["episode"]["reward"]["total"]}


def counted(session: Session, namespace: str, episode_id: str) -> Json | None:
    """The effects that are counted for a learned episode now; None where an earlier version did not note them."""
    for entry in reversed(queries.history(session, namespace, episode_id)):
        if entry.operation in ("episode.learned", "episode.restored"):
            return told_by(entry)
    return None


def count(tx: Transaction, header: Json, effects: Json) -> None:
    """Add the effects of a completed episode to the counts. The patterns themselves are stored already: see `know`."""
    _count_all(tx, header, effects, 1)
    for pattern in effects["patterns"]:
        tx.session.run(
            "INSERT INTO pattern_sources (ns_hash, pattern_id, episode_id, success, tried, resolved, steps, at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            tx.ns_hash,
            pattern["pattern_id"],
            header["episode_id"],
            int(effects["success"]),
            pattern["tried"],
            pattern["resolved"],
            dumps(pattern["steps"]),
            header["ended_at"],
        )
        if _sources(tx, pattern["pattern_id"]) == FINDABLE_SOURCES:
            _make_findable(tx, pattern["pattern_id"])


def know(tx: Transaction, header: Json, effects: Json, words: Json) -> Json:
    """Store the patterns of effects that are to be counted again; returns the effects without those whose words are
    nowhere to be found, which a program that finds other patterns in the same episode may leave.

    `words` are `{pattern_id: {kind, group_id, body}}` of patterns that may have gone with the last episode that showed
    them.
    """
    known = []
    for pattern in effects["patterns"]:
        pattern_id = pattern["pattern_id"]
        stored = tx.session.one("SELECT 1 FROM patterns WHERE ns_hash = $1 AND pattern_id = $2", tx.ns_hash, pattern_id)
        if stored is None and pattern_id not in words:
            _log.warning("nobody knows the words of pattern %s any more", pattern_id)
            continue
        known.append(pattern)
        if stored is None:
            put_pattern(tx, pattern_id, words[pattern_id], header["ended_at"])
    return {**effects, "patterns": known}


def put_pattern(tx: Transaction, pattern_id: str, words: Json, at: int) -> None:
    """Store a pattern that an episode shows which ended at a time, or widen the time over which it is known."""
    tx.session.run(
        "INSERT INTO patterns (ns_hash, pattern_id, kind, group_id, body, first_at, last_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (ns_hash, pattern_id) DO UPDATE"
        " SET first_at = min(patterns.first_at, excluded.first_at), last_at = max(patterns.last_at, excluded.last_at)",
        tx.ns_hash,
        pattern_id,
        words["kind"],
        words["group_id"],
        dumps(words["body"]),
        at,
    )


def take_back(tx: Transaction, header: Json, effects: Json) -> list[str]:
    """Take the effects of an episode out of the counts; returns the patterns that went with it, because no other
    episode shows them."""
    _count_all(tx, header, effects, -1)
    tx.session.run(
        "DELETE FROM pattern_sources WHERE ns_hash = $1 AND episode_id = $2", tx.ns_hash, header["episode_id"]
    )
    orphans = []
    for pattern in effects["patterns"]:
        left = _sources(tx, pattern["pattern_id"])
        if left < FINDABLE_SOURCES:
            tx.remove_unit("pattern", pattern["pattern_id"])
        if left:
            _date(tx, pattern["pattern_id"])
        else:
            orphans.append(pattern["pattern_id"])
            tx.session.run(
                "DELETE FROM patterns WHERE ns_hash = $1 AND pattern_id = $2", tx.ns_hash, pattern["pattern_id"]
            )
    return orphans


def date_patterns(tx: Transaction, effects: Json) -> None:
    """Let patterns begin and end with the episodes that show them."""
    for pattern in effects["patterns"]:
        _date(tx, pattern["pattern_id"])


def _count_all(tx: Transaction, header: Json, effects: Json, sign: int) -> None:
    scope = {"domain": header["domain"], "task_type": header["task_type"]}
    stats, success = effects["stats"], effects["success"]
    amounts = {
        "episodes": 1,
        "successes": int(success is True),
        "failures": int(success is False),
        "reward_sum": effects["reward"],
        "steps_sum": stats["steps"],
        "log_steps_sum": stats["log_steps"],
        "timed": int(stats["log_seconds"] is not None),
        "log_seconds_sum": stats["log_seconds"] or 0.0,
    }
    _add(tx, "scope_stats", scope, amounts, sign, "episodes")
    for tool in effects["tools"]:
        called = {name: tool[name] for name in ("calls", "errors", "timed", "latency_ms_sum")}
        _add(tx, "tool_stats", {**scope, "tool": tool["tool"]}, called, sign, "calls")
    if success is None:
        return
    verdict = {"successes": int(success), "failures": int(not success)}
    for table, key, trials in (
        ("group_counts", "group_id", effects["groups"]),
        ("pattern_counts", "pattern_id", effects["patterns"]),
    ):
        for trial in trials:
            counts = {**verdict, "tried": trial["tried"], "resolved": trial["resolved"]}
            _add(tx, table, {key: trial[key], **scope}, counts, sign, "successes + failures")
    for credit in effects["credits"]:
        key_of = {name: credit[name] for name in ("memory_kind", "memory_id")}
        _add(tx, "credits", key_of, {name: credit[name] for name in _CREDITS}, sign, "shown")


def _add(tx: Transaction, table: str, key: Json, amounts: dict[str, float], sign: int, measure: str) -> None:
    """Add to a row of counts, or take from it; a row whose `measure` is nothing is gone."""
    if sign > 0:
        tx.add(table, key, amounts)
        return
    values = [tx.ns_hash, *key.values(), *amounts.values()]
    where = " AND ".join(f"{name} = ${number}" for number, name in enumerate(key, 2))
    less = ", ".join(f"{name} = {name} - ${number}" for number, name in enumerate(amounts, 2 + len(key)))
    tx.session.run(f"UPDATE {table} SET {less} WHERE ns_hash = $1 AND {where}", *values)
    tx.session.run(f"DELETE FROM {table} WHERE ns_hash = $1 AND {where} AND {measure} <= 0", *values[: 1 + len(key)])


def _sources(tx: Transaction, pattern_id: str) -> int:
    """Episodes that show a pattern, as far as that matters."""
    return len(
        tx.session.all(
            "SELECT 1 FROM pattern_sources WHERE ns_hash = $1 AND pattern_id = $2 LIMIT $3",
            tx.ns_hash,
            pattern_id,
            FINDABLE_SOURCES + 1,
        )
    )


def _make_findable(tx: Transaction, pattern_id: str) -> None:
    row = tx.session.one(
        "SELECT kind, body FROM patterns WHERE ns_hash = $1 AND pattern_id = $2", tx.ns_hash, pattern_id
    )
    assert row is not None
    tx.put_unit("pattern", pattern_id, "", tx.recipe.pattern(row[0], json.loads(row[1])))


def _date(tx: Transaction, pattern_id: str) -> None:
    tx.session.run(
        "UPDATE patterns SET (first_at, last_at) = (SELECT min(at), max(at) FROM pattern_sources"
        " WHERE ns_hash = $1 AND pattern_id = $2) WHERE ns_hash = $1 AND pattern_id = $2",
        tx.ns_hash,
        pattern_id,
    )
