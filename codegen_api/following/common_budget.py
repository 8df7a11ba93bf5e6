"""The budgets that several instances have together: the port."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """How all instances together stand: ``wait`` seconds until the read may begin that was wanted, 0 if it may now, and
    infinite if that depends on an answer; requests and reads in the window and under way; the estimate of the limit,
    and for how long the host accepts nothing.
    """

    wait: float
    asked: int
    reads: int
    allowed: float
    closed: float


class CommonBudgets(Protocol):
    """Budgets of ``limit`` requests a minute, by the digest of their credential."""

    listeners: list[Callable[[], None]]
    """Called when ``usable`` has changed, or all that was known is gone."""

    @property
    def usable(self) -> bool:
        """Whether they can be asked now."""
        ...

    @property
    def instances(self) -> int:
        """How many instances there are, as far as is known: at least one."""
        ...

    async def tell(self, digest: str, usage: Usage, *, limit: float, cost: int) -> BudgetStanding | None:
        """Report ``usage``, and begin a read if one is wanted and there is room. None if nobody can say."""
        ...
