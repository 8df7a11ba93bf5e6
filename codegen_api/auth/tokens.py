"""Authentication by the host's own tokens: the host says whose a token is, and the answer is cached for a minute.

Only keyed digests of tokens are kept. Refusals are cached for a shorter time. A token that was valid recently is still
accepted while the host cannot be asked.

The number of unknown tokens that are sent to the host is limited, per client address and in all, as each costs a
request. Only refused tokens count, so an office full of new users is no problem. The counts decay within a minute, so a
valid token from a suspicious address is accepted some seconds later. Tokens that were valid before are not limited.
"""

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from cachetools import LRUCache, TTLCache

from codegen_api.errors import (
    AuthUnavailable,
    Forbidden,
    InvalidToken,
    RateLimited,
    UpstreamFailure,
    UpstreamRateLimited,
)
from codegen_api.following import loop_time
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.singleflight import Singleflight
from codegen_api.upstreams import User

REFUSED_SECONDS = 10.0
EXCUSED_SECONDS = 5.0
"""Seconds after which the host is asked again about a token if it could not be asked."""

OUTAGE_SECONDS = 300.0
"""Seconds for which a token is accepted after its last confirmation while the host cannot be asked."""

REFUSED = "host: it does not accept this token"

MINUTE = 60.0
TICK = 0.001
"""Tolerance for rounding in sums of floats."""

ADDRESSES = 10_000
"""Maximum number of client addresses remembered."""

PATIENCE = 30.0
"""Seconds that a token may wait for the results of earlier ones."""


@dataclass(slots=True)
class _KnownToken:
    """Whose token it is, when the host said so, and until when the host need not be asked again."""

    principal: Principal
    confirmed: float
    good_until: float


class UpstreamTokens:
    """Accepts tokens of the host. ``identify`` asks it; ``upstream`` is its name. ``digest_key`` is for digests of
    credentials. ``bad_per_minute`` limits how many tokens that were never valid are sent to the host.
    """

    def __init__(
        self,
        identify: Callable[[Credential], Awaitable[User]],
        upstream: str,
        *,
        digest_key: bytes | None = None,
        good_seconds: float = 60.0,
        bad_per_minute: int = 30,
        at_most: int = 50_000,
    ) -> None:
        self._identify = identify
        self._upstream = upstream
        self._key = digest_key or secrets.token_bytes(32)
        self._good_seconds = good_seconds
        self._known: LRUCache[str, _KnownToken] = LRUCache(at_most)
        self._refused: TTLCache[str, tuple[type[InvalidToken | Forbidden], str]] = TTLCache(
            at_most, REFUSED_SECONDS, timer=loop_time
        )
        self._flights: Singleflight[str, Principal] = Singleflight()
        self._limiter = BadTokenLimiter(bad_per_minute)

    async def authenticate(self, token: str, address: str = "") -> Caller:
        """The caller with this token, which came from ``address``.

        Raises:
            InvalidToken, Forbidden: the host refuses it.
            RateLimited: it is unknown, and too many invalid tokens came from this address, or in all.
            AuthUnavailable: the host cannot be asked, and has not confirmed the token lately.
            UpstreamRateLimited: the host limits our requests, and has not confirmed the token lately.
        """
        credential = Credential.of(token, self._key)
        known = self._known.get(credential.digest)
        if known is not None and loop_time() < known.good_until:
            return Caller(known.principal, credential, token)
        refusal = self._refused.get(credential.digest)
        if refusal is not None:
            kind, message = refusal
            raise kind(message, reason=REFUSED)
        principal = await self._flights.share(credential.digest, lambda: self._ask(credential, address))
        return Caller(principal, credential, token)

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _ask(self, credential: Credential, address: str) -> Principal:
        digest = credential.digest
        known = self._known.get(digest)
        try:
            if known is not None:  # invalid tokens of others must not block this one
                user = await self._identify(credential)
            else:
                async with self._limiter.checking(address):
                    user = await self._identify(credential)
        except (InvalidToken, Forbidden) as refusal:
            self._known.pop(digest, None)
            # not the exception itself, whose traceback holds the token
            self._refused[digest] = (type(refusal), refusal.message)
            refusal.reason = refusal.reason or REFUSED
            raise
        except (UpstreamFailure, UpstreamRateLimited) as error:
            if known is not None and loop_time() < known.confirmed + OUTAGE_SECONDS:
                known.good_until = loop_time() + EXCUSED_SECONDS
                return known.principal
            if isinstance(error, UpstreamRateLimited):
                raise
            reason = f"host: it cannot be asked whose a token is ({error.reason or error.code})"
            raise AuthUnavailable(retry_after=error.retry_after or 5, reason=reason) from error
        principal = Principal(self._upstream, user.id)
        now = loop_time()
        self._known[digest] = _KnownToken(principal, confirmed=now, good_until=now + self._good_seconds)
        return principal


@dataclass(slots=True)
class _Bucket:
    """A leaky bucket of refusals, ``most`` per minute, and the number of tokens being checked."""

    most: int
    in_progress: int = 0
    refused: float = 0.0
    _updated: float = -math.inf

    def delay(self) -> float:
        """Seconds until another token may be checked; 0 if now, or as soon as the checks in progress are over."""
        now = loop_time()
        self.refused = max(0.0, self.refused - (now - self._updated) * self.most / MINUTE)
        self._updated = now
        return max(0.0, (self.refused + 1 - self.most) * MINUTE / self.most - TICK)

    def count_refusal(self) -> None:
        self.delay()  # brings the count up to date
        self.refused += 1


class BadTokenLimiter:
    """Lets ``at_most`` invalid tokens per minute through to the host, and a third of that from one address."""

    def __init__(self, at_most: int) -> None:
        self._total = _Bucket(max(1, at_most))
        self._by_network: LRUCache[str, _Bucket] = LRUCache(ADDRESSES)
        self._check_over = asyncio.Event()

    @asynccontextmanager
    async def checking(self, address: str) -> AsyncIterator[None]:
        """A context in which the host may be asked about a token from this address. Entering it may wait.

        Raises:
            RateLimited: too many invalid tokens came lately.
            AuthUnavailable: the host does not answer about earlier tokens.
        """
        from_network = self._by_network.setdefault(_network_of(address), _Bucket(max(1, self._total.most // 3)))
        buckets = self._total, from_network
        try:
            async with asyncio.timeout(PATIENCE):
                await self._wait_for_room(buckets)
        except TimeoutError:
            raise AuthUnavailable(retry_after=5, reason="host: it does not answer about other tokens") from None
        for bucket in buckets:
            bucket.in_progress += 1
        try:
            yield
        except (InvalidToken, Forbidden):
            for bucket in buckets:
                bucket.count_refusal()
            raise
        finally:
            for bucket in buckets:
                bucket.in_progress -= 1
            check_over, self._check_over = self._check_over, asyncio.Event()
            check_over.set()

    async def _wait_for_room(self, buckets: tuple[_Bucket, _Bucket]) -> None:
        while True:
            seconds = max(bucket.delay() for bucket in buckets)
            if seconds > 0:
                reason = "bad: too many tokens that the host refused came lately, from this address or altogether"
                raise RateLimited("Too many tokens that are not good came lately.", retry_after=seconds, reason=reason)
            if all(bucket.refused + bucket.in_progress + 1 <= bucket.most + TICK for bucket in buckets):
                return
            await self._check_over.wait()


def _network_of(address: str) -> str:
    """The key for an address: for IPv6 the /64 network, within which clients choose addresses freely."""
    try:
        found = ip_address(address)
    except ValueError:  # a Unix socket, or a name
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or int(found) >> 64)
    return address
