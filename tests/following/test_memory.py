import asyncio

import pytest

from codegen_api.brokers.memory import MemoryBroker
from tests.fakehost import FakeHost, in_front_of
from tests.following.strict import StrictHost
from tests.following.viewing import Viewer, shown

pytestmark = pytest.mark.virtual_time


async def test_a_viewer_who_reads_what_was_let_go_is_not_left_alone_when_memory_is_short() -> None:
    """An ended run is not looked at any more, so nobody would open its log again."""

    host = FakeHost()
    long = host.add("1", status="COMPLETE")
    long.append(3000, text="x" * 1000)
    other = host.add("2", status="COMPLETE")
    other.append(50, text="x" * 1000)
    host.latency = 1.0
    gateway = in_front_of(host, MemoryBroker(max_bytes=60000))
    slow, quick = Viewer(), Viewer()
    loop = asyncio.get_running_loop()
    watching = asyncio.create_task(slow.watch(gateway))
    await asyncio.sleep(10)
    assert 0 < slow.cursor < 2000
    await quick.watch(gateway, run="2")
    await watching
    assert slow.texts() == long.encoded()
    assert slow.ends == [3000]
    assert loop.time() < 100


async def test_a_thousand_people_who_open_one_finished_run_cost_one_set_of_pages() -> None:
    host = StrictHost()
    finished = host.add("1", status="COMPLETE", length=1050)
    told = finished.encoded()
    gateway = in_front_of(host)

    async def open_it(number: int) -> None:
        await asyncio.sleep(0.6 * number)
        viewer = await shown(gateway)
        assert viewer.texts() == told
        assert viewer.ends == [1050]

    await asyncio.gather(*(open_it(number) for number in range(1000)))
    seconds = asyncio.get_running_loop().time()
    # eleven pages, and then a look at the tail every five seconds at most, with the run itself
    assert host.calls["log"] <= 11 + 1 + seconds / 5
    assert host.calls["get"] <= seconds / 5 + seconds / 60 + 2
    assert not host.refused


async def test_a_finished_run_is_shown_from_memory_as_long_as_its_follower_is_there_and_then_read_anew() -> None:
    host = StrictHost()
    finished = host.add("1", status="COMPLETE", length=1050)
    gateway = in_front_of(host)
    for away, reads in ((1, 11), (4, 2), (600, 2), (600, 11 + 2)):
        before = host.calls["log"]
        viewer = await shown(gateway)
        assert viewer.texts() == finished.encoded()
        assert host.calls["log"] - before <= reads + 1
        await asyncio.sleep(away)
    assert gateway.runs_followed == 0


@pytest.mark.wire("position-amendments", "end-known")
async def test_who_comes_back_when_the_log_was_let_go_a_moment_before_is_given_what_changed() -> None:
    host = FakeHost()
    first = host.add("1", status="COMPLETE")
    first.append(30, text="x" * 300)
    acted = first.act()
    other = host.add("2", status="COMPLETE")
    other.append(60, text="x" * 1000)
    gateway = in_front_of(host, MemoryBroker(max_bytes=60000))
    viewer = Viewer(plain=False)
    await viewer.watch(gateway)
    await Viewer().watch(gateway, run="2")  # takes the place of the first
    first.amend(acted, output="done")
    await viewer.watch(gateway)
    assert viewer.texts() == first.encoded()
    assert viewer.ends == [31, 31]
    assert asyncio.get_running_loop().time() < 10
