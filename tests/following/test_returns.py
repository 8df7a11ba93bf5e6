"""Who comes back is given what is new, whichever process answers, and gets to the end however often it is cut off."""

import asyncio
import itertools
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.gateway import Gateway
from tests.fakehost import FakeHost, Hosted, in_front_of, opened
from tests.following.viewing import Viewer, watched
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

LARGE = 96 * 1024 * 1024


async def work(hosted: Hosted, count: int, *, seconds: float = 0.2, open_for: int = 5) -> int:
    """The run makes entries, two of five of them tool calls whose output comes a little later; how many changed."""
    waiting: list[int] = []
    for number in range(count):
        if number % 5 in (1, 3):
            waiting.append(hosted.act())
        else:
            hosted.append()
        await asyncio.sleep(seconds)
        for position in [each for each in waiting if each <= len(hosted.entries) - open_for]:
            waiting.remove(position)
            hosted.amend(position, output="done")
    for position in waiting:
        hosted.amend(position, output="done")
        await asyncio.sleep(2)
    return sum(entry["version"] for entry in hosted.entries)


async def cut_after(events: int, gateways: list[Gateway], *, away: float = 0.0) -> tuple[Viewer, int]:
    """A viewer who is cut off all the time, and comes back to one process after the other; how many events it got."""
    viewer, total = Viewer(plain=False), 0
    for gateway in itertools.cycle(gateways):
        total += await viewer.glance(gateway, events)
        assert not viewer.resyncs
        if viewer.ends:
            return viewer, total
        await asyncio.sleep(away)
    raise AssertionError


@pytest.mark.wire("position-amendments", "position-continues")
@pytest.mark.parametrize("back", [100, 300, 500, 590])
async def test_a_return_to_a_long_log_costs_what_is_new_and_not_what_changed_long_ago(back: int) -> None:
    _, hosted, gateway = opened()
    stays, staying = watched(gateway)
    changed = await work(hosted, 600)
    assert changed == 240
    assert len(stays.amended) > 200
    for plain in (True, False):
        returns = Viewer(cursor=back, plain=plain)
        await returns.watch(gateway, until=3)
        assert returns.cursor == 600
        # of the twenty before it those of a kind that changes, and those that were not known to be done by then
        assert len(returns.amended) <= 8
        again = Viewer(cursor=600, position=returns.position, plain=False)
        await again.watch(gateway, until=3)
        assert not again.amended
    hosted.status = "COMPLETE"
    await staying


@pytest.mark.wire("position-amendments", "position-headway")
async def test_who_was_given_a_settled_stretch_is_given_nothing_of_it_again() -> None:
    host = FakeHost()
    hosted = host.add()
    for _ in range(100):
        hosted.act()
        hosted.append()
    hosted.append(200)
    gateway = in_front_of(host)
    viewer = Viewer(plain=False)
    await viewer.glance(gateway, 150)
    assert viewer.position is not None
    assert viewer.position.settled
    before = host.calls["log"]
    await viewer.watch(gateway, until=3)
    assert viewer.cursor == 400
    assert not viewer.amended
    assert host.calls["log"] <= before + 6


