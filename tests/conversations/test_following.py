"""A turn as it comes: its stretch of the log, every entry once and in order, amended where the host amends it."""

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.conversations import CaughtUp, TurnEnded
from codegen_api.conversations.progress import RESUME_DOUBT
from codegen_api.errors import (
    Forbidden,
    GatewayError,
    InvalidToken,
    NotFound,
    RateLimited,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from codegen_api.following import Leaving, Notice, Patrol, Quiet
from codegen_api.following.read_queue import ReadQueue
from codegen_api.identity import Caller
from codegen_api.pace import Cadence
from codegen_api.runs import LogPage, Run
from codegen_api.stores import Turn, TurnState
from tests.conversations.world import ALICE, Host, Process, Seen, Step, World, conversing, works, works_for_ever
from tests.fakehost import STATUSES, Hosted
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

Script = Callable[[Hosted, str], list[Step]]


def ends(status: str, *seconds: float, at_end: float) -> Script:
    """Notes at these seconds, and then the run has that status."""

    def script(hosted: Hosted, prompt: str) -> list[Step]:
        notes: list[Step] = [(second, lambda each: each.append()) for second in seconds]
        return [*notes, (at_end, lambda each: setattr(each, "status", status))]

    return script


class Stale(Host):
    """After a resume readers are told the status from before it for ``lag`` seconds; the resume itself is answered."""

    lag = 5.0

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._then: dict[str, tuple[str, float]] = {}

    def hear(self, hosted: Hosted, prompt: str) -> None:
        self._then[hosted.ref.id] = (hosted.status, asyncio.get_running_loop().time() + self.lag)
        super().hear(hosted, prompt)

    async def get_run(self, *given: Any) -> Run:
        return self._stale(await super().get_run(*given))

    async def read_log(self, *given: Any, **more: Any) -> LogPage:
        page = await super().read_log(*given, **more)
        return replace(page, run=self._stale(page.run))

    def _stale(self, run: Run) -> Run:
        status, until = self._then.get(run.ref.id, ("", 0.0))
        if asyncio.get_running_loop().time() >= until:
            return run
        return replace(run, status=STATUSES[status], raw_status=status, fields={**run.fields, "status": status})


async def seen(process: Process, turn: Turn, who: Caller = ALICE) -> Seen:
    found = Seen()
    await found.follow(process, turn, who)
    return found


async def test_a_turn_comes_as_it_happens_and_is_over_once() -> None:
    async with conversing() as (world, process):
        turn = await process.say("Say hello")
        live = await seen(process, turn)
        assert live.over is not None
        assert live.texts() == world.expected(live.over)
        assert live.kinds().count("CaughtUp") == 1
        assert live.kinds()[-1] == "TurnEnded"
        assert live.kinds().count("tuple") >= 4
        again = await seen(process, live.over)
        assert again.texts() == live.texts()
        assert again.kinds() == ["tuple", "TurnEnded"]
        assert again.over == live.over
        # whoever comes with what they knew of it before gets the same
        late = await seen(process, turn)
        assert late.texts() == live.texts()
        assert late.over == live.over


@pytest.mark.parametrize("resumes", [False, True])
async def test_all_that_was_there_is_caught_up_with_before_the_end_and_not_when_the_end_is_there(resumes: bool) -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        if resumes:
            world.host.script = works
            await process.wait(await process.say("Say hello"))
            world.host.script = works_for_ever
        turn = await process.say("Say it louder")
        await asyncio.sleep(20)
        following = Seen()
        task = asyncio.ensure_future(following.follow(process, turn))
        await asyncio.sleep(3)
        assert following.news[-1] == CaughtUp(4)
        world.host.runs["1"].append()
        world.host.runs["1"].status = "COMPLETE"
        await task
        assert len(following.log) == 5
        assert (await seen(process, turn)).kinds()[-2:] == ["tuple", "TurnEnded"]


async def test_entries_that_the_host_fills_in_later_come_again() -> None:
    def script(hosted: Hosted, prompt: str) -> list[Step]:
        place = len(hosted.entries)

        def fill(each: Hosted) -> None:
            each.amend(place + 1, output="done")

        def late(each: Hosted) -> None:
            each.amend(place + 2, text="what was meant")

        def end(each: Hosted) -> None:
            each.status = "COMPLETE"

        return [(1, act), (2, lambda each: each.append()), (5, fill), (6, late), (8, end)]

    async with conversing(Host(script=script)) as (world, process):
        for text in ("Say hello", "Say it louder"):
            live = await seen(process, await process.say(text))
            assert live.over is not None
            assert live.texts() == world.expected(live.over)
            assert 2 in live.amended


async def test_an_answer_that_is_amended_is_told_by_the_log_as_it_is_then() -> None:
    def script(hosted: Hosted, prompt: str) -> list[Step]:
        def end(each: Hosted) -> None:
            each.amend(2, text="forty-two")
            each.status, each.result = "COMPLETE", "forty-two"

        return [(1, lambda each: each.append(type="ANSWER", text="forty")), (5, end)]

    async with conversing(Host(script=script)) as (_, process):
        live = await seen(process, await process.say("Say a number"))
        assert live.amended == [2]
        assert live.over is not None
        assert live.over.answer is None


@pytest.mark.parametrize("page_size", [1, 7, 100])
async def test_long_turns_come_whole(page_size: int) -> None:
    def script(hosted: Hosted, prompt: str) -> list[Step]:
        return [(1, lambda each: each.append(17)), (3, lambda each: each.append(18)), *works(hosted, prompt)[2:]]

    async with conversing(Host(page_size=page_size, script=script)) as (world, process):
        for text in ("Say hello", "Say it louder"):
            live = await seen(process, await process.say(text))
            assert live.over is not None
            assert live.texts() == world.expected(live.over)
            assert (await seen(process, live.over)).texts() == live.texts()


# -- ends that are none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["COMPLETE", "PAUSED", "CANCELLED", "ERROR"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "at another instance"])
@pytest.mark.parametrize("lag", [0.5, 5.0, 20.0])
async def test_a_status_from_before_the_resume_is_no_end(before: str, elsewhere: bool, lag: float) -> None:
    host = Stale(script=ends(before, 0.5, at_end=1))
    host.lag = 0
    async with conversing(host) as (world, one), world.serving() as other:
        first = await one.say("Say hello")
        both = await asyncio.gather(seen(one, first), seen(other, first))  # both know the end
        host.lag, host.script = lag, ends("COMPLETE", lag + 2, lag + 3, at_end=lag + 4)
        assert both[0].over is not None
        second = await one.say("Say it louder")
        live = await seen(other if elsewhere else one, second)
        assert live.over is not None
        assert live.over.state is TurnState.COMPLETED
        assert live.texts() == world.expected(live.over)
        assert len(live.log) == 3


@pytest.mark.parametrize("viewed", [False, True])
async def test_where_the_turn_before_was_another_instance_s_its_end_is_not_taken_for_the_next_one_s(
    viewed: bool,
) -> None:
    host = Stale(script=ends("COMPLETE", 3, 3.2, 3.4, at_end=4))
    host.lag = 0.5
    world = World(host)
    await world.converse()
    # nothing keeps them from asking the host at once
    more: dict[str, Any] = {"turns": ReadQueue(limit=100_000), "cadence": lambda: Cadence(fast=0.05), "linger": 60}
    swift = [world.serving(**more) for _ in range(2)]
    async with swift[0] as here, swift[1] as there:
        await here.wait(await here.say("One"))
        second = await there.say("Two")
        if viewed:
            assert (await seen(here, second)).over is not None
        await there.wait(second)
        third = await here.say("Three")

        async def wait(process: Process, seconds: float) -> None:
            await asyncio.sleep(seconds)
            await process.wait(third)

        # the first comes while what is known here of the log is from the turn before, and the next ones later
        await asyncio.gather(wait(here, 0), wait(here, 0.1), wait(here, 0.2), wait(there, 0))
        assert [(turn.begin, turn.end) for turn in world.turns()] == [(0, 4), (4, 8), (8, 12)]
        for turn in world.turns():
            assert await here.told(turn) == await there.told(turn) == world.expected(turn)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_who_is_slow_to_follow_a_turn_is_not_told_the_next_one_as_a_part_of_it(elsewhere: bool) -> None:
    async with conversing() as (world, here), world.serving() as there:
        first = await here.say("One")
        slow = here.conversations.of(ALICE).follow(first)
        told: list[str] = []
        async with aclosing(slow) as progress:
            async for news in progress:
                if isinstance(news, tuple):
                    if not told:  # what comes meanwhile waits
                        await there.wait(first)
                        await there.wait(await (there if elsewhere else here).say("Two"))
                    told += [came.entry.json.decode() for came in news]
                last = news
        assert told == world.expected(first)
        assert last == TurnEnded(world.turns()[0])


async def test_that_the_run_was_at_work_before_the_resume_says_nothing_of_the_time_after_it() -> None:
    host = Stale(script=ends("ERROR", 1, at_end=5))
    host.lag = 0
    async with conversing(host) as (world, one), world.serving() as other:
        first = await one.say("Say hello")
        await seen(other, first)  # which asked for the right when the run was at work
        await asyncio.sleep(20)
        host.lag, host.script = 5, ends("COMPLETE", 7, at_end=8)
        second = await one.say("Say it louder")
        live = await seen(other, second)
        assert live.over is not None
        assert live.over.state is TurnState.COMPLETED
        assert live.texts() == world.expected(live.over)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "at another instance"])
