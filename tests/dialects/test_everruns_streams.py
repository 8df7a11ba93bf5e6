"""Live events of sessions, in virtual time: what a listener hears, however they come, stay and come back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.conversations import Ask, new_id, owner_of
from codegen_api.dialects.everruns.families import FLAT, NESTED, START, Family, Spot, event_hex, parse_spot
from codegen_api.dialects.everruns.messages import EventSpot
from codegen_api.dialects.everruns.streams import EventFilter, Listener, events_of, turns_after
from codegen_api.errors import AtCapacity, InvalidToken, RateLimited, UpstreamUnreachable
from codegen_api.following import Patrol
from codegen_api.gateway.viewing import StreamLimits
from codegen_api.identity import Caller
from codegen_api.stores import Turn, TurnState
from tests.conversations.world import ALICE, Host, Process, World, kill, now, works_for_ever
from tests.dialects.eventsource import parse
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

SESSION = "6f1d4a58-2c0e-4d53-9a0c-0a3b6d3f7e11"

BEGINNING = ["input.message", "session.activated", "turn.started"]
SAID = ["output.message.started", "output.message.delta", "output.message.completed"]
END = ["turn.completed", "session.idled"]
TURN = [*BEGINNING, *SAID * 4, *END]
"""One turn of a host that makes three notes and answers."""

BELOW = ["message.user", *["message.assistant"] * 4]


@dataclass
class Ear:
    """Somebody who listens, and what they have heard."""

    family: Family = FLAT
    kinds: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)
    beats: int = 0
    connects: int = 0
    last: str | None = None
    goodbye: Any = None

    async def listen(self, process: Process, *, since: str | None = None, who: Caller = ALICE, **more: Any) -> None:
        """Until the stream ends."""
        self.connects += 1
        self.goodbye = None
        conversation = await process.world.store.conversation(owner_of(who), SESSION)
        assert conversation is not None
        since = since or self.last
        after = None if since is None else parse_spot(SESSION, since) or START
        listener = Listener(process.conversations.of(who), self.family, conversation.id, after, **more)
        async with aclosing(listener.frames()) as pieces:
            async for piece in pieces:
                self._hear(piece)

    async def listen_for(self, seconds: float, process: Process, **more: Any) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.listen(process, **more)

    def _hear(self, piece: bytes) -> None:
        self.beats += piece.count(b": heartbeat\n\n")
        for event in parse(piece):
            data = json.loads(event.data)
            if event.type == "connected":
                assert data == {"status": "connected"}
                continue
            assert self.goodbye is None
            if event.type == "disconnecting":
                assert event.last_event_id == ""
                assert data["retry_ms"] == event.retry
                self.goodbye = data
                continue
            self.last = event.last_event_id
            if self.family is FLAT:
                assert (data["id"], data["type"]) == (self.last, event.type)
            self.kinds.append(event.type)
            self.ids.append(self.last)
            self.data.append(data)


def an_ask(text: str) -> Ask:
    return Ask(({"id": new_id(), "content": [{"type": "text", "text": text}]},), text)


async def say(process: Process, text: str) -> Turn:
    """Say something; it is being answered."""
    return await process.conversations.of(ALICE).begin(None, SESSION, an_ask(text))


async def answered(process: Process, text: str) -> Turn:
    return await process.wait(await say(process, text))


@asynccontextmanager
async def alone(host: Host | None = None, **more: Any) -> AsyncIterator[Process]:
    """One process, and a session."""
    world = World(host)
    await world.converse(SESSION)
    async with world.serving(**more) as process:
        yield process


async def told(process: Process) -> list[str]:
    """The ids of all events by now."""
    events = await events_of(process.conversations.of(ALICE), SESSION, EventFilter())
    return [f"event_{event_hex(SESSION, event.spot)}" for event in events]


@asynccontextmanager
async def heard(process: Process, ear: Ear, **more: Any) -> AsyncIterator["asyncio.Task[None]"]:
    """While the context lasts, until the stream ends."""
    task = asyncio.ensure_future(ear.listen(process, **more))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# -- what is heard ----------------------------------------------------------------------------------------------------


async def test_turn_after_turn_is_heard_once_and_in_order_in_the_words_of_each_family() -> None:
    async with alone() as process:
        flat, below = Ear(FLAT), Ear(NESTED)
        async with heard(process, flat), heard(process, below):
            await asyncio.sleep(20)
            for text in ("One", "Two", "Three"):
                await answered(process, text)
                await asyncio.sleep(50)
        assert flat.kinds == TURN * 3
        assert below.kinds == BELOW * 3
        assert flat.ids == await told(process)
        assert [int(each) for each in below.ids] == sorted({int(each) for each in below.ids})
        texts = [data["data"]["message"]["content"][0]["text"] for data in flat.data if "message" in data["data"]]
        assert texts == [data["content"][0]["text"] for data in below.data]
        assert (texts[0], texts[4]) == ("One", "answer to One")


def test_between_turns_the_host_is_left_alone_and_the_listener_hears_signs_of_life() -> None:
    async def main() -> None:
        async with alone(patrol=lambda: Patrol(100_000, 15)) as process:
            await answered(process, "One")
            ear = Ear()
            async with heard(process, ear):
                await asyncio.sleep(30)
                before = dict(process.world.host.calls)
                beats = ear.beats
                await asyncio.sleep(3600)
                assert dict(process.world.host.calls) == before
                assert 235 <= ear.beats - beats <= 240
            assert ear.kinds == TURN

    run(main(), at_most=10_000)


@pytest.mark.parametrize("family", [FLAT, NESTED], ids=["flat", "nested"])
async def test_who_names_no_event_hears_of_the_last_turn_or_of_everything(family: Family) -> None:
    async with alone() as process:
        ear = Ear(family)
        await ear.listen_for(20, process)
        assert ear.kinds == []
        await answered(process, "One")
        await answered(process, "Two")
        ear = Ear(family)
        await ear.listen_for(20, process)
        assert ear.kinds == (TURN if family is FLAT else BELOW * 2)


async def test_whoever_says_something_and_then_listens_misses_nothing() -> None:
    async with alone() as process:
        for text in ("One", "Two"):
            await say(process, text)
            ear = Ear()
            await ear.listen_for(20, process)
            assert ear.kinds == TURN
            assert ear.data[0]["data"]["message"]["content"][0]["text"] == text


async def test_what_is_chosen_is_heard_and_what_is_not_is_not() -> None:
    async with alone() as process:
        await answered(process, "One")
        for more, expected in (
            ({"types": frozenset({"turn.started", "turn.completed"})}, ["turn.started", "turn.completed"]),
            ({"exclude": frozenset(TURN) - {"turn.started"}}, ["turn.started"]),
            ({"types": frozenset({"unheard.of"})}, []),
        ):
            ear = Ear()
            await ear.listen_for(20, process, **more)
            assert ear.kinds == expected


async def test_what_the_user_said_is_heard_as_soon_as_the_host_knows() -> None:
    async with alone(Host(script=lambda *_: [])) as process:
        ear = Ear()
        async with heard(process, ear):
            await say(process, "One")
            await asyncio.sleep(1)
            assert ear.kinds == BEGINNING


# -- coming back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [FLAT, NESTED], ids=["flat", "nested"])
async def test_from_every_event_on_the_rest_is_heard(family: Family) -> None:
    async with alone() as process:
        await answered(process, "One")
        await answered(process, "Two")
        whole = Ear(family)
        await whole.listen_for(5, process, since="event_unheard-of")
        assert whole.kinds == (TURN * 2 if family is FLAT else BELOW * 2)
        for index, each in enumerate(whole.ids):
            spot = parse_spot(SESSION, each)
            assert spot is not None
            for since in (each, str(spot.number), f"event_{event_hex(SESSION, spot)}"):
                ear = Ear(family)
                await ear.listen_for(5, process, since=since)
                assert ear.ids == whole.ids[index + 1 :]


UNKNOWN = {
    "of another session": event_hex("6f1d4a58-2c0e-4d53-9a0c-0a3b6d3f7e12", Spot(1, 1, 1)),
    "no id at all": "unheard-of",
    "of a turn that is not there": f"event_{event_hex(SESSION, Spot(9, 1, 1))}",
    "a number of a turn that is not there": str(Spot(9, 1, 1).number),
    "a number before all": "0",
    "a number beyond all": str(1 << 53),
}


@pytest.mark.parametrize("since", UNKNOWN.values(), ids=UNKNOWN)
async def test_an_id_that_nobody_knows_gets_everything(since: str) -> None:
    async with alone() as process:
        await answered(process, "One")
        await answered(process, "Two")
        ear = Ear()
        await ear.listen_for(20, process, since=since)
        assert ear.kinds == TURN * 2


@pytest.mark.parametrize("offset", [6, 7, 400])
async def test_an_id_behind_the_end_of_a_turn_gets_all_of_it(offset: int) -> None:
    async with alone() as process:
        turn = await answered(process, "One")
        assert turn.end == 5
        ear = Ear()
        await ear.listen_for(20, process, since=f"event_{event_hex(SESSION, Spot(1, offset, EventSpot.IDLED))}")
        assert ear.kinds == ([] if offset == 6 else TURN)


async def test_an_id_that_a_running_turn_does_not_have_gets_all_of_it() -> None:
    async with alone(Host(script=works_for_ever)) as process:
        await say(process, "One")
        await asyncio.sleep(30)
        for spot, expected in ((Spot(1, 50, 1), [*BEGINNING, *SAID * 3]), (Spot(1, 2, 2), SAID * 2)):
            ear = Ear()
            await ear.listen_for(20, process, since=str(spot.number))
            assert ear.kinds == expected


async def test_an_id_that_this_process_has_not_read_yet_is_no_unknown_one() -> None:
    """Another instance has read further."""

    host = Host(script=lambda *_: [(9, lambda run: run.append())])
    async with alone(host) as process:
        await say(process, "One")
        held = Ear()
        async with heard(process, held):
            await asyncio.sleep(9.5)
            host.evolve()
            assert held.kinds == BEGINNING
            ear = Ear()
            await ear.listen_for(30, process, since=str(Spot(1, 2, 2).number))
            assert ear.kinds == []
            assert held.kinds == [*BEGINNING, *SAID]


# -- leaving ----------------------------------------------------------------------------------------------------------


async def test_a_stream_that_is_old_says_so_between_turns_and_the_next_goes_on() -> None:
    async with alone(patrol=lambda: Patrol(100, 15)) as process:
        await answered(process, "One")
        begun = now()
        ear = Ear()
        await ear.listen(process)
        assert 99 <= now() - begun <= 101
        assert ear.goodbye["reason"] == "connection_cycle"
        assert 1000 <= ear.goodbye["retry_ms"] <= 2000
        talking = asyncio.ensure_future(answered(process, "Two"))
        await ear.listen(process)
        await talking
        assert ear.kinds == TURN * 2


async def test_a_stream_that_is_old_says_so_in_the_middle_of_a_turn_and_the_next_goes_on() -> None:
    def slowly(hosted: Any, prompt: str) -> Any:
        steps = [(40 * n, lambda run: run.append()) for n in range(1, 9)]
        return [*steps, (360, lambda run: setattr(run, "status", "COMPLETE"))]

    async with alone(Host(script=slowly), patrol=lambda: Patrol(100, 15)) as process:
        await say(process, "One")
        ear = Ear()
        while ear.kinds[-1:] != ["session.idled"]:
            await ear.listen(process)
            assert ear.goodbye["reason"] == "connection_cycle"
        assert ear.kinds == [*BEGINNING, *SAID * 8, *END]
        assert ear.connects > 3


async def test_a_process_that_stops_tells_whoever_waits_and_takes_nobody_new() -> None:
    async with alone() as process:
        await answered(process, "One")
        ears = [Ear() for _ in range(4)]
        listening = [asyncio.ensure_future(ear.listen(process)) for ear in ears]
        await asyncio.sleep(30)
        assert process.gateway.viewers == 4
        begun = now()
        await process.gateway.drain(20)
        assert now() - begun < 20
        await asyncio.gather(*listening)
        assert [ear.goodbye["reason"] for ear in ears] == ["shutdown"] * 4
        assert process.gateway.viewers == 0
        late = Ear()
        await late.listen(process)
        assert late.goodbye["reason"] == "shutdown"
        assert late.kinds == TURN


async def test_a_process_that_stops_tells_who_listens_to_a_turn() -> None:
    async with alone(Host(script=works_for_ever)) as process:
        await say(process, "One")
        ear, late = Ear(), Ear()
        async with heard(process, ear) as listening:
            await asyncio.sleep(10)
            await process.gateway.drain(20)
            await listening
        await late.listen(process)
        assert ear.goodbye["reason"] == "connection_cycle"
        assert late.goodbye["reason"] == "shutdown"


@pytest.mark.parametrize("busy", [False, True])
async def test_a_stream_of_a_session_that_is_deleted_ends_with_a_reason(busy: bool) -> None:
    async with alone(Host(script=works_for_ever)) as process:
        if busy:
            await say(process, "One")
        ear = Ear()
        async with heard(process, ear) as listening:
            await asyncio.sleep(30)
            await process.world.store.remove_conversation(owner_of(ALICE), SESSION)
            async with asyncio.timeout(40):
                await listening
        assert ear.goodbye["reason"] == "session_deleted"


async def test_where_the_host_fails_the_listener_is_told_and_comes_back_later() -> None:
    host = Host(script=works_for_ever)
    async with alone(host) as process:
        await say(process, "One")

        async def fail(operation: str) -> None:
            raise UpstreamUnreachable

        await asyncio.sleep(100)
        host.before = fail
        ear = Ear()
        await ear.listen(process)
        assert ear.goodbye["reason"] == "error"
        assert ear.goodbye["error"]["code"] == "upstream_unreachable"
        assert ear.goodbye["retry_ms"] >= 5000


async def test_what_a_listener_came_with_is_asked_about_again() -> None:
    async with alone() as process:
        await answered(process, "One")
        revoked = False

        def confirm() -> None:
            if revoked:
                raise InvalidToken

        ear = Ear()
        async with heard(process, ear, who=replace(ALICE, confirm=confirm)) as listening:
            await asyncio.sleep(60)
            revoked = True
            await listening
        assert ear.goodbye["error"]["code"] == "invalid_token"
        begun = now()
        await Ear().listen(process, who=replace(ALICE, expires=begun + 50))
        assert 49 <= now() - begun <= 51


async def test_whoever_waits_takes_a_seat() -> None:
    async with alone(max_streams=2, max_streams_each=1) as process:
        first, second = Ear(), Ear()
        async with heard(process, first):
            await asyncio.sleep(5)
            await second.listen(process)
            assert second.goodbye["error"]["code"] == "rate_limited"
            assert first.goodbye is None
        async with process.gateway.attend(ALICE):
            with pytest.raises(RateLimited):
                await process.gateway.attend(ALICE).__aenter__()
        with pytest.raises(AtCapacity):
            await StreamLimits(0, 1).take(ALICE.principal).__aenter__()


# -- turns that did not come about ------------------------------------------------------------------------------------


async def test_of_a_turn_that_the_host_refuses_nothing_is_heard() -> None:
    host = Host()
    async with alone(host) as process:
        ear = Ear()
        async with heard(process, ear):

            async def refuse(operation: str) -> None:
                if operation == "create":
                    await asyncio.sleep(3)
                    raise RateLimited

            host.before = refuse
            with pytest.raises(RateLimited):
                await say(process, "One")
            host.before = lambda _: asyncio.sleep(0)
            await asyncio.sleep(20)
            assert ear.kinds == []
            await answered(process, "Two")
            await asyncio.sleep(20)
        assert ear.kinds == TURN


async def test_a_turn_that_was_taken_back_is_forgotten_and_the_next_one_is_heard() -> None:
    async with alone() as process:
        store, owner = process.world.store, owner_of(ALICE)
        ear = Ear()
        async with heard(process, ear):
            await asyncio.sleep(5)
            turn = Turn(new_id(), SESSION, now(), now(), mark="m", organization="9")
            taken_back = await store.add_turn(owner, turn)
            await asyncio.sleep(5)
            await store.remove_turn(owner, taken_back.id)
            await asyncio.sleep(5)
            assert ear.kinds == []
            turn = await answered(process, "Two")
            assert turn.number == taken_back.number
            await asyncio.sleep(20)
        assert ear.kinds == TURN


async def test_a_turn_whose_outcome_nobody_knows_is_heard_as_failed() -> None:
    async with alone() as process:
        messages = an_ask("One").messages
        lost = Turn(new_id(), SESSION, now(), now(), mark="m", organization="9", messages=messages)
        await process.world.store.add_turn(owner_of(ALICE), lost)
        ear = Ear()
        async with heard(process, ear):
            await asyncio.sleep(100)
        assert ear.kinds == [*BEGINNING, "turn.failed", "session.idled"]
        assert ear.data[-2]["data"]["error_code"] == "outcome_unknown"
        (turn,) = process.world.turns(SESSION)
        assert turn.state is TurnState.UNKNOWN


async def test_only_as_many_turns_are_read_as_there_are_to_tell() -> None:
    async with alone() as process:
        store, owner = process.world.store, owner_of(ALICE)
        for _ in range(120):
            await store.add_turn(owner, Turn(new_id(), SESSION, now(), now(), TurnState.COMPLETED, end=0))
        for number, reads in ((119, 1), (120, 1), (100, 2), (0, 4), (60, 3)):
            process.trap.calls.clear()
            found = await turns_after(process.conversations.of(ALICE), SESSION, number)
            assert [turn.number for turn in found] == list(range(number + 1, 121))
            assert len(process.trap.calls) <= reads


# -- whatever happens -------------------------------------------------------------------------------------------------


async def talk_on(process: Process, pauses: list[float]) -> None:
    """Say what has not been said yet, whatever becomes of it."""
    while True:
        turns = process.world.turns(SESSION)
        if turns and turns[-1].state.active:
            await process.wait(turns[-1])
        elif len(turns) == len(pauses):
            return
        else:
            await asyncio.sleep(pauses[len(turns)])
            await say(process, f"Message {len(turns)}")


@settings(max_examples=40, deadline=None)
@given(
    stays=st.lists(st.floats(0.1, 40), min_size=3, max_size=12),
    pauses=st.lists(st.floats(0, 9), min_size=2, max_size=4),
    crashes=st.sets(st.integers(0, 11), max_size=4),
    family=st.sampled_from([FLAT, NESTED]),
)
def test_whenever_a_listener_comes_back_and_whichever_process_dies_each_event_is_heard_once(
    stays: list[float], pauses: list[float], crashes: set[int], family: Family
) -> None:
    async def main() -> None:
        world = World()
        await world.converse(SESSION)
        ear = Ear(family)
        process = world.process()
        await process.conversations.open()
        talking = asyncio.ensure_future(talk_on(process, pauses))
        for index, stay in enumerate(stays):
            await ear.listen_for(stay, process, since=ear.last or "0")
            if index in crashes:
                process.trap.dead = True
                await kill()
                process = world.process()
                await process.conversations.open()
                talking = asyncio.ensure_future(talk_on(process, pauses))
        await talking
        await ear.listen_for(30, process, since=ear.last or "0")
        whole = Ear(family)
        await whole.listen_for(5, process, since="0")
        assert ear.ids == whole.ids
        assert ear.kinds == whole.kinds
        spots = [parse_spot(SESSION, each) or START for each in whole.ids]
        assert spots == sorted(set(spots))
        asked = [kind for kind in whole.kinds if kind in ("input.message", "message.user")]
        assert len(asked) == len(pauses)
        await process.aclose()

    run(main())


def test_reconnects_of_an_idle_listener_lose_and_double_nothing_and_cost_the_host_nothing() -> None:
    """As the SDK comes back every 45 seconds, because comments are no sign of life to it."""

    async def main() -> None:
        async with alone() as process:
            await answered(process, "One")
            ear = Ear()
            await ear.listen_for(45, process)
            before = dict(process.world.host.calls)
            for _ in range(40):
                await ear.listen_for(45, process)
                await asyncio.sleep(1)
            assert dict(process.world.host.calls) == before
            talking = asyncio.ensure_future(answered(process, "Two"))
            for _ in range(10):
                await ear.listen_for(1.7, process)
            await talking
            await ear.listen_for(45, process)
            assert ear.kinds == TURN * 2
            assert ear.connects == 52

    run(main(), at_most=10_000)
