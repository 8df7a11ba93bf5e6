"""Which database is meant, that it outlives what happens to it, and what is said and not said when it cannot be had."""

import asyncio
import errno
import logging
import random
import resource
import signal
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, text

from codegen_api.errors import StoreUnavailable
from codegen_api.stores import Busy, Query, Store, TurnState
from codegen_api.stores.sql import SqlStore, database_at, libpq
from codegen_api.stores.sql import postgres as on_a_server
from codegen_api.stores.sql import sqlite as in_a_file
from tests.leaks import WATCH
from tests.stores.postgres import Postgres
from tests.stores.things import ME, agent, conversation, opened, run, turn

PASSWORD = "sesame-o-pen-123"
CUT = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'codegen_api'"
PROMPT = "Tidy up the cellar of 7 Elm Street"


# -- which one is meant -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gateway.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://gateway.db",
        "sqlite:///gateway.db?mode=ro",
        "sqlite:///file:gateway.db",
        f"mysql://root:{PASSWORD}@localhost/db",
        f"postgresql+psycopg2://root:{PASSWORD}@localhost/db",
        f"postgresql://root:{PASSWORD}#1@localhost/db",
        f"postgresql://root:{PASSWORD}/1@localhost/db",
        f"postgresql://root:{PASSWORD}@local[host/db",
        f"postgresql://root:{PASSWORD}@localhost:port/db",
        f"postgresql://root:{PASSWORD}@[::1/db",
        f"postgresql://root:{PASSWORD}\u2100@localhost/db",
        f"postgresql://root:{PASSWORD}\n@localhost/db",
        f"postgresql://root:x?{PASSWORD}=1@localhost/db",
        f"postgresql://root:x?{PASSWORD}@localhost/db",
        f"postgresql://root:{PASSWORD}@localhost/db?sslmode",
        f"postgresql://root:{PASSWORD}@localhost/db?=require",
        f"root:{PASSWORD}@localhost/db",
    ],
)
def test_what_names_no_database_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"database") as refused:
        SqlStore(url)
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///gateway.db",
        "sqlite:////var/lib/gateway/gateway.db",
        "sqlite+aiosqlite:////var/lib/gateway/gateway.db",
        "SQLite:///gateway.db",
        f"postgres://root:{PASSWORD}@localhost/db?sslmode=require",
        f"postgresql://root:{PASSWORD}@[::1]:5433/db",
        f"postgresql+asyncpg://root:{PASSWORD}@one:5432,two/db?target_session_attrs=primary",
        "postgresql:///db?host=/run/postgresql",
        f"postgresql://root:{PASSWORD}@ep-1.neon.example/db?sslmode=require&channel_binding=require",
    ],
)
def test_the_usual_ways_to_name_one_are_understood(url: str) -> None:
    run(SqlStore(url).aclose())


PARAMETERS = [
    "channel_binding=disable", "channel_binding=prefer", "connect_timeout=10", "connect_timeout=0", "keepalives=1",
    "keepalives_idle=30&keepalives_interval=10&keepalives_count=5", "tcp_user_timeout=1000", "gssencmode=disable",
    "gssencmode=prefer", "client_encoding=auto", "client_encoding=latin1", "fallback_application_name=x", "sslsni=0",
    "sslcompression=0", "sslcertmode=allow", "load_balance_hosts=random", "target_session_attrs=any", "sslmode=disable",
    "sslmode=prefer", "options=-c%20search_path%3Dpublic", "min_protocol_version=3.0",
    "dbname=postgres", "user=postgres&password=a%2Bb+c", "application_name=ours",
]  # fmt: skip


@pytest.mark.parametrize("more", PARAMETERS)
async def test_parameters_are_read_as_psql_reads_them(postgres: Postgres, more: str) -> None:
    """psql takes all of these as well, if it is new enough."""

    database = database_at(f"{postgres.url('postgres')}&{more}")
    assert await database.read(lambda connection: connection.scalar(text("SELECT 1"))) == 1
    await database.aclose()


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ("", "codegen_api"),
        ("application_name=ours", "ours"),
        ("fallback_application_name=ours", "ours"),
        ("application_name=ours&fallback_application_name=x", "ours"),
        ("application_name=a%20%2B+c", "a ++c"),
    ],
)
async def test_connections_bear_the_name_that_the_url_gives_them(postgres: Postgres, more: str, name: str) -> None:
    database = database_at(f"{postgres.url('postgres')}&{more}")
    assert (
        await database.read(lambda connection: connection.scalar(text("SELECT current_setting('application_name')")))
        == name
    )
    await database.aclose()


