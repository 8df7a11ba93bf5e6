"""What seldom happens while a run is followed."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.brokers import Batch
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import (
    Forbidden,
    GatewayError,
    ShuttingDown,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from codegen_api.following import Ended, Patrol, Position
from codegen_api.following.read_queue import ReadQueue
from codegen_api.following.readers import Readers
from codegen_api.following.rights import Rights
from codegen_api.following.troubles import Troubles
from codegen_api.gateway import Gateway
from codegen_api.identity import Credential
from codegen_api.pace import Need
from codegen_api.runs import Cursor, LogPage, Paging, Run, RunRef, RunStatus
from tests.fakehost import FakeHost, Sequence, caller, in_front_of, opened
from tests.following.viewing import Viewer, shown, watched
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

# -- leaving ----------------------------------------------------------------------------------------------------------


@pytest.mark.wire("drain-streams")
async def test_a_drain_sends_every_viewer_away_spread_over_its_time() -> None:
    _, _, gateway = opened(5)
    loop = asyncio.get_running_loop()
    left: list[float] = []

    async def visit(viewer: Viewer) -> None:
        await viewer.watch(gateway)
        left.append(loop.time())

    viewers = [Viewer() for _ in range(20)]
    visiting = [asyncio.create_task(visit(viewer)) for viewer in viewers]
    await asyncio.sleep(5)
    began = loop.time()
    await gateway.drain(10)
    assert loop.time() - began <= 8
    await asyncio.gather(*visiting)
    assert [viewer.left_at for viewer in viewers] == [5] * 20
    assert all(at - began <= 8 for at in left)
    assert max(left) - min(left) > 6


@pytest.mark.wire("drain-streams")
async def test_a_drain_does_not_wait_for_who_takes_nothing() -> None:
    _, _, gateway = opened(5)
    stream = await gateway.follow(caller(), "9", "1", Position(0))
    assert stream is not None
    began = asyncio.get_running_loop().time()
    await gateway.drain(10)
    assert asyncio.get_running_loop().time() - began == pytest.approx(10)
    await stream.aclose()
    with pytest.raises(ShuttingDown):
        await gateway.follow(caller(), "9", "1", Position(0))


async def test_who_is_asked_to_leave_in_the_middle_of_something_leaves() -> None:
    host, _, gateway = opened(5)
    host.latency = 20
    viewer, watching = watched(gateway)
    await asyncio.sleep(30)  # the first page is on its way
    await gateway.drain(1)
    await watching
    assert viewer.left_at == 0


async def test_closing_while_everybody_watches_leaves_nobody_waiting() -> None:
    host = FakeHost()
    host.add().append(5)
    gateway = Gateway(host, MemoryBroker())
    watching = [asyncio.create_task(Viewer().watch(gateway)) for _ in range(3)]
    await asyncio.sleep(5)
    await gateway.aclose()
    done, pending = await asyncio.wait(watching, timeout=700)
    assert not pending
    assert gateway.runs_followed == 0
    for task in done:
        task.exception()


# -- faults of our own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("secret"), GatewayError("Known.")])
def test_a_fault_of_the_reader_ends_the_streams_and_the_next_viewer_gets_another_reader(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        host, hosted, gateway = opened(5)
        viewers = [Viewer() for _ in range(3)]
        watching = [asyncio.create_task(viewer.watch(gateway)) for viewer in viewers]
        await asyncio.sleep(5)
        original = host.read_log
        broken = True

        async def read_log(*arguments: Any, **more: Any) -> LogPage:
            if broken:
                raise error if isinstance(error, RuntimeError) else RuntimeError
            return await original(*arguments, **more)

        host.read_log = read_log  # type: ignore[method-assign]
        outcomes = await asyncio.gather(*watching, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {GatewayError}
        assert "secret" not in str(outcomes)
        broken = False
        hosted.complete(5)
        for viewer in viewers:
            await viewer.watch(gateway)
            assert viewer.texts() == hosted.encoded()
            assert viewer.ends == [10]

    run(main())
    assert "secret" not in caplog.text


async def test_a_stream_of_a_reader_that_is_gone_ends_without_disturbing_the_next_one() -> None:
    host, hosted, gateway = opened(5)
    idle = await gateway.follow(caller(), "9", "1", Position(0))  # takes nothing meanwhile
    assert idle is not None
    original = host.read_log

    async def broken(*arguments: Any, **more: Any) -> LogPage:
        raise RuntimeError

    host.read_log = broken  # type: ignore[method-assign]
    await asyncio.sleep(5)
    host.read_log = original  # type: ignore[method-assign]
    viewer, watching = watched(gateway)
    await asyncio.sleep(2)
    await idle.aclose()
    await asyncio.sleep(20)
    assert gateway.runs_followed == 1
    hosted.complete(5)
    await watching
    assert viewer.texts() == hosted.encoded()


# -- the run itself ---------------------------------------------------------------------------------------------------


@pytest.mark.wire("end-complete", "stream-status", "fault-notice")
@pytest.mark.parametrize(
    "errors",
    [[UpstreamError()] * 3, [UpstreamTimeout()], [UpstreamRateLimited(retry_after=2)], [UpstreamTimeout()] * 4],
)
async def test_the_end_waits_until_the_host_has_described_the_whole_run(errors: list[GatewayError]) -> None:
    host, hosted, gateway = opened(5)
    viewer, watching = watched(gateway)
    await asyncio.sleep(5)
    host.before = Sequence("get", *errors)
    hosted.complete(2)
    await asyncio.sleep(0.5)
    hosted.append(1)
    await watching
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [8]
    assert isinstance(viewer.last_run, Run)
    assert viewer.last_run.fields["summary"] == "whole"


class Silent(FakeHost):
    """Its log pages do not say the status of the run, as long as ``silent``."""

    silent = True

    async def read_log(self, *arguments: Any, **more: Any) -> LogPage:
        page = await super().read_log(*arguments, **more)
        fields = {key: value for key, value in page.run.fields.items() if key != "status"}
        return replace(page, run=Run(page.run.ref, RunStatus.UNKNOWN, None, fields)) if self.silent else page


@pytest.mark.wire("stream-status", "end-complete")
async def test_a_status_that_log_pages_leave_out_is_asked_for_now_and_then() -> None:
    host = Silent()
    hosted = host.add(length=5)
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    await asyncio.sleep(30)
    hosted.complete(2)
    await asyncio.sleep(60)
    assert watching.done()
    await watching
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [7]
    assert isinstance(viewer.last_run, Run)
    assert viewer.last_run.status is RunStatus.COMPLETED
    assert host.calls["get"] <= 12


@pytest.mark.wire("resumed-streams-on")
async def test_a_resume_that_is_answered_with_the_old_status_is_a_resume_all_the_same() -> None:
    host = FakeHost()
    hosted = host.add(status="COMPLETE", length=5)
    original = host.resume_run

    async def resume_run(*arguments: Any, **more: Any) -> Run:
        answered = await original(*arguments)
        return replace(answered, status=RunStatus.COMPLETED, raw_status="COMPLETE")

    host.resume_run = resume_run  # type: ignore[method-assign]
    gateway = in_front_of(host)
    viewer = await shown(gateway)
    await gateway.resume(caller(), "9", "1", "Go on", None)
    watching = asyncio.create_task(viewer.watch(gateway, over=True))
    await asyncio.sleep(10)
    hosted.complete(3)
    await watching
    assert viewer.ends == [5, 9]


# -- the log ----------------------------------------------------------------------------------------------------------


class Miscounting(FakeHost):
    """Says that its logs are longer, or shorter, than they are."""

    def __init__(self, wrong: Callable[[int], int]) -> None:
        super().__init__()
        self._wrong = wrong

    async def read_log(self, *arguments: Any, **more: Any) -> LogPage:
        page = await super().read_log(*arguments, **more)
        total = page.paging.total
        assert total is not None
        return replace(page, paging=Paging(self._wrong(total), None, None, None))


@pytest.mark.wire("stream-same-for-all", "end-complete")
@pytest.mark.parametrize("wrong", [lambda n: n + 5000, lambda n: n // 2, lambda _: 0, lambda n: n + 1])
@pytest.mark.parametrize("cursor", [0, 250, 900])
async def test_a_length_that_is_wrong_costs_nobody_an_entry(wrong: Callable[[int], int], cursor: int) -> None:
    host = Miscounting(wrong)
    hosted = host.add(status="COMPLETE", length=730)
    gateway = in_front_of(host)
    viewer = Viewer(cursor=cursor)
    await viewer.watch(gateway)
    assert [viewer.log[n].decode() for n in sorted(viewer.log)] == hosted.encoded()[cursor:]
    assert viewer.ends == [730]


@pytest.mark.wire("log-replaced")
@pytest.mark.parametrize("length", [0, 50, 3000])
async def test_a_log_that_is_replaced_while_a_viewer_reads_its_past_is_given_anew(length: int) -> None:
    host, hosted, gateway = opened(broker=MemoryBroker(max_bytes=60000))
    hosted.append(2000, text="x" * 200)
    host.latency = 0.5
    early, late = Viewer(), Viewer()
    watching = [asyncio.create_task(early.watch(gateway))]
    await asyncio.sleep(30)
    watching.append(asyncio.create_task(late.watch(gateway)))
    await asyncio.sleep(4)
    hosted.replace(length)
    await asyncio.sleep(120)
    hosted.complete(3)
    await asyncio.gather(*watching)
    for viewer in (early, late):
        assert viewer.texts() == hosted.encoded()
        assert viewer.ends == [length + 3]
        assert [resync.cursor for resync in viewer.resyncs] == [0]


@pytest.mark.wire("stream-same-for-all")
async def test_a_past_that_the_host_does_not_show_for_a_while_is_waited_for() -> None:
    host, hosted, gateway = opened(broker=MemoryBroker(max_bytes=30000))
    hosted.append(1000, text="x" * 200)
    first = Viewer()
    watching = [asyncio.create_task(first.watch(gateway, until=30))]
    await asyncio.gather(*watching)
    original, hidden = host.read_log, 3

    async def read_log(credential: Any, ref: Any, after: int, limit: int, **more: Any) -> LogPage:
        nonlocal hidden
        page = await original(credential, ref, after, limit, **more)
        if after < 700 and hidden:
            hidden -= 1
            return replace(page, entries=())
        return page

    host.read_log = read_log  # type: ignore[method-assign]
    for cursor in (0, 410):
        hidden = 3
        viewer = Viewer(cursor=cursor)
        hosted.status = "COMPLETE"
        await viewer.watch(gateway)
        assert [viewer.log[n].decode() for n in sorted(viewer.log) if n > cursor] == hosted.encoded()[cursor:]


async def test_when_rights_can_be_renewed_no_more_nobody_goes_on_viewing() -> None:
    class Odd(FakeHost):
        async def get_run(self, credential: Credential, ref: RunRef) -> Run:
            if asyncio.get_running_loop().time() > 10:
                raise RuntimeError("not in the contract")
            return await super().get_run(credential, ref)

    host = Odd()
    host.add().append(3)
    gateway = in_front_of(host, turns=ReadQueue(limit=6))
    watching = [asyncio.create_task(Viewer().watch(gateway, who=caller(name))) for name in ("alice", "bob")]
    # alice is asked for much else, so that only bob's token is read with
    for _ in range(100):
        await asyncio.sleep(1)
        await gateway.accounts.identify(caller("alice").credential)
    results = await asyncio.gather(*watching, return_exceptions=True)
    assert [type(result) for result in results] == [GatewayError, GatewayError]


async def test_an_old_page_that_was_asked_for_before_an_amendment_is_not_given_to_who_came_after_it() -> None:
    class Slow(FakeHost):
        slow = 0.0

        async def read_log(
            self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
        ) -> LogPage:
            page = await super().read_log(credential, ref, after, limit, newest_first=newest_first)
            if after == 0:
                await asyncio.sleep(self.slow)  # what was true when it was asked comes late
            return page

    host = Slow()
    hosted = host.add()
    hosted.append(92, text="x" * 600)
    acted = hosted.act()
    hosted.append(13, text="x" * 6000)
    gateway = in_front_of(host, MemoryBroker(max_bytes=60000))
    near_the_tail, first, second = Viewer(cursor=106), Viewer(), Viewer()
    watching = [asyncio.create_task(near_the_tail.watch(gateway))]
    await asyncio.sleep(5)
    host.slow = 20.0
    watching.append(asyncio.create_task(first.watch(gateway)))
    await asyncio.sleep(5)
    hosted.amend(acted, output="done")
    await asyncio.sleep(12)
    watching.append(asyncio.create_task(second.watch(gateway)))
    await asyncio.sleep(60)
    host.slow = 0.0
    for _ in range(3):  # beyond what is looked at again at the end
        hosted.append(90)
        await asyncio.sleep(30)
    hosted.status = "COMPLETE"
    await asyncio.gather(*watching)
    assert first.texts() == second.texts() == hosted.encoded()


async def test_viewers_who_read_again_at_the_same_place_are_given_the_same_objects() -> None:
    host = FakeHost()
    host.add("1", status="COMPLETE").append(1000, text="x" * 1000)
    gateway = in_front_of(host, MemoryBroker(max_bytes=60000))
    await Viewer().watch(gateway)  # so that all of it is old
    streams = [await gateway.follow(caller(), "9", "1", Position(0)) for _ in range(5)]
    while True:
        given = [await anext(stream) for stream in streams if stream is not None]
        if isinstance(given[0], Ended):
            break
        if isinstance(given[0], Batch):
            assert all(batch is given[0] for batch in given)
    assert given[0].length == 1000
    for stream in streams:
        assert stream is not None
        await stream.aclose()


async def test_old_pages_of_a_replaced_log_are_not_shown_to_the_viewers_of_the_next() -> None:
    _, hosted, gateway = opened(broker=MemoryBroker(max_bytes=60000))
    hosted.append(2000, text="x" * 200)
    first, second = Viewer(), Viewer()
    await first.watch(gateway, until=30)
    watching = asyncio.create_task(second.watch(gateway))
    await asyncio.sleep(10)
    hosted.replace(2100)
    await asyncio.sleep(60)
    hosted.status = "COMPLETE"
    await watching
    third = await shown(gateway)
    assert second.texts() == third.texts() == hosted.encoded()


@pytest.mark.wire("log-replaced")
async def test_who_waits_for_a_position_that_is_ahead_hears_that_the_log_is_another_one_by_now() -> None:
    _, hosted, gateway = opened(10)
    first, ahead = Viewer(), Viewer(cursor=15)
    watching = [asyncio.create_task(first.watch(gateway))]
    await asyncio.sleep(20)
    hosted.replace(20)
    watching.append(asyncio.create_task(ahead.watch(gateway)))
    await asyncio.sleep(60)
    hosted.status = "COMPLETE"
    await asyncio.gather(*watching)
    assert [(resync.requested, resync.cursor) for resync in ahead.resyncs] == [(15, 0)]
    assert first.texts() == ahead.texts() == hosted.encoded()


# -- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.wire("right-revoked")
async def test_a_refusal_that_comes_after_its_viewer_has_left_concerns_nobody() -> None:
    host, hosted, gateway = opened(5)
    stays, staying = watched(gateway, who=caller("bob"))
    await asyncio.sleep(2)
    host.latency = 3
    going = asyncio.create_task(Viewer().watch(gateway, who=caller("alice")))
    await asyncio.sleep(7)
    host.barred.add(("alice", "1"))
    going.cancel()
    await asyncio.wait([going])
    await asyncio.sleep(120)
    hosted.complete(5)
    await staying
    assert stays.texts() == hosted.encoded()
    with pytest.raises(Forbidden):
        await Viewer().watch(gateway, who=caller("alice"))


@pytest.mark.wire("right-revoked")
async def test_who_was_refused_and_let_in_again_may_view_again() -> None:
    host, hosted, gateway = opened(5)
    watching = asyncio.create_task(Viewer().watch(gateway))
    await asyncio.sleep(3)
    host.barred.add(("alice", "1"))
    with pytest.raises(Forbidden):
        await watching
    host.barred.clear()
    hosted.status = "COMPLETE"
    viewer = await shown(gateway)
    assert viewer.texts() == hosted.encoded()


async def test_a_stream_that_ends_by_age_while_the_host_is_silent_leaves_in_time() -> None:
    host, _, gateway = opened(5, patrol=lambda: Patrol(max_age=50))
    viewer, watching = watched(gateway)
    await asyncio.sleep(3)
    host.latency = 1000
    await watching
    assert asyncio.get_running_loop().time() == pytest.approx(50, abs=1)
    assert viewer.left_at == 5


# -- readers ----------------------------------------------------------------------------------------------------------


async def _allowed(*_: Any) -> Run:
    return Run(RunRef("9", "1"), RunStatus.RUNNING, "ACTIVE", {})


def _nobody() -> None:
    """Hears nothing."""


async def test_readers_who_are_told_to_close_ask_nobody_any_more() -> None:
    readers = Readers(RunRef("9", "1"), Rights(_allowed), ReadQueue(), Troubles(), _allowed)
    waiting = asyncio.create_task(readers.ask(_allowed, Need(0, 1)))
    await asyncio.sleep(100)
    assert not waiting.done()
    readers.close()
    with pytest.raises(ShuttingDown):
        await waiting


async def test_a_refusal_of_somebody_who_has_left_is_not_remembered() -> None:
    rights = Rights(_allowed)
    readers = Readers(RunRef("9", "1"), rights, ReadQueue(), Troubles(), _allowed)
    alice, bob = caller("alice").credential, caller("bob").credential
    readers.join(alice, (await rights.require(alice, RunRef("9", "1"))).confirmed, _nobody)

    async def refuse(credential: Any) -> str:
        await asyncio.sleep(1)
        if credential == alice:
            raise Forbidden
        return "shown"

    asking = asyncio.create_task(readers.ask(refuse, Need(0, 1)))
    await asyncio.sleep(0.5)
    readers.leave(alice, _nobody)
    readers.join(bob, (await rights.require(bob, RunRef("9", "1"))).confirmed, _nobody)
    assert await asking == "shown"
    assert readers.refusal(alice) is None


# -- what is held ----------------------------------------------------------------------------------------------------


async def test_a_window_that_an_earlier_reader_left_without_a_description_is_taken_up() -> None:
    host = FakeHost()
    hosted = host.add(status="COMPLETE", length=120)
    broker = MemoryBroker()
    gateway = in_front_of(host, broker)
    await broker.publish(await host.read_log(caller().credential, hosted.ref, 0, 60))
    viewer = await shown(gateway)
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [120]


@pytest.mark.wire("position-amendments")
async def test_entries_before_the_position_are_looked_at_whatever_their_size() -> None:
    host = FakeHost()
    hosted = host.add()
    hosted.append(30, text="x" * 20_000)
    for _ in range(15):
        hosted.act()
    gateway = in_front_of(host)
    viewer = await shown(gateway, until=3)
    for position in range(31, 46):
        hosted.amend(position, output="y" * 20_000)
    hosted.status = "COMPLETE"
    await viewer.watch(gateway)
    assert viewer.texts() == hosted.encoded()
    assert set(viewer.amended) >= set(range(31, 46))


@pytest.mark.wire("log-replaced")
@pytest.mark.parametrize("cursor", [100, 1000, 1990])
@pytest.mark.parametrize("away", [0.2, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
async def test_a_log_may_be_replaced_at_any_moment_of_a_viewer_s_coming(cursor: int, away: float) -> None:
    host, hosted, gateway = opened(broker=MemoryBroker(max_bytes=30000))
    hosted.append(2000, text="x" * 200)
    host.latency = 0.7
    first, second = Viewer(cursor=1990), Viewer(cursor=cursor)
    watching = [asyncio.create_task(first.watch(gateway))]
    await asyncio.sleep(20)
    hosted.replace(150)
    await asyncio.sleep(away)
    watching.append(asyncio.create_task(second.watch(gateway)))
    await asyncio.sleep(60)
    hosted.complete(3)
    await asyncio.gather(*watching)
    for viewer in (first, second):
        assert viewer.ends == [153]
        # who comes when another log is there already may have copies from before, which nobody can know
        since = viewer.resyncs[-1].cursor if viewer.resyncs else cursor
        assert sorted(viewer.log) == list(range(since + 1, 154))
        assert all(text.decode() == hosted.encoded()[n - 1] for n, text in viewer.log.items())


# -- resumes ----------------------------------------------------------------------------------------------------------


@pytest.mark.wire("resume-doubt", "resumed-streams-on")
async def test_a_resume_is_remembered_for_a_reader_that_does_not_exist_yet() -> None:
    _, hosted, gateway = opened(10, status="COMPLETE")
    viewer = await shown(gateway)
    await asyncio.sleep(60)
    assert gateway.runs_followed == 0
    await gateway.resume(caller(), "9", "1", "Go on", None)
    hosted.status = "COMPLETE"  # still, for the eyes of readers
    watching = asyncio.create_task(viewer.watch(gateway, over=True))
    await asyncio.sleep(5)
    assert not watching.done()
    hosted.status = "ACTIVE"
    await asyncio.sleep(5)
    hosted.complete(2)
    await watching
    assert viewer.ends == [10, 13]


@pytest.mark.wire("resume-doubt")
@pytest.mark.parametrize("comes", ["before the cancel", "after the cancel"])
async def test_a_run_that_is_cancelled_soon_after_a_resume_is_over_at_once(comes: str) -> None:
    _, hosted, gateway = opened(10, status="COMPLETE")
    await gateway.resume(caller(), "9", "1", "Go on", None)
    viewer = Viewer()
    if comes == "before the cancel":
        watching = asyncio.create_task(viewer.watch(gateway))
        await asyncio.sleep(2)
    await gateway.cancel(caller(), "9", "1")
    hosted.status = "COMPLETE"  # a stale answer, which is still not believed
    if comes == "after the cancel":
        watching = asyncio.create_task(viewer.watch(gateway))
    await asyncio.sleep(5)
    assert not watching.done()
    hosted.status = "CANCELLED"
    async with asyncio.timeout(5):
        await watching
    assert viewer.ends == [11]


@pytest.mark.wire("resume-doubt", "resumed-streams-on")
@pytest.mark.parametrize("slow", ["log", "get"])
async def test_an_answer_that_was_on_its_way_during_a_resume_says_nothing_of_the_status(slow: str) -> None:
    host, hosted, gateway = opened(10)
    viewer, watching = watched(gateway)
    await asyncio.sleep(5)
    original = {"log": host.read_log, "get": host.get_run}[slow]
    asked = asyncio.Event()

    async def late(*arguments: Any, **more: Any) -> Any:
        answer = await original(*arguments, **more)  # type: ignore[operator]
        if not asked.is_set():
            asked.set()
            await asyncio.sleep(3)
        return answer

    setattr(host, "read_log" if slow == "log" else "get_run", late)
    hosted.status = "COMPLETE"
    await asked.wait()
    await gateway.resume(caller(), "9", "1", "Go on", None)
    await asyncio.sleep(20)
    assert not watching.done()
    hosted.complete(3)
    await watching
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [14]
