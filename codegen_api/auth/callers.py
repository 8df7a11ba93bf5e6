"""Callers by whatever they show: a token of the host, a JWT, or a key of our own. Each is told by its shape."""

from typing import Protocol

from codegen_api.auth.jwts import looks_like_jwt
from codegen_api.auth.keys import looks_like_key
from codegen_api.errors import InvalidToken
from codegen_api.identity import Caller


class Authority(Protocol):
    """Somebody who can say whose a token is."""

    async def authenticate(self, token: str) -> Caller: ...


class Callers:
    """Asks the one authority that a token is for, of those that the deployment has."""

    def __init__(
        self, *, tokens: Authority | None = None, jwts: Authority | None = None, keys: Authority | None = None
    ) -> None:
        self._tokens = tokens
        self._jwts = jwts
        self._keys = keys

    async def authenticate(self, token: str) -> Caller:
        """Whose token this is. What has the shape of a key or a JWT is never shown to the host.

        Raises:
            InvalidToken, Forbidden: nobody vouches for it.
            AuthUnavailable, UpstreamRateLimited: nobody can just now.
        """
        authority = self._tokens
        if self._keys is not None and looks_like_key(token):
            authority = self._keys
        elif self._jwts is not None and looks_like_jwt(token):
            authority = self._jwts
        if authority is None:
            raise InvalidToken
        return await authority.authenticate(token)
