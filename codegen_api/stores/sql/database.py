"""The protocol that hides the differences between the two databases, and the translation of their errors."""

import errno
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Connection, FromClause, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from codegen_api.errors import StoreUnavailable
from codegen_api.telemetry import warn_once_a_minute

T = TypeVar("T")

Insert: TypeAlias = postgresql.Insert | sqlite.Insert

_FAULTS: tuple[type[Exception], ...] = (SQLAlchemyError, sqlite3.Error, OSError)


class Database(Protocol):
    """``read``, ``write`` and ``probe`` run ``work`` as one transaction. It gets a connection of its own while it runs,
    may run more than once, and must have no effect outside the database.

    These, and ``open``, raise ``StoreUnavailable`` for database errors.
    """

    def insert(self, table: Table) -> Insert: ...

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        """Call ``migrate`` in a transaction. Excludes other processes meanwhile."""

    async def aclose(self) -> None: ...

    async def read(self, work: Callable[[Connection], T]) -> T: ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return the result of ``work`` once it is committed and synced. If ``work`` raises, nothing changes."""

    async def probe(self, work: Callable[[Connection], object]) -> None:
        """Like ``write``, but rolled back. Also fails if there is no space for more data."""

    def find(self, part: ColumnElement[str] | str, text: ColumnElement[str]) -> ColumnElement[int]:
        """The position of ``part`` in ``text``, from 1; 0 if absent."""

    def each(self, texts: Sequence[str]) -> FromClause:
        """A table with these texts in the column ``value``. They are a single parameter, however many there are."""

    def cosine(self, column: ColumnElement[Any], vector: Sequence[float]) -> ColumnElement[float] | None:
        """The cosine similarity of a vector column to this vector; None where the database cannot compute it."""


@contextmanager
def faults(driver: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise database errors as ``StoreUnavailable``, without the drivers' texts, which may quote the data."""
    try:
        yield
    except _FAULTS + driver as error:
        first = _first(error)
        # the system's messages quote nothing but a path or address
        details = [first.strerror, first.filename] if isinstance(first, OSError) else []
        reason = " ".join(["the database cannot be used:", kind_of(error), *(str(each) for each in details if each)])
        warn_once_a_minute("%s", reason)
        raise StoreUnavailable(reason=reason) from error


def kind_of(error: BaseException) -> str:
    """Describe an error without secrets: the type of its root cause, and the symbolic code."""
    error = _first(error)
    names = [getattr(error, attribute, None) for attribute in ("sqlite_errorname", "sqlstate")]
    names.append(errno.errorcode.get(getattr(error, "errno", None) or 0))
    return " ".join([type(error).__name__, *(str(name) for name in names if name)])


def _first(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
