"""What the operator sees: log lines, each with the id of its request, and observers.

Prompts, log texts and tokens never get here; tracebacks are logged without the exception's text.
"""

import asyncio
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from codegen_api.exhaustion import shortage
from codegen_api.log_handler import ThreadedHandler


@dataclass(slots=True)
class Trace:
    """The current request: its id, and the tracing headers (name, value) forwarded to the host.

    ``code`` is that of the error it ended with, ``reason`` its cause, for the log.
    """

    request_id: str
    passed_on: tuple[tuple[str, str], ...] = ()
    code: str | None = None
    reason: str | None = None


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


class Observer(Protocol):
    """Receives events as they happen, to count them. Must not block."""

    def asking(self, credential: str, operation: str) -> None:
        """A request to the host starts; ``asked`` always follows."""
        ...

    def asked(self, exchange: Exchange) -> None:
        """A request to the host is over."""
        ...

    def answered(self, route: str | None, method: str, status: int | None, seconds: float) -> None:
        """A client's request is over. ``route`` is the template of its path; None if no route matched."""
        ...

    def serving(self, viewers: int, runs: int) -> None:
        """The current numbers of viewers and of followed runs."""
        ...

    def delivered(self, age: float) -> None:
        """A waiting viewer is sent an entry that the host made ``age`` seconds ago."""
        ...

    def unlogged(self) -> None:
        """A log line was dropped. May be called from any thread."""
        ...


class NullObserver:
    """An observer that does nothing."""

    def asking(self, credential: str, operation: str) -> None:
        pass

    def asked(self, exchange: Exchange) -> None:
        pass

    def answered(self, route: str | None, method: str, status: int | None, seconds: float) -> None:
        pass

    def serving(self, viewers: int, runs: int) -> None:
        pass

    def delivered(self, age: float) -> None:
        pass

    def unlogged(self) -> None:
        pass


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def asking(self, credential: str, operation: str) -> None:
        for observer in self._observers:
            observer.asking(credential, operation)

    def asked(self, exchange: Exchange) -> None:
        for observer in self._observers:
            observer.asked(exchange)

    def answered(self, route: str | None, method: str, status: int | None, seconds: float) -> None:
        for observer in self._observers:
            observer.answered(route, method, status, seconds)

    def serving(self, viewers: int, runs: int) -> None:
        for observer in self._observers:
            observer.serving(viewers, runs)

    def delivered(self, age: float) -> None:
        for observer in self._observers:
            observer.delivered(age)

    def unlogged(self) -> None:
        for observer in self._observers:
            observer.unlogged()


trace: ContextVar[Trace | None] = ContextVar("codegen_api_trace", default=None)

logger = logging.getLogger("codegen_api")

LONGEST_QUOTE = 100
"""Maximum characters of quoted untrusted text."""

SELDOM = 60.0
"""Seconds between two equal lines that would otherwise be logged for every request."""


def set_up_logging(level: str, lost: Callable[[], None]) -> None:
    """Log to standard error without blocking, unless the application has handlers of its own. ``lost`` is called for
    each dropped line.
    """
    logger.setLevel(level)
    if not any(isinstance(each, _OnceAMinute) for each in logger.filters):
        logger.addFilter(_OnceAMinute())
    for name in ("uvicorn.access", "uvicorn.error"):  # the latter logs WebSockets, with their URLs
        logging.getLogger(name).addFilter(_without_query)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = _handler_for(sys.stderr, lost)
        handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
        for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
            _replace_handlers(logging.getLogger(name), lost)
        if logging.lastResort is not None:  # for asyncio's warnings, among others
            logging.lastResort = handler
        # drop its lines about every retry, unless the application configures logging itself
        logging.getLogger("stamina").addHandler(logging.NullHandler())


class LogLimiter:
    """A rate limit for log lines that clients can cause at will: ``most`` lines of each kind in ``seconds``, and then
    the number left out. The number of kinds is bounded.
    """

    def __init__(self, most: int = 10, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def log(self, kind: str, text: str) -> None:
        """Log a line of this kind if the limit allows."""
        now = self._clock()
        if now >= self._begun.get(kind, float("-inf")) + self._seconds:
            left_out = self._count.get(kind, 0) - self._most
            self._begun[kind], self._count[kind] = now, 0
            if left_out > 0:
                text = f"{text} ({left_out} more like this were not logged)"
        self._count[kind] += 1
        if self._count[kind] <= self._most:
            logger.info("%s", text)


def quoted(value: object) -> str:
    """Untrusted text for a log line: ASCII JSON of bounded length."""
    try:
        text = json.dumps(value).replace("\x7f", "\\u007f")
    except RecursionError:
        return "what cannot be written down"
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def note(code: str, reason: str | None) -> None:
    """Add this error to the log line of the current request."""
    current = trace.get()
    if current is not None:
        current.code, current.reason = code, reason


def log_loop_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler. A lack of descriptors would otherwise log thousands of lines a second."""
    missing = shortage(context.get("exception"))
    if missing is None:
        loop.default_exception_handler(context)
    else:
        warn_once_a_minute("there is too little of what the system gives: %s", missing)


def warn_once_a_minute(text: str, what: str) -> None:
    """Log a recurring warning: each distinct line at most once a minute."""
    logger.warning(text, what, extra={"seldom": True})


def log_fault(doing: str, error: BaseException) -> None:
    """Log an unexpected exception by type and traceback, without its text, which may quote a prompt."""
    missing = shortage(error)
    if missing is not None:
        warn_once_a_minute("there is too little of what the system gives: %s", missing)
        return
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed: %s\n%s", doing, type(error).__qualname__, where.rstrip())


def _handler_for(stream: TextIO | None, lost: Callable[[], None]) -> logging.Handler:
    """A non-blocking handler for what ``stream`` writes to."""
    try:
        return logging.NullHandler() if stream is None else ThreadedHandler(stream.fileno(), lost)
    except OSError:  # it has no descriptor, as in tests
        return logging.StreamHandler(stream)


def _replace_handlers(others: logging.Logger, lost: Callable[[], None]) -> None:
    """Replace the stream handlers of ``others`` with non-blocking ones of the same format."""
    for theirs in list(others.handlers):
        if type(theirs) is logging.StreamHandler:
            ours = _handler_for(theirs.stream, lost)
            ours.setFormatter(theirs.formatter)
            others.removeHandler(theirs)
            others.addHandler(ours)


def _without_query(record: logging.LogRecord) -> bool:
    """Drop the queries of URLs in uvicorn's own log lines: they may hold a ticket or another secret."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            each.partition("?")[0] if isinstance(each, str) and each.startswith("/") else each for each in record.args
        )
    return True


class _OnceAMinute(logging.Filter):
    """Passes each line marked ``seldom`` once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not getattr(record, "seldom", False):
            return True
        line, now = record.getMessage(), time.monotonic()
        due = now >= self._logged.get(line, -SELDOM) + SELDOM
        if due:
            self._logged[line] = now
        return due


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        current = trace.get()
        line = super().format(record)
        return f"{line} request_id={current.request_id}" if current else line


def warn_on_terminal(text: str) -> None:
    """Print a line for whoever starts the process, whatever the log level."""
    print(text, file=sys.stderr, flush=True)
