"""Several processes have the same database, and one of them may die."""

import signal
import sqlite3
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from codegen_api.stores import Query, TurnState
from tests.end_to_end.processes import ROOT, WAIT, environment, line
from tests.end_to_end.warm_starts import WarmProcess
from tests.stores.postgres import Postgres
from tests.stores.things import ME, conversation, opened, run


@contextmanager
def workers(url: str, what: str, count: int) -> Iterator[Sequence[WarmProcess]]:
    """This many, told to go at the same time."""
    command = [sys.executable, "-m", "tests.stores.worker", url, what]
    with ExitStack() as stack:
        found: list[WarmProcess] = []
        for _ in range(count):
            process = WarmProcess(command, stdin=True, stdout=True, stderr=2, cwd=ROOT, env=environment())
            stack.enter_context(process)
            stack.callback(process.kill)
            found.append(process)
        assert [line(process) for process in found] == ["ready\n"] * count
        for process in found:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        yield found


def said(process: WarmProcess) -> list[str]:
    """What is left of what it says, up to its end."""
    process.wait(WAIT)
    assert process.stdout is not None
    return (process.stdout.read() or b"").decode().splitlines()


@pytest.fixture(params=["sqlite", "postgresql"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state/deeper/gateway.db"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        with postgres.database() as url:
            yield url


async def test_four_that_open_a_new_database_at_once_all_have_it(bare: str) -> None:
    with workers(bare, "open", 4) as processes:
        for process in processes:
            assert said(process) == ["done"]
            assert process.returncode == 0

    async with opened(bare) as store:
        assert (await store.agents(ME, Query())).total == 4


def test_of_turns_of_four_processes_at_once_one_is_added(url: str) -> None:
    async def begin() -> None:
        async with opened(url) as store:
            await store.add_conversation(ME, conversation())

    async def end() -> None:
        async with opened(url) as store:
            assert len(await store.turns(ME, "c")) == 1

    run(begin())
    with workers(url, "add", 4) as processes:
        came = sorted(said(process)[0] for process in processes)
        assert came == ["added 1", "busy 1", "busy 1", "busy 1"]
    run(end())


def test_what_was_written_outlives_processes_that_are_killed(url: str) -> None:
    kept: set[str] = set()
    with workers(url, "write", 3) as processes:
        for process in processes:
            kept.update(line(process).strip() for _ in range(10))
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            kept.update(said(process))

    async def main() -> None:
        async with opened(url) as store:
            talks = await store.conversations(ME, Query(limit=10_000))
            assert kept <= {talk.id for talk in talks.items}
            assert len(kept) >= 30
            turns = await store.turns(ME, limit=10_000)
            done = {turn.id for turn in turns if turn.state is TurnState.COMPLETED}
            assert kept <= done
            assert len(turns) - len(done) <= 3
            assert all(turn.prompt == "x" * 5_000 for turn in turns)
            assert await store.expire(1e12) == talks.total - len(turns) + len(done)

    run(main())
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "gateway.db"

    async def main() -> None:
        async with opened(f"sqlite:///{path}") as store:
            await store.add_conversation(ME, conversation())
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
            names = ("gateway.db", "gateway.db-shm", "gateway.db-wal", "gateway.db.lock")
            assert modes == dict.fromkeys(names, 0o600)

    run(main())
    assert sorted(each.name for each in path.parent.iterdir()) == ["gateway.db", "gateway.db.lock"]


def test_a_file_and_a_directory_that_were_there_keep_their_rights(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.touch(0o640)
    tmp_path.chmod(0o750)

    async def main() -> None:
        async with opened(f"sqlite:///{path}"):
            pass

    run(main())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750
