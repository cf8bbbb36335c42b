"""Forgetting: an episode and everything that was derived from it, erased or derived again without it.

The entries of the ledger stay as hashes without payload, so the chain still verifies. What other episodes were shown
of the forgotten one is erased there too, by a new entry that holds their state without it.
"""

from __future__ import annotations

from memory_mcp.errors import EpisodeNotFoundError
from memory_mcp.records.base import Json
from memory_mcp.storage import queries
from memory_mcp.storage.leases import take_lease
from memory_mcp.storage.operations import Handler
from memory_mcp.storage.revisions import counted, note_state, take_out, unknown_effects
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
    _drop_patterns(tx, vanished)
    _drop_credits(tx, list(forgotten), vanished)
    gone = {*forgotten, *vanished}
    for episode_id in queries.shown_to(tx.session, tx.command.namespace, sorted(gone)) if payload["redact"] else ():
        _redact(tx, episode_id, gone, payload)
    for episode_id, steps in forgotten.items():
        erased = _erase(tx, episode_id)
        told = {"reason": payload["reason"], "erased_entries": erased, "step_count": steps}
        tx.append("episode.forgotten", "episode", episode_id, told)


def _drop_patterns(tx: Transaction, pattern_ids: list[str]) -> None:
    for pattern_id in pattern_ids:
        tx.session.run("DELETE FROM patterns WHERE ns_hash = $1 AND pattern_id = $2", tx.ns_hash, pattern_id)


def _drop_credits(tx: Transaction, episode_ids: list[str], pattern_ids: list[str]) -> None:
    for kind, names in (("episode", episode_ids), ("pattern", pattern_ids)):
        for name in names:
            tx.session.run(
                "DELETE FROM credits WHERE ns_hash = $1 AND memory_kind = $2 AND memory_id = $3", tx.ns_hash, kind, name
            )


def _redact(tx: Transaction, episode_id: str, gone: set[str], payload: Json) -> None:
    """Let another episode forget what it was shown of the forgotten ones; its own record stays as it is."""
    state = queries.episode(tx.session, tx.command.namespace, episode_id)
    assert state is not None
    known = None
    if state["reward"] is not None:
        known = counted(tx, episode_id) or payload["effects"].get(episode_id)
        if known is None:
            raise unknown_effects(episode_id)
        known = {**known, "credits": [credit for credit in known["credits"] if credit["memory_id"] not in gone]}
    _erase_what_names(tx, episode_id, gone)
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
    note_state(tx, state, known, len(state["steps"]))


def _erase_what_names(tx: Transaction, episode_id: str, gone: set[str]) -> None:
    """Erase the entries of an episode that hold receipts of what is gone."""
    named = [
        entry.position
        for entry in queries.history(tx.session, tx.command.namespace, episode_id)
        if any(receipt["memory_id"] in gone for receipt in entry.data().get("receipts", ()))
    ]
    for position in named:
        tx.session.run("UPDATE ledger SET payload = NULL WHERE position = $1", position)


def _erase(tx: Transaction, episode_id: str) -> int:
    """Erase the payloads of an episode's entries; returns how many there were."""
    return tx.session.run(
        "UPDATE ledger SET payload = NULL WHERE ns_hash = $1 AND subject_id = $2 AND subject_kind = 'episode'"
        " AND payload IS NOT NULL",
        tx.ns_hash,
        episode_id,
    )


ERASURE: dict[str, Handler] = {"episode.forget": forget}