@pytest.mark.parametrize(
    "named",
    [
        "pgbouncer=true", "schema=public", "sslmod=require", "search_path=x", "ssl=on", "SSLMODE=require",
        "database=db", "require_auth=scram-sha-256", "requirepeer=postgres", "sslcrldir=/crls", "replication=database",
        "sslmode=no-verify", "gssencmode=require", "connect_timeout=soon", "target_session_attrs=master",
        "channel_binding=yes", "sslrootcert=system&sslmode=require",
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_its_name_at_the_start(named: str) -> None:
    with pytest.raises(ValueError, match=rf"\b{named.partition('=')[0]}\b") as refused:
        database_at(f"postgresql://root:{PASSWORD}@localhost/db?{named}")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("ssl=true", "sslmode=require"),
        ("requiressl=1", "sslmode=require"),
        ("channel_binding=require", "sslmode=require"),
        ("channel_binding=require&sslmode=prefer", "sslmode=require"),
        ("channel_binding=require&sslmode=verify-full", "sslmode=verify-full"),
        ("sslmode=prefer&sslmode=verify-ca", "sslmode=verify-ca"),
        ("sslrootcert=/etc/ca%20s.pem&sslmode=verify-ca", "sslmode=verify-ca&sslrootcert=%2Fetc%2Fca%20s.pem"),
        ("sslrootcert=system", ""),
    ],
)
def test_a_connection_that_has_to_be_encrypted_is(more: str, told: str) -> None:
    target = libpq.read(f"postgresql://root@db.example/db?{more}")
    assert target.url.partition("?")[2] == told
    assert (target.ssl is not None) == (more == "sslrootcert=system")
    if target.ssl is not None:
        assert target.ssl.check_hostname


def test_how_long_to_wait_for_a_server_is_for_the_url_to_say() -> None:
    assert libpq.read("postgresql://db.example/db?connect_timeout=3").timeout == 3
    assert libpq.read("postgresql://db.example/db?connect_timeout=0").timeout is None
    assert libpq.read("postgresql:///db?hostaddr=10.0.0.7").url == "postgresql:///db?host=10.0.0.7"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_postgresql_is_reached_by_each_of_its_names(postgres: Postgres, scheme: str) -> None:
    async def main(url: str) -> None:
        async with opened(url.replace("postgresql", scheme)) as store:
            assert await store.add_agent(ME, agent())

    with postgres.database() as url:
        run(main(url))
        assert postgres.ask("SELECT count(*) FROM agents", name=url.split("/")[3].split("?")[0]) == 1


# -- when it cannot be had --------------------------------------------------------------------------------------------


