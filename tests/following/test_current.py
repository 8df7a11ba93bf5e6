"""The word that a viewer has all that was there: once, behind everything, and behind how the run is."""

import asyncio
from typing import Any

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import UpstreamUnreachable
from codegen_api.following import Current, Position
from codegen_api.gateway import Gateway
from codegen_api.runs import Changed
from tests.fakehost import FakeHost, caller, opened
from tests.following.viewing import Viewer

pytestmark = pytest.mark.virtual_time


async def updates(gateway: Gateway, cursor: int, seconds: float) -> list[Any]:
    """What a viewer at that position is told in so many seconds."""
    stream = await gateway.follow(caller(), "9", "1", Position(cursor))
    assert stream is not None
    found: list[Any] = []

    async def view() -> None:
        async for update in stream:
            found.append(update)  # noqa: PERF401 - what was found so far counts

    viewing = asyncio.ensure_future(view())
    await asyncio.wait({viewing}, timeout=seconds)
    viewing.cancel()
    await asyncio.wait({viewing})
    await stream.aclose()
    viewer = Viewer(cursor=cursor)
    for update in found:
        viewer.take(update)
    return found


def currents(found: list[Any]) -> list[int]:
    return [update.cursor for update in found if isinstance(update, Current)]


@pytest.mark.parametrize("length", [0, 1, 99, 100, 250])
@pytest.mark.parametrize("cursor", [0, 1, 100, 250])
async def test_it_is_said_once_when_everything_has_been_given(length: int, cursor: int) -> None:
    _, hosted, gateway = opened()
    hosted.append(length)
    for _ in range(2):  # to the first viewer, and to one who comes later
        assert currents(await updates(gateway, cursor, 5)) == [length]


async def test_it_is_not_said_again_for_what_comes_later_nor_before_the_host_has_shown_anything() -> None:
    host = FakeHost()
    hosted = host.add(length=3)
    gateway = Gateway(host, MemoryBroker())
    viewing = asyncio.ensure_future(updates(gateway, 0, 30))
    await asyncio.sleep(5)
    hosted.append(2)
    assert currents(await viewing) == [3]
    await gateway.aclose()

    gateway = Gateway(host, MemoryBroker())
    await gateway.view(caller(), "9", "1")
    calm = host.before

    async def fail(operation: str) -> None:
        raise UpstreamUnreachable

    host.before = fail
    viewing = asyncio.ensure_future(updates(gateway, 0, 60))
    await asyncio.sleep(20)
    host.before = calm
    found = await viewing
    assert currents(found) == [5]
    assert found.index(Current(5)) > 1
    await gateway.aclose()


async def test_it_is_said_when_the_viewer_knows_how_the_run_is() -> None:
    _, hosted, gateway = opened(3)
    await gateway.view(caller(), "9", "1")  # a right that says that the run is at work
    hosted.status = "PAUSED"
    found = await updates(gateway, 0, 10)
    described = [update.run.raw_status for update in found[: found.index(Current(3))] if isinstance(update, Changed)]
    assert described == ["ACTIVE", "PAUSED"]
    hosted.status = "COMPLETE"
    await asyncio.sleep(20)
    assert currents(await updates(gateway, 0, 60)) == []  # the end says it all


async def test_a_description_says_when_the_host_was_asked_for_it() -> None:
    _, _, gateway = opened(3, status="COMPLETE")
    clock = asyncio.get_running_loop().time
    asked = clock()
    await gateway.view(caller(), "9", "1")
    await asyncio.sleep(10)
    first = (await updates(gateway, 0, 2))[0]
    assert (first.run.raw_status, first.seen) == ("COMPLETE", asked)
    looked = clock()
    again = (await updates(gateway, 0, 1))[0]  # the same follower has read since
    assert asked < again.seen < looked
    await gateway.resume(caller(), "9", "1", "go on", None)
    resumed = (await updates(gateway, 0, 1))[0]
    assert resumed.run.raw_status == "ACTIVE"
    assert resumed.seen >= looked
