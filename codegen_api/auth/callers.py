"""Authenticates callers by their token: one of the host, a JWT, or a key of the gateway, told apart by its form."""

import re
from dataclasses import dataclass, field

from codegen_api.auth.jwts import Jwts, looks_like_jwt
from codegen_api.auth.keys import Keys, looks_like_key
from codegen_api.auth.tickets import Ticket
from codegen_api.auth.tokens import UpstreamTokens
from codegen_api.errors import AuthUnavailable, GatewayError, InvalidTicket, InvalidToken, RateLimited, TokenTooLong
from codegen_api.identity import Caller, Principal
from codegen_api.telemetry import Observer
from codegen_api.telemetry.log_lines import LogLimiter

LONGEST_TOKEN = 32 * 1024
"""Issuers may list all of a user's groups in a token; headers are limited to 64 KiB."""

NAMES = {"key": "a key of a gateway", "jwt": "a JWT", "token": "neither a JWT nor a key"}

_CHARACTERS = re.compile(r"[\x21-\x7e]+")


@dataclass(eq=False, repr=False)
class Callers:
    """Asks the authority that a token is for, and logs why a token is refused. An authority that is not configured is
    None.
    """

    tokens: UpstreamTokens | None = None
    jwts: Jwts | None = None
    keys: Keys | None = None
    observer: Observer = field(default_factory=Observer)
    _limited_log: LogLimiter = field(default_factory=LogLimiter, init=False)

    def open(self) -> None:
        """Start to fetch the issuer's keys."""
        if self.jwts is not None:
            self.jwts.source.open()

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
            self.observer.checked(_kind(token), error.code)
            if isinstance(error, InvalidToken | TokenTooLong | AuthUnavailable | RateLimited):
                reason = error.reason or error.code
                self._limited_log.log(reason.partition(":")[0], f"a token was not taken: {reason}")
            raise
        self.observer.checked(_kind(token), "ok")
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
        authorities = (authority for authority in (self.jwts, self.keys) if authority is not None)
        return next((caller for authority in authorities if (caller := authority.absent(principal))), None)

    async def _ask_authority(self, token: str, address: str) -> Caller:
        if len(token) > LONGEST_TOKEN:
            reason = f"length: it has {len(token)} characters, and {LONGEST_TOKEN} are taken"
            raise TokenTooLong(f"The token is too long: {LONGEST_TOKEN} characters are taken at most.", reason=reason)
        if not _CHARACTERS.fullmatch(token):
            raise InvalidToken(reason="form: it is empty, or has spaces or other characters that no token has")
        if self.keys is not None and looks_like_key(token):
            return await self.keys.authenticate(token)
        if self.jwts is not None and looks_like_jwt(token):
            return await self.jwts.authenticate(token)
        if self.tokens is None:
            raise InvalidToken(reason=f"kind: it is {NAMES[_kind(token)]}, which CODEGEN_AUTH does not take")
        return await self.tokens.authenticate(token, address)


def _kind(token: str) -> str:
    if looks_like_key(token):
        return "key"
    return "jwt" if looks_like_jwt(token) else "token"
