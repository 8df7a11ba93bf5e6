"""Tickets: the right to read one run's live log, or the feed of runs, for a while, sealed into a text for a URL.

A ticket contains what is needed to ask the host on its owner's behalf, so nothing is stored and any process with the
same key can open it. It is encrypted and authenticated (AES-256-GCM). For a JWT it contains the claims, not the token:
proxies do not accept URLs that long.
"""

import base64
import binascii
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from codegen_api.errors import InvalidTicket, TokenTooLong
from codegen_api.identity import Caller, Principal
from codegen_api.runs import RunRef

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PURPOSE, PURPOSE_WITHOUT_TOKEN = b"codegen_api stream ticket, form 1", b"codegen_api stream ticket, form 2"
"""Labels for the keys of tickets with and without a token; other keys from the same secret have other labels."""

LIFETIME = 3600.0
"""Minimum lifetime of a ticket in seconds."""

NONCE_BYTES = 12

FEED = ""
"""Instead of a run's id: the ticket is for the feed of an organization's runs."""

_FORM = re.compile(r"[A-Za-z0-9_-]{40,16384}", re.ASCII)

MAX_LENGTH = 7 * 1024
"""Maximum characters of a ticket. nginx accepts a request line of 8 KiB, which also contains the path."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket's content: which log may be read, by whom, and until when (epoch seconds). The host is asked with
    ``token``, or without one by what it granted: ``scopes``, valid ``until``.
    """

    run: RunRef
    principal: Principal
    expires: int
    token: str | None = field(default=None, repr=False)
    scopes: frozenset[str] = frozenset()
    until: float | None = None


class Tickets:
    """Seals tickets with the first of ``secrets``, and opens those of all. A ticket outlives two streams of
    ``stream_seconds``.
    """

    def __init__(self, secrets: Sequence[str], stream_seconds: float) -> None:
        self._secrets = secrets
        self._lifetime = max(LIFETIME, 2 * stream_seconds + 60)

    @cached_property
    def _ciphers(self) -> "Mapping[bytes, Sequence[AESGCM]]":
        """The ciphers for each purpose, with keys derived from the secrets."""
        # imported on demand: encryption needs a large library, and few clients ask for tickets
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        def cipher(secret: str, purpose: bytes) -> AESGCM:
            return AESGCM(HKDF(SHA256(), 32, salt=None, info=purpose).derive(secret.encode()))

        purposes = PURPOSE, PURPOSE_WITHOUT_TOKEN
        return {purpose: [cipher(secret, purpose) for secret in self._secrets] for purpose in purposes}

    def seal(self, run: RunRef, caller: Caller, now: float) -> tuple[str, int]:
        """A ticket for ``caller`` to read the log of ``run``, and its expiry.

        Raises:
            TokenTooLong: the ticket would be too long for a URL.
        """
        good_until = now + self._lifetime
        if caller.expires is not None:  # not beyond their credentials
            good_until = min(good_until, caller.expires)
        expires = math.ceil(good_until)
        subject: list[object] = [run.organization, run.id, caller.principal.authority, caller.principal.user]
        if caller.shown is not None:
            purpose, grant = PURPOSE, [caller.shown, expires]
        else:
            purpose, grant = PURPOSE_WITHOUT_TOKEN, [sorted(caller.scopes), caller.expires, expires]
        nonce = os.urandom(NONCE_BYTES)
        content = json.dumps([*subject, *grant]).encode()
        text = _encoded(nonce + self._ciphers[purpose][0].encrypt(nonce, content, None))
        if len(text) > MAX_LENGTH:
            raise TokenTooLong("There are no tickets for so long a token: no URL could hold one.")
        return text, expires

    def open(self, text: str, now: float) -> Ticket:
        """Open the ticket ``text``.

        Raises:
            InvalidTicket: it is not a ticket of ours, or has expired.
        """
        sealed = _decoded(text)
        content = self._decrypt(PURPOSE, sealed) or self._decrypt(PURPOSE_WITHOUT_TOKEN, sealed)
        if content is None or now >= content[-1]:
            raise InvalidTicket
        organization, run, authority, user, *grant, expires = content
        ref, principal = RunRef(organization, run), Principal(authority, user)
        if len(grant) == 1:
            return Ticket(ref, principal, expires, token=grant[0])
        scopes, until = grant
        return Ticket(ref, principal, expires, scopes=frozenset(scopes), until=until)

    def _decrypt(self, purpose: bytes, sealed: bytes) -> list[Any] | None:
        """None if this was not encrypted with one of the keys for this purpose, or was altered."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above

        for cipher in self._ciphers[purpose]:
            with suppress(InvalidTag):
                content: list[Any] = json.loads(cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None))
                return content
        return None


def _encoded(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    if not _FORM.fullmatch(text):
        raise InvalidTicket
    try:
        sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise InvalidTicket from None
    if _encoded(sealed) != text:  # unused bits of base64 differ: a second text for the same ticket
        raise InvalidTicket
    return sealed
