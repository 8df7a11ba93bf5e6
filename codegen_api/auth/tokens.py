"""Authentication by the host's own tokens: the host says whose a token is, and that is cached for a minute.

Only keyed digests of tokens are kept. Refusals are cached for less time, and a token that was valid recently stays so
while the host cannot be asked.
"""

import secrets
from collections.abc import Awaitable, Callable

from cachetools import LRUCache, TTLCache

from codegen_api.auth.bad_tokens import BadTokenLimiter
from codegen_api.errors import AuthUnavailable, Forbidden, InvalidToken, UpstreamFailure, UpstreamRateLimited
from codegen_api.following import loop_time
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.singleflight import Singleflight
from codegen_api.upstreams import User

REFUSED_SECONDS = 10.0
EXCUSED_SECONDS = 5.0
"""How long the host is not asked again about a token after it could not be asked."""

OUTAGE_SECONDS = 300.0
"""How long after its last confirmation a token is accepted while the host cannot be asked."""

REFUSED = "host: it does not accept this token"


class UpstreamTokens:
    """Accepts tokens of the host. ``identify`` asks it; ``upstream`` is its name. ``digest_key`` is for digests of
    credentials. ``bad_per_minute`` limits how many tokens that were never valid are shown to the host.
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
        self._good: TTLCache[str, Principal] = TTLCache(at_most, good_seconds, timer=loop_time)
        self._was_good: LRUCache[str, tuple[Principal, float]] = LRUCache(at_most)
        self._excused: TTLCache[str, Principal] = TTLCache(at_most, EXCUSED_SECONDS, timer=loop_time)
        self._refused: TTLCache[str, tuple[type[InvalidToken | Forbidden], str]] = TTLCache(
            at_most, REFUSED_SECONDS, timer=loop_time
        )
        self._flights: Singleflight[str, Principal] = Singleflight()
        self._limiter = BadTokenLimiter(bad_per_minute)

    async def authenticate(self, token: str, address: str = "") -> Caller:
        """The caller with this token, which came from ``address``.

        Raises:
            InvalidToken, Forbidden: the host refuses it.
            RateLimited: it is unknown, and too many invalid ones came from there, or in all.
            AuthUnavailable: the host cannot be asked, and has not confirmed it lately.
            UpstreamRateLimited: the host is limiting us, and has not confirmed it lately.
        """
        credential = Credential.of(token, self._key)
        principal = self._good.get(credential.digest)
        if principal is None:
            principal = await self._find_or_ask(credential, address)
        return Caller(principal, credential, token)

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _find_or_ask(self, credential: Credential, address: str) -> Principal:
        refusal = self._refused.get(credential.digest)
        if refusal is not None:
            kind, message = refusal
            raise kind(message, reason=REFUSED)
        excused = self._excused.get(credential.digest)
        return excused or await self._flights.share(credential.digest, lambda: self._ask(credential, address))

    async def _ask(self, credential: Credential, address: str) -> Principal:
        digest = credential.digest
        principal, confirmed = self._was_good.get(digest, (None, 0.0))
        try:
            if principal is not None:  # invalid tokens of others must not lock this one out
                user = await self._identify(credential)
            else:
                async with self._limiter.asking(address):
                    user = await self._identify(credential)
        except (InvalidToken, Forbidden) as refusal:
            self._was_good.pop(digest, None)
            # not the exception itself, whose traceback holds the token
            self._refused[digest] = (type(refusal), refusal.message)
            refusal.reason = refusal.reason or REFUSED
            raise
        except (UpstreamFailure, UpstreamRateLimited) as error:
            if principal is not None and loop_time() < confirmed + OUTAGE_SECONDS:
                self._excused[digest] = principal
                return principal
            if isinstance(error, UpstreamRateLimited):
                raise
            reason = f"host: it cannot be asked whose a token is ({error.reason or error.code})"
            raise AuthUnavailable(retry_after=error.retry_after or 5, reason=reason) from error
        principal = Principal(self._upstream, user.id)
        self._good[digest] = principal
        self._was_good[digest] = (principal, loop_time())
        return principal
