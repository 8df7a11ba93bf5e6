"""Tokens that nobody has seen before: each costs the host a call, so there are only so many bad ones, from one address
and altogether.

What is counted are refusals, so an office full of new users is no trouble. A count leaks away within a minute, so from
where bad tokens came a good one gets in some seconds later. What was good once never comes here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from cachetools import LRUCache

from codegen_api.errors import AuthUnavailable, Forbidden, InvalidToken, RateLimited
from codegen_api.following import loop_time

MINUTE = 60.0
TICK = 0.001
"""By so much a sum of floats need not be what it should be."""

PATIENCE = 30.0
"""Seconds that a token waits until it is known whether those before it are good."""


@dataclass(slots=True)
class _Count:
    """Refusals of late, ``most`` in a minute, and how many tokens are being asked about."""

    most: int
    asking: int = 0
    _refused: float = 0.0
    _then: float = field(default_factory=loop_time)

    def wait(self) -> float:
        """Seconds until another may be asked about; 0 when it may be now, or those that are tell."""
        now = loop_time()
        self._refused = max(0.0, self._refused - (now - self._then) * self.most / MINUTE)
        self._then = now
        return max(0.0, (self._refused + 1 - self.most) * MINUTE / self.most - TICK)

    @property
    def has_room(self) -> bool:
        return self._refused + self.asking + 1 <= self.most + TICK

    def refused(self) -> None:
        self.wait()
        self._refused += 1


class Strangers:
    """Lets ``at_most`` bad tokens a minute through to the host, and a third of that from one address."""

    def __init__(self, at_most: int, *, addresses: int = 10_000) -> None:
        self._at_most = max(1, at_most)
        self._all: _Count | None = None
        self._each: LRUCache[str, _Count] = LRUCache(addresses)
        self._told = asyncio.Event()

    @asynccontextmanager
    async def asking(self, address: str) -> AsyncIterator[None]:
        """The host is asked about a token from there, as soon as it may be.

        Raises:
            RateLimited: enough bad ones came of late.
            AuthUnavailable: the host does not say how it is with those before.
        """
        counts = self._counts(_place(address))
        try:
            async with asyncio.timeout(PATIENCE):
                await self._room(counts)
        except TimeoutError:
            raise AuthUnavailable(
                retry_after=5, reason="host: it does not say of other tokens whose they are"
            ) from None
        for count in counts:
            count.asking += 1
        try:
            yield
        except (InvalidToken, Forbidden):
            for count in counts:
                count.refused()
            raise
        finally:
            for count in counts:
                count.asking -= 1
            told, self._told = self._told, asyncio.Event()
            told.set()

    async def _room(self, counts: tuple[_Count, _Count]) -> None:
        while True:
            seconds = max(count.wait() for count in counts)
            if seconds > 0:
                reason = "bad: too many tokens that the host refused came lately, from this address or altogether"
                raise RateLimited("Too many tokens that are not good came lately.", retry_after=seconds, reason=reason)
            if all(count.has_room for count in counts):
                return
            await self._told.wait()

    def _counts(self, place: str) -> tuple[_Count, _Count]:
        self._all = self._all or _Count(self._at_most)
        if place not in self._each:
            self._each[place] = _Count(max(1, self._at_most // 3))
        return self._all, self._each[place]


def _place(address: str) -> str:
    """From where somebody calls: of IPv6 the network, of which everybody has as many addresses as they like."""
    try:
        found = ip_address(address)
    except ValueError:  # a socket, or a name
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or int(found) >> 64)
    return address
