"""How many requests each caller may make in a minute, where the deployment says so.

Counted by user, whatever token or ticket they come with, and in this process only. The window slides: what was used in
the minute before counts for the part of it that still lies within the last 60 seconds.
"""

import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from codegen_api.identity import Principal

WINDOW = 60
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Left:
    """What came of a request that was counted: whether it is ``granted``, how many of ``quota`` are left, and in how
    many seconds there are more.
    """

    granted: bool
    quota: int
    remaining: int
    seconds: int


class Quota:
    """``per_minute`` requests for each principal. What is kept of one goes two minutes after their last request."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._limit = RateLimitItemPerMinute(per_minute)
        # the exact, moving window of this library asks a thread for each caller it forgets
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def take(self, principal: Principal) -> Left:
        """Count a request of ``principal``; one that is refused does not count."""
        key = repr(principal)  # the library joins parts with slashes, which ids may hold as well
        granted = await self._limiter.hit(self._limit, key)
        more_at, remaining = await self._limiter.get_window_stats(self._limit, key)
        # a whole second on top: at the very moment itself there is no room yet
        seconds = min(max(int(more_at - time.time()), 0) + 1, WINDOW)
        return Left(granted, self._per_minute, remaining, seconds)
