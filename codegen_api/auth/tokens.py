"""Authentication by the host's own tokens: the host says whose a token is, and its word is kept for a minute.

Tokens are kept under a keyed digest only. A refusal is kept for a shorter while, and a token that was good a moment ago
stays good while the host cannot be asked.
"""

import secrets
from collections.abc import Awaitable, Callable

from cachetools import TTLCache

from codegen_api.errors import AuthUnavailable, Forbidden, InvalidToken, UpstreamFailure, UpstreamRateLimited
from codegen_api.flights import Flights
from codegen_api.following import loop_time
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.upstreams import User

REFUSED_SECONDS = 10.0
EXCUSED_SECONDS = 5.0
"""How long a host that could not be asked about a token is not asked again."""

OUTAGE_SECONDS = 300.0
"""How long after its last confirmation a token is still taken while the host cannot be asked."""


class UpstreamTokens:
    """Callers by their token of the host. ``identify`` asks the host; ``upstream`` is its name. ``digest_key`` makes
    the digests of credentials.
    """

    def __init__(
        self,
        identify: Callable[[Credential], Awaitable[User]],
        upstream: str,
        *,
        digest_key: bytes | None = None,
        good_seconds: float = 60.0,
        at_most: int = 50_000,
    ) -> None:
        self._identify = identify
        self._upstream = upstream
        self._key = digest_key or secrets.token_bytes(32)
        self._good: TTLCache[str, Principal] = TTLCache(at_most, good_seconds, timer=loop_time)
        self._was_good: TTLCache[str, Principal] = TTLCache(at_most, OUTAGE_SECONDS, timer=loop_time)
        self._excused: TTLCache[str, Principal] = TTLCache(at_most, EXCUSED_SECONDS, timer=loop_time)
        self._refused: TTLCache[str, tuple[type[InvalidToken | Forbidden], str]] = TTLCache(
            at_most, REFUSED_SECONDS, timer=loop_time
        )
        self._flights: Flights[str, Principal] = Flights()

    async def authenticate(self, token: str) -> Caller:
        """Whose token this is.

        Raises:
            InvalidToken, Forbidden: the host does not accept it.
            AuthUnavailable: the host cannot say, and did not lately.
            UpstreamRateLimited: the host asks for patience, and did not confirm the token lately.
        """
        credential = Credential.of(token, self._key)
        refusal = self._refused.get(credential.digest)
        if refusal is not None:
            kind, message = refusal
            raise kind(message)
        principal = self._good.get(credential.digest) or self._excused.get(credential.digest)
        if principal is None:
            principal = await self._flights.share(credential.digest, lambda: self._ask(credential))
        return Caller(principal, credential, token)

    async def aclose(self) -> None:
        await self._flights.aclose()

    async def _ask(self, credential: Credential) -> Principal:
        try:
            user = await self._identify(credential)
        except (InvalidToken, Forbidden) as refusal:
            self._was_good.pop(credential.digest, None)
            # not the exception itself: its traceback holds the token
            self._refused[credential.digest] = (type(refusal), refusal.message)
            raise
        except (UpstreamFailure, UpstreamRateLimited) as error:
            principal = self._was_good.get(credential.digest)
            if principal is not None:
                self._excused[credential.digest] = principal
                return principal
            if isinstance(error, UpstreamRateLimited):
                raise
            raise AuthUnavailable(retry_after=error.retry_after or 5) from error
        principal = Principal(self._upstream, user.id)
        self._good[credential.digest] = self._was_good[credential.digest] = principal
        return principal
