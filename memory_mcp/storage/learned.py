"""What followers write: the effects of learning, and vectors. Their cursors move in the same transaction.

A cursor moves by compare-and-set, so of two processes that did the same work only one leaves effects.
"""

from __future__ import annotations

from memory_mcp.errors import ConflictError
from memory_mcp.records.base import Json, dumps
from memory_mcp.storage import queries
from memory_mcp.storage.operations import Handler, load_header
from memory_mcp.storage.transaction import Transaction

LEARNING = "learning"
EMBEDDING = "embedding"

# one episode is no evidence for anything; a pattern becomes findable when a second one shows it
FINDABLE_SOURCES = 2


class CursorMovedError(ConflictError):
    """Another process has done this follower's work already."""

    code = "cursor_moved"


def learn_episode(tx: Transaction, payload: Json) -> None:
    """Store what a completed episode taught. See `learning.follower` for the payload."""
    move_cursor(tx, payload["cursor"])
    header = load_header(tx, payload["episode_id"])
    header.update(reward=payload["reward"], reflection=payload["reflection"], version=tx.next_position())
    tx.session.run(
        "UPDATE episodes SET reward_total = $3, reward = $4, reflection = $5, version = $6"
        " WHERE ns_hash = $1 AND episode_id = $2",
        tx.ns_hash,
        header["episode_id"],
        payload["reward"]["total"],
        dumps(payload["reward"]),
        dumps(payload["reflection"]),
        header["version"],
    )
    tx.put_unit("lesson", header["episode_id"], header["episode_id"], tx.recipe.lesson(header), embed=True)
    count_learned(tx, header, payload)
    for receipt in payload["receipts"]:
        tx.session.run(
            "UPDATE receipts SET used = $6 WHERE ns_hash = $1 AND episode_id = $2 AND shown_after = $3"
            " AND memory_kind = $4 AND memory_id = $5",
            tx.ns_hash,
            header["episode_id"],
            receipt["shown_after"],
            receipt["memory_kind"],
            receipt["memory_id"],
            int(receipt["used"]),
        )
    tx.append(
        "episode.learned",
        "episode",
        header["episode_id"],
        {
            "episode": header,
            "receipts": [receipt for _, receipt in queries.receipts(tx.session, tx.ns_hash, [header["episode_id"]])],
            "success": payload["success"],
            "patterns": [
                {name: contribution[name] for name in ("pattern_id", "steps", "tried", "resolved")}
                for contribution in payload["contributions"]
            ],
            "credits": payload["credits"],
        },
    )


def count_learned(tx: Transaction, header: Json, payload: Json) -> None:
    """Add what an episode taught to the tables of what was learned; nothing else is written."""
    scope = {"domain": header["domain"], "task_type": header["task_type"]}
    _count_scope(tx, scope, payload)
    if payload["success"] is not None:
        for group in payload["groups"]:
            _count(tx, "group_counts", {"group_id": group["group_id"], **scope}, payload["success"], group)
        for contribution in payload["contributions"]:
            _merge(tx, header, scope, payload["success"], contribution)
        for credit in payload["credits"]:
            key = {name: credit[name] for name in ("memory_kind", "memory_id")}
            amounts = {name: credit[name] for name in ("shown", "shown_successes", "used", "used_successes")}
            tx.add("credits", key, amounts)


def put_vectors(tx: Transaction, payload: Json) -> None:
    """`{model_id, vectors: [(unit_id, ns_hash, bytes)], cursor}`: half-precision vectors of units."""
    tx.session.many(
        "INSERT INTO vectors (unit_id, ns_hash, vector, model_id) SELECT $1, $2, $3, $4"
        " WHERE EXISTS (SELECT 1 FROM units WHERE unit_id = $1) ON CONFLICT DO NOTHING",
        [(*row, payload["model_id"]) for row in payload["vectors"]],
    )
    move_cursor(tx, payload["cursor"])


def move_cursor(tx: Transaction, cursor: Json) -> None:
    """`{name, from, to}`: move a follower's cursor.

    Raises:
        CursorMovedError: it does not stand at `from` any more.
    """
    tx.session.run("INSERT INTO followers (name, position) VALUES ($1, 0) ON CONFLICT DO NOTHING", cursor["name"])
    moved = tx.session.run(
        "UPDATE followers SET position = $3 WHERE name = $1 AND position = $2",
        cursor["name"],
        cursor["from"],
        cursor["to"],
    )
    if not moved:
        raise CursorMovedError(f"the cursor of {cursor['name']} does not stand at {cursor['from']} any more")


def _count_scope(tx: Transaction, scope: Json, payload: Json) -> None:
    stats = payload["stats"]
    success = payload["success"]
    tx.add(
        "scope_stats",
        scope,
        {
            "episodes": 1,
            "successes": int(success is True),
            "failures": int(success is False),
            "reward_sum": payload["reward"]["total"],
            "steps_sum": stats["steps"],
            "log_steps_sum": stats["log_steps"],
            "timed": int(stats["log_seconds"] is not None),
            "log_seconds_sum": stats["log_seconds"] or 0.0,
        },
    )
    for tool in payload["tools"]:
        amounts = {name: tool[name] for name in ("calls", "errors", "timed", "latency_ms_sum")}
        tx.add("tool_stats", {**scope, "tool": tool["tool"]}, amounts)


def _count(tx: Transaction, table: str, key: Json, success: bool, trial: Json) -> None:
    tx.add(
        table,
        key,
        {
            "successes": int(success),
            "failures": int(not success),
            "tried": trial["tried"],
            "resolved": trial["resolved"],
        },
    )


def _merge(tx: Transaction, header: Json, scope: Json, success: bool, contribution: Json) -> None:
    pattern_id = contribution["pattern_id"]
    tx.session.run(
        "INSERT INTO patterns (ns_hash, pattern_id, kind, group_id, body, first_at, last_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (ns_hash, pattern_id) DO UPDATE"
        " SET first_at = min(patterns.first_at, excluded.first_at), last_at = max(patterns.last_at, excluded.last_at)",
        tx.ns_hash,
        pattern_id,
        contribution["kind"],
        contribution["group_id"],
        dumps(contribution["body"]),
        header["ended_at"],
    )
    tx.session.run(
        "INSERT INTO pattern_sources (ns_hash, pattern_id, episode_id, success, tried, resolved, steps, at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        tx.ns_hash,
        pattern_id,
        header["episode_id"],
        int(success),
        contribution["tried"],
        contribution["resolved"],
        dumps(contribution["steps"]),
        header["ended_at"],
    )
    _count(tx, "pattern_counts", {"pattern_id": pattern_id, **scope}, success, contribution)
    sources = tx.session.all(
        "SELECT 1 FROM pattern_sources WHERE ns_hash = $1 AND pattern_id = $2 LIMIT $3",
        tx.ns_hash,
        pattern_id,
        FINDABLE_SOURCES + 1,
    )
    if len(sources) == FINDABLE_SOURCES:
        tx.put_unit("pattern", pattern_id, "", tx.recipe.pattern(contribution["kind"], contribution["body"]))


FOLLOWER_OPERATIONS: dict[str, Handler] = {
    "episode.learn": learn_episode,
    "vectors.put": put_vectors,
    "cursor.move": lambda tx, payload: move_cursor(tx, payload["cursor"]),
}
