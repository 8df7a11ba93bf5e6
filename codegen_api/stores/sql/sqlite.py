"""The database in a SQLite file. Any number of processes on one machine may open it.

Readers see the last committed state and never wait; writers wait for each other, up to a limit. Every commit is synced
to disk, because a turn must survive a crash of the machine before its host is asked. Concurrent writes are committed,
and synced, together.
"""

import asyncio
import errno
import json
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import URL, ColumnElement, Connection, Engine, FromClause, NullPool, create_engine, event, func
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError

from codegen_api.stores.sql.database import faults

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")

Work = Callable[[Connection], T]

READERS = 4
"""Threads that read, so that a slow read does not delay others."""

WAIT = 10.0
"""Seconds that a writer waits for its turn: first in this process, then among processes."""

WAIT_TO_READ = 30.0
"""Seconds after which a read times out."""

WAIT_TO_OPEN = 300.0
"""Seconds to wait for another process that migrates."""

ROOM = 256 * 1024
"""The disk counts as full with fewer free bytes."""

_CLOSING = 10.0
"""Seconds that closing waits for each thread."""

GROUP_SIZE = 100
"""Maximum transactions committed together."""


class SqliteDatabase:
    """The file at ``path``. It and its directory are created if missing, accessible to this user only."""

    insert = staticmethod(insert)

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._engine = create_engine(
            URL.create("sqlite", database=str(self._path)),
            connect_args={"timeout": WAIT, "check_same_thread": False},  # may be closed by another thread
            poolclass=NullPool,
            hide_parameters=True,
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)
        self._readers = ConnectedThreads(self._engine, READERS, check=self._require_same_file)
        writes = self._engine.execution_options(writes=True)
        self._writer = ConnectedThreads(writes, 1, check=self._require_same_file)
        # Between processes, SQLite polls for the write lock; within one, a queue is better.
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
        """As in the protocol. ``work`` sees a single state of the database, whatever is written meanwhile."""
        with faults():
            async with asyncio.timeout(WAIT_TO_READ):
                return await self._readers.run(self._readers.transact, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        with faults():
            return await self._group.write(work)

    async def probe(self, work: Callable[[Connection], object]) -> None:
        """As in the protocol. SQLite allocates space only on commit, so free space is checked separately."""

        def roll_back(connection: Connection) -> None:
            work(connection)
            raise _RolledBack

        with faults():
            await asyncio.to_thread(_require_free_space, self._path.parent)
        with suppress(_RolledBack):
            await self.write(roll_back)

    def _require_same_file(self) -> None:
        """Raise ``FileNotFoundError`` if the file was deleted or replaced. Writes to a deleted file that is still open
        succeed, and are lost when it is closed.
        """
        if self._opened is not None and not os.path.samestat(self._path.stat(), self._opened):
            message = "the database was replaced while it was open: restart the gateway"
            raise FileNotFoundError(errno.ENOENT, message, str(self._path))

    def find(self, part: ColumnElement[str] | str, text: ColumnElement[str]) -> ColumnElement[int]:
        return func.instr(text, part)

    def each(self, texts: Sequence[str]) -> FromClause:
        return func.json_each(json.dumps(texts)).table_valued("value")

    def cosine(self, column: ColumnElement[Any], vector: Sequence[float]) -> ColumnElement[float] | None:
        return None


class _RolledBack(Exception):
    """Rolls back a transaction that was only a test."""


def _require_free_space(directory: Path) -> None:
    """Raise ``OSError`` if there is too little."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(ROOM))
        file.flush()


def _set_up(connection: DBAPIConnection, _: Any) -> None:
    """Configure a new connection. Without an isolation level, ``sqlite3`` begins no transactions itself."""
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
    # a transaction that reads before it writes would fail at once, without waiting, if another writes in between
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")


def _enable_wal(path: Path) -> None:
    """Switch to write-ahead logging, so that readers and the writer do not block each other.

    The setting is stored in the file. It is made separately, as SQLite does not wait with this one statement while the
    file is in use.
    """
    with closing(sqlite3.connect(path, timeout=WAIT)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[None]:
    """Exclude other processes. The system releases the lock of a process that dies; the lock file stays."""
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


# -- threads ----------------------------------------------------------------------------------------------------------


class _Outcome(NamedTuple):
    result: Any
    error: BaseException | None = None

    def deliver(self, done: "asyncio.Future[Any]") -> None:
        if done.done():  # the caller was cancelled
            return
        if self.error is None:
            done.set_result(self.result)
        else:
            done.set_exception(self.error)


class _Call(NamedTuple):
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Any]"
    call: Callable[..., Any]
    arguments: tuple[Any, ...]


class ConnectedThreads:
    """``count`` threads, each with a lasting connection to ``engine``. ``check`` is called before each transaction.

    A transaction is a single call to a thread: switching threads costs more than most statements. An executor would
    take three locks per call.
    """

    def __init__(self, engine: Engine, count: int, *, check: Callable[[], None]) -> None:
        self._engine = engine
        self._count = count
        self._check = check
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._local = threading.local()

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call ``call`` in one of the threads."""
        if self._closed:
            raise sqlite3.ProgrammingError("the database is closed")
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._run_calls, name="sqlite", daemon=True) for _ in range(self._count)
            ]
            for thread in self._threads:
                thread.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._calls.put(_Call(loop, done, call, arguments))
        return await done

    def transact(self, work: Work[T]) -> T:
        """Run ``work`` as a transaction, in the calling thread."""
        self._check()
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._engine.connect()
        try:
            with connection.begin():
                return work(connection)
        except (SQLAlchemyError, sqlite3.Error):
            self._disconnect()  # its state is unknown
            raise

    async def aclose(self) -> None:
        """Wait for calls in progress, and close all connections."""
        self._closed = True
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, _CLOSING)

    def _run_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                outcome = _Outcome(call.call(*call.arguments))
            except BaseException as error:  # delivered to the caller
                outcome = _Outcome(None, error)
            with suppress(RuntimeError):  # the caller's loop has ended
                call.loop.call_soon_threadsafe(outcome.deliver, call.done)
            del call, outcome
        self._disconnect()

    def _disconnect(self) -> None:
        connection: Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()


