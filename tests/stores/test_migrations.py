"""The steps of the migrations lead to the tables of the code, and nowhere else."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, NullPool, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from codegen_api.errors import StoreUnavailable
from codegen_api.stores.sql import migrations
from codegen_api.stores.sql.migrations import migrate
from codegen_api.stores.sql.tables import TABLES
from tests.stores.postgres import Postgres
from tests.stores.things import ME, agent, conversation, opened, run, turn

T = TypeVar("T")

STEPS = sorted(path for path in migrations.MIGRATIONS.glob("*.py") if path.name != "__init__.py")


@pytest.fixture(params=["sqlite", "postgresql"])
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/gateway.db"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        with postgres.database() as url:
            yield url


def within(url: str, doing: Callable[[Connection], T]) -> T:
    """What comes of ``doing`` something in a transaction of its own."""

    async def main() -> T:
        if url.startswith("sqlite:"):
            with create_engine(url, poolclass=NullPool).begin() as connection:
                return doing(connection)
        engine = create_async_engine(url.replace("sql:", "sql+asyncpg:"))
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(doing)
        finally:
            await engine.dispose()

    return run(main())


def open_(url: str) -> None:
    async def main() -> None:
        async with opened(url) as store:
            await store.add_agent(ME, agent())

    run(main())


def test_the_tables_are_those_of_the_code(bare: str) -> None:
    """When they are not, this is the step that is missing: see CONTRIBUTING.md."""
    open_(bare)

    def difference(connection: Connection) -> str:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        if not compare_metadata(context, TABLES):
            return ""
        operations = produce_migrations(context, TABLES).upgrade_ops
        assert operations is not None
        return render_python_code(operations)

    assert within(bare, difference) == ""


def test_what_alembic_does_not_compare_is_that_of_the_code_too(bare: str) -> None:
    def details(connection: Connection) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for table in TABLES.tables:
            inspector = inspect(connection)
            indexes = [{**index, "dialect_options": _sorted(index)} for index in inspector.get_indexes(table)]
            columns = [(each["name"], str(each["type"]), each["nullable"]) for each in inspector.get_columns(table)]
            keys = inspector.get_pk_constraint(table)["constrained_columns"]
            found[table] = (
                columns,
                keys,
                inspector.get_foreign_keys(table),
                sorted(indexes, key=lambda each: str(each["name"])),
            )
        return found

    def _sorted(index: Any) -> str:
        options = index.get("dialect_options", {})
        return str(options.get("sqlite_where", options.get("postgresql_where")))

    open_(bare)
    migrated = within(bare, details)

    def made(connection: Connection) -> dict[str, Any]:
        TABLES.drop_all(connection)
        TABLES.create_all(connection)
        return details(connection)

    assert migrated == within(bare, made)


def test_the_database_itself_allows_one_active_turn_only(bare: str) -> None:
    open_(bare)

    def add(connection: Connection) -> None:
        connection.execute(
            text("INSERT INTO conversations VALUES ('o', 'c', 0, 0, 0, NULL, NULL, NULL, '', '', '', '', 0)")
        )
        columns = "owner, id, revision, created, updated, conversation, number, state, mark, resumes, organization"
        more = '"begin", options, prompt, messages'
        for number, state in enumerate(("completed", "waiting", "starting", "running")):
            values = f"'o', '{number}', 0, 0, 0, 'c', {number}, '{state}', '', false, '', 0, '', '', ''"
            connection.execute(text(f"INSERT INTO turns ({columns}, {more}) VALUES ({values})"))  # noqa: S608

    with pytest.raises(IntegrityError, match=r"unique|UNIQUE"):
        within(bare, add)


def test_a_database_that_a_newer_version_has_changed_is_left_alone(bare: str) -> None:
    open_(bare)
    within(bare, lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(StoreUnavailable, match=r"newer version of the gateway .*\(9999\).* backup"):
        open_(bare)
    version = text("SELECT version_num FROM alembic_version")
    assert within(bare, lambda connection: connection.execute(version).scalar()) == "9999"


NEXT = '''"""A step that is not released."""

revision = "9999x"
down_revision = "{last}"


def upgrade(op):
    op.execute("CREATE TABLE extra (a INTEGER)")
    {then}
'''


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Adds a step to those that there are, which makes a table and then does what is given."""
    steps = tmp_path / "steps"
    steps.mkdir()
    for step in STEPS:
        (steps / step.name).write_text(step.read_text())
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)

    def add(then: str) -> None:
        (steps / "9999_next.py").write_text(NEXT.format(last=STEPS[-1].name[:4], then=then))

    return add


