"""Writes that wait in the journal, and their replay once the store is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from memory_mcp.clock import Clock
from memory_mcp.errors import MemoryMCPError, StorageUnavailableError
from memory_mcp.records.ledger import Command, Written
from memory_mcp.storage.fold import concerns
from memory_mcp.storage.journal import Journal

_log = logging.getLogger(__name__)

_TURN_SECONDS = 2.0
_BATCH = 64


class Pending:
    """The pending journal in use.

    Args:
        journal: where the commands lie.
        commit: carries out a command, unless its `write_id` is in the ledger already.
    """

    def __init__(self, journal: Journal, clock: Clock, commit: Callable[[Command], Awaitable[Written]]) -> None:
        self.error = ""
        self.replayed = 0
        self.conflicts = 0
        self._journal = journal
        self._clock = clock
        self._commit = commit
        self._draining = asyncio.Lock()

    def open(self) -> None:
        """Open the journal; a failure is kept in `error`, and `drain` tries again."""
        try:
            self._journal.open()
        except StorageUnavailableError as error:
            self._failed(error)

    def close(self) -> None:
        try:
            self._journal.close()
        except StorageUnavailableError as error:
            _log.warning("%s", error)

    def count(self, *, stranded: bool = False) -> int:
        """How many writes wait; with `stranded` also in a journal that cannot be opened, but only be read."""
        if self._journal.is_open:
            return len(self._journal)
        return len(self._journal.stranded()) if stranded else 0

    def writes_to(self, namespace: str, episode_id: str, *, stranded: bool = False) -> list[Command]:
        """The waiting writes to one episode, in order."""
        if self.count(stranded=stranded) == 0:
            return []
        waiting = self._journal.first() if self._journal.is_open else self._journal.stranded()
        return [command for _, command in waiting if concerns(command, namespace, episode_id)]

    async def append(self, command: Command) -> None:
        """Keep a command durably behind all others.

        Raises:
            StorageUnavailableError: the journal could not be written.
        """
        if self.error and not self._journal.is_open:
            await self._mend()
            if self.error:
                raise StorageUnavailableError(self.error)
        try:
            await asyncio.to_thread(self._journal.append, command)
        except StorageUnavailableError as error:
            self._failed(error)
            await self._mend()
            if self.error:
                raise
            await asyncio.to_thread(self._journal.append, command)

    async def drain(self) -> bool:
        """Replay what waits, in order; True when nothing is left to wait for, False after two seconds at the latest.

        A command that no longer fits what is stored loses: it is kept in the ledger as a conflict.
        """
        until = self._clock.monotonic() + _TURN_SECONDS
        if self.error:
            await self._mend()
        try:
            while self.count():
                if self._clock.monotonic() >= until:
                    return False
                async with self._draining:
                    with self._journal.replay_lock.held(0.0) as mine:
                        if mine and not await self._replay_some():
                            return False
                if not mine:
                    # another process replays
                    await self._clock.sleep(0.01)
        except StorageUnavailableError as error:
            self._failed(error)
            return False
        return True

    async def renew(self) -> None:
        """Make the journal anew without old pages; while writes wait in it, it is left as it is."""
        try:
            if self._journal.is_open and self.count() == 0:
                await asyncio.to_thread(self._journal.renew)
        except StorageUnavailableError as error:
            self._failed(error)

    async def _mend(self) -> None:
        try:
            self._journal.open()
            await asyncio.to_thread(self._journal.probe)
        except StorageUnavailableError as error:
            self._failed(error)
        else:
            self.error = ""

    async def _replay_some(self) -> bool:
        done: list[int] = []
        try:
            for sequence, command in self._journal.first(_BATCH):
                if not await self._replay(command):
                    return False
                done.append(sequence)
        finally:
            # whatever is not removed will be found in the ledger by its write_id
            if done:
                await asyncio.to_thread(self._journal.remove, done)
        return True

    async def _replay(self, command: Command) -> bool:
        try:
            await self._commit(command)
        except StorageUnavailableError:
            return False
        except MemoryMCPError as error:
            return await self._record_conflict(command, error)
        self.replayed += 1
        return True

    async def _record_conflict(self, command: Command, error: MemoryMCPError) -> bool:
        conflict = Command(
            operation="write.conflict",
            namespace=command.namespace,
            payload={
                "command": {"operation": command.operation, "payload": command.payload, "at": command.at},
                "error": error.as_dict(),
            },
            write_id=f"{command.write_id}:conflict",
            at=self._clock.now(),
            actor=command.actor,
        )
        try:
            await self._commit(conflict)
        except StorageUnavailableError:
            return False
        self.conflicts += 1
        _log.warning("a pending %s lost against the store: %s", command.operation, error)
        return True

    def _failed(self, error: StorageUnavailableError) -> None:
        if error.message != self.error:
            _log.error("%s", error)
        self.error = error.message
