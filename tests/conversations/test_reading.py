"""What came of turns, for whoever reads a conversation: in the host's own pages, by each reader's right, and once."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.conversations import Stretch
from codegen_api.conversations.progress import FRESH, LASTING
from codegen_api.conversations.turns import READING
from codegen_api.errors import Forbidden, GatewayError, NotFound, Unavailable, UpstreamError, UpstreamTimeout
from codegen_api.following import Patrol
from codegen_api.identity import READ, WRITE, Caller, Credential, Principal
from codegen_api.runs import LogPage, StepKind
from codegen_api.stores import Turn, TurnState
from tests.conversations.world import ALICE, Host, Seen, Step, World, ask, conversing, works, works_for_ever
from tests.fakehost import Hosted
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

LONG = 40


def long(hosted: Hosted, prompt: str) -> list[Step]:
    return [(1, lambda each: each.append(LONG)), *works(hosted, prompt)]


async def talked(world: World, turns: int = 2, **more: Any) -> list[Turn]:
    await world.converse()
    async with world.serving() as process:
        return [await process.wait(await process.say(f"Say number {number}", **more)) for number in range(turns)]


@pytest.mark.parametrize("page_size", [1, 7, 45, 100])
async def test_what_is_over_is_read_in_the_host_s_own_full_pages(page_size: int) -> None:
    world = World(Host(page_size=page_size, script=long))
    turns = await talked(world, 3)
    async with world.serving() as process:
        for turn in turns:
            world.host.reads.clear()
            assert await process.told(turn) == world.expected(turn)
            assert turn.end is not None
            first, last = turn.begin // page_size, (turn.end - 1) // page_size
            assert world.host.reads == [("1", page_size * page, page_size) for page in range(first, last + 1)]


@pytest.mark.parametrize("page_size", [7, 100])
async def test_a_stretch_goes_as_far_as_its_checkpoint(page_size: int) -> None:
    world = World(Host(page_size=page_size, script=long))
    _, second = await talked(world)
    async with world.serving() as process:
        for upto in (0, 1, 7, 44, 45):
            world.host.reads.clear()
            assert await process.told(second, upto) == world.expected(second)[:upto]
            assert len(world.host.reads) <= upto // page_size + 2
        steps = await process.conversations.of(ALICE).steps(Stretch(second, 2))
        assert [step.kind for step in steps] == [StepKind.USER, StepKind.THOUGHT]


def test_what_has_been_over_for_long_is_read_from_the_host_once_in_a_long_time() -> None:
    async def main() -> None:
        world = World(Host(page_size=7, script=long))
        first, second = await talked(world)
        async with world.serving() as process:
            await asyncio.sleep(10_000)
            world.host.reads.clear()
            await asyncio.gather(*(process.told(turn) for turn in (first, second) for _ in range(50)))
            pages = range(0, 2 * (LONG + 5), 7)
            assert {after for _, after, _ in world.host.reads} == set(pages)
            assert len(world.host.reads) <= len(pages) + 1  # one in which one turn ends and the other begins
            world.host.reads.clear()
            for _ in range(10):
                await asyncio.sleep(LASTING * 1_000 - 1)
                assert await process.told(second) == world.expected(second)
                assert await process.told(first, 3) == world.expected(first)[:3]
            assert not world.host.reads

    run(main(), at_most=20_000)


def test_what_the_host_may_still_fill_in_is_read_again_after_a_moment() -> None:
    async def main() -> None:
        async with conversing() as (world, process):
            turn = await process.wait(await process.say("Say hello"))
            hosted = world.host.runs["1"]
            for version in range(1, 6):
                hosted.amend(2)
                await asyncio.sleep(FRESH)
                told = await process.told(turn)
                assert f'"version": {version}' in told[1]
                reads = len(world.host.reads)
                await process.told(turn)
                assert len(world.host.reads) == reads
            for seconds in (60, 3_600, 86_400):  # and later, after so much longer
                await asyncio.sleep(seconds)
                await process.told(turn)
                hosted.amend(2)
                await asyncio.sleep(LASTING * 2 * seconds)
                assert await process.told(turn) == hosted.encoded()

    run(main(), at_most=300_000)


async def test_a_page_that_is_larger_than_all_that_may_be_kept_is_read_each_time() -> None:
    world = World()
    (turn,) = await talked(world, 1)
    async with world.serving(turns_bytes=500) as process:
        await asyncio.sleep(61)
        for _ in range(3):
            assert await process.told(turn) == world.expected(turn)
        assert len(world.host.reads) >= 3


async def test_a_host_that_shows_less_than_it_did_is_not_believed() -> None:
    for length in (0, 3, 7):
        world = World(Host(page_size=5))
        _, second = await talked(world)
        async with world.serving() as process:
            del world.host.runs["1"].entries[length:]
            with pytest.raises(UpstreamError):
                await process.told(second)


# -- whose it is ------------------------------------------------------------------------------------------------------


def another_token(name: str, who: Caller = ALICE) -> Caller:
    return replace(who, credential=Credential.of(name, b"key"), shown=name)


@pytest.mark.parametrize("kept", [False, True])
async def test_who_may_not_see_the_run_is_shown_nothing_though_it_is_kept_here(kept: bool) -> None:
    world = World()
    (turn,) = await talked(world, 1)
    world.host.tokens |= {"alice-two": "1", "alice-three": "1"}
    world.host.barred.add(("alice-two", "1"))
    two, three = another_token("alice-two"), another_token("alice-three")
    async with world.serving() as process:
        await asyncio.sleep(61)
        if kept:
            assert await process.told(turn) == world.expected(turn)
        for _ in range(2):
            with pytest.raises(Forbidden):
                await process.told(turn, who=two)
            with pytest.raises(Forbidden):
                await process.wait(turn, two)
            assert await process.told(turn, who=three) == world.expected(turn)
        world.host.barred.add(("alice-three", "1"))
        await asyncio.sleep(61)  # so long a yes holds
        with pytest.raises(Forbidden):
            await process.told(turn, who=three)
        assert await process.told(turn) == world.expected(turn)


async def test_users_who_share_a_token_of_the_host_are_shown_their_own_only() -> None:
    world = World()
    ann, eve = (
        Caller(Principal("jwt:https://issuer.example", name), ALICE.credential, name, frozenset({READ, WRITE}), True)
        for name in ("ann", "eve")
    )
    await world.converse(who=ann)
    await world.converse(who=eve)
    async with world.serving(organization="9") as process:
        first = await process.wait(await process.say("Say hello", who=ann), ann)
        second = await process.wait(await process.say("Say it louder", who=ann), ann)
        assert await process.told(second, who=ann) == world.expected(second)
        with pytest.raises(NotFound):
            await process.conversations.of(eve).find_turn(first.id)
        with pytest.raises(NotFound):  # whatever they know of it
            await process.told(first, who=eve)
        with pytest.raises(NotFound):
            await process.wait(replace(second, state=TurnState.RUNNING, end=None), eve)
        stolen = await process.wait(await process.say("Say hello", who=eve), eve)
        assert stolen.run != first.run
        assert await process.told(stolen, who=eve) == world.expected(stolen)


async def test_who_may_only_write_can_have_their_turn_found_and_may_not_read_it() -> None:
    async with conversing() as (_, process):
        shared = replace(ALICE, shared=True, scopes=frozenset({WRITE}))
        turn = await process.conversations.of(shared).begin("9", "talk", ask("Say hello"))
        assert turn.state is TurnState.RUNNING
        with pytest.raises(GatewayError):
            await process.told(turn, who=shared)


# -- what is under way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [2, 100])
async def test_of_what_is_under_way_all_that_has_come_is_read(page_size: int) -> None:
    async with conversing(Host(page_size=page_size, script=works_for_ever)) as (world, one), world.serving() as other:
        turn = await one.say("Say hello")
        await asyncio.sleep(10)
        for process in (one, other):
            assert await process.told(turn) == world.expected(turn)
            assert len(await process.told(turn, 2)) == 2
            assert len(await process.told(turn, 9)) == 4
            assert await process.told(turn, 0) == []
            assert len(await process.conversations.of(ALICE).entries(Stretch(turn, None))) == 4
        world.host.runs["1"].status = "COMPLETE"
        assert await other.told(turn) == world.expected(turn)
        assert await other.conversations.of(ALICE).has(turn, 4)
        assert not await other.conversations.of(ALICE).has(turn, 5)


@pytest.mark.parametrize("state", [TurnState.STARTING, TurnState.FAILED, TurnState.UNKNOWN])
@pytest.mark.parametrize("resumes", [False, True])
async def test_of_what_the_host_has_not_begun_nothing_has_come(state: TurnState, resumes: bool) -> None:
    world = World()
    (first,) = await talked(world, 1)
    turn = Turn("t", "talk", 0.0, 0.0, state=state, run=first.run if resumes else None, resumes=resumes, begin=5)
    async with world.serving() as process:
        calls = world.host.calls.total()
        assert await process.told(turn) == []
        assert world.host.calls.total() == calls
        if not resumes:
            assert not await process.conversations.of(ALICE).has(turn, 1)


async def test_who_reads_what_is_under_way_at_a_host_that_hangs_is_told_so_in_time() -> None:
    async with conversing(Host(script=works_for_ever)) as (world, process):
        turn = await process.say("Say hello")
        hanging = asyncio.Event()

        async def hang(_: str) -> None:
            await hanging.wait()

        world.host.before = hang
        begun = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamTimeout):
            await process.told(turn)
        assert asyncio.get_running_loop().time() - begun <= READING + 1
        hanging.set()
        assert await process.told(turn) == world.expected(turn)


async def test_a_reading_that_the_gateway_breaks_off_is_not_taken_for_all() -> None:
    host = Host(page_size=1, script=works_for_ever)
    async with conversing(host, patrol=lambda: Patrol(max_age=0.2)) as (world, process):
        turn = await process.say("Say hello")
        await asyncio.sleep(5)
        world.host.latency = 0.15
        with pytest.raises(Unavailable):
            await process.told(turn)


async def test_who_leaves_while_they_read_leaves_nothing_behind() -> None:
    world = World(Host(page_size=7, script=long))
    (turn,) = await talked(world, 1)
    async with world.serving() as process:
        for seconds in (0.01, 0.06, 0.2):
            reading = asyncio.ensure_future(process.told(turn))
            await asyncio.sleep(seconds)
            reading.cancel()
            await asyncio.wait({reading})
        assert await process.told(turn) == world.expected(turn)


async def test_a_reader_whose_page_is_on_its_way_when_the_process_ends_is_let_go() -> None:
    world = World()
    (turn,) = await talked(world, 1)
    process = world.process()
    hanging = asyncio.Event()
    read = world.host.read_log

    async def hang(*given: Any, **more: Any) -> LogPage:
        await hanging.wait()
        return await read(*given, **more)

    world.host.read_log = hang  # type: ignore[method-assign]
    reading = asyncio.ensure_future(process.told(turn))
    await asyncio.sleep(1)
    await process.aclose()
    async with asyncio.timeout(1):
        await asyncio.wait({reading})
    assert reading.cancelled() or reading.exception() is not None


async def test_the_same_turn_reads_the_same_whoever_reads_it_live_or_later() -> None:
    async with conversing(Host(page_size=7, script=long)) as (world, process):
        turn = await process.say("Say hello")
        live = Seen()
        await live.follow(process, turn)
        assert live.over is not None
        assert await process.told(live.over) == live.texts() == world.expected(live.over)
