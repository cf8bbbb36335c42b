"""The retention follower: forgets what the rules no longer keep, a few episodes at a time, in one process at a time."""

from __future__ import annotations

import logging

from memory_mcp.clock import Clock, IdFactory
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command
from memory_mcp.records.retention import RetentionRule
from memory_mcp.services.history import missing_effects
from memory_mcp.storage import queries
from memory_mcp.storage.leases import Lease, LeaseLostError, Leases
from memory_mcp.storage.retention import no_longer_kept, rule_for
from memory_mcp.storage.session import Session
from memory_mcp.storage.store import Store

_log = logging.getLogger(__name__)

_BATCH = 25
# forgotten episodes after which the cache is made anew, because it keeps something of each
_MOST_TOMBSTONES = 1_000


class Retention:
    """Applies the rules from time to time. Open episodes are never touched.

    What is forgotten here is gone with all that was learned from it, as with `forget`; only what other episodes were
    shown of it stays with them, because this is about room.

    Args:
        rules: by namespace; see `storage.retention.rule_for`.
        seconds: between two looks.
    """

    name = "retention"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: IdFactory,
        leases: Leases,
        rules: dict[str, RetentionRule],
        seconds: float,
    ) -> None:
        self.lead = leases.lead(self.name)
        self.forgotten = 0
        self.compacted = 0
        self._store = store
        self._clock = clock
        self._ids = ids
        self._rules = rules
        self._seconds = seconds
        self._next = 0.0
        self._untidy = False
        self._forgotten_before = 0

    async def step(self) -> bool:
        """Forget some episodes; True when there may be more."""
        if not self._rules or self._clock.monotonic() < self._next:
            return False
        seen, namespace, episode_ids, missing = await self._store.read(self._due)
        turn = self.lead.turn(seen, waiting=bool(episode_ids))
        if turn is None:
            if not episode_ids:
                await self._tidy_up()
                self._next = self._clock.monotonic() + self._seconds
            return False
        payload = {
            "episode_ids": episode_ids,
            "reason": "retention",
            "effects": missing,
            "open": False,
            "redact": False,
            "claim": turn.claim(),
        }
        command = Command("episode.forget", namespace, payload, self._ids.new(), self._clock.now(), self.name)
        try:
            written = await self._store.write_derived(command)
        except LeaseLostError as error:
            _log.debug("another process applies the rules: %s", error)
            return True
        self.forgotten += len(written.entries)
        self._untidy = True
        return True

    def _due(self, session: Session) -> tuple[Lease, str, list[str], Json]:
        seen = self.lead.look(session)
        for namespace, _, _ in queries.chain_heads(session):
            rule = rule_for(namespace, self._rules)
            found = no_longer_kept(session, namespace, rule, self._clock.now(), _BATCH) if rule else []
            if found:
                return seen, namespace, found, missing_effects(session, namespace, found)
        return seen, "", [], {}

    async def _tidy_up(self) -> None:
        """Give room back where there is enough of it to be worth the work."""
        if not self._untidy:
            return
        self._untidy = False
        if await self._store.wasteful():
            await self._store.compact()
            self.compacted += 1
        elif self.forgotten - self._forgotten_before < _MOST_TOMBSTONES:
            return
        # the cache remembers of everything that it is gone
        await self._store.rebuild_cache()
        self._forgotten_before = self.forgotten
