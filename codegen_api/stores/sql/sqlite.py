"""Tables in a SQLite file. Any number of processes on one machine may have it open.

Readers see the last state that was committed and wait for nobody; writers wait for each other, for a while. What was
committed outlives a crash of the machine too, for which each commit is written through to the disk: a turn has to be
there before its host is asked.
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

from codegen_api.stores.sql.faults import faults

if sys.platform != "win32":
    import fcntl

WAIT = 10.0
"""Seconds that anything waits for its turn, in this process and then among processes."""

WAIT_TO_OPEN = 300.0
"""Seconds that a process waits for another one that brings the tables up to date."""


ROOM = 256 * 1024
"""Bytes that the disk has to have room for, or it counts as full."""


class SqliteDatabase:
    """The file at ``path``. It and its directory are made where they are missing, for this user alone."""

    insert = staticmethod(insert)

    def __init__(self, path: Path) -> None:
        logging.getLogger("aiosqlite").setLevel(logging.INFO)  # below, it tells all that is written or read
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
        # Between processes SQLite settles who may write, by asking again and again; within one we can do better.
        self._writing = asyncio.Lock()
        self._opened: tuple[int, int] | None = None

    async def open(self, migrate: Callable[[Connection], None]) -> None:
        with faults():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            async with _alone(self._path.with_name(self._path.name + ".lock")):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
                self._opened = _identity(self._path)
                await asyncio.to_thread(_keep_a_log, self._path)
                async with self._writer.execution_options(migrates=True).begin() as connection:
                    await connection.run_sync(migrate)
                await self._engine.dispose()  # of the connection that does not look after foreign keys

    async def aclose(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection that sees one state of the database, whatever is written meanwhile."""
        with faults():
            self._make_sure_of_the_file()
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction that writes, committed at the end."""
        with faults():
            self._make_sure_of_the_file()
            async with asyncio.timeout(WAIT):
                await self._writing.acquire()
            try:
                async with self._writer.begin() as connection:
                    yield connection
            finally:
                self._writing.release()

    @asynccontextmanager
    async def trying(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction that writes, rolled back at the end. As SQLite asks the disk for room only when
        it commits, this does.
        """
        with faults():
            await asyncio.to_thread(_make_sure_of_room, self._path.parent)
        async with self.writing() as connection:
            yield connection
            await connection.rollback()

    def _make_sure_of_the_file(self) -> None:
        """A file that is deleted while it is open can be read and written on, and all of that is gone at the end.

        Raises:
            FileNotFoundError: it is not there any more, or another one is.
        """
        if self._opened is not None and _identity(self._path) != self._opened:
            said = "the database was replaced while it was open: start anew"
            raise FileNotFoundError(errno.ENOENT, said, str(self._path))

    def find(self, part: ColumnElement[str] | str, text: ColumnElement[str]) -> ColumnElement[int]:
        """Where ``part`` stands in ``text``, from 1; 0 if nowhere."""
        return func.instr(text, part)

    def each(self, texts: Sequence[str]) -> FromClause:
        """A table of these, in the column ``value``. However many there are, they are one parameter."""
        return func.json_each(json.dumps(texts)).table_valued("value")

    def cosine(self, column: ColumnElement[Any], vector: Sequence[float]) -> ColumnElement[float] | None:
        """SQLite knows no vectors."""
        return None


def _make_sure_of_room(directory: Path) -> None:
    """
    Raises:
        OSError: there is none.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(ROOM))
        file.flush()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _set_up(connection: DBAPIConnection, _: Any) -> None:
    """A new connection. Without an isolation level, sqlite3 leaves it to us to begin transactions."""
    try:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()
    except BaseException:
        connection.close()  # nobody knows of it yet, and it has a thread
        raise


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("migrates"):
        # SQLite alters a table by copying it, and with the old one would remove all that refers to it
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    # one that reads first and writes then would be refused when another has written in between, without a wait
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")


def _keep_a_log(path: Path) -> None:
    """Write what changes to a log beside the file, so that readers and the writer do not wait for each other.

    The file remembers it. It is the one thing for which SQLite does not wait while the file is in use.
    """
    with closing(sqlite3.connect(path, timeout=WAIT)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """Be the only process in here. The system lets go of the lock of one that dies; the file stays for the next."""
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
