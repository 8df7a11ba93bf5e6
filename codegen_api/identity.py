"""Who asks, what they may do, and what is sent to the host on their behalf."""

import hashlib
import hmac
import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

READ = "runs:read"
WRITE = "runs:write"
ALL = ":all"
"""Behind a scope: the same for runs of others, and for runs that nobody owns."""

SCOPES = frozenset({READ, WRITE, READ + ALL, WRITE + ALL})


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody, by who vouches for them and their id there: the same whatever token they use.

    ``authority`` is the host's name (``codegen``), ``jwt:`` and the issuer of a JWT, or ``key`` for our own API keys.
    """

    authority: str
    user: str

    @property
    def number(self) -> int:
        """A number of their own, the same everywhere and always, for clients that know users by number: of 53 bits, so
        that every reader of JSON can hold it, and larger than any that hosts give out.
        """
        said = json.dumps([self.authority, self.user]).encode()
        return 1 << 52 | int.from_bytes(hashlib.sha256(said).digest()) % (1 << 52)


@dataclass(frozen=True, slots=True)
class Credential:
    """What the host is shown. Compared, hashed and printed by its digest: the token itself goes nowhere else."""

    token: str = field(repr=False, compare=False)
    digest: str

    @classmethod
    def of(cls, token: str, key: bytes) -> "Credential":
        """Digest ``token`` under ``key``: without the key, a leaked digest cannot be tried against guessed tokens."""
        return cls(token, hmac.new(key, token.encode(), hashlib.sha256).hexdigest())


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Caller:
    """One request's asker: who it is, with what the host is asked for them, and what they may do.

    ``shown`` is what they came with, where that has to be looked at each time; None where what it said is good until it
    expires. ``shared``: the credential is the deployment's, the same for all, so the
    host cannot tell whose a run is and the gateway does. ``organization`` is the only one they may enter, if there is
    such a one. What they showed is good until ``expires`` (epoch seconds), and ``confirm`` raises ``InvalidToken`` when
    it was revoked before that.
    """

    principal: Principal
    credential: Credential
    shown: str | None = field(repr=False, compare=False)
    scopes: frozenset[str] = SCOPES
    shared: bool = False
    organization: str | None = None
    expires: float | None = None
    confirm: Callable[[], None] = field(default=_nothing, repr=False, compare=False)

    def may(self, scope: str) -> bool:
        """Whether they may do this, be it only to what is their own."""
        return scope in self.scopes or scope + ALL in self.scopes


asker: ContextVar[Caller | None] = ContextVar("codegen_api_asker", default=None)
"""For whom the host is being asked."""
