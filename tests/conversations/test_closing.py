"""How a process ends, and how conversations grow too old."""

import asyncio
import logging
from typing import Any

import pytest

from codegen_api.conversations import owner_of
from codegen_api.conversations.chores import TIDY_EVERY
from codegen_api.conversations.starting import CLOSING
from codegen_api.errors import UpstreamTimeout
from codegen_api.stores import TurnState
from tests.conversations.world import ALICE, Host, World, now, works_for_ever
from tests.fakehost import Sequence, caller
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

DAY = 86400.0


async def test_what_is_just_being_told_to_the_host_is_told_before_the_process_ends() -> None:
    world = World()
    await world.converse()
    process = world.process()
    await process.conversations.open()
    world.host.latency = 5
    saying = asyncio.ensure_future(process.say("Say hello"))
    await asyncio.sleep(7)
    saying.cancel()  # the server lets go of its clients first
    await process.aclose()
    assert [turn.state for turn in world.turns()] == [TurnState.RUNNING]


async def test_a_host_that_does_not_answer_holds_up_the_end_for_a_while_only() -> None:
    world = World()
    await world.converse()
    process = world.process()
    await process.gateway.accounts.organization(ALICE, None)

    async def hang(_: str) -> None:
        await asyncio.Event().wait()

    world.host.before = hang
    saying = asyncio.ensure_future(process.say("Say hello"))
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await process.aclose()
    assert asyncio.get_running_loop().time() - began <= CLOSING + 1
    await asyncio.wait({saying})
    assert saying.cancelled()
    assert [turn.state for turn in world.turns()] == [TurnState.STARTING]


async def test_nothing_is_left_behind_of_watches_looks_and_stops() -> None:
    world = World(Host(script=works_for_ever))
    for name in ("watched", "lost", "stopped", "abandoned"):
        await world.converse(name)
    process = world.process(kept_days=1)
    await process.conversations.open()
    watched = await process.say("Say hello", conversation="watched")
    await process.conversations.of(ALICE).find_turn(watched.id)
    process.conversations.of(ALICE).refresh(watched)
    world.host.before = Sequence("create", UpstreamTimeout())
    lost = await process.say("Say hello", conversation="lost")
    stopped = await process.say("Say hello", conversation="stopped")
    abandoned = await process.say("Say hello", conversation="abandoned")

    async def hang(_: str) -> None:
        await asyncio.Event().wait()

    world.host.before = hang
    asking = [
        asyncio.ensure_future(process.conversations.of(ALICE).find_turn(lost.id)),
        asyncio.ensure_future(process.conversations.of(ALICE).stop(stopped, wait=True)),
    ]
    process.conversations.of(ALICE).abandon(abandoned)
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await process.aclose()
    assert asyncio.get_running_loop().time() - began <= CLOSING + 1
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
    # and the loop that runs this test finds no task that is still there


async def test_a_process_that_did_nothing_ends_at_once() -> None:
    world = World()
    async with world.serving(kept_days=1) as process:
        pass
    assert process.world.store is world.store


def test_conversations_that_nobody_touched_for_long_are_removed_and_no_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = World()
        for name in ("old", "busy", "asleep", "new"):
            await world.converse(name)
        await world.converse("old", who=caller("bob"))
        async with world.serving(kept_days=0.5) as process:
            over = await process.wait(await process.say("Say hello", conversation="old"))
            await asyncio.sleep(0.4 * DAY)
            await process.say("Say hello", conversation="busy")
            world.host.script = works_for_ever
            await process.say("Say hello", conversation="asleep")
            await asyncio.sleep(0.1 * DAY + 2 * TIDY_EVERY)
            await world.converse("new", who=caller("bob"))
            left = {id_ for owner, id_ in world.store._conversations if owner == owner_of(ALICE)}
            assert left == {"busy", "asleep"}
            assert await world.store.turn(owner_of(ALICE), over.id) is None
            assert not world.turns("old")
            assert {id_ for owner, id_ in world.store._conversations if owner != owner_of(ALICE)} == {"new"}

    with caplog.at_level(logging.INFO):
        run(main(), at_most=10 * DAY)
    assert "3 conversations were removed" in caplog.text


def test_without_the_setting_everything_is_kept() -> None:
    async def main() -> None:
        world = World()
        await world.converse()
        await asyncio.sleep(30 * DAY)  # with nobody there, who would look at the store every second
        async with world.serving():
            await asyncio.sleep(2 * TIDY_EVERY)
        assert world.store._conversations

    run(main(), at_most=40 * DAY)


def test_a_store_that_fails_once_is_tidied_the_next_time(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        await world.converse()
        expire, asked = world.store.expire, []

        async def failing(before: float) -> int:
            asked.append(now() - before)
            if len(asked) == 1:
                raise RuntimeError("nothing that anybody should read")
            return await expire(before)

        world.store.expire = failing  # type: ignore[method-assign]
        await asyncio.sleep(3 * DAY)
        async with world.serving(kept_days=2):
            await asyncio.sleep(1)
            assert world.store._conversations
            await asyncio.sleep(TIDY_EVERY)
            assert not world.store._conversations
        assert asked == pytest.approx([2 * DAY, 2 * DAY])

    run(main(), at_most=10 * DAY)
    assert "removing old conversations failed: RuntimeError" in caplog.text


async def test_the_store_is_opened_first_and_closed_last() -> None:
    world, order = World(), []

    def noting(name: str) -> Any:
        async def note() -> None:
            order.append(name)

        return note

    world.store.open, world.store.aclose = noting("open"), noting("close")  # type: ignore[method-assign]
    await world.converse()
    async with world.serving(kept_days=1) as process:
        await process.say("Say hello")
        assert order == ["open"]
    assert order == ["open", "close"]
