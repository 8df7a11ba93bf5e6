"""Limits how many unknown tokens are shown to the host, per client address and in all: each costs a request.

Only refused tokens count, so an office full of new users is no problem. The counts leak away within a minute, so a
valid token from a suspicious address gets in some seconds later. Tokens that were valid before are not limited.
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
"""Tolerance for rounding in sums of floats."""

PATIENCE = 30.0
"""Seconds a token may wait for the results of those before it."""


@dataclass(slots=True)
class _Bucket:
    """A leaky bucket of refusals, ``most`` per minute, and the number of tokens being checked."""

    most: int
    asking: int = 0
    _refused: float = 0.0
    _then: float = field(default_factory=loop_time)

    def wait(self) -> float:
        """Seconds until another token may be checked; 0 if now, or as soon as those in progress are decided."""
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


class BadTokenLimiter:
    """Lets ``at_most`` invalid tokens per minute through to the host, and a third of that from one address."""

    def __init__(self, at_most: int, *, addresses: int = 10_000) -> None:
        self._at_most = max(1, at_most)
        self._all: _Bucket | None = None
        self._each: LRUCache[str, _Bucket] = LRUCache(addresses)
        self._decided = asyncio.Event()

    @asynccontextmanager
    async def asking(self, address: str) -> AsyncIterator[None]:
        """A context in which the host may be asked about a token from there; entering it may wait.

        Raises:
            RateLimited: too many invalid tokens came lately.
            AuthUnavailable: the host does not answer for those before.
        """
        counts = self._counts(_network_of(address))
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
            decided, self._decided = self._decided, asyncio.Event()
            decided.set()

    async def _room(self, counts: tuple[_Bucket, _Bucket]) -> None:
        while True:
            seconds = max(count.wait() for count in counts)
            if seconds > 0:
                reason = "bad: too many tokens that the host refused came lately, from this address or altogether"
                raise RateLimited("Too many tokens that are not good came lately.", retry_after=seconds, reason=reason)
            if all(count.has_room for count in counts):
                return
            await self._decided.wait()

    def _counts(self, network: str) -> tuple[_Bucket, _Bucket]:
        self._all = self._all or _Bucket(self._at_most)
        if network not in self._each:
            self._each[network] = _Bucket(max(1, self._at_most // 3))
        return self._all, self._each[network]


def _network_of(address: str) -> str:
    """The key for an address: for IPv6 the /64 network, within which clients choose addresses freely."""
    try:
        found = ip_address(address)
    except ValueError:  # a Unix socket, or a name
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or int(found) >> 64)
    return address
