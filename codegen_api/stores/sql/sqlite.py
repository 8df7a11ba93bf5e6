"""The tables in a SQLite file. Any number of processes on one machine may open it.

Readers see the last committed state and never wait; writers wait for each other, up to a limit. Every commit is synced
to disk, because a turn must survive a crash of the machine before its host is asked. What several callers write at the
same time is committed, and synced, once for all of them.
"""

import asyncio
import errno
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, ColumnElement, Connection, FromClause, NullPool, create_engine, event, func
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine.interfaces import DBAPIConnection

from codegen_api.stores.sql.database import faults
from codegen_api.stores.sql.sqlite_threads import ConnectedThreads, GroupWriter

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")

READERS = 4
"""Threads that read: what takes long in one of them does not delay the others."""

WAIT = 10.0
"""Seconds that a writer waits for its turn: first in this process, then among processes."""

WAIT_TO_READ = 30.0
"""Seconds after which somebody who reads is told that it takes too long."""

WAIT_TO_OPEN = 300.0
"""Seconds to wait for another process that migrates."""

ROOM = 256 * 1024
"""Free bytes without which the disk counts as full."""


class SqliteDatabase:
    """The file at ``path``. It and its directory are created if missing, accessible to this user only."""

    insert = staticmethod(insert)

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._engine = create_engine(
            URL.create("sqlite", database=str(self._path)),
            connect_args={"timeout": WAIT, "check_same_thread": False},  # a thread's connection is closed by another
            poolclass=NullPool,
            hide_parameters=True,
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)
        self._readers = ConnectedThreads(self._engine, READERS, check=self._require_same_file)
        writes = self._engine.execution_options(writes=True)
        self._writer = ConnectedThreads(writes, 1, check=self._require_same_file)
        # Among processes SQLite settles by polling who writes; within one this is better.
        self._group = GroupWriter(self._writer, wait=WAIT)
        self._opened: os.stat_result | None = None

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        with faults():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            async with _file_lock(self._path.with_name(self._path.name + ".lock")):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
                self._opened = self._path.stat()
                await self._writer.run(self._migrate, migrate)

    def _migrate(self, migrate: Callable[[Connection], None]) -> None:
        _enable_wal(self._path)
        with self._engine.execution_options(writes=True, migrates=True).begin() as connection:
            migrate(connection)

    async def aclose(self) -> None:
        await self._readers.aclose()
        await self._writer.aclose()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """As the protocol; ``work`` sees one state of the database, whatever is written meanwhile."""
        with faults():
            async with asyncio.timeout(WAIT_TO_READ):
                return await self._readers.run(self._readers.transact, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        with faults():
            return await self._group.write(work)

    async def probe(self, work: Callable[[Connection], object]) -> None:
        """As the protocol. SQLite allocates space only on commit, so that is checked apart."""

        def undone(connection: Connection) -> None:
            work(connection)
            raise _Undone

        with faults():
            await asyncio.to_thread(_require_free_space, self._path.parent)
        with suppress(_Undone):
            await self.write(undone)

    def _require_same_file(self) -> None:
        """Writes to a deleted file that is still open succeed, and are lost when it is closed.

        Raises:
            FileNotFoundError: the file was deleted or replaced.
        """
        if self._opened is not None and not os.path.samestat(self._path.stat(), self._opened):
            said = "the database was replaced while it was open: start anew"
            raise FileNotFoundError(errno.ENOENT, said, str(self._path))

    def find(self, part: ColumnElement[str] | str, text: ColumnElement[str]) -> ColumnElement[int]:
        return func.instr(text, part)

    def each(self, texts: Sequence[str]) -> FromClause:
        return func.json_each(json.dumps(texts)).table_valued("value")

    def cosine(self, column: ColumnElement[Any], vector: Sequence[float]) -> ColumnElement[float] | None:
        return None


class _Undone(Exception):
    """A transaction that was only a test."""


def _require_free_space(directory: Path) -> None:
    """
    Raises:
        OSError: there is too little.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(ROOM))
        file.flush()


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
