"""How much one of several users may take of what the host allows all who share its token."""

from collections import deque
from collections.abc import Hashable

from codegen_api.pace import CLOCK_MARGIN, RESERVE, WINDOW

LONE_SHARE = 0.75
"""Fraction of a shared limit that one user may take while no other asks for anything."""


class FairShares:
    """Recent use of a shared budget per user. If several use it, each is entitled to an equal share."""

    def __init__(self) -> None:
        self._used: dict[Hashable, deque[float]] = {}

    def used(self, who: Hashable, now: float) -> None:
        """Record one request."""
        self._used.setdefault(who, deque()).append(now)

    def wait(self, who: Hashable, now: float, limit: float) -> float:
        """Seconds until ``who`` is below their share of ``limit``."""
        for name, times in list(self._used.items()):
            while times and times[0] <= now - WINDOW - CLOCK_MARGIN:
                times.popleft()
            if not times:
                del self._used[name]
        share = max(1, int(min(LONE_SHARE, (1 - RESERVE) / len(self._used.keys() | {who})) * limit))
        mine = self._used.get(who, ())
        return 0.0 if len(mine) < share else mine[len(mine) - share] + WINDOW + CLOCK_MARGIN - now
