"""Hosts differ in what they say of a log: ids or times or neither, revisions, news as it happens."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.following import ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.identity import Credential
from codegen_api.pace import Cadence
from codegen_api.runs import Cursor, LogPage, RunRef
from tests.fakehost import FakeHost, TellingHost, caller, in_front_of
from tests.following.viewing import Viewer, shown

pytestmark = pytest.mark.virtual_time


def a_gateway(host: FakeHost) -> Gateway:
    return in_front_of(host, linger=60, turns=ReadQueue(limit=100000))


async def watched(host: FakeHost) -> tuple[Gateway, Viewer, asyncio.Future[bool]]:
    """A gateway, and somebody who has been watching the run there for a while."""
    gateway, viewer = a_gateway(host), Viewer()
    watching = asyncio.ensure_future(viewer.watch(gateway))
    await asyncio.sleep(30)
    return gateway, viewer, watching


async def test_an_entry_that_changes_after_the_end_is_shown_to_who_comes_then() -> None:
    host = FakeHost()
    host.with_revisions, host.with_times = True, False
    hosted = host.add(status="COMPLETE", length=150)
    gateway = a_gateway(host)
    first = await shown(gateway)
    assert first.ends == [150]
    hosted.amend(3, text="another")
    await asyncio.sleep(10)  # the end that was seen is believed for a while
    again, new = Viewer(), Viewer()
    again.log, again.cursor, again.position = dict(first.log), first.cursor, first.position
    await again.watch(gateway)
    await new.watch(gateway)
    assert again.texts() == new.texts() == hosted.encoded()
    assert again.ends == new.ends == [150]


async def test_without_revisions_it_is_not_looked_for() -> None:
    host = FakeHost()
    host.add(status="COMPLETE", length=150)
    gateway = a_gateway(host)
    await Viewer().watch(gateway)
    reads = host.calls["log"]
    await asyncio.sleep(10)
    await Viewer().watch(gateway)
    assert host.calls["log"] - reads <= 2


@pytest.mark.parametrize("position", [3, 99, 150])
async def test_an_entry_that_changes_far_from_the_end_is_told_to_who_watches(position: int) -> None:
    host = FakeHost()
    host.with_revisions = True
    hosted = host.add(length=150)
    _, viewer, watching = await watched(host)
    hosted.amend(position, text="another")
    await asyncio.sleep(30)
    assert viewer.amended == [position]
    assert viewer.texts() == hosted.encoded()
    reads = host.calls["log"]
    await asyncio.sleep(100)
    assert host.calls["log"] - reads <= 12, "what has been compared is not compared again"
    hosted.status = "COMPLETE"
    await watching
    assert viewer.amended == [position]


@pytest.mark.parametrize("longer", [0, 20])
async def test_a_log_without_times_is_known_to_be_another_by_its_ids(longer: int) -> None:
    host = FakeHost()
    host.with_ids, host.with_times = True, False
    hosted = host.add(length=30)
    _, viewer, watching = await watched(host)
    hosted.replace(30 + longer)
    await asyncio.sleep(60)
    hosted.status = "COMPLETE"
    await watching
    assert [each.cursor for each in viewer.resyncs] == [0]
    assert viewer.texts() == hosted.encoded()


async def test_an_entry_that_keeps_its_id_is_the_same_whatever_its_time() -> None:
    host = FakeHost()
    host.with_ids = True
    hosted = host.add(length=30)
    _, viewer, watching = await watched(host)
    hosted.amend(30, created_at="later")
    await asyncio.sleep(30)
    hosted.status = "COMPLETE"
    await watching
    assert (viewer.resyncs, viewer.amended) == ([], [30])
    assert viewer.texts() == hosted.encoded()


def a_quick_gateway(host: FakeHost) -> Gateway:
    cadence = lambda: Cadence(fast=0.25, slow=0.5, resting=1)  # noqa: E731
    return in_front_of(host, turns=ReadQueue(limit=1000000), cadence=cadence)


async def test_a_host_that_tells_of_news_is_read_at_once_and_seldom_otherwise() -> None:
    host = TellingHost()
    hosted = host.add()
    hosted.append()
    gateway = a_quick_gateway(host)
    viewers = [Viewer() for _ in range(20)]
    watching = [asyncio.ensure_future(viewer.watch(gateway)) for viewer in viewers]
    await asyncio.sleep(60)
    reads = host.calls["log"]
    await asyncio.sleep(60)
    assert host.calls["log"] - reads <= 13
    hosted.append()
    came = asyncio.get_running_loop().time()
    await asyncio.sleep(1)
    assert all(viewer.arrivals[2] - came < 0.5 for viewer in viewers)
    assert host.listeners == 1
    hosted.status = "COMPLETE"
    await asyncio.gather(*watching)
    await gateway.aclose()
    assert host.listeners == 0


async def test_a_host_that_tells_no_more_is_read_as_others_are() -> None:
    host = TellingHost()
    hosted = host.add()
    hosted.append()
    gateway = a_quick_gateway(host)
    viewer = Viewer()
    watching = asyncio.ensure_future(viewer.watch(gateway))
    await asyncio.sleep(60)
    host.deaf = True
    await asyncio.sleep(60)
    reads = host.calls["log"]
    hosted.append()
    came = asyncio.get_running_loop().time()
    await asyncio.sleep(10)
    assert viewer.arrivals[2] - came < 1
    assert host.calls["log"] - reads >= 15
    host.deaf = False
    await asyncio.sleep(60)
    assert host.listeners == 1
    hosted.status = "COMPLETE"
    await watching
    assert viewer.texts() == hosted.encoded()


async def test_a_host_whose_revisions_mean_nothing_is_not_read_again_and_again() -> None:
    host = RestlessHost()
    hosted = host.add(length=1500)
    gateway = a_gateway(host)
    viewer = Viewer()
    watching = asyncio.ensure_future(viewer.watch(gateway))
    await asyncio.sleep(100)
    reads = host.calls["log"]
    await asyncio.sleep(200)
    assert host.calls["log"] - reads <= 25 + 15 * 5, "a look every ten seconds, and all of it every forty-five"
    hosted.amend(700, text="another")
    await asyncio.sleep(120)
    assert viewer.amended == [700]
    hosted.status = "COMPLETE"
    await watching
    assert viewer.texts() == hosted.encoded()


class RestlessHost(FakeHost):
    """One that gives every answer a revision of its own."""

    async def read_log(self, *args: Any, **more: Any) -> LogPage:
        return replace(await super().read_log(*args, **more), revision=str(self.calls["log"]))


async def test_what_changes_while_a_log_is_read_is_told_to_who_watches() -> None:
    host = FakeHost()
    host.with_revisions = True
    host.page_size = host.most = 40
    hosted = host.add(length=60)
    _, viewer, watching = await watched(host)

    async def meanwhile(operation: str) -> None:
        if operation == "log":
            host.before = nothing
            hosted.append(100)
            await asyncio.sleep(0)
            host.before = and_then

    async def and_then(operation: str) -> None:
        if operation == "log":
            host.before = nothing
            hosted.amend(5, text="another")

    async def nothing(_: str) -> None:
        return None

    host.before = meanwhile
    await asyncio.sleep(60)
    assert viewer.amended == [5]
    hosted.status = "COMPLETE"
    await watching


async def test_an_entry_that_changes_as_the_log_grows_is_told_to_who_watches() -> None:
    host = FakeHost()
    host.with_revisions = True
    hosted = host.add(length=150)
    _, viewer, watching = await watched(host)
    hosted.amend(3, text="another")
    hosted.append()
    await asyncio.sleep(60)
    assert (viewer.cursor, viewer.amended) == (151, [3])
    hosted.status = "COMPLETE"
    await watching
    assert viewer.amended == [3]


async def test_a_host_whose_events_end_at_once_is_asked_for_them_seldom() -> None:
    host = HastyHost()
    host.add().append()
    gateway = a_quick_gateway(host)
    viewer = Viewer()
    watching = asyncio.ensure_future(viewer.watch(gateway, until=400))
    await asyncio.sleep(100)
    calls = host.calls["changes"]
    await asyncio.sleep(300)
    assert host.calls["changes"] - calls <= 11
    await watching


class HastyHost(TellingHost):
    """One whose events end as soon as they have begun."""

    async def changes(self, credential: Credential, ref: RunRef, after: Cursor) -> AsyncGenerator[None, None]:
        await self._called("changes", credential)
        yield


async def test_a_host_that_tells_of_everything_is_read_no_more_often_than_others() -> None:
    host = TellingHost()
    host.tells_within = 0.01
    hosted = host.add()
    gateway = a_quick_gateway(host)
    viewer = Viewer()
    watching = asyncio.ensure_future(viewer.watch(gateway))
    for _ in range(1_000):
        hosted.append()
        await asyncio.sleep(0.01)
    assert host.calls["log"] <= 10 / 0.25 + 5
    await asyncio.sleep(1)
    assert viewer.cursor == 1_000
    hosted.status = "COMPLETE"
    await watching
    assert viewer.texts() == hosted.encoded()


async def test_a_host_that_tells_nothing_of_a_run_is_not_read_for_that() -> None:
    host = TellingHost()
    host.deaf = True
    host.add(status="PAUSED").append()
    gateway = a_gateway(host)
    viewer = Viewer()
    watching = asyncio.ensure_future(viewer.watch(gateway, until=500))
    await asyncio.sleep(100)
    reads = host.calls["log"]
    await asyncio.sleep(400)
    assert host.calls["log"] - reads <= 21
    await watching


async def test_a_host_is_listened_to_on_behalf_of_those_who_still_view() -> None:
    host = TellingHost()
    hosted = host.add()
    hosted.append()
    gateway = a_quick_gateway(host)
    first, second = Viewer(), Viewer()
    watching = [
        asyncio.ensure_future(first.watch(gateway, until=10)),
        asyncio.ensure_future(second.watch(gateway, who=caller("bob"))),
    ]
    await asyncio.sleep(20)
    hosted.append()
    await asyncio.sleep(5)
    assert [token for _, operation, token in host.log if operation == "changes"] == ["alice", "bob"]
    assert (second.cursor, host.listeners) == (2, 1)
    hosted.status = "COMPLETE"
    await asyncio.gather(*watching)


@pytest.mark.parametrize("lags", [True, False])
async def test_the_end_of_a_run_that_was_just_resumed_is_doubted_where_answers_may_be_old(lags: bool) -> None:
    host = FakeHost()
    host.lags = lags
    hosted = host.add(status="COMPLETE", length=3)
    gateway = a_gateway(host)
    await gateway.resume(caller(), "9", "1", "Go on", None)
    hosted.complete()
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    viewer = await shown(gateway)
    assert viewer.texts() == hosted.encoded()
    assert (asyncio.get_running_loop().time() - began < 5) is not lags


async def test_what_changes_soon_after_a_comparison_is_told_before_the_end() -> None:
    host = FakeHost()
    host.with_revisions = True
    hosted = host.add(length=150)
    gateway = a_quick_gateway(host)
    viewer = Viewer()
    watching = asyncio.ensure_future(viewer.watch(gateway))
    await asyncio.sleep(10)
    hosted.amend(3, text="another")
    hosted.status = "COMPLETE"
    await watching
    again = Viewer(log=dict(viewer.log), cursor=viewer.cursor, position=viewer.position, plain=False)
    await asyncio.sleep(6)
    for text in ("and another", "and yet another"):
        hosted.amend(4, text=text)
        await again.watch(gateway)
        assert again.texts() == hosted.encoded()
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("with_revisions", [True, False])
async def test_who_comes_back_to_a_log_that_has_lost_entries_has_all_of_it_anew_if_it_may_have_changed(
    with_revisions: bool,
) -> None:
    host = FakeHost()
    host.with_ids, host.with_times, host.with_revisions = True, False, with_revisions
    hosted = host.add(status="COMPLETE", length=14)
    gateway = a_gateway(host)
    viewer = await shown(gateway)
    await gateway.aclose()
    if with_revisions:
        del hosted.entries[2:12]
    else:
        del hosted.entries[4:]
    gateway = a_gateway(host)
    await viewer.watch(gateway)
    assert [each.cursor for each in viewer.resyncs] == [0 if with_revisions else 4]
    assert viewer.texts() == hosted.encoded()
