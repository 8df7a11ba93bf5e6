"""What the gateway tells its operator: log lines, each with the id of the request it belongs to.

Prompts, log texts and tokens never come here; a traceback is written without the text of its exception.
"""

import logging
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trace:
    """The request being served: its id, and the tracing headers (name, value) that travel on to the host."""

    request_id: str
    passed_on: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """Whether the host gave a usable answer, and when it was last asked (seconds since the epoch)."""

    reachable: bool
    checked_at: float


trace: ContextVar[Trace | None] = ContextVar("codegen_api_trace", default=None)

logger = logging.getLogger("codegen_api")


def set_up_logging(level: str) -> None:
    """Write the gateway's own lines to standard error, unless the application has set up handlers of its own."""
    logger.setLevel(level)
    logging.getLogger("uvicorn.access").addFilter(_without_query)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Line("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
        # it speaks of every repeated read, in lines that say nothing; whoever sets up logging themselves may want them
        logging.getLogger("stamina").addHandler(logging.NullHandler())


def log_fault(doing: str, error: BaseException) -> None:
    """Log an exception that should not have happened: its type and where, never its text, which may quote a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed: %s\n%s", doing, type(error).__qualname__, where.rstrip())


def _without_query(record: logging.LogRecord) -> bool:
    """Uvicorn's own access log prints whole URLs, and somebody may have put a secret into one."""
    if isinstance(record.args, tuple):
        record.args = tuple(each.partition("?")[0] if isinstance(each, str) else each for each in record.args)
    return True


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        current = trace.get()
        line = super().format(record)
        return f"{line} request_id={current.request_id}" if current else line


def warn_on_terminal(text: str) -> None:
    """A line for the person who starts the process, whatever the log level."""
    print(text, file=sys.stderr, flush=True)
