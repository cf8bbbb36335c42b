"""The past of a memory: what an episode was, named snapshots, going back, and the changes since a position."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from memory_mcp.clock import Clock, IdFactory, from_iso, iso
from memory_mcp.errors import (
    BeyondRecallError,
    EntryNotFoundError,
    EpisodeNotFoundError,
    InvalidInputError,
    SnapshotNotFoundError,
)
from memory_mcp.learning.follower import effects_of, evidence
from memory_mcp.records.base import MAX_NAME, Json
from memory_mcp.records.episode import Episode, episode_from
from memory_mcp.records.ledger import Command, LedgerEntry, Written
from memory_mcp.storage import effects, queries
from memory_mcp.storage.replay import replay
from memory_mcp.storage.revisions import entries_until
from memory_mcp.storage.session import Session
from memory_mcp.storage.store import Store

_BATCH = 500
_MAX_DIGITS = 18


class HistoryService:
    """Reads and changes by way of the ledger. A change of history is refused while the store is out of order."""

    def __init__(self, store: Store, clock: Clock, ids: IdFactory, actor: str = "") -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._actor = actor

    async def position(self, namespace: str, as_of: str) -> int:
        """The ledger position that a moment stands for: a position, a time in ISO 8601, or the name of a snapshot.

        A position in the middle of what one command wrote means its end. A time means the newest entry that was
        written then or before.

        Raises:
            SnapshotNotFoundError: it is none of the three.
            EntryNotFoundError: the ledger does not reach so far.
            StorageUnavailableError: the store is out of order.
        """
        return await self._store.read(lambda session: position_of(session, namespace, as_of))

    async def head(self) -> int:
        """The position of the newest entry of the ledger."""
        return await self._store.read(queries.head_position)

    async def episode(self, episode_id: str, namespace: str, as_of: str) -> Episode:
        """An episode as it was.

        Raises:
            EpisodeNotFoundError: there was none at that time.
            BeyondRecallError: what it held then was erased.
            SnapshotNotFoundError, StorageUnavailableError: see `position`.
        """

        found = await self._store.read(partial(past_episode, namespace=namespace, episode_id=episode_id, as_of=as_of))
        return episode_from(found)

    async def entries(self, namespace: str, *, episode_id: str = "", since: int = 0, limit: int = 100) -> list[Json]:
        """Entries of the ledger behind a position, without their payloads, oldest first; of one episode if named."""

        def load(session: Session) -> list[LedgerEntry]:
            if episode_id:
                return queries.history(session, namespace, episode_id, after=since)[:limit]
            return queries.changes(session, namespace, since, limit)

        return [told(entry, payload=False) for entry in await self._store.read(load)]

    async def changes(self, namespace: str, since: int) -> AsyncIterator[Json]:
        """Every entry of the ledger behind a position, with its payload, oldest first."""
        while entries := await self._store.read(
            partial(queries.changes, namespace=namespace, after=since, limit=_BATCH)
        ):
            for entry in entries:
                yield told(entry, payload=True)
            since = entries[-1].position

    async def changed_episodes(self, namespace: str, since: int) -> AsyncIterator[Episode]:
        """The completed episodes that have changed behind a position, as they are now; each one once."""
        names = await self._store.read(lambda session: queries.episodes_changed_since(session, namespace, since))
        for name in names:
            found = await self._store.read(partial(queries.episode, namespace=namespace, episode_id=name))
            if found is not None and found["status"] == "completed":
                yield episode_from(found)

    async def create_snapshot(self, name: str, namespace: str) -> Json:
        """Give the present state of a namespace a name.

        Raises:
            SnapshotExistsError, InvalidInputError, StorageUnavailableError
        """
        if not name or name != name.strip() or len(name) > MAX_NAME or not name.isprintable() or _is_other(name):
            raise InvalidInputError(
                f"the name of a snapshot is one line of up to {MAX_NAME} characters, without blanks around it, that is"
                " neither a number nor a time"
            )
        written = await self._write("snapshot.create", namespace, {"name": name})
        return {"name": name, "position": written.position}

    async def snapshots(self, namespace: str) -> list[Json]:
        """The named snapshots, oldest first: `{name, position, created_at}`."""
        found = await self._store.read(lambda session: queries.snapshots(session, namespace))
        return [{"name": entry.subject_id, "position": entry.position, "created_at": iso(entry.at)} for entry in found]

    async def roll_back(self, as_of: str, namespace: str) -> Json:
        """Put a namespace back to a moment: `{position, to, restored, removed, beyond_recall}`.

        It is a change like any other: `undo` of its position takes it back.

        Raises:
            SnapshotNotFoundError, ConflictError, StorageUnavailableError
        """

        def prepare(session: Session) -> tuple[int, Json]:
            to = position_of(session, namespace, as_of)
            names = queries.episodes_changed_since(session, namespace, to)
            return to, {
                "effects": missing_effects(session, namespace, names),
                "words": words_of(session, namespace, names, to),
            }

        to, derived = await self._store.read(prepare)
        payload = {"to": to, "label": as_of, **derived}
        return _outcome(await self._write("history.roll_back", namespace, payload))

    async def undo(self, position: int, namespace: str) -> Json:
        """Take back what one command wrote: `{position, undone, operation, episodes}`.

        Raises:
            EntryNotFoundError, NotUndoableError, LaterChangesError, BeyondRecallError, ConflictError
            StorageUnavailableError: the store is out of order.
        """

        def prepare(session: Session) -> Json:
            entry = queries.entry(session, position)
            group = queries.written(session, entry.write_id) if entry is not None else []
            names = sorted({each.subject_id for each in group if each.subject_kind == "episode"})
            return {
                "effects": missing_effects(session, namespace, names),
                "words": words_of(session, namespace, names, group[0].position - 1) if group else {},
            }

        derived = await self._store.read(prepare)
        written = await self._write("history.undo", namespace, {"position": position, **derived})
        answer = _outcome(written)
        answer["undone"] = written.entries[-1].data()["position"]
        return answer

    async def _write(self, operation: str, namespace: str, payload: Json) -> Written:
        return await self._store.write_derived(
            Command(operation, namespace, payload, self._ids.new(), self._clock.now(), self._actor)
        )


def past_episode(session: Session, namespace: str, episode_id: str, as_of: str) -> Json:
    """See `HistoryService.episode`."""
    position = position_of(session, namespace, as_of)
    found = replay(entries_until(session, namespace, episode_id, position))
    if found is None:
        raise EpisodeNotFoundError(
            f"there was no episode {episode_id!r} in namespace {namespace!r} at ledger position {position}"
        )
    return found


def position_of(session: Session, namespace: str, as_of: str) -> int:
    """See `HistoryService.position`."""
    head = queries.head_position(session)
    if not as_of.strip():
        raise InvalidInputError("the moment must not be empty: name a snapshot, a time, or a ledger position")
    if as_of.isascii() and as_of.isdecimal():
        # digits beyond what a position has are no number to begin with
        if len(as_of) > _MAX_DIGITS or int(as_of) > head:
            raise EntryNotFoundError(f"the ledger ends at position {head}, before {as_of[:_MAX_DIGITS]}")
        # in the middle of a command nothing is whole
        return queries.end_of_command(session, int(as_of))
    named = queries.snapshot(session, namespace, as_of)
    if named is not None:
        return named.position
    if not _is_time(as_of):
        raise SnapshotNotFoundError(
            f"{as_of[:100]!r} is neither a ledger position, nor a time, nor a snapshot of namespace {namespace!r}"
        )
    return queries.end_of_command(session, queries.position_at(session, from_iso(as_of)))


def missing_effects(session: Session, namespace: str, episode_ids: list[str]) -> Json:
    """For episodes that an earlier version learned from, what it counted; the ledger tells it of all others."""
    found: Json = {}
    for episode_id in episode_ids:
        entries = queries.history(session, namespace, episode_id)
        learned = [entry for entry in entries if entry.operation == "episode.learned" and entry.payload is not None]
        old = [entry for entry in learned if effects.told_by(entry) is None]
        if old:
            state = replay(entry for entry in entries if entry.position <= old[-1].position)
            if state is not None:
                found[episode_id] = effects_of(episode_from(state))
    return found


def words_of(session: Session, namespace: str, episode_ids: list[str], position: int) -> Json:
    """The patterns that learned episodes show which come back as they were at a position: `{pattern_id: {kind,
    group_id, body}}`. Those that nobody else shows went with them."""
    found: Json = {}
    for episode_id in episode_ids:
        try:
            state = replay(entries_until(session, namespace, episode_id, position))
        except BeyondRecallError:
            continue
        if state is not None and state["reward"] is not None:
            for each in evidence(episode_from(state))["contributions"]:
                found[each["pattern_id"]] = {name: each[name] for name in ("kind", "group_id", "body")}
    return found


def told(entry: LedgerEntry, *, payload: bool) -> Json:
    """An entry as doors show it."""
    answer: Json = {
        "position": entry.position,
        "at": iso(entry.at),
        "namespace": entry.namespace,
        "actor": entry.actor,
        "operation": entry.operation,
        "subject_kind": entry.subject_kind,
        "subject_id": entry.subject_id,
        "write_id": entry.write_id,
    }
    if payload:
        answer["payload"] = entry.data() if entry.payload is not None else None
    if entry.payload is None:
        answer["erased"] = True
    return answer


def _outcome(written: Written) -> Json:
    last = written.entries[-1]
    return {"position": last.position, **{name: value for name, value in last.data().items() if name != "position"}}


def _is_other(text: str) -> bool:
    """Whether a text means a moment by itself."""
    return text.lstrip("+-").isdecimal() or _is_time(text)


def _is_time(text: str) -> bool:
    try:
        from_iso(text)
    except ValueError:
        return False
    return True
