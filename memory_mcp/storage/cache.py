"""The write-through cache in LMDB, shared by all processes of a machine.

It is disposable: whatever is missing, foreign or damaged is deleted and filled again from the store. A value is
`version ‖ JSON`, where the version is the ledger position that wrote it, and is replaced only by a newer one: two
processes may put in another order than they committed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import lmdb

from memory_mcp.errors import CacheUnavailableError
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage import environment

FORMAT = 1
_VERSION = struct.Struct(">Q")
_META = b"\x00meta"
_APPLIED = b"\x00applied"

HEADER, STEP, COUNT, SHOWN, RECEIPTS, SNAPSHOT = b"e", b"s", b"n", b"r", b"R", b"p"

Put = tuple[bytes, int, bytes]


def key(kind: bytes, namespace: str, subject: str, number: int = 0) -> bytes:
    """A key of fixed length, whatever the caller calls the subject: `kind ‖ hash(namespace, subject) ‖ number`."""
    digest = hashlib.blake2b(f"{namespace}\x1f{subject}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return kind + digest + _VERSION.pack(number)


def puts_for(entry: LedgerEntry) -> list[Put]:
    """What an entry of the ledger changes in the cache."""
    if entry.payload is None or entry.subject_kind != "episode":
        return []
    data = entry.data()
    puts: list[Put] = []

    def put(kind: bytes, value: Any, number: int = 0) -> None:
        puts.append((key(kind, entry.namespace, entry.subject_id, number), entry.position, dumps(value).encode()))

    if entry.operation == "episode.step_added":
        step = data["step"]
        put(STEP, step, step["step_number"])
        put(COUNT, step["step_number"])
    elif entry.operation == "memory.shown":
        put(SHOWN, data["receipts"], entry.position)
    elif "episode" in data:
        put(HEADER, data["episode"])
        if entry.operation == "episode.created":
            put(COUNT, 0)
        if "receipts" in data:
            put(RECEIPTS, data["receipts"])
    return puts


def puts_for_episode(episode: Json) -> list[Put]:
    """A whole episode as it was read from the store, for filling the cache on a miss."""
    namespace, subject, version = episode["namespace"], episode["episode_id"], episode["version"]
    header = {name: value for name, value in episode.items() if name not in ("steps", "receipts")}
    puts = [
        (key(HEADER, namespace, subject), version, dumps(header).encode()),
        (key(COUNT, namespace, subject), version, dumps(len(episode["steps"])).encode()),
        (key(RECEIPTS, namespace, subject), version, dumps(episode["receipts"]).encode()),
    ]
    for step in episode["steps"]:
        puts.append((key(STEP, namespace, subject, step["step_number"]), version, dumps(step).encode()))
    return puts


class Cache:
    """The cache of one data directory.

    All methods may raise `CacheUnavailableError`; none leaves a transaction open.

    Args:
        directory: where the environment lives; created if missing.
        store_id: identity of the store whose values it may hold; a cache of another store is emptied. Empty while
            the store cannot be opened: then whatever this directory's cache holds is taken.
        boot_id: identity of this boot of the machine. Values are not synced to disk, so after a crash of the
            machine the file cannot be trusted and is emptied.
        entries: decoded values kept in this process.
    """

    def __init__(
        self, directory: Path, store_id: str, boot_id: str, *, map_size: int = 1 << 28, entries: int = 4096
    ) -> None:
        self.directory = directory
        self.hits = 0
        self.misses = 0
        self.rebuilds = 0
        self.store_id = store_id
        self._boot_id = boot_id
        self._map_size = map_size
        self._decoded: OrderedDict[bytes, tuple[int, Any]] = OrderedDict()
        self._limit = entries
        self._environment: lmdb.Environment | None = None
        self._identity_on_disk = (0, 0)
        # a put runs on another thread; the environment must not be closed under it
        self._writing = threading.Lock()

    def open(self) -> None:
        """Open it; a damaged or foreign one is deleted and made anew."""
        try:
            self._attach()
            with self._env.begin() as txn:
                known = txn.get(_META)
        except lmdb.Error:
            self.rebuild()
            return
        except OSError as error:
            raise CacheUnavailableError(f"cannot open the cache: {error}") from error
        held = json.loads(known) if known else {}
        if not self.store_id and held.get("boot") == self._boot_id and held.get("format") == FORMAT:
            self.store_id = held["store"]
        if known != self._identity():
            self.rebuild()

    def rebuild(self) -> None:
        """Delete the files and start empty. Other processes notice the new file at their next `refresh`."""
        self.close()
        self.rebuilds += 1
        try:
            if self.directory.is_dir() and not self.directory.is_symlink():
                shutil.rmtree(self.directory)
            else:
                self.directory.unlink(missing_ok=True)
            self._attach()
            with self._env.begin(write=True) as txn:
                txn.put(_META, self._identity())
        except (lmdb.Error, OSError) as error:
            raise CacheUnavailableError(f"cannot rebuild the cache: {error}") from error

    def refresh(self) -> None:
        """Follow another process that has rebuilt the cache, and free the slots of readers that died."""
        try:
            if environment.file_identity(self.directory) != self._identity_on_disk:
                self.close()
                self.open()
            self._env.reader_check()
        except (lmdb.Error, OSError) as error:
            raise CacheUnavailableError(f"cannot refresh the cache: {error}") from error

    def close(self) -> None:
        if self._environment is not None:
            if not self._writing.acquire(timeout=1.0):
                raise CacheUnavailableError("a write to the cache does not end")
            try:
                environment.release(self._environment)
                self._environment = None
            finally:
                self._writing.release()
        self._decoded.clear()

    def applied(self) -> int:
        """The ledger position up to which everything has been put."""
        try:
            with self._env.begin() as txn:
                value = txn.get(_APPLIED)
        except lmdb.Error as error:
            raise CacheUnavailableError(f"cannot read the cache: {error}") from error
        return int(_VERSION.unpack(value)[0]) if value else 0

    def apply(self, entries: list[LedgerEntry]) -> None:
        """Put the after-images of entries that lie in one row of the ledger.

        The applied position advances only when nothing is missing in between.
        """
        if entries:
            puts = [put for entry in entries for put in puts_for(entry)]
            self.put(puts, applied=(entries[0].position, entries[-1].position))

    def put(self, puts: Iterable[Put], applied: tuple[int, int] | None = None) -> None:
        """Put values where they are newer than what is there. `applied` is the span of positions they come from."""
        batch = list(puts)
        for attempt in (1, 2, 3):
            try:
                with self._writing:
                    self._put(batch, applied)
                return
            except lmdb.MapFullError:
                self._grow(attempt)
            except lmdb.MapResizedError:
                self._env.set_mapsize(0)
            except lmdb.Error as error:
                raise CacheUnavailableError(f"cannot write the cache: {error}") from error
        raise CacheUnavailableError("the cache is full")

    def skip_to(self, position: int) -> None:
        """Declare everything up to a position as known: an empty cache is complete, reads fill it."""
        try:
            with self._env.begin(write=True) as txn:
                txn.put(_APPLIED, _VERSION.pack(position))
        except lmdb.Error as error:
            raise CacheUnavailableError(f"cannot write the cache: {error}") from error

    def get(self, cache_key: bytes) -> tuple[int, Any] | None:
        """`(version, value)`, or None. The decoded value is shared: callers do not change it."""
        try:
            with self._env.begin(buffers=True) as txn:
                return self._decode(cache_key, txn.get(cache_key))
        except lmdb.Error as error:
            raise CacheUnavailableError(f"cannot read the cache: {error}") from error

    def episode(self, namespace: str, episode_id: str) -> Json | None:
        """A whole episode, or None where a part of it is missing."""
        try:
            with self._env.begin(buffers=True) as txn:
                found = self._assemble(txn, namespace, episode_id)
        except lmdb.Error as error:
            raise CacheUnavailableError(f"cannot read the cache: {error}") from error
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def scan_headers(self, namespace: str, limit: int) -> list[Json]:
        """Headers of cached episodes of a namespace, newest first: what can be searched when the store is out."""
        found = []
        try:
            with self._env.begin(buffers=True) as txn, txn.cursor() as cursor:
                if cursor.set_range(HEADER):
                    for cache_key, value in cursor:
                        if bytes(cache_key[:1]) != HEADER:
                            break
                        header = json.loads(bytes(value[8:]))
                        if header["namespace"] == namespace:
                            found.append(header)
        except lmdb.Error as error:
            raise CacheUnavailableError(f"cannot read the cache: {error}") from error
        found.sort(key=lambda header: header["version"], reverse=True)
        return found[:limit]

    def size(self) -> Json:
        """Entries and bytes, for health and metrics."""
        try:
            stat, info = self._env.stat(), self._env.info()
        except lmdb.Error as error:
            raise CacheUnavailableError(f"cannot read the cache: {error}") from error
        return {"entries": stat["entries"], "bytes": (info["last_pgno"] + 1) * stat["psize"], "limit": info["map_size"]}

    @property
    def _env(self) -> lmdb.Environment:
        if self._environment is None:
            raise CacheUnavailableError("the cache is not open")
        return self._environment

    def _identity(self) -> bytes:
        return dumps({"boot": self._boot_id, "format": FORMAT, "store": self.store_id}).encode()

    def _attach(self) -> None:
        self._environment = environment.acquire(self.directory, map_size=self._map_size, sync=False)
        self._identity_on_disk = environment.file_identity(self.directory)

    def _put(self, batch: list[Put], applied: tuple[int, int] | None) -> None:
        with self._env.begin(write=True) as txn:
            for cache_key, version, payload in batch:
                present = txn.get(cache_key)
                if present is None or _VERSION.unpack_from(present)[0] < version:
                    txn.put(cache_key, _VERSION.pack(version) + payload)
            if applied is not None:
                known = txn.get(_APPLIED)
                if (_VERSION.unpack(known)[0] if known else 0) == applied[0] - 1:
                    txn.put(_APPLIED, _VERSION.pack(applied[1]))

    def _grow(self, attempt: int) -> None:
        # a reader that was killed pins pages; only when that does not help is more room needed
        if attempt > 1 or not self._env.reader_check():
            self._env.set_mapsize(self._env.info()["map_size"] * 2)

    def _decode(self, cache_key: bytes, raw: Any) -> tuple[int, Any] | None:
        if raw is None:
            return None
        version = _VERSION.unpack_from(raw)[0]
        known = self._decoded.get(cache_key)
        if known is not None and known[0] == version:
            self._decoded.move_to_end(cache_key)
            return known
        fresh = (int(version), json.loads(bytes(raw[8:])))
        self._decoded[cache_key] = fresh
        if len(self._decoded) > self._limit:
            self._decoded.popitem(last=False)
        return fresh

    def _assemble(self, txn: Any, namespace: str, episode_id: str) -> Json | None:
        def read(kind: bytes) -> tuple[int, Any] | None:
            cache_key = key(kind, namespace, episode_id)
            return self._decode(cache_key, txn.get(cache_key))

        header, count = read(HEADER), read(COUNT)
        if header is None or count is None:
            return None
        steps = self._range(txn, key(STEP, namespace, episode_id))
        if len(steps) != count[1]:
            return None
        receipts = read(RECEIPTS)
        shown = self._range(txn, key(SHOWN, namespace, episode_id))
        if receipts is not None:
            shown = [(version, value) for version, value in shown if version > receipts[0]]
        versions = [header[0], count[0], *(version for version, _ in shown)]
        return {
            **cast("Json", header[1]),
            "version": max(versions),
            "steps": [value for _, value in steps],
            "receipts": [*(receipts[1] if receipts else []), *(item for _, value in shown for item in value)],
        }

    def _range(self, txn: Any, first: bytes) -> list[tuple[int, Any]]:
        prefix = first[:-8]
        found: list[tuple[int, Any]] = []
        with txn.cursor() as cursor:
            if cursor.set_range(first):
                for cache_key, value in cursor:
                    name = bytes(cache_key)
                    if not name.startswith(prefix):
                        break
                    item = self._decode(name, value)
                    assert item is not None
                    found.append(item)
        return found
