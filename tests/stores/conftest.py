"""One PostgreSQL server for all tests, a database for each of them, and the stores that have one contract."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from codegen_api.stores import Store
from codegen_api.stores.sql import SqlStore
from tests.stores.model import ModelStore
from tests.stores.postgres import Postgres, server
from tests.stores.things import Test, run

Database = Callable[[pytest.FixtureRequest], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with server() as found:
        yield found


@contextmanager
def sqlite(request: pytest.FixtureRequest) -> Iterator[str]:
    path: Path = request.getfixturevalue("tmp_path")
    yield f"sqlite:///{path}/state/gateway.db"


@contextmanager
def postgresql(request: pytest.FixtureRequest) -> Iterator[str]:
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database(template="migrated") as url:
        yield url


DATABASES: dict[str, Database] = {"sqlite": sqlite, "postgresql": postgresql}


@pytest.fixture(params=sorted(DATABASES))
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """That of a database which has nothing in it."""
    with DATABASES[request.param](request) as url:
        yield url


def on(name: str) -> Callable[[pytest.FixtureRequest], AbstractContextManager[Store]]:
    """A store in the database of that name."""

    @contextmanager
    def store(request: pytest.FixtureRequest) -> Iterator[Store]:
        with DATABASES[name](request) as url:
            yield SqlStore(url)

    return store


@contextmanager
def model(_: pytest.FixtureRequest) -> Iterator[Store]:
    """What the others are compared with keeps the contract too."""
    yield ModelStore()


STORES: dict[str, Callable[[pytest.FixtureRequest], AbstractContextManager[Store]]] = {
    "model": model,
    "postgresql": on("postgresql"),
    "sqlite": on("sqlite"),
}


@pytest.fixture(params=sorted(STORES))
def check(request: pytest.FixtureRequest) -> Iterator[Test]:
    """Runs a test with a store that is open, and new."""
    with STORES[request.param](request) as store:

        def with_store(main: Callable[[Store], Awaitable[None]]) -> None:
            async def life() -> None:
                await store.open()
                try:
                    await main(store)
                finally:
                    await store.aclose()

            run(life())

        yield with_store
