"""What goes wrong in a database, as an error of ours."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from codegen_api.errors import StoreUnavailable
from codegen_api.telemetry import log_seldom

_FAULTS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.Error, OSError)


@contextmanager
def faults() -> Iterator[None]:
    """Raise it as ``StoreUnavailable``. What the drivers say may quote what was to be stored, so it is not repeated."""
    try:
        yield
    except _FAULTS as error:
        reason = f"the database cannot be used: {_kind(error)}"
        log_seldom("%s", reason)
        raise StoreUnavailable(reason=reason) from error


def _kind(error: BaseException) -> str:
    """What happened, without the text: the type of the first cause, and what its maker calls it."""
    while error.__cause__ is not None:
        error = error.__cause__
    names = [getattr(error, attribute, None) for attribute in ("sqlite_errorname", "sqlstate", "errno")]
    if isinstance(error, OSError):  # what the system says quotes nothing but a path or an address
        names += [error.strerror, error.filename]
    return " ".join([type(error).__name__, *(str(name) for name in names if name)])
