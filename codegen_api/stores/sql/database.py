"""The protocol for a database, behind which all differences between the two kinds are, and what its failures become."""

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
    """``read``, ``write`` and ``probe`` run ``work`` as one transaction. It gets a connection that is its own while it
    runs, may run more than once, and must have no effect but on the database.

    In these, and in ``open``, database errors come out as ``StoreUnavailable``.
    """

    def insert(self, table: Table) -> Insert: ...

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        """Call ``migrate`` in a transaction, while no other process does."""

    async def aclose(self) -> None: ...

    async def read(self, work: Callable[[Connection], T]) -> T: ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """The result of ``work``, when it is committed and synced. If it raises, nothing is changed."""

    async def probe(self, work: Callable[[Connection], object]) -> None:
        """As ``write``, but rolled back. Also fails if there is no room for more data."""

    def find(self, part: ColumnElement[str] | str, text: ColumnElement[str]) -> ColumnElement[int]:
        """The position of ``part`` in ``text``, from 1; 0 if absent."""

    def each(self, texts: Sequence[str]) -> FromClause:
        """A table of these in the column ``value``. However many there are, they are one parameter."""

    def cosine(self, column: ColumnElement[Any], vector: Sequence[float]) -> ColumnElement[float] | None:
        """The cosine similarity of a vector column to this vector; None where the database cannot compute it."""


@contextmanager
def faults(driver: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise them as ``StoreUnavailable``, without the drivers' texts, which may quote what was to be stored."""
    try:
        yield
    except _FAULTS + driver as error:
        first = _first(error)
        # the system's messages quote nothing but a path or address
        said = [first.strerror, first.filename] if isinstance(first, OSError) else []
        reason = " ".join(["the database cannot be used:", kind_of(error), *(str(each) for each in said if each)])
        warn_once_a_minute("%s", reason)
        raise StoreUnavailable(reason=reason) from error


def kind_of(error: BaseException) -> str:
    """What happened, without secrets: the type of the root cause and its symbolic code."""
    error = _first(error)
    names = [getattr(error, attribute, None) for attribute in ("sqlite_errorname", "sqlstate")]
    names.append(errno.errorcode.get(getattr(error, "errno", None) or 0))
    return " ".join([type(error).__name__, *(str(name) for name in names if name)])


def _first(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
