"""What is known of requests that bear a key, under a name that tells nothing: the port, and its store in memory.

Plain data, each operation whole: two processes that share a store must not both take themselves for the first.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from cachetools import LRUCache, TTLCache

from codegen_api.following import loop_time
from codegen_api.runs import RunRef

KEPT_SECONDS = 24 * 3600.0


class RequestState(StrEnum):
    UNDER_WAY = "under way"
    UNKNOWN = "unknown"
    """It broke off, and the host may have acted."""
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What is known of a request. Times are in seconds since the epoch.

    ``fingerprint`` tells it from another one under the same key. It came first at ``since``, and is in this ``state``
    from ``at`` on. While it is unknown, the host may still act for ``grace`` seconds. ``note`` is what its sender wrote
    down before the host was asked. What came of it is ``run``, and ``result`` is how that was described then: empty
    when a store has let go of it, because descriptions are large and may be had again.
    """

    fingerprint: str
    state: RequestState
    since: float
    at: float
    grace: float = 0.0
    note: str = ""
    run: RunRef | None = None
    result: bytes = b""


class Records(Protocol):
    """Records by name, each kept for ``KEPT_SECONDS`` at least, but for its ``result``."""

    async def begin(self, name: str, record: RequestRecord) -> RequestRecord | None:
        """Keep ``record`` and return None, unless there is one: then that is returned, and nothing is changed."""
        ...

    async def change(self, name: str, then: RequestRecord, now: RequestRecord) -> bool:
        """Put ``now`` in the place of ``then``; False, and nothing is changed, when something else is there."""
        ...

    async def forget(self, name: str, then: RequestRecord) -> None:
        """Take ``then`` away, if it is there."""
        ...

    async def aclose(self) -> None:
        """Let go of what the store holds."""
        ...


class MemoryRecords:
    """``Records`` for one process: the last ``at_most``, which is more than a host's limit lets one token do in a day
    by far. Their results take ``max_bytes`` at most; those that were not asked for longest are let go first.
    """

    def __init__(self, *, at_most: int = 100_000, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._kept: TTLCache[str, RequestRecord] = TTLCache(at_most, KEPT_SECONDS, timer=loop_time)
        self._results: LRUCache[str, bytes] = LRUCache(max_bytes, getsizeof=len)

    async def begin(self, name: str, record: RequestRecord) -> RequestRecord | None:
        there = self._kept.get(name)
        if there is None:
            self._keep(name, record)
            return None
        return replace(there, result=self._results.get(name, b""))

    async def change(self, name: str, then: RequestRecord, now: RequestRecord) -> bool:
        if self._kept.get(name) != replace(then, result=b""):
            return False
        self._keep(name, now)
        return True

    async def forget(self, name: str, then: RequestRecord) -> None:
        if self._kept.get(name) == replace(then, result=b""):
            del self._kept[name]
            self._results.pop(name, None)

    async def aclose(self) -> None:
        self._kept.clear()
        self._results.clear()

    def _keep(self, name: str, record: RequestRecord) -> None:
        self._kept[name] = replace(record, result=b"")
        self._results.pop(name, None)
        if 0 < len(record.result) <= self._results.maxsize:  # the cache refuses what could never fit
            self._results[name] = record.result
