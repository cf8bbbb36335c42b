"""Going back: named snapshots, rollback, and undo of one operation.

Nothing is taken out of the ledger. An episode is put back to an earlier state by a new entry with the whole state in
it, so that going back can be undone in the same way, and what was learned from the episode is counted accordingly.
"""

from __future__ import annotations

from memory_mcp.errors import (
    BeyondRecallError,
    ConflictError,
    EntryNotFoundError,
    LaterChangesError,
    NotUndoableError,
    SnapshotExistsError,
)
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage import effects, queries
from memory_mcp.storage.episode_rows import put_episode
from memory_mcp.storage.operations import Handler
from memory_mcp.storage.replay import replay
from memory_mcp.storage.session import Session
from memory_mcp.storage.transaction import Transaction

# entries that follow from others, or change no record
_DERIVED = ("episode.learned", "write.conflict")
_UNDOABLE = frozenset(
    {
        "episode.created",
        "episode.step_added",
        "episode.completed",
        "memory.shown",
        "episode.restored",
        "episode.removed",
        "history.rolled_back",
        "history.undone",
    }
)


def create_snapshot(tx: Transaction, payload: Json) -> None:
    """`{name}`: give the present state of the namespace a name."""
    if queries.snapshot(tx.session, tx.command.namespace, payload["name"]) is not None:
        raise SnapshotExistsError(f"there is a snapshot {payload['name']!r} already")
    tx.append("snapshot.created", "snapshot", payload["name"], {"position": queries.head_position(tx.session)})


def roll_back(tx: Transaction, payload: Json) -> None:
    """`{to, label, effects, words}`: put every episode of the namespace back to its state at a ledger position."""
    to = payload["to"]
    restored: list[str] = []
    removed: list[str] = []
    beyond: list[str] = []
    for episode_id in queries.episodes_changed_since(tx.session, tx.command.namespace, to):
        try:
            state, known = state_at(tx, episode_id, to)
        except BeyondRecallError:
            beyond.append(episode_id)
            continue
        current = queries.episode(tx.session, tx.command.namespace, episode_id)
        if _same(current, state):
            continue
        (removed if state is None else restored).append(episode_id)
        put_back(tx, episode_id, current, state, known, payload)
    tx.append(
        "history.rolled_back",
        "namespace",
        tx.command.namespace,
        {"to": to, "label": payload["label"], "restored": restored, "removed": removed, "beyond_recall": beyond},
    )


def undo(tx: Transaction, payload: Json) -> None:
    """`{position, effects, words}`: take back everything that one command wrote."""
    group = _undoable(tx, payload["position"])
    first, last = group[0].position, group[-1].position
    names = sorted({entry.subject_id for entry in group if entry.subject_kind == "episode"})
    for episode_id in names:
        later = [
            entry.position
            for entry in queries.history(tx.session, tx.command.namespace, episode_id, after=last)
            if entry.operation not in _DERIVED and "stands_for" not in entry.data()
        ]
        if later:
            raise LaterChangesError(
                f"episode {episode_id!r} was changed again by the entries {', '.join(map(str, later[:10]))}",
                hint="Undo those first, the newest first, or roll back to a snapshot.",
            )
    beyond = []
    for episode_id in names:
        try:
            state, known = state_at(tx, episode_id, first - 1)
        except BeyondRecallError:
            if len(names) == 1:
                raise
            beyond.append(episode_id)
            continue
        current = queries.episode(tx.session, tx.command.namespace, episode_id)
        if not _same(current, state):
            put_back(tx, episode_id, current, state, known, payload)
    tx.append(
        "history.undone",
        "namespace",
        tx.command.namespace,
        {
            "position": first,
            "operation": group[0].operation,
            "episodes": [name for name in names if name not in beyond],
            "beyond_recall": beyond,
        },
    )


def state_at(tx: Transaction, episode_id: str, position: int) -> tuple[Json | None, Json | None]:
    """An episode as it was at a position, and the effects that were counted for it then.

    Raises:
        BeyondRecallError: its history was erased.
    """
    entries = entries_until(tx.session, tx.command.namespace, episode_id, position)
    told = [entry for entry in entries if entry.operation in ("episode.learned", "episode.restored")]
    return replay(entries), effects.told_by(told[-1]) if told else None


def entries_until(session: Session, namespace: str, episode_id: str, position: int) -> list[LedgerEntry]:
    """The entries from which `replay` makes an episode as it was at a position.

    Raises:
        BeyondRecallError: its history was erased.
    """
    entries = queries.history(session, namespace, episode_id, until=position)
    telling = [entry for entry in entries if entry.operation != "write.conflict"]
    if _whole(telling):
        return entries
    for later in queries.history(session, namespace, episode_id, after=position):
        if telling[-1].position in later.data().get("stands_for", ()):
            return [later]
    raise BeyondRecallError(f"what episode {episode_id!r} held at that time was erased")


