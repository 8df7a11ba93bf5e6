"""The contract of a store: what items mean, as vectors beside them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codegen_api.errors import NotOffered, StoreFull
from codegen_api.stores import Near, Store
from codegen_api.stores.sql import SqlStore, vectors
from codegen_api.stores.sql.tables import ROW_BYTES, VECTOR_BYTES
from tests.stores.things import ME, YOU, Test, item

SPACE = "2 model"


def towards(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


async def keep(it: Store, at: Mapping[tuple[str, str], Sequence[float]], space: str = SPACE) -> None:
    """Vectors for what is due, by its owner and key."""
    for due in await it.due(space, 1000):
        assert await it.keep_vectors(due, space, [towards(each) for each in at[due.owner, due.item.key]])


def shown(near: Sequence[Near]) -> list[tuple[str, float]]:
    return [(each.key, round(each.score, 3)) for each in near]


def test_items_are_due_until_they_have_vectors_and_then_found_by_the_nearest_of_them(check: Test) -> None:
    async def main(it: Store) -> None:
        for key, at in (("a", 2.0), ("b", 1.0), ("c", 3.0), ("none", 4.0)):
            await it.put_item(ME, item("n", key=key, value={"is": key}, at=at))
        await it.put_item(YOU, item("n", key="theirs", at=5.0))
        assert [due.item.key for due in await it.due(SPACE, 10)] == ["b", "a", "c", "none", "theirs"]
        assert [due.item for due in await it.due(SPACE, 1)] == [await it.item(ME, ("n",), "b")]
        assert await it.nearest(ME, (), SPACE, towards(0), 10) == []
        kept = {(ME, "a"): [60], (ME, "b"): [180, 0], (ME, "c"): [90], (ME, "none"): [], (YOU, "theirs"): [0]}
        await keep(it, kept)
        assert await it.due(SPACE, 10) == []
        assert shown(await it.nearest(ME, ("n",), SPACE, towards(0), 10)) == [("b", 1.0), ("a", 0.5), ("c", 0.0)]
        assert shown(await it.nearest(ME, (), SPACE, towards(90), 1)) == [("c", 1.0)]
        assert await it.nearest(ME, ("n", "m"), SPACE, towards(0), 10) == []
        assert await it.nearest(ME, ("\0",), SPACE, towards(0), 10) == []
        assert shown(await it.nearest(YOU, (), SPACE, towards(0), 10)) == [("theirs", 1.0)]

    check(main)


def test_what_is_put_again_or_deleted_has_no_vectors(check: Test) -> None:
    async def main(it: Store) -> None:
        for key in ("a", "b"):
            await it.put_item(ME, item("n", key=key))
        before = await it.due(SPACE, 10)
        await keep(it, {(ME, "a"): [0], (ME, "b"): [0]})
        await it.put_item(ME, item("n", key="a", value={"new": 1}))  # at the same time, by the clock
        assert await it.remove_item(ME, ("n",), "b")
        assert await it.nearest(ME, (), SPACE, towards(0), 10) == []
        # whoever worked on what was there before has lost
        assert [await it.keep_vectors(each, SPACE, [towards(0)]) for each in before] == [False, False]
        await it.put_item(ME, item("n", key="b"))
        assert [await it.keep_vectors(each, SPACE, [towards(0)]) for each in before] == [False, False]
        assert await it.nearest(ME, (), SPACE, towards(0), 10) == []
        assert sorted(due.item.key for due in await it.due(SPACE, 10)) == ["a", "b"]

    check(main)


def test_with_another_model_everything_is_due_and_the_two_are_never_compared(check: Test) -> None:
    async def main(it: Store) -> None:
        for key in ("a", "b"):
            await it.put_item(ME, item("n", key=key))
        await keep(it, {(ME, "a"): [0], (ME, "b"): [0]})
        one, _ = await it.due("3 other", 10)
        assert await it.keep_vectors(one, "3 other", [[0.0, 0.0, 1.0]])
        assert shown(await it.nearest(ME, (), "3 other", [0.0, 0.0, 1.0], 10)) == [(one.item.key, 1.0)]
        assert len(await it.nearest(ME, (), SPACE, towards(0), 10)) == 1
        assert await it.due("3 other", 10) != []

    check(main)


def test_which_fields_are_meant_is_kept(check: Test) -> None:
    async def main(it: Store) -> None:
        for key, fields in (("all", None), ("none", ()), ("some", ("a.b", "c[*]"))):
            await it.put_item(ME, replace(item("n", key=key), fields=fields))
            kept = await it.item(ME, ("n",), key)
            assert kept is not None
            assert kept.fields == fields

    check(main)


async def test_vectors_count_for_what_an_owner_keeps(url: str) -> None:
    store = SqlStore(url, bytes_each=10 * (ROW_BYTES + VECTOR_BYTES))
    await store.open()
    for key in "abc":
        await store.put_item(ME, item("n", key=key))
    for due in await store.due(SPACE, 10):
        assert await store.keep_vectors(due, SPACE, [[1.0] * 500])
    with pytest.raises(StoreFull):
        await store.put_item(ME, item("n", key="d"))
    assert await store.remove_item(ME, ("n",), "a")
    await store.put_item(ME, item("n", key="d"))
    await store.aclose()


async def test_vectors_are_compared_stretch_by_stretch_and_no_more_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_BATCH", 3)
    monkeypatch.setattr(vectors, "MOST_COMPARED", 10)

    store = SqlStore(f"sqlite:///{tmp_path}/gateway.db")
    await store.open()
    for number in range(5):
        await store.put_item(ME, item("n", key=str(number)))
    await keep(store, {(ME, str(number)): [number * 10, 170] for number in range(5)})
    found = await store.nearest(ME, (), SPACE, towards(0), 10)
    assert [each.key for each in found] == ["0", "1", "2", "3", "4"]
    await store.put_item(ME, item("other", key="5"))
    await keep(store, {(ME, "5"): [0]})
    with pytest.raises(NotOffered, match=r"No more than 10 vectors .* longer prefix"):
        await store.nearest(ME, (), SPACE, towards(0), 10)
    assert len(await store.nearest(ME, ("n",), SPACE, towards(0), 10)) == 5
    await store.aclose()
