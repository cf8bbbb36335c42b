"""What lies beside the database: the cache, which must never contradict it, and the pending journal."""

from __future__ import annotations

from pathlib import Path

from memory_mcp.errors import CacheUnavailableError, StorageUnavailableError
from memory_mcp.storage import queries
from memory_mcp.storage.cache import Cache
from memory_mcp.storage.journal import commands_in
from memory_mcp.storage.session import Session
from memory_mcp.storage.unwritable import hindrance_to
from memory_mcp.storage.verify.findings import Finding, Findings, note, slip

# a cached header is as old as itself; these follow from the steps, which are cached one by one
_COUNTED = {"step_count", "error_count"}


class CacheInspection:
    """The cache of a data directory, opened as it is.

    Make it before the snapshot of the store is taken: then nothing that the cache claims to have applied can be newer
    than that. A cache that is missing, from before the last boot or of another store is emptied by the next server,
    and no business of a check.
    """

    def __init__(self, directory: Path, boot_id: str) -> None:
        self._problem = ""
        self._hindrance = ""
        self._applied = 0
        self._cache: Cache | None = None
        if not (directory / "data.mdb").is_file():
            return
        # LMDB itself needs to write, if only to lock
        self._hindrance = hindrance_to(directory / "data.mdb", directory / "lock.mdb")
        if self._hindrance:
            return
        cache = Cache(directory, "", boot_id)
        try:
            if cache.look():
                self._cache = cache
                self._applied = cache.applied()
        except CacheUnavailableError as error:
            self._problem = error.message

    def close(self) -> None:
        """Let go of it."""
        if self._cache is not None:
            self._cache.close()

    def check(self, session: Session, store_id: str, *, quick: bool = False) -> Findings:
        """Whether it can be read, is not ahead of the store, and (not with `quick`) holds what the store holds."""
        if self._hindrance:
            yield note("cache", "cache", f"it was not looked at, because it can only be read: {self._hindrance}")
        if self._problem:
            yield slip("cache", "cache", self._problem)
        if self._cache is None or self._cache.store_id != store_id:
            return
        head = queries.head_position(session)
        if self._applied > head:
            problem = f"it has applied the ledger up to {self._applied}, but the ledger ends at {head}"
            yield slip("cache", "cache", problem)
        elif not quick:
            try:
                yield from self._compare(session, self._cache, head)
            except CacheUnavailableError as error:
                yield slip("cache", "cache", error.message)

    def _compare(self, session: Session, cache: Cache, head: int) -> Findings:
        for namespace, episode_id in cache.names():
            subject = f"{namespace}/{episode_id}"
            cached = cache.episode(namespace, episode_id)
            try:
                stored = queries.episode(session, namespace, episode_id)
            except (TypeError, ValueError):
                # rows that cannot be read are a finding of their own
                continue
            # what is newer than the snapshot cannot be compared
            if cached is None or cached["version"] > head:
                continue
            if stored is None:
                yield slip("cache", subject, "the cache has an episode that the store does not have")
            # what is newer than `applied` the cache does not claim to know
            elif stored["version"] <= self._applied:
                names = [name for name in stored.keys() - _COUNTED if cached.get(name) != stored[name]]
                if names:
                    yield slip("cache", subject, f"the cache differs from the store in: {', '.join(sorted(names))}")


def rebuild_cache(directory: Path, store_id: str, boot_id: str) -> None:
    """Empty the cache; running servers notice and fill it again.

    Raises:
        CacheUnavailableError
    """
    if not directory.exists():
        return
    cache = Cache(directory, store_id, boot_id)
    cache.open()
    try:
        cache.rebuild()
    finally:
        cache.close()


def check_journal(directory: Path) -> tuple[int, list[Finding]]:
    """How many writes wait for the store, and whether they can be read."""
    if not (directory / "data.mdb").is_file():
        return 0, []
    try:
        return len(commands_in(directory)), []
    except StorageUnavailableError as error:
        hint = "Writes that were promised may be in it: keep a copy of the directory before you move it away."
        return 0, [Finding("journal", "error", directory.name, error.message, hint=hint)]
