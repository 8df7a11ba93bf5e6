"""Messages that are sent again under the same id: the turn in which they were said is found."""

import asyncio
from typing import Any

import pytest

from codegen_api.conversations import said_before
from codegen_api.errors import GatewayError, IdempotencyKeyReused, QuotaExhausted
from codegen_api.stores import Turn
from tests.conversations.world import ALICE, Process, World

pytestmark = pytest.mark.virtual_time


def message(id: str, text: str = "Build a house") -> dict[str, Any]:  # noqa: A002 - as everywhere
    return {"id": id, "content": [{"type": "text", "text": text}]}


async def say(process: Process, id: str) -> Turn:  # noqa: A002
    return await process.say("Build a house", messages=[message(id)])


async def before(process: Process, of: dict[str, Any], conversation: str = "talk") -> Turn | None:
    return await said_before(process.conversations.of(ALICE), conversation, of)


async def test_a_message_that_was_said_is_found_by_its_id_in_another_process_too() -> None:
    world = World()
    async with world.serving() as process:
        await world.converse()
        await world.converse("another")
        assert await before(process, message("ä\n")) is None
        first = await process.wait(await say(process, "ä\n"))
        second = await process.wait(await say(process, "m-2"))
    async with world.serving() as process:
        found = await asyncio.gather(before(process, message("ä\n")), before(process, message("m-2")))
        assert [turn and turn.id for turn in found] == [first.id, second.id]
        assert await before(process, message("m-3")) is None
        assert await before(process, message("m-2"), "another") is None
        with pytest.raises(IdempotencyKeyReused):
            await before(process, message("m-2", "Paint it"))


async def test_a_message_of_which_the_host_wanted_to_know_nothing_may_be_said_again() -> None:
    world = World()
    async with world.serving() as process:
        await world.converse()

        async def refuse(operation: str) -> None:
            if operation == "create":
                raise QuotaExhausted

        then, world.host.before = world.host.before, refuse
        with pytest.raises(GatewayError):
            await say(process, "m")
        assert await before(process, message("m")) is None
        world.host.before = then
        turn = await say(process, "m")
        assert await before(process, message("m")) == turn
