"""Transactions that are committed together: each is done or not, whatever becomes of the others."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

from codegen_api.errors import StoreUnavailable
from codegen_api.stores.sql import sqlite
from codegen_api.stores.sql.sqlite import SqliteDatabase


class Refused(Exception):
    """What a transaction says that does not want to be."""


@asynccontextmanager
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    def migrate(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE words (word TEXT UNIQUE)"))

    its = SqliteDatabase(path / "gateway.db")
    await its.open(migrate)
    try:
        yield its
    finally:
        await its.aclose()


def word(its: str, then: Callable[[Connection], object] = lambda _: None) -> Callable[[Connection], str]:
    """Write down a word."""

    def work(connection: Connection) -> str:
        connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": its})
        then(connection)
        return its

    return work


def words(connection: Connection) -> list[str]:
    return sorted(connection.execute(text("SELECT word FROM words")).scalars())


class Busy:
    """The writer, at work until it is let go."""

    def __init__(self, its: SqliteDatabase) -> None:
        self._at_work, self._go = threading.Event(), threading.Event()
        self.done = asyncio.ensure_future(its.write(self._work))

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._at_work.wait, 30)

    def let_go(self) -> None:
        self._go.set()

    def _work(self, _: Connection) -> None:
        self._at_work.set()
        assert self._go.wait(30)


def refuse(_: Connection) -> None:
    raise Refused


def again(connection: Connection) -> None:
    connection.execute(text("INSERT INTO words VALUES ('a')"))


async def together(its: SqliteDatabase, *works: Callable[[Connection], object]) -> tuple[list[object], int]:
    """What comes of these, which come while the writer is at work; and how often is committed for them."""
    commits = 0

    def count(connection: Connection) -> None:
        nonlocal commits
        commits += bool(connection.get_execution_options().get("writes"))

    busy = Busy(its)
    await busy.begun()
    event.listen(its._engine, "commit", count)
    coming = [asyncio.ensure_future(its.write(work)) for work in works]
    await asyncio.sleep(0)
    busy.let_go()
    return await asyncio.gather(*coming, return_exceptions=True), commits - 1


async def test_what_comes_while_another_writes_is_committed_once(tmp_path: Path) -> None:
    async with database(tmp_path) as its:
        came, commits = await together(its, *(word(each) for each in "abcdefgh"))
        assert (came, commits) == (list("abcdefgh"), 1)
        assert await its.read(words) == list("abcdefgh")


async def test_of_those_together_one_that_does_not_want_to_be_is_undone_alone(tmp_path: Path) -> None:
    async with database(tmp_path) as its:
        came, commits = await together(its, word("a"), word("b", refuse), word("c"))
        assert [type(each) for each in came] == [str, Refused, str]
        assert commits == 1
        assert await its.read(words) == ["a", "c"]


async def test_where_the_database_fails_on_one_the_others_are_done_all_the_same(tmp_path: Path) -> None:
    async with database(tmp_path) as its:
        came, _ = await together(its, word("a"), word("b", again), word("c"))
        assert [type(each) for each in came] == [str, StoreUnavailable, str]
        assert await its.read(words) == ["a", "c"]
        assert await its.write(word("d")) == "d"


async def test_where_nothing_can_be_committed_all_are_told_and_nothing_is_there(tmp_path: Path) -> None:
    async with database(tmp_path) as its:

        def fail(_: Connection) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        event.listen(its._engine, "commit", fail)
        came = await asyncio.gather(*(its.write(word(each)) for each in "abc"), return_exceptions=True)
        event.remove(its._engine, "commit", fail)
        assert [type(each) for each in came] == [StoreUnavailable] * 3
        assert await its.read(words) == []
        assert await its.write(word("d")) == "d"


async def test_one_whose_turn_does_not_come_in_time_is_given_up_and_never_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "WAIT", 0.05)
    async with database(tmp_path) as its:
        busy = Busy(its)
        await busy.begun()
        with pytest.raises(StoreUnavailable):
            await its.write(word("a"))
        busy.let_go()
        await busy.done
        assert await its.write(word("b")) == "b"
        assert await its.read(words) == ["b"]


async def test_one_whose_caller_has_left_is_done_and_those_after_it_too(tmp_path: Path) -> None:
    async with database(tmp_path) as its:
        busy = Busy(its)
        await busy.begun()
        leaving, staying = (asyncio.ensure_future(its.write(word(each))) for each in "ab")
        await asyncio.sleep(0)
        leaving.cancel()
        busy.let_go()
        assert await staying == "b"
        assert await its.read(words) == ["a", "b"]


async def test_who_reads_is_told_when_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "WAIT_TO_READ", 0.05)
    go = threading.Event()
    async with database(tmp_path) as its:
        with pytest.raises(StoreUnavailable):
            await its.read(lambda _: go.wait(30))
        go.set()
        assert await its.write(word("a")) == "a"


async def test_after_the_end_nothing_is_read_or_written(tmp_path: Path) -> None:
    async with database(tmp_path) as its:
        pass
    for using in (its.read(words), its.write(word("a"))):
        with pytest.raises(StoreUnavailable):
            await using
    assert not any(thread.name == "sqlite" for thread in threading.enumerate())
