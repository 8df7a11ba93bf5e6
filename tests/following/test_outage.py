"""After an outage the logs go on soon, however long it was, and a host that is down is left in peace until then."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from codegen_api.errors import (
    Forbidden,
    GatewayError,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.following import Patrol
from codegen_api.following.troubles import Outage
from tests.fakehost import FakeHost, caller, in_front_of, opened
from tests.following.strict import StrictHost
from tests.following.viewing import Viewer, watched
from tests.virtual import run

pytestmark = pytest.mark.virtual_time


class Down(StrictHost):
    """Fails between two moments, in a way."""

    def __init__(self, fault: Callable[[], GatewayError] | None, **more: Any) -> None:
        super().__init__(**more)
        self.down = (float("inf"), float("inf"))
        self.before = self._fail
        self._fault = fault
        self.during = 0

    async def _fail(self, operation: str) -> None:
        loop = asyncio.get_running_loop()
        if self.down[0] <= loop.time() < self.down[1]:
            self.during += 1
            if self._fault is not None:
                raise self._fault()
            await asyncio.sleep(30)  # nothing is said, also when the host is back: this connection is dead
            raise UpstreamTimeout


FAULTS = [UpstreamError, UpstreamUnreachable, UpstreamTimeout, None]


@pytest.mark.wire("fault-recovered")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("length", [15.0, 61.0, 300.0, 1234.0, 3000.0])
def test_a_log_goes_on_within_ten_seconds_of_the_host_s_return(
    fault: Callable[[], GatewayError] | None, length: float
) -> None:
    async def main() -> None:
        host = Down(fault)
        hosted = host.add(length=5)
        gateway = in_front_of(host, patrol=lambda: Patrol(max_age=10_000))
        viewer, watching = watched(gateway, until=length + 80)
        await asyncio.sleep(30)
        host.down = (30, 30 + length)
        hosted.append()
        await asyncio.sleep(length + 30)
        hosted.append()
        await watching
        assert viewer.arrivals[6] - (30 + length) <= (10 if fault or length > 60 else 30)
        assert viewer.notices[-1] == "recovered"

    run(main(), at_most=4000)


@pytest.mark.wire("fault-recovered")
@pytest.mark.parametrize("fault", FAULTS)
async def test_all_logs_go_on_soon_and_the_host_is_asked_by_one_for_all_until_then(
    fault: Callable[[], GatewayError] | None,
) -> None:
    host = Down(fault)
    for number in range(1, 13):
        host.add(str(number)).append(5)
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=10_000))
    viewers = {number: Viewer() for number in host.runs}
    watching = [asyncio.create_task(viewer.watch(gateway, run=number, until=760)) for number, viewer in viewers.items()]
    await asyncio.sleep(30)
    host.down = (30, 700)
    for hosted in host.runs.values():
        hosted.append()
    await asyncio.gather(*watching)
    late = sorted(viewer.arrivals[6] - 700 for viewer in viewers.values())
    assert late[0] <= 10
    assert late[-1] <= 60  # the limit of each minute is kept, of which the outage itself has used some
    # a question each five seconds, and each log's own now and then
    assert host.during <= 670 / 5 + 12 * 670 / 30 + 12 * 5
    assert not host.refused


@pytest.mark.wire("fault-notice")
@pytest.mark.parametrize("error", [UpstreamRateLimited, UpstreamError])
async def test_what_the_host_says_of_when_to_come_back_is_obeyed(error: type[GatewayError]) -> None:
    host, hosted, gateway = opened(5, patrol=lambda: Patrol(max_age=10_000))
    viewer, watching = watched(gateway, until=200)
    await asyncio.sleep(30)
    told: list[float] = []

    async def busy(operation: str) -> None:
        if not told:
            told.append(asyncio.get_running_loop().time())
            raise error(retry_after=70)

    host.before = busy
    hosted.append()
    await watching
    after = [moment - told[0] for moment, _, _ in host.log if moment > told[0]]
    assert 70 <= after[0] <= 90
    assert viewer.cursor == 6


@pytest.mark.wire("fault-notice")
async def test_a_log_that_alone_cannot_be_had_is_tried_at_its_own_pace_while_others_go_on() -> None:
    class Partly(FakeHost):
        async def read_log(self, *arguments: Any, **more: Any) -> Any:
            page = await super().read_log(*arguments, **more)
            if arguments[1].id == "1" and 50 <= asyncio.get_running_loop().time() < 650:
                tries.append(asyncio.get_running_loop().time())
                raise UpstreamError
            return page

    tries: list[float] = []
    host = Partly()
    for number in "12":
        host.add(number).append(5)
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=10_000))
    broken, other = Viewer(), Viewer()
    watching = [
        asyncio.create_task(viewer.watch(gateway, run=number, until=590))
        for viewer, number in ((broken, "1"), (other, "2"))
    ]
    for _ in range(100):
        await asyncio.sleep(5)
        host.runs["2"].append()
    await asyncio.gather(*watching)
    assert other.cursor == 105
    assert len(tries) < 600 / 5
    assert broken.notices.count("recovered") == 0


async def test_a_refusal_ends_the_wait_for_those_whom_it_concerns() -> None:
    host = Down(UpstreamUnreachable)
    host.add().append(5)
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=10_000))
    watching = asyncio.create_task(Viewer().watch(gateway))
    await asyncio.sleep(10)
    host.down = (10, 100)
    await asyncio.sleep(50)
    host.barred.add(("alice", "1"))
    with pytest.raises(Forbidden):
        await watching
    assert asyncio.get_running_loop().time() <= 110


async def test_nobody_asks_for_a_host_whose_viewers_have_all_left() -> None:
    host = Down(UpstreamUnreachable)
    host.add().append(5)
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=10_000))
    watching = asyncio.create_task(Viewer().watch(gateway, who=caller(), until=40))
    await asyncio.sleep(10)
    host.down = (10, 1000)
    await watching
    await asyncio.sleep(10)
    asked = host.during
    await asyncio.sleep(200)
    assert host.during == asked


async def test_who_waits_for_a_host_hears_what_is_wrong_with_the_question_and_of_the_first_answer_alone() -> None:
    outage = Outage()
    asked = 0

    async def broken() -> bool:
        raise RuntimeError

    async def never() -> bool:
        nonlocal asked
        asked += 1
        return False

    with pytest.raises(RuntimeError):
        await outage.over(broken)
    waiting = [asyncio.ensure_future(outage.over(never)) for _ in range(3)]
    await asyncio.sleep(30)
    assert asked in (5, 6)
    outage.answered()
    outage.answered()
    await asyncio.gather(*waiting)


@pytest.mark.wire("right-revoked")
async def test_whom_the_host_refuses_the_run_itself_has_to_go() -> None:
    host, hosted, gateway = opened(5)
    watching = asyncio.create_task(Viewer().watch(gateway))
    await asyncio.sleep(5)

    async def refuse(operation: str) -> None:
        if operation == "get":
            raise Forbidden

    host.before = refuse
    hosted.status = "PAUSED"
    with pytest.raises(Forbidden):
        await watching