def _whole(entries: list[LedgerEntry]) -> bool:
    """Whether nothing was erased of what the state after some entries follows from."""
    for entry in reversed(entries):
        if entry.operation == "episode.removed":
            return True
        if entry.payload is None:
            return False
        if entry.operation == "episode.restored":
            return True
    return True


def put_back(
    tx: Transaction, episode_id: str, current: Json | None, state: Json | None, known: Json | None, payload: Json
) -> None:
    """Replace an episode by an earlier state of it; `known` are the effects that were counted for that state."""
    learned = state is not None and state["reward"] is not None
    if learned and known is None:
        known = payload["effects"].get(episode_id)
    steps = len(current["steps"]) if current is not None else 0
    if current is not None:
        take_out(tx, current, payload)
    if state is None:
        tx.append("episode.removed", "episode", episode_id, {"step_count": steps})
        return
    if learned and known is None:
        raise unknown_effects(episode_id)
    put_in(tx, state, known if learned else None, payload["words"], steps)


def take_out(tx: Transaction, current: Json, payload: Json) -> list[str]:
    """Delete an episode's rows and what was counted for it; returns the patterns that no episode shows any more."""
    episode_id = current["episode_id"]
    orphans: list[str] = []
    if current["reward"] is not None:
        known = effects.counted(tx.session, tx.command.namespace, episode_id) or payload["effects"].get(episode_id)
        if known is None:
            raise unknown_effects(episode_id)
        orphans = effects.take_back(tx, current, known)
    tx.remove_units(episode_id)
    tx.session.run("DELETE FROM episodes WHERE ns_hash = $1 AND episode_id = $2", tx.ns_hash, episode_id)
    return orphans


def put_in(tx: Transaction, state: Json, known: Json | None, words: Json, steps_before: int = 0) -> None:
    """Store an episode that has no rows, whole, with the effects that are counted for it."""
    state = {**state, "version": tx.next_position()}
    header = {name: value for name, value in state.items() if name not in ("steps", "receipts")}
    episode_id = header["episode_id"]
    put_episode(tx.session, state)
    for step in state["steps"]:
        tx.put_unit("step", episode_id, episode_id, tx.recipe.step(step), step_number=step["step_number"])
    tx.put_unit("task", episode_id, episode_id, tx.recipe.task(header), embed=True)
    if header["status"] == "completed":
        tx.put_unit("lesson", episode_id, episode_id, tx.recipe.lesson(header), embed=header["reward"] is not None)
    if known is not None:
        known = effects.know(tx, header, known, words)
        effects.count(tx, header, known)
        effects.date_patterns(tx, known)
    note_state(tx, state, known, steps_before)


def note_state(
    tx: Transaction, state: Json, known: Json | None, steps_before: int = 0, *, stands_for: list[int] | None = None
) -> None:
    """Append an entry with the whole of an episode, which is stored with the version of this entry.

    `stands_for` are the positions of entries that told the same effects, and were erased.
    """
    tx.append(
        "episode.restored",
        "episode",
        state["episode_id"],
        {
            "episode": {name: value for name, value in state.items() if name not in ("steps", "receipts")},
            "steps": state["steps"],
            "receipts": state["receipts"],
            "effects": known,
            "steps_before": steps_before,
            **({"stands_for": stands_for} if stands_for else {}),
        },
    )


def _undoable(tx: Transaction, position: int) -> list[LedgerEntry]:
    """The entries of the command that wrote an entry."""
    entry = queries.entry(tx.session, position)
    if entry is None or entry.namespace != tx.command.namespace:
        raise EntryNotFoundError(f"the ledger has no entry {position} in namespace {tx.command.namespace!r}")
    if entry.operation not in _UNDOABLE:
        raise NotUndoableError(f"entry {position} is {entry.operation}, which cannot be undone")
    group = queries.written(tx.session, entry.write_id)
    if any(each.operation == "episode.forgotten" for each in group):
        raise NotUndoableError(f"entry {position} belongs to a command that has forgotten something")
    return group


def _same(current: Json | None, state: Json | None) -> bool:
    if current is None or state is None:
        return current is state
    return {**current, "version": 0} == {**state, "version": 0}


def unknown_effects(episode_id: str) -> ConflictError:
    """What was counted for an episode is not known here; the caller finds it out and tries again."""
    return ConflictError(
        f"episode {episode_id!r} was learned from by an earlier version, or just now", hint="Call again."
    )


REVISIONS: dict[str, Handler] = {
    "snapshot.create": create_snapshot,
    "history.roll_back": roll_back,
    "history.undo": undo,
}
