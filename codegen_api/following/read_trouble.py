"""One read that fails, again and again: when to try it next."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from codegen_api.errors import GatewayError
from codegen_api.following.outage import EVERY, Outage
from codegen_api.pace import Patience

T = TypeVar("T")

LONGEST = 7.5
"""Seconds after which a read that failed is tried again at the latest, where others are answered."""

SPREAD = 1.0
"""Seconds over which those come back who have waited for the host together."""

PROVING = 4
"""At each so many tries of one entry it is found out whether the host is well otherwise."""


class ReadTrouble:
    """One read that fails, again and again: when to try it next. ``is_back`` asks the host for next to nothing.

    When the host answers others, it is tried at once, and then it has a pace of its own.
    """

    def __init__(self, outage: Outage, is_back: Callable[[], Awaitable[bool]]) -> None:
        self.proofs = 0
        """How often in a row the host was seen well after it has failed to give this."""
        self._outage = outage
        self._is_back = is_back
        self._patience = Patience()
        self._delay = 0.0
        self._alone = False
        self._tries = 0
        self._over: asyncio.Task[None] | None = None

    @property
    def to_be_proven(self) -> bool:
        """Whether to find out if the host is well otherwise: soon, and now and then while it goes on."""
        return self.proofs > 0 or self._tries == 1 or (self._alone and self._tries % PROVING == 1)

    def met(self, error: GatewayError) -> float:
        """It failed like this: in how many seconds it is tried again, if not before."""
        self._delay = self._patience.next(error.retry_after)
        if self._over is None and not self._alone and error.retry_after is None:
            self._over = asyncio.ensure_future(self._outage.over(self._is_back))
        return self._delay if self._over is None else min(self._delay, EVERY)

    async def passed(self, *, at_once: bool = False) -> bool:
        """Until it is to be tried again; whether that is because the host has answered somebody. ``at_once``: the first
        failure has taken long enough.
        """
        self._tries += 1
        if at_once and self._tries == 1:
            return False
        if self._over is None:
            await asyncio.sleep(self._delay)
            return False
        await asyncio.wait({self._over}, timeout=self._delay)
        return await self.settle()

    async def unless_past(self, call: Awaitable[T]) -> tuple[T] | None:
        """The answer to a call; None when the host turns out to be back while this one still hangs."""
        if self._over is None:
            return (await call,)
        calling = asyncio.ensure_future(call)
        try:
            await asyncio.wait({calling, self._over}, return_when=asyncio.FIRST_COMPLETED)
            return (calling.result(),) if calling.done() else None
        finally:
            calling.cancel()
            await asyncio.wait({calling})
            if not calling.cancelled():
                calling.exception()

    async def aclose(self) -> None:
        if self._over is not None:
            self._over.cancel()
            await asyncio.wait({self._over})

    async def settle(self) -> bool:
        """Whether the host has answered somebody: then it is time to try again."""
        if self._over is None or not self._over.done():
            return False
        self._over.result()
        self._over, self._alone, self._tries = None, True, 1
        self._patience = Patience(longest=LONGEST)
        await asyncio.sleep(SPREAD * random.random())  # noqa: S311 - spreads load only
        return True
