"""Turns that wait: in order, begun when the one before has ended, by whichever process is there, once."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.conversations import TurnCheckpoint, end_of, owner_of
from codegen_api.conversations.queueing import LONGEST_PAUSE, MOST_QUEUED, SWEEP_EVERY
from codegen_api.errors import (
    ConversationBusy,
    GatewayError,
    InvalidToken,
    NotFound,
    NotOffered,
    QueueFull,
    QuotaExhausted,
    ShuttingDown,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from codegen_api.identity import READ, Caller, Principal
from codegen_api.runs import RunRef
from codegen_api.stores import Agent, Turn, TurnState
from codegen_api.upstreams import NewRun
from tests.conversations.world import (
    ALICE,
    Host,
    Process,
    Seen,
    Trap,
    World,
    ask,
    at,
    conversing,
    kill,
    works,
    works_for_ever,
)
from tests.fakehost import Hosted, caller

pytestmark = pytest.mark.virtual_time

TEXTS = ("Say hello", "Say it louder", "And once more", "Enough")
SHARED = replace(ALICE, shared=True)


async def queued(process: Process, *texts: str, who: Caller = ALICE, **more: Any) -> list[Turn]:
    return [await process.say(text, who=who, if_busy="enqueue", **more) for text in texts]


async def over(process: Process, turn: Turn) -> Turn:
    """The turn when it has ended, which has begun though nobody has asked."""
    async with asyncio.timeout(300):
        while not (now := process.world.turns(turn.conversation)[turn.number - 1]).state.begun:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    return await process.wait(now)


def heard(world: World) -> Sequence[str]:
    return [prompt for _, prompt in world.host.prompts]


def states(world: World) -> list[str]:
    return [turn.state.value for turn in world.turns()]


async def test_messages_wait_and_are_said_in_order_each_when_the_turn_before_has_ended() -> None:
    async with conversing() as (world, process):
        turns = await queued(process, *TEXTS)
        assert states(world) == ["running", "queued", "queued", "queued"]
        for turn in turns:
            seen = Seen()
            await seen.follow(process, turn)
            assert seen.over is not None
            assert seen.over.id == turn.id
            assert seen.texts() == world.expected(seen.over)
        assert heard(world) == list(TEXTS)
        told = world.turns()
        assert [turn.number for turn in told] == [1, 2, 3, 4]
        assert [(turn.begin, turn.end) for turn in told] == [(0, 5), (5, 10), (10, 15), (15, 20)]
        assert [turn.parent for turn in told] == [None, *(str(end_of(turn)) for turn in told[:-1])]
        assert {turn.ask for turn in told} == {None}


async def test_what_waits_begins_also_when_nobody_follows_or_asks() -> None:
    async with conversing() as (world, process):
        *_, last = await queued(process, *TEXTS)
        assert (await over(process, last)).state is TurnState.COMPLETED
        assert heard(world) == list(TEXTS)
        assert len(world.host.reads) < 200


async def test_what_waits_begins_seconds_after_the_end_and_not_before() -> None:
    async with conversing() as (world, process):
        _, second = await queued(process, *TEXTS[:2])
        loop = asyncio.get_running_loop()
        while world.turns()[1].state is TurnState.QUEUED:
            assert world.host.runs["1"].status == "ACTIVE" or loop.time() < 10
            await asyncio.sleep(0.1)
        await process.wait(second)


@pytest.mark.parametrize("state", ["ERROR", "CANCELLED", "PAUSED"])
async def test_however_a_turn_ends_the_next_one_begins(state: str) -> None:
    def ends(hosted: Hosted, prompt: str) -> Any:
        return [(2, lambda each: setattr(each, "status", state))] if prompt == TEXTS[0] else works(hosted, prompt)

    async with conversing(Host(script=ends)) as (world, process):
        _, second = await queued(process, *TEXTS[:2])
        assert (await process.wait(second)).state is TurnState.COMPLETED
        assert heard(world) == list(TEXTS[:2])


async def test_a_message_that_the_host_refuses_fails_and_the_next_begins_where_the_last_one_was() -> None:
    async with conversing() as (world, process):
        _, second, third = await queued(process, *TEXTS[:3])
        refusals = [QuotaExhausted()]

        async def refuse(operation: str) -> None:
            if operation == "resume" and refusals:
                raise refusals.pop()

        world.host.before = refuse
        failed = await process.wait(second)
        assert (failed.state, failed.error) == (TurnState.FAILED, QuotaExhausted.default_message)
        done = await process.wait(third)
        assert (done.state, done.parent) == (TurnState.COMPLETED, str(end_of(world.turns()[0])))
        assert heard(world) == [TEXTS[0], TEXTS[2]]


def unreached() -> GatewayError:
    error = UpstreamUnreachable()
    error.may_have_acted = False
    return error


@pytest.mark.parametrize("error", [unreached, lambda: UpstreamRateLimited(retry_after=7), ShuttingDown])
async def test_a_host_that_cannot_begin_it_just_now_is_asked_again_until_it_can(error: Any) -> None:
    async with conversing() as (world, process):
        _, second, _ = await queued(process, *TEXTS[:3])
        refusals = 5

        async def refuse(operation: str) -> None:
            nonlocal refusals
            if operation == "resume" and refusals:
                refusals -= 1
                raise error()

        world.host.before = refuse
        *_, last = world.turns()
        assert (await process.wait(last)).state is TurnState.COMPLETED
        assert refusals == 0
        assert (await process.conversations.of(ALICE).find_turn(second.id)).state is TurnState.COMPLETED
        assert heard(world) == list(TEXTS[:3])


async def test_an_outage_while_it_waits_costs_no_message() -> None:
    async with conversing() as (world, process):
        turns = await queued(process, *TEXTS)
        ends = asyncio.get_running_loop().time() + 200

        async def fail(_: str) -> None:
            if asyncio.get_running_loop().time() < ends:
                raise unreached()

        world.host.before = fail
        await asyncio.sleep(200)
        assert [(await over(process, turn)).state for turn in turns] == [TurnState.COMPLETED] * 4
        assert heard(world) == list(TEXTS)
        assert asyncio.get_running_loop().time() < 200 + 60


async def test_so_many_wait_and_no_more_and_what_is_refused_is_not_there() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        await queued(process, "Begin", *(f"Say {number}" for number in range(MOST_QUEUED)))
        with pytest.raises(QueueFull) as full:
            await queued(process, "One more")
        assert isinstance(full.value, ConversationBusy)
        assert len(world.turns()) == 1 + MOST_QUEUED
        await process.conversations.of(ALICE).stop(world.turns()[-1])
        await queued(process, "In its place")


async def test_what_waits_is_withdrawn_and_never_begins() -> None:
    async with conversing() as (world, process):
        first, second, third = await queued(process, *TEXTS[:3])
        following = asyncio.ensure_future(process.wait(second))
        await asyncio.sleep(1)
        withdrawn = await process.conversations.of(ALICE).stop(second)
        assert (withdrawn.state, withdrawn.ask) == (TurnState.WITHDRAWN, None)
        assert (await following).state is TurnState.WITHDRAWN
        assert (await process.conversations.of(ALICE).stop(second)).state is TurnState.WITHDRAWN
        latest = await process.conversations.of(ALICE).latest("talk")
        assert latest is not None
        assert latest.id == third.id
        await process.wait(first)
        done = await process.wait(third)
        assert done.parent == str(end_of(world.turns()[0]))
        assert heard(world) == [TEXTS[0], TEXTS[2]]
        path = await process.conversations.of(ALICE).path("talk")
        assert [stretch.turn.id for stretch in path] == [first.id, third.id]


async def test_the_last_one_withdrawn_leaves_the_conversation_as_it_was() -> None:
    async with conversing() as (_, process):
        first, second = await queued(process, *TEXTS[:2])
        await process.conversations.of(ALICE).stop(second)
        latest = await process.conversations.of(ALICE).latest("talk")
        assert latest is not None
        assert (latest.id, latest.state) == (first.id, TurnState.RUNNING)
        first = await process.wait(first)
        again = await process.wait(await process.say(TEXTS[2]))
        assert (again.parent, again.run) == (str(end_of(first)), first.run)
        assert (await process.wait(second)).state is TurnState.WITHDRAWN
        for offset in (0, 1):
            with pytest.raises(NotFound):
                await process.conversations.of(ALICE).path("talk", at(second, offset))


async def test_while_something_waits_nothing_else_comes_before_it() -> None:
    async with conversing() as (world, process):
        await queued(process, *TEXTS[:2])
        owner = owner_of(ALICE)
        (first, _) = world.turns()
        # the turn before has ended, and nobody here has seen it
        over_ = replace(first, state=TurnState.COMPLETED, end=5)
        await world.store.change_turn(owner, first, over_)
        with pytest.raises(ConversationBusy):
            await process.say(TEXTS[2])
        with pytest.raises(NotOffered):
            await process.say(TEXTS[2], if_busy="rollback")
        third = await process.say(TEXTS[2], if_busy="enqueue")
        await process.wait(third)
        assert heard(world) == list(TEXTS[:3])


async def test_an_interrupt_stops_what_is_under_way_and_all_that_waits() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        await queued(process, *TEXTS[:3])
        await asyncio.sleep(5)
        world.host.script = works
        last = await process.wait(await process.say(TEXTS[3], if_busy="interrupt"))
        assert last.state is TurnState.COMPLETED
        assert states(world) == ["cancelled", "withdrawn", "withdrawn", "completed"]
        assert heard(world) == [TEXTS[0], TEXTS[3]]


async def test_everything_in_a_conversation_is_stopped_whatever_begins_meanwhile() -> None:
    async with conversing() as (world, process):
        assert await process.conversations.of(ALICE).clear("talk") is None
        await queued(process, *TEXTS[:3])
        await asyncio.sleep(3.95)
        await process.conversations.of(ALICE).clear("talk", wait=True)
        assert all(turn.state.over for turn in world.turns())
        await asyncio.sleep(60)
        assert len(heard(world)) <= 2


async def test_a_conversation_that_is_removed_takes_along_what_waits() -> None:
    async with conversing() as (world, process):
        _, second = await queued(process, *TEXTS[:2])
        following = asyncio.ensure_future(process.wait(second))
        await asyncio.sleep(1)
        talk = await world.store.talk(owner_of(ALICE), "talk")
        assert talk is not None
        await world.store.remove_conversation(owner_of(ALICE), "talk")
        assert (await following).state is TurnState.WITHDRAWN
        with pytest.raises(NotFound):
            await process.conversations.queue.add(process.conversations.of(ALICE), None, talk, ask(TEXTS[1]))
        await asyncio.sleep(60)
        assert heard(world) == [TEXTS[0]]


async def test_all_that_a_turn_is_to_be_outlives_the_wait() -> None:
    async with conversing() as (world, process):
        first = await process.say("Say hello")
        new = NewRun("", metadata={"team": "a"}, repo_id=7, agent_type="coder")
        poet = Agent("poet", "Poet", 0.0, 0.0, system_prompt="Answer in verse.", model="large")
        options = {"stream": ["values"]}
        more: dict[str, Any] = {"agent": poet, "run": new, "images": ("data:x",), "fresh": True, "options": options}
        (second,) = await queued(process, "Sing", checkpoint=at(first, 1), **more)
        assert (second.agent, second.options) == ("poet", options)
        done = await process.wait(second)
        assert (done.agent, done.options, done.created) == ("poet", options, second.created)
        assert done.parent == str(at(first, 1))
        told = world.host.news[1]
        assert (told.metadata, told.repo_id, told.agent_type, told.model) == ({"team": "a"}, 7, "coder", "large")
        assert told.images == ("data:x",)
        assert "Answer in verse." in told.prompt
        assert told.prompt.endswith("Sing")


async def test_a_place_that_is_not_there_is_refused_at_once_and_one_that_goes_fails_the_turn_only() -> None:
    async with conversing() as (world, process):
        first = await process.wait(await process.say("Say hello"))
        second = await process.say("Say it louder")
        with pytest.raises(NotFound):
            await queued(process, "Whisper", checkpoint=TurnCheckpoint("nowhere", 1))
        whispers, last = (
            await queued(process, "Whisper", checkpoint=at(first, 1)),
            await queued(process, "And on"),
        )
        await world.store.remove_turn(owner_of(ALICE), first.id)
        failed = await process.wait(whispers[0])
        assert (failed.state, failed.ask) == (TurnState.FAILED, None)
        assert failed.error
        done = await process.wait(last[0])
        assert done.parent == failed.parent == str(end_of(world.turns()[0]))
        assert world.turns()[0].id == second.id


# -- who begins it ----------------------------------------------------------------------------------------------------


async def abandoned(count: int, who: Caller = ALICE) -> World:
    """A world in which so many turns wait, whose process has died."""
    world, trap = World(), Trap()
    await world.converse(who=who)
    await queued(world.process(trap), *TEXTS[:count], who=who)
    trap.dead = True
    await kill()
    return world


async def test_another_process_begins_what_waits_when_its_owner_asks_for_anything_there() -> None:
    world = await abandoned(3)
    async with world.serving() as process:
        await asyncio.sleep(60)
        assert heard(world) == [TEXTS[0]], "nobody here has the owner's credential"
        await process.conversations.of(ALICE).latest("talk")
        assert (await over(process, world.turns()[2])).state is TurnState.COMPLETED
        assert heard(world) == list(TEXTS[:3])


async def test_a_list_in_which_it_stands_is_enough() -> None:
    world = await abandoned(2)
    async with world.serving() as process:
        process.conversations.of(ALICE).refresh(world.turns()[1])
        assert (await over(process, world.turns()[1])).state is TurnState.COMPLETED


async def test_several_processes_begin_each_turn_once() -> None:
    async with conversing() as (world, one), world.serving() as other, world.serving() as third:
        for text, process in zip(TEXTS, (one, other, third, one), strict=True):
            await queued(process, text)
        for process in (one, other, third):
            await process.conversations.of(ALICE).latest("talk")
        last = await other.wait(world.turns()[-1])
        assert last.state is TurnState.COMPLETED
        assert heard(world) == list(TEXTS)


async def test_who_may_only_read_begins_nothing() -> None:
    world = await abandoned(2)
    async with world.serving() as process:
        await process.conversations.of(replace(ALICE, scopes=frozenset({READ}))).latest("talk")
        await asyncio.sleep(60)
        assert heard(world) == [TEXTS[0]]


async def test_a_credential_that_is_good_no_longer_begins_nothing_and_another_of_its_owner_does() -> None:
    async with conversing() as (world, process):
        turns = await queued(process, *TEXTS[:2])

        async def refuse(_: str) -> None:
            raise InvalidToken

        world.host.before = refuse
        await asyncio.sleep(60)
        assert states(world)[1] == "queued"

        async def welcome(_: str) -> None: ...

        world.host.before = welcome
        await asyncio.sleep(60)
        assert states(world)[1] == "queued", "nobody holds a token that was refused"
        assert (await process.wait(turns[1])).state is TurnState.COMPLETED


def vouched(principal: Principal) -> Caller | None:
    """The deployment knows all its users."""
    return replace(SHARED, principal=principal)


@pytest.mark.parametrize("ended", [True, False], ids=["ended while nobody was there", "goes on"])
async def test_for_users_of_the_deployment_every_process_sees_to_what_waits(ended: bool) -> None:
    world = await abandoned(3, SHARED)
    await asyncio.sleep(30 if ended else 0)
    async with world.serving(absent=vouched) as one, world.serving(absent=vouched):
        last = world.turns()[2]
        assert (await over(one, last)).state is TurnState.COMPLETED
        assert asyncio.get_running_loop().time() < 120 + 4 * SWEEP_EVERY
        assert heard(world) == list(TEXTS[:3])


async def test_a_user_whom_the_deployment_knows_no_longer_is_not_spoken_for() -> None:
    world = await abandoned(2, SHARED)
    async with world.serving(absent=lambda _: None):
        await asyncio.sleep(120)
        assert heard(world) == [TEXTS[0]]


async def test_what_a_user_came_with_may_end_before_their_turn_comes() -> None:
    world = World(Host(script=works_for_ever))
    await world.converse(who=SHARED)
    async with world.serving(absent=vouched) as process:
        brief = replace(SHARED, expires=1e9 + 20)
        first, second = await queued(process, *TEXTS[:2], who=brief)
        await asyncio.sleep(60)
        world.host.script = works
        world.host.runs["1"].status = "COMPLETE"
        assert (await over(process, second)).state is TurnState.COMPLETED
        assert first.run == RunRef("9", "1")


async def test_looking_round_survives_a_store_and_a_host_that_fail() -> None:
    world = await abandoned(2, SHARED)
    await asyncio.sleep(30)
    left = {"store.queues": 2, "host.get_run": 6}
    failing = Trap(only=lambda name: bool(left.get(name)))

    async def around(name: str, asked: Any, call: Any) -> Any:
        if left.get(name):
            left[name] -= 1
            raise UpstreamUnreachable if name.startswith("host") else RuntimeError
        return await call()

    failing.around = around  # type: ignore[method-assign]
    async with world.serving(failing, absent=vouched) as process:
        assert (await over(process, world.turns()[1])).state is TurnState.COMPLETED
        assert not any(left.values())


async def test_whoever_waits_is_sent_away_when_the_process_is_about_to_stop_or_their_time_is_up() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        _, second = await queued(process, *TEXTS[:2])
        seen = Seen()
        following = asyncio.ensure_future(seen.follow(process, second))
        await asyncio.sleep(2)
        await process.gateway.drain(1)
        await following
        assert seen.kinds()[-1] == "Leaving"
        with pytest.raises(ShuttingDown):
            await Seen().follow(process, second)
    async with world.serving() as process:
        seen = Seen()
        await seen.follow(process, second, replace(ALICE, expires=1e9 + asyncio.get_running_loop().time() + 9))
        assert seen.kinds()[-1] == "Leaving"
        assert len(seen.news) < 15


async def test_two_who_ask_at_once_are_both_heard_one_after_the_other() -> None:
    async with conversing() as (world, process):
        turns = await asyncio.gather(*(process.say(text, if_busy="enqueue") for text in TEXTS))
        for turn in turns:
            assert (await process.wait(turn)).state is TurnState.COMPLETED
        assert sorted(heard(world)) == sorted(TEXTS)
        assert LONGEST_PAUSE < 60


async def test_others_have_no_part_in_it() -> None:
    world = World()
    await world.converse()
    bob = caller("bob")
    await world.converse(who=bob)
    async with world.serving() as process:
        _, second = await queued(process, *TEXTS[:2])
        with pytest.raises(NotFound):
            await process.conversations.of(bob).find_turn(second.id)
        assert await process.conversations.of(bob).latest("talk") is None
        await process.wait(second)
