"""The tables in PostgreSQL, for gateways on several machines."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.types import UserDefinedType

from codegen_api.stores.sql import libpq
from codegen_api.stores.sql.sql_errors import faults

T = TypeVar("T")

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

    async def read(self, work: Callable[[Connection], T]) -> T:
        """As the protocol; each statement sees what was committed before it."""
        with faults(_DRIVER):
            async with self._engine.connect() as connection:
                return await connection.run_sync(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        with faults(_DRIVER):
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)

    async def probe(self, work: Callable[[Connection], object]) -> None:
        await self.read(work)  # which commits nothing

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
