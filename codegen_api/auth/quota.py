"""Limits requests per user and minute, if configured.

Counted per user, whatever token or ticket they use, in this process only. The window slides: the previous minute's
count is weighted by how much of that minute lies within the last 60 seconds.
"""

import time
from dataclasses import dataclass

from codegen_api.identity import Principal

WINDOW = 60
"""Seconds."""


@dataclass(frozen=True, slots=True)
class QuotaState:
    """Whether a request was ``granted``, how many of the ``quota`` remain, and the ``seconds`` until there are more."""

    granted: bool
    quota: int
    remaining: int
    seconds: int


class Quota:
    """``per_minute`` requests for each principal. A principal's state is dropped two minutes after the last request."""

    def __init__(self, per_minute: int) -> None:
        # imported on demand: few deployments have a quota, and it takes a tenth of the start-up time
        from limits import RateLimitItemPerMinute  # noqa: PLC0415
        from limits.aio.storage import MemoryStorage  # noqa: PLC0415
        from limits.aio.strategies import SlidingWindowCounterRateLimiter  # noqa: PLC0415

        self._per_minute = per_minute
        self._limit = RateLimitItemPerMinute(per_minute)
        # the library's exact moving window starts a thread for each caller that it forgets
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def take(self, principal: Principal) -> QuotaState:
        """Count a request of ``principal``. Refused requests do not count."""
        key = repr(principal)  # the library joins parts with slashes, which ids may contain
        granted = await self._limiter.hit(self._limit, key)
        more_at, remaining = await self._limiter.get_window_stats(self._limit, key)
        # rounded up by a second: at that very moment there is no room yet
        seconds = min(max(int(more_at - time.time()), 0) + 1, WINDOW)
        return QuotaState(granted, self._per_minute, remaining, seconds)