def unavailable(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """What is logged when the database at ``url`` cannot be had."""

    async def main() -> None:
        store = SqlStore(url)
        with pytest.raises(StoreUnavailable) as refused:
            await store.open()
        assert refused.value.__cause__ is not None
        with pytest.raises(StoreUnavailable):
            await store.add_agent(ME, agent(name=PROMPT))
        await store.aclose()
        assert not any(thread.name.startswith("sqlite") for thread in threading.enumerate())

    WATCH.secret("a password", PASSWORD)
    WATCH.secret("a prompt", PROMPT)
    run(main())
    assert PASSWORD not in caplog.text
    return caplog.text


def test_a_server_that_is_not_there_is_said_to_be_unavailable(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert "FileNotFoundError" in unavailable(f"postgresql://root:{PASSWORD}@/db?host={tmp_path}", caplog)
    assert "gaierror" in unavailable(f"postgresql://root:{PASSWORD}@no-such-host.invalid/db", caplog)


def test_a_database_that_is_not_there_is_said_to_be_unavailable(
    caplog: pytest.LogCaptureFixture, postgres: Postgres
) -> None:
    assert "InvalidCatalogNameError 3D000" in unavailable(postgres.url("none"), caplog)
    assert "CantChangeRuntimeParamError" in unavailable(postgres.url("postgres") + "&options=-cssl%3Don", caplog)


def test_a_file_that_is_no_database_is_said_to_be_unavailable(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("This is no database at all. " * 1000)
    assert "SQLITE_NOTADB" in unavailable(f"sqlite:///{tmp_path}/text", caplog)
    assert "FileExistsError" in unavailable(f"sqlite:///{tmp_path}/text/gateway.db", caplog)
    (tmp_path / "directory").mkdir()
    assert "IsADirectoryError" in unavailable(f"sqlite:///{tmp_path}/directory", caplog)


async def test_a_file_that_somebody_else_writes_to_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_a_file, "WAIT", 0.2)
    url = f"sqlite:///{tmp_path}/gateway.db"

    async with opened(url) as store:
        await store.add_agent(ME, agent())
        with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            adding = [store.add_agent(ME, agent(str(number))) for number in range(3)]
            came = await asyncio.gather(*adding, return_exceptions=True)
            assert [type(each) for each in came] == [StoreUnavailable] * 3
            assert await store.agent(ME, "a") == agent()  # readers wait for nobody
            other.execute("ROLLBACK")
        assert await store.add_agent(ME, agent("b"))


def test_a_full_disk_is_said_to_be_and_nothing_is_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_up: Callable[..., None] = in_a_file._set_up

    def on_a_small_disk(connection: Any, record: Any) -> None:
        set_up(connection, record)
        connection.cursor().execute("PRAGMA max_page_count = 60")

    monkeypatch.setattr(in_a_file, "_set_up", on_a_small_disk)

    async def main() -> None:
        async with opened(f"sqlite:///{tmp_path}/gateway.db") as store:
            await store.add_conversation(ME, conversation())
            with pytest.raises(StoreUnavailable):
                await store.add_turn(ME, turn(prompt=PROMPT * 50_000))
            assert await store.turns(ME) == ()
            assert await store.conversation(ME, "c") == conversation()
            assert (await store.add_turn(ME, turn())).number == 1

    run(main())
    assert "SQLITE_FULL" in caplog.text


def test_postgresql_may_cut_every_connection_and_is_asked_again(postgres: Postgres) -> None:
    async def main(url: str) -> None:
        async with opened(url) as store:
            for number in range(3):
                adding = (store.add_agent(ME, agent(f"{number}.{each}")) for each in range(5))
                assert all(await asyncio.gather(*adding))
                assert await asyncio.to_thread(postgres.ask, CUT) > 0
            assert (await store.agents(ME, Query())).total == 15

    with postgres.database(template="migrated") as url:
        run(main(url))


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    def no_room(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_a_file, "_require_free_space", no_room)
        yield


@contextmanager
def another_file(path: Path) -> Iterator[None]:
    path.rename(path.with_name("moved"))
    path.touch()
    yield
    path.with_name("moved").rename(path)


@pytest.mark.wire("readiness", "health")
@pytest.mark.parametrize(
    ("gone", "trouble"),
    [
        (locked_file, "OperationalError SQLITE_BUSY"),
        (full_disk, "OSError ENOSPC"),
        (another_file, "FileNotFoundError ENOENT"),
    ],
)
async def test_a_file_that_cannot_be_written_is_told_at_once_until_it_can_be(
    gone: Callable[[Path], AbstractContextManager[None]],
    trouble: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(in_a_file, "WAIT", 0.1)
    path = tmp_path / "gateway.db"

    async with opened(f"sqlite:///{path}") as store:
        await store.check()
        assert seen(store) == (True, None)
        with gone(path):
            with pytest.raises(StoreUnavailable):
                await store.check()
            assert seen(store) == (False, trouble)
            if gone is not full_disk:  # nor can anything else be written, which is what counts
                store.observe(None)
                with pytest.raises(StoreUnavailable):
                    await store.add_agent(ME, agent())
                assert seen(store) == (False, trouble)
        assert await store.agent(ME, "b") is None
        assert seen(store) == (False, trouble)  # to be read is not enough
        await store.check()
        assert seen(store) == (True, None)
        assert await store.add_agent(ME, agent("b"))
        assert (await store.items(ME, (), 10, 0)).total == (await store.items("", (), 10, 0)).total == 0


def seen(store: SqlStore) -> tuple[bool, str | None]:
    assert store.observation is not None
    assert (store.observation.since is None) is store.observation.reachable
    return store.observation.reachable, store.observation.trouble


def test_a_disk_without_room_is_found_out_by_asking_for_some(tmp_path: Path) -> None:
    in_a_file._require_free_space(tmp_path)
    assert list(tmp_path.iterdir()) == []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (in_a_file.ROOM // 2, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            in_a_file._require_free_space(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handled)
    assert list(tmp_path.iterdir()) == []


async def test_a_check_that_began_before_something_failed_does_not_say_that_all_is_well(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path}/gateway.db") as store:
        checking = asyncio.ensure_future(store.check())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        store.observe("OperationalError SQLITE_FULL")
        await checking
        assert seen(store) == (False, "OperationalError SQLITE_FULL")
        await store.check()
        assert seen(store) == (True, None)


@pytest.mark.wire("readiness", "health")
@pytest.mark.parametrize("table", ["agents", "conversations", "turns", "items"])
def test_tables_that_somebody_else_locks_are_told_until_they_are_free(
    table: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_a_server, "WAIT", 0.3)

    async def main(url: str) -> None:
        async with opened(url) as store:
            other = await asyncpg.connect(url)
            async with other.transaction():
                await other.execute(f"LOCK TABLE {table} IN SHARE MODE")
                with pytest.raises(StoreUnavailable):
                    await store.check()
                assert seen(store) == (False, "TimeoutError")
                await store.agent(ME, "a")
                assert not seen(store)[0]
            await other.close()
            await store.check()
            assert seen(store) == (True, None)

    with postgres.database(template="migrated") as url:
        run(main(url))


@pytest.mark.wire("readiness", "health")
def test_a_server_that_only_reads_is_told_until_it_writes_again(postgres: Postgres) -> None:
    async def main(url: str) -> None:
        name = url.split("/")[3].split("?", maxsplit=1)[0]
        async with opened(url) as store:
            for only, expected in (("on", (False, "ReadOnlySQLTransactionError 25006")), ("off", (True, None))):
                setting = f"ALTER DATABASE {name} SET default_transaction_read_only = {only}"
                await asyncio.to_thread(postgres.ask, setting)
                await asyncio.to_thread(postgres.ask, CUT)
                if only == "on":
                    with pytest.raises(StoreUnavailable):
                        await store.add_agent(ME, agent())
                    assert seen(store) == expected
                    store.observe(None)
                    with pytest.raises(StoreUnavailable):
                        await store.check()
                else:
                    await store.check()
                assert seen(store) == expected
            assert await store.add_agent(ME, agent())

    with postgres.database(template="migrated") as url:
        run(main(url))


# -- what is not said -------------------------------------------------------------------------------------------------


def test_nothing_that_is_kept_is_logged_at_any_level(url: str, caplog: pytest.LogCaptureFixture) -> None:
    WATCH.secret("a prompt", PROMPT)

    async def main() -> None:
        async with opened(url) as store:
            await store.add_agent(ME, agent(system_prompt=PROMPT))
            await store.add_conversation(ME, conversation(title=PROMPT))
            added = await store.add_turn(ME, turn(prompt=PROMPT, messages=({"id": "m", "content": PROMPT},)))
            with pytest.raises(Busy) as busy:
                await store.add_turn(ME, turn("u", prompt=PROMPT))
            assert PROMPT not in repr(busy.value)
            await store.change_turn(ME, added, replace(added, state=TurnState.COMPLETED, answer=PROMPT))
            database = database_at(url)
            await database.write(lambda connection: connection.execute(text("DROP TABLE turns")))
            await database.aclose()
            with pytest.raises(StoreUnavailable) as refused:
                await store.change_turn(ME, added, replace(added, answer=PROMPT))
            assert "turns" in str(refused.value.__cause__)
            assert PROMPT not in "".join(traceback.format_exception(refused.value))

    with caplog.at_level(logging.DEBUG):
        run(main())
    assert PROMPT not in caplog.text


def test_opening_leaves_the_logging_of_the_application_as_it_was(url: str) -> None:
    def shape() -> dict[str, Any]:
        loggers = [logging.getLogger(), *map(logging.getLogger, ("alembic", "sqlalchemy", "sqlalchemy.engine"))]
        return {each.name: (each.level, list(each.handlers), each.disabled, each.propagate) for each in loggers}

    async def main() -> None:
        async with opened(url):
            pass

    before = shape()
    run(main())
    assert shape() == before


# -- what happens meanwhile -------------------------------------------------------------------------------------------


async def test_whoever_leaves_does_not_hold_up_the_others(url: str) -> None:
    chance = random.Random(7)
    left: list[Any] = []

    async def add(store: Store, number: int) -> None:
        added = await store.add_turn(ME, turn(str(number)))
        await store.turns(ME, "c")
        await store.change_turn(ME, added, replace(added, state=TurnState.COMPLETED))

    async with opened(url) as store:
        await store.add_conversation(ME, conversation())
        for round_ in range(20):
            tasks = [asyncio.ensure_future(add(store, 100 * round_ + number)) for number in range(6)]
            await asyncio.sleep(chance.random() * 0.03)
            for task in tasks:
                task.cancel()
            left.extend(await asyncio.gather(*tasks, return_exceptions=True))  # with all that they refer to
            assert await store.add_agent(ME, agent(str(round_)))
            for each in await store.turns(ME, "c", states=[TurnState.STARTING]):
                await store.change_turn(ME, each, replace(each, state=TurnState.UNKNOWN))
    assert {type(each) for each in left} <= {type(None), Busy, asyncio.CancelledError}
    async with opened(url) as store:
        kept = await store.turns(ME, "c", newest_first=False)
        assert [each.number for each in kept] == list(range(1, len(kept) + 1))
        assert [each.id for each in kept if each.state.active] in ([], [kept[-1].id])


def test_a_turn_that_ends_while_another_is_added_is_not_in_its_way(postgres: Postgres) -> None:
    async def main(url: str) -> None:
        async with opened(url) as store:
            await store.add_conversation(ME, conversation())
            await store.add_turn(ME, turn("a"))

            def end(_: Any, __: Any, statement: str, *___: Any) -> None:
                if "is_active" in statement:
                    ending = threading.Thread(target=postgres.ask, args=("UPDATE turns SET state = 'completed'", name))
                    ending.start()
                    ending.join(30)

            engine = store._database._engine.sync_engine  # type: ignore[attr-defined]
            event.listen(engine, "after_cursor_execute", end)
            assert (await store.add_turn(ME, turn("b"))).number == 2

    with postgres.database(template="migrated") as url:
        name = url.split("/")[3].split("?", maxsplit=1)[0]
        run(main(url))


async def test_what_was_closed_can_be_opened_again(url: str) -> None:
    for number in range(3):
        async with opened(url) as store:
            assert await store.add_agent(ME, agent(str(number)))
            await store.open()
    async with opened(url) as store:
        assert (await store.agents(ME, Query())).total == 3


# -- when it has gone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_deleted_while_it_was_open_is_noticed(
    replaced: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gateway.db"

    async def main() -> None:
        async with opened(f"sqlite:///{path}") as store:
            await store.add_agent(ME, agent())
            await store.check()
            path.unlink()
            if replaced:
                path.write_bytes(b"")
            for ask in (store.check(), store.agent(ME, "a"), store.add_agent(ME, agent("b"))):
                with pytest.raises(StoreUnavailable):
                    await ask

    run(main())
    assert "the database cannot be used: FileNotFoundError ENOENT" in caplog.text


def test_a_server_that_stops_is_noticed_and_so_is_its_return(postgres: Postgres) -> None:
    async def main(url: str) -> None:
        async with opened(url) as store:
            await store.check()
            name = url.split("/")[3].split("?", maxsplit=1)[0]
            await asyncio.to_thread(postgres.ask, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await asyncio.to_thread(postgres.ask, CUT)
            with pytest.raises(StoreUnavailable):
                await store.check()
            await asyncio.to_thread(postgres.ask, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await store.check()

    with postgres.database(template="migrated") as url:
        run(main(url))
