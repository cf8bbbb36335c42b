"""How the processes of a machine hear of each other's commits: one byte to the Unix datagram socket of each.

    <data_dir>/run/<owner>.sock      bound by the process that calls itself <owner>, read on its event loop

A wake carries nothing: who gets one reads the ledger from its own cursor. So wakes may be lost, doubled or sent for
nothing, and a process that cannot have a socket (Windows, a file system without sockets) only hears later, by the
poll of `followers.Upkeep`. Another byte asks the leader of a follower (see `leases`) to work at once.

The kernel takes no socket path over 107 bytes. Where the data directory's own path is too long for that, the sockets
lie in a directory of this user under the system's temporary directory, named by a hash of the data directory.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from memory_mcp.records.base import Json

_log = logging.getLogger(__name__)

_LONGEST_PATH = 100
_SUFFIX = ".sock"
_COMMITTED, _ASK = b"\0", b"\1"
# of a process that has no socket; the marks of directories are hexadecimal
_NOWHERE = "none"
# commits that follow each other closer than this share a wake
_SPACING = 0.002
# seconds for which wakes are let wait: after one, and where they come all the time
_DEAF = (0.005, 0.08)
# a change of the directory may hide behind another one within this time: its clock ticks in steps
_MTIME_SECONDS = 0.05
_GONE = (errno.ECONNREFUSED, errno.ENOENT)


class Wakes:
    """The socket of this process, and its way to those of all others on the same data directory.

    `sent` and `received` count bytes. All methods but `gone` belong on the event loop's thread.
    """

    def __init__(self, data_dir: Path) -> None:
        self.owner = f"{_NOWHERE}{os.urandom(4).hex()}"
        """What this process is called; new with every `open`."""
        self.sent = 0
        self.received = 0
        self.error = ""
        """Why there can be no socket; empty when nothing was in the way."""
        self._data_dir = data_dir
        self._directory: Path | None = None
        self._socket: socket.socket | None = None
        self._listener: Callable[[bool], None] = lambda asked: None
        self._listed: tuple[int, list[str]] = (0, [])
        self._next_send = 0.0
        self._later: asyncio.TimerHandle | None = None
        self._deaf: asyncio.TimerHandle | None = None
        self._deaf_seconds, self._heard_at = _DEAF[0], 0.0

    @property
    def working(self) -> bool:
        """Whether others can wake this process."""
        return self._socket is not None

    @property
    def busy(self) -> bool:
        """Whether wakes come all the time."""
        return self._deaf_seconds > _DEAF[0]

    def open(self, listener: Callable[[bool], None]) -> bool:
        """Bind the socket; False where there can be none.

        `listener` is called for every burst of wakes, with True when this process was asked to do what it leads.
        """
        self.close()
        self._listener = listener
        try:
            self._bind()
        except (OSError, NotImplementedError) as error:
            self._unbind()
            self.error = f"{type(error).__name__}: {error}"
            _log.info("no wakes between processes, only polling: %s", self.error)
            return False
        self.error = ""
        return True

    def ensure(self) -> None:
        """Bind again where somebody has swept the socket away."""
        if self._directory is not None and not _path(self._directory, self.owner).exists():
            self.open(self._listener)

    def close(self) -> None:
        """Take the socket away and tell the others, who may wait for something that this process leads."""
        if self._socket is None:
            return
        directory = self._directory
        assert directory is not None
        with suppress(OSError):
            _path(directory, self.owner).unlink()
        self._send()
        self._unbind()

    def send(self) -> None:
        """Wake all other processes, now or within two milliseconds; never raises and never blocks."""
        if self._socket is None or self._later is not None:
            return
        wait = self._next_send - time.monotonic()
        if wait <= 0:
            self._send()
        else:
            self._later = asyncio.get_running_loop().call_later(wait, self._send)

    def ask(self, owner: str) -> None:
        """Tell the process of this name that somebody waits for what it leads."""
        if self._socket is not None:
            self._wake(owner + _SUFFIX, _ASK)

    def gone(self, owner: str) -> bool:
        """Whether it is certain that the process of this name lives no more: nobody reads its socket.

        It is not where this process cannot tell: one of the two has no socket, or they look in different directories.
        """
        directory = self._directory
        if directory is None or owner[: len(_NOWHERE)] != self.owner[: len(_NOWHERE)]:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(str(_path(directory, owner)))
            except OSError as error:
                return error.errno in _GONE
        return False

    def numbers(self) -> Json:
        """`{sent, received, peers}`, and `error` where there is no socket."""
        told: Json = {"sent": self.sent, "received": self.received, "peers": len(self._peers())}
        return {**told, "error": self.error} if self.error else told

    def _bind(self) -> None:
        if sys.platform == "win32":  # pragma: no cover - this platform is not tested
            raise NotImplementedError("there are no Unix datagram sockets on Windows")
        directory = _run_directory(self._data_dir)
        found = directory.stat()
        mark = hashlib.sha256(f"{found.st_dev}:{found.st_ino}".encode()).hexdigest()[: len(_NOWHERE)]
        self.owner = f"{mark}{os.urandom(4).hex()}"
        self._directory, self._listed = directory, (0, [])
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(_path(directory, self.owner)))
        self._listen()

    def _listen(self) -> None:
        self._deaf = None
        assert self._socket is not None
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive)

    def _unbind(self) -> None:
        bound, self._socket, self._directory = self._socket, None, None
        for timer in (self._later, self._deaf):
            if timer is not None:
                timer.cancel()
        self._later = self._deaf = None
        if bound is not None:
            with suppress(NotImplementedError):
                asyncio.get_running_loop().remove_reader(bound.fileno())
            bound.close()

    def _receive(self) -> None:
        assert self._socket is not None
        count, asked = 0, False
        while True:
            try:
                asked = self._socket.recv(1) == _ASK or asked
            except OSError:
                # nothing more is waiting
                break
            count += 1
        if count:
            self.received += count
            self._listener(asked)
            # the first of many is heard at once and the others together, the longer they go on the more of them:
            # with thirty processes that write all the time, hearing each one would be most of the work
            loop = asyncio.get_running_loop()
            pause = loop.time() - self._heard_at
            self._heard_at = loop.time()
            self._deaf_seconds = min(_DEAF[1], 2 * self._deaf_seconds) if pause < 2 * self._deaf_seconds else _DEAF[0]
            loop.remove_reader(self._socket.fileno())
            self._deaf = loop.call_later(self._deaf_seconds, self._listen)

    def _send(self) -> None:
        self._later = None
        self._next_send = time.monotonic() + _SPACING
        for name in self._peers():
            self._wake(name, _COMMITTED)

    def _wake(self, name: str, byte: bytes) -> None:
        assert self._socket is not None
        assert self._directory is not None
        path = self._directory / name
        try:
            self._socket.sendto(byte, str(path))
        except OSError as error:
            if error.errno in _GONE:
                # its process was killed
                with suppress(OSError):
                    path.unlink()
                self._listed = (0, [])
            elif error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                # those two: its queue is full, so it has a wake waiting
                _log.debug("cannot wake %s: %s", path, error)
        else:
            self.sent += 1

    def _peers(self) -> list[str]:
        """Names of the other sockets; the directory is read again only when it has changed."""
        if self._directory is None:
            return []
        try:
            changed = self._directory.stat().st_mtime_ns
            if changed != self._listed[0]:
                with os.scandir(self._directory) as entries:
                    names = [entry.name for entry in entries if entry.name.endswith(_SUFFIX)]
                settled = time.time_ns() - changed > _MTIME_SECONDS * 1e9
                own = self.owner + _SUFFIX
                self._listed = (changed if settled else 0, [name for name in names if name != own])
        except OSError as error:
            _log.debug("cannot list %s: %s", self._directory, error)
            return []
        return self._listed[1]


def _path(directory: Path, owner: str) -> Path:
    return directory / f"{owner}{_SUFFIX}"


def _run_directory(data_dir: Path) -> Path:
    """The directory of the sockets, made where it is missing.

    Raises:
        OSError: it cannot be made, or belongs to somebody else.
    """
    resolved = data_dir.resolve()
    directory = resolved / "run"
    if _fits(directory):
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory
    name = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"memory-mcp-{os.getuid()}-{name}"
    if not _fits(directory):
        raise OSError(errno.ENAMETOOLONG, "no place for sockets with a path that is short enough")
    directory.mkdir(mode=0o700, exist_ok=True)
    # everybody may make directories there, also under the name that we look for
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "the directory is not this user's alone", str(directory))
    return directory


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory)) + len("/") + 3 * len(_NOWHERE) + len(_SUFFIX) <= _LONGEST_PATH
