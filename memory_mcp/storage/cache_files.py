"""The cache's files: opened, recognised, and deleted and made anew where they are missing, foreign or damaged."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from memory_mcp.errors import CacheUnavailableError
from memory_mcp.records.base import dumps
from memory_mcp.storage import environment
from memory_mcp.storage.environment import Environment
from memory_mcp.storage.filelock import FileLock

T = TypeVar("T")

FORMAT = 3
_META = b"\x00meta"
_TURN_SECONDS = 2.0

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
    # what decoding bytes may raise that none of us has written
    ValueError,
    LookupError,
    TypeError,
    struct.error,
)


class CacheDamagedError(CacheUnavailableError):
    """What lies in the cache cannot be read; no further call can cure that."""


class CacheFiles:
    """An LMDB environment that may be lost at any time. All methods may raise `CacheUnavailableError`.

    Args:
        directory: where it lives; created if missing.
        store_id: identity of the store whose values it may hold; the environment of another store is emptied. Empty
            while the store cannot be opened: then whatever this directory holds is taken.
        boot_id: identity of this boot of the machine. Nothing is synced to disk, so after a crash of the machine the
            file cannot be trusted and is emptied.
    """

    def __init__(self, directory: Path, store_id: str, boot_id: str, map_size: int) -> None:
        self.directory = directory
        self.rebuilds = 0
        self.openings = 0
        self.store_id = store_id
        self._boot_id = boot_id
        self._map_size = map_size
        self._environment: Environment | None = None
        self._bytes = 0

    @property
    def identity(self) -> tuple[int, int]:
        """Which file is open; it changes when it was made anew, by whomever. Zeros when none is."""
        return self._environment.file if self._environment is not None else (0, 0)

    def open(self) -> None:
        """Open them, or open them once more."""
        with self._changing():
            self._detach()
            try:
                self._attach()
                known = self._recognise()
            except (lmdb.Error, OSError, *_DAMAGE):
                known = False
            if not known:
                self._make_anew()

    def look(self) -> bool:
        """Open what is there, as it is; False, and closed, where the next `open` would make it anew."""
        with _translated("open"):
            self._attach()
            env = self._env
            with env.mapped, env.lmdb.begin() as txn:
                known = txn.get(_META)
            held = json.loads(known) if known else {}
            self.store_id = self.store_id or str(held.get("store", ""))
            if known == self._signature():
                return True
            self._detach()
            return False

    def rebuild(self) -> None:
        """Delete them and start empty. Other processes notice the new file at their next `follow`."""
        if environment.identify(self.directory) != self.identity:
            # another process was faster
            self.open()
            return
        with self._changing():
            self._make_anew()

    def follow(self) -> None:
        """Open what another process has made anew, and free the slots of readers that died."""
        env = self._env
        try:
            stat = (self.directory / "data.mdb").stat()
        except OSError:
            self.open()
            return
        # a file that has shrunk must not be read any more: that kills the process (SIGBUS)
        if (stat.st_dev, stat.st_ino) != env.file or stat.st_size < self._bytes:
            self.open()
            return
        self._bytes = stat.st_size
        with _translated("refresh"):
            env.lmdb.reader_check()

    def close(self) -> None:
        with _translated("close"):
            self._detach()

    def read(self, work: Callable[[Any], T]) -> T:
        """Run `work` with a reading transaction; what it returns must not refer to the transaction's memory."""
        env = self._env
        with _translated("read"):
            try:
                with env.mapped, env.lmdb.begin(buffers=True) as txn:
                    return work(txn)
            except lmdb.MapResizedError:
                # another process has given the map more room
                env.resize(0)
                with env.mapped, env.lmdb.begin(buffers=True) as txn:
                    return work(txn)

    def write(self, work: Callable[[Any], None]) -> None:
        """Run `work` with a writing transaction; it may run several times, until there is room enough."""
        env = self._env
        with _translated("write"):
            for attempt in (1, 2, 3):
                try:
                    with env.writing, env.lmdb.begin(write=True) as txn:
                        work(txn)
                    return
                except lmdb.MapFullError:
                    # a reader that was killed pins pages; only when that does not help is more room needed
                    if attempt > 1 or not env.lmdb.reader_check():
                        env.resize(env.lmdb.info()["map_size"] * 2)
                except lmdb.MapResizedError:
                    env.resize(0)
            raise CacheUnavailableError("the cache is full")

    def size(self) -> dict[str, int]:
        """Entries and bytes, for health and metrics."""
        env = self._env
        with _translated("read"), env.mapped:
            stat, info = env.lmdb.stat(), env.lmdb.info()
        return {"entries": stat["entries"], "bytes": (info["last_pgno"] + 1) * stat["psize"], "limit": info["map_size"]}

    @property
    def _env(self) -> Environment:
        if self._environment is None:
            raise CacheUnavailableError("the cache is not open")
        return self._environment

    @contextmanager
    def _changing(self) -> Iterator[None]:
        # were the files deleted while another process opens them, each could lock another lock file over one data file
        with _translated("open"):
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.directory.with_name(f"{self.directory.name}.lock"))
            try:
                with lock.held(_TURN_SECONDS) as mine:
                    if not mine:
                        raise CacheUnavailableError("another process does not let go of the cache's files")
                    yield
            finally:
                lock.close()

    def _attach(self) -> None:
        self._environment = environment.acquire(self.directory, map_size=self._map_size, sync=False)
        self._bytes = (self.directory / "data.mdb").stat().st_size
        self.openings += 1

    def _detach(self) -> None:
        if self._environment is not None:
            environment.release(self._environment)
            self._environment = None

    def _recognise(self) -> bool:
        env = self._env
        with env.mapped, env.lmdb.begin() as txn:
            known = txn.get(_META)
        if known is None and not env.lmdb.stat()["entries"]:
            self._sign()
            return True
        held = json.loads(known) if known else {}
        if not self.store_id and held.get("boot") == self._boot_id and held.get("format") == FORMAT:
            self.store_id = held["store"]
        return known == self._signature()

    def _make_anew(self) -> None:
        self._detach()
        self.rebuilds += 1
        if self.directory.is_dir() and not self.directory.is_symlink():
            shutil.rmtree(self.directory)
        else:
            self.directory.unlink(missing_ok=True)
        self._attach()
        self._sign()

    def _sign(self) -> None:
        env = self._env
        with env.writing, env.lmdb.begin(write=True) as txn:
            txn.put(_META, self._signature())

    def _signature(self) -> bytes:
        return dumps({"boot": self._boot_id, "format": FORMAT, "store": self.store_id}).encode()


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise CacheDamagedError(f"cannot {doing} the cache, it is damaged: {error}") from error
    except (lmdb.Error, OSError) as error:
        raise CacheUnavailableError(f"cannot {doing} the cache: {error}") from error