@pytest.mark.wire("position-headway", "position-amendments", "position-continues", "stream-same-for-all")
@pytest.mark.parametrize("events", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("processes", [1, 2])
async def test_a_viewer_who_is_cut_off_all_the_time_gets_to_the_end_in_as_many_events_as_there_are(
    events: int, processes: int
) -> None:
    host = FakeHost()
    hosted = host.add()
    gateways = [Gateway(host, MemoryBroker()) for _ in range(processes)]
    cutting = asyncio.create_task(cut_after(events, gateways, away=0.1))
    changed = await work(hosted, 120)
    await asyncio.sleep(5)
    hosted.status = "COMPLETE"
    viewer, total = await cutting
    assert viewer.texts() == hosted.encoded()
    assert total <= 120 + changed
    for gateway in gateways:
        await gateway.aclose()


@pytest.mark.wire("position-headway", "position-amendments", "position-continues", "stream-same-for-all")
@pytest.mark.parametrize("events", [1, 3])
async def test_a_process_that_knows_nothing_yet_continues_at_no_higher_price(events: int) -> None:
    host = FakeHost()
    hosted = host.add()
    viewer, total = Viewer(plain=False), 0
    working = asyncio.create_task(work(hosted, 60))
    while not viewer.ends:
        gateway = Gateway(host, MemoryBroker())
        total += await viewer.glance(gateway, events)
        await gateway.aclose()
        if working.done():
            hosted.status = "COMPLETE"
    assert viewer.texts() == hosted.encoded()
    assert total <= 60 + await working
    await asyncio.sleep(0)


@pytest.mark.wire("position-amendments", "stream-same-for-all")
@pytest.mark.parametrize("memory", [LARGE, 9_000])
async def test_who_comes_back_to_large_changes_is_given_them_in_batches_like_all_else(memory: int) -> None:
    host = FakeHost()
    hosted = host.add()
    acted = [hosted.act() for _ in range(18)]
    gateway = in_front_of(host, MemoryBroker(max_bytes=memory))
    viewer = Viewer(plain=False)
    await viewer.watch(gateway, until=10)
    await asyncio.sleep(60)
    for position in acted:
        hosted.amend(position, output="x" * 9_000)
    hosted.complete(2)
    await viewer.watch(gateway)
    assert viewer.texts() == hosted.encoded()
    assert sorted(set(viewer.amended)) == acted


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.3, 1.3, 4.0, 15.0]),
            st.sampled_from(["append", "act", "fill", "fill", "amend near", "amend far"]),
            st.sampled_from([1, 2, 5, 30, 130]),
        ),
        max_size=12,
    ),
    events=st.sampled_from([1, 2, 5, 20]),
    away=st.sampled_from([0.0, 1.0, 7.0]),
    processes=st.integers(1, 2),
    memory=st.sampled_from([LARGE, LARGE, 60_000, 9_000]),
    seed=st.integers(0, 1000),
)
def test_whatever_changes_meanwhile_each_event_is_headway(
    script: list[tuple[float, str, int]], events: int, away: float, processes: int, memory: int, seed: int
) -> None:
    """Also when all that is known is forgotten in between, and whoever was there all the time has the host's log."""

    async def main() -> None:
        rng = random.Random(seed)
        host = FakeHost()
        hosted = host.add(length=30)
        gateways = [Gateway(host, MemoryBroker(max_bytes=memory)) for _ in range(processes)]
        stays, staying = watched(gateways[0])
        cutting = asyncio.create_task(cut_after(events, gateways, away=away))
        changes = 0
        for wait, what, count in script:
            await asyncio.sleep(wait)
            length = len(hosted.entries)
            match what:
                case "append":
                    hosted.append(count)
                case "act":
                    hosted.act()
                case "fill":
                    for position in range(max(1, length - 19), length + 1):
                        entry = hosted.entries[position - 1]
                        if entry["type"] == "ACTION" and entry["output"] is None and rng.random() < 0.7:
                            hosted.amend(position, output="done")
                            changes += 1
                case "amend near":
                    hosted.amend(length, note=rng.random())
                    changes += 1
                case "amend far":
                    for _ in range(count):
                        hosted.amend(rng.randrange(1, length + 1), note=rng.random())
                    changes += count
        await asyncio.sleep(60)
        hosted.status = "COMPLETE"
        await staying
        assert stays.texts() == hosted.encoded()
        viewer, total = await cutting
        if processes == 1 and memory == LARGE:
            assert viewer.texts() == hosted.encoded()
        # what changed is told once, by each process that has seen it change
        assert total <= len(hosted.entries) + (1 + processes) * changes + 2 * 20
        for gateway in gateways:
            await gateway.aclose()

    run(main(), at_most=20_000)
