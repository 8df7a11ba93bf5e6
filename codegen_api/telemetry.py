"""What the operator sees: log lines, each with the id of its request, observers, and spans.

Prompts, log texts and tokens never get here; tracebacks are logged without the exception's text.
"""

import json
import logging
import traceback
import uuid
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Protocol

from codegen_api.exhaustion import exhausted_resource


class Span(Protocol):
    """A piece of work in a distributed trace."""

    @property
    def trace_id(self) -> str: ...

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers with which it is passed on."""

    def link(self, other: "Span") -> None:
        """It has to do with another one."""

    def end(self, attributes: Mapping[str, str | int], *, name: str | None = None, error: str | None = None) -> None:
        """It is over. ``name`` replaces the one it was begun with; ``error`` is a code."""


class Tracer(Protocol):
    """Begins spans. Without one there are none; ``tracing`` has one that makes them with OpenTelemetry."""

    def request(self, method: str, headers: Mapping[str, str]) -> Span:
        """A client's request, with these headers about the trace it belongs to."""

    def call(self, operation: str, parent: Span | None) -> Span:
        """A request to the host."""

    def turn(self, began: float, parent: Span | None) -> Span:
        """A turn of a conversation, which ``began`` then (epoch seconds)."""


@dataclass(slots=True)
class Trace:
    """The current request: its id, and the tracing headers (name, value) forwarded to the host.

    ``code`` is that of the error it ended with, ``reason`` its cause, for the log; so are ``principal``, who asked, and
    of a stream ``ending``, how it ended, and its number of ``entries``. ``observer`` is whom to tell of what happens in
    it. With a ``tracer`` there is a ``span`` for the request, and ``last_read`` is that of the last page of a log that
    was read for it.
    """

    request_id: str
    passed_on: tuple[tuple[str, str], ...] = ()
    code: str | None = None
    reason: str | None = None
    principal: str | None = None
    ending: str | None = None
    entries: int = 0
    observer: "Observer | None" = None
    tracer: Tracer | None = None
    span: Span | None = None
    last_read: Span | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Whether the host's last answer was usable, and when it was asked (epoch seconds).

    ``trouble`` describes what came instead, without secrets, and ``since`` when that began.
    """

    reachable: bool
    checked_at: float
    trouble: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the host says a credential has left: requests, for this many seconds."""

    remaining: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to the host and its outcome.

    ``credential`` is a digest, ``operation`` a method of ``Upstream``. ``outcome`` is ``ok``, the code of the resulting
    error, or ``cancelled`` if nobody waited for it. ``seconds`` is the duration.
    """

    credential: str
    operation: str
    outcome: str
    seconds: float
    retry_after: float | None = None
    allowance: Allowance | None = None


class Observer:
    """Is told of events as they happen, to count them; takes no notice of those whose method it does not override.

    Must not block.
    """

    def asking(self, credential: str, operation: str) -> None:
        """A request to the host starts; ``asked`` always follows."""

    def asked(self, exchange: Exchange) -> None:
        """A request to the host is over."""

    def answered(self, route: str | None, method: str, status: int | None, seconds: float) -> None:
        """A client's request is over. ``route`` is the template of its path; None if no route matched."""

    def serving(self, viewers: int, runs: int) -> None:
        """The current numbers of viewers and of followed runs."""

    def delivered(self, age: float, viewers: int = 1) -> None:
        """So many waiting viewers are sent an entry that the host made ``age`` seconds ago."""

    def checked(self, kind: str, outcome: str) -> None:
        """A client's credentials were checked: a ``jwt``, a ``key``, or else a ``token``. ``outcome`` is ``ok`` or the
        code of an error.
        """

    def spent(self, left: float) -> None:
        """After a request to the host, this share of its limit for the credential is left, from 0 to 1."""

    def read(self, viewers: int) -> None:
        """A part of a log was read from the host, for so many viewers at once."""

    def streamed(self, ending: str) -> None:
        """A stream has ended like this; see ``ENDINGS``."""

    def replayed(self, entries: int) -> None:
        """A viewer has been given all the entries that there were when they came: so many."""

    def noticed(self, code: str) -> None:
        """A viewer was sent a notice with this code."""

    def connected(self, redis: bool) -> None:
        """Whether this process has Redis now: told at the start and with each change, if Redis is configured."""

    def relayed(self, lag: float) -> None:
        """Something of a log came through Redis, so many seconds after another process published it."""

    def taken_over(self) -> None:
        """This process has begun to read a run whose lease another process held until it expired."""

    def unlogged(self) -> None:
        """A log line was dropped. May be called from any thread."""


