"""The rows of a damaged database file, page by page, without SQLite and without its trees (sqlite.org/fileformat.html).

SQLite finds a row through the pages above it, so that one damaged page hides all below. A leaf page tells by itself
which rows it holds; only a long row needs others, its overflow pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

Record = tuple[Any, ...]

_MAGIC = b"SQLite format 3\x00"
_LEAF = 0x0D
_DEFAULT_PAGE = 4096
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_WAL_MAGIC = (0x377F0682, 0x377F0683)


class Pages:
    """A database file with its write-ahead log, as bytes.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        log = path.with_name(f"{path.name}-wal")
        self._log = log.read_bytes() if log.is_file() else b""
        self.size = self._page_size()
        self._frames = self._committed()
        # the bytes at the end of each page that are not SQLite's; where the header is lost, there are none
        first = self.page(1)
        self._usable = self.size - (first[20] if first.startswith(_MAGIC) else 0)

    @property
    def count(self) -> int:
        """Number of pages."""
        return max(-(-len(self._data) // self.size), max(self._frames, default=0))

    def page(self, number: int) -> bytes:
        """A page as the last commit left it; shorter, or empty, where the file ends early."""
        if number in self._frames:
            return self._frames[number]
        return self._data[(number - 1) * self.size : number * self.size]

    def rows(self, columns: set[int]) -> Iterator[tuple[int, Record]]:
        """`(rowid, values)` of all readable rows with so many columns, in no order; tables are not told apart."""
        free = self._free()
        for number in range(1, self.count + 1):
            if number not in free:
                yield from self._rows_of(self.page(number), 100 if number == 1 else 0, columns)

    def _page_size(self) -> int:
        if self._data.startswith(_MAGIC):
            size = int.from_bytes(self._data[16:18])
        elif self._log:
            size = int.from_bytes(self._log[8:12])
        else:
            size = _DEFAULT_PAGE
        size = 65_536 if size == 1 else size
        return size if 512 <= size <= 65_536 and size & (size - 1) == 0 else _DEFAULT_PAGE

    def _committed(self) -> dict[int, bytes]:
        """Pages in the log, up to its last commit."""
        if len(self._log) < 32 or int.from_bytes(self._log[:4]) not in _WAL_MAGIC:
            return {}
        salts = self._log[16:24]
        frames: dict[int, bytes] = {}
        waiting: dict[int, bytes] = {}
        for start in range(32, len(self._log) - 24 - self.size + 1, 24 + self.size):
            number, length = struct.unpack_from(">II", self._log, start)
            if self._log[start + 8 : start + 16] != salts:
                break
            waiting[number] = self._log[start + 24 : start + 24 + self.size]
            if length:
                frames |= waiting
                waiting = {}
        return frames

    def _free(self) -> set[int]:
        """Pages that hold nothing any more, as far as that can be told: what lies there was deleted."""
        free: set[int] = set()
        first = self.page(1)
        trunk = int.from_bytes(first[32:36]) if first.startswith(_MAGIC) else 0
        while 1 < trunk <= self.count and trunk not in free:
            free.add(trunk)
            page = self.page(trunk)
            leaves = min(int.from_bytes(page[4:8]), self._usable // 4 - 2)
            free.update(int.from_bytes(page[at : at + 4]) for at in range(8, 8 + 4 * leaves, 4))
            trunk = int.from_bytes(page[:4])
        return free

    def _rows_of(self, page: bytes, start: int, columns: set[int]) -> Iterator[tuple[int, Record]]:
        if len(page) <= start + 8 or page[start] != _LEAF:
            return
        for cell in range(int.from_bytes(page[start + 3 : start + 5])):
            at = start + 8 + 2 * cell
            with suppress(ValueError, IndexError, struct.error):
                length, at = _varint(page, int.from_bytes(page[at : at + 2]))
                rowid, at = _varint(page, at)
                record = self._record(page, at, length, columns)
                if record is not None:
                    yield _signed(rowid), record

    def _record(self, page: bytes, at: int, length: int, columns: set[int]) -> Record | None:
        header_length, behind = _varint(page, at)
        # the header of a record lies on its first page, unless it has hundreds of columns
        types: list[int] = []
        end = at + header_length
        while behind < end and len(types) <= max(columns):
            kind, behind = _varint(page, behind)
            types.append(kind)
        if len(types) not in columns or behind != end:
            return None
        body = self._payload(page, at, length)[header_length:]
        return tuple(_values(types, body))

    def _payload(self, page: bytes, at: int, length: int) -> bytes:
        usable = self._usable
        if length <= usable - 35:
            return _exactly(page[at : at + length], length)
        least = (usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (usable - 4)
        local = local if local <= usable - 35 else least
        parts, missing = [page[at : at + local]], length - local
        following = int.from_bytes(page[at + local : at + local + 4])
        while missing > 0:
            if not 1 < following <= self.count:
                raise ValueError("an overflow page is missing")
            overflow = self.page(following)
            parts.append(overflow[4 : 4 + min(missing, usable - 4)])
            missing -= usable - 4
            following = int.from_bytes(overflow[:4])
        return _exactly(b"".join(parts), length)


def _values(types: list[int], body: bytes) -> Iterator[Any]:
    at = 0
    for kind in types:
        if kind == 0:
            yield None
        elif kind in _INTEGERS:
            width = _INTEGERS[kind]
            yield int.from_bytes(_exactly(body[at : at + width], width), signed=True)
            at += width
        elif kind == 7:
            yield struct.unpack_from(">d", body, at)[0]
            at += 8
        elif kind in (8, 9):
            yield kind - 8
        elif kind >= 12:
            width = (kind - 12) // 2
            content = _exactly(body[at : at + width], width)
            yield content.decode() if kind % 2 else content
            at += width
        else:
            raise ValueError("no such type")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for width in range(9):
        byte = data[at + width]
        if width == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + width + 1
    raise AssertionError


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise ValueError("the row is not whole")
    return data
