"""Forgetting episodes: what hangs on them, and its erasure from tables, ledger, index, cache and free pages."""

from __future__ import annotations

import asyncio
from pathlib import Path

from memory_mcp.clock import Clock, IdFactory
from memory_mcp.errors import (
    EpisodeNotFoundError,
    InvalidInputError,
    StorageError,
    StorageUnavailableError,
    TooLargeError,
)
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import DEFAULT_NAMESPACE, Command, namespace_hash
from memory_mcp.services.history import missing_effects
from memory_mcp.storage import backup_files, queries
from memory_mcp.storage.session import Session
from memory_mcp.storage.store import Store

MAX_AT_ONCE = 1_000
_TRIALS = 50
_PAUSE = 0.1
MAX_REASON = 1_000
_LEFT_TO_ITS_AUTHOR = 60_000_000
_LOOK_SECONDS = 60.0


class ForgetService:
    """`forget`, with its blast radius told before. What was forgotten cannot be brought back.

    It is a follower too, for what a process that was killed has begun.
    """

    name = "scrub"

    def __init__(self, store: Store, clock: Clock, ids: IdFactory, backups: Path, actor: str = "") -> None:
        self._backups = backups
        self._looking = asyncio.Lock()
        self._next_look = 0.0
        self._store = store
        self._clock = clock
        self._ids = ids
        self._actor = actor

    async def preview(self, episode_ids: list[str], namespace: str) -> Json:
        """What forgetting some episodes would erase and derive again; changes nothing.

        `{episodes, patterns: {vanish, recounted}, shown_to, credits, scopes, search_units, vectors, snapshots,
        backups}`; snapshots and backups are those of a time when the episodes were there.

        Raises:
            EpisodeNotFoundError, InvalidInputError, StorageUnavailableError
        """
        _check(episode_ids)
        radius = await self._store.read(lambda session: blast_radius(session, namespace, episode_ids))
        return {**radius, "backups": await self._holding(radius.pop("since"))}

    async def forget(self, episode_ids: list[str], namespace: str, *, reason: str = "") -> Json:
        """Erase episodes and all that was derived from them; answers like `preview`, with `position` and `scrubbed`.

        `scrubbed` tells whether the files hold no trace any more. Where it is false, `scrub_error` says what was in the
        way (another process that keeps reading an old page, a full disk); a process on the data directory tries again
        later, and `memory-mcp storage compact` does so at once.

        Raises:
            EpisodeNotFoundError, InvalidInputError, ConflictError: nothing was erased.
            StorageUnavailableError: the store is out of order.
        """
        _check(episode_ids)
        if len(reason) > MAX_REASON:
            raise TooLargeError(f"reason: has {len(reason)} characters; the limit is {MAX_REASON}")
        if self._store.pending() and not await self._store.drain():
            raise StorageUnavailableError("writes still wait in the journal; they may belong to what is forgotten")

        def prepare(session: Session) -> tuple[Json, Json]:
            radius = blast_radius(session, namespace, episode_ids)
            names = [*episode_ids, *radius["shown_to"]]
            return radius, missing_effects(session, namespace, names)

        radius, missing = await self._store.read(prepare)
        payload = {"episode_ids": episode_ids, "reason": reason, "effects": missing, "open": True, "redact": True}
        written = await self._store.write_derived(
            Command("episode.forget", namespace, payload, self._ids.new(), self._clock.now(), self._actor)
        )
        kept = await self._holding(radius.pop("since"))
        answer: Json = {**radius, "backups": kept, "position": written.position, "scrubbed": False}
        try:
            answer["scrubbed"] = await self.scrub()
        except StorageError as error:
            answer["scrub_error"] = error.message
        return answer

    async def step(self) -> bool:
        """Finish what a process that was killed has left in the files; this is a follower's step, never with more."""
        # one at a time, and not with every commit: a full disk must not be asked for room again and again
        async with self._looking:
            if self._clock.monotonic() < self._next_look:
                return False
            self._next_look = self._clock.monotonic() + _LOOK_SECONDS
            due = await self._store.read(queries.scrub_due)
            age = self._clock.now() - due
            # who has forgotten something is at it
            if due and not 0 <= age < _LEFT_TO_ITS_AUTHOR:
                await self.scrub()
        return False

    async def scrub(self) -> bool:
        """Leave no trace of what was erased in the files: in free pages, in old log frames, in the cache.

        Raises:
            StorageError: there is no room for it, or the store is out of order.
        """
        due = await self._store.read(queries.scrub_due)
        done = await self._store.compact()
        for _ in range(_TRIALS):
            if done:
                break
            await self._clock.sleep(_PAUSE)
            done = await self._store.engine.empty_log()
        await self._store.rebuild_cache()
        await self._store.renew_journal()
        if done and due:
            command = Command("scrub.done", DEFAULT_NAMESPACE, {"due": due}, self._ids.new(), self._clock.now())
            await self._store.write_derived(command)
        return done

    async def _holding(self, position: int) -> list[str]:
        """Backups that were made since a position of the ledger: forgetting does not reach into them."""
        found = await asyncio.to_thread(backup_files.scan, self._backups)
        return [backup.name for backup in found.backups if backup.position >= position]