class GroupWriter:
    """Runs transactions one after another, and commits those that wait together, so that all wait for the disk only
    once. A transaction that has not begun within ``wait`` seconds raises TimeoutError.
    """

    def __init__(self, thread: ConnectedThreads, *, wait: float) -> None:
        self._thread = thread
        self._wait = wait
        self._waiting: dict[asyncio.Future[Any], Work[Any]] = {}
        self._writing: asyncio.Task[None] | None = None

    async def write(self, work: Work[T]) -> T:
        """Return the result of ``work`` once it is committed."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting[done] = work
        timer = loop.call_later(self._wait, self._give_up, done)
        if self._writing is None:
            self._writing = loop.create_task(self._write())
        try:
            return await done
        finally:
            timer.cancel()

    async def _write(self) -> None:
        try:
            while self._waiting:
                group = {done: self._waiting.pop(done) for done in list(self._waiting)[:GROUP_SIZE]}
                try:
                    outcomes = await self._thread.run(self._run_group, list(group.values()))
                except Exception as error:  # delivered to all callers
                    outcomes = [_Outcome(None, error)] * len(group)
                for done, outcome in zip(group, outcomes, strict=True):
                    outcome.deliver(done)
        finally:
            self._writing = None

    def _give_up(self, done: "asyncio.Future[Any]") -> None:
        if self._waiting.pop(done, None) is not None:
            done.set_exception(TimeoutError())

    def _run_group(self, group: Sequence[Work[Any]]) -> list[_Outcome]:
        """Run these in one transaction, in the thread. If the database fails on one, run each in its own."""
        begun = False

        def run_all(connection: Connection) -> list[_Outcome]:
            nonlocal begun
            begun = True
            if len(group) == 1:
                return [_Outcome(group[0](connection))]
            return list(map(partial(_run_in_savepoint, connection), group))

        try:
            return self._thread.transact(run_all)
        except Exception as error:  # delivered to the callers
            if begun and len(group) > 1:
                return [outcome for work in group for outcome in self._run_group([work])]
            return [_Outcome(None, error)] * len(group)


def _run_in_savepoint(connection: Connection, work: Work[Any]) -> _Outcome:
    """Run one of several works in a transaction; only this one is undone if it raises."""
    connection.exec_driver_sql("SAVEPOINT apart")
    try:
        outcome = _Outcome(work(connection))
    except (SQLAlchemyError, sqlite3.Error):
        raise  # the database may have undone more than this one
    except Exception as error:  # delivered to its caller
        connection.exec_driver_sql("ROLLBACK TO apart")
        outcome = _Outcome(None, error)
    connection.exec_driver_sql("RELEASE apart")
    return outcome
