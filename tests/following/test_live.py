import asyncio
from dataclasses import replace

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import Forbidden, UpstreamError, UpstreamRateLimited, UpstreamTimeout
from codegen_api.gateway import Gateway
from codegen_api.runs import LogPage, Run
from tests.fakehost import FakeHost, Sequence, caller, in_front_of, opened
from tests.following.viewing import Viewer, shown, watched

pytestmark = pytest.mark.virtual_time


async def test_a_finished_run_is_given_whole_and_then_ends_at_the_price_of_three_requests() -> None:
    host, hosted, gateway = opened(30, status="COMPLETE", result="42")
    viewer = await shown(gateway)
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [30]
    assert viewer.statuses == ["COMPLETE"]
    assert host.calls == {"get": 1, "log": 2}  # the second shows that nothing follows, whatever the host counts


async def test_entries_arrive_within_one_poll_and_the_end_comes_after_the_last_of_them() -> None:
    _, hosted, gateway = opened()
    viewer, watching = watched(gateway)
    loop = asyncio.get_running_loop()
    written = []
    for _ in range(20):
        await asyncio.sleep(1)
        hosted.append()
        written.append(loop.time())
    hosted.complete(250)
    await watching
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [270]
    assert viewer.statuses == ["ACTIVE", "COMPLETE"]
    assert all(viewer.arrivals[n] - at <= 1.25 * 1.5 + 0.2 for n, at in enumerate(written, 1))


async def test_a_viewer_hears_that_what_was_one_is_true() -> None:
    host = FakeHost()
    hosted = host.add(result=1)
    gateway = Gateway(host, MemoryBroker())
    viewer = Viewer()
    watching = asyncio.create_task(viewer.watch(gateway, until=60))
    await asyncio.sleep(10)
    hosted.result = True  # type: ignore[assignment]
    await watching
    assert viewer.statuses == ["ACTIVE", "ACTIVE"]
    assert isinstance(viewer.last_run, Run)
    assert viewer.last_run.fields["result"] is True
    await gateway.aclose()


@pytest.mark.parametrize("with_totals", [True, False])
@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 250, 1000, 1050])
@pytest.mark.parametrize("cursor", [0, 1, 20, 99, 100, 250, 1049])
async def test_any_position_in_any_finished_log_gets_what_is_behind_it(
    length: int, cursor: int, with_totals: bool
) -> None:
    host = FakeHost(with_totals=with_totals)
    hosted = host.add(status="COMPLETE")
    hosted.append(length)
    gateway = in_front_of(host)
    viewer = Viewer(cursor=cursor)
    await viewer.watch(gateway)
    assert [viewer.log[n].decode() for n in sorted(viewer.log)] == hosted.encoded()[cursor:]
    assert [resync.length for resync in viewer.resyncs] == ([length] if cursor > length else [])
    assert viewer.ends == [length]


async def test_an_output_that_comes_later_amends_the_entry_for_everybody() -> None:
    host = FakeHost()
    hosted = host.add(length=3)
    position = hosted.act()
    gateway = in_front_of(host)
    early, late = Viewer(), Viewer()
    watching = [asyncio.create_task(early.watch(gateway))]
    await asyncio.sleep(3)
    hosted.append(5)
    await asyncio.sleep(3)
    hosted.amend(position, output="done")
    await asyncio.sleep(3)
    watching.append(asyncio.create_task(late.watch(gateway)))
    hosted.complete(2)
    await asyncio.gather(*watching)
    assert early.texts() == late.texts() == hosted.encoded()
    assert early.amended == [position]
    assert late.amended == []


async def test_a_viewer_who_was_away_hears_of_the_amendments_in_between() -> None:
    host = FakeHost()
    hosted = host.add()
    position = hosted.act()
    gateway = in_front_of(host)
    viewer = await shown(gateway, until=2)
    hosted.append(10)
    hosted.amend(position, output="done")
    await asyncio.sleep(60)  # the follower has gone, and nobody saw it change
    hosted.status = "COMPLETE"
    await viewer.watch(gateway)
    assert viewer.texts() == hosted.encoded()


