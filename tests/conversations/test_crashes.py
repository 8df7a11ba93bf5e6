"""A process that dies at any moment of a turn: no turn starts twice, none is busy for ever, and none is lost."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from codegen_api.errors import (
    GatewayError,
    Unavailable,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.stores import Turn, TurnState
from tests.conversations.world import ALICE, Crashed, Process, Trap, World, at, kill, works, works_for_ever
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

FIRST, SECOND, THIRD, LAST = "Build me a small house", "Now paint the house blue", "Hang a lamp", "And on we go"
AT_LEAST, AT_MOST = 4, 1000
"""Calls in a life: what has less was not lived, what has more never ends."""

ASK_EVERY = float(os.environ.get("ASK_EVERY", "30"))
"""Seconds between two looks of whoever wants to know what became of a turn; the nightly looks more often."""
STRIDE = int(os.environ.get("STRIDE", "10"))
"""One of so many moments at which anything waits is tried; the nightly tries each."""
CALL_STRIDE = min(STRIDE, 4)
"""The same of calls, of which there are fewer."""

Live = Callable[[Process], Awaitable[object]]


@dataclass(frozen=True)
class Life:
    """What happens before the moment, then what happens during it; ``prompt`` is what it is about."""

    before: Live
    during: Live
    prompt: str
    conversation: str = "talk"


async def nothing(process: Process) -> None:
    await process.world.converse()


async def first_turn(process: Process) -> None:
    await process.wait(await process.say(FIRST))


async def had_a_turn(process: Process) -> None:
    await nothing(process)
    await first_turn(process)


async def second_turn(process: Process) -> None:
    await process.wait(await process.say(SECOND))


async def fork(process: Process) -> None:
    origin = process.world.turns()[0]
    await process.world.converse("fork")
    await process.wait(await process.say(SECOND, conversation="fork", checkpoint=at(origin, 2)))


async def runs_for_ever(process: Process) -> None:
    await nothing(process)
    process.world.host.script = works_for_ever
    await process.say(FIRST)
    process.world.host.script = works


async def interrupt(process: Process) -> None:
    await process.wait(await process.say(SECOND, if_busy="interrupt"))


async def stop(process: Process) -> None:
    turn = process.world.turns()[0]
    await process.conversations.of(ALICE).stop(turn, wait=True)


async def is_at_work(process: Process) -> None:
    await nothing(process)
    await process.say(FIRST)


async def queue(process: Process) -> None:
    """What waits begins when nobody is there, and what was withdrawn does not."""
    second, third = [await process.say(text, if_busy="enqueue") for text in (SECOND, THIRD)]
    await process.conversations.of(ALICE).stop(third)
    await asyncio.sleep(6)
    await process.wait(second)


LIVES = {
    "a first turn": Life(nothing, first_turn, FIRST),
    "a second turn": Life(had_a_turn, second_turn, SECOND),
    "a fork": Life(had_a_turn, fork, SECOND, "fork"),
    "an interrupt": Life(runs_for_ever, interrupt, SECOND),
    "a stop": Life(runs_for_ever, stop, FIRST),
    "a queue": Life(is_at_work, queue, SECOND),
}
each_life = pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)


async def began(life: Life) -> World:
    """A world in which the moment is near."""
    world = World()
    async with world.serving() as process:
        await life.before(process)
    return world


def conversations(world: World) -> set[str]:
    return {conversation for _, conversation in world.store._conversations}


async def asked_again(process: Process) -> None:
    """It is asked how things are, again and again, for a minute and a half."""
    begun = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < begun + 90:
        for conversation in conversations(process.world):
            await process.conversations.of(ALICE).latest(conversation)
        await asyncio.sleep(ASK_EVERY)


async def all_is_well(process: Process, life: Life) -> None:
    """So long after everything each turn is what it should be, and the conversation goes on."""
    world = process.world
    for words in (FIRST, SECOND, THIRD):
        # a fork is told what was said before, which is no new turn
        assert sum(prompt.endswith(words) for _, prompt in world.host.prompts) <= 1
    for conversation in conversations(world):
        for turn in world.turns(conversation):
            await is_settled(process, turn)
    if life.conversation in conversations(world):
        over = await process.wait(await process.say(LAST, conversation=life.conversation, if_busy="interrupt"))
        assert over.state is TurnState.COMPLETED
        assert await process.told(over) == world.expected(over)
        assert sum(prompt.endswith(LAST) for _, prompt in world.host.prompts) == 1


async def is_settled(process: Process, turn: Turn) -> None:
    world = process.world
    heard = sum(prompt == turn.prompt for _, prompt in world.host.prompts)
    if turn.state.active:
        assert turn.state is TurnState.RUNNING
        assert world.running(turn)
    elif turn.state in (TurnState.COMPLETED, TurnState.CANCELLED):
        assert heard == 1
        assert await process.told(turn) == world.expected(turn)
    else:
        assert turn.state is TurnState.WITHDRAWN or turn.error
        assert turn.state in (TurnState.UNKNOWN, TurnState.FAILED, TurnState.WITHDRAWN)
        assert heard == 0, "the host has begun it, and nobody found it"


async def dies(world: World, life: Life, trap: Trap) -> bool:
    """Live until the trap snaps and the process is dead; whether it did."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # nobody hears what the dead say
    process = world.process(trap)
    living = asyncio.ensure_future(life.during(process))
    dying = asyncio.ensure_future(trap.died.wait())
    async with asyncio.timeout(600):
        await asyncio.wait({living, dying}, return_when=asyncio.FIRST_COMPLETED)
    if not trap.dead:
        living.result()
        await process.aclose()
    await kill()
    return trap.dead


