"""Authentication by JWTs: an issuer says who somebody is and what they may do, and its signature proves that it did.

Nothing is ever taken unsigned, and what a token says of how it is signed is only a wish: ``signing`` knows the keys.
"""

import base64
import binascii
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from jose import jws
from jose.backends.base import Key

from codegen_api.auth.signing import KeySource
from codegen_api.errors import InvalidTicket, InvalidToken
from codegen_api.identity import READ, SCOPES, WRITE, Caller, Credential, Principal
from codegen_api.telemetry import Observation, Seldom, quoted

LONGEST_SUBJECT = 255
_FORM = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""The library would pass over what is not base64 in it, and take many texts for one token."""

LAST_SECOND = 253_402_300_800
"""Of the year 9999."""

EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Claims:
    """Where the tokens of an issuer say what. A claim within others is named by the way to it: ``realm_access.roles``.

    What stands in ``scopes``, behind ``prefix``, is a scope of ours; or it is one of ``granted``, which says for a word
    of theirs which scopes it is, and for ``*`` which everybody has.
    """

    audience: str = "aud"
    scopes: Sequence[str] = ("scope", "scp")
    prefix: str = ""
    granted: Mapping[str, frozenset[str]] = field(default_factory=dict)


class Jwts:
    """Callers by JWTs of one ``issuer`` for one ``audience``; the host is shown ``credential`` for all of them.
    ``leeway`` is how far clocks may differ, in seconds.
    """

    def __init__(
        self,
        source: KeySource,
        *,
        issuer: str,
        audience: str,
        leeway: float,
        credential: Credential,
        claims: Claims | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuer = issuer
        self._source = source
        self._audience = audience
        self._leeway = leeway
        self._credential = credential
        self._claims = claims or Claims()
        self._clock = clock
        self._seldom = Seldom()

    @property
    def observation(self) -> Observation | None:
        """How the issuer was when it was last asked for its keys."""
        return self._source.observation

    async def authenticate(self, token: str) -> Caller:
        """Whose token this is.

        Raises:
            InvalidToken: it is not good, or no longer, or not for us.
            AuthUnavailable: the issuer's keys cannot be had.
        """
        algorithm, kid = self._named(token)
        async with aclosing(self._source.keys(algorithm, kid)) as keys:
            async for key in keys:
                payload = _signed(token, key, algorithm)
                if payload is not None:
                    return self._caller(_object(payload))
        # what it says of its issuer is only a hint here: nobody has signed it
        found = _object(_decoded(token.split(".")[1])).get("iss")
        hint = "" if found == self.issuer else f"; it says that its issuer is {quoted(found)}"
        named = "which names no key" if kid is None else f"signed with the key {quoted(kid)}"
        raise InvalidToken(reason=f"key: a token {named} fits none of {self._source.known()}{hint}")

    def vouched(self, principal: Principal, scopes: frozenset[str], expires: float | None) -> Caller:
        """Somebody whose token said that, and was good, when they were given what they come with now.

        Raises:
            InvalidTicket: their issuer is not ours any more.
        """
        if principal.authority != self._authority:
            raise InvalidTicket
        return Caller(principal, self._credential, None, scopes=scopes, shared=True, expires=expires)

    def open(self) -> None:
        """Begin to look for the issuer's keys."""
        self._source.open()

    def absent(self, principal: Principal) -> Caller | None:
        """A user of this issuer, with a right to what is their own only. Whether they are one still nobody can ask."""
        if principal.authority != self._authority:
            return None
        return Caller(principal, self._credential, None, scopes=frozenset({READ, WRITE}), shared=True)

    async def aclose(self) -> None:
        await self._source.aclose()

    @property
    def _authority(self) -> str:
        return f"jwt:{self.issuer}"

    def _named(self, token: str) -> tuple[str, str | None]:
        """The algorithm and the key that a token names. Both are only a wish."""
        if not _FORM.fullmatch(token):
            raise InvalidToken(reason="form: it has the header of a JWT, and is no base64 in 3 parts")
        header = _object(_decoded(token.partition(".")[0]))
        algorithm, kid = header.get("alg"), header.get("kid")
        # whatever must be understood, is not understood here (RFC 7515, 4.1.11)
        if not isinstance(algorithm, str) or not isinstance(kid, str | None) or {"crit", "b64"} & header.keys():
            raise InvalidToken(reason="form: its header names no algorithm, or an odd key, or claims to be critical")
        if algorithm not in self._source.algorithms:
            taken = ", ".join(self._source.algorithms)
            raise InvalidToken(reason=f"alg: it is signed with {quoted(algorithm)}, and taken are {taken}")
        return algorithm, kid

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        faults = list(self._faults(claims))
        if faults:
            expired = len(faults) == 1 and faults[0].startswith("exp: it expired")
            message = "Authentication failed: the token has expired." if expired else None
            raise InvalidToken(message, reason="; ".join(faults))
        scopes = self._scopes(claims)
        if not scopes:
            said = ", ".join(f"{name}={quoted(_claim(claims, name))}" for name in self._claims.scopes)
            self._seldom.log("scope", f"a good token opens nothing, as it names none of our scopes: {said}")
        user, expires = claims["sub"], claims["exp"]
        return Caller(
            Principal(self._authority, user),
            self._credential,
            None,
            scopes=scopes,
            shared=True,
            expires=expires + self._leeway,
        )

    def _faults(self, claims: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with a token that the issuer has signed. Of ``iat`` and the like we believe nothing anyway."""
        now, where = self._clock(), self._claims.audience
        issuer, audience, user, expires = claims.get("iss"), _claim(claims, where), claims.get("sub"), claims.get("exp")
        if issuer != self.issuer or not isinstance(issuer, str):
            yield f"iss: expected {quoted(self.issuer)}, found {quoted(issuer)}"
        audiences = [audience] if isinstance(audience, str) else audience
        whole = isinstance(audiences, list) and all(isinstance(each, str) for each in audiences)
        if not whole or self._audience not in audiences:
            yield f"{where}: expected {quoted(self._audience)}, found {quoted(audience)}"
        if expires is None or not _is_time(expires):
            yield f"exp: expected a time, found {quoted(expires)}"
        elif now > expires + self._leeway:
            yield f"exp: it expired {now - expires:.0f} seconds ago"
        if "nbf" in claims and not _is_time(claims["nbf"]):
            yield f"nbf: expected a time, found {quoted(claims['nbf'])}"
        elif "nbf" in claims and claims["nbf"] > now + self._leeway:
            yield f"nbf: it is good in {claims['nbf'] - now:.0f} seconds"
        if not isinstance(user, str) or not 0 < len(user) <= LONGEST_SUBJECT or not user.isprintable():
            yield f"sub: expected a text of 1 to {LONGEST_SUBJECT} printable characters"

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """The scopes of ours that a token means."""
        known, found = self._claims, set(self._claims.granted.get(EVERYBODY, ()))
        for name in known.scopes:
            for word in _words(_claim(claims, name)):
                found |= known.granted.get(word, frozenset()) if word != EVERYBODY else frozenset()
                if word.startswith(known.prefix):
                    found.add(word.removeprefix(known.prefix))
        return SCOPES.intersection(found)


def looks_like_jwt(token: str) -> bool:
    """Whether this is a JWT, signed, unsigned or encrypted, by its shape alone."""
    parts = token.split(".")
    return len(parts) in (3, 5) and "alg" in _object(_decoded(parts[0]))


def _decoded(part: str) -> bytes:
    """A part of a token; nothing, if it is no base64."""
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""


def _object(said: bytes) -> Mapping[str, Any]:
    """What a part of a token says; nothing, if it says nothing of use."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _signed(token: str, key: Key, algorithm: str) -> bytes | None:
    """What the token says, if this key has signed it."""
    try:
        payload: bytes = jws.verify(token, key, [algorithm])
    except Exception:  # process boundary: made-up tokens bring all kinds of errors out of the library
        return None
    return payload


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LAST_SECOND


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of that name, or the one to which that is the way; a name may hold dots itself."""
    if name in claims:
        return claims[name]
    for dot in (found.start() for found in re.finditer(r"\.", name)):
        inside = claims.get(name[:dot])
        found = _claim(inside, name[dot + 1 :]) if isinstance(inside, dict) else None
        if found is not None:
            return found
    return None


def _words(claim: object) -> list[str]:
    """The words of a claim: a text with spaces or commas, or a list. What has a comma may be one word as well."""
    if isinstance(claim, str):
        words = claim.split(" ")
        return words + [part for word in words if "," in word for part in word.split(",")]
    return [each for each in claim if isinstance(each, str)] if isinstance(claim, list) else []
