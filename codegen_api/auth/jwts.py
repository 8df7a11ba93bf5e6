"""Authentication by JWTs, whose issuer says who a user is and what they may do.

Unsigned tokens are never accepted. The algorithm that a token names is only a request: ``issuer_keys`` binds each key
to its algorithms.
"""

import base64
import binascii
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from codegen_api.errors import InvalidTicket, InvalidToken
from codegen_api.identity import READ, SCOPES, WRITE, Caller, Credential, Principal
from codegen_api.telemetry import quoted
from codegen_api.telemetry.log_lines import LogLimiter

if TYPE_CHECKING:  # imported on demand: signatures need large libraries
    from codegen_api.auth.issuer_keys import FixedKey, KeySet

LONGEST_SUBJECT = 255
_FORM = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""Strict, because the library skips invalid base64 characters and would accept many texts for one token."""

LAST_SECOND = 253_402_300_800
"""The end of the year 9999."""

EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claims of an issuer's tokens to read. A nested claim is named by its path: ``realm_access.roles``.

    A word in the claims ``scopes`` is a scope of ours behind ``prefix``, or a key of ``granted``, which maps the
    issuer's words to our scopes; ``*`` there applies to everybody.
    """

    audience: str = "aud"
    scopes: Sequence[str] = ("scope", "scp")
    prefix: str = ""
    granted: Mapping[str, frozenset[str]] = field(default_factory=dict)


def looks_like_jwt(token: str) -> bool:
    """Whether this has the form of a JWT, be it signed, unsigned or encrypted."""
    parts = token.split(".")
    return len(parts) in (3, 5) and "alg" in _json_object(_decoded(parts[0]))


