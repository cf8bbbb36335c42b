"""The protocol's two streams: private descriptors, whole lines in, whole lines out.

Only the operating system is imported here: the streams are taken before anything else is loaded that might print.
"""

from __future__ import annotations

import os

CHUNK = 1 << 16
MAX_LINE = 32 * 1024 * 1024
_ENDS = 1 << 16


def claim_streams() -> tuple[int, int]:
    """Take the protocol's streams to private descriptors: `(stdin, stdout)`.

    From here on, descriptor 0 is empty and descriptor 1 is stderr: whatever a library or a child process prints
    cannot reach the protocol.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # a host may start us without one of them; the lowest free number is the missing one
            os.open(os.devnull, os.O_RDWR)
    stdin, stdout = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for descriptor in (stdin, stdout):
        os.set_blocking(descriptor, True)
    return stdin, stdout


def write_all(descriptor: int, data: bytes) -> bool:
    """Write every byte; False when the client is gone."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            # whoever shares the descriptor has changed it
            os.set_blocking(descriptor, True)
        except OSError:
            return False
    return True


class Overlong(bytes):
    """Both ends of a line of more than `MAX_LINE` bytes."""


class Lines:
    """Cuts what is read into lines. Each byte is looked at once, however long a line is."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._overlong = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(self.end())
        self._keep(rest)
        return lines

    def end(self) -> bytes:
        """The line so far; the next one begins."""
        line = b"".join(self._parts)
        if self._overlong:
            line = Overlong(line)
        self._parts, self._size, self._overlong = [], 0, False
        return line

    def _keep(self, piece: bytes) -> None:
        if not piece:
            return
        self._parts.append(piece)
        self._size += len(piece)
        if self._size > MAX_LINE:
            self._overlong = True
            whole = b"".join(self._parts)
            self._parts = [whole[:_ENDS], whole[_ENDS:][-_ENDS:]]
