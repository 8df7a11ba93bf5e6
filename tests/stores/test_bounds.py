"""What one owner may keep, and how much is read at a time."""

from collections.abc import Awaitable, Callable

import pytest

from codegen_api.errors import StoreFull
from codegen_api.stores import ANSWER_BYTES, Query, TurnState
from codegen_api.stores.sql import SqlStore
from codegen_api.stores.sql.tables import ROW_BYTES
from tests.stores.things import ME, YOU, agent, conversation, item, run, turn

LONG = "x" * 100_000
MOST = 2**20


def bounded(url: str, main: Callable[[SqlStore], Awaitable[None]]) -> None:
    async def life() -> None:
        store = SqlStore(url, bytes_each=MOST)
        await store.open()
        try:
            await main(store)
        finally:
            await store.aclose()

    run(life(), seconds=240)


ADD: dict[str, Callable[[SqlStore, str, int], Awaitable[object]]] = {
    "agents": lambda store, owner, number: store.add_agent(owner, agent(str(number), system_prompt=LONG)),
    "conversations": lambda store, owner, number: store.add_conversation(
        owner, conversation(str(number), metadata={"long": LONG})
    ),
    "turns": lambda store, owner, number: store.add_turn(
        owner, turn(str(number), state=TurnState.COMPLETED, prompt=LONG)
    ),
    "items": lambda store, owner, number: store.put_item(owner, item("n", key=str(number), value={"long": LONG})),
    "small items": lambda store, owner, number: store.put_item(owner, item("n", key=str(number))),
}


@pytest.mark.parametrize("kind", ADD)
def test_an_owner_keeps_so_many_bytes_of_whatever_kind_and_no_more(kind: str, url: str) -> None:
    async def main(store: SqlStore) -> None:
        await store.add_conversation(ME, conversation())
        await store.add_conversation(YOU, conversation())
        large = 10 if kind == "small items" else 0  # else there would be thousands
        for number in range(large):
            await store.put_item(ME, item("large", key=str(number), value={"long": LONG}))
        room = MOST - large * (ROW_BYTES + len(LONG))
        kept = 0

        async def fill() -> None:
            nonlocal kept
            while True:
                await ADD[kind](store, ME, kept)
                kept += 1

        with pytest.raises(StoreFull, match="1 MiB: delete something"):
            await fill()
        each = ROW_BYTES + (0 if kind == "small items" else len(LONG))
        assert room * 0.9 < kept * each <= room
        with pytest.raises(StoreFull):
            await store.put_item(ME, item("another", value={"long": LONG}))
        await ADD[kind](store, YOU, 0)  # what others keep is theirs

    bounded(url, main)


def test_what_was_deleted_makes_room_and_what_goes_on_is_never_refused(url: str) -> None:
    async def main(store: SqlStore) -> None:
        await store.add_conversation(ME, conversation())
        begun = await store.add_turn(ME, turn(state=TurnState.RUNNING))
        for number in range(10):
            await store.put_item(ME, item("n", key=str(number), value={"long": LONG}))
        for _ in range(3):  # in the place of what is there
            await store.put_item(ME, item("n", key="0", value={"long": LONG}))
        with pytest.raises(StoreFull):
            await store.put_item(ME, item("n", key="10", value={"long": LONG}))
        assert len((await store.items(ME, ("n",), 100, 0)).items) == 10
        ended = turn(state=TurnState.COMPLETED, answer=LONG)
        assert await store.change_turn(ME, begun, ended)
        assert await store.remove_item(ME, ("n",), "1")
        assert await store.remove_item(ME, ("n",), "2")
        await store.put_item(ME, item("n", key="10", value={"long": LONG}))
        assert await store.remove_conversation(ME, "c")  # and its turns
        await store.put_item(ME, item("n", key="11", value={"long": LONG}))

    bounded(url, main)


async def test_a_stretch_of_large_things_ends_early_and_what_follows_is_found_behind_it(url: str) -> None:
    value = {"long": "x" * 250_000}

    store = SqlStore(url)
    await store.open()
    for number in range(60):
        await store.put_item(ME, item("n", key=f"{number:02}", value=value))
        await store.add_agent(ME, agent(f"{number:02}", metadata=value))
    seen: list[str] = []
    while len(seen) < 60:
        found = await store.items(ME, (), 1000, len(seen))
        assert (found.total, len(found.items) > 0) == (60, True)
        assert sum(len(str(each.value["long"])) for each in found.items) <= ANSWER_BYTES + 16 * 250_000
        seen += [each.key for each in found.items]
    assert seen == sorted(set(seen))
    agents = await store.agents(ME, Query(1000))
    assert (agents.total, 20 < len(agents.items) < 60) == (60, True)
    await store.aclose()


async def test_a_thousand_small_things_come_at_once(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    for number in range(300):
        await store.put_item(ME, item("n", key=str(number)))
    assert len((await store.items(ME, (), 1000, 0)).items) == 300
    assert len((await store.items(ME, (), 17, 290)).items) == 10
    await store.aclose()