async def test_a_turn_in_which_nothing_happens_ends_when_the_doubt_does(elsewhere: bool) -> None:
    host = Stale()
    host.lag = 0
    async with conversing(host) as (world, one), world.serving() as other:
        await one.wait(await one.say("Say hello"))
        host.lag, host.script = 1000, lambda hosted, prompt: []
        second = await one.say("Say it louder")
        began = asyncio.get_running_loop().time()
        live = await seen(other if elsewhere else one, second)
        assert live.over is not None
        assert (live.over.state, live.over.end) == (TurnState.COMPLETED, 6)
        assert RESUME_DOUBT - 1 <= asyncio.get_running_loop().time() - began <= RESUME_DOUBT + 10
        assert "Quiet" in live.kinds()


async def test_the_doubt_counts_from_the_resume_not_from_whoever_comes() -> None:
    async with conversing(Host()) as (world, one):
        await one.wait(await one.say("Say hello"))
        world.host.script = ends("ERROR", at_end=1)
        second = await one.say("Say it louder")
    await asyncio.sleep(RESUME_DOUBT)
    async with world.serving() as other:
        began = asyncio.get_running_loop().time()
        live = await seen(other, second)
        assert live.over is not None
        assert live.over.state is TurnState.FAILED
        assert asyncio.get_running_loop().time() - began < 5


