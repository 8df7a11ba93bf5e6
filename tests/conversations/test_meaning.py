"""Vectors are made of items after they are put, whatever happens meanwhile. In virtual time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from codegen_api.conversations.semantic_search import AT_A_TIME, LONGEST_WAIT, LOOK_EVERY, MOST_TEXTS, SemanticSearch
from codegen_api.embeddings import Embedder, NoVectors, Vector, normalized
from codegen_api.errors import StoreUnavailable
from codegen_api.stores import Item, Near
from tests.embeddings import meaning as meaning_of
from tests.stores.model import ModelStore
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

ME, YOU = "me", "you"


class Model:
    """An embedder whose faults a test chooses: what ``fault`` raises for these texts."""

    def __init__(self, name: str = "small", extra: int = 0) -> None:
        self.model = name
        self.extra = extra
        self.asked: list[list[str]] = []
        self.fault: Callable[[Sequence[str]], NoVectors | None] = lambda _: None
        self.slow = 0.0

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        self.asked.append(list(texts))
        await asyncio.sleep(self.slow)
        fault = self.fault(texts)
        if fault is not None:
            raise fault
        return [normalized([*meaning_of(text), *[0.0] * self.extra]) for text in texts]

    async def aclose(self) -> None: ...


@asynccontextmanager
async def opened(store: ModelStore, model: Embedder) -> AsyncIterator[SemanticSearch]:
    meaning = SemanticSearch(store, model)
    work = asyncio.ensure_future(meaning.work())
    try:
        yield meaning
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def put(store: ModelStore, key: str, text: str, owner: str = ME, meaning: SemanticSearch | None = None) -> None:
    await store.put_item(owner, Item(("n",), key, {"text": text}, 1.0, 1.0))
    if meaning is not None:
        meaning.wake()


def keys(near: Sequence[Near] | None) -> list[str] | None:
    return None if near is None else [each.key for each in near]


async def test_an_item_is_found_by_meaning_soon_after_it_was_put_and_by_nobody_else() -> None:
    store, model = ModelStore(), Model()
    model.slow = 5.0
    async with opened(store, model) as meaning:
        await asyncio.sleep(6)
        await put(store, "green", "a coffee, or a tea", meaning=meaning)
        await put(store, "red", "a fast car", meaning=meaning)
        await put(store, "theirs", "tea", YOU, meaning=meaning)
        assert await store.item(ME, ("n",), "green") is not None  # at once
        model.slow = 0.1
        await asyncio.sleep(12)
        assert keys(await meaning.nearest(ME, (), "a beverage", 1)) == ["green"]
        assert keys(await meaning.nearest(ME, (), "wheel", 1)) == ["red"]
        assert keys(await meaning.nearest(YOU, (), "wheel", 10)) == ["theirs"]
        asked = len(model.asked)
        await meaning.nearest(ME, (), "wheel", 10)
        assert len(model.asked) == asked  # it is known what that means


async def test_what_a_process_left_undone_another_one_does() -> None:
    store, model = ModelStore(), Model()
    async with opened(store, model) as first:
        model.slow = 100.0
        await put(store, "a", "tea", meaning=first)
        await asyncio.sleep(1)  # and it dies in the middle
    model.slow = 0.0
    async with opened(store, model) as second:
        await put(store, "b", "car")  # by a process that tells nobody here
        await asyncio.sleep(LOOK_EVERY * 1.3)
        assert keys(await second.nearest(ME, (), "tea", 10)) == ["a", "b"]


@pytest.mark.parametrize("other", [Model("large"), Model("small", extra=3)], ids=["another name", "longer vectors"])
async def test_with_another_model_all_vectors_are_made_anew(other: Model) -> None:
    store = ModelStore()
    for number in range(AT_A_TIME + 5):
        await put(store, f"{number:02}", "tea" if number % 2 else "car")
    for model in (Model(), other):
        async with opened(store, model) as meaning:
            await asyncio.sleep(1)
            found = keys(await meaning.nearest(ME, (), "tea", 1000))
            assert found is not None
            assert len(found) == AT_A_TIME + 5
            assert all(int(key) % 2 for key in found[:10])


def test_a_failing_endpoint_is_asked_less_and_less_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        store, model = ModelStore(), Model()
        async with opened(store, model) as meaning:
            await asyncio.sleep(1)
            model.fault = lambda _: NoVectors("it answered 500")
            await put(store, "a", "tea", meaning=meaning)
            await asyncio.sleep(3000)
            assert 5 < len(model.asked) < 20
            asked = len(model.asked)
            assert await meaning.nearest(ME, (), "tea", 10) is None  # and does not ask again meanwhile
            assert len(model.asked) == asked
            model.fault = lambda _: None
            await asyncio.sleep(LONGEST_WAIT * 1.1)
            assert keys(await meaning.nearest(ME, (), "tea", 10)) == ["a"]

    run(main(), at_most=10_000)
    said = [record.getMessage() for record in caplog.records if "embeddings" in record.getMessage()]
    assert said == ["no embeddings: the endpoint fails: it answered 500", "the embeddings endpoint works again"]


async def test_an_endpoint_that_asks_for_patience_is_given_it() -> None:
    store, model = ModelStore(), Model()
    model.fault = lambda _: NoVectors("it answered 429", retry_after=100)
    async with opened(store, model) as meaning:
        await put(store, "a", "tea", meaning=meaning)
        await asyncio.sleep(99)
        assert len(model.asked) == 1
        model.fault = lambda _: None
        await asyncio.sleep(2)
        assert keys(await meaning.nearest(ME, (), "tea", 10)) == ["a"]


async def test_a_question_waits_for_a_slow_endpoint_only_so_long() -> None:
    store, model = ModelStore(), Model()
    async with opened(store, model) as meaning:
        await asyncio.sleep(1)
        model.slow = 1000
        assert await meaning.nearest(ME, (), "tea", 10) is None


async def test_one_text_that_is_refused_keeps_no_others_back_and_a_long_one_is_cut() -> None:
    def fault(texts: Sequence[str]) -> NoVectors | None:
        wrong = any("poison" in text or len(text) > 3000 for text in texts)
        return NoVectors("it answered 400", refused=True) if wrong else None

    store, model = ModelStore(), Model()
    model.fault = fault
    async with opened(store, model) as meaning:
        await put(store, "bad", "poison", meaning=meaning)
        await put(store, "long", "tea " * 50_000, meaning=meaning)
        await put(store, "good", "tea", meaning=meaning)
        await asyncio.sleep(1)
        assert sorted(keys(await meaning.nearest(ME, (), "tea", 10)) or ()) == ["good", "long"]
        asked = len(model.asked)
        await asyncio.sleep(LOOK_EVERY * 3)
        assert len(model.asked) == asked  # the bad one is not tried for ever


async def test_when_everything_is_refused_nothing_is_given_up() -> None:
    store, model = ModelStore(), Model()
    async with opened(store, model) as meaning:
        await asyncio.sleep(1)
        model.fault = lambda _: NoVectors("it answered 400", refused=True)
        await put(store, "a", "tea", meaning=meaning)
        await asyncio.sleep(100)
        model.fault = lambda _: None
        await asyncio.sleep(LONGEST_WAIT)
        assert keys(await meaning.nearest(ME, (), "tea", 10)) == ["a"]


async def test_an_item_has_so_many_texts_and_no_more_or_none() -> None:
    store, model = ModelStore(), Model()
    async with opened(store, model) as meaning:
        await asyncio.sleep(1)
        value = {"notes": ["tea"] * 100}
        await store.put_item(ME, Item(("n",), "many", value, 1.0, 1.0, ("notes[*]",)))
        await store.put_item(ME, Item(("n",), "none", {"text": "tea"}, 1.0, 1.0, ()))
        meaning.wake()
        await asyncio.sleep(1)
        assert keys(await meaning.nearest(ME, (), "tea", 10)) == ["many"]
        assert max(map(len, model.asked)) == MOST_TEXTS


async def test_a_store_that_fails_for_a_while_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store, model = ModelStore(), Model()
    due, failing = store.due, True

    async def sometimes(space: str, limit: int) -> object:
        if failing:
            raise StoreUnavailable
        return await due(space, limit)

    monkeypatch.setattr(store, "due", sometimes)
    async with opened(store, model) as meaning:
        await put(store, "a", "tea", meaning=meaning)
        await asyncio.sleep(50)
        failing = False
        await asyncio.sleep(50)
        assert keys(await meaning.nearest(ME, (), "tea", 10)) == ["a"]
