"""The log on standard error: its handlers, its formats, and the line of each request.

A line is a JSON object for programs, or text; on a terminal, short text with colours. Logging never waits for the
reader (``log_handler``).
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson

from codegen_api.colours import BOLD, CYAN, DIM, GREEN, RED, YELLOW, painted, shows_colours
from codegen_api.exhaustion import exhausted_resource
from codegen_api.telemetry import Trace, logger, trace, warn_once_a_minute
from codegen_api.telemetry.log_handler import ThreadedHandler

SELDOM = 60.0
"""Seconds between two equal lines that would otherwise be logged for every request."""

MOST_ALIKE = 10
"""Maximum lines of one kind that clients can cause in that time."""

LONGEST_NAME = 100
"""Characters of a user's name in a line."""

QUIET_PATHS = ("/livez", "/readyz", "/metrics", "/console")
"""Prefixes of paths whose successful requests are many, and not shown to people at a terminal."""


def set_up_logging(level: str, log_format: str, lost: Callable[[], None]) -> None:
    """Log to standard error without blocking, unless the application has handlers of its own. ``lost`` is called for
    each dropped line. ``log_format`` is ``json``, ``text``, or ``auto``: text on a terminal.
    """
    logger.setLevel(level)
    logger.addFilter(_once_a_minute)
    for name in ("uvicorn.access", "uvicorn.error"):  # the latter logs WebSockets, with their URLs
        logging.getLogger(name).addFilter(_without_query)
    if not logger.handlers and not logging.getLogger().handlers:
        form = form_of(log_format)
        own = {"json": JsonFormatter(), "people": PeopleFormatter(shows_colours(sys.stderr))}.get(form)
        handler = _handler_for(sys.stderr, lost)
        handler.setFormatter(own or TextFormatter("%(asctime)s %(levelname)s %(message)s"))
        if form == "people" and level != "DEBUG":
            handler.addFilter(_is_for_people)
        logger.addHandler(handler)
        logger.propagate = False
        for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
            _replace_handlers(logging.getLogger(name), lost, own)
        if logging.lastResort is not None:  # for asyncio's warnings, among others
            logging.lastResort = handler
        for name in ("stamina", "opentelemetry"):
            # drop lines about every retry, unless the application configures logging itself
            logging.getLogger(name).addHandler(logging.NullHandler())


def form_of(log_format: str) -> Literal["json", "text", "people"]:
    """The form of lines in this format: on a terminal, text is for people."""
    if log_format != "json" and sys.stderr is not None and sys.stderr.isatty():
        return "people"
    return "text" if log_format == "text" else "json"


def log_request(
    current: Trace, method: str, path: str, route: str | None, status: int | None, seconds: float, refused: bool
) -> None:
    """Log a finished request. The line is a warning if the cause of its error is outside the gateway, and not the
    caller's fault (``refused``).
    """
    level = logging.WARNING if current.reason is not None and not refused else logging.INFO
    if not logger.isEnabledFor(level):
        return
    milliseconds = seconds * 1000
    fields: dict[str, object] = {"method": method, "route": route, "status": status}
    fields["duration_ms"] = round(milliseconds, 1)
    if current.principal is not None:
        fields["principal"] = current.principal[:LONGEST_NAME]
    if current.code is not None:
        fields["code"] = current.code
    if current.ending is not None:
        fields["ending"], fields["entries"] = current.ending, current.entries
    shown = (method, _loggable(path), status or "-", milliseconds, _error_suffix(current))
    # not `Logger.log`, which looks for the caller's line: that costs more than the rest
    record = logging.LogRecord(logger.name, level, __file__, 0, "%s %s %s %.0f ms%s", shown, None, "log_request")
    record.request = fields
    logger.handle(record)


def log_loop_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler. A lack of descriptors would otherwise log thousands of lines a second."""
    missing = exhausted_resource(context.get("exception"))
    if missing is None:
        loop.default_exception_handler(context)
    else:
        warn_once_a_minute("a system resource is exhausted: %s", missing)


def warn_on_terminal(text: str) -> None:
    """Print a line for the person who starts the process, whatever the log level, after what was logged before."""
    for handler in logger.handlers:
        handler.flush()
    print(text, file=sys.stderr, flush=True)


class LogLimiter:
    """A rate limit for log lines that clients can cause at will: ``MOST_ALIKE`` of each kind in ``SELDOM`` seconds, and
    then the number left out. Kinds must be few, as they are never forgotten.
    """

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def log(self, kind: str, text: str) -> None:
        now = time.monotonic()
        if now >= self._begun.get(kind, -SELDOM) + SELDOM:
            left_out = self._count.get(kind, 0) - MOST_ALIKE
            self._begun[kind], self._count[kind] = now, 0
            if left_out > 0:
                text = f"{text} ({left_out} more like this were not logged)"
        self._count[kind] += 1
        if self._count[kind] <= MOST_ALIKE:
            logger.info("%s", text)


_logged: dict[str, float] = {}
"""When each line marked ``seldom`` was last logged."""


def _once_a_minute(record: logging.LogRecord) -> bool:
    if not getattr(record, "seldom", False):
        return True
    line, now = record.getMessage(), time.monotonic()
    due = now >= _logged.get(line, -SELDOM) + SELDOM
    if due:
        _logged[line] = now
    return due


class TextFormatter(logging.Formatter):
    """The line, followed by what is known of the request."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields: dict[str, object] = getattr(record, "request", {})
        for name in ("principal", "ending", "entries"):
            if name in fields:
                line += f" {name}={_loggable(str(fields[name]))}"
        current = trace.get()
        if current is None:
            return line
        line += f" request_id={current.request_id}"
        return line if current.span is None else f"{line} trace_id={current.span.trace_id}"


