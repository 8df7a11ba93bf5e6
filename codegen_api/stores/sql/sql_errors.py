"""Maps database errors to the gateway's."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from codegen_api.errors import StoreUnavailable
from codegen_api.telemetry import warn_once_a_minute

_FAULTS: tuple[type[Exception], ...] = (SQLAlchemyError, sqlite3.Error, OSError)


@contextmanager
def faults(driver: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise them as ``StoreUnavailable``, without the drivers' texts, which may quote what was to be stored."""
    try:
        yield
    except _FAULTS + driver as error:
        first = _first(error)
        # the system's messages quote nothing but a path or address
        said = [first.strerror, first.filename] if isinstance(first, OSError) else []
        reason = " ".join(["the database cannot be used:", kind(error), *(str(each) for each in said if each)])
        warn_once_a_minute("%s", reason)
        raise StoreUnavailable(reason=reason) from error


def kind(error: BaseException) -> str:
    """What happened, without secrets: the type of the root cause and its symbolic code."""
    error = _first(error)
    names = [getattr(error, attribute, None) for attribute in ("sqlite_errorname", "sqlstate")]
    names.append(errno.errorcode.get(getattr(error, "errno", None) or 0))
    return " ".join([type(error).__name__, *(str(name) for name in names if name)])


def _first(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
