"""Seats for viewers: how many live logs may be open at a time, in this process and for one principal."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from codegen_api.errors import AtCapacity, RateLimited
from codegen_api.identity import Principal


class StreamLimits:
    """``at_most`` for everybody together, ``each`` for one of them."""

    def __init__(self, at_most: int, each: int) -> None:
        self._at_most = at_most
        self._each = each
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

    @contextmanager
    def take(self, principal: Principal) -> Iterator[None]:
        """A seat for as long as the context lasts."""
        self.make_sure_of_room(principal)
        self._taken[principal] += 1
        try:
            yield
        finally:
            self._taken[principal] -= 1
            if not self._taken[principal]:
                del self._taken[principal]


def _soon() -> float:
    """Seconds until it may be worth while to come again: not the same for all who were refused together."""
    return random.uniform(5, 10)  # noqa: S311 - spreads load only
