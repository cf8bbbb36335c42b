"""Forgetting: an episode and everything that was derived from it, erased or derived again without it.

The entries of the ledger stay as hashes without payload, so the chain still verifies. What other episodes were shown
of the forgotten one is erased there too, by a new entry that holds their state without it.
"""

from __future__ import annotations

from memory_mcp.errors import EpisodeNotFoundError
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage import effects, queries
from memory_mcp.storage.leases import take_lease
from memory_mcp.storage.operations import Handler
from memory_mcp.storage.replay import replay
from memory_mcp.storage.revisions import note_state, take_out, unknown_effects
from memory_mcp.storage.transaction import Transaction


def forget(tx: Transaction, payload: Json) -> None:
    """`{episode_ids, reason, effects, open, redact}`: erase episodes.

    With `open` false what is open or gone already is left alone. With `redact` other episodes forget what they were
    shown of these; that is for secrets, and not for room.
    """
    if "claim" in payload:
        take_lease(tx, payload["claim"])
    forgotten: dict[str, int] = {}
    orphans: set[str] = set()
    for episode_id in payload["episode_ids"]:
        current = queries.episode(tx.session, tx.command.namespace, episode_id)
        if current is None and not queries.history(tx.session, tx.command.namespace, episode_id):
            raise EpisodeNotFoundError(f"there is no episode {episode_id!r} in namespace {tx.command.namespace!r}")
        if not payload["open"] and (current is None or current["status"] == "open"):
            continue
        if current is not None:
            orphans.update(take_out(tx, current, payload))
        forgotten[episode_id] = len(current["steps"]) if current is not None else 0
    vanished = sorted(orphans)
    if payload["redact"]:
        _drop_credits(tx, list(forgotten), vanished)
        _redact(tx, {*forgotten, *vanished}, payload)
        _owe_a_scrub(tx)
    for episode_id, steps in forgotten.items():
        erased = _erase(tx, episode_id)
        told = {"reason": payload["reason"], "erased_entries": erased, "step_count": steps}
        tx.append("episode.forgotten", "episode", episode_id, told)


def scrubbed(tx: Transaction, payload: Json) -> None:
    """`{due}`: what was forgotten up to the time `due` has left the files too."""
    tx.session.run(
        "DELETE FROM meta WHERE key = $1 AND CAST(value AS INTEGER) <= $2", queries.SCRUB_DUE, payload["due"]
    )


def _owe_a_scrub(tx: Transaction) -> None:
    # in the same transaction: whoever finds it finishes what a killed process has begun
    tx.session.run(
        "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        queries.SCRUB_DUE,
        str(tx.command.at),
    )


def _drop_credits(tx: Transaction, episode_ids: list[str], pattern_ids: list[str]) -> None:
    for kind, names in (("episode", episode_ids), ("pattern", pattern_ids)):
        for name in names:
            tx.session.run(
                "DELETE FROM credits WHERE ns_hash = $1 AND memory_kind = $2 AND memory_id = $3", tx.ns_hash, kind, name
            )


def _redact(tx: Transaction, gone: set[str], payload: Json) -> None:
    """Let all other episodes forget what they were shown of what is gone; their own record stays as it is.

    The ledger is searched, not the receipts that are there now: an episode may be gone and come back by an undo.
    """
    named = queries.entries_naming(tx.session, tx.command.namespace, gone)
    for episode_id in sorted(set(named) - set(payload["episode_ids"])):
        current = queries.episode(tx.session, tx.command.namespace, episode_id)
        entries = queries.history(tx.session, tx.command.namespace, episode_id)
        while current is None and entries and entries[-1].operation in ("episode.removed", "write.conflict"):
            # what it was before it was taken away: an undo may bring it back
            entries.pop()
        state = current or replay(entries)
        known, stands_for = _what_is_told(entries, state, gone, payload)
        for position in named[episode_id]:
            tx.session.run("UPDATE ledger SET payload = NULL WHERE position = $1", position)
        if state is not None:
            _note_redacted(tx, state, known, gone, stands_for, live=current is not None)


def _what_is_told(
    entries: list[LedgerEntry], state: Json | None, gone: set[str], payload: Json
) -> tuple[Json | None, list[int]]:
    """The effects that go with the state after some entries, and the positions of the entries for which another one
    that tells this state can stand."""
    last = [entry.position for entry in entries if entry.operation != "write.conflict"][-1:]
    if state is None or state["reward"] is None:
        return None, last
    entry = next(entry for entry in reversed(entries) if entry.operation in ("episode.learned", "episode.restored"))
    known = effects.told_by(entry) or payload["effects"].get(state["episode_id"])
    if known is None:
        raise unknown_effects(state["episode_id"])
    kept = [credit for credit in known["credits"] if credit["memory_id"] not in gone]
    inherited = entry.data().get("stands_for", ())
    return {**known, "credits": kept}, sorted({*inherited, entry.position, *last})


def _note_redacted(
    tx: Transaction, state: Json, known: Json | None, gone: set[str], stands_for: list[int], *, live: bool
) -> None:
    episode_id = state["episode_id"]
    for receipt in state["receipts"]:
        if receipt["memory_id"] in gone:
            receipt["advice"] = {}
            tx.session.run(
                "UPDATE receipts SET advice = '{}' WHERE ns_hash = $1 AND episode_id = $2 AND memory_id = $3",
                tx.ns_hash,
                episode_id,
                receipt["memory_id"],
            )
    state["version"] = tx.next_position()
    tx.session.run(
        "UPDATE episodes SET version = $3 WHERE ns_hash = $1 AND episode_id = $2",
        tx.ns_hash,
        episode_id,
        state["version"],
    )
    steps = len(state["steps"])
    note_state(tx, state, known, steps, stands_for=stands_for)
    if not live:
        tx.append("episode.removed", "episode", episode_id, {"step_count": steps, "stands_for": []})


def _erase(tx: Transaction, episode_id: str) -> int:
    """Erase the payloads of an episode's entries; returns how many there were."""
    return tx.session.run(
        "UPDATE ledger SET payload = NULL WHERE ns_hash = $1 AND subject_id = $2 AND subject_kind = 'episode'"
        " AND payload IS NOT NULL",
        tx.ns_hash,
        episode_id,
    )


ERASURE: dict[str, Handler] = {"episode.forget": forget, "scrub.done": scrubbed}
