"""How many live logs may be open at a time: in this process, and for one principal in all instances."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from codegen_api.errors import AtCapacity, RateLimited
from codegen_api.identity import Principal


class OpenStreams(Protocol):
    """How many streams each principal has open in all instances."""

    async def take(self, principal: Principal, count: int, each: int) -> bool:
        """They have ``count`` here now; False if that would be more than ``each`` everywhere."""
        ...

    def left(self, principal: Principal, count: int) -> None:
        """They have only ``count`` here from now on."""
        ...


class StreamLimits:
    """``at_most`` for everybody together in this process, ``each`` for one of them; in ``common`` with others."""

    def __init__(self, at_most: int, each: int, common: OpenStreams | None = None) -> None:
        self._at_most = at_most
        self._each = each
        self._common = common
        self._taken: Counter[Principal] = Counter()

    @property
    def taken(self) -> int:
        return self._taken.total()

    def make_sure_of_room(self, principal: Principal) -> None:
        """
        Raises:
            RateLimited: they have as many as they may.
            AtCapacity: all have.
        """
        if self._taken[principal] >= self._each:
            raise RateLimited(retry_after=_soon())
        if self.taken >= self._at_most:
            raise AtCapacity(retry_after=_soon())

    @asynccontextmanager
    async def take(self, principal: Principal) -> AsyncIterator[None]:
        """A stream may be open for as long as the context lasts; raises as ``make_sure_of_room``."""
        self.make_sure_of_room(principal)
        self._taken[principal] += 1
        try:
            if self._common is not None and not await self._common.take(principal, self._taken[principal], self._each):
                raise RateLimited(retry_after=_soon())
            yield
        finally:
            self._taken[principal] -= 1
            if self._common is not None:
                self._common.left(principal, self._taken[principal])
            if not self._taken[principal]:
                del self._taken[principal]


def _soon() -> float:
    """Seconds until it may be worth while to come again: not the same for all who were refused together."""
    return random.uniform(5, 10)  # noqa: S311 - spreads load only
