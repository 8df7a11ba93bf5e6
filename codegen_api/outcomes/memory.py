"""Outcomes in the memory of one process."""

import asyncio
from dataclasses import replace

from cachetools import LRUCache, TTLCache

from codegen_api.outcomes import KEPT_SECONDS, Outcome


class MemoryOutcomes:
    """``Outcomes`` for one process: the last ``at_most``, which is more than a host's limit lets one token do in a day
    by far. Their results take ``max_bytes`` at most; those that were not asked for longest are let go first.
    """

    def __init__(self, *, at_most: int = 100_000, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._kept: TTLCache[str, Outcome] = TTLCache(at_most, KEPT_SECONDS, timer=_now)
        self._results: LRUCache[str, bytes] = LRUCache(max_bytes, getsizeof=len)

    async def begin(self, name: str, outcome: Outcome) -> Outcome | None:
        there = self._kept.get(name)
        if there is None:
            self._keep(name, outcome)
            return None
        return replace(there, result=self._results.get(name, b""))

    async def change(self, name: str, then: Outcome, now: Outcome) -> bool:
        if self._kept.get(name) != replace(then, result=b""):
            return False
        self._keep(name, now)
        return True

    async def forget(self, name: str, then: Outcome) -> None:
        if self._kept.get(name) == replace(then, result=b""):
            del self._kept[name]
            self._results.pop(name, None)

    async def aclose(self) -> None:
        self._kept.clear()
        self._results.clear()

    def _keep(self, name: str, outcome: Outcome) -> None:
        self._kept[name] = replace(outcome, result=b"")
        self._results.pop(name, None)
        if 0 < len(outcome.result) <= self._results.maxsize:  # the cache refuses what could never fit
            self._results[name] = outcome.result


def _now() -> float:
    """The event loop's time."""
    return asyncio.get_running_loop().time()
