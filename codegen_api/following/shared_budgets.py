"""What several have of one budget: fair shares of it for users of one token, and the port to that of all instances."""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from codegen_api.pace import CLOCK_MARGIN, RESERVE, WINDOW, BudgetStanding

LONE_SHARE = 0.75
"""Fraction of a shared limit that one user may take while no other asks for anything."""


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
    """What one instance has to say of its requests with one credential.

    ``answered`` and ``read`` are the requests that were answered since it last said so, all of them and those of reads;
    ``under_way`` and ``reading`` those that are not answered yet. ``told`` is what the host said is left, and for how
    many seconds. ``refused``: a read was; ``retry_after`` is what the host said to that. ``accepted``: one was not.
    ``waiting`` reads want to begin; one of them is ``late``. ``wanted``: this asks to begin one. ``known``: it has said
    something a moment ago, so somebody must know of it.
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
    """Called when ``usable`` has changed, or all that was known is gone."""

    @property
    def usable(self) -> bool:
        """Whether they can be asked now."""

    @property
    def instances(self) -> int:
        """How many instances there are, as far as is known: at least one."""

    async def tell(self, digest: str, usage: Usage, *, limit: float, cost: int) -> BudgetStanding | None:
        """Report ``usage``, and begin a read if one is wanted and there is room. None if nobody can say."""
