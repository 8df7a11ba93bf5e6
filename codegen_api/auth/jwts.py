"""Authentication by JWTs: an issuer says who somebody is and what they may do, and its signature proves that it did.

What an algorithm is used with is decided here and not by the token: each key is bound to the algorithms of its kind
before a token is looked at, so a public key is never taken for a shared secret, and nothing is ever taken unsigned.
"""

import asyncio
import base64
import binascii
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jose import jwk, jws, jwt
from jose.backends.base import Key
from jose.exceptions import ExpiredSignatureError, JWKError

from codegen_api.errors import AuthUnavailable, GatewayError, InvalidToken
from codegen_api.flights import Flights
from codegen_api.following import loop_time
from codegen_api.identity import SCOPES, Caller, Credential, Principal
from codegen_api.runs import Json
from codegen_api.telemetry import logger

RSA = ("RS256", "RS384", "RS512")
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
SECRET = ("HS256", "HS384", "HS512")
DEFAULT = ("RS256", "ES256")

SECRET_CHARACTERS = 32
LONGEST_TOKEN, LONGEST_SUBJECT = 8192, 255
_FORM = re.compile(rf"(?=.{{0,{LONGEST_TOKEN}}}\Z)[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""The library would pass over what is not base64 in it, and take many texts for one token."""

LAST_SECOND = 253_402_300_800
"""Of the year 9999."""

FRESH_SECONDS = 300.0
"""How long a key set is believed without asking again."""

COOL_DOWN_SECONDS = 10.0
"""How long after one attempt to get the key set there is no other, whatever tokens name."""

FETCH_SECONDS = 10.0
MOST_KEYS, MOST_TRIES = 100, 8

Keys = Mapping[str, Key]
"""One key, once for each algorithm that it may be used with."""


class KeySource(Protocol):
    """Where the keys of an issuer are known."""

    async def keys(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """The keys with which a token that names these may be signed."""
        ...

    async def aclose(self) -> None: ...


class Jwts:
    """Callers by JWTs of one ``issuer`` for one ``audience``; the host is shown ``credential`` for all of them.
    ``leeway`` is how far clocks may differ, in seconds.
    """

    def __init__(self, source: KeySource, *, issuer: str, audience: str, leeway: float, credential: Credential) -> None:
        self._source = source
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._credential = credential

    async def authenticate(self, token: str) -> Caller:
        """Whose token this is.

        Raises:
            InvalidToken: it is not good, or no longer, or not for us.
            AuthUnavailable: the issuer's keys cannot be had.
        """
        algorithm, kid = _named(token)
        for key in await self._source.keys(algorithm, kid):
            if _signed(token, key, algorithm):
                return self._caller(token, self._claims(token, key, algorithm))
        raise InvalidToken

    async def aclose(self) -> None:
        await self._source.aclose()

    def _claims(self, token: str, key: Key, algorithm: str) -> Mapping[str, Any]:
        required = {f"require_{claim}": True for claim in ("iss", "aud", "exp", "sub")}
        # of these we believe nothing anyway, and what they hold is not checked with the care that would need
        unused = {f"verify_{claim}": False for claim in ("iat", "jti", "at_hash")}
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options={**required, **unused, "leeway": self._leeway},
            )
        except ExpiredSignatureError:
            raise InvalidToken("Authentication failed: the token has expired.") from None
        except Exception:  # process boundary: claims of odd types bring all kinds of errors out of the library
            raise InvalidToken from None
        return claims

    def _caller(self, token: str, claims: Mapping[str, Any]) -> Caller:
        user, expires = claims["sub"], claims["exp"]
        dated = isinstance(expires, int | float) and not isinstance(expires, bool) and 0 < expires < LAST_SECOND
        if not (dated and 0 < len(user) <= LONGEST_SUBJECT and user.isprintable()):
            raise InvalidToken
        return Caller(
            Principal(f"jwt:{self._issuer}", user),
            self._credential,
            token,
            scopes=_scopes(claims.get("scope")) | _scopes(claims.get("scp")),
            shared=True,
            expires=expires + self._leeway,
        )


class FixedKey:
    """One key, given in the settings: a public key or a certificate as PEM, or a secret shared with the issuer.

    Raises ``ValueError``, which does not quote it, when it cannot be used with any of ``algorithms``.
    """

    def __init__(self, text: str, algorithms: Sequence[str]) -> None:
        if "-----BEGIN" in text:
            pem = text.replace("\\n", "\n")  # as it stands in an environment variable, sometimes
            self._keys = _bound(_loaded(pem), algorithms or DEFAULT)
            if set(algorithms) & set(SECRET):
                raise ValueError("a public key is no secret: HS256 and the like do not go with it")
        else:
            algorithms = algorithms or SECRET[:1]
            if not set(algorithms) <= set(SECRET):
                raise ValueError(
                    "a shared secret goes with HS256 and the like only; a public key begins with -----BEGIN"
                )
            if len(text) < SECRET_CHARACTERS:
                raise ValueError(f"a shared secret needs {SECRET_CHARACTERS} characters or more")
            self._keys = {algorithm: jwk.construct(text, algorithm) for algorithm in algorithms}
        if not self._keys:
            raise ValueError("none of the algorithms goes with this key")

    async def keys(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        key = self._keys.get(algorithm)
        return () if key is None else (key,)

    async def aclose(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Published:
    kid: str | None
    keys: Keys


class KeySet:
    """The keys that an issuer publishes; ``fetch`` gets its JSON Web Key Set (RFC 7517).

    The last good set is kept while there is no newer one. A token that names an unknown key is a reason to ask again,
    but not often: anybody can make one up. Raises ``ValueError`` for ``algorithms`` that no published key goes with.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Json]], algorithms: Sequence[str]) -> None:
        if set(algorithms) & set(SECRET):
            raise ValueError("published keys are no secret: HS256 and the like do not go with them")
        self._fetch = fetch
        self._algorithms = algorithms or DEFAULT
        self._set: Sequence[_Published] = ()
        self._fetched = self._tried = -math.inf
        self._failed = False
        self._flights: Flights[None, None] = Flights()

    async def keys(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """
        Raises:
            AuthUnavailable: there is no set, or the one there is may be too old to know such a key.
        """
        if loop_time() >= self._fetched + FRESH_SECONDS or not self._named(kid):
            await self._refresh()
        found = self._named(kid)
        if not found and self._failed:
            raise AuthUnavailable("The issuer's keys cannot be had just now.", retry_after=COOL_DOWN_SECONDS)
        return [each.keys[algorithm] for each in found if algorithm in each.keys][:MOST_TRIES]

    async def aclose(self) -> None:
        await self._flights.aclose()

    def _named(self, kid: str | None) -> Sequence[_Published]:
        return [each for each in self._set if kid in (None, each.kid)]

    async def _refresh(self) -> None:
        if loop_time() >= self._tried + COOL_DOWN_SECONDS:
            await self._flights.share(None, self._ask)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._set = _read(await self._fetch(), self._algorithms)
            self._fetched = loop_time()
            self._failed = False
        except (GatewayError, ValueError, TimeoutError) as error:
            self._failed = True
            logger.warning("the issuer's keys cannot be had: %s", type(error).__name__)
        self._tried = loop_time()


def looks_like_jwt(token: str) -> bool:
    """Whether this is a JWT, signed, unsigned or encrypted, by its shape alone."""
    parts = token.split(".")
    return len(parts) in (3, 5) and "alg" in _header(parts[0])


def _header(part: str) -> Mapping[str, Any]:
    """What the first part of a token says; nothing, if it says nothing of use."""
    try:
        said = json.loads(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _named(token: str) -> tuple[str, str | None]:
    """The algorithm and the key that a token names. Both are only a wish."""
    header = _header(token.partition(".")[0]) if _FORM.fullmatch(token) else {}
    algorithm, kid = header.get("alg"), header.get("kid")
    # whatever must be understood, is not understood here (RFC 7515, 4.1.11)
    if not isinstance(algorithm, str) or not isinstance(kid, str | None) or {"crit", "b64"} & header.keys():
        raise InvalidToken
    return algorithm, kid


def _signed(token: str, key: Key, algorithm: str) -> bool:
    try:
        jws.verify(token, key, [algorithm])
    except Exception:  # process boundary: made-up tokens bring all kinds of errors out of the library
        return False
    return True


def _scopes(claim: object) -> frozenset[str]:
    """Those of ours that a claim names: a text with spaces, or a list."""
    named = claim.split(" ") if isinstance(claim, str) else claim
    return (
        SCOPES.intersection(each for each in named if isinstance(each, str)) if isinstance(named, list) else frozenset()
    )


def _loaded(pem: str) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    if "PRIVATE KEY" in pem:
        raise ValueError("this is a private key; the gateway wants the public one")
    try:
        certificate = "-----BEGIN CERTIFICATE-----" in pem
        key = load_pem_x509_certificate(pem.encode()).public_key() if certificate else load_pem_public_key(pem.encode())
    except ValueError:
        raise ValueError("this PEM cannot be read as a public key or a certificate") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ValueError("this key is neither an RSA nor an EC one")
    return key


def _bound(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, algorithms: Sequence[str]) -> Keys:
    fitting: Sequence[str] = RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        fitting = [CURVES.get(CURVE_NAMES.get(key.curve.name, ""), "")]
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {algorithm: jwk.construct(pem, algorithm) for algorithm in algorithms if algorithm in fitting}


def _read(answer: Json, algorithms: Sequence[str]) -> Sequence[_Published]:
    """The keys of a key set that can be used here; those that cannot are passed over.

    Raises:
        ValueError: there is none.
    """
    listed = answer.get("keys") if isinstance(answer, Mapping) else None
    found = []
    for item in listed[:MOST_KEYS] if isinstance(listed, list) else []:
        if isinstance(item, dict) and item.get("use", "sig") == "sig" and _verifies(item.get("key_ops")):
            allowed = [each for each in algorithms if item.get("alg", each) == each]
            keys = _constructed(item, allowed)
            if keys:
                found.append(_Published(item["kid"] if isinstance(item.get("kid"), str) else None, keys))
    if not found:
        raise ValueError("there is no key of use in the key set")
    return found


def _verifies(operations: Json) -> bool:
    return operations is None or (isinstance(operations, list) and "verify" in operations)


def _constructed(item: Mapping[str, Any], algorithms: Sequence[str]) -> Keys:
    kind = item.get("kty")
    fitting: Sequence[str] = RSA if kind == "RSA" else [CURVES.get(str(item.get("crv")), "")] if kind == "EC" else []
    public = {name: value for name, value in item.items() if name != "d"}
    try:
        return {each: jwk.construct(public, each) for each in algorithms if each in fitting}
    except (JWKError, ValueError, TypeError, AttributeError, KeyError):  # whatever the library makes of an odd key
        return {}
