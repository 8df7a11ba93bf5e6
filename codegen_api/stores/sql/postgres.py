"""The database in PostgreSQL, for gateways on several machines."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.types import UserDefinedType

from codegen_api.stores.sql import libpq
from codegen_api.stores.sql.database import faults

T = TypeVar("T")

WAIT = 30.0
"""Seconds to wait for a connection from the pool, or for the server."""

WAIT_TO_CONNECT = 10.0

WAIT_TO_OPEN = 300.0
"""Seconds for each migration statement, and to wait for another process that migrates."""

_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError)

_LOCK = int.from_bytes(b"codegen_")
"""The advisory lock that a migrating process holds."""


class PostgresDatabase:
    """The database at ``url``, in libpq's syntax. The tables are in the first schema of the search path."""

    insert = staticmethod(insert)

    def __init__(self, url: str) -> None:
        self._target = libpq.read(url)
        self._has_pgvector = False
        self._engine = self._create_engine(WAIT, pool_size=5, max_overflow=5, pool_timeout=WAIT, pool_pre_ping=True)

    def _create_engine(self, command_timeout: float, **pool: Any) -> AsyncEngine:
        async def connect() -> asyncpg.Connection:
            target = self._target
            return await asyncpg.connect(
                target.url,
                timeout=target.timeout or WAIT_TO_CONNECT,
                command_timeout=command_timeout,
                server_settings=dict(target.settings),
                ssl=target.ssl,
            )

        return create_async_engine("postgresql+asyncpg://", async_creator=connect, hide_parameters=True, **pool)

    async def open(self, migrate: Callable[[sa.Connection], None]) -> None:
        engine = self._create_engine(WAIT_TO_OPEN, poolclass=NullPool)
        with faults(_DRIVER):
            async with engine.begin() as connection:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                await connection.run_sync(migrate)
                self._has_pgvector = bool(await connection.scalar(sa.select(sa.func.to_regtype("vector").is_not(None))))

    async def aclose(self) -> None:
        await self._engine.dispose()

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """As in the protocol. Each statement sees what was committed before it."""
        with faults(_DRIVER):
            async with self._engine.connect() as connection:
                return await connection.run_sync(work)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        with faults(_DRIVER):
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)

    async def probe(self, work: Callable[[sa.Connection], object]) -> None:
        await self.read(work)  # ``read`` commits nothing

    def find(self, part: sa.ColumnElement[str] | str, text: sa.ColumnElement[str]) -> sa.ColumnElement[int]:
        return sa.func.strpos(text, part)

    def each(self, texts: Sequence[str]) -> sa.FromClause:
        return sa.select(sa.func.unnest(sa.literal(list(texts), sa.ARRAY(sa.Text))).label("value")).subquery()

    def cosine(self, column: sa.ColumnElement[Any], vector: Sequence[float]) -> sa.ColumnElement[float] | None:
        """As in the protocol. None without the extension pgvector."""
        if not self._has_pgvector:
            return None
        other = sa.cast(sa.literal(vector, sa.ARRAY(sa.REAL)), _Vector)
        distance = sa.cast(column, _Vector).op("<=>", return_type=sa.Double)(other)
        return sa.literal_column("1.0", sa.Double) - distance


class _Vector(UserDefinedType[Any]):
    """The type that pgvector adds."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "vector"