class PeopleFormatter(logging.Formatter):
    """A line for people at a terminal: when, what, how long, who, and for an error the request's id."""

    def __init__(self, colours: bool) -> None:
        super().__init__("%(message)s")
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        when = painted(time.strftime("%H:%M:%S", time.localtime(record.created)), DIM, self._colours)
        fields: dict[str, Any] | None = getattr(record, "request", None)
        if fields is None or not isinstance(record.args, tuple):
            return f"{when} {self._level(record)}{super().format(record)}"
        method, path, status, milliseconds, suffix = record.args
        shown = painted(f"{status}", self._colour_of(status), self._colours)
        took = painted(_duration(milliseconds), DIM, self._colours)  # type: ignore[arg-type]
        line = f"{when} {shown} {method:<5} {painted(str(path), BOLD, self._colours)}  {took}"
        if "principal" in fields:
            line += f"  {_loggable(fields['principal'])}"
        if "ending" in fields:
            line += f"  {fields['entries']} entries, {_loggable(fields['ending'])}"
        current = trace.get()
        if suffix:
            line += f" {suffix}" + ("" if current is None else f"  request_id={current.request_id}")
        return line

    def _level(self, record: logging.LogRecord) -> str:
        if record.levelno <= logging.INFO:
            return ""
        colour = YELLOW if record.levelno == logging.WARNING else RED
        return painted(record.levelname, colour, self._colours) + " "

    def _colour_of(self, status: object) -> str:
        known = {2: GREEN, 3: CYAN, 4: YELLOW}
        return known.get(status // 100, RED) if isinstance(status, int) else YELLOW


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``message``, and what is known of the request."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.name != logger.name:
            fields["logger"] = record.name
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        fields.update(getattr(record, "request", {}))
        current = trace.get()
        if current is not None:
            fields["request_id"] = current.request_id
            if current.span is not None:
                fields["trace_id"] = current.span.trace_id
        try:
            line = orjson.dumps(fields).decode()
        except orjson.JSONEncodeError:  # lone surrogates
            return json.dumps(fields)
        return line if line.isascii() else json.dumps(fields)  # some readers split lines at other characters than "\n"


def _handler_for(stream: TextIO | None, lost: Callable[[], None]) -> logging.Handler:
    """A non-blocking handler for the file of ``stream``."""
    try:
        return logging.NullHandler() if stream is None else ThreadedHandler(stream.fileno(), lost)
    except OSError:  # it has no descriptor, as in tests
        return logging.StreamHandler(stream)


def _replace_handlers(others: logging.Logger, lost: Callable[[], None], formatter: logging.Formatter | None) -> None:
    """Replace the stream handlers of ``others`` with non-blocking ones, of the same format unless one is given."""
    for theirs in list(others.handlers):
        if type(theirs) is logging.StreamHandler:
            ours = _handler_for(theirs.stream, lost)
            ours.setFormatter(formatter or theirs.formatter)
            others.removeHandler(theirs)
            others.addHandler(ours)


def _without_query(record: logging.LogRecord) -> bool:
    """Drop the queries of URLs in uvicorn's own log lines: they may hold a ticket or another secret."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            each.partition("?")[0] if isinstance(each, str) and each.startswith("/") else each for each in record.args
        )
    return True


def _is_for_people(record: logging.LogRecord) -> bool:
    """Whether a line is of interest at a terminal, on which the server has announced its URLs."""
    if record.name.startswith("uvicorn"):
        return record.levelno > logging.INFO
    fields: dict[str, Any] = getattr(record, "request", {})
    quiet = (
        isinstance(record.args, tuple)
        and bool(fields)
        and str(record.args[1]).startswith(QUIET_PATHS)
        and record.levelno <= logging.INFO
        and fields.get("status", 500) < 400
    )
    return not quiet and not getattr(record, "announced", False)


def _duration(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    minutes, seconds = divmod(milliseconds / 1000, 60)
    return f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"


def _error_suffix(current: Trace) -> str:
    if current.code is None:
        return ""
    return f" {current.code}" if current.reason is None else f" {current.code} ({_on_one_line(current.reason, 500)})"


def _loggable(path: str) -> str:
    """A path or name: one word, bounded in length."""
    return _on_one_line(path, 200).replace(" ", r"\x20")


def _on_one_line(text: str, longest: int) -> str:
    return text[:longest].encode("unicode_escape").decode()