def at_any_call(main: Callable[[int], Coroutine[Any, Any, bool]], stride: int) -> None:
    """Something happens at the first call, at one that every life has, then ``stride`` calls later, and so on, until
    the life is over by then.
    """
    for number in (*range(1, AT_LEAST, stride), *range(AT_LEAST, AT_MOST, stride)):
        if not run(main(number)):
            assert number > AT_LEAST
            return
    raise AssertionError("it never ends")


@each_life
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_a_crash_at_any_call_starts_no_turn_twice_and_leaves_none_busy(life: Life, before: bool) -> None:
    async def main(number: int) -> bool:
        world = await began(life)
        trap = Trap(number, before)
        trap.spring = trap.crash
        crashed = await dies(world, life, trap)
        async with world.serving() as process:
            await asked_again(process)
            await all_is_well(process, life)
        return crashed

    at_any_call(main, CALL_STRIDE)


class Steps:
    """Counts how often anything in a process waits, whatever for, and kills the process at number ``at``."""

    def __init__(self, trap: Trap, at: int) -> None:
        self._trap = trap
        self._left = at

    def task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> "asyncio.Task[Any]":
        """Makes the tasks of a loop."""
        return asyncio.Task(_Waits(coroutine, self._is_last), loop=loop, **more)

    def _is_last(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self._trap.dead = True
            self._trap.died.set()
        return self._left == 0


class _Waits(Coroutine[Any, Any, Any]):
    """A coroutine that is told of each time that it waits, and stops where ``is_last`` says so."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], is_last: Callable[[], bool]) -> None:
        self._coroutine = coroutine
        self._is_last = is_last

    def send(self, value: Any) -> Any:
        return self._until_the_last(self._coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        return self._until_the_last(self._coroutine.throw(*error))

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def _until_the_last(self, awaited: Any) -> Any:
        return self._coroutine.throw(Crashed()) if self._is_last() else awaited


async def dies_at_a_wait(world: World, life: Life, number: int) -> bool:
    """The same, where anything waits for the ``number``-th time."""
    trap = Trap()
    asyncio.get_running_loop().set_task_factory(Steps(trap, number).task)
    crashed = await dies(world, life, trap)
    asyncio.get_running_loop().set_task_factory(None)
    return crashed


@each_life
def test_a_crash_wherever_anything_waits_starts_no_turn_twice_and_leaves_none_busy(life: Life) -> None:
    async def main(number: int) -> bool:
        world = await began(life)
        crashed = await dies_at_a_wait(world, life, number)
        async with world.serving() as process:
            await asked_again(process)
            await all_is_well(process, life)
        return crashed

    at_any_call(main, STRIDE)


@pytest.mark.parametrize("name", ["a first turn", "a second turn", "a fork", "an interrupt"])
@pytest.mark.parametrize("late", [1, 10, 50])
async def test_what_the_host_does_when_who_asked_for_it_is_dead_is_found(name: str, late: float) -> None:
    life = LIVES[name]
    world = await began(life)
    trap = Trap(1, only=lambda call: call in ("host.create_run", "host.resume_run"))

    def crash(call: str) -> None:
        asked = trap.asked

        def act() -> None:
            if call == "host.create_run":
                world.host.begin_run(asked[2])
            else:
                world.host.hear(world.host.runs[asked[1].id], asked[2])

        world.host.later(late, act)
        trap.crash()

    trap.spring = crash
    assert await dies(world, life, trap)
    async with world.serving() as process:
        await asked_again(process)
        assert world.turns(life.conversation)[-1].state is TurnState.COMPLETED
        await all_is_well(process, life)


@each_life
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_a_client_who_leaves_at_any_call_takes_no_turn_along(life: Life, before: bool) -> None:
    async def main(number: int) -> bool:
        world = await began(life)
        async with world.serving(Trap(number, before)) as process:
            living = asyncio.ensure_future(life.during(process))
            process.trap.spring = lambda _: living.cancel()
            async with asyncio.timeout(600):
                await asyncio.wait({living})
            process.trap.at = None
            await asked_again(process)
            assert {turn.state for turn in world.turns(life.conversation)} <= {
                TurnState.COMPLETED,
                TurnState.CANCELLED,
                TurnState.RUNNING,
                TurnState.WITHDRAWN,
            }
            await all_is_well(process, life)
        return process.trap.sprung is not None

    at_any_call(main, CALL_STRIDE)


def refused() -> GatewayError:
    error = UpstreamUnreachable()
    error.may_have_acted = False
    return error


FAULTS: dict[str, tuple[bool, Callable[[], GatewayError]]] = {
    "it does not answer, and has done nothing": (True, UpstreamTimeout),
    "it does not answer, and has done it": (False, UpstreamTimeout),
    "it fails, and has done nothing": (True, UpstreamError),
    "it fails, and has done it": (False, UpstreamError),
    "the connection breaks, and it has done nothing": (True, UpstreamUnreachable),
    "the connection breaks, and it has done it": (False, UpstreamUnreachable),
    "it wants patience": (True, lambda: UpstreamRateLimited(retry_after=2)),
    "it is not there": (True, refused),
}


async def lives_through(trap: Trap, world: World, life: Life) -> bool:
    """One process meets a fault, and all is well afterwards; whether there was a fault."""
    async with world.serving(trap) as process:
        with suppress(GatewayError):
            await life.during(process)
        trap.at = None
        await asked_again(process)
        await all_is_well(process, life)
    return trap.sprung is not None


@each_life
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_host_at_any_call_starts_no_turn_twice(life: Life, fault: Any) -> None:
    before, error = fault

    async def main(number: int) -> bool:
        world = await began(life)
        trap = Trap(number, before, only=lambda call: call.startswith("host."))
        trap.spring = lambda _: raise_(error())
        return await lives_through(trap, world, life)

    at_any_call(main, CALL_STRIDE)


@each_life
@pytest.mark.parametrize("seconds", [3, 20, 50])
@pytest.mark.parametrize("done", [True, False])
def test_an_outage_of_the_host_from_any_call_on_starts_no_turn_twice(life: Life, seconds: float, done: bool) -> None:
    async def main(number: int) -> bool:
        world = await began(life)
        trap = Trap(number, not done, only=lambda call: call.startswith("host."))
        over = float("inf")

        async def fail(_: str) -> None:
            if asyncio.get_running_loop().time() < over:
                raise UpstreamUnreachable

        def outage(_: str) -> None:
            nonlocal over
            over = asyncio.get_running_loop().time() + seconds
            world.host.before = fail
            raise UpstreamUnreachable

        trap.spring = outage
        return await lives_through(trap, world, life)

    at_any_call(main, CALL_STRIDE)


@each_life
@pytest.mark.parametrize("before", [True, False], ids=["before it is done", "before it is answered"])
def test_a_fault_of_the_store_at_any_call_starts_no_turn_twice(life: Life, before: bool) -> None:
    async def main(number: int) -> bool:
        world = await began(life)
        trap = Trap(number, before, only=lambda call: call.startswith("store."))
        trap.spring = lambda _: raise_(Unavailable())
        return await lives_through(trap, world, life)

    at_any_call(main, CALL_STRIDE)


def raise_(error: BaseException) -> None:
    raise error
