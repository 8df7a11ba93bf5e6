"""Entries that change long after they came: who opens a log sees them as they are now, who was there is told of it."""

import asyncio

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.gateway import Gateway
from codegen_api.positions import COMPARED
from tests.fakehost import FakeHost, in_front_of, opened
from tests.following.strict import StrictHost
from tests.following.viewing import Viewer, shown, watched

pytestmark = pytest.mark.virtual_time

LARGE, SMALL, TINY = 96 * 1024 * 1024, 100_000, 1

FAR = range(10, 109)
"""Which are changed of 500."""


def a_gateway(host: FakeHost, memory: int) -> Gateway:
    return in_front_of(host, MemoryBroker(max_bytes=memory))


@pytest.mark.wire("stream-amended", "stream-same-for-all")
@pytest.mark.parametrize("memory", [LARGE, SMALL, TINY])
async def test_what_changed_far_back_is_told_before_the_end_to_who_was_there(memory: int) -> None:
    host = StrictHost()
    hosted = host.add()
    hosted.append(400, text="x" * 300)
    gateway = a_gateway(host, memory)
    early, late = Viewer(), Viewer(plain=False)
    watching = asyncio.create_task(early.watch(gateway))
    await asyncio.sleep(20)
    await late.watch(gateway, until=20)
    hosted.append(100, text="x" * 300)
    for position in FAR:
        hosted.amend(position, note="late")
    await asyncio.sleep(60)
    hosted.status = "COMPLETE"
    ended = asyncio.get_running_loop().time()
    await watching
    assert asyncio.get_running_loop().time() - ended < 30
    assert early.texts() == hosted.encoded()
    assert early.amended == list(FAR)
    await late.watch(gateway)  # who was away meanwhile
    assert late.texts() == hosted.encoded()
    again = Viewer(cursor=late.cursor, position=late.position, plain=False)
    await again.watch(gateway)
    assert not again.amended
    assert not host.refused


@pytest.mark.wire("stream-same-for-all", "stream-as-it-is-now")
@pytest.mark.parametrize("memory", [LARGE, SMALL, TINY])
@pytest.mark.parametrize("status", ["ACTIVE", "COMPLETE"])
@pytest.mark.parametrize("away", [10, 130])
async def test_who_opens_a_log_that_nobody_follows_gets_it_as_it_is_now(memory: int, status: str, away: float) -> None:
    host = FakeHost()
    hosted = host.add()
    gateway = a_gateway(host, memory)
    before, after = Viewer(), Viewer()
    watching = asyncio.create_task(before.watch(gateway, until=60))
    for _ in range(10):
        hosted.append(50, text="x" * 300)
        await asyncio.sleep(3)
    hosted.status = status
    await watching
    assert before.texts() == hosted.encoded()
    await asyncio.sleep(away)
    assert not gateway.runs_followed
    for position in (*FAR, 250, 390, 450, 499):
        hosted.amend(position, note="late")
    await after.watch(gateway, until=30)
    assert after.texts() == hosted.encoded()


@pytest.mark.wire("stream-same-for-all", "position-amendments")
@pytest.mark.parametrize("memory", [LARGE, SMALL])
async def test_who_was_there_before_is_told_at_the_end_what_changed_while_nobody_was(memory: int) -> None:
    host = FakeHost()
    hosted = host.add()
    hosted.append(500, text="x" * 300)
    gateway = a_gateway(host, memory)
    viewer = Viewer(plain=False)
    await viewer.watch(gateway, until=30)
    await asyncio.sleep(60)
    for position in (*FAR, 450):
        hosted.amend(position, note="late")
    back = asyncio.create_task(viewer.watch(gateway))
    await asyncio.sleep(20)
    hosted.status = "COMPLETE"
    await back
    assert viewer.texts() == hosted.encoded()


@pytest.mark.wire("stream-amended", "budget-shared")
async def test_of_a_very_long_log_so_much_is_compared_as_was_promised_and_no_more() -> None:
    host = StrictHost()
    hosted = host.add(length=20000)
    gateway = in_front_of(host)
    viewer = Viewer(cursor=15_000)
    watching = asyncio.create_task(viewer.watch(gateway))
    await asyncio.sleep(300)
    assert viewer.cursor == 20_000
    hosted.amend(20_000 - COMPARED + 1, note="late")
    hosted.amend(20_000 - COMPARED - 150, note="too late")
    before, began = host.calls["log"], asyncio.get_running_loop().time()
    hosted.status = "COMPLETE"
    await watching
    assert viewer.amended == [20_000 - COMPARED + 1]
    assert host.calls["log"] - before <= COMPARED / 100 + 3
    assert asyncio.get_running_loop().time() - began < 10 + 30 + 5


@pytest.mark.wire("stream-amended", "end-complete")
async def test_an_end_does_not_wait_long_for_the_comparison_where_the_host_allows_little() -> None:
    host = StrictHost(limit=12)
    hosted = host.add(length=1500)
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    await asyncio.sleep(300)
    assert viewer.cursor == 1500
    hosted.status = "COMPLETE"
    began = asyncio.get_running_loop().time()
    await watching
    assert asyncio.get_running_loop().time() - began < 150
    assert viewer.ends == [1500]


@pytest.mark.wire("stream-amended")
async def test_what_was_read_after_the_end_is_not_read_again_for_the_sake_of_comparing() -> None:
    host, hosted, gateway = opened(1050, status="COMPLETE")
    viewer = await shown(gateway)
    assert viewer.texts() == hosted.encoded()
    assert host.calls["log"] <= 11 + 2


@pytest.mark.wire("stream-amended", "end-known")
async def test_who_comes_back_to_an_ended_run_does_not_wait_for_another_comparison() -> None:
    host, hosted, gateway = opened()
    viewer, watching = watched(gateway)
    for _ in range(15):
        hosted.append(100)
        await asyncio.sleep(2)
    hosted.status = "COMPLETE"
    await watching
    for _ in range(3):
        await asyncio.sleep(60)
        before = host.calls["log"]
        await viewer.watch(gateway)
        assert host.calls["log"] - before <= 2


@pytest.mark.wire("resumed-streams-on", "stream-amended")
async def test_each_end_of_a_run_is_compared_and_a_resume_interrupts_that() -> None:
    host = StrictHost()
    hosted = host.add(length=1200)
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    await asyncio.sleep(100)
    hosted.status = "COMPLETE"
    await asyncio.sleep(6)
    assert not watching.done()
    hosted.append(prompt="on")
    hosted.status = "ACTIVE"
    await asyncio.sleep(60)
    assert viewer.cursor == 1201
    hosted.amend(3, note="late")
    hosted.status = "COMPLETE"
    await watching
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [1201]
