"""The tables in a SQLite file. Any number of processes on one machine may open it.

Readers see the last committed state and never wait; writers wait for each other, up to a limit. Every commit is synced
to disk, because a turn must survive a crash of the machine before its host is asked.
"""

import asyncio
import errno
import json
import logging
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL, ColumnElement, Connection, FromClause, event, func
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from codegen_api.stores.sql.sql_errors import faults

if sys.platform != "win32":
    import fcntl

WAIT = 10.0
"""Seconds that a writer waits for its turn: first in this process, then among processes."""

WAIT_TO_OPEN = 300.0
"""Seconds to wait for another process that migrates."""


ROOM = 256 * 1024
"""Free bytes without which the disk counts as full."""


class SqliteDatabase:
    """The file at ``path``. It and its directory are created if missing, accessible to this user only."""

    insert = staticmethod(insert)

    def __init__(self, path: Path) -> None:
        logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs all data
        self._path = path.absolute()
        self._engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(self._path)),
            connect_args={"timeout": WAIT},
            pool_size=16,
            max_overflow=0,
            pool_timeout=WAIT,
            hide_parameters=True,
        )
        event.listen(self._engine.sync_engine, "connect", _set_up)
        event.listen(self._engine.sync_engine, "begin", _begin)
        self._writer = self._engine.execution_options(writes=True)
        # Among processes SQLite settles this by polling; within one a lock is better.
        self._writing = asyncio.Lock()
        self._opened: tuple[int, int] | None = None

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        with faults():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            async with _file_lock(self._path.with_name(self._path.name + ".lock")):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
                self._opened = _identity(self._path)
                await asyncio.to_thread(_enable_wal, self._path)
                async with self._writer.execution_options(migrates=True).begin() as connection:
                    await connection.run_sync(migrate)
                await self._engine.dispose()  # drops the connection without foreign keys

    async def aclose(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection that sees one state of the database, whatever is written meanwhile."""
        with faults():
            self._require_same_file()
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a write transaction that is committed at the end."""
        with faults():
            self._require_same_file()
            async with asyncio.timeout(WAIT):
                await self._writing.acquire()
            try:
                async with self._writer.begin() as connection:
                    yield connection
            finally:
                self._writing.release()

    @asynccontextmanager
    async def probing(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction that is rolled back. SQLite allocates space only on commit, so that is checked apart."""
        with faults():
            await asyncio.to_thread(_require_free_space, self._path.parent)
        async with self.writing() as connection:
            yield connection
            await connection.rollback()

    def _require_same_file(self) -> None:
        """Writes to a deleted file that is still open succeed, and are lost when it is closed.

        Raises:
            FileNotFoundError: the file was deleted or replaced.
        """
        if self._opened is not None and _identity(self._path) != self._opened:
            said = "the database was replaced while it was open: start anew"
            raise FileNotFoundError(errno.ENOENT, said, str(self._path))

    def find(self, part: ColumnElement[str] | str, text: ColumnElement[str]) -> ColumnElement[int]:
        return func.instr(text, part)

    def each(self, texts: Sequence[str]) -> FromClause:
        return func.json_each(json.dumps(texts)).table_valued("value")

    def cosine(self, column: ColumnElement[Any], vector: Sequence[float]) -> ColumnElement[float] | None:
        return None


def _require_free_space(directory: Path) -> None:
    """
    Raises:
        OSError: there is too little.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(ROOM))
        file.flush()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _set_up(connection: DBAPIConnection, _: Any) -> None:
    """Configure a new connection. Without an isolation level, sqlite3 leaves transactions to us."""
    try:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()
    except BaseException:
        connection.close()  # not in the pool yet, and owns a thread
        raise


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("migrates"):
        # SQLite alters a table by copying it; dropping the old one would cascade to rows that refer to it
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    # a transaction that begins with a read fails at once if another one writes before it does, without waiting
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")


def _enable_wal(path: Path) -> None:
    """Switch to write-ahead logging, so that readers and the writer do not block each other.

    The file remembers it. Done separately, since it is the one statement for which SQLite does not wait while the file
    is in use.
    """
    with closing(sqlite3.connect(path, timeout=WAIT)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[None]:
    """Exclude other processes. The system releases the lock of one that dies; the lock file stays."""
    if sys.platform == "win32":
        raise OSError("there are no locks on files here")
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + WAIT_TO_OPEN
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
        yield
    finally:
        os.close(held)
