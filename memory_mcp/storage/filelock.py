"""The ticket that a process holds while it writes to the store.

SQLite's own busy handler lets one of many writers starve (measured: 8 s without a turn among 8 writers). An
advisory lock taken before `BEGIN IMMEDIATE` shares the turns out, and the kernel frees it when its holder dies.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":  # pragma: no cover - this platform is not tested
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        with suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # taken, or a file system without locks: the deadline decides
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


_POLL_SECONDS = 0.0005


class FileLock:
    """An exclusive lock between processes, with a deadline.

    Two files make it fair: who wants the lock first queues for `<path>.next`, and gives that place up only once it
    holds `<path>`. A holder that comes straight back has to queue behind whoever is waiting there.
    """

    def __init__(self, path: Path) -> None:
        self._main = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._next = os.open(f"{path}.next", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            os.close(self._main)
            raise

    @contextmanager
    def held(self, deadline_seconds: float) -> Iterator[bool]:
        """Hold the lock; yields False when the deadline passed first, so that a stopped holder cannot block all.

        Blocks the calling thread. Without the lock a caller is still safe, because SQLite has its own; it is only
        no longer sure of its turn.
        """
        until = time.monotonic() + deadline_seconds
        have = False
        try:
            if self._acquire(self._next, until):
                try:
                    have = self._acquire(self._main, until)
                finally:
                    _unlock(self._next)
            yield have
        finally:
            if have:
                _unlock(self._main)

    def close(self) -> None:
        for descriptor in (self._main, self._next):
            with suppress(OSError):
                os.close(descriptor)

    @staticmethod
    def _acquire(descriptor: int, until: float) -> bool:
        while not _try_lock(descriptor):
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_SECONDS)
        return True
