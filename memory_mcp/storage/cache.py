"""The write-through cache in LMDB, shared by all processes of a machine.

It is disposable: whatever is missing, foreign or damaged is deleted and filled again from the store. A value is
`version ‖ checksum ‖ JSON`, where the version is the ledger position that wrote it, and is replaced only by a newer
one: two processes may put in another order than they committed. LMDB does not notice when bytes of its file change;
the checksum does, so that a damaged value is never told.

An empty cache is told where the ledger stands (its floor) before it takes anything. What comes from below the floor,
late, may lack changes that were lost with the cache before, and is ignored.
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from zlib import crc32

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage.cache_files import CacheFiles
from memory_mcp.storage.cache_layout import COUNT, HEADER, RECEIPTS, SHOWN, STEP, Put, key, puts_for, puts_for_episode
from memory_mcp.storage.operations import in_order

_VERSION = struct.Struct(">Q")
_HEAD = struct.Struct(">QI")
_FLOOR = b"\x00floor"
_APPLIED = b"\x00applied"


class Cache:
    """The cache of one data directory.

    All methods may raise `CacheUnavailableError`. Writing may have to wait for another process and belongs on a thread
    of its own; everything else belongs on one thread.

    Args:
        directory, store_id, boot_id: see `CacheFiles`.
        entries: decoded values kept in this process.
    """

    def __init__(
        self, directory: Path, store_id: str, boot_id: str, *, map_size: int = 1 << 28, entries: int = 4096
    ) -> None:
        self.hits = 0
        self.misses = 0
        self._files = CacheFiles(directory, store_id, boot_id, map_size)
        self._decoded: OrderedDict[bytes, tuple[int, Any]] = OrderedDict()
        self._limit = entries

    def open(self, store_id: str = "") -> None:
        """Open it, or open it once more, for a store if one is named; a damaged or foreign one is made anew."""
        self._files.store_id = store_id or self._files.store_id
        self._decoded.clear()
        self._files.open()

    def look(self) -> bool:
        """Open it as it is, for an inspection; False where it is none of this boot and store."""
        return self._files.look()

    def names(self) -> list[tuple[str, str]]:
        """`(namespace, episode_id)` of every episode whose header is cached."""

        return [(header["namespace"], header["episode_id"]) for header in self._files.read(_headers)]

    def rebuild(self) -> None:
        """Start empty. Other processes notice at their next `refresh`."""
        self._decoded.clear()
        self._files.rebuild()

    def refresh(self) -> None:
        """Follow another process that has rebuilt the cache."""
        before = self._files.identity
        self._files.follow()
        if self._files.identity != before:
            self._decoded.clear()

    def close(self) -> None:
        self._decoded.clear()
        self._files.close()

    @property
    def store_id(self) -> str:
        """The store whose values this cache holds."""
        return self._files.store_id

    @property
    def file(self) -> tuple[int, int, int]:
        """Which file is open; it changes when the cache was rebuilt, by whomever. Zeros when none is."""
        # a new file often gets the number of the one that was deleted for it
        device, number = self._files.identity
        return (device, number, self._files.openings if number else 0)

    @property
    def rebuilds(self) -> int:
        """How often this process has made the cache anew."""
        return self._files.rebuilds

    def size(self) -> Json:
        """Entries and bytes, for health and metrics."""
        return self._files.size()

    def started(self) -> bool:
        """Whether it takes and gives values yet."""
        return self._files.read(_floor) is not None

    def start(self, position: int) -> None:
        """Tell an empty cache where the ledger stands; from there on it must hear of every entry."""

        def write(txn: Any) -> None:
            if _floor(txn) is None:
                txn.put(_FLOOR, _VERSION.pack(position))

        self._files.write(write)

    def applied(self) -> int:
        """The ledger position up to which everything is known: here, or only to the store."""
        return self._files.read(_applied)

    def apply(self, entries: list[LedgerEntry]) -> None:
        """Put the after-images of entries that lie in one row of the ledger.

        The applied position advances only when nothing is missing in between.
        """
        if not entries:
            return
        first, last = entries[0].position, entries[-1].position
        puts = [put for entry in entries for put in puts_for(entry)]

        def write(txn: Any) -> None:
            floor = _floor(txn)
            if floor is None:
                return
            _put(txn, [put for put in puts if put[1] > floor])
            if first - 1 <= _applied(txn) < last:
                txn.put(_APPLIED, _VERSION.pack(last))

        self._files.write(write)

    def fill(self, episode: Json, position: int) -> None:
        """Put a whole episode as the store told it when its ledger stood at `position`."""
        puts = puts_for_episode(episode)

        def write(txn: Any) -> None:
            floor = _floor(txn)
            if floor is not None and position >= floor:
                _put(txn, puts)

        self._files.write(write)

    def episode(self, namespace: str, episode_id: str) -> Json | None:
        """A whole episode, or None where a part of it is missing. Parts of it are shared: callers change nothing."""
        found = self._files.read(lambda txn: self._assemble(txn, namespace, episode_id))
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def scan_headers(self, namespace: str, limit: int) -> list[Json]:
        """Headers of cached episodes of a namespace, newest first: what can be searched when the store is out."""

        found = [header for header in self._files.read(_headers) if header["namespace"] == namespace]
        found.sort(key=lambda header: header["version"], reverse=True)
        return found[:limit]

    def _assemble(self, txn: Any, namespace: str, episode_id: str) -> Json | None:
        def read(kind: bytes) -> tuple[int, Any] | None:
            cache_key = key(kind, namespace, episode_id)
            raw = txn.get(cache_key)
            return None if raw is None else self._decode(cache_key, raw)

        def read_all(kind: bytes) -> list[tuple[int, Any]]:
            prefix = key(kind, namespace, episode_id)[:-8]
            found = (self._decode(name, raw) for name, raw in _starting_with(txn, prefix))
            return [(version, value) for version, value in found if value is not None]

        if _floor(txn) is None:
            return None
        header, count, receipts = read(HEADER), read(COUNT), read(RECEIPTS)
        if header is None or header[1] is None or count is None or receipts is None:
            return None
        steps = read_all(STEP)
        if len(steps) != count[1]:
            return None
        shown = [(version, value) for version, value in read_all(SHOWN) if version > receipts[0]]
        return {
            **cast("Json", header[1]),
            "version": max(header[0], count[0], receipts[0], *(version for version, _ in shown)),
            "steps": [value for _, value in steps],
            "receipts": in_order([*receipts[1], *(item for _, value in shown for item in value)]),
        }

    def _decode(self, cache_key: bytes, raw: Any) -> tuple[int, Any]:
        version = _VERSION.unpack_from(raw)[0]
        known = self._decoded.get(cache_key)
        if known is not None and known[0] == version:
            self._decoded.move_to_end(cache_key)
            return known
        fresh = (int(version), json.loads(_unsealed(cache_key, raw)))
        self._decoded[cache_key] = fresh
        if len(self._decoded) > self._limit:
            self._decoded.popitem(last=False)
        return fresh


def sealed(cache_key: bytes, version: int, payload: bytes) -> bytes:
    """A value as it is stored: it fits only this key and this version."""
    return _HEAD.pack(version, crc32(payload, crc32(cache_key + _VERSION.pack(version)))) + payload


def _unsealed(cache_key: bytes, raw: Any) -> bytes:
    payload = bytes(raw[_HEAD.size :])
    if sealed(cache_key, _VERSION.unpack_from(raw)[0], payload)[: _HEAD.size] != bytes(raw[: _HEAD.size]):
        raise ValueError("a value is not what was written")
    return payload


def _headers(txn: Any) -> list[Json]:
    headers = (json.loads(_unsealed(name, value)) for name, value in _starting_with(txn, HEADER))
    return [header for header in headers if header is not None]


def _floor(txn: Any) -> int | None:
    value = txn.get(_FLOOR)
    return None if value is None else int(_VERSION.unpack(value)[0])


def _applied(txn: Any) -> int:
    value = txn.get(_APPLIED)
    return int(_VERSION.unpack(value)[0]) if value else _floor(txn) or 0


def _put(txn: Any, puts: Iterable[Put]) -> None:
    for cache_key, version, payload in puts:
        present = txn.get(cache_key)
        if present is None or _VERSION.unpack_from(present)[0] < version:
            txn.put(cache_key, sealed(cache_key, version, payload))


def _starting_with(txn: Any, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
    with txn.cursor() as cursor:
        if cursor.set_range(prefix):
            for name, value in cursor:
                if bytes(name[: len(prefix)]) != prefix:
                    return
                yield bytes(name), value
