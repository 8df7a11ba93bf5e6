"""Sharing a budget: fair shares for the users of one token, and the port to budgets shared by all instances."""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from codegen_api.pace import CLOCK_MARGIN, RESERVE, WINDOW, BudgetStanding

LONE_SHARE = 0.75
"""Fraction of a shared limit that one user may take while no other uses it."""


class FairShares:
    """Recent use of a shared budget per user. If several use it, each is entitled to an equal share."""

    def __init__(self) -> None:
        self._used: dict[Hashable, deque[float]] = {}

    def used(self, who: Hashable, now: float) -> None:
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


@dataclass(slots=True)
class Usage:
    """One instance's report of its requests with one credential.

    ``answered`` and ``read`` are the requests answered since the last report, all of them and those of reads;
    ``under_way`` and ``reading`` those without an answer yet. ``told`` is what the host said is left, and for how many
    seconds. ``refused``: a read was refused, with this ``retry_after``. ``accepted``: a read was accepted. ``waiting``
    reads are queued; one of them is ``late``. ``wanted``: this asks for permission to begin one. ``known``: there was
    another report within the last minute.
    """

    answered: int = 0
    read: int = 0
    under_way: int = 0
    reading: int = 0
    told: tuple[int, float] | None = None
    refused: bool = False
    retry_after: float | None = None
    accepted: bool = False
    waiting: int = 0
    late: bool = False
    wanted: bool = False
    known: bool = False


class CommonBudgets(Protocol):
    """Budgets of ``limit`` requests a minute, by the digest of their credential."""

    listeners: list[Callable[[], None]]
    """Called when ``usable`` has changed, or the budgets have lost their past."""

    @property
    def usable(self) -> bool:
        """Whether they can be reached now."""

    @property
    def instances(self) -> int:
        """The known number of instances: at least one."""

    async def tell(self, digest: str, usage: Usage, *, limit: float, cost: int) -> BudgetStanding | None:
        """Report ``usage``, and begin a read if one is wanted and there is room. None if they cannot be reached."""