async def test_a_late_change_of_an_old_entry_is_seen_at_the_end() -> None:
    _, hosted, gateway = opened(150)
    viewer, watching = watched(gateway)
    await asyncio.sleep(5)
    hosted.amend(60, note="late")
    hosted.status = "COMPLETE"
    await watching
    assert viewer.texts() == hosted.encoded()
    assert viewer.amended == [60]


async def test_many_viewers_cost_one_reader() -> None:
    prices = []
    for count in (1, 50):
        host = FakeHost()
        hosted = host.add()
        gateway = Gateway(host, MemoryBroker())
        viewers = [Viewer() for _ in range(count)]
        watching = [asyncio.create_task(viewer.watch(gateway)) for viewer in viewers]
        for _ in range(30):
            await asyncio.sleep(1)
            hosted.append(3)
        hosted.status = "COMPLETE"
        await asyncio.gather(*watching)
        assert all(viewer.texts() == hosted.encoded() for viewer in viewers)
        prices.append(host.calls.total())
        await gateway.aclose()
    assert prices[0] == prices[1]


async def test_a_run_resumed_here_streams_on_for_those_who_come_back() -> None:
    _, hosted, gateway = opened(10, status="COMPLETE")
    old, new = Viewer(), Viewer()
    await old.watch(gateway)
    assert not await old.watch(gateway, over=True)
    await gateway.resume(caller(), "9", "1", "go on", None)
    watching = [asyncio.create_task(old.watch(gateway, over=True)), asyncio.create_task(new.watch(gateway))]
    await asyncio.sleep(5)
    hosted.complete(4)
    await asyncio.gather(*watching)
    assert old.texts() == new.texts() == hosted.encoded()
    assert old.ends == [10, 15]
    assert new.ends == [15]


async def test_a_status_that_lags_behind_a_resume_is_not_taken_for_the_end() -> None:
    _, hosted, gateway = opened(10, status="COMPLETE")
    viewer = await shown(gateway)
    await gateway.resume(caller(), "9", "1", "go on", None)
    hosted.status = "COMPLETE"  # still, for the eyes of readers
    watching = asyncio.create_task(viewer.watch(gateway, over=True))
    await asyncio.sleep(4)
    hosted.status = "ACTIVE"
    await asyncio.sleep(4)
    hosted.append(2)
    await asyncio.sleep(4)
    hosted.status = "COMPLETE"
    await watching
    assert viewer.ends == [10, 13]
    assert viewer.texts() == hosted.encoded()


async def test_a_run_that_rested_is_looked_at_often_after_its_resume_whatever_the_host_still_says() -> None:
    _, hosted, gateway = opened(10, status="PAUSED")
    viewer, watching = watched(gateway)
    await asyncio.sleep(60)
    await gateway.resume(caller(), "9", "1", "go on", None)
    hosted.status = "PAUSED"  # still, for the eyes of readers
    await asyncio.sleep(1.5)
    hosted.status = "ACTIVE"
    hosted.append()
    written = asyncio.get_running_loop().time()
    await asyncio.sleep(10)
    hosted.status = "COMPLETE"
    await watching
    assert viewer.ends == [12]
    assert viewer.arrivals[12] - written < 3


async def test_a_run_resumed_elsewhere_is_noticed_although_its_end_is_still_in_memory() -> None:
    _, hosted, gateway = opened(10, status="COMPLETE")
    viewer = await shown(gateway)
    await asyncio.sleep(6)
    hosted.append(3)
    hosted.status = "ACTIVE"
    watching = asyncio.create_task(viewer.watch(gateway, over=True))
    await asyncio.sleep(10)
    hosted.status = "COMPLETE"
    await watching
    assert viewer.ends == [10, 13]


@pytest.mark.parametrize("error", [UpstreamError(), UpstreamTimeout(), UpstreamRateLimited(retry_after=7)])
async def test_a_fault_in_the_middle_is_told_and_loses_nothing(error: Exception) -> None:
    host, hosted, gateway = opened(5)
    viewer, watching = watched(gateway)
    await asyncio.sleep(5)
    host.before = Sequence("log", error, error)  # type: ignore[arg-type]
    hosted.append(5)
    await asyncio.sleep(60)
    hosted.status = "COMPLETE"
    await watching
    assert viewer.texts() == hosted.encoded()
    limited = isinstance(error, UpstreamRateLimited)
    assert viewer.notices == ["rate_limited" if limited else "upstream_unavailable"] * 2 + ["recovered"]


