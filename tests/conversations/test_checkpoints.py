"""Checkpoints: places in a conversation to which one can come back, and from which one can go elsewhere."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.conversations import BEFORE, Stretch, TurnCheckpoint, end_of, owner_of
from codegen_api.conversations.caller_store import CallerStore
from codegen_api.conversations.checkpoints import path
from codegen_api.errors import NotFound
from codegen_api.runs import RunRef
from codegen_api.stores import Turn, TurnState
from tests.conversations.world import ALICE, Host, World, at, works_for_ever
from tests.fakehost import caller

pytestmark = pytest.mark.virtual_time


@given(st.text(min_size=1, max_size=200), st.integers(BEFORE, 10**15 - 1))
def test_a_checkpoint_is_known_by_its_text(turn: str, offset: int) -> None:
    checkpoint = TurnCheckpoint(turn, offset)
    assert TurnCheckpoint.of(str(checkpoint)) == checkpoint


@pytest.mark.parametrize(
    "text",
    ["", "t", ".5", "t.", "t.-1", "t.x", "t.5 ", "t.1.input.", "t." + 16 * "9", "t.٣", 201 * "t" + ".5", "t.5\n"],
)
def test_what_can_be_no_checkpoint_does_not_exist(text: str) -> None:
    with pytest.raises(NotFound):
        TurnCheckpoint.of(text)


def turn(id: str, *, parent: str | None = None, begin: int = 0, end: int | None = 5, **more: Any) -> Turn:  # noqa: A002
    state = TurnState.RUNNING if end is None else TurnState.COMPLETED
    return Turn(id, "talk", 0.0, 0.0, **{"state": state, "parent": parent, "begin": begin, "end": end, **more})


class Kept:
    """A store of these turns, that counts how often it is asked."""

    def __init__(self, *turns: Turn) -> None:
        self.turns = {each.id: each for each in turns}
        self.asked: list[str] = []

    async def turn(self, owner: str, id: str) -> Turn | None:  # noqa: A002
        assert owner == "ann"
        self.asked.append(id)
        return self.turns.get(id)


async def led(store: Kept, text: str | None, *known: Turn, asked_for: bool = True) -> list[tuple[str, int | None]]:
    checkpoint = None if text is None else TurnCheckpoint.of(text)
    own = CallerStore(ALICE, "ann", store)  # type: ignore[arg-type]
    found = await path(own, checkpoint, known, asked_for=asked_for)
    return [(stretch.turn.id, stretch.upto) for stretch in found]


async def test_the_way_to_a_checkpoint_is_that_of_its_turn_and_of_those_before() -> None:
    turns = [
        turn("a"),
        turn("b", parent="a.5", begin=5, end=9),
        turn("c", parent="b.2"),
        turn("d", parent="c.input"),
    ]
    store = Kept(*turns)
    assert await led(store, None) == []
    assert await led(store, "a.input") == []
    assert await led(store, "a.0") == [("a", 0)]
    assert await led(store, "a.3") == [("a", 3)]
    assert await led(store, "a.5") == [("a", None)]
    assert await led(store, "b.input") == [("a", None)]
    assert await led(store, "b.4") == [("a", None), ("b", None)]
    assert await led(store, "c.5") == [("a", None), ("b", 2), ("c", None)]
    assert await led(store, "d.0") == [("a", None), ("b", 2), ("d", 0)]
    store.asked.clear()
    assert await led(store, "c.5", *turns) == [("a", None), ("b", 2), ("c", None)]
    assert store.asked == []


@pytest.mark.parametrize("text", ["nobody.0", "nobody.input", "a.6", "never.1", "starting.1"])
async def test_what_is_behind_all_that_came_does_not_exist(text: str) -> None:
    store = Kept(
        turn("a"),
        turn("never", end=None, state=TurnState.FAILED, run=RunRef("9", "1")),
        turn("starting", end=None, state=TurnState.STARTING),
        turn("running", end=None),
    )
    with pytest.raises(NotFound):
        await led(store, text)
    assert await led(store, text, asked_for=False) == []
    assert await led(store, "never.0") == [("never", 0)]
    assert await led(store, "running.7") == [("running", 7)]  # it may have come by now


async def test_what_was_removed_is_missing_at_the_front() -> None:
    store = Kept(turn("b", parent="a.5"), turn("c", parent="b.5"))
    assert await led(store, "c.5") == [("b", None), ("c", None)]
    assert await led(store, "b.input") == []


def test_the_last_checkpoint_of_a_turn_is_behind_all_that_came() -> None:
    assert end_of(turn("a", begin=5, end=9)) == TurnCheckpoint("a", 4)
    assert end_of(turn("a", end=None)) == TurnCheckpoint("a", 0)


# -- in conversations -------------------------------------------------------------------------------------------------


async def talked(world: World, turns: int = 2) -> list[Turn]:
    await world.converse()
    async with world.serving() as process:
        return [await process.wait(await process.say(f"Say number {number}")) for number in range(turns)]


def ids(stretches: list[Stretch]) -> list[tuple[str, int | None]]:
    return [(stretch.turn.id, stretch.upto) for stretch in stretches]


async def test_a_fork_has_what_was_said_up_to_where_it_was_forked() -> None:
    world = World()
    first, second = await talked(world)
    await world.converse("fork", parent=str(at(second, 3)))
    async with world.serving() as process:
        before = [(first.id, None), (second.id, 3)]
        assert ids(await process.conversations.of(ALICE).path("fork")) == before
        third = await process.wait(await process.say("Say something else", conversation="fork"))
        assert third.parent == str(at(second, 3))
        assert third.run != second.run
        assert ids(await process.conversations.of(ALICE).path("fork")) == [*before, (third.id, None)]
        assert ids(await process.conversations.of(ALICE).leading_to(end_of(third))) == [*before, (third.id, None)]
        fourth = await process.wait(await process.say("And more", conversation="fork"))
        assert fourth.run == third.run
        assert ids(await process.conversations.of(ALICE).path("talk")) == [(first.id, None), (second.id, None)]


async def test_the_checkpoints_that_lead_to_a_fork_are_its_own_and_no_others() -> None:
    world = World()
    first, second = await talked(world)
    await world.converse("fork", parent=str(at(second, 3)))
    await world.converse("other")
    async with world.serving() as process:
        paths = process.conversations.of(ALICE).path
        other = await process.wait(await process.say("Say nothing of that", conversation="other"))
        for begun in (False, True):
            if begun:
                await process.wait(await process.say("Say something else", conversation="fork"))
            assert ids(await paths("fork", at(second, 3))) == [(first.id, None), (second.id, 3)]
            assert ids(await paths("fork", at(second, 1))) == [(first.id, None), (second.id, 1)]
            assert ids(await paths("fork", at(first, 5))) == [(first.id, None)]
            assert ids(await paths("fork", at(first, BEFORE))) == []
            for beyond in (at(second, 4), at(second, 5), at(other, 0), at(other, BEFORE)):
                with pytest.raises(NotFound):
                    await paths("fork", beyond)
        with pytest.raises(NotFound):
            await paths("other", at(first, 0))


async def test_a_fork_goes_on_when_what_it_was_forked_from_is_gone() -> None:
    world = World()
    first, second = await talked(world)
    await world.converse("fork", parent=str(end_of(second)))
    await world.converse("late", parent=str(end_of(second)))
    async with world.serving() as process:
        third = await process.wait(await process.say("Say something else", conversation="fork"))
        await world.store.remove_conversation(owner_of(ALICE), "talk")
        assert ids(await process.conversations.of(ALICE).path("fork")) == [(third.id, None)]
        assert ids(await process.conversations.of(ALICE).leading_to(end_of(second))) == []
        fourth = await process.wait(await process.say("And more", conversation="fork"))
        assert (fourth.run, fourth.state) == (third.run, TurnState.COMPLETED)
        assert ids(await process.conversations.of(ALICE).path("late")) == []
        fifth = await process.wait(await process.say("Say it anew", conversation="late"))
        assert fifth.prompt == "Say it anew"
        with pytest.raises(NotFound):
            await process.say("From there", conversation="fork", checkpoint=end_of(first))


async def test_one_can_fork_from_what_has_come_of_a_running_turn_and_from_nothing_else() -> None:
    world = World(Host(script=works_for_ever))
    await world.converse()
    await world.converse("fork")
    async with world.serving() as process:
        running = await process.say("Say hello for ever")
        await asyncio.sleep(10)
        assert len(await process.told(running)) == 4
        assert ids(await process.conversations.of(ALICE).path("talk")) == [(running.id, None)]
        assert ids(await process.conversations.of(ALICE).path("talk", at(running, 4))) == [(running.id, 4)]
        assert ids(await process.conversations.of(ALICE).path("talk", at(running, 0))) == [(running.id, 0)]
        with pytest.raises(NotFound):
            await process.conversations.of(ALICE).path("talk", at(running, 5))
        with pytest.raises(NotFound):
            await process.say("From there", conversation="fork", checkpoint=at(running, 5))
        forked = await process.say("From there", conversation="fork", checkpoint=at(running, 3))
        assert "Say hello for ever" in forked.prompt
        assert "note 3" in forked.prompt
        assert "note 4" not in forked.prompt


async def test_to_others_no_checkpoint_exists() -> None:
    world = World()
    _, second = await talked(world)
    bob = caller("bob")
    await world.converse("bobs", who=bob)
    async with world.serving() as process:
        for conversation in ("talk", "bobs"):
            with pytest.raises(NotFound):
                await process.conversations.of(bob).path(conversation, end_of(second))
            with pytest.raises(NotFound):
                await process.say("Mine now", conversation=conversation, checkpoint=end_of(second), who=bob)
        assert await process.conversations.of(bob).path("talk") == []
        assert await process.conversations.of(bob).leading_to(end_of(second)) == []
        with pytest.raises(NotFound):
            await process.conversations.of(bob).find_turn(second.id)
        assert await process.conversations.of(bob).latest("talk") is None
        same = replace(ALICE, credential=bob.credential, shown="another token")
        assert (await process.conversations.of(same).find_turn(second.id)).id == second.id


async def test_a_turn_that_the_host_never_began_leads_nowhere() -> None:
    world = World()
    first, second = await talked(world)
    async with world.serving() as process:
        owner = owner_of(ALICE)
        lost = Turn("lost", "talk", 1e9, 1e9, state=TurnState.UNKNOWN, parent=str(end_of(second)))
        await world.store.add_turn(owner, lost)
        assert ids(await process.conversations.of(ALICE).path("talk")) == [(first.id, None), (second.id, None)]
        assert ids(await process.conversations.of(ALICE).path("talk", TurnCheckpoint("lost", 0))) == [
            (first.id, None),
            (second.id, None),
            ("lost", 0),
        ]
        third = await process.say("Once more")
        assert (third.run, third.parent) == (second.run, str(end_of(second)))
