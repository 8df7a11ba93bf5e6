"""Tickets: the right to read one run's live log for a while, sealed into a text that may stand in a URL.

A ticket holds what is needed to ask the host on its owner's behalf, so nothing is stored and every process with the
same key can open it. Nobody else can read it or change it (AES-256-GCM).
"""

import base64
import binascii
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from codegen_api.errors import InvalidTicket
from codegen_api.identity import Caller, Principal
from codegen_api.runs import RunRef

PURPOSE = b"codegen_api stream ticket, form 1"
"""Keys for other purposes come from the same secret with another label, and so do tickets that hold something else."""

LIFETIME = 3600.0
"""Seconds for which a ticket is good at least."""

_NONCE_BYTES = 12
_FORM = re.compile(r"[A-Za-z0-9_-]{40,32768}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket says: which log may be read, by whom, with which token, until when (epoch seconds)."""

    run: RunRef
    principal: Principal
    token: str = field(repr=False)
    expires: int


class Tickets:
    """Seals tickets with the first of ``secrets`` and opens those of all. Tickets outlive two streams of
    ``stream_seconds``.
    """

    def __init__(self, secrets: Sequence[str], stream_seconds: float) -> None:
        self._boxes = [AESGCM(_derived(secret)) for secret in secrets]
        self._lifetime = max(LIFETIME, 2 * stream_seconds + 60)

    def seal(self, run: RunRef, caller: Caller, now: float) -> tuple[str, int]:
        """A ticket for ``caller`` to read the log of ``run``, and when it expires."""
        good_until = now + self._lifetime
        if caller.expires is not None:  # and no longer than what they showed
            good_until = min(good_until, caller.expires)
        expires = math.ceil(good_until)
        who = caller.principal
        said = [run.organization, run.id, who.authority, who.user, caller.shown, expires]
        nonce = os.urandom(_NONCE_BYTES)
        return _encoded(nonce + self._boxes[0].encrypt(nonce, json.dumps(said).encode(), None)), expires

    def open(self, text: str, now: float) -> Ticket:
        """What the ticket ``text`` says.

        Raises:
            InvalidTicket: it says nothing, or no longer.
        """
        organization, run, authority, user, token, expires = json.loads(self._opened(_decoded(text)))
        if now >= expires:
            raise InvalidTicket
        return Ticket(RunRef(organization, run), Principal(authority, user), token, expires)

    def _opened(self, sealed: bytes) -> bytes:
        for box in self._boxes:
            try:
                return box.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
            except InvalidTag:
                continue
        raise InvalidTicket


def _derived(secret: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=PURPOSE).derive(secret.encode())


def _encoded(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    if not _FORM.fullmatch(text):
        raise InvalidTicket
    try:
        sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise InvalidTicket from None
    if _encoded(sealed) != text:  # bits that base64 leaves over: another text for the same ticket
        raise InvalidTicket
    return sealed