async def test_who_loses_the_right_has_to_go_and_the_others_stay() -> None:
    host, hosted, gateway = opened(5)
    alice, bob = Viewer(), Viewer()
    stays = asyncio.create_task(bob.watch(gateway, who=caller("bob")))
    goes = asyncio.create_task(alice.watch(gateway, who=caller("alice")))
    await asyncio.sleep(5)
    host.barred.add(("alice", "1"))
    with pytest.raises(Forbidden):
        await goes
    hosted.complete(5)
    await stays
    assert bob.texts() == hosted.encoded()


async def test_a_replaced_log_is_given_anew_from_its_start() -> None:
    _, hosted, gateway = opened(30)
    viewer, watching = watched(gateway)
    await asyncio.sleep(5)
    hosted.replace(12)
    await asyncio.sleep(60)
    hosted.complete(3)
    await watching
    assert [(resync.requested, resync.length, resync.cursor) for resync in viewer.resyncs] == [(30, 12, 0)]
    assert viewer.texts() == hosted.encoded()


async def test_old_pages_are_read_once_for_all_who_come_late() -> None:
    host, hosted, gateway = opened(5000)
    first = Viewer(cursor=4990)
    watching = [asyncio.create_task(first.watch(gateway))]
    await asyncio.sleep(5)
    before = host.calls["log"]
    late = [Viewer() for _ in range(20)]
    watching += [asyncio.create_task(viewer.watch(gateway)) for viewer in late]
    await asyncio.sleep(20)
    hosted.complete(3)
    await asyncio.gather(*watching)
    assert all(viewer.texts() == hosted.encoded() for viewer in late)
    assert host.calls["log"] - before < 49 + 20


async def test_the_last_viewer_s_leaving_stops_the_reader_after_a_while() -> None:
    host, _, gateway = opened(3)
    await Viewer().watch(gateway, until=3)
    calls = host.calls.total()
    assert gateway.viewers == 0
    await asyncio.sleep(30)
    assert host.calls.total() <= calls + 1
    assert gateway.runs_followed == 0


async def test_what_a_log_page_leaves_null_is_kept_from_the_run_itself() -> None:
    host = FakeHost()
    hosted = host.add(result="42", length=3)
    original = host.read_log

    async def without_result(*arguments: object, **more: object) -> LogPage:
        page = await original(*arguments, **more)  # type: ignore[arg-type]
        return replace(page, run=replace(page.run, fields={**page.run.fields, "result": None}))

    host.read_log = without_result  # type: ignore[method-assign]
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    await asyncio.sleep(3)
    hosted.status = "COMPLETE"
    await watching
    assert viewer.statuses == ["ACTIVE", "COMPLETE"]
    assert isinstance(viewer.last_run, Run)
    assert viewer.last_run.fields["result"] == "42"


async def test_one_token_that_must_wait_does_not_make_a_newcomer_with_another_wait() -> None:
    host, hosted, gateway = opened(3)
    alice, bob = Viewer(), Viewer()
    watching = [asyncio.create_task(alice.watch(gateway, until=60))]
    await asyncio.sleep(3)
    host.before = Sequence("log", UpstreamRateLimited(retry_after=40))
    await asyncio.sleep(10)
    hosted.append()
    watching.append(asyncio.create_task(bob.watch(gateway, who=caller("bob"), until=40)))
    came = asyncio.get_running_loop().time()
    await asyncio.gather(*watching)
    assert bob.arrivals[4] - came < 2


@pytest.mark.parametrize("over", [True, False])
async def test_a_resume_that_is_over_before_anybody_looks_ends_without_doubt(over: bool) -> None:
    _, hosted, gateway = opened(5, status="COMPLETE")
    viewer = await shown(gateway)
    await asyncio.sleep(6)  # the follower has gone, what it knew has not
    await gateway.resume(caller(), "9", "1", "go on", None)
    await asyncio.sleep(3)
    hosted.complete(3)
    await asyncio.sleep(4)
    came = asyncio.get_running_loop().time()
    await viewer.watch(gateway, over=over)
    assert viewer.ends == [5, 9]
    assert asyncio.get_running_loop().time() - came < 3
