"""Several processes that know nothing of each other follow one run: whichever answers, nothing comes twice, nothing is
missing, and no older view is told as the truth.
"""

import asyncio

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.gateway import Gateway
from codegen_api.identity import Credential
from codegen_api.pace import Cadence
from codegen_api.runs import Run, RunRef
from tests.fakehost import FakeHost, Hosted, caller
from tests.following.viewing import Viewer, shown

pytestmark = pytest.mark.virtual_time


class World:
    """A host, a gateway that looks often and one that looks seldom, both with a viewer who stays."""

    def __init__(self, *, plain: bool = False) -> None:
        self.host = FakeHost()
        self.hosted: Hosted = self.host.add()
        self.ahead = Gateway(self.host, MemoryBroker(), cadence=lambda: Cadence(fast=1.25, slow=1.25))
        self.behind = Gateway(self.host, MemoryBroker(), cadence=lambda: Cadence(fast=40, slow=40, resting=40))
        self.viewer = Viewer(plain=plain)
        self._staying: list[asyncio.Task[bool]] = []

    async def begin(self, count: int) -> None:
        self.hosted.append(count)
        self._staying += [
            asyncio.create_task(Viewer().watch(gateway, who=caller("bob"))) for gateway in (self.ahead, self.behind)
        ]
        await asyncio.sleep(2)

    async def end(self) -> None:
        await asyncio.sleep(100)
        self.hosted.status = "COMPLETE"
        await asyncio.gather(*self._staying)
        await self.viewer.watch(self.behind)
        assert self.viewer.texts() == self.hosted.encoded()
        assert not self.viewer.resyncs
        await self.ahead.aclose()
        await self.behind.aclose()


@pytest.mark.wire("position-continues", "position-ahead")
@pytest.mark.parametrize("plain", [True, False])
async def test_a_position_beyond_what_this_process_has_read_is_asked_for_before_it_is_denied(*, plain: bool) -> None:
    world = World(plain=plain)
    await world.begin(10)
    for _ in range(5):
        world.hosted.append(3)
        await world.viewer.watch(world.ahead, until=3)
        assert world.viewer.cursor == len(world.hosted.entries)
        before = world.host.calls["log"]
        world.hosted.append(2)
        await world.viewer.watch(world.behind, until=3)
        assert world.viewer.cursor == len(world.hosted.entries)
        assert world.host.calls["log"] <= before + 2 + 3
    await world.end()


@pytest.mark.wire("position-ahead")
async def test_a_position_beyond_the_log_costs_one_look_for_all_who_come_with_one() -> None:
    world = World()
    await world.begin(10)
    before = world.host.calls["log"]
    lost = [Viewer(cursor=40) for _ in range(20)]
    await asyncio.gather(*(viewer.watch(world.behind, until=5) for viewer in lost))
    for viewer in lost:
        (resync,) = viewer.resyncs
        assert (resync.requested, resync.length, resync.cursor) == (40, 10, 10)
    assert world.host.calls["log"] <= before + 2 + 5  # the other one has gone on, too
    await world.end()


@pytest.mark.wire("position-ahead", "fault-notice")
async def test_a_position_is_not_denied_while_the_host_cannot_be_asked() -> None:
    world = World()
    await world.begin(10)
    world.hosted.append(3)
    await world.viewer.watch(world.ahead, until=3)
    world.host.latency = 8.0
    await world.viewer.watch(world.behind, until=5)
    assert not world.viewer.resyncs
    world.host.latency = 0.05
    world.hosted.append(1)
    await world.viewer.watch(world.behind, until=30)
    assert world.viewer.cursor == 14
    await world.end()


@pytest.mark.wire("position-continues", "stream-amended")
async def test_a_process_that_has_not_seen_a_change_does_not_take_it_back() -> None:
    world = World()
    await world.begin(10)
    acted = world.hosted.act()
    world.hosted.append(2)
    await world.viewer.watch(world.ahead, until=3)
    await asyncio.sleep(45)  # both have seen the call
    world.hosted.amend(acted, output="done")
    await world.viewer.watch(world.ahead, until=3)
    assert world.viewer.amended == [acted]
    await world.viewer.watch(world.behind, until=3)
    assert world.viewer.amended == [acted]
    assert world.viewer.texts() == world.hosted.encoded()
    await world.end()


@pytest.mark.wire("resumed-streams-on", "end-known")
@pytest.mark.parametrize("apart", [0.3, 2.0, 4.5])
async def test_an_end_from_before_a_resume_elsewhere_is_not_told_to_who_knows_of_the_resume(apart: float) -> None:
    host = FakeHost()
    hosted = host.add(status="COMPLETE", length=25)
    here, there = Gateway(host, MemoryBroker()), Gateway(host, MemoryBroker())
    viewer = await shown(here)
    await Viewer().watch(there)  # which believes in the end for some seconds

    async def resume_run(
        credential: Credential, ref: RunRef, prompt: str, images: tuple[str, ...] | None, *, key: str | None = None
    ) -> Run:
        hosted.status = "ACTIVE"  # the prompt is an entry, but not at once
        return await host.get_run(credential, ref)

    host.resume_run = resume_run  # type: ignore[method-assign]
    await here.resume(caller(), "9", "1", "on", None)
    await viewer.watch(here, over=True, until=apart)
    assert viewer.statuses[-1] == "ACTIVE"
    back = Viewer(cursor=25)
    await back.watch(there, until=20)
    assert not back.ends
    hosted.complete(2)
    await viewer.watch(there)
    assert viewer.ends == [25, 27]
    await here.aclose()
    await there.aclose()
