"""The learning follower: turns every completed episode into reward, reflection, evidence and credit, exactly once.

Its effects and its cursor are one transaction under a lease, so that one process at a time learns. It may be killed
anywhere: what was not committed is done again, and of two that did the same only the first leaves anything.
"""

from __future__ import annotations

import asyncio
import logging
import math

from memory_mcp.clock import Clock, IdFactory
from memory_mcp.learning.credit import settle
from memory_mcp.learning.history import History
from memory_mcp.learning.mining import mine
from memory_mcp.learning.reflection import reflect
from memory_mcp.learning.reward import reward
from memory_mcp.records.base import Json
from memory_mcp.records.episode import Episode, episode_from
from memory_mcp.records.ledger import Command, LedgerEntry
from memory_mcp.storage import queries
from memory_mcp.storage.learned import LEARNING, CursorMovedError
from memory_mcp.storage.leases import Lease, LeaseLostError, Leases
from memory_mcp.storage.session import Session
from memory_mcp.storage.store import Store

_log = logging.getLogger(__name__)

_BATCH = 32
# a completed episode that was put back as it was before anything was learned from it is learned from again
OCCASIONS = ("episode.completed", "episode.restored")


class Learner:
    """Learns from completed episodes in the order of the ledger."""

    name = LEARNING

    def __init__(self, store: Store, clock: Clock, ids: IdFactory, leases: Leases) -> None:
        self.lead = leases.lead(LEARNING)
        self.learned = 0
        self.failed = 0
        self.refused = 0
        self._store = store
        self._clock = clock
        self._ids = ids
        self._working = asyncio.Lock()

    async def step(self) -> bool:
        """Learn from some of the episodes that are waiting; True when there are more."""
        async with self._working:
            seen, cursor, waiting = await self._store.read(self._waiting)
            turn = self.lead.turn(seen, waiting=bool(waiting))
            if turn is None:
                return False
            for entry in waiting:
                try:
                    last = entry is waiting[-1] and len(waiting) < _BATCH
                    await self._learn(entry, cursor, turn.claim(last=last))
                except (CursorMovedError, LeaseLostError) as error:
                    self.refused += 1
                    _log.debug("another process has learned from %s: %s", entry.subject_id, error)
                    return True
                cursor = entry.position
                self.learned += 1
            return len(waiting) == _BATCH

    async def catch_up(self, position: int) -> None:
        """Learn from everything up to a ledger position, or wait for the process that does.

        Raises:
            StorageUnavailableError: the store is out of order; learning goes on when it is back.
        """
        await self.lead.until(lambda session: queries.cursor(session, LEARNING) >= position, lambda: self.step())

    def _waiting(self, session: Session) -> tuple[Lease, int, list[LedgerEntry]]:
        cursor = queries.cursor(session, LEARNING)
        entries = [entry for name in OCCASIONS for entry in queries.ledger(session, cursor, _BATCH, name)]
        entries.sort(key=lambda entry: entry.position)
        return self.lead.look(session), cursor, entries[:_BATCH]

    async def _learn(self, entry: LedgerEntry, cursor: int, claim: Json) -> None:
        def load(session: Session) -> tuple[Json | None, History]:
            return queries.episode(session, entry.namespace, entry.subject_id), History.load(session, entry.namespace)

        found, history = await self._store.read(load)
        move = {"name": LEARNING, "from": cursor, "to": entry.position, "claim": claim}
        if found is None or found["status"] != "completed" or found["reward"] is not None:
            # forgotten or taken back since, or put back with all that was learned from it
            await self._store.write_derived(self._command("cursor.move", entry, {"cursor": move}))
            return
        try:
            payload = {**learn(episode_from(found), history), "cursor": move}
        except Exception:  # noqa: BLE001 - one episode that trips learning must not keep it from all that follow
            _log.exception("nothing can be learned from %s", entry.subject_id)
            self.failed += 1
            await self._store.write_derived(self._command("cursor.move", entry, {"cursor": move}))
            return
        await self._store.write_derived(self._command("episode.learn", entry, payload))

    def _command(self, operation: str, entry: LedgerEntry, payload: Json) -> Command:
        return Command(
            operation=operation,
            namespace=entry.namespace,
            payload=payload,
            write_id=self._ids.new(),
            at=self._clock.now(),
            actor=LEARNING,
        )


def learn(episode: Episode, history: History) -> Json:
    """Everything that a completed episode teaches, as the payload of `episode.learn`. Pure."""
    usual = history.usual(episode.domain, episode.task_type)
    found = evidence(episode)
    return {
        "reward": reward(episode, usual, memory_used=any(receipt["used"] for receipt in found["receipts"])),
        "reflection": reflect(episode, usual, history),
        **found,
    }


def evidence(episode: Episode) -> Json:
    """The part of what a completed episode teaches that depends on nothing but itself."""
    assert episode.outcome is not None
    receipts, credits = settle(episode)
    mined = mine(episode)
    seconds = episode.duration_seconds
    return {
        "episode_id": episode.episode_id,
        "success": episode.outcome.succeeded,
        "stats": {
            "steps": len(episode.steps),
            "log_steps": math.log(max(1, len(episode.steps))),
            "log_seconds": math.log(seconds) if seconds else None,
        },
        "tools": _tools(episode),
        "contributions": [
            {
                "pattern_id": pattern_id,
                "kind": seen.kind,
                "group_id": seen.group_id,
                "body": seen.body,
                "tried": seen.tried,
                "resolved": seen.resolved,
                "steps": seen.steps,
            }
            for pattern_id, seen in mined.contributions.items()
        ],
        "groups": [
            {"group_id": group_id, "tried": tried, "resolved": resolved}
            for group_id, (tried, resolved) in mined.groups.items()
        ],
        "credits": credits,
        "receipts": receipts,
    }


def effects_of(episode: Episode) -> Json:
    """What learning from an episode has counted, of one that was learned from already: see `storage.effects`."""
    assert episode.reward is not None
    told = evidence(episode)
    patterns = [
        {name: contribution[name] for name in ("pattern_id", "steps", "tried", "resolved")}
        for contribution in (told["contributions"] if told["success"] is not None else ())
    ]
    names = ("success", "stats", "tools", "groups", "credits")
    return {**{name: told[name] for name in names}, "patterns": patterns, "reward": episode.reward["total"]}


def _tools(episode: Episode) -> list[Json]:
    totals: dict[str, Json] = {}
    for step in episode.steps:
        total = totals.setdefault(
            step.tool, {"tool": step.tool, "calls": 0, "errors": 0, "timed": 0, "latency_ms_sum": 0.0}
        )
        total["calls"] += 1
        total["errors"] += not step.result.ok
        if step.latency_ms is not None:
            total["timed"] += 1
            total["latency_ms_sum"] += step.latency_ms
    return list(totals.values())
