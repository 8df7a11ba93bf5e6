"""The keys with which an issuer signs: one from the settings, or those that it publishes.

Each key is bound to the algorithms of its type before a token is looked at. A token cannot choose: otherwise an
attacker could sign with HS256, using the public key as the shared secret.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jose import jwk
from jose.backends.base import Key
from jose.exceptions import JWKError
from jose.utils import base64url_decode

from codegen_api.errors import AuthUnavailable, GatewayError
from codegen_api.following import loop_time
from codegen_api.runs import Json
from codegen_api.singleflight import Singleflight
from codegen_api.telemetry import Observation, logger, quoted

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
EDWARDS = "EdDSA"
HASHES: Mapping[str, SHA256 | SHA384 | SHA512] = {"PS256": SHA256(), "PS384": SHA384(), "PS512": SHA512()}
SECRET = ("HS256", "HS384", "HS512")
DEFAULT = ("RS256", "ES256", EDWARDS)

SECRET_CHARACTERS = 32

FRESH_SECONDS = 300.0
"""How long a key set is used without a refresh; also the interval in which the same problem with it is logged once."""

COOL_DOWN_SECONDS = 10.0
"""Minimum seconds between attempts to fetch the key set, whatever key ids tokens name."""

FETCH_SECONDS = 10.0
MAX_KEYS, MAX_TRIES, MAX_SHOWN = 100, 8, 5

Keys: TypeAlias = Mapping[str, Key]
"""One key, in a version for each algorithm it may be used with."""

Public: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class KeySource(Protocol):
    """A source of an issuer's keys. ``algorithms`` are those with which it may sign."""

    algorithms: Sequence[str]

    @property
    def observation(self) -> Observation | None:
        """The state at the last fetch; None if there was none, or none is needed."""
        ...

    def keys(self, algorithm: str, kid: str | None) -> AsyncGenerator[Key, None]:
        """Candidate keys for a token with these headers, the likeliest first. Must be closed after use."""
        ...

    def known(self) -> str:
        """The available keys, for the log."""
        ...

    def open(self) -> None:
        """Begin to fetch the keys."""
        ...

    async def aclose(self) -> None: ...