@pytest.mark.parametrize("status", ["PAUSED", "WAITING"])
@pytest.mark.parametrize("page_size", [3, 100])
async def test_a_run_that_waits_for_an_answer_ends_the_turn_when_everything_has_come(
    status: str, page_size: int
) -> None:
    STATUSES.setdefault("WAITING", STATUSES["PAUSED"])

    def script(hosted: Hosted, prompt: str) -> list[Step]:
        def rest(each: Hosted) -> None:
            each.status = status  # and the host goes on writing for a moment
            each.append(4)

        return [(1, lambda each: each.append(2)), (2, rest), (2.5, lambda each: each.append(2))]

    async with conversing(Host(page_size=page_size, script=script)) as (world, process):
        first = await seen(process, await process.say("Build me a house"))
        assert first.over is not None
        assert first.over.state is TurnState.WAITING
        assert len(first.log) >= 7
        assert first.texts() == await process.told(first.over)
        world.host.evolve()
        world.host.script = works
        answer = await seen(process, await process.say("Yes, go on"))
        assert answer.over is not None
        assert answer.over.state is TurnState.COMPLETED
        assert answer.over.run == first.over.run
        assert answer.texts() == world.expected(answer.over)


async def test_entries_that_come_while_it_is_looked_whether_a_run_rests_are_not_lost() -> None:
    async with conversing(Host(script=ends("PAUSED", 1, at_end=2))) as (world, process):
        turn = await process.say("Build me a house")
        read, hosted = world.host.read_log, world.host.runs["1"]
        grown = 0

        async def growing(*given: Any, **more: Any) -> LogPage:
            nonlocal grown
            page = await read(*given, **more)
            if hosted.status == "PAUSED" and grown < 4:  # behind every look there is more
                hosted.append()
                grown += 1
            return page

        world.host.read_log = growing  # type: ignore[method-assign]
        live = await seen(process, turn)
        assert live.over is not None
        assert (live.over.state, len(hosted.entries)) == (TurnState.WAITING, 6)
        assert live.texts() == hosted.encoded()[: live.over.end]


