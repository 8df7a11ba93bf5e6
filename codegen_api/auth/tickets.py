"""Tickets: the right to read one run's live log, or the feed of runs, for a while, sealed into a text for a URL.

A ticket contains what is needed to ask the host on its owner's behalf, so nothing is stored and any process with the
same key can open it. It is encrypted and authenticated (AES-256-GCM). For a JWT it contains the claims, not the token:
proxies do not accept URLs that long.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from codegen_api.errors import InvalidTicket, TokenTooLong
from codegen_api.identity import Caller, Principal
from codegen_api.runs import RunRef

if TYPE_CHECKING:
    from codegen_api.auth.ticket_boxes import Box

PURPOSE, PURPOSE_WITHOUT_TOKEN = b"codegen_api stream ticket, form 1", b"codegen_api stream ticket, form 2"
"""Labels for the keys of tickets with and without a token; other keys from the same secret have other labels."""

LIFETIME = 3600.0
"""Minimum lifetime of a ticket in seconds."""

FEED = ""
"""In place of a run's id: the ticket is for the feed of an organization's runs."""

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
    """Seals tickets with the first of ``secrets``, opens those of all. One outlives two streams of
    ``stream_seconds``.
    """

    def __init__(self, secrets: Sequence[str], stream_seconds: float) -> None:
        self._secrets = secrets
        self._lifetime = max(LIFETIME, 2 * stream_seconds + 60)

    @cached_property
    def _with_token(self) -> "Sequence[Box]":
        return self._boxes(PURPOSE)

    @cached_property
    def _without_token(self) -> "Sequence[Box]":
        return self._boxes(PURPOSE_WITHOUT_TOKEN)

    def _boxes(self, purpose: bytes) -> "Sequence[Box]":
        # imported on demand: encryption brings much, and few ask for tickets
        from codegen_api.auth.ticket_boxes import Box  # noqa: PLC0415

        return [Box(secret, purpose) for secret in self._secrets]

    def seal(self, run: RunRef, caller: Caller, now: float) -> tuple[str, int]:
        """A ticket for ``caller`` to read the log of ``run``, and its expiry.

        Raises:
            TokenTooLong: the ticket would be too long for a URL.
        """
        good_until = now + self._lifetime
        if caller.expires is not None:  # not beyond their credentials
            good_until = min(good_until, caller.expires)
        expires = math.ceil(good_until)
        said: list[object] = [run.organization, run.id, caller.principal.authority, caller.principal.user]
        if caller.shown is not None:
            box, rest = self._with_token[0], [caller.shown, expires]
        else:
            box, rest = self._without_token[0], [sorted(caller.scopes), caller.expires, expires]
        text = _encoded(box.encrypt(json.dumps([*said, *rest]).encode()))
        if len(text) > MAX_LENGTH:
            raise TokenTooLong("There are no tickets for so long a token: no URL could hold one.")
        return text, expires

    def open(self, text: str, now: float) -> Ticket:
        """Open the ticket ``text``.

        Raises:
            InvalidTicket: it is not a ticket of ours, or has expired.
        """
        sealed = _decoded(text)
        said = _decrypt(self._with_token, sealed)
        if said is not None:
            organization, run, authority, user, token, expires = json.loads(said)
            ticket = Ticket(RunRef(organization, run), Principal(authority, user), expires, token)
        else:
            said = _decrypt(self._without_token, sealed)
            if said is None:
                raise InvalidTicket
            organization, run, authority, user, scopes, until, expires = json.loads(said)
            who = Principal(authority, user)
            ticket = Ticket(RunRef(organization, run), who, expires, scopes=frozenset(scopes), until=until)
        if now >= expires:
            raise InvalidTicket
        return ticket


def _decrypt(boxes: "Sequence[Box]", sealed: bytes) -> bytes | None:
    return next((said for box in boxes if (said := box.decrypt(sealed)) is not None), None)


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
