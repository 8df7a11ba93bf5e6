"""What identifies a request and its repeats: a key from the client, or the client's count of attempts.

Some clients retry without a key, but send the number of earlier attempts (``x-stainless-retry-count``). Requests with 0
are first attempts: two of them are two requests, even if equal. A higher number continues an equal request that was
sent fewer times, if there is one. Only one repeat continues each of these.
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
"""Maximum seconds between attempts. Clients that count retry soon."""

_PREFERENCE = (RequestState.UNKNOWN, None, RequestState.UNDER_WAY, RequestState.DONE)
"""A repeat most likely belongs to an equal request that broke off, or else was refused."""

_FORM = re.compile(r"[ -~]{1,255}", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Replaces a key: the client has sent this request ``number`` times before."""

    number: int

    @classmethod
    def of(cls, retry_count: str | None) -> "Attempt | None":
        """Parse ``x-stainless-retry-count``; None if absent or invalid."""
        return cls(int(retry_count)) if retry_count is not None and _COUNT.fullmatch(retry_count) else None


Key = str | Attempt
"""How a client identifies a request and its repeats: ``Idempotency-Key``, ``message_key``, or an attempt."""


def checked_key(key: str) -> str:
    """The key, if it is well-formed.

    Raises:
        InvalidIdempotencyKey: it is malformed.
    """
    if not _FORM.fullmatch(key):
        raise InvalidIdempotencyKey
    return key


def message_key(id: str) -> str:  # noqa: A002 - as everywhere
    """The key for a message with an id from the client, of any form."""
    return f"message {hashlib.sha256(id.encode(errors='surrogatepass')).hexdigest()}"


@dataclass(slots=True, eq=False)
class Series:
    """A request and its repeats under one ``key``. ``elsewhere``: other processes may have received some of them.

    For clients that only count, ``equal`` has all series of equal requests, this one included. The latest attempt here
    had this ``number`` and began at ``at``. ``state`` is that of the record; None if the request certainly had no
    effect. ``run`` is the result.
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
        """Whether no equal request has made this run."""
        return all(each is self or each.run != run.ref for each in self.equal or ())


def series_of(attempt: Attempt, equal: "deque[Series]", now: float) -> Series:
    """The series of equal requests that an attempt continues, or a new one."""
    number = attempt.number
    recent = [each for each in equal if each.state is RequestState.UNDER_WAY or now < each.at + REPEATED_WITHIN]
    earlier = [each for each in recent if each.number < number]
    found = min(earlier, key=lambda each: (-each.number, _PREFERENCE.index(each.state), -each.at), default=None)
    if found is None:
        found = Series(secrets.token_hex(16), number > 0, equal)
        equal.append(found)
    elif found.number + 1 < number:
        found.elsewhere = True
    found.number, found.at, found.state = number, now, RequestState.UNDER_WAY
    return found
