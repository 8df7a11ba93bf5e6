"""The keys with which an issuer signs: one from the settings, or those that it publishes.

Each key is bound to the algorithms of its type before a token is read. If a token could choose, an attacker could sign
with HS256 and use the public key as the shared secret.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jose import jwk, jws
from jose.backends.base import Key
from jose.exceptions import JWKError
from jose.utils import base64url_decode

from codegen_api.errors import AuthUnavailable, GatewayError
from codegen_api.following import loop_time
from codegen_api.runs import Json
from codegen_api.singleflight import Singleflight
from codegen_api.telemetry import Observation, logger, quoted

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
EDWARDS = "EdDSA"
HASHES: Mapping[str, SHA256 | SHA384 | SHA512] = {"PS256": SHA256(), "PS384": SHA384(), "PS512": SHA512()}
SECRET = ("HS256", "HS384", "HS512")
DEFAULT = ("RS256", "ES256", EDWARDS)

SECRET_CHARACTERS = 32

FRESH_SECONDS = 300.0
"""Seconds for which a key set is used without a refresh, and between two log lines about the same problem with it."""

COOL_DOWN_SECONDS = 10.0
"""Minimum seconds between attempts to fetch the key set, whatever key ids tokens name."""

FETCH_SECONDS = 10.0
MAX_KEYS, MAX_TRIES, MAX_SHOWN = 100, 8, 5

Keys: TypeAlias = Mapping[str, Key]
"""One key, in a version for each algorithm it may be used with."""

Public: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class FixedKey:
    """One key from the settings: a public key or certificate in PEM, or a secret shared with the issuer.

    Has the interface of ``KeySet``. Raises ``ValueError``, which does not quote it, if none of ``algorithms`` fits it.
    """

    observation: Observation | None = None

    def __init__(self, text: str, algorithms: Sequence[str]) -> None:
        if "-----BEGIN" in text:
            pem = text.replace("\\n", "\n")  # environment variables often have escaped newlines
            self._keys = _bind(_load_pem(pem), algorithms or DEFAULT)
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

    async def payload(self, token: str, algorithm: str, kid: str | None) -> bytes | None:
        return _verified(token, self._keys[algorithm], algorithm) if algorithm in self._keys else None

    def known(self) -> str:
        return "the one key of the settings"

    def open(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Published:
    kid: str | None
    keys: Keys


class KeySet:
    """The keys that an issuer publishes; ``fetch`` returns its JSON Web Key Set (RFC 7517).

    The last good set is used until there is a newer one. A token that fits no key triggers a refresh, but seldom, as
    anybody can make up such a token. Raises ``ValueError`` for ``algorithms`` that published keys cannot have.
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

    async def payload(self, token: str, algorithm: str, kid: str | None) -> bytes | None:
        """The payload of a token with these headers, if one of the keys has signed it.

        Raises:
            AuthUnavailable: there is no set, or it may be too old to contain the key.
        """
        if loop_time() >= self._fetched + FRESH_SECONDS or not self._set:
            await self._refresh()
        known = self._set
        payload = self._verified(token, algorithm, kid)
        if payload is not None or self._has(kid):
            return payload  # the named key is known, and no other could have signed this
        await self._refresh()
        if self._set is not known:
            payload = self._verified(token, algorithm, kid)
        if payload is None and self._trouble and not self._has(kid):
            reason = f"key: the issuer's keys cannot be had ({self._trouble})"
            raise AuthUnavailable(
                "The issuer's keys cannot be had just now.", retry_after=COOL_DOWN_SECONDS, reason=reason
            )
        return payload

    def known(self) -> str:
        """The available keys, for the log."""
        names = [quoted(each.kid) for each in self._set if each.kid is not None]
        shown = f" ({', '.join(names[:MAX_SHOWN])}{', ...' if len(names) > MAX_SHOWN else ''})" if names else ""
        return f"the {len(self._set)} keys of the issuer{shown}"

    def open(self) -> None:
        """Fetch the keys now, so that problems are logged before a key is needed."""
        self._opening = asyncio.ensure_future(self._refresh())

    async def aclose(self) -> None:
        await self._flights.aclose()

    def _has(self, kid: str | None) -> bool:
        return kid is not None and any(each.kid == kid for each in self._set)

    def _verified(self, token: str, algorithm: str, kid: str | None) -> bytes | None:
        """Try the keys with this id, then those without an id: an issuer need not name its only key."""
        by_name = [each for each in self._set if kid in (None, each.kid)]
        nameless = [each for each in self._set if kid is not None and each.kid is None]
        keys = [each.keys[algorithm] for each in [*by_name, *nameless] if algorithm in each.keys][:MAX_TRIES]
        payloads = (_verified(token, key, algorithm) for key in keys)
        return next((payload for payload in payloads if payload is not None), None)

    async def _refresh(self) -> None:
        if loop_time() >= self._tried + COOL_DOWN_SECONDS:
            await self._flights.share(None, self._fetch_now)

    async def _fetch_now(self) -> None:
        trouble = ""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._set = _parse_key_set(await self._fetch(), self.algorithms)
            self._fetched = loop_time()
        except TimeoutError:
            trouble = f"there was no answer within {FETCH_SECONDS:.0f} seconds"
        except ValueError as error:
            trouble = str(error)
        except GatewayError as error:
            trouble = error.reason or error.code
        now = self._tried = loop_time()
        self.observation = Observation(not trouble, time.time())
        # log each change of state, and an outage repeatedly
        if trouble and (trouble != self._trouble or now >= self._logged_at + FRESH_SECONDS):
            logger.warning("the issuer's keys cannot be had: %s", trouble)
            self._logged_at = now
        elif not trouble and (self._trouble or self._logged_at == -math.inf):
            logger.info("the issuer's keys are there: %s", self.known())
            self._logged_at = now
        self._trouble = trouble


