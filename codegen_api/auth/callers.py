"""Authenticates callers by what they present: a token of the host, a JWT, or a key of our own, told apart by form."""

import re

from codegen_api.auth.jwts import Jwts, looks_like_jwt
from codegen_api.auth.keys import Keys, looks_like_key
from codegen_api.auth.tickets import Ticket
from codegen_api.auth.tokens import UpstreamTokens
from codegen_api.errors import AuthUnavailable, GatewayError, InvalidTicket, InvalidToken, RateLimited, TokenTooLong
from codegen_api.identity import Caller, Principal
from codegen_api.log_lines import LogLimiter
from codegen_api.telemetry import Observer

LONGEST_TOKEN = 32 * 1024
"""Issuers may list all of a user's groups in a token; headers are limited to 64 KiB."""

NAMES = {"key": "a key of a gateway", "jwt": "a JWT", "token": "neither a JWT nor a key"}

_CHARACTERS = re.compile(r"[\x21-\x7e]+")


class Callers:
    """Asks the one configured authority that a token is for, and logs why a token is refused. Each is None if it is not
    configured.
    """

    def __init__(
        self,
        *,
        tokens: UpstreamTokens | None = None,
        jwts: Jwts | None = None,
        keys: Keys | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._tokens = tokens
        self.jwts = jwts
        self._keys = keys
        self._observer = observer or Observer()
        self._limited_log = LogLimiter()

    def open(self) -> None:
        """Begin to fetch what is needed for authentication."""
        if self.jwts is not None:
            self.jwts.open()

    async def authenticate(self, token: str, address: str = "") -> Caller:
        """The caller with this token, which came from ``address``. Anything shaped like a key or a JWT is never sent to
        the host.

        Raises:
            InvalidToken, Forbidden: no authority accepts it.
            TokenTooLong: it is too long to check.
            AuthUnavailable, UpstreamRateLimited, RateLimited: it cannot be checked now.
        """
        try:
            caller = await self._ask_authority(token, address)
        except GatewayError as error:
            self._observer.checked(_kind(token), error.code)
            if isinstance(error, InvalidToken | TokenTooLong | AuthUnavailable | RateLimited):
                reason = error.reason or error.code
                self._limited_log.log(reason.partition(":")[0], f"a token was not taken: {reason}")
            raise
        self._observer.checked(_kind(token), "ok")
        return caller

    async def ticket_holder(self, ticket: Ticket, address: str = "") -> Caller:
        """The caller with this ticket.

        Raises:
            InvalidTicket: the token in it now belongs to another user, or their authority is no longer configured.
            GatewayError: as ``authenticate``.
        """
        if ticket.token is not None:
            caller = await self.authenticate(ticket.token, address)
        elif self.jwts is not None:
            caller = self.jwts.from_ticket(ticket.principal, ticket.scopes, ticket.until)
        else:
            raise InvalidTicket
        if caller.principal != ticket.principal:
            raise InvalidTicket
        return caller

    def absent(self, principal: Principal) -> Caller | None:
        """A caller for deferred work with the deployment's token; None if no authority knows this user any more."""
        vouching = (authority for authority in (self.jwts, self._keys) if authority is not None)
        return next((caller for authority in vouching if (caller := authority.absent(principal))), None)

    async def _ask_authority(self, token: str, address: str) -> Caller:
        if len(token) > LONGEST_TOKEN:
            reason = f"length: it has {len(token)} characters, and {LONGEST_TOKEN} are taken"
            raise TokenTooLong(f"The token is too long: {LONGEST_TOKEN} characters are taken at most.", reason=reason)
        if not _CHARACTERS.fullmatch(token):
            raise InvalidToken(reason="form: it is empty, or has spaces or other characters that no token has")
        if self._keys is not None and looks_like_key(token):
            return await self._keys.authenticate(token)
        if self.jwts is not None and looks_like_jwt(token):
            return await self.jwts.authenticate(token)
        if self._tokens is None:
            raise InvalidToken(reason=f"kind: it is {NAMES[_kind(token)]}, which CODEGEN_AUTH does not take")
        return await self._tokens.authenticate(token, address)


def _kind(token: str) -> str:
    if looks_like_key(token):
        return "key"
    return "jwt" if looks_like_jwt(token) else "token"
