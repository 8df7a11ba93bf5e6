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
        """The headers that pass the trace on to another service."""

    def link(self, other: "Span") -> None:
        """Link this span to a related one."""

    def end(self, attributes: Mapping[str, str | int], *, name: str | None = None, error: str | None = None) -> None:
        """End the span. ``name`` replaces its first name; ``error`` is a code."""


class Tracer(Protocol):
    """Begins spans. ``tracing`` implements it with OpenTelemetry."""

    def request(self, method: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a client's request. ``headers`` may name the trace that it belongs to."""

    def call(self, operation: str, parent: Span | None) -> Span:
        """Begin the span of a request to the host."""

    def turn(self, began: float, parent: Span | None) -> Span:
        """Begin the span of a turn of a conversation that ``began`` then (epoch seconds)."""


@dataclass(slots=True)
class Trace:
    """The current request: its id, and the tracing headers (name, value) forwarded to the host.

    For the log there are the ``code`` and ``reason`` of the error it ended with, its ``principal``, and for a stream
    its ``ending`` and number of ``entries``. ``observer`` receives its events. With a ``tracer`` there is a ``span``
    for the request, and ``last_read`` is the span in which the last page of a log was read for it.
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
    """How many requests the host still allows a credential in the next ``seconds``."""

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
    """Receives events as they happen, to count them. Events whose methods are not overridden are ignored.

    Methods must not block.
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
        """An entry that the host made ``age`` seconds ago is sent to this many waiting viewers."""

    def checked(self, kind: str, outcome: str) -> None:
        """A client's credentials were checked: a ``jwt``, a ``key``, or else a ``token``. ``outcome`` is ``ok`` or the
        code of an error.
        """

    def spent(self, left: float) -> None:
        """After a request to the host, this share of its limit for the credential is left, from 0 to 1."""

    def read(self, viewers: int) -> None:
        """A part of a log was read from the host, for this many viewers at once."""

    def streamed(self, ending: str) -> None:
        """A stream has ended in one of the ways of ``ENDINGS``."""

    def replayed(self, entries: int) -> None:
        """A viewer has received all entries that were there when they came: this many."""

    def noticed(self, code: str) -> None:
        """A viewer was sent a notice with this code."""

    def connected(self, redis: bool) -> None:
        """Whether this process can use Redis now. Called at the start and at each change, if Redis is configured."""

    def relayed(self, lag: float) -> None:
        """A part of a log came through Redis, ``lag`` seconds after another process published it."""

    def taken_over(self) -> None:
        """This process has begun to read a run whose lease another process let expire."""

    def unlogged(self) -> None:
        """A log line was dropped. May be called from any thread."""


class Observers(Observer):
    """Combines several observers of requests to the host, as an upstream has only one."""

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
"""The request methods that have names of their own in metrics and spans. All others share one name."""

ENDINGS = ("end", "reconnect", "complete", "cut", "client_left", "client_stalled", "stopped")
"""How a stream ends, in this order: the run has ended; the client shall reconnect; everything was sent, or not; the
client has left, or read nothing; this process stops. A stream may also end with the code of an error.
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


def detached_trace(name: str) -> Trace:
    """A new trace for work on behalf of many, with the observer and tracer of the current request."""
    current = trace.get()
    detached = Trace(f"{name}-{uuid.uuid4().hex}")
    if current is not None:
        detached.observer, detached.tracer = current.observer, current.tracer
    return detached


def begin_call(operation: str) -> "Token[Span | None] | None":
    """Begin the span of a request to the host, if there is a tracer. Call ``end_call`` in the same context."""
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


def record_turn(began: float, state: str, entries: int, origin: Span | None, *, failed: bool) -> None:
    """Record a finished turn that ``began`` then. ``origin`` is the span of the request that began it."""
    current = trace.get()
    if current is not None and current.tracer is not None:
        span = current.tracer.turn(began, origin or current.span)
        if origin is not None and current.span is not None and current.span is not origin:
            span.link(current.span)
        span.end(
            {"codegen_api.turn.state": state, "codegen_api.turn.entries": entries}, error=state if failed else None
        )


def tracing_headers() -> list[tuple[str, str]]:
    """The headers that tell the host of the current request and its trace."""
    current = trace.get()
    if current is None:
        return []
    span = calling.get() or current.span
    headers = (("X-Request-ID", current.request_id), *(() if span is None else span.headers()), *current.passed_on)
    return [(name, value) for name, value in headers if value.isascii() and value.isprintable()]


def record_notice(code: str) -> None:
    """Record that the client of the current request is sent a notice."""
    current = trace.get()
    if current is not None and current.observer is not None:
        current.observer.noticed(code)


def record_principal(principal: str) -> None:
    """Record who the current request is from."""
    current = trace.get()
    if current is not None:
        current.principal = principal


def count_entries(entries: int) -> None:
    """Count entries that were sent to the client of the current request."""
    current = trace.get()
    if current is not None:
        current.entries += entries


def record_ending(ending: str, *, failed: bool = False) -> None:
    """Record how the stream of the current request has ended, one of ``ENDINGS``, unless that is known already. If it
    ``failed``, the code of its error replaces ``ending``.
    """
    current = trace.get()
    if current is not None and current.ending is None:
        current.ending = (current.code if failed or ending == "complete" else None) or ending


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