def test_a_step_that_fails_leaves_the_tables_as_they_were(bare: str, ahead: Callable[[str], None]) -> None:
    open_(bare)
    ahead("op.execute('SELECT * FROM nowhere')")
    with pytest.raises(StoreUnavailable):
        open_(bare)

    def left(connection: Connection) -> tuple[bool, Any]:
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return inspect(connection).has_table("extra"), version

    assert within(bare, left) == (False, STEPS[-1].name[:4])
    ahead("pass")
    open_(bare)
    assert within(bare, left) == (True, "9999x")


COPIED = """with op.batch_alter_table("conversations", recreate="always" if sqlite else "auto") as batch:
        batch.drop_column("parent")"""


def test_altering_a_table_keeps_what_refers_to_it(bare: str, ahead: Callable[[str], None]) -> None:
    async def fill() -> None:
        async with opened(bare) as store:
            await store.add_conversation(ME, conversation())
            await store.add_turn(ME, turn())

    async def look() -> None:
        async with opened(bare) as store:
            assert await store.turn(ME, "t") == turn(number=1)
            assert await store.remove_conversation(ME, "c")
            assert await store.turn(ME, "t") is None

    run(fill())
    ahead(COPIED.replace("sqlite", str(bare.startswith("sqlite"))))
    run(look())


def test_two_databases_may_be_opened_at_the_same_time_in_one_process(tmp_path: Path, postgres: Postgres) -> None:
    async def main(urls: list[str]) -> None:
        await asyncio.gather(*(open_one(url) for url in urls))

    async def open_one(url: str) -> None:
        async with opened(url) as store:
            assert await store.add_agent(ME, agent())

    with postgres.database() as one, postgres.database() as two:
        run(main([f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/two.db", one, two]))


def test_the_steps_follow_each_other_by_name_and_alter_nothing_when_taken_again(bare: str) -> None:
    assert [path.name[:4] for path in STEPS] == [f"{number:04}" for number in range(1, len(STEPS) + 1)]
    open_(bare)
    within(bare, migrate)
    open_(bare)


def test_rows_from_before_sizes_were_counted_count(bare: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    (before / STEPS[0].name).write_text(STEPS[0].read_text())
    with monkeypatch.context() as then:
        then.setattr(migrations, "MIGRATIONS", before)
        within(bare, migrate)
    within(
        bare,
        lambda connection: connection.execute(
            text("INSERT INTO items VALUES ('o', 'n', 'k', 1, 1, :value)"),
            {"value": "x" * 5000},
        ),
    )
    open_(bare)
    sizes = within(bare, lambda connection: connection.execute(text("SELECT size FROM items")).scalar())
    assert sizes is not None
    assert 5000 < sizes < 6000


def test_turns_from_before_any_could_wait_wait_for_nothing(
    bare: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    for step in STEPS[:2]:
        (earlier / step.name).write_text(step.read_text())

    def fill(connection: Connection) -> None:
        connection.execute(
            text("INSERT INTO conversations VALUES (:me, 'c', 0, 1, 1, NULL, NULL, NULL, '', '', '[]', '{}', 0)"),
            {"me": ME},
        )
        columns = "owner, id, revision, created, updated, conversation, number, state, mark, resumes, organization"
        values = ":me, 't', 0, 2, 2, 'c', 1, 'starting', '', false, '', 0, '{}', '', '[]'"
        connection.execute(
            text(f'INSERT INTO turns ({columns}, "begin", options, prompt, messages) VALUES ({values})'),  # noqa: S608
            {"me": ME},
        )

    async def look() -> None:
        async with opened(bare) as store:
            assert await store.turn(ME, "t") == turn(number=1)
            assert await store.queues() == ()

    with monkeypatch.context() as before:
        before.setattr(migrations, "MIGRATIONS", earlier)
        within(bare, migrate)
    within(bare, fill)
    run(look())
