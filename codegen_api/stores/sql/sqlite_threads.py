"""Threads with a connection to a SQLite file each, and the one that writes.

A transaction is a single call to a thread: to change threads costs more than most statements do.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

T = TypeVar("T")

Work = Callable[[Connection], T]

_CLOSING = 10.0
"""Seconds that what a thread does is waited for at the end."""

TOGETHER = 100
"""Transactions that are committed together at most."""


class _Outcome(NamedTuple):
    result: Any
    error: BaseException | None = None

    def tell(self, done: "asyncio.Future[Any]") -> None:
        if done.done():  # nobody waits any more
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
    """``count`` threads, whose connections to ``engine`` last. ``check`` is called before each transaction.

    An executor would do the same with three locks a call.
    """

    def __init__(self, engine: Engine, count: int, *, check: Callable[[], None]) -> None:
        self._engine = engine
        self._count = count
        self._check = check
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._here = threading.local()

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call something in one of the threads."""
        if self._closed:
            raise sqlite3.ProgrammingError("the database is closed")
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._work, name="sqlite", daemon=True) for _ in range(self._count)
            ]
            for thread in self._threads:
                thread.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._calls.put(_Call(loop, done, call, arguments))
        return await done

    def transact(self, work: Work[T]) -> T:
        """The result of a transaction, in the thread that calls this."""
        self._check()
        connection: Connection | None = getattr(self._here, "connection", None)
        if connection is None:
            connection = self._here.connection = self._engine.connect()
        try:
            with connection.begin():
                return work(connection)
        except (SQLAlchemyError, sqlite3.Error):
            self._disconnect()  # nobody knows in which state it is
            raise

    async def aclose(self) -> None:
        """Wait for what is being done, and close all connections."""
        self._closed = True
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, _CLOSING)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                outcome = _Outcome(call.call(*call.arguments))
            except BaseException as error:  # whoever asked is told
                outcome = _Outcome(None, error)
            with suppress(RuntimeError):  # their loop has ended
                call.loop.call_soon_threadsafe(outcome.tell, call.done)
            del call, outcome
        self._disconnect()

    def _disconnect(self) -> None:
        connection: Connection | None = getattr(self._here, "connection", None)
        self._here.connection = None
        if connection is not None:
            connection.close()


class GroupWriter:
    """Runs transactions one after another, and commits those that have come meanwhile together: however many there are,
    they wait for the disk once. ``wait``: seconds until one that has not begun is given up.
    """

    def __init__(self, thread: ConnectedThreads, *, wait: float) -> None:
        self._thread = thread
        self._wait = wait
        self._waiting: dict[asyncio.Future[Any], Work[Any]] = {}
        self._writing: asyncio.Task[None] | None = None

    async def write(self, work: Work[T]) -> T:
        """The result of ``work``, when it is committed."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting[done] = work
        giving_up = loop.call_later(self._wait, self._give_up, done)
        if self._writing is None:
            self._writing = loop.create_task(self._write())
        try:
            return await done
        finally:
            giving_up.cancel()

    async def _write(self) -> None:
        try:
            while self._waiting:
                group = {done: self._waiting.pop(done) for done in list(self._waiting)[:TOGETHER]}
                try:
                    outcomes = await self._thread.run(self._together, list(group.values()))
                except Exception as error:  # they are told
                    outcomes = [_Outcome(None, error)] * len(group)
                for done, outcome in zip(group, outcomes, strict=True):
                    outcome.tell(done)
        finally:
            self._writing = None

    def _give_up(self, done: "asyncio.Future[Any]") -> None:
        if self._waiting.pop(done, None) is not None:
            done.set_exception(TimeoutError())

    def _together(self, group: Sequence[Work[Any]]) -> list[_Outcome]:
        """What comes of these, in the thread. When the database fails on one, each is tried by itself."""
        begun = False

        def one_after_another(connection: Connection) -> list[_Outcome]:
            nonlocal begun
            begun = True
            if len(group) == 1:
                return [_Outcome(group[0](connection))]
            return list(map(partial(_apart, connection), group))

        try:
            return self._thread.transact(one_after_another)
        except Exception as error:  # whoever asked is told
            if begun and len(group) > 1:
                return [outcome for work in group for outcome in self._together([work])]
            return [_Outcome(None, error)] * len(group)


def _apart(connection: Connection, work: Work[Any]) -> _Outcome:
    """What comes of one of several in a transaction, which is undone if it raises."""
    connection.exec_driver_sql("SAVEPOINT apart")
    try:
        outcome = _Outcome(work(connection))
    except (SQLAlchemyError, sqlite3.Error):
        raise  # it may have undone more than this one
    except Exception as error:  # its caller is told
        connection.exec_driver_sql("ROLLBACK TO apart")
        outcome = _Outcome(None, error)
    connection.exec_driver_sql("RELEASE apart")
    return outcome
