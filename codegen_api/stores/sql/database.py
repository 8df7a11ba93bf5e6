"""The protocol for a database, behind which all differences between the two kinds are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, FromClause, Table
from sqlalchemy.dialects import postgresql, sqlite

from codegen_api.stores.sql.sqlite import SqliteDatabase

T = TypeVar("T")


class Database(Protocol):
    """``read``, ``write`` and ``probe`` run ``work`` as one transaction. It gets a connection that is its own while it
    runs, may run more than once, and must have no effect but on the database.

    In these, and in ``open``, database errors come out as ``StoreUnavailable``.
    """

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert: ...

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        """Call ``migrate`` in a transaction, while no other process does."""
        ...

    async def aclose(self) -> None: ...

    async def read(self, work: Callable[[Connection], T]) -> T: ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """The result of ``work``, when it is committed and synced. If it raises, nothing is changed."""
        ...

    async def probe(self, work: Callable[[Connection], object]) -> None:
        """As ``write``, but rolled back. Also fails if there is no room for more data."""
        ...

    def find(self, part: ColumnElement[str] | str, text: ColumnElement[str]) -> ColumnElement[int]:
        """The position of ``part`` in ``text``, from 1; 0 if absent."""
        ...

    def each(self, texts: Sequence[str]) -> FromClause:
        """A table of these in the column ``value``. However many there are, they are one parameter."""
        ...

    def cosine(self, column: ColumnElement[Any], vector: Sequence[float]) -> ColumnElement[float] | None:
        """The cosine similarity of a vector column to this vector; None where the database cannot compute it."""
        ...


def database_at(url: str) -> Database:
    """The database at ``url``, not yet opened.

    Raises:
        ValueError: the URL is invalid, or its driver is not installed. The text does not quote it: it may contain a
            password.
    """
    scheme, _, rest = url.partition("://")
    match scheme.lower():
        case "sqlite" | "sqlite+aiosqlite":
            path = rest.removeprefix("/")
            if path == rest or path in ("", ":memory:") or path.startswith("file:") or {"?", "\0"} & set(path):
                raise ValueError("A SQLite database is a file: sqlite:///relative/path or sqlite:////absolute/path.")
            return SqliteDatabase(Path(path))
        case "postgresql" | "postgres" | "postgresql+asyncpg":
            try:  # not before it is wanted: its driver is an extra
                from codegen_api.stores.sql.postgres import PostgresDatabase  # noqa: PLC0415
            except ModuleNotFoundError as error:
                raise ValueError(
                    "For PostgreSQL install the extra: pip install 'codegen-gateway[postgres]'."
                ) from error
            return PostgresDatabase(f"postgresql://{rest}")
    raise ValueError("The URL of a database begins with sqlite:/// or postgresql://.")
