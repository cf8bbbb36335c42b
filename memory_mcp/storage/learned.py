"""What followers write: the effects of learning, and vectors. Their cursors move in the same transaction.

A cursor moves by compare-and-set, so of two processes that did the same work only one leaves effects.
"""

from __future__ import annotations

from memory_mcp.errors import ConflictError
from memory_mcp.records.base import Json, dumps
from memory_mcp.storage import effects, queries
from memory_mcp.storage.leases import take_lease
from memory_mcp.storage.operations import Handler, load_header
from memory_mcp.storage.transaction import Transaction

LEARNING = "learning"
EMBEDDING = "embedding"


class CursorMovedError(ConflictError):
    """Another process has done this follower's work already."""

    code = "cursor_moved"


def learn_episode(tx: Transaction, payload: Json) -> None:
    """Store what a completed episode taught. See `learning.follower` for the payload."""
    move_cursor(tx, payload["cursor"])
    header = load_header(tx, payload["episode_id"])
    if header["status"] != "completed" or header["reward"] is not None:
        # taken back since, or learned from already
        return
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
    told = count_learned(tx, header, payload)
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
    shown = [receipt for _, receipt in queries.receipts(tx.session, tx.ns_hash, [header["episode_id"]])]
    tx.append("episode.learned", "episode", header["episode_id"], {"episode": header, "receipts": shown, **told})


def count_learned(tx: Transaction, header: Json, payload: Json, counted: Json | None = None) -> Json:
    """Add what an episode taught to the tables of what was learned; returns the effects, which nothing else notes.

    `counted` are the effects that were counted when it was learned from, where that was long ago.
    """
    known = payload["contributions"] if payload["success"] is not None else []
    for contribution in known:
        effects.put_pattern(tx, contribution["pattern_id"], contribution, header["ended_at"])
    told = {
        **{name: payload[name] for name in effects.NAMES if name != "patterns"},
        "patterns": [
            {name: contribution[name] for name in ("pattern_id", "steps", "tried", "resolved")}
            for contribution in known
        ],
    }
    effects.count(tx, header, counted or {**told, "reward": payload["reward"]["total"]})
    return told


def put_vectors(tx: Transaction, payload: Json) -> None:
    """`{model_id, vectors: [(unit_id, ns_hash, bytes)], cursor}`: half-precision vectors of units."""
    tx.session.many(
        "INSERT INTO vectors (unit_id, ns_hash, vector, model_id) SELECT $1, $2, $3, $4"
        " WHERE EXISTS (SELECT 1 FROM units WHERE unit_id = $1) ON CONFLICT DO NOTHING",
        [(*row, payload["model_id"]) for row in payload["vectors"]],
    )
    move_cursor(tx, payload["cursor"])


def move_cursor(tx: Transaction, cursor: Json) -> None:
    """`{name, from, to, claim}`: move a follower's cursor, under its lease if it has one.

    Raises:
        CursorMovedError: it does not stand at `from` any more.
        LeaseLostError: another process leads this follower now.
    """
    if "claim" in cursor:
        take_lease(tx, cursor["claim"])
    tx.session.run("INSERT INTO followers (name, position) VALUES ($1, 0) ON CONFLICT DO NOTHING", cursor["name"])
    moved = tx.session.run(
        "UPDATE followers SET position = $3 WHERE name = $1 AND position = $2",
        cursor["name"],
        cursor["from"],
        cursor["to"],
    )
    if not moved:
        raise CursorMovedError(f"the cursor of {cursor['name']} does not stand at {cursor['from']} any more")


FOLLOWER_OPERATIONS: dict[str, Handler] = {
    "episode.learn": learn_episode,
    "vectors.put": put_vectors,
    "cursor.move": lambda tx, payload: move_cursor(tx, payload["cursor"]),
}
