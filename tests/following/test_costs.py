"""What following a run costs, in counts: it must not grow with the number of the others, nor without being noticed."""

import asyncio
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from types import FrameType

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.following import ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.pace import READ_SHARE, SLOW, Cadence
from codegen_api.runs import LogEntry, LogPage, Paging, Run, RunRef, RunStatus
from tests.fakehost import FakeHost, in_front_of, opened
from tests.following.strict import StrictHost
from tests.following.viewing import Viewer

pytestmark = pytest.mark.virtual_time

EVERY = 1.25
MINUTE = 60.0


class Followed:
    """So many runs with a viewer each."""

    def __init__(self, runs: int) -> None:
        self.host = FakeHost()
        self.host.latency = 0
        self.gateway = Gateway(
            self.host, MemoryBroker(), turns=ReadQueue(limit=1_000_000), cadence=lambda: Cadence(fast=EVERY)
        )
        for number in range(runs):
            self.host.add(str(number))
        self.viewers = {number: Viewer() for number in self.host.runs}
        self.timers = 0

    async def __aenter__(self) -> "Followed":
        self.tasks_before = len(asyncio.all_tasks())
        self.watching = [
            asyncio.ensure_future(viewer.watch(self.gateway, run=number)) for number, viewer in self.viewers.items()
        ]
        await asyncio.sleep(MINUTE)
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self.watching:
            each.cancel()
        await asyncio.gather(*self.watching, return_exceptions=True)
        await self.gateway.aclose()

    async def work(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """For so long each run has news at each read; ``timers`` are those that were set."""
        loop = asyncio.get_running_loop()
        call_at = loop.call_at

        def counted(*given: object, **more: object) -> object:
            self.timers += 1
            return call_at(*given, **more)  # type: ignore[arg-type]

        self.host.calls.clear()
        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_at", counted)
            until = loop.time() + seconds
            while loop.time() < until:
                for hosted in self.host.runs.values():
                    hosted.append()
                await asyncio.sleep(EVERY / 2)


async def test_a_followed_run_costs_four_tasks_and_each_read_one_call_and_two_timers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks, timers, all_reads = {}, {}, {}
    for runs in (2, 8):
        async with Followed(runs) as followed:
            tasks[runs] = len(asyncio.all_tasks()) - followed.tasks_before
            await followed.work(MINUTE, monkeypatch)
            reads = followed.host.calls["log"]
            assert reads in range(int(runs * MINUTE / EVERY) - runs, int(runs * MINUTE / EVERY) + runs + 1)
            # whoever reads is shown to the host by that, so nothing else is asked
            assert set(followed.host.calls) == {"log"}
            timers[runs], all_reads[runs] = followed.timers, reads
            assert all(viewer.cursor >= reads // runs - 1 for viewer in followed.viewers.values())
    # one until the next read, and one for the viewer's next heartbeat after something was sent
    assert timers[8] - timers[2] <= 2.1 * (all_reads[8] - all_reads[2])
    # the follower, who renews rights, and of the viewer the one here and the one that waits for the log
    assert tasks[8] - tasks[2] <= 6 * 4


class Counted:
    """How many functions were called in a block, and how many bytes it needed at most."""

    def __init__(self) -> None:
        self.calls = 0

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        self.calls += event in ("call", "c_call")

    async def during(self, act: Callable[[], Awaitable[object]]) -> "Counted":
        tracemalloc.start()
        sys.setprofile(self._called)
        try:
            await act()
        finally:
            sys.setprofile(None)
            _, self.peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return self


async def publication(runs: int, *, viewed: bool, short: bool) -> Counted:
    """What it costs to publish an entry of one run beside so many others. ``short``: for each something has to go."""
    broker = MemoryBroker()

    async def read(number: int) -> tuple[LogEntry, ...]:
        raise AssertionError(number)

    def page(run: int, after: int) -> LogPage:
        ref = RunRef("9", str(run))
        entry = LogEntry(b'"%d"' % after + b" " * 500, None, open=False, amendable=False)
        return LogPage(
            Run(ref, RunStatus.RUNNING, "ACTIVE", {}), after, (entry,), False, Paging(None, None, None, None)
        )

    views = [broker.subscribe(RunRef("9", str(run)), 0, None, read) for run in range(runs if viewed else 1)]
    for run in range(runs):
        await broker.publish(page(run, 0))
    for view in views:
        await anext(view)
    for after in (1, 2, 3):  # whatever grows now and then has grown
        await broker.publish(page(0, after))
    if short:
        broker._shelf.max_bytes = broker.held_bytes
    try:
        return await Counted().during(lambda: broker.publish(page(0, 4)))
    finally:
        for view in views:
            await view.aclose()


@pytest.mark.parametrize("viewed", [True, False])
@pytest.mark.parametrize("short", [False, True], ids=["with room", "without room"])
async def test_a_publication_costs_the_same_beside_however_many_other_runs(viewed: bool, short: bool) -> None:
    few, many = [await publication(runs, viewed=viewed, short=short) for runs in (10, 1000)]
    assert abs(many.calls - few.calls) <= 5
    assert many.peak <= few.peak + 4096


@pytest.mark.parametrize(("limit", "runs", "each"), [(60, 1, 6), (480, 1, 40), (480, 10, 23)])
async def test_a_quiet_run_is_read_often_only_where_the_budget_has_room(limit: int, runs: int, each: int) -> None:
    host = StrictHost(limit=limit)
    gateway = in_front_of(host, turns=ReadQueue(limit=limit), cadence=lambda: Cadence(fast=60 / (limit * READ_SHARE)))
    for number in range(runs):
        host.add(str(number)).append(5)
    watching = [asyncio.ensure_future(Viewer().watch(gateway, run=number, until=4 * MINUTE)) for number in host.runs]
    await asyncio.gather(*watching)
    reads = [sum(2 * MINUTE < moment <= 4 * MINUTE for moment in host.reads[number]) / 2 for number in host.runs]
    assert reads == pytest.approx([each] * runs, rel=0.15)
    assert not host.refused


async def test_the_first_entry_after_a_quiet_time_is_a_second_late_at_most_where_the_budget_has_room() -> None:
    host, hosted, gateway = opened(turns=ReadQueue(limit=60_000), cadence=lambda: Cadence(fast=0.1))
    viewer, loop = Viewer(), asyncio.get_running_loop()
    watching = asyncio.ensure_future(viewer.watch(gateway, until=3 * MINUTE))
    for pause in (29.3, 31.9, 17.2):
        await asyncio.sleep(pause)
        hosted.append()
        appeared = loop.time()
        await asyncio.sleep(SLOW)
        assert viewer.arrivals[len(hosted.entries)] - appeared <= 1.0 + 2 * host.latency
    await watching
