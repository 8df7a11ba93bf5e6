"""An issuer of JWTs that tests have for themselves: its keys, what it signs, and what others forge in its name."""

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwk, jwt

ISSUER = "https://issuer.example/"
AUDIENCE = "gateway"
SCOPES = "runs:read runs:write"


@dataclass
class Issuer:
    """Signs with ``private``, whose public half is known as ``kid``: the key it was given, or one of its own."""

    kid: str = "first"
    given: rsa.RSAPrivateKey | None = None
    name: str = ISSUER

    @cached_property
    def private(self) -> rsa.RSAPrivateKey:
        return self.given or rsa.generate_private_key(
            65537, 2048
        )  # when it is used: making one takes a tenth of a second

    @cached_property
    def _signing(self) -> Any:
        return jwk.construct(self.secret_pem, "RS256")

    @property
    def secret_pem(self) -> str:
        kind, form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self.private.private_bytes(serialization.Encoding.PEM, kind, form).decode()

    @property
    def public_pem(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    @property
    def jwks(self) -> dict[str, Any]:
        """The key set that it publishes."""
        public = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in jwk.construct(self.public_pem, "RS256").to_dict().items()
        }
        return {"keys": [{**public, "kid": self.kid, "use": "sig"}]}

    def claims(self, user: str, **more: Any) -> dict[str, Any]:
        """What a token for ``user`` says; a claim that is given as None is left out, and a span is counted from now."""
        now = int(time.time())
        said = {"iss": self.name, "aud": AUDIENCE, "sub": user, "iat": now, "exp": now + 3600, "scope": SCOPES, **more}
        return {
            name: now + int(value.total_seconds()) if isinstance(value, timedelta) else value
            for name, value in said.items()
            if value is not None
        }

    def token(self, user: str, *, headers: dict[str, Any] | None = None, **more: Any) -> str:
        """A token for ``user``."""
        signed: str = jwt.encode(
            self.claims(user, **more), self._signing, "RS256", headers={"kid": self.kid, **(headers or {})}
        )
        return signed

    def unsigned(self, user: str, algorithm: str = "none") -> str:
        return f"{_part({'alg': algorithm, 'typ': 'JWT', 'kid': self.kid})}.{_part(self.claims(user))}."

    def signed_with_public_key(self, user: str) -> str:
        """As if the public key, which everybody has, were a secret shared with the issuer."""
        said = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': self.kid})}.{_part(self.claims(user))}"
        return f"{said}.{_text(hmac.digest(self.public_pem.encode(), said.encode(), hashlib.sha256))}"


def _part(value: dict[str, Any]) -> str:
    return _text(json.dumps(value).encode())


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
