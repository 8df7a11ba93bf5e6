"""The tables in PostgreSQL, for gateways on several machines."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import (
    ARRAY,
    REAL,
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Text,
    cast,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.types import UserDefinedType

from codegen_api.stores.sql import libpq
from codegen_api.stores.sql.sql_errors import faults

WAIT = 30.0
"""Seconds to wait for a connection from the pool, or for the server."""

WAIT_TO_CONNECT = 10.0

WAIT_TO_OPEN = 300.0
"""Seconds for each migration, and to wait for another process that migrates."""

_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError)

_LOCK = int.from_bytes(b"codegen_")
"""The advisory lock of the process that migrates."""


class PostgresDatabase:
    """The database at ``url``, in libpq's syntax. The tables are in the first schema of the search path."""

    insert = staticmethod(insert)

    def __init__(self, url: str) -> None:
        self._target = libpq.read(url)
        self._compares = False
        self._engine = self._connected_by(WAIT, pool_size=5, max_overflow=5, pool_timeout=WAIT, pool_pre_ping=True)

    def _connected_by(self, wait: float, **pool: Any) -> AsyncEngine:
        async def connect() -> asyncpg.Connection:
            target = self._target
            return await asyncpg.connect(
                target.url,
                timeout=target.timeout or WAIT_TO_CONNECT,
                command_timeout=wait,
                server_settings=dict(target.settings),
                ssl=target.ssl,
            )

        return create_async_engine("postgresql+asyncpg://", async_creator=connect, hide_parameters=True, **pool)

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        patient = self._connected_by(WAIT_TO_OPEN, poolclass=NullPool)
        with faults(_DRIVER):
            async with patient.begin() as connection:
                await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
                await connection.run_sync(migrate)
                self._compares = bool(await connection.scalar(select(func.to_regtype("vector").is_not(None))))

    async def aclose(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection in which each statement sees what was committed before it."""
        with faults(_DRIVER):
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction that is committed at the end."""
        with faults(_DRIVER):
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def probing(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction that is rolled back at the end."""
        async with self.writing() as connection:
            yield connection
            await connection.rollback()

    def find(self, part: ColumnElement[str] | str, text: ColumnElement[str]) -> ColumnElement[int]:
        return func.strpos(text, part)

    def each(self, texts: Sequence[str]) -> FromClause:
        return select(func.unnest(literal(list(texts), ARRAY(Text))).label("value")).subquery()

    def cosine(self, column: ColumnElement[Any], vector: Sequence[float]) -> ColumnElement[float] | None:
        """As the protocol; None without the extension pgvector."""
        if not self._compares:
            return None
        distance = cast(column, _Vector).op("<=>", return_type=Double)(cast(literal(vector, ARRAY(REAL)), _Vector))
        return literal_column("1.0", Double) - distance


class _Vector(UserDefinedType[Any]):
    """The type that pgvector adds."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "vector"