async def test_a_run_that_rests_only_for_a_moment_goes_on() -> None:
    def script(hosted: Hosted, prompt: str) -> list[Step]:
        return [
            (1, lambda each: setattr(each, "status", "PAUSED")),
            (1.2, lambda each: setattr(each, "status", "ACTIVE")),
            *works(hosted, prompt)[1:],
        ]

    async with conversing(Host(script=script)) as (world, process):
        live = await seen(process, await process.say("Build me a house"))
        assert live.over is not None
        assert live.over.state in (TurnState.COMPLETED, TurnState.WAITING)
        assert live.texts() == world.host.runs["1"].encoded()[: live.over.end]


# -- two who see the end ----------------------------------------------------------------------------------------------


async def test_who_sees_less_than_another_instance_has_written_down_reads_the_rest() -> None:
    async with conversing(Host(script=ends("PAUSED", 1, 2, at_end=3))) as (world, one), world.serving() as other:
        turn = await one.say("Build me a house")
        following = Seen()
        task = asyncio.ensure_future(following.follow(other, turn))
        change, ours = world.store.change_turn, asyncio.Event()

        async def changing(owner: str, then: Turn, now: Turn) -> Turn | None:
            if now.end is not None and not ours.is_set():
                ours.set()
                world.host.runs["1"].append(3)
                assert await change(owner, then, replace(now, end=now.end + 3, answer="first"))
            return await change(owner, then, now)

        world.store.change_turn = changing  # type: ignore[method-assign]
        await task
        assert following.over is not None
        assert (following.over.end, following.over.answer) == (6, "first")
        assert following.texts() == world.host.runs["1"].encoded()


async def test_an_end_is_written_down_whatever_else_was_written_since() -> None:
    async with conversing() as (world, process):
        turn = await process.say("Say hello")
        owner = next(owner for owner, _ in world.store._turns)
        following = asyncio.ensure_future(seen(process, turn))
        await asyncio.sleep(1)
        noted = await world.store.change_turn(owner, turn, replace(turn, options={"noted": True}))
        assert noted is not None
        live = await following
        assert live.over == world.turns()[0]
        assert (live.over.state, live.over.options) == (TurnState.COMPLETED, {"noted": True})


# -- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_log_that_was_replaced_is_not_shown_as_the_turn_s() -> None:
    for entries in (2, 50):
        async with conversing(Host(script=works_for_ever)) as (world, process):
            turn = await process.say("Say hello")
            following = asyncio.ensure_future(seen(process, turn))
            await asyncio.sleep(10)
            world.host.runs["1"].replace(entries)
            with pytest.raises(UpstreamError):
                await following