class Observers(Observer):
    """Several observers of requests to the host, as the one that an upstream has."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def asking(self, credential: str, operation: str) -> None:
        for observer in self._observers:
            observer.asking(credential, operation)

    def asked(self, exchange: Exchange) -> None:
        for observer in self._observers:
            observer.asked(exchange)


trace: ContextVar[Trace | None] = ContextVar("codegen_api_trace", default=None)

calling: ContextVar[Span | None] = ContextVar("codegen_api_calling", default=None)
"""The span of the request to the host that is being made."""

logger = logging.getLogger("codegen_api")

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""The methods of requests that are named; whatever else clients make up has one name for all."""

ENDINGS = ("end", "reconnect", "complete", "cut", "client_left", "client_stalled", "stopped")
"""How a stream ends: the run has; it is to be opened again; everything was sent, or not; the client has gone, or read
nothing; this process stops. Or with the code of an error.
"""

LONGEST_QUOTE = 100
"""Maximum characters of quoted untrusted text."""


def quoted(value: object) -> str:
    """Untrusted text for a log line: ASCII JSON of bounded length."""
    try:
        text = json.dumps(value).replace("\x7f", "\\u007f")
    except RecursionError:
        return "what cannot be written down"
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def request_id() -> str | None:
    """The id of the current request, if there is one."""
    current = trace.get()
    return None if current is None else current.request_id


def note(code: str, reason: str | None) -> None:
    """Add this error to the log line of the current request."""
    current = trace.get()
    if current is not None:
        current.code, current.reason = code, reason


def apart(what: str) -> Trace:
    """For work on behalf of many: a trace of its own, observed as the current request is."""
    current = trace.get()
    of_its_own = Trace(f"{what}-{uuid.uuid4().hex}")
    if current is not None:
        of_its_own.observer, of_its_own.tracer = current.observer, current.tracer
    return of_its_own


def begin_call(operation: str) -> "Token[Span | None] | None":
    """A request to the host begins: its span, where there is a tracer. ``end_call`` follows, in the same context."""
    current = trace.get()
    if current is None or current.tracer is None:
        return None
    return calling.set(current.tracer.call(operation, current.span))


def end_call(begun: "Token[Span | None] | None", operation: str, outcome: str) -> None:
    span, current = calling.get(), trace.get()
    if begun is None or span is None or current is None:
        return
    calling.reset(begun)
    span.end({"codegen_api.outcome": outcome}, error=None if outcome in ("ok", "cancelled") else outcome)
    if operation == "read_log" and outcome == "ok":
        current.last_read = span


def told_turn(began: float, state: str, entries: int, origin: Span | None, *, failed: bool) -> None:
    """A turn of a conversation that ``began`` then is over; ``origin`` is the span of the request that began it."""
    current = trace.get()
    if current is not None and current.tracer is not None:
        span = current.tracer.turn(began, origin or current.span)
        if origin is not None and current.span is not None and current.span is not origin:
            span.link(current.span)
        span.end(
            {"codegen_api.turn.state": state, "codegen_api.turn.entries": entries}, error=state if failed else None
        )


def tracing_headers() -> list[tuple[str, str]]:
    """What the host is told of the current request and its trace."""
    current = trace.get()
    if current is None:
        return []
    span = calling.get() or current.span
    said = (("X-Request-ID", current.request_id), *(() if span is None else span.headers()), *current.passed_on)
    return [(name, value) for name, value in said if value.isascii() and value.isprintable()]


def noticed(code: str) -> None:
    """The client of the current request is sent a notice."""
    current = trace.get()
    if current is not None and current.observer is not None:
        current.observer.noticed(code)


def identified(principal: str) -> None:
    """This is who the current request is from."""
    current = trace.get()
    if current is not None:
        current.principal = principal


def sent(entries: int) -> None:
    """So many entries more were sent to the client of the current request."""
    current = trace.get()
    if current is not None:
        current.entries += entries


def over(ending: str) -> None:
    """The stream of the current request has ended like this, of ``ENDINGS``, if nothing better is known."""
    current = trace.get()
    if current is not None and current.ending is None:
        current.ending = (current.code if ending == "complete" else None) or ending


def warn_once_a_minute(text: str, what: str) -> None:
    """Log a recurring warning: each distinct line at most once a minute."""
    logger.warning(text, what, extra={"seldom": True})


def log_fault(doing: str, error: BaseException) -> None:
    """Log an unexpected exception by type and traceback, without its text, which may quote a prompt."""
    missing = exhausted_resource(error)
    if missing is not None:
        warn_once_a_minute("a system resource is exhausted: %s", missing)
        return
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed: %s\n%s", doing, type(error).__qualname__, where.rstrip())
