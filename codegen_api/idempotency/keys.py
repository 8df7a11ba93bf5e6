"""What a request and its repeats have in common: a key of the client's, or one that is found for what it counts.

Some clients repeat by themselves and send no key, but say how often they have sent the request before
(``x-stainless-retry-count``). Requests that say 0 are first attempts: two of them are two requests, however equal they
are. One that says more goes on with an equal request that was sent once less, if there is one, and with none with which
another repeat goes on.
"""

import hashlib
import re
import secrets
from collections import deque
from dataclasses import dataclass

from codegen_api.errors import InvalidIdempotencyKey
from codegen_api.idempotency.records import RequestState
from codegen_api.runs import Run, RunRef

REPEATED_WITHIN = 120.0
"""Seconds for which a later attempt goes on with an earlier one: clients that count repeat soon."""

_RATHER = (RequestState.UNKNOWN, None, RequestState.UNDER_WAY, RequestState.DONE)
"""Of equal requests the client has sent those again that broke off or were refused, rather than the others."""

_FORM = re.compile(r"[ -~]{1,255}", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Attempt:
    """In the place of a key: the client has sent this request ``number`` times before."""

    number: int

    @classmethod
    def of(cls, retry_count: str | None) -> "Attempt | None":
        """As an ``x-stainless-retry-count`` says; None when it says nothing."""
        return cls(int(retry_count)) if retry_count is not None and _COUNT.fullmatch(retry_count) else None


Key = str | Attempt
"""The client's word on what a request and its repeats are: an ``Idempotency-Key``, a ``message_key``, an attempt."""


def checked_key(key: str) -> str:
    """
    Raises:
        InvalidIdempotencyKey: it cannot be one.
    """
    if not _FORM.fullmatch(key):
        raise InvalidIdempotencyKey
    return key


def message_key(id: str) -> str:  # noqa: A002 - as everywhere
    """The key of a request with a message that has an id of the client's, whatever that looks like."""
    return f"message {hashlib.sha256(id.encode(errors='surrogatepass')).hexdigest()}"


@dataclass(slots=True, eq=False)
class Series:
    """A request and its repeats, one ``key`` for all; some of them may have come ``elsewhere``, to another process.

    Where the client only counts, ``equal`` are all series of equal requests, this one too. The latest attempt here had
    this ``number``, and was begun ``at`` that time. ``state`` is that of the record; None when it surely did nothing.
    ``run`` is what came of it.
    """

    key: str
    elsewhere: bool = True
    equal: "deque[Series] | None" = None
    number: int = 0
    at: float = 0.0
    state: RequestState | None = RequestState.UNDER_WAY
    run: RunRef | None = None

    @property
    def counted(self) -> bool:
        return self.equal is not None

    def may_have_made(self, run: Run) -> bool:
        """Whether this run has come of no equal request."""
        return all(each is self or each.run != run.ref for each in self.equal or ())


def series_of(attempt: Attempt, equal: "deque[Series]", now: float) -> Series:
    """That with which an attempt goes on, among those of equal requests; if there is none, one that it begins."""
    number = attempt.number
    recent = [each for each in equal if each.state is RequestState.UNDER_WAY or now < each.at + REPEATED_WITHIN]
    earlier = [each for each in recent if each.number < number]
    found = min(earlier, key=lambda each: (-each.number, _RATHER.index(each.state), -each.at), default=None)
    if found is None:
        found = Series(secrets.token_hex(16), number > 0, equal)
        equal.append(found)
    elif found.number + 1 < number:
        found.elsewhere = True
    found.number, found.at, found.state = number, now, RequestState.UNDER_WAY
    return found
