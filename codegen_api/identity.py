"""Who asks, and what is sent to the host on their behalf."""

import hashlib
import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody, by the host that vouches for them and their id there: the same whatever token they use."""

    upstream: str
    user: str


@dataclass(frozen=True, slots=True)
class Credential:
    """What the host is shown. Compared, hashed and printed by its digest: the token itself goes nowhere else."""

    token: str = field(repr=False, compare=False)
    digest: str

    @classmethod
    def of(cls, token: str, key: bytes) -> "Credential":
        """Digest ``token`` under ``key``: without the key, a leaked digest cannot be tried against guessed tokens."""
        return cls(token, hmac.new(key, token.encode(), hashlib.sha256).hexdigest())


@dataclass(frozen=True, slots=True)
class Caller:
    """One request's asker: who it is, and with what the host is asked for them."""

    principal: Principal
    credential: Credential