async def test_a_log_that_is_shorter_than_when_the_turn_began_is_not_its() -> None:
    async with conversing() as (world, process):
        await process.wait(await process.say("Say hello"))
        world.host.script = works_for_ever
        turn = await process.say("Say it louder")
    world.host.runs["1"].replace(2)
    async with world.serving() as process:
        with pytest.raises(UpstreamError):
            await seen(process, turn)
        over = world.turns()[0]
        with pytest.raises(UpstreamError):
            await process.told(over)


async def test_a_reader_here_that_is_behind_what_another_instance_has_seen_catches_up() -> None:
    async with conversing() as (world, one), world.serving() as other:
        first = await one.say("Say hello")
        await asyncio.gather(seen(one, first), seen(other, first))
        hosted = world.host.runs["1"]
        hosted.append(3)  # somebody else did something, and the reader here has gone to rest
        second = await one.say("Say it louder")
        assert second.begin == 8
        live = await seen(other, second)
        assert live.over is not None
        assert live.texts() == world.expected(live.over)


@pytest.mark.parametrize(
    "error", [UpstreamUnreachable(), UpstreamError(), UpstreamRateLimited(retry_after=20)], ids=repr
)
async def test_an_outage_of_the_host_is_told_and_nothing_is_lost(error: GatewayError) -> None:
    async with conversing(Host(script=ends("COMPLETE", 1, 20, at_end=60))) as (world, process):
        turn = await process.say("Say hello")
        following = Seen()
        task = asyncio.ensure_future(following.follow(process, turn))
        await asyncio.sleep(5)
        calm = world.host.before

        async def refuse(_: str) -> None:
            raise error

        world.host.before = refuse
        await asyncio.sleep(30)
        assert any(isinstance(each, Notice) for each in following.news)
        world.host.before = calm
        await task
        assert following.over is not None
        assert following.texts() == world.expected(following.over)


@pytest.mark.parametrize("error", [Forbidden, NotFound, InvalidToken])
async def test_who_loses_the_right_in_the_middle_is_shown_no_more_of_it(error: Any) -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        turn = await process.say("Say hello")
        following = Seen()
        task = asyncio.ensure_future(following.follow(process, turn))
        await asyncio.sleep(10)
        assert len(following.log) == 4

        async def refuse(_: str) -> None:
            raise error

        calm, world.host.before = world.host.before, refuse
        world.host.runs["1"].append()
        with pytest.raises(error):
            await task
        assert len(following.log) == 4
        with pytest.raises(error):
            await seen(process, turn)
        world.host.before = calm
        world.host.runs["1"].status = "COMPLETE"
        assert len((await seen(process, turn)).log) == 5


async def test_a_token_that_was_revoked_here_is_shown_no_more_of_it() -> None:
    async with conversing(Host(script=works_for_ever)) as (_, process):
        revoked = False

        def confirm() -> None:
            if revoked:
                raise InvalidToken

        who = replace(ALICE, confirm=confirm)
        turn = await process.say("Say hello", who=who)
        following = Seen()
        task = asyncio.ensure_future(following.follow(process, turn, who))
        await asyncio.sleep(10)
        revoked = True
        with pytest.raises(InvalidToken):
            await task


async def test_a_stream_that_the_gateway_ends_is_no_end_of_the_turn() -> None:
    host = Host(script=works_for_ever)
    async with conversing(host, patrol=lambda: Patrol(max_age=20, heartbeat=5)) as (world, process):
        turn = await process.say("Say hello")
        live = await seen(process, turn)
        assert isinstance(live.news[-1], Leaving)
        assert any(isinstance(each, Quiet) for each in live.news)
        assert live.over is None
        assert world.turns()[0].state is TurnState.RUNNING
        watched = await process.conversations.of(ALICE).find_turn(turn.id)
        await asyncio.sleep(30)
        assert watched.state is TurnState.RUNNING
        world.host.runs["1"].status = "COMPLETE"
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.COMPLETED