@dataclass(eq=False, repr=False)
class Jwts:
    """Accepts JWTs from one ``issuer`` for one ``audience``. The host is called with ``credential`` for all of them.
    ``leeway`` is the tolerated clock difference in seconds.
    """

    source: "FixedKey | KeySet"
    issuer: str
    audience: str
    leeway: float
    credential: Credential
    claims: Claims = field(default_factory=Claims)
    _limited_log: LogLimiter = field(default_factory=LogLimiter, init=False)

    async def authenticate(self, token: str) -> Caller:
        """The caller with this token.

        Raises:
            InvalidToken: it is invalid, expired, or for another audience.
            AuthUnavailable: the issuer's keys cannot be fetched.
        """
        algorithm, kid = self._read_header(token)
        payload = await self.source.payload(token, algorithm, kid)
        if payload is not None:
            return self._caller_of(_json_object(payload))
        # unverified, so its issuer is no more than a hint
        issuer = _json_object(_decoded(token.split(".")[1])).get("iss")
        hint = "" if issuer == self.issuer else f"; it says that its issuer is {quoted(issuer)}"
        named = "which names no key" if kid is None else f"signed with the key {quoted(kid)}"
        raise InvalidToken(reason=f"key: a token {named} fits none of {self.source.known()}{hint}")

    def from_ticket(self, principal: Principal, scopes: frozenset[str], expires: float | None) -> Caller:
        """The caller whose token had these claims when the ticket was made.

        Raises:
            InvalidTicket: the issuer is no longer configured.
        """
        if principal.authority != self._authority:
            raise InvalidTicket
        return self._caller(principal, scopes, expires)

    def absent(self, principal: Principal) -> Caller | None:
        """A user of this issuer, with rights to their own runs only. Whether they still exist cannot be checked."""
        if principal.authority != self._authority:
            return None
        return self._caller(principal, frozenset({READ, WRITE}))

    @property
    def _authority(self) -> str:
        return f"jwt:{self.issuer}"

    def _read_header(self, token: str) -> tuple[str, str | None]:
        """The algorithm and the key id that the token names."""
        if not _FORM.fullmatch(token):
            raise InvalidToken(reason="form: it has the header of a JWT, and is no base64 in 3 parts")
        header = _json_object(_decoded(token.partition(".")[0]))
        algorithm, kid = header.get("alg"), header.get("kid")
        # we support no critical extensions, so must refuse them (RFC 7515, section 4.1.11)
        if not isinstance(algorithm, str) or not isinstance(kid, str | None) or {"crit", "b64"} & header.keys():
            raise InvalidToken(reason="form: its header names no algorithm, or an odd key, or claims to be critical")
        if algorithm not in self.source.algorithms:
            taken = ", ".join(self.source.algorithms)
            raise InvalidToken(reason=f"alg: it is signed with {quoted(algorithm)}, and taken are {taken}")
        return algorithm, kid

    def _caller(self, principal: Principal, scopes: frozenset[str], expires: float | None = None) -> Caller:
        return Caller(principal, self.credential, None, scopes=scopes, shared=True, expires=expires)

    def _caller_of(self, claims: Mapping[str, Any]) -> Caller:
        faults = list(self._faults(claims))
        if faults:
            expired = len(faults) == 1 and faults[0].startswith("exp: it expired")
            message = "Authentication failed: the token has expired." if expired else None
            raise InvalidToken(message, reason="; ".join(faults))
        scopes = self._scopes(claims)
        if not scopes:
            found = ", ".join(f"{name}={quoted(_claim(claims, name))}" for name in self.claims.scopes)
            self._limited_log.log("scope", f"a good token opens nothing, as it names none of our scopes: {found}")
        return self._caller(Principal(self._authority, claims["sub"]), scopes, claims["exp"] + self.leeway)

    def _faults(self, claims: Mapping[str, Any]) -> Iterator[str]:
        """What is wrong with a properly signed token. ``iat`` and the like are ignored."""
        now, where = time.time(), self.claims.audience
        issuer, audience, user, expires = claims.get("iss"), _claim(claims, where), claims.get("sub"), claims.get("exp")
        if issuer != self.issuer or not isinstance(issuer, str):
            yield f"iss: expected {quoted(self.issuer)}, found {quoted(issuer)}"
        audiences = [audience] if isinstance(audience, str) else audience
        whole = isinstance(audiences, list) and all(isinstance(each, str) for each in audiences)
        if not whole or self.audience not in audiences:
            yield f"{where}: expected {quoted(self.audience)}, found {quoted(audience)}"
        if expires is None or not _is_time(expires):
            yield f"exp: expected a time, found {quoted(expires)}"
        elif now > expires + self.leeway:
            yield f"exp: it expired {now - expires:.0f} seconds ago"
        if "nbf" in claims and not _is_time(claims["nbf"]):
            yield f"nbf: expected a time, found {quoted(claims['nbf'])}"
        elif "nbf" in claims and claims["nbf"] > now + self.leeway:
            yield f"nbf: it is good in {claims['nbf'] - now:.0f} seconds"
        if not isinstance(user, str) or not 0 < len(user) <= LONGEST_SUBJECT or not user.isprintable():
            yield f"sub: expected a text of 1 to {LONGEST_SUBJECT} printable characters"

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        known, found = self.claims, set(self.claims.granted.get(EVERYBODY, ()))
        for name in known.scopes:
            for word in _words(_claim(claims, name)):
                found |= known.granted.get(word, frozenset()) if word != EVERYBODY else frozenset()
                if word.startswith(known.prefix):
                    found.add(word.removeprefix(known.prefix))
        return SCOPES.intersection(found)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LAST_SECOND


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name or path. Names may themselves contain dots."""
    if name in claims:
        return claims[name]
    for dot in (found.start() for found in re.finditer(r"\.", name)):
        inside = claims.get(name[:dot])
        found = _claim(inside, name[dot + 1 :]) if isinstance(inside, dict) else None
        if found is not None:
            return found
    return None


def _words(claim: object) -> list[str]:
    """The words in a claim: a string split at spaces and commas, or a list. A word with commas also counts whole."""
    if isinstance(claim, str):
        words = claim.split(" ")
        return words + [part for word in words if "," in word for part in word.split(",")]
    return [each for each in claim if isinstance(each, str)] if isinstance(claim, list) else []


def _decoded(part: str) -> bytes:
    """Decode a part of a token; empty if it is not base64."""
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""


def _json_object(part: bytes) -> Mapping[str, Any]:
    """The JSON object in a decoded part of a token; empty if there is none."""
    try:
        value = json.loads(part)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
