"""Whatever is asked of it, in any order: a store does what the model of the contract does."""

import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen_api.runs import RunRef
from codegen_api.stores import Agent, Busy, Conversation, Full, Item, Overtaken, Query, Store, Talk, Turn, TurnState
from tests.stores.model import ModelStore
from tests.stores.postgres import Postgres
from tests.stores.things import opened, run

owners = st.sampled_from(["me", "you"])
ids = st.sampled_from(["a", "b", "B", "é"])
texts = st.one_of(
    st.sampled_from(["", "ann", "Ann", "ÄNN", "%", "a_n", "'", "\U0001f642", "ann ann"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
)
maybe = st.none() | texts
times = st.sampled_from([0.0, 1.0, 1.0, 2.5, 1e10])
numbers = st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, -(2**70)]) | st.integers()
scalars = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts
keys = st.sampled_from(["a", "b", "", '"', "a.b", "$", "0", "\\", "\n"])
values = st.recursive(
    scalars | st.sampled_from([0, 1, True, 1.0, "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(keys, values, max_size=2)
tags = st.lists(st.sampled_from(["x", "xy", "X"]), max_size=2).map(tuple)
states = st.sampled_from(list(TurnState))

agents = st.builds(
    Agent,
    id=ids,
    name=texts,
    created=times,
    updated=times,
    description=maybe,
    tags=tags,
    configuration=objects,
    metadata=objects,
    archived=st.booleans(),
)
conversations = st.builds(
    Conversation, id=ids, created=times, updated=times, agent=st.none() | ids, title=maybe, tags=tags, metadata=objects
)
turns = st.builds(
    Turn,
    id=ids,
    conversation=ids,
    created=times,
    updated=times,
    state=states,
    messages=st.lists(objects, max_size=2).map(tuple),
    prompt=texts,
    run=st.none() | st.builds(RunRef, texts, texts),
    end=st.none() | st.integers(0, 2**62),
    options=objects,
    ask=st.none() | objects,
)
spaces = st.lists(st.sampled_from(["a", "ab", "A", "é"]), max_size=3).map(tuple)
items = st.builds(Item, namespace=spaces, key=ids, value=objects, created=times, updated=times)
queries = st.builds(
    Query,
    limit=st.integers(0, 5),
    offset=st.sampled_from([0, 0, 0, 1, 2]),
    ids=st.none() | st.lists(ids, max_size=3).map(tuple),
    metadata=st.just({}) | objects,
    configuration=st.just({}) | st.just({}) | objects,
    name=st.none() | texts,
    tag=st.none() | st.sampled_from(["x", "X", "y"]),
    agent=st.none() | ids,
    states=st.none() | st.lists(st.none() | states, max_size=4).map(tuple),
    archived=st.none() | st.booleans(),
    sort=st.sampled_from(["id", "created", "updated", "name"]),
    descending=st.booleans(),
)
some_states = st.none() | st.lists(states, max_size=3)


def call(name: str, *arguments: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(named))


stale = st.sampled_from([0, 0, 0, 1])
steps = st.one_of(
    call("add_agent", owners, agents),
    call("add_conversation", owners, conversations),
    call("add_conversation", owners, conversations),
    call("add_turn", owners, turns, queued_at_most=st.integers(0, 2)),
    call("add_turn", owners, turns, queued_at_most=st.integers(0, 2), into=conversations.map(Talk)),
    call("change_agent", owners, agents, stale),
    call("change_conversation", owners, conversations, stale),
    call("change_turn", owners, turns, stale),
    call("change_turn", owners, turns, stale),
    call("put_item", owners, items),
    call("put_item", owners, items),
    *(call(f"remove_{what}", owners, ids) for what in ("agent", "conversation", "turn")),
    call("remove_item", owners, spaces, ids),
    call("expire", times),
    *(call(what, owners, ids) for what in ("agent", "conversation", "turn")),
    call("talk", owners, ids),
    call("agents", owners, queries),
    call("conversations", owners, queries),
    call("turns", owners, ids, states=some_states, newest_first=st.booleans(), limit=st.integers(0, 3)),
    call("turns", owners, states=some_states, newest_first=st.booleans(), offset=st.integers(0, 2)),
    call("ends", owners, st.lists(ids, max_size=4)),
    call("counts", owners, st.lists(ids, max_size=4), st.just({}) | objects),
    call("queues", st.sampled_from([("", ""), ("me", "b"), ("you", "")]), st.integers(0, 3)),
    call("item", owners, spaces, ids),
    call("items", owners, spaces, st.integers(0, 3), st.integers(0, 2)),
    call("namespaces", owners),
)


async def came_of(doing: Coroutine[Any, Any, Any]) -> Any:
    """What it returned or raised. Of what is equal but not the same, as 1 and True, the texts differ."""
    try:
        returned = await doing
    except Busy as busy:
        return "busy", busy.turn, repr(busy.turn)
    except (Full, KeyError, Overtaken, ValueError) as error:
        return type(error), ""
    return returned, repr(returned)


async def holds_to_it(store: Store, script: list[Any]) -> None:
    model = ModelStore()
    for name, arguments, named in script:
        if name.startswith("change_"):
            owner, now, behind = arguments
            there = await getattr(model, name.removeprefix("change_"))(owner, now.id)
            then = replace(there, revision=there.revision - behind) if there else now
            arguments = (owner, then, replace(now, id="another"))  # noqa: PLW2901
        expected = await came_of(getattr(model, name)(*arguments, **named))
        assert await came_of(getattr(store, name)(*arguments, **named)) == expected, (name, arguments, named)
    for owner in ("me", "you"):
        for kept in (store.agents(owner, Query()), store.conversations(owner, Query())):
            assert (await kept).total <= 4
        for name, arguments in (
            ("agents", (owner, Query())),
            ("conversations", (owner, Query())),
            ("turns", (owner,)),
            ("items", (owner, (), 1000, 0)),
        ):
            assert await getattr(store, name)(*arguments) == await getattr(model, name)(*arguments)


New = Callable[[], AbstractContextManager[str]]


def check(new: New, script: list[Any]) -> None:
    async def main(url: str) -> None:
        async with opened(url) as store:
            await holds_to_it(store, script)

    with new() as url:
        run(main(url))


scripts = st.lists(steps, max_size=30)
whole = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@pytest.fixture(scope="module")
def new_file(tmp_path_factory: pytest.TempPathFactory) -> New:
    directory = tmp_path_factory.mktemp("sqlite")
    check(lambda: _at(directory / "empty.db"), [])

    @contextmanager
    def new() -> Iterator[str]:
        shutil.copy(directory / "empty.db", directory / "used.db")
        with _at(directory / "used.db") as url:
            yield url
        for left in directory.glob("used.db*"):
            left.unlink()

    return new


@contextmanager
def _at(path: Path) -> Iterator[str]:
    yield f"sqlite:///{path}"


@settings(deadline=None, suppress_health_check=whole)
@given(script=scripts)
def test_sqlite_does_what_the_model_does(new_file: New, script: list[Any]) -> None:
    check(new_file, script)


@settings(max_examples=max(10, settings().max_examples // 5), deadline=None, suppress_health_check=whole)
@given(script=scripts)
def test_postgresql_does_what_the_model_does(postgres: Postgres, script: list[Any]) -> None:
    check(lambda: postgres.database(template="migrated"), script)