def blast_radius(session: Session, namespace: str, episode_ids: list[str]) -> Json:
    """See `ForgetService.preview`; `since` is the position of the first entry about any of the episodes."""
    ns_hash = namespace_hash(namespace)
    forgotten = set(episode_ids)
    episodes: list[Json] = []
    patterns: set[str] = set()
    scopes: set[tuple[str, str]] = set()
    units = vectors = first = 0
    for episode_id in episode_ids:
        entries = queries.history(session, namespace, episode_id)
        if not entries:
            raise EpisodeNotFoundError(f"there is no episode {episode_id!r} in namespace {namespace!r}")
        first = min(first or entries[0].position, entries[0].position)
        header = queries.headers(session, namespace, [episode_id]).get(episode_id)
        held = [entry for entry in entries if entry.payload is not None]
        told: Json = {"episode_id": episode_id, "status": "gone", "ledger_entries": len(held)}
        if header is not None:
            told.update({name: header[name] for name in ("status", "task_description", "step_count")})
            if header["reward"] is not None:
                scopes.add((header["domain"], header["task_type"]))
        episodes.append(told)
        patterns |= _shown_by(session, ns_hash, episode_id)
        units += _count(session, "units", "subject_id", ns_hash, episode_id)
        vectors += _vectors(session, ns_hash, episode_id)
    vanish = sorted(name for name in patterns if not _other_sources(session, ns_hash, name, forgotten))
    gone = [*episode_ids, *vanish]
    return {
        "episodes": episodes,
        "patterns": {"vanish": vanish, "recounted": sorted(patterns - set(vanish))},
        "shown_to": sorted(set(queries.entries_naming(session, namespace, set(gone))) - forgotten),
        "credits": sum(_count(session, "credits", "memory_id", ns_hash, name) for name in gone),
        "scopes": [{"domain": domain, "task_type": task_type} for domain, task_type in sorted(scopes)],
        "search_units": units,
        "vectors": vectors,
        "since": first,
        "snapshots": [entry.subject_id for entry in queries.snapshots(session, namespace) if entry.position >= first],
    }


def _check(episode_ids: list[str]) -> None:
    if not episode_ids or len(episode_ids) > MAX_AT_ONCE or len(set(episode_ids)) != len(episode_ids):
        raise InvalidInputError(f"name between 1 and {MAX_AT_ONCE} episodes, each one once")


def _shown_by(session: Session, ns_hash: int, episode_id: str) -> set[str]:
    rows = session.all(
        "SELECT pattern_id, success FROM pattern_sources WHERE ns_hash = $1 AND episode_id = $2", ns_hash, episode_id
    )
    return {row[0] for row in rows}


def _other_sources(session: Session, ns_hash: int, pattern_id: str, forgotten: set[str]) -> bool:
    rows = session.all(
        "SELECT episode_id FROM pattern_sources WHERE ns_hash = $1 AND pattern_id = $2 LIMIT $3",
        ns_hash,
        pattern_id,
        len(forgotten) + 1,
    )
    return any(row[0] not in forgotten for row in rows)


def _count(session: Session, table: str, column: str, ns_hash: int, name: str) -> int:
    row = session.one(f"SELECT count(*) FROM {table} WHERE ns_hash = $1 AND {column} = $2", ns_hash, name)
    assert row is not None
    return int(row[0])


def _vectors(session: Session, ns_hash: int, episode_id: str) -> int:
    row = session.one(
        "SELECT count(*) FROM units u JOIN vectors v ON v.unit_id = u.unit_id"
        " WHERE u.ns_hash = $1 AND u.subject_id = $2",
        ns_hash,
        episode_id,
    )
    assert row is not None
    return int(row[0])
