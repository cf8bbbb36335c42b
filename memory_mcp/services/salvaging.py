"""`storage salvage`: a new, complete store of all that can still be read of a damaged one.

Entries of the ledger are taken over byte for byte. Where some are lost, an entry `store.salvaged` names them, so that
the new chain tells of its gap; an episode that the rest of the ledger does not tell is put down as `episode.restored`.
What was learned is derived from the episodes that were learned from, and the cursor of learning stands at the last
completion: so nothing is learned twice. Completions whose learning is lost are learned here, as the follower would.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from memory_mcp.clock import Clock, IdFactory
from memory_mcp.errors import InvalidInputError, StorageUnavailableError, StoreCorruptError
from memory_mcp.learning.follower import learn
from memory_mcp.learning.history import History
from memory_mcp.learning.relearn import derived
from memory_mcp.records.base import Json
from memory_mcp.records.episode import episode_from
from memory_mcp.records.ledger import Command, LedgerEntry, namespace_hash
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import migrations, queries, sqlite_offline, unwritable
from memory_mcp.storage.episode_rows import put_episode
from memory_mcp.storage.filelock import FileLock
from memory_mcp.storage.journal import Journal, commands_in
from memory_mcp.storage.learned import LEARNING, learn_episode
from memory_mcp.storage.ledger import SALVAGED
from memory_mcp.storage.salvage import Name, Pieced, Salvaged, collect, piece
from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite_pages import Pages
from memory_mcp.storage.sqlite_session import Fts5Index
from memory_mcp.storage.transaction import Transaction
from memory_mcp.storage.verify import followed, units

_log = logging.getLogger(__name__)

_ACTOR = "salvage"
_BUSY_SECONDS = 5.0
# entries that tell all there is of an episode, so that nothing from before them can be missing
_IMAGES = ("episode.created", "episode.learned", "episode.restored")


def salvage_store(data_dir: Path, to: Path, clock: Clock, *, lock_seconds: float = 5.0) -> Json:
    """Make a new store in `to`; nothing in `data_dir` is changed but its lock files.

    Returns `{store_id, entries, episodes, pending, lost_positions, lost_payloads, pieced, incomplete,
    perhaps_incomplete, relearned, lost_episodes}`, positions as ranges, episodes as `namespace/episode_id`: `pieced`
    are told by rows or by parts of their history, `incomplete` lack something, `perhaps_incomplete` may lack their last
    changes, `relearned` were completed and are learned anew, of `lost_episodes` too little is left.

    Raises:
        InvalidInputError: `to` is not empty.
        StorageUnavailableError: a file cannot be read or written.
        StoreCorruptError: nothing of a store can be read.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InvalidInputError(f"{to} is not an empty directory", hint="Name a directory that does not exist yet.")
    found = _read(data_dir, lock_seconds)
    if not found.entries and not found.rows:
        raise StoreCorruptError("nothing of a store can be read in it", hint="Restore a backup.")
    try:
        to.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageUnavailableError(f"cannot make the directory {to}: {error}") from error
    found.store_id = found.store_id or uuid4().hex
    builder = _Builder(found, clock)
    with sqlite_offline.transaction(to / "memory.db", lock_seconds=lock_seconds, busy_seconds=_BUSY_SECONDS) as session:
        report = builder.build(session)
    return {**report, "pending": _take_pending(data_dir / "pending", to / "pending")}


def _read(data_dir: Path, lock_seconds: float) -> Salvaged:
    path = data_dir / "memory.db"
    try:
        if unwritable.hindrance(path):
            # there is no lock to be had, and nobody who writes here
            return collect(Pages(path))
        lock = FileLock(path.with_suffix(".lock"))
        try:
            # no server may commit between the reading of the file and of its log
            with lock.held(lock_seconds):
                pages = Pages(path)
        finally:
            lock.close()
    except OSError as error:
        raise StorageUnavailableError(f"cannot read {path}: {error}") from error
    return collect(pages)


class _Transaction(Transaction):
    """Gives no position that an entry had which is lost."""

    floor = 0

    def next_position(self) -> int:
        return max(super().next_position(), self.floor + 1)