class FixedKey:
    """One key from the settings: a public key or certificate in PEM, or a secret shared with the issuer.

    Raises ``ValueError``, which does not quote it, if none of ``algorithms`` can use it.
    """

    observation: Observation | None = None

    def __init__(self, text: str, algorithms: Sequence[str]) -> None:
        if "-----BEGIN" in text:
            pem = text.replace("\\n", "\n")  # environment variables often have escaped newlines
            self._keys = _bound(_load_pem(pem), algorithms or DEFAULT)
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
        self.algorithms: Sequence[str] = tuple(self._keys)

    async def keys(self, algorithm: str, kid: str | None) -> AsyncGenerator[Key, None]:
        if algorithm in self._keys:
            yield self._keys[algorithm]

    def known(self) -> str:
        return "the one key of the settings"

    def open(self) -> None:
        return None

    async def aclose(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Published:
    kid: str | None
    keys: Keys


class KeySet:
    """The keys that an issuer publishes; ``fetch`` returns its JSON Web Key Set (RFC 7517).

    The last good set is used until there is a newer one. A token that fits no key triggers a refresh, but not often:
    anybody can make one up. Raises ``ValueError`` for ``algorithms`` that published keys cannot have.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Json]], algorithms: Sequence[str]) -> None:
        if set(algorithms) & set(SECRET):
            raise ValueError("published keys are no secret: HS256 and the like do not go with them")
        self._fetch = fetch
        self.algorithms: Sequence[str] = algorithms or DEFAULT
        self.observation: Observation | None = None
        self._set: Sequence[_Published] = ()
        self._fetched = self._tried = self._logged_at = -math.inf
        self._trouble = ""
        self._flights: Singleflight[None, None] = Singleflight()

    async def keys(self, algorithm: str, kid: str | None) -> AsyncGenerator[Key, None]:
        """
        Raises:
            AuthUnavailable: there is no set, or it may be too old to contain the key.
        """
        if loop_time() >= self._fetched + FRESH_SECONDS or not self._set:
            await self._refresh()
        known = self._set
        for key in self._fitting(algorithm, kid):
            yield key
        if kid is not None and any(each.kid == kid for each in known):
            return  # the named key is known, and has not signed this
        await self._refresh()
        if self._set is not known:
            for key in self._fitting(algorithm, kid):
                yield key
        if self._trouble and not (kid is not None and any(each.kid == kid for each in self._set)):
            reason = f"key: the issuer's keys cannot be had ({self._trouble})"
            raise AuthUnavailable(
                "The issuer's keys cannot be had just now.", retry_after=COOL_DOWN_SECONDS, reason=reason
            )

    def known(self) -> str:
        names = [quoted(each.kid) for each in self._set if each.kid is not None]
        shown = f" ({', '.join(names[:MAX_SHOWN])}{', ...' if len(names) > MAX_SHOWN else ''})" if names else ""
        return f"the {len(self._set)} keys of the issuer{shown}"

    def open(self) -> None:
        """Fetch the keys now, so that problems are logged before anybody needs them."""
        self._opening = asyncio.ensure_future(self._refresh())

    async def aclose(self) -> None:
        await self._flights.aclose()

    def _fitting(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """Keys with that id, then those without any: an issuer need not name its only key."""
        by_name = [each for each in self._set if kid in (None, each.kid)]
        nameless = [each for each in self._set if kid is not None and each.kid is None]
        return [each.keys[algorithm] for each in [*by_name, *nameless] if algorithm in each.keys][:MAX_TRIES]

    async def _refresh(self) -> None:
        if loop_time() >= self._tried + COOL_DOWN_SECONDS:
            await self._flights.share(None, self._ask)

    async def _ask(self) -> None:
        trouble = ""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._set = _read(await self._fetch(), self.algorithms)
            self._fetched = loop_time()
        except TimeoutError:
            trouble = f"there was no answer within {FETCH_SECONDS:.0f} seconds"
        except ValueError as error:
            trouble = str(error)
        except GatewayError as error:
            trouble = error.reason or error.code
        self._tried = loop_time()
        self.observation = Observation(not trouble, time.time())
        self._log_state(trouble)

    def _log_state(self, trouble: str) -> None:
        """Log the state of the keys when it changes, and repeatedly while it is bad."""
        now = loop_time()
        if trouble and (trouble != self._trouble or now >= self._logged_at + FRESH_SECONDS):
            logger.warning("the issuer's keys cannot be had: %s", trouble)
            self._logged_at = now
        elif not trouble and (self._trouble or self._logged_at == -math.inf):
            logger.info("the issuer's keys are there: %s", self.known())
            self._logged_at = now
        self._trouble = trouble


# -- algorithms that the library does not know ------------------------------------------------------------------------


class _Edwards(Key):
    """EdDSA with Ed25519 (RFC 8037)."""

    def __init__(self, key: ed25519.Ed25519PublicKey) -> None:
        self._key = key

    def verify(self, msg: bytes, sig: bytes) -> bool:
        try:
            self._key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True


class _Pss(Key):
    """RSASSA-PSS (RFC 7518, 3.5): the salt is as long as the hash."""

    def __init__(self, key: rsa.RSAPublicKey, algorithm: str) -> None:
        self._key = key
        self._hash = HASHES[algorithm]

    def verify(self, msg: bytes, sig: bytes) -> bool:
        scheme = padding.PSS(padding.MGF1(self._hash), self._hash.digest_size)
        try:
            self._key.verify(sig, msg, scheme, self._hash)
        except InvalidSignature:
            return False
        return True


# -- keys from texts --------------------------------------------------------------------------------------------------


def _load_pem(pem: str) -> Public:
    if "PRIVATE KEY" in pem:
        raise ValueError("this is a private key; the gateway wants the public one")
    try:
        certificate = "-----BEGIN CERTIFICATE-----" in pem
        key = load_pem_x509_certificate(pem.encode()).public_key() if certificate else load_pem_public_key(pem.encode())
    except ValueError:
        raise ValueError("this PEM cannot be read as a public key or a certificate") from None
    if not isinstance(key, Public):
        raise ValueError("this key is neither an RSA nor an EC nor an Ed25519 one")
    return key


def _bound(key: Public, algorithms: Sequence[str]) -> Keys:
    return {each: _key(key, each) for each in algorithms if each in _fitting(key)}


def _fitting(key: Public) -> Sequence[str]:
    if isinstance(key, rsa.RSAPublicKey):
        return RSA
    if isinstance(key, ec.EllipticCurvePublicKey):
        return [CURVES.get(CURVE_NAMES.get(key.curve.name, ""), "")]
    return [EDWARDS]


def _key(key: Public, algorithm: str) -> Key:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _Edwards(key)
    if isinstance(key, rsa.RSAPublicKey) and algorithm in HASHES:
        return _Pss(key, algorithm)
    return jwk.construct(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), algorithm)


def _read(answer: Json, algorithms: Sequence[str]) -> Sequence[_Published]:
    """The usable keys of a key set; others are skipped.

    Raises:
        ValueError: there is none; the text says what there is instead.
    """
    listed = answer.get("keys") if isinstance(answer, Mapping) else None
    if not isinstance(listed, list):
        raise ValueError('what came is no key set: it has no list of "keys"')
    found = []
    for item in listed[:MAX_KEYS]:
        if isinstance(item, dict) and item.get("use", "sig") == "sig" and _verifies(item.get("key_ops")):
            allowed = [each for each in algorithms if item.get("alg", each) == each]
            keys = _parse_jwk(item, allowed)
            if keys:
                found.append(_Published(item["kid"] if isinstance(item.get("kid"), str) else None, keys))
    if not found:
        kinds = "; ".join(dict.fromkeys(map(_kind, listed[:MAX_SHOWN]))) or "it is empty"
        raise ValueError(f"{len(listed)} keys, none of use with {', '.join(algorithms)}: {kinds}")
    return found


def _kind(item: object) -> str:
    """A description of a published key, for the log."""
    if not isinstance(item, dict):
        return "what is no key"
    said = [f"{name}={quoted(item[name])}" for name in ("kty", "crv", "alg", "use", "key_ops") if name in item]
    return " ".join(said) or "a key that does not say its kind"


def _verifies(operations: Json) -> bool:
    return operations is None or (isinstance(operations, list) and "verify" in operations)


def _parse_jwk(item: Mapping[str, Any], algorithms: Sequence[str]) -> Keys:
    kind, curve = item.get("kty"), str(item.get("crv"))
    public = {name: value for name, value in item.items() if name != "d"}
    try:
        if kind == "OKP" and curve == "Ed25519":
            key: Public = ed25519.Ed25519PublicKey.from_public_bytes(base64url_decode(str(item["x"]).encode()))
            return _bound(key, algorithms)
        if kind == "RSA":
            key = _load_pem(jwk.construct(public, "RS256").to_pem().decode())
            return _bound(key, algorithms)
        fitting = [CURVES.get(curve, "")] if kind == "EC" else []
        return {each: jwk.construct(public, each) for each in algorithms if each in fitting}
    # whatever the library raises for a malformed key
    except (JWKError, ValueError, TypeError, AttributeError, KeyError):
        return {}
