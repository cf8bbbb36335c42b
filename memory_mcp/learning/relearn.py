"""The tables of what was learned, derived anew from the episodes that were learned from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from memory_mcp.learning.follower import evidence
from memory_mcp.records.base import Json
from memory_mcp.records.episode import episode_from
from memory_mcp.records.ledger import Command
from memory_mcp.storage import effects, queries
from memory_mcp.storage.learned import count_learned
from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite_session import Fts5Index, in_memory
from memory_mcp.storage.transaction import Recipe, Transaction

_BATCH = 200


@contextmanager
def derived(session: Session, recipe: Recipe) -> Iterator[Session]:
    """A store in memory whose learned tables hold what the learned episodes of `session` teach, and nothing else.

    Reward and reflection are taken from the episodes: they depend on what was usual at their time. What was counted
    for an episode is taken from the ledger, as far as that tells.

    Raises:
        ValueError: an episode cannot be read (pydantic's ValidationError is one).
    """
    with in_memory() as scratch:
        scratch.run("BEGIN")
        for namespace, episode in _learned(session):
            tx = Transaction(scratch, Command("episode.learn", namespace, {}, "", 0), recipe, Fts5Index())
            found = evidence(episode_from(episode))
            counted = effects.counted(session, namespace, episode["episode_id"])
            count_learned(tx, episode, {**found, "reward": episode["reward"]}, counted)
        scratch.run("COMMIT")
        yield scratch


def _learned(session: Session) -> Iterator[tuple[str, Json]]:
    """Learned episodes in the order in which they were last changed, which is that of learning."""
    after = 0
    while rows := session.all(
        "SELECT version, namespace, episode_id FROM episodes WHERE reward IS NOT NULL AND outcome IS NOT NULL"
        " AND version > $1 ORDER BY version LIMIT $2",
        after,
        _BATCH,
    ):
        by_namespace: dict[str, list[str]] = {}
        for _, namespace, episode_id in rows:
            by_namespace.setdefault(namespace, []).append(episode_id)
        found = {
            (namespace, name): episode
            for namespace, ids in by_namespace.items()
            for name, episode in queries.episodes(session, namespace, ids).items()
        }
        for after, namespace, episode_id in rows:  # noqa: B007 - the last one is where the next batch begins
            if (namespace, episode_id) in found:
                yield namespace, found[namespace, episode_id]