class _Builder:
    """Writes what was salvaged into an empty database."""

    def __init__(self, found: Salvaged, clock: Clock) -> None:
        self._found = found
        self._clock = clock
        self._ids = IdFactory(clock)
        self._recipe = TextRecipe()
        self._lost = found.lost_positions
        self._lost_sequences = {namespace: found.lost_sequences(namespace) for namespace in found.heads}

    def build(self, session: Session) -> Json:
        """Ledger, rows, what was learned, units; returns the report."""
        found = self._found
        migrations.migrate(session, "sqlite", found.store_id, before=0)
        _put_ledger(session, found)
        histories = found.histories()
        pieced = {name: piece(histories.get(name, []), found.rows.get(name)) for name in {*histories, *found.rows}}
        pieced = {name: _readable(item) for name, item in sorted(pieced.items())}
        self._name_gaps(session)
        for name, item in pieced.items():
            if item.episode is not None:
                self._put(session, name, item, item.episode)
        with derived(session, self._recipe) as learned:
            followed.copy_learned(session, learned)
        units.restore_units(session, self._recipe, Fts5Index())
        relearned = self._learn_the_rest(session)
        return {
            "store_id": found.store_id,
            "entries": len(found.entries),
            "episodes": sum(item.episode is not None for item in pieced.values()),
            "lost_positions": self._lost,
            "lost_payloads": found.lost_payloads,
            "pieced": _names(pieced, lambda item: item.episode is not None and not item.by_ledger),
            "incomplete": _names(pieced, lambda item: item.episode is not None and not item.whole),
            "perhaps_incomplete": self._uncertain(histories, pieced),
            "relearned": relearned,
            "lost_episodes": _names(pieced, lambda item: item.episode is None and not item.whole),
        }

    def _name_gaps(self, session: Session) -> None:
        for namespace, sequences in sorted(self._lost_sequences.items()):
            if sequences:
                payload = {"sequences": sequences, "positions": self._lost}
                self._begin(session, namespace).append(SALVAGED, "store", self._found.store_id, payload)

    def _put(self, session: Session, name: Name, item: Pieced, episode: Json) -> None:
        if not item.by_ledger:
            tx = self._begin(session, name[0])
            header = {field: value for field, value in episode.items() if field not in ("steps", "receipts")}
            header["version"] = tx.next_position()
            parts = {"episode": header, "steps": episode["steps"], "receipts": episode["receipts"]}
            tx.append("episode.restored", "episode", name[1], parts)
            episode = {**episode, "version": header["version"]}
        put_episode(session, episode)

    def _uncertain(self, histories: dict[Name, list[LedgerEntry]], pieced: dict[Name, Pieced]) -> list[str]:
        """Episodes that seem whole, but whose last changes or receipts may be among what was lost."""
        found = []
        for name, item in pieced.items():
            images = [entry for entry in histories.get(name, []) if entry.operation in _IMAGES]
            last_lost = self._lost_sequences.get(name[0], [])[-1:]
            if item.episode is None or not item.whole or not last_lost:
                continue
            row = self._found.rows.get(name)
            confirmed = row is not None and row["version"] == item.episode["version"]
            ended = bool(images) and images[-1].operation == "episode.learned" and confirmed
            told_up_to = images[-1].sequence if images else 0
            if last_lost[0][1] > told_up_to and not ended:
                found.append(f"{name[0]}/{name[1]}")
        return found

    def _learn_the_rest(self, session: Session) -> list[str]:
        last = queries.last_position(session, "episode.completed")
        session.run("INSERT INTO followers (name, position) VALUES ($1, $2)", LEARNING, last)
        relearned = []
        for namespace, episode_id in session.all(
            "SELECT namespace, episode_id FROM episodes WHERE outcome IS NOT NULL AND reward IS NULL ORDER BY version"
        ):
            episode = queries.episode(session, namespace, episode_id)
            assert episode is not None
            try:
                taught = learn(episode_from(episode), History.load(session, namespace))
            except Exception:  # noqa: BLE001 - as in the follower, one episode must not keep learning from the rest
                _log.exception("nothing can be learned from %s", episode_id)
                continue
            cursor = {"name": LEARNING, "from": last, "to": last}
            learn_episode(self._begin(session, namespace), {**taught, "cursor": cursor})
            relearned.append(f"{namespace}/{episode_id}")
        return relearned

    def _begin(self, session: Session, namespace: str) -> Transaction:
        command = Command("storage.salvage", namespace, {}, self._ids.new(), self._clock.now(), _ACTOR)
        tx = _Transaction(session, command, self._recipe, Fts5Index())
        tx.floor = self._found.last_position
        return tx


def _put_ledger(session: Session, found: Salvaged) -> None:
    names = list(LedgerEntry.__slots__)
    marks = ", ".join(f"${number}" for number in range(1, len(names) + 2))
    session.many(
        f"INSERT INTO ledger (ns_hash, {', '.join(names)}) VALUES ({marks})",
        [
            (namespace_hash(entry.namespace), *(getattr(entry, name) for name in names))
            for _, entry in sorted(found.entries.items())
        ],
    )
    session.many(
        "INSERT INTO namespaces (ns_hash, namespace, created_at, head_sequence, head_hash) VALUES ($1, $2, $3, $4, $5)",
        [
            (namespace_hash(namespace), namespace, created_at, sequence, digest)
            for namespace, (sequence, digest, created_at) in sorted(found.heads.items())
        ],
    )


def _readable(item: Pieced) -> Pieced:
    """Without an episode that no reader could take: rows prove nothing, so they may hold anything."""
    if item.episode is None:
        return item
    try:
        episode_from(item.episode)
    except ValidationError:
        return Pieced(None, by_ledger=item.by_ledger, whole=False)
    return item


def _names(pieced: dict[Name, Pieced], condition: Callable[[Pieced], bool]) -> list[str]:
    return [f"{namespace}/{episode_id}" for (namespace, episode_id), item in pieced.items() if condition(item)]


def _take_pending(directory: Path, to: Path) -> int:
    """Take over the writes that wait in the journal.

    Raises:
        StorageUnavailableError: one of the journals cannot be read or written.
    """
    if not (directory / "data.mdb").is_file():
        return 0
    waiting = commands_in(directory)
    new = Journal(to)
    try:
        if waiting:
            new.open()
        for _, command in waiting:
            new.append(command)
        return len(waiting)
    finally:
        new.close()
