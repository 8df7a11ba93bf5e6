"""Clients of a process that can die at any moment, over HTTP, in virtual time: the application's own routes in front of
the gateway and the conversations of ``tests/conversations/world.py``.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from codegen_api.idempotency import Idempotency
from codegen_api.idempotency.records import MemoryRecords
from codegen_api.identity import Caller
from tests.conversations.test_crashes import (
    ASK_EVERY,
    CALL_STRIDE,
    FIRST,
    LAST,
    SECOND,
    STRIDE,
    Life,
    at_any_call,
    began,
    conversations,
    dies,
    dies_at_a_wait,
    is_settled,
)
from tests.conversations.world import ALICE, Process, Trap, World, works, works_for_ever
from tests.dialects.eventsource import Event, parse
from tests.dialects.site import Connection, gateway_app

APP = gateway_app(dialects=("agent_protocol", "everruns", "agio", "ai_sdk", "openai"), sandbox=True)
"""Its routes are built once, which takes a second; what is behind them is another with each process."""

GIVEN_UP = 90.0
"""Seconds after which it is known of each turn what became of it."""


class _Alice:
    async def authenticate(self, token: str, address: str) -> Caller:
        return ALICE


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    body: Any


class Client:
    """Somebody who asks a process, and the next one when that has died."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world
        APP.state.parts = replace(
            APP.state.parts,
            gateway=process.gateway,
            conversations=process.conversations,
            callers=_Alice(),
            idempotency=Idempotency(process.gateway, MemoryRecords()),
            own={},
        )

    def open(self, method: str, path: str, body: Any = None, **headers: str) -> Connection:
        """A request whose answer is taken piece by piece."""
        given = {"Authorization": "Bearer alice", "Content-Type": "application/json", **headers}
        return Connection(APP, path, given, method, b"" if body is None else json.dumps(body).encode())

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = self.open(method, path, body, **headers)
        await connection.task
        return Answer(connection.status, json.loads(connection.body or b"null"))

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status == 200, (path, answer)
        return answer.body

    async def post(self, path: str, body: Any = None, **headers: str) -> Any:
        answer = await self.ask("POST", path, body, **headers)
        assert answer.status in (200, 201), (path, answer)
        return answer.body


def events(connection: Connection) -> list[Event]:
    """The events that have come whole."""
    body = connection.body if connection.messages else b""
    return parse(body[: body.rfind(b"\n\n") + 2])


async def until(connection: Connection, there: Callable[[list[Event]], bool]) -> list[Event]:
    """The events, once something is there among them."""
    while not there(events(connection)):
        assert not connection.task.done(), connection.messages
        await connection.received(len(connection.messages) + 1)
    return events(connection)


async def asked_again(look: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """It is asked how things are, again and again, until it is known what became of everything."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() < begun + GIVEN_UP:
        await look()
        await asyncio.sleep(ASK_EVERY)


async def is_known(client: Client) -> None:
    """Of each turn it is known what became of it, and all that the host did is there."""
    for conversation in conversations(client.world):
        for turn in client.world.turns(conversation):
            await is_settled(client.process, turn)


Check = Callable[[Client], Coroutine[Any, Any, None]]


def crashes_at_any_call(life: Life, before: bool, check: Check) -> None:
    """A process that dies at any call of a life, and what the next one makes of it."""

    async def main(number: int) -> bool:
        world = await began(life)
        trap = Trap(number, before)
        trap.spring = trap.crash
        crashed = await dies(world, life, trap)
        await _goes_on(world, check)
        return crashed

    at_any_call(main, CALL_STRIDE)


def crashes_wherever_anything_waits(life: Life, check: Check) -> None:
    """The same where anything waits, whatever for."""

    async def main(number: int) -> bool:
        world = await began(life)
        crashed = await dies_at_a_wait(world, life, number)
        await _goes_on(world, check)
        return crashed

    at_any_call(main, STRIDE)


async def _goes_on(world: World, check: Check) -> None:
    world.host.script = works
    async with world.serving() as process:
        await check(Client(process))


__all__ = [
    "FIRST",
    "LAST",
    "SECOND",
    "Client",
    "Life",
    "Process",
    "World",
    "asked_again",
    "crashes_at_any_call",
    "crashes_wherever_anything_waits",
    "events",
    "is_known",
    "until",
    "works",
    "works_for_ever",
]