def _verified(token: str, key: Key, algorithm: str) -> bytes | None:
    """The payload, if this key has signed it."""
    try:
        payload: bytes = jws.verify(token, key, [algorithm])
    except Exception:  # process boundary: forged tokens provoke all kinds of exceptions in the library
        return None
    return payload


class _OtherKey(Key):
    """A key for an algorithm that the library lacks. ``check`` raises ``InvalidSignature`` for a wrong signature."""

    def __init__(self, check: Callable[[bytes, bytes], None]) -> None:
        self._check = check

    def verify(self, msg: bytes, sig: bytes) -> bool:
        with suppress(InvalidSignature):
            self._check(sig, msg)
            return True
        return False


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


def _bind(key: Public, algorithms: Sequence[str]) -> Keys:
    if isinstance(key, rsa.RSAPublicKey):
        fitting: Sequence[str] = RSA
    else:
        fitting = [CURVES.get(key.curve.name, "") if isinstance(key, ec.EllipticCurvePublicKey) else EDWARDS]
    return {each: _key(key, each) for each in algorithms if each in fitting}


def _key(key: Public, algorithm: str) -> Key:
    if isinstance(key, ed25519.Ed25519PublicKey):  # RFC 8037
        return _OtherKey(key.verify)
    if isinstance(key, rsa.RSAPublicKey) and algorithm in HASHES:
        hashed = HASHES[algorithm]
        # the salt is as long as the hash (RFC 7518, 3.5)
        scheme = padding.PSS(padding.MGF1(hashed), hashed.digest_size)
        return _OtherKey(lambda signature, data: key.verify(signature, data, scheme, hashed))
    return jwk.construct(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), algorithm)


def _parse_key_set(answer: Json, algorithms: Sequence[str]) -> Sequence[_Published]:
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
    if not isinstance(item, dict):
        return "what is no key"
    said = [f"{name}={quoted(item[name])}" for name in ("kty", "crv", "alg", "use", "key_ops") if name in item]
    return " ".join(said) or "a key that does not say its kind"


def _verifies(operations: Json) -> bool:
    return operations is None or (isinstance(operations, list) and "verify" in operations)


def _parse_jwk(item: Mapping[str, Any], algorithms: Sequence[str]) -> Keys:
    public = {name: value for name, value in item.items() if name != "d"}
    try:
        if item["kty"] == "OKP" and item["crv"] == "Ed25519":
            key: Public = ed25519.Ed25519PublicKey.from_public_bytes(base64url_decode(str(item["x"]).encode()))
        else:
            key = _load_pem(jwk.construct(public, {"RSA": "RS256", "EC": "ES256"}[item["kty"]]).to_pem().decode())
        return _bind(key, algorithms)
    # what the library raises for malformed keys
    except (JWKError, ValueError, TypeError, AttributeError, KeyError):
        return {}
