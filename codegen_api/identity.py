"""Who is calling, what they may do, and the credential with which the host is called for them."""

import hashlib
import hmac
import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

READ = "runs:read"
WRITE = "runs:write"
ALL = ":all"
"""Scope suffix: also for runs of others, and for runs without an owner."""

SCOPES = frozenset({READ, WRITE, READ + ALL, WRITE + ALL})


@dataclass(frozen=True, slots=True)
class Principal:
    """A user: an authority and their id there, the same for all of their tokens.

    ``authority`` is the host's name (``codegen``), ``jwt:`` and the issuer of a JWT, or ``key`` for the gateway's keys.
    """

    authority: str
    user: str

    @property
    def number(self) -> int:
        """A stable numeric id for clients that expect one: 53 bits, for any JSON reader, above the ids of hosts."""
        message = json.dumps([self.authority, self.user]).encode()
        return 1 << 52 | int.from_bytes(hashlib.sha256(message).digest()) % (1 << 52)


@dataclass(frozen=True, slots=True)
class Credential:
    """A token for calls to the host. It is compared, hashed and printed by its digest, so the token stays here."""

    token: str = field(repr=False, compare=False)
    digest: str

    @classmethod
    def of(cls, token: str, key: bytes) -> "Credential":
        """Digest ``token`` under ``key``: without the key, a leaked digest cannot be used to test guesses."""
        return cls(token, hmac.digest(key, token.encode(), "sha256").hex())


@dataclass(frozen=True, slots=True)
class Caller:
    """The user behind a request, the credential for the host, and what they may do.

    ``shown`` is the token they sent if it has to be checked each time; None if its claims hold until it expires.
    ``shared``: the credential is the deployment's, so the gateway, not the host, must know whose a run is.
    ``organization``, if set, is the only one they may use. Their token is valid until ``expires`` (epoch seconds);
    ``confirm`` raises ``InvalidToken`` if it was revoked earlier.
    """

    principal: Principal
    credential: Credential
    shown: str | None = field(repr=False, compare=False)
    scopes: frozenset[str] = SCOPES
    shared: bool = False
    organization: str | None = None
    expires: float | None = None
    confirm: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def may(self, scope: str) -> bool:
        """Whether they have this scope, at least for their own runs."""
        return scope in self.scopes or scope + ALL in self.scopes


asker: ContextVar[Caller | None] = ContextVar("codegen_api_asker", default=None)
"""The caller on whose behalf the host is being asked."""
