"""The ticket that a process holds while it writes to the store.

SQLite's own busy handler lets one of many writers starve (measured: 8 s without a turn among 8 writers). An
advisory lock taken before `BEGIN IMMEDIATE` shares the turns out, and the kernel frees it when its holder dies.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
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

    def _try_share(descriptor: int) -> bool:
        # there are no shared locks here: every process takes a byte of its own
        for place in range(_SHARES):
            os.lseek(descriptor, place, os.SEEK_SET)
            if _try_lock(descriptor):
                return True
        return False

    def _try_all(descriptor: int) -> bool:
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, _SHARES)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # taken, or a file system without locks: what comes next decides
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _try_share(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            # a file system without locks has nobody to wait for
            return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
        return True

    _try_all = _try_lock


_POLL_SECONDS = 0.0005
_SHARES = 4096


class FileLock:
    """An exclusive lock between processes, with a deadline.

    Two files make it fair: who wants the lock first queues for `<path>.next`, and gives that place up only once it
    holds `<path>`. A holder that comes straight back has to queue behind whoever is waiting there.
    """

    def __init__(self, path: Path) -> None:
        self._main_path, self._next_path = str(path), f"{path}.next"
        self._main = _open(self._main_path)
        try:
            self._next = _open(self._next_path)
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
        held: int | None = None
        place = _take(self._next, self._next_path, until)
        if place is not None:
            try:
                held = _take(self._main, self._main_path, until)
            finally:
                _give(place, self._next)
        try:
            yield held is not None
        finally:
            if held is not None:
                _give(held, self._main)

    def close(self) -> None:
        for descriptor in (self._main, self._next):
            with suppress(OSError):
                os.close(descriptor)


class Presence:
    """A lock that many processes share as long as they have something open, and that one of them may hold alone.

    The kernel frees it when its holder dies. With `read_only` its file has to be there already.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        self._descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)

    def share(self, deadline_seconds: float) -> bool:
        """Be there, until `close`; False when somebody held it alone all the time."""
        return _until(_try_share, self._descriptor, deadline_seconds)

    def alone(self, deadline_seconds: float) -> bool:
        """Hold it alone, until `close`; False when others were there all the time."""
        return _until(_try_all, self._descriptor, deadline_seconds)

    def close(self) -> None:
        """Give it back."""
        with suppress(OSError):
            os.close(self._descriptor)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _take(descriptor: int, path: str, until: float) -> int | None:
    """Lock a file: the descriptor that holds the lock, which is another one where that took a wait; None at the end
    of the time."""
    if _try_lock(descriptor):
        return descriptor
    if sys.platform == "win32":  # pragma: no cover - this platform is not tested
        return descriptor if _until(_try_lock, descriptor, until - time.monotonic()) else None
    seconds = until - time.monotonic()
    return _Wait(path).end(seconds) if seconds > 0 else None


def _give(held: int, own: int) -> None:
    if held == own:
        _unlock(own)
    else:
        os.close(held)


class _Wait:
    """A wait in the kernel's own queue, on a thread, so that who waits can give up.

    Asking again and again instead keeps both cores of a small machine busy when thirty processes do it. The thread
    has a descriptor of its own: what it gets too late is given back with that, and nobody else's.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._decided = threading.Lock()
        self._over = threading.Event()
        self._given_up = False
        self._held: int | None = None
        threading.Thread(target=self._wait, name="file-lock", daemon=True).start()

    def end(self, seconds: float) -> int | None:
        """The descriptor that holds the lock; None if it was not had in time."""
        self._over.wait(seconds)
        with self._decided:
            self._given_up = self._held is None
            return self._held

    def _wait(self) -> None:
        try:
            descriptor = _open(self._path)
        except OSError:
            self._over.set()
            return
        kept = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with self._decided:
                if not self._given_up:
                    self._held, kept = descriptor, True
        except OSError:
            # a file system without locks: nothing was had
            kept = False
        finally:
            if not kept:
                os.close(descriptor)
            self._over.set()


def _until(attempt: Callable[[int], bool], descriptor: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not attempt(descriptor):
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)
    return True
