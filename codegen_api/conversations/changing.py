"""How what is kept is changed while others may be changing it, too."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from codegen_api.errors import Conflict

T = TypeVar("T")

TRIES = 10


async def change(
    look: Callable[[], Awaitable[T]], put: Callable[[T, T], Awaitable[T | None]], to: Callable[[T], T]
) -> T:
    """What ``look`` finds, changed ``to`` what it is to be. ``put`` says None when it was changed in between.

    Raises:
        Conflict: others change it all the time.
    """
    for _ in range(TRIES):
        then = await look()
        changed = await put(then, to(then))
        if changed is not None:
            return changed
    raise Conflict("Others are changing this, too; try again.")
