"""The life of a turn, as those see it who ask how it is, who interrupt it, and who come at the same time."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.conversations import end_of, owner_of, text_of
from codegen_api.conversations.starting import GIVEN_UP
from codegen_api.conversations.turns import INTEREST, PATIENCE
from codegen_api.errors import (
    ConversationBusy,
    Forbidden,
    GatewayError,
    NotFound,
    NotOffered,
    OutcomeUnknown,
    QuotaExhausted,
    Unavailable,
    Unsupported,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.gateway.run_lists import SEARCHED_PAGES
from codegen_api.stores import Turn, TurnState
from codegen_api.upstreams import NewRun
from tests.conversations.world import (
    ALICE,
    Host,
    HostLine,
    Process,
    Seen,
    Step,
    World,
    conversing,
    works,
    works_for_ever,
)
from tests.fakehost import Hosted, Sequence, caller
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

TEXT = " ".join(["an", "unexpected", "text"])  # which stands in no line of this file


async def patiently(process: Process, turn: Turn, seconds: float = 90) -> Turn:
    """Ask how a turn is until it is over."""
    async with asyncio.timeout(seconds):
        while True:
            turn = await process.conversations.of(ALICE).find_turn(turn.id)
            if not turn.state.active:
                return turn
            await asyncio.sleep(1)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the code says nothing of it
            await asyncio.sleep(0.01)


# -- while another turn is under way ----------------------------------------------------------------------------------


async def test_a_second_message_while_a_turn_runs_is_refused() -> None:
    async with conversing() as (world, process):
        first = await process.say("Say hello")
        with pytest.raises(ConversationBusy):
            await process.say("Say it louder")
        await process.wait(first)
        await process.wait(await process.say("Say it louder"))
        assert len(world.host.prompts) == 2


@pytest.mark.parametrize("what", ["rollback", "anything"])
async def test_what_cannot_be_done_about_a_running_turn_is_not_offered(what: str) -> None:
    async with conversing() as (_, process):
        first = await process.say("Say hello", if_busy=what)
        with pytest.raises(NotOffered) as raised:
            await process.say("Say it louder", if_busy=what)
        assert raised.value.code == "unsupported"
        await process.wait(first)
        await process.say("Say it louder", if_busy=what)


async def test_a_running_turn_is_interrupted_where_the_host_can_stop_a_run() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        first = await process.say("Say hello")
        await asyncio.sleep(10)
        world.host.script = works
        second = await process.wait(await process.say("Say it louder", if_busy="interrupt"))
        first = await process.conversations.of(ALICE).find_turn(first.id)
        assert (first.state, first.end, first.error) == (TurnState.CANCELLED, 4, None)
        assert (second.state, second.run, second.begin) == (TurnState.COMPLETED, first.run, 4)
        assert world.host.calls["uncancel"] == 1
        for turn in (first, second):
            assert await process.told(turn) == world.expected(turn)


@pytest.mark.parametrize("seconds", [0, 0.5, 2])
async def test_a_turn_that_has_just_resumed_a_run_can_be_interrupted(seconds: float) -> None:
    async with conversing() as (world, process):
        await process.wait(await process.say("Say hello"))
        second = await process.say("Say it louder")
        await asyncio.sleep(seconds)
        third = await process.wait(await process.say("Say it softly", if_busy="interrupt"))
        second = await process.conversations.of(ALICE).find_turn(second.id)
        assert second.state is TurnState.CANCELLED
        assert await process.told(second) == world.expected(second)
        assert await process.told(third) == world.expected(third)


async def test_where_the_host_cannot_stop_a_run_interrupting_is_not_offered() -> None:
    world = World()
    world.lines = HostLine
    await world.converse()
    async with world.serving() as process:
        first = await process.say("Say hello")
        with pytest.raises(NotOffered):
            await process.say("Say it louder", if_busy="interrupt")
        with pytest.raises(Unsupported):
            await process.conversations.of(ALICE).stop(first)
        assert (await process.wait(first)).state is TurnState.COMPLETED


async def test_a_run_that_does_not_stop_in_time_is_still_busy() -> None:
    class Stubborn(Host):
        async def cancel_run(self, credential: Any, ref: Any) -> None:
            await self._called("cancel", credential)

    async with conversing(Stubborn(script=works_for_ever)) as (_, process):
        await process.say("Say hello")
        with pytest.raises(ConversationBusy):
            await process.say("Say it louder", if_busy="interrupt")


async def test_a_turn_whose_end_nobody_has_seen_yet_stands_in_nobody_s_way() -> None:
    async with conversing() as (world, process):
        first = await process.say("Say hello")
    await asyncio.sleep(100)
    async with world.serving() as process:
        second = await process.say("Say it louder")
        assert (second.number, second.parent) == (2, str(end_of(world.turns()[0])))
        assert world.turns()[0].state is TurnState.COMPLETED
        assert (await process.conversations.of(ALICE).find_turn(first.id)).end == 5


# -- at the same time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resumes", [False, True])
async def test_of_twenty_messages_at_once_at_two_instances_one_begins_a_turn(resumes: bool) -> None:
    async with conversing() as (world, one), world.serving() as other:
        if resumes:
            await one.wait(await one.say("Say hello"))
        said = [(one, other)[number % 2].say(f"Say number {number}") for number in range(20)]
        heard = await asyncio.gather(*said, return_exceptions=True)
        begun = [each for each in heard if isinstance(each, Turn)]
        assert len(begun) == 1
        assert sum(isinstance(each, ConversationBusy) for each in heard) == 19
        assert len(world.host.prompts) == 1 + resumes
        assert len(world.turns()) == 1 + resumes
        over = await asyncio.gather(*(process.wait(begun[0]) for process in (one, other)))
        assert over[0] == over[1]
        assert over[0].state is TurnState.COMPLETED


async def test_of_two_interruptions_at_once_one_begins_a_turn() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, one), world.serving() as other:
        await one.say("Say hello")
        world.host.script = works
        said = [process.say(f"Say {name}", if_busy="interrupt") for process, name in ((one, "one"), (other, "two"))]
        heard = await asyncio.gather(*said, return_exceptions=True)
        begun = [each for each in heard if isinstance(each, Turn)]
        assert len(begun) >= 1
        assert all(isinstance(each, Turn | ConversationBusy) for each in heard)
        last = await patiently(one, world.turns()[-1])
        assert last.state is TurnState.COMPLETED
        assert await one.told(last) == world.expected(last)


@pytest.mark.parametrize("removed", [False, True])
async def test_a_turn_planned_behind_one_is_not_begun_behind_another(removed: bool) -> None:
    async with conversing() as (world, one), world.serving() as other:
        first = await one.wait(await one.say("Say hello"))

        async def meanwhile(_: str) -> None:
            world.host.before = Host().before
            second = await other.wait(await other.say("Say it louder"))
            if removed:
                await world.store.remove_turn(owner_of(ALICE), second.id)

        # while the first instance reads how long the log is
        world.host.before = meanwhile
        begun = one.say("Say it softly")
        if removed:  # then the log holds what nobody said here
            third = await one.wait(await begun)
            assert third.parent == str(end_of(first))
            return
        with pytest.raises(ConversationBusy):
            await begun
        assert [text_of(turn.messages[0]) for turn in world.turns()] == ["Say hello", "Say it louder"]
        assert world.host.heard("Say it softly") == 0
        third = await one.wait(await one.say("Say it softly"))
        assert await one.told(third) == world.expected(third)


async def test_a_turn_follows_another_though_numbers_are_missing() -> None:
    async with conversing() as (world, process):
        await process.wait(await process.say("Say hello"))
        owner, first = owner_of(ALICE), world.turns()[0]
        world.store._turns[owner, first.id] = replace(first, number=1)
        add = world.store.add_turn

        async def add_later(owner: str, turn: Turn, **more: Any) -> Turn:
            turn = replace(await add(owner, turn, **more), number=7)
            world.store._turns[owner, turn.id] = turn
            return turn

        world.store.add_turn = add_later  # type: ignore[method-assign]
        assert (await process.say("Say it louder")).number == 7


async def test_a_conversation_that_is_removed_while_a_turn_is_planned_gets_none() -> None:
    async with conversing() as (world, process):

        async def remove(_: str) -> None:
            await world.store.remove_conversation(owner_of(ALICE), "talk")

        world.host.before = remove
        with pytest.raises(NotFound):
            await process.say("Say hello")
        assert not world.host.prompts


async def test_a_conversation_may_be_removed_while_its_turn_runs() -> None:
    async with conversing() as (world, process):
        turn = await process.say("Say hello")
        await world.store.remove_conversation(owner_of(ALICE), "talk")
        assert (await process.wait(turn)).state is TurnState.COMPLETED
        assert not world.turns()
        with pytest.raises(NotFound):
            await process.conversations.of(ALICE).find_turn(turn.id)


# -- how a turn is ----------------------------------------------------------------------------------------------------


async def test_a_turn_goes_on_when_nobody_follows_it_and_who_asks_is_told_how_it_is() -> None:
    async with conversing() as (world, process):
        turn = await process.say("Say hello")
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.RUNNING
        await asyncio.sleep(30)
        assert world.turns()[0].state is TurnState.COMPLETED  # who has asked once has it watched for a while
        latest = await process.conversations.of(ALICE).latest("talk")
        assert latest == world.turns()[0]


@pytest.mark.parametrize("resumes", [False, True])
async def test_who_asks_for_a_turn_that_has_ended_is_told_so_at_once(resumes: bool) -> None:
    async with conversing() as (world, process):
        if resumes:
            await process.wait(await process.say("Say hello"))
        turn = await process.say("Say it louder")
    await asyncio.sleep(1000)
    async with world.serving() as process:
        asked = asyncio.get_running_loop().time()
        over = await process.conversations.of(ALICE).find_turn(turn.id)
        assert over.state is TurnState.COMPLETED
        assert asyncio.get_running_loop().time() - asked < 1


async def test_as_it_was_when_somebody_last_looked_costs_the_host_nothing() -> None:
    async with conversing() as (world, process):
        turn = await process.say("Say hello")
        await asyncio.sleep(30)
        calls = world.host.calls.total()
        assert (await process.conversations.of(ALICE).find_turn(turn.id, settled=False)).state is TurnState.RUNNING
        assert world.host.calls.total() == calls
        process.conversations.of(ALICE).refresh(turn)
        await asyncio.sleep(10)
        over = await process.conversations.of(ALICE).find_turn(turn.id, settled=False)
        assert over.state is TurnState.COMPLETED
        process.conversations.of(ALICE).refresh(over)


async def test_a_hundred_who_ask_cost_the_host_what_one_costs() -> None:
    prices = []
    for count in (1, 100):
        async with conversing(Host(script=works_for_ever)) as (world, process):
            turn = await process.say("Say hello")
            for _ in range(20):
                found = await asyncio.gather(
                    *(process.conversations.of(ALICE).find_turn(turn.id) for _ in range(count))
                )
                assert {each.state for each in found} == {TurnState.RUNNING}
                await asyncio.sleep(1)
            prices.append(world.host.calls.total())
    assert prices[0] == prices[1]


@pytest.mark.parametrize("kind", ["create", "resume"])
async def test_a_hundred_who_ask_for_a_turn_whose_outcome_is_unknown_cost_what_one_costs(kind: str) -> None:
    prices = []
    for count in (1, 100):
        async with conversing() as (world, process):
            if kind == "resume":
                await process.wait(await process.say("Say hello"))
            world.host.before = Sequence(kind, UpstreamTimeout())
            turn = await process.say("Say it louder")
            calls = world.host.calls.copy()
            while turn.state is TurnState.STARTING:
                found = await asyncio.gather(
                    *(process.conversations.of(ALICE).find_turn(turn.id) for _ in range(count))
                )
                turn = found[0]
                await asyncio.sleep(1)
            assert turn.state is TurnState.UNKNOWN
            calls = world.host.calls - calls
            assert calls.total() <= GIVEN_UP / 2 + 2
            prices.append(calls)
    assert prices[0] == prices[1]


async def test_a_watch_ends_some_time_after_the_last_who_asked() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        turn = await process.say("Say hello")
        await process.conversations.of(ALICE).find_turn(turn.id)
        await asyncio.sleep(INTEREST / 2)
        await process.conversations.of(ALICE).find_turn(turn.id)
        await asyncio.sleep(INTEREST - 5)
        assert process.gateway.viewers == 1
        await asyncio.sleep(40)
        assert process.gateway.viewers == 0
        assert process.gateway.runs_followed == 0
        calls = world.host.calls.total()
        await asyncio.sleep(1000)
        assert world.host.calls.total() == calls
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.RUNNING
        assert process.gateway.viewers == 1


@pytest.mark.parametrize("state", [TurnState.STARTING, TurnState.RUNNING])
async def test_who_asks_is_answered_in_time_though_the_host_hangs(state: TurnState) -> None:
    async with conversing() as (world, process):
        if state is TurnState.STARTING:
            world.host.before = Sequence("create", UpstreamTimeout())
        turn = await process.say("Say hello")
        assert turn.state is state
        hanging = asyncio.Event()

        async def hang(_: str) -> None:
            await hanging.wait()

        world.host.before = hang
        for _ in range(3):
            asked = asyncio.get_running_loop().time()
            assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is state
            assert asyncio.get_running_loop().time() - asked <= PATIENCE + 0.1
        with pytest.raises(ConversationBusy):
            await process.say("Say it louder")
        hanging.set()
        assert not (await patiently(process, turn)).state.active


async def test_who_asks_for_a_turn_that_is_just_being_told_to_a_host_that_hangs_is_answered_in_time() -> None:
    async with conversing() as (world, process):
        hanging = asyncio.Event()

        async def hang(operation: str) -> None:
            if operation == "create":
                await hanging.wait()

        world.host.before = hang
        saying = asyncio.ensure_future(process.say("Say hello"))
        await asyncio.sleep(1)
        asked = asyncio.get_running_loop().time()
        latest = await process.conversations.of(ALICE).latest("talk")
        assert latest is not None
        assert latest.state is TurnState.STARTING
        assert asyncio.get_running_loop().time() - asked <= PATIENCE
        assert world.host.calls["list"] == 0  # whoever is telling the host will know
        with pytest.raises(ConversationBusy):
            await process.conversations.of(ALICE).stop(latest)
        hanging.set()
        assert (await process.wait(await saying)).state is TurnState.COMPLETED


async def test_who_leaves_while_they_ask_leaves_nothing_behind() -> None:
    async with conversing() as (_, process):
        turn = await process.say("Say hello")
        for _ in range(5):
            asking = asyncio.ensure_future(process.conversations.of(ALICE).find_turn(turn.id))
            await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait({asking})
        assert (await patiently(process, turn)).state is TurnState.COMPLETED


@pytest.mark.parametrize("error", [Forbidden(), NotFound(), UpstreamError(), UpstreamRateLimited(retry_after=1)])
async def test_who_cannot_be_shown_how_a_turn_is_is_told_what_is_written_down(error: GatewayError) -> None:
    async with conversing() as (world, process):
        turn = await process.say("Say hello")
    async with world.serving() as process:
        calm = world.host.before

        async def refuse(_: str) -> None:
            raise error

        world.host.before = refuse
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.RUNNING
        world.host.before = calm
        assert (await patiently(process, turn)).state is TurnState.COMPLETED


def test_an_unexpected_fault_while_a_turn_is_watched_is_logged_and_told_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with conversing() as (world, process):
            turn = await process.say("Say hello")

            def broken(_: Any) -> Any:
                raise RuntimeError(TEXT)

            assert turn.run is not None
            world.host.step = broken  # type: ignore[assignment,method-assign]
            world.host.runs[turn.run.id].append(type="ANSWER", text="Hello.")
            assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.RUNNING

    run(main())
    assert "watching a turn failed: RuntimeError" in caplog.text
    assert TEXT not in caplog.text


# -- what came of it --------------------------------------------------------------------------------------------------

ENDS = {
    "COMPLETE": (TurnState.COMPLETED, None),
    "CANCELLED": (TurnState.CANCELLED, None),
    "ERROR": (TurnState.FAILED, "The run ended as ERROR."),
    "PAUSED": (TurnState.WAITING, None),
}


@pytest.mark.parametrize("status", ENDS)
async def test_a_turn_ends_as_its_run_does(status: str) -> None:
    def ends(hosted: Hosted, prompt: str) -> list[Step]:
        return [(1, lambda each: each.append()), (2, lambda each: setattr(each, "status", status))]

    async with conversing(Host(script=ends)) as (world, process):
        over = await process.wait(await process.say("Say hello"))
        assert (over.state, over.error) == ENDS[status]
        assert (over.begin, over.end) == (0, 2)
        world.host.script = works
        again = await process.wait(await process.say("And again"))
        assert (again.run, again.begin, again.end) == (over.run, 2, 7)


@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("logged", [None, "forty-two", "nineteen or so"])
async def test_an_answer_is_kept_when_the_log_does_not_tell_it(status: str, logged: str | None) -> None:
    def ends(hosted: Hosted, prompt: str) -> list[Step]:
        def end(each: Hosted) -> None:
            if logged is not None:
                each.append(type="ANSWER", text=logged)
            each.status, each.result = status, "forty-two"

        return [(1, end)]

    async with conversing(Host(script=ends)) as (_, process):
        over = await process.wait(await process.say("Say a number"))
        kept = status == "COMPLETE" and logged != "forty-two"
        assert over.answer == ("forty-two" if kept else None)


@pytest.mark.parametrize("error", [QuotaExhausted(), UpstreamRateLimited(retry_after=3), NotFound()], ids=repr)
@pytest.mark.parametrize("kind", ["create", "resume"])
async def test_a_turn_that_the_host_refuses_has_failed(kind: str, error: GatewayError) -> None:
    async with conversing() as (world, process):
        if kind == "resume":
            await process.wait(await process.say("Say hello"))
        world.host.before = Sequence(kind, error)
        with pytest.raises(type(error)):
            await process.say("Say it louder")
        failed = world.turns()[-1]
        assert (failed.state, failed.error, failed.end) == (TurnState.FAILED, error.message, None)
        assert await process.wait(failed) == failed


@pytest.mark.parametrize("error", [UpstreamError, UpstreamUnreachable], ids=lambda error: error.__name__)
@pytest.mark.parametrize("looks", [True, False])
async def test_a_turn_has_failed_only_when_it_was_looked_for_and_not_found(error: Any, looks: bool) -> None:
    async with conversing() as (world, process):

        async def fail(operation: str) -> None:
            if operation == "create" or not looks:
                raise error

        organizations, calm = await process.gateway.accounts.organization(ALICE, None), world.host.before
        world.host.before = fail
        if looks:
            with pytest.raises(error):
                await process.say("Say hello")
            assert world.turns()[0].state is TurnState.FAILED
        else:
            turn = await process.say("Say hello")
            assert turn.state is TurnState.STARTING
            world.host.before = calm
            assert (await patiently(process, turn)).error == "outcome_unknown"
        assert organizations == "9"


def test_a_client_who_left_hears_of_no_failure_and_nobody_else_does(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        unheard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        async with conversing() as (world, process):
            for error in (QuotaExhausted(), RuntimeError(TEXT)):
                world.host.before = Sequence("create", error)  # type: ignore[arg-type]
                saying = asyncio.ensure_future(process.say("Say hello"))
                await until(lambda: any(turn.state is TurnState.STARTING for turn in world.turns()))
                saying.cancel()
                await asyncio.wait({saying})
                await asyncio.sleep(5)
            assert [turn.state for turn in world.turns()] == [TurnState.FAILED, TurnState.STARTING]
        assert not unheard

    run(main())
    assert "beginning a turn failed: RuntimeError" in caplog.text
    assert TEXT not in caplog.text


# -- looking for a turn -----------------------------------------------------------------------------------------------


async def lost(world: World, process: Process, kind: str, *, done: bool = False) -> Turn:
    """A turn of which nobody knows whether the host has begun it."""
    await world.converse()
    if kind == "resume":
        await process.wait(await process.say("Say hello"))
    trap = process.trap
    trap.at, trap.before, trap.calls, trap.only = 1, not done, [], lambda name: name == f"host.{kind}_run"
    trap.spring = raise_timeout
    turn = await process.say("Say it louder")
    trap.at = None
    assert turn.state is TurnState.STARTING
    return turn


def raise_timeout(_: str) -> None:
    raise UpstreamTimeout


each_kind = pytest.mark.parametrize("kind", ["create", "resume"])


@each_kind
@pytest.mark.parametrize("done", [True, False])
async def test_a_turn_whose_outcome_is_unknown_is_found_or_given_up_after_a_minute(kind: str, done: bool) -> None:
    world = World()
    async with world.serving() as process:
        turn = await lost(world, process, kind, done=done)
        found = await process.conversations.of(ALICE).find_turn(turn.id)
        assert found.state is (TurnState.RUNNING if done else TurnState.STARTING)
        over = await patiently(process, turn)
        assert over.state is (TurnState.COMPLETED if done else TurnState.UNKNOWN)
        assert over.error == (None if done else "outcome_unknown")
        if not done:
            assert turn.created + GIVEN_UP <= over.updated <= turn.created + GIVEN_UP + 3
        assert world.host.heard("Say it louder") == done


@each_kind
async def test_who_follows_such_a_turn_hears_signs_of_life_and_then_all_of_it(kind: str) -> None:
    world = World()
    async with world.serving() as process:
        turn = await lost(world, process, kind)

        def act() -> None:
            if kind == "create":
                world.host.begin_run(NewRun(turn.prompt, marks={"turn": turn.mark}))
            else:
                world.host.hear(world.host.runs["1"], turn.prompt)

        world.host.later(20, act)
        seen = Seen()
        await seen.follow(process, turn)
        assert seen.kinds()[:5] == ["Quiet"] * 5
        assert seen.over is not None
        assert seen.over.state is TurnState.COMPLETED
        assert seen.texts() == world.expected(seen.over)


@each_kind
@pytest.mark.parametrize("error", [Forbidden(), NotFound()], ids=repr)
async def test_who_is_shown_nothing_by_the_host_is_told_so_and_after_a_minute_nobody_waits_for_them(
    kind: str, error: GatewayError
) -> None:
    world = World()
    async with world.serving() as process:
        turn = await lost(world, process, kind, done=True)

        async def refuse(_: str) -> None:
            raise error

        world.host.before = refuse
        with pytest.raises(type(error)):
            await process.conversations.of(ALICE).find_turn(turn.id)
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.STARTING  # just looked for
        await asyncio.sleep(GIVEN_UP + 3)
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.UNKNOWN


@each_kind
@pytest.mark.parametrize("error", [Unavailable(), UpstreamUnreachable(), UpstreamTimeout()], ids=repr)
async def test_while_nobody_can_say_the_turn_stays_unknown(kind: str, error: GatewayError) -> None:
    world = World()
    async with world.serving() as process:
        turn = await lost(world, process, kind, done=True)
        calm = world.host.before

        async def refuse(_: str) -> None:
            raise error

        world.host.before = refuse
        for _ in range(5):
            assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.STARTING
            await asyncio.sleep(3)
        world.host.before = calm
        assert (await patiently(process, turn)).state is TurnState.COMPLETED


async def test_among_too_many_newer_runs_a_turn_is_given_up() -> None:
    world = World()
    async with world.serving() as process:
        turn = await lost(world, process, "create", done=True)
        for number in range(100 * SEARCHED_PAGES + 5):
            world.host.add(str(number + 2))
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.STARTING
        assert (await patiently(process, turn)).error == OutcomeUnknown.code


async def test_a_turn_that_resumed_a_run_is_found_many_pages_on() -> None:
    world = World(Host(page_size=7))
    async with world.serving() as process:
        await world.converse()
        await process.wait(await process.say("Say hello"))
        world.host.script = lambda hosted, prompt: []
        trap = process.trap
        trap.at, trap.before, trap.calls, trap.only = 1, False, [], lambda name: name == "host.resume_run"

        def spring(_: str) -> None:
            hosted = world.host.runs["1"]
            prompt = hosted.entries.pop()
            hosted.append(30)
            hosted.append(**{key: prompt[key] for key in ("type", "prompt")})
            raise UpstreamTimeout

        trap.spring = spring
        turn = await process.say("Say it louder")
        assert turn.state is TurnState.STARTING
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.RUNNING


@each_kind
async def test_what_the_host_answers_too_late_is_heard_unless_another_turn_has_begun(kind: str) -> None:
    for another in (False, True):
        async with conversing() as (world, slow), world.serving() as other:
            if kind == "resume":
                await slow.wait(await slow.say("Say hello"))
            hanging = asyncio.Event()

            async def hang(operation: str, hanging: asyncio.Event = hanging) -> None:
                if operation == kind:
                    await hanging.wait()

            calm, world.host.before = world.host.before, hang
            saying = asyncio.ensure_future(slow.say("Say it louder"))
            await asyncio.sleep(GIVEN_UP + 5)
            unknown = await other.conversations.of(ALICE).latest("talk")
            assert unknown is not None
            assert unknown.state is TurnState.UNKNOWN
            world.host.before = calm
            if another:
                world.host.script = works_for_ever
                await other.say("Say it softly")
            hanging.set()
            turn = await saying
            if another:
                assert turn.state is TurnState.UNKNOWN
                assert [each.state for each in world.turns()][-2:] == [TurnState.UNKNOWN, TurnState.RUNNING]
            else:
                over = await slow.wait(turn)
                assert over.state is TurnState.COMPLETED
                assert over.error is None


async def test_two_who_look_at_the_same_time_find_the_same() -> None:
    world = World()
    async with world.serving() as one, world.serving() as other:
        turn = await lost(world, one, "create", done=True)
        found = await asyncio.gather(*(each.conversations.of(ALICE).find_turn(turn.id) for each in (one, other, one)))
        assert {each.state for each in found} <= {TurnState.RUNNING, TurnState.STARTING}
        stored = world.turns()[0]
        assert (stored.state, stored.revision) == (TurnState.RUNNING, 1)


async def test_what_is_found_out_about_a_turn_that_was_removed_is_kept_nowhere() -> None:
    for done in (True, False):
        world = World()
        async with world.serving() as process:
            turn = await lost(world, process, "create", done=done)
            await world.store.remove_turn(owner_of(ALICE), turn.id)
            over = await process.wait(turn)
            assert over.state is (TurnState.UNKNOWN if not done else TurnState.COMPLETED)
            assert not world.turns()


# -- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_turn_is_stopped_and_stopping_what_is_over_does_nothing() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        turn = await process.say("Say hello")
        await asyncio.sleep(5)
        stopped = await process.conversations.of(ALICE).stop(turn)
        assert stopped.id == turn.id
        over = await patiently(process, turn)
        assert (over.state, over.end) == (TurnState.CANCELLED, 4)
        assert await process.conversations.of(ALICE).stop(turn) == over
        assert world.host.calls["cancel"] == 1


@pytest.mark.parametrize("wait", [False, True])
async def test_a_turn_whose_run_has_just_ended_by_itself_keeps_that_end_when_it_is_stopped(wait: bool) -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        turn = await process.say("Say hello")
        await asyncio.sleep(5)

        async def at_the_last_moment(operation: str) -> None:
            if operation == "get":  # the look before the stop
                world.host.runs["1"].status = "COMPLETE"

        world.host.before = at_the_last_moment
        stopped = await process.conversations.of(ALICE).stop(turn, wait=wait)
        assert stopped.state is TurnState.COMPLETED
        assert (world.host.runs["1"].status, world.host.calls["cancel"]) == ("COMPLETE", 0)


async def test_who_waits_for_a_stop_gets_the_turn_when_it_is_over() -> None:
    async with conversing(Host(script=works_for_ever)) as (_, process):
        turn = await process.say("Say hello")
        over = await process.conversations.of(ALICE).stop(turn, wait=True)
        assert over.state is TurnState.CANCELLED


async def test_a_turn_that_is_just_being_told_to_the_host_is_stopped_when_it_has_begun() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        saying = asyncio.ensure_future(process.say("Say hello"))
        await until(lambda: bool(world.turns()))
        stopped = await process.conversations.of(ALICE).stop(world.turns()[0], wait=True)
        assert stopped.state is TurnState.CANCELLED
        assert (await saying).id == stopped.id


async def test_a_turn_whose_outcome_is_unknown_cannot_be_stopped_yet() -> None:
    world = World()
    async with world.serving() as process:
        turn = await lost(world, process, "create")
        with pytest.raises(ConversationBusy):
            await process.conversations.of(ALICE).stop(turn)
        with pytest.raises(ConversationBusy):
            await process.say("Say it softly", if_busy="interrupt")


async def test_a_turn_whose_run_the_host_has_forgotten_is_given_up_when_it_is_stopped() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        turn = await process.say("Say hello")
    world.host.runs.clear()
    async with world.serving() as process:
        with pytest.raises(ConversationBusy):
            await process.say("Are you there?")
        stopped = await process.conversations.of(ALICE).stop(turn)
        assert (stopped.state, stopped.error) == (TurnState.UNKNOWN, "outcome_unknown")
        assert await process.told(stopped) == []
        world.host.script = works
        after = await process.wait(await process.say("Begin again"))
        assert (after.state, after.resumes) == (TurnState.COMPLETED, False)


def test_a_turn_that_nobody_waits_for_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with conversing(Host(script=works_for_ever)) as (world, process):
            turn = await process.say("Say hello")
            process.conversations.of(ALICE).abandon(turn)
            await asyncio.sleep(20)
            assert world.turns()[0].state is TurnState.CANCELLED
        assert not caplog.records

        world.lines = HostLine
        async with world.serving() as process:
            turn = await process.say("And again")
            process.conversations.of(ALICE).abandon(turn)
            await asyncio.sleep(20)
            assert world.turns()[1].state is TurnState.RUNNING

            async def broken(*_: Any) -> Any:
                raise RuntimeError(TEXT)

            world.store.turn = broken  # type: ignore[assignment,method-assign]
            process.conversations.of(ALICE).abandon(turn)
            await asyncio.sleep(1)
            del world.store.turn

    with caplog.at_level(logging.WARNING):
        run(main())
    assert "could not be stopped: unsupported" in caplog.text
    assert "stopping a turn failed: RuntimeError" in caplog.text
    assert TEXT not in caplog.text


# -- the next turn ----------------------------------------------------------------------------------------------------


async def test_who_waits_for_the_next_turn_is_told_of_it_when_it_is_written_down() -> None:
    async with conversing() as (world, process), world.serving() as other:
        clock = asyncio.get_running_loop().time
        for number, (begins, within) in enumerate([(process, 0.1), (other, 2.1)]):
            waiting = asyncio.ensure_future(process.conversations.of(ALICE).turn_after("talk", number, within=60))
            await asyncio.sleep(5)
            turn = await begins.say("Say hello")
            begun = clock()
            found = await waiting
            assert found is not None
            assert found.id == turn.id
            assert clock() - begun <= within
            await begins.wait(turn)
        first = await process.conversations.of(ALICE).turn_after("talk", 0, within=60)
        assert first is not None
        assert first.number == 1


async def test_who_waits_for_a_turn_that_nobody_begins_is_told_so_in_the_end() -> None:
    async with conversing() as (_, process):
        begun = asyncio.get_running_loop().time()
        assert await process.conversations.of(ALICE).turn_after("talk", 0, within=7) is None
        assert 7 <= asyncio.get_running_loop().time() - begun < 8
        with pytest.raises(NotFound):
            await process.conversations.of(caller("bob")).turn_after("talk", 0, within=7)
