"""Outcomes in the memory of one process."""

import asyncio

from cachetools import TTLCache

from codegen_api.outcomes import KEPT_SECONDS, Outcome


class MemoryOutcomes:
    """``Outcomes`` for one process: the last ``at_most``, which is more than a host's limit lets one token do in a day
    by far.
    """

    def __init__(self, *, at_most: int = 100_000) -> None:
        self._kept: TTLCache[str, Outcome] = TTLCache(at_most, KEPT_SECONDS, timer=_now)

    async def begin(self, name: str, outcome: Outcome) -> Outcome | None:
        there = self._kept.get(name)
        if there is None:
            self._kept[name] = outcome
        return there

    async def change(self, name: str, then: Outcome, now: Outcome) -> bool:
        if self._kept.get(name) != then:
            return False
        self._kept[name] = now
        return True

    async def forget(self, name: str, then: Outcome) -> None:
        if self._kept.get(name) == then:
            del self._kept[name]

    async def aclose(self) -> None:
        self._kept.clear()


def _now() -> float:
    """The event loop's time."""
    return asyncio.get_running_loop().time()
