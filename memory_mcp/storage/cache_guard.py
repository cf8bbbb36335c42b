"""The cache behind its circuit breaker: it may fail in any way, and nobody above has to notice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from memory_mcp.errors import CacheUnavailableError
from memory_mcp.storage.breaker import CircuitBreaker
from memory_mcp.storage.cache import Cache
from memory_mcp.storage.cache_files import CacheDamagedError

T = TypeVar("T")

_log = logging.getLogger(__name__)

# with thirty processes that write, a turn can take its time; one that was stopped never gives it back
_WRITE_SECONDS = 2.0


class CacheGuard:
    """Calls the cache as long as that makes sense, and rebuilds it when its breaker lets a trial through."""

    def __init__(self, cache: Cache, breaker: CircuitBreaker) -> None:
        self._cache = cache
        self._breaker = breaker
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="cache")
        # the newest commit this process knows of that the cache may lack
        self._missed = 0
        # what the log has told of the present trouble
        self._told = ""

    def open(self, store_id: str) -> None:
        """Open the cache for this store, or open it once more because only now it is known which store it is for."""
        if self._cache.file != (0, 0, 0) and self._cache.store_id == store_id:
            return
        try:
            self._cache.open(store_id)
        except CacheUnavailableError as error:
            self._failed(error, hopeless=True)
        else:
            self._told = ""

    def replaced(self, store_id: str) -> None:
        """Forget what is known of the store so far, and open the cache for the one that has taken its place."""
        self._missed = 0
        self.open(store_id)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        try:
            self._cache.close()
        except CacheUnavailableError as error:
            _log.warning("%s", error)

    def ask(self, call: Callable[[], T]) -> T | None:
        """The answer of the cache, or None when it is out of order."""
        if not self._allows():
            return None
        try:
            answer = call()
        except CacheUnavailableError as error:
            self._failed(error)
            return None
        except BaseException:
            self._breaker.release()
            raise
        self._breaker.success()
        return answer

    async def tell(self, call: Callable[[], None]) -> bool:
        """Write to the cache; False when it did not take it.

        On a thread of its own, because a writer of another process that was stopped holds LMDB's lock.
        """
        if not self._allows():
            return False
        try:
            # not `wait_for`, which swallows a cancellation that comes together with the result
            async with asyncio.timeout(_WRITE_SECONDS):
                await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError:
            # whatever is written next would wait behind it
            self._failed(CacheUnavailableError("a write to the cache does not end"), hopeless=True)
            return False
        except CacheUnavailableError as error:
            self._failed(error)
            return False
        except BaseException:
            self._breaker.release()
            raise
        self._breaker.success()
        return True

    def missed(self, position: int) -> None:
        """Note a commit that the cache may lack: of this process, or of another one that a caller was told about."""
        self._missed = max(self._missed, position)

    def behind(self) -> bool:
        """Whether the cache lacks a commit that this process knows of: then it must not answer for the store."""
        if self._missed and (self.ask(self._cache.applied) or 0) >= self._missed:
            self._missed = 0
        return self._missed > 0

    def _allows(self) -> bool:
        trial = self._breaker.state == "half_open"
        if not self._breaker.allow():
            return False
        if trial:
            try:
                self._cache.rebuild()
            except CacheUnavailableError as error:
                self._failed(error)
                return False
            except BaseException:
                self._breaker.release()
                raise
            self._told = ""
        return True

    def _failed(self, error: CacheUnavailableError, *, hopeless: bool = False) -> None:
        if hopeless or isinstance(error, CacheDamagedError):
            self._breaker.trip(error)
        else:
            self._breaker.failure(error)
        # a directory that cannot be written stays so for days
        level = logging.DEBUG if error.message == self._told else logging.WARNING
        _log.log(level, "the cache failed: %s", error)
        self._told = error.message
