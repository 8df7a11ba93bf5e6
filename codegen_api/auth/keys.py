"""Authentication by API keys of the gateway, for machines. The operator keeps a list with a line per key:

    nightly digest=sha256:... scopes=runs:read,runs:write organization=323 expires=2027-01-01

It holds the SHA-256 of each key, which is enough because keys are long and random. ``organization`` and ``expires`` (a
date, or a time with its zone) are optional. ``;`` also separates lines, and ``#`` begins a comment. Runs belong to the
name, so two lines may have the same name while a key is being replaced.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from codegen_api.errors import InvalidToken
from codegen_api.following import loop_time
from codegen_api.identity import SCOPES, Caller, Credential, Principal
from codegen_api.telemetry import logger

PREFIX = "cgk_"
RELOAD_SECONDS = 1.0
"""Minimum seconds between two reads of the list."""

A_NAME = "a name is 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or a digit"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
AUTHORITY = "key"

_ORGANIZATION = re.compile(r"[!-~]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A line of the list; ``expires`` in epoch seconds."""

    name: str
    digest: str
    scopes: frozenset[str]
    organization: str | None = None
    expires: float | None = None


class Keys:
    """Accepts the keys in the list that ``read`` returns, which is read again later. The host is called with
    ``credential`` for all of them.

    Raises ``ValueError``, which names the line, if the initial list is invalid, and the errors of ``read``.
    """

    def __init__(
        self, read: Callable[[], str], *, credential: Credential, clock: Callable[[], float] = time.time
    ) -> None:
        self._read = read
        self._credential = credential
        self._clock = clock
        self._text: str | None = read()
        self._entries = parse_list(self._text)
        self._trouble = ""
        self._loaded_at = -RELOAD_SECONDS

    async def authenticate(self, key: str) -> Caller:
        """The caller with this key.

        Raises:
            InvalidToken: it is not listed, or has expired.
        """
        return self._caller(self._find(hashlib.sha256(key.encode()).hexdigest()), key)

    def absent(self, principal: Principal) -> Caller | None:
        """The caller of this name, with the rights of the first of their keys that is still valid."""
        if principal.authority != AUTHORITY:
            return None
        self._reload()
        for entry in self._entries:
            if entry.name == principal.user and (entry.expires is None or entry.expires > self._clock()):
                return self._caller(entry, None)
        return None

    def _confirm(self, earlier: KeyEntry) -> None:
        if self._find(earlier.digest) != earlier:  # a changed line is a different grant
            raise InvalidToken(reason=f"key: the line of {earlier.name} has changed")

    def _caller(self, entry: KeyEntry, shown: str | None) -> Caller:
        return Caller(
            Principal(AUTHORITY, entry.name),
            self._credential,
            shown,
            scopes=entry.scopes,
            shared=True,
            organization=entry.organization,
            expires=entry.expires,
            confirm=lambda: self._confirm(entry),
        )

    def _find(self, digest: str) -> KeyEntry:
        self._reload()
        # always compare all of them, so that the time reveals nothing
        matches = [entry for entry in self._entries if hmac.compare_digest(entry.digest, digest)]
        if not matches:
            raise InvalidToken(reason=f"list: it is none of the {len(self._entries)} keys in the list")
        entry = matches[0]
        if entry.expires is not None and entry.expires <= self._clock():
            raise InvalidToken("Authentication failed: the key has expired.", reason=f"exp: {entry.name} has expired")
        return entry

    def _reload(self) -> None:
        """Reload a changed list. If it cannot be read, the old one stays in force, and that is logged once."""
        now = loop_time()
        if now < self._loaded_at + RELOAD_SECONDS:
            return
        self._loaded_at = now
        try:
            text = self._read()
            if text != self._text:
                self._entries = parse_list(text)
                self._text = text
            trouble = ""
        except (OSError, ValueError) as error:
            trouble = str(error) if isinstance(error, ValueError) else "it cannot be read"
        if trouble and trouble != self._trouble:
            logger.warning("the list of keys stays as it was: %s", trouble)
        self._trouble = trouble


def looks_like_key(token: str) -> bool:
    return token.startswith(PREFIX)


def new_key(
    name: str, scopes: Collection[str], organization: str | None = None, expires: str | None = None
) -> tuple[str, str]:
    """A new key, stored nowhere, and its line for the list. Raises ``ValueError`` if no line can express this."""
    if not _NAME.fullmatch(name):
        raise ValueError(A_NAME)
    key = PREFIX + secrets.token_urlsafe(32)
    fields = {
        "digest": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}",
        "scopes": ",".join(scopes),
        "organization": organization,
        "expires": expires,
    }
    line = " ".join([name, *(f"{field}={value}" for field, value in fields.items() if value is not None)])
    if set("#;\n") & set(line):
        raise ValueError("#, ; and line breaks mean something else in the list")
    parse_list(line)
    return key, line


def parse_list(text: str) -> Sequence[KeyEntry]:
    """Parse a list. Raises ``ValueError``, which names the line and never a digest."""
    entries: dict[str, KeyEntry] = {}
    for number, line in enumerate(re.split(r"[\n;]", text), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            entry = _parse_entry(words[0], words[1:])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if entry.digest in entries:
            raise ValueError(f"line {number}: this key is in the list already")
        entries[entry.digest] = entry
    return tuple(entries.values())


def _parse_entry(name: str, words: Sequence[str]) -> KeyEntry:
    if not _NAME.fullmatch(name):
        raise ValueError(A_NAME)
    fields = dict(each.partition("=")[::2] for each in words)
    if len(fields) != len(words) or not fields.keys() <= {"digest", "scopes", "organization", "expires"}:
        raise ValueError("the name is followed by digest=, scopes=, organization= and expires=, each at most once")
    digest = _DIGEST.fullmatch(fields.get("digest", ""))
    if digest is None:
        raise ValueError("digest= must be sha256: and 64 hexadecimal digits")
    scopes = frozenset(fields.get("scopes", "").split(","))
    if not scopes <= SCOPES:
        raise ValueError(f"scopes= must be some of {', '.join(sorted(SCOPES))}, separated by commas")
    organization = fields.get("organization")
    if organization is not None and not _ORGANIZATION.fullmatch(organization):
        raise ValueError("organization= must be the id of an organization")
    expires = fields.get("expires")
    return KeyEntry(name, digest[1], scopes, organization, None if expires is None else _parse_time(expires))


def _parse_time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None and len(text) > len("2027-01-01"):
            raise ValueError
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("expires= must be a date, 2027-01-01, or a time with its zone, 2027-01-01T08:00:00Z") from None