async def test_there_are_as_many_seats_for_those_who_follow_turns_as_for_other_viewers() -> None:
    async with conversing(Host(script=works_for_ever), max_streams_each=1) as (world, process):
        turn = await process.say("Say hello")
        task = asyncio.ensure_future(seen(process, turn))
        await asyncio.sleep(5)
        with pytest.raises(RateLimited):
            await seen(process, turn)
        # who only asks is told what is written down
        assert (await process.conversations.of(ALICE).find_turn(turn.id)).state is TurnState.RUNNING
        world.host.runs["1"].status = "COMPLETE"
        assert isinstance((await task).news[-1], TurnEnded)


async def test_who_stops_following_in_the_middle_leaves_nothing_behind() -> None:
    async with conversing() as (_, process):
        turn = await process.say("Say hello")
        for seconds in (0.01, 0.1, 1.5, 3):
            task = asyncio.ensure_future(seen(process, turn))
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.wait({task})
        assert process.gateway.viewers == 0
        assert isinstance((await seen(process, turn)).news[-1], TurnEnded)


# -- whatever happens -------------------------------------------------------------------------------------------------

ACTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 1.0, 7.0]), st.sampled_from(["note", "notes", "act", "fill", "answer"])),
    max_size=12,
)
VISITS = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 3.0, 30.0]), st.booleans()), min_size=1, max_size=5)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(ACTS, st.sampled_from(["COMPLETE", "PAUSED", "ERROR"])), min_size=1, max_size=3),
    VISITS,
    st.sampled_from([1, 7, 100]),
    st.sampled_from([0.0, 0.5, 4.0]),
)
def test_whatever_happens_everybody_sees_the_same_turn(turns: Any, visits: Any, page_size: int, lag: float) -> None:
    async def main() -> None:
        host = Stale(page_size=page_size)
        host.lag = lag
        async with conversing(host) as (world, one), world.serving() as other:
            for number, (acts, status) in enumerate(turns):
                host.script = acting(acts, status, lag + 0.1)
                turn = await one.say(f"Say number {number}")
                following = []
                for pause, elsewhere in visits:
                    await asyncio.sleep(pause)
                    following.append(asyncio.ensure_future(seen(other if elsewhere else one, turn)))
                all_seen = await asyncio.gather(*following)
                over = all_seen[0].over
                assert over is not None
                assert all(each.over == over for each in all_seen)
                assert over.end == len(host.runs["1"].entries)
                for each in all_seen:
                    if status == "PAUSED":  # of a run that rests the last entries are not read once more
                        assert list(map(numbered, each.texts())) == list(map(numbered, world.expected(over)))
                    else:
                        assert each.texts() == world.expected(over)
                assert await other.told(over) == world.expected(over)

    run(main())


def numbered(text: str) -> int:
    number: int = json.loads(text)["n"]
    return number


def acting(acts: list[tuple[float, str]], status: str, second: float) -> Script:
    """All this from that second on: before that, what is said of the run's status may be from before the resume."""

    def script(hosted: Hosted, prompt: str, second: float = second) -> list[Step]:
        steps: list[Step] = []
        for pause, what in acts:
            second += pause
            steps.append((second, DOES[what]))

        def end(each: Hosted) -> None:
            each.append()  # so that there is more than the prompt
            fill(each)
            each.status = status

        return [*steps, (second + 1, end)]

    return script


def fill(hosted: Hosted) -> None:
    for position, entry in enumerate(hosted.entries, 1):
        if entry["type"] == "ACTION" and entry["output"] is None:
            hosted.amend(position, output="done")


def act(hosted: Hosted) -> None:
    hosted.act()


DOES: dict[str, Callable[[Hosted], None]] = {
    "note": lambda hosted: hosted.append(),
    "notes": lambda hosted: hosted.append(9),
    "act": act,
    "fill": fill,
    "answer": lambda hosted: hosted.append(type="ANSWER", text="so it is"),
}
