"""Hosts that give less than they are asked for, that miscount, and that cannot give what is too much."""

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import (
    AnswerCut,
    AnswerTooLong,
    GatewayError,
    Rejected,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.following import ReadQueue
from codegen_api.following.portions import GIVEN_UP, LESS_STEADY, MISSING, Portion
from codegen_api.identity import Credential
from codegen_api.runs import Cursor, LogPage, RunRef
from tests.fakehost import FakeHost, caller, in_front_of, opened
from tests.following.viewing import Viewer, shown, watched

pytestmark = pytest.mark.virtual_time

COUNTS: dict[str, Callable[[int, int], int]] = {
    "right": lambda length, given: length,
    "of the page": lambda length, given: given,
    "that lags behind": lambda length, given: min(length, 100),
    "that stands still at a page": lambda length, given: min(length, 50),
    "that is too low": lambda length, given: length // 2,
    "that is too high": lambda length, given: length + 30,
    "that is far too high": lambda length, given: 10 * length,
    "of nothing": lambda length, given: 0,
}


class Moody(FakeHost):
    """Gives another number of entries at most each time."""

    def __init__(self, *most: int, **more: Any) -> None:
        super().__init__(**more)
        self._moods = itertools.cycle(most)

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        self.most = next(self._moods)
        return await super().read_log(credential, ref, after, limit, newest_first=newest_first)


# -- short pages and wrong counts -------------------------------------------------------------------------------------


@pytest.mark.wire("end-complete", "stream-log")
@pytest.mark.parametrize("count", [*COUNTS, None])
@pytest.mark.parametrize("most", [(100,), (50,), (50, 30, 20, 1)], ids=str)
@pytest.mark.parametrize("cursor", [0, 60])
async def test_however_little_a_host_gives_and_whatever_it_counts_everything_comes_before_the_end(
    most: tuple[int, ...], count: str | None, cursor: int
) -> None:
    host = Moody(*most, with_totals=count is not None)
    host.counts = COUNTS[count or "right"]
    hosted = host.add(status="COMPLETE", length=130)
    gateway = in_front_of(host)
    viewer = Viewer(cursor=cursor, log={n: host_json(hosted, n) for n in range(1, cursor + 1)})
    await viewer.watch(gateway)
    assert viewer.texts() == hosted.encoded()
    assert (viewer.ends, viewer.resyncs) == ([130], [])


@pytest.mark.wire("end-complete", "stream-log")
@pytest.mark.parametrize("count", [*COUNTS, None])
@pytest.mark.parametrize("most", [(50,), (20, 1)], ids=str)
async def test_the_log_of_a_run_at_work_is_whole_at_its_end_although_the_host_gives_little(
    most: tuple[int, ...], count: str | None
) -> None:
    host = Moody(*most, with_totals=count is not None)
    host.counts = COUNTS[count or "right"]
    hosted = host.add(length=45)
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    for _ in range(4):
        await asyncio.sleep(10)
        hosted.append(20)
    hosted.amend(100)
    hosted.complete(5)
    await watching
    assert viewer.texts() == hosted.encoded()
    assert (viewer.ends, viewer.resyncs) == ([130], [])


@pytest.mark.parametrize("most", [(50,), (30, 1, 7)], ids=str)
async def test_what_has_left_the_memory_is_read_again_in_as_many_pieces_as_it_takes(most: tuple[int, ...]) -> None:
    host = Moody(*most)
    hosted = host.add()
    hosted.append(450, text="x" * 1000)
    gateway = in_front_of(host, MemoryBroker(max_bytes=60000))
    early, watching = watched(gateway)
    await asyncio.sleep(300)
    late, coming = watched(gateway)
    await asyncio.sleep(1)
    hosted.status = "COMPLETE"
    await asyncio.gather(watching, coming)
    assert early.texts() == late.texts() == hosted.encoded()
    assert early.ends == late.ends == [450]


async def test_a_log_that_is_replaced_is_noticed_although_the_host_gives_little() -> None:
    host = Moody(20)
    hosted = host.add(length=90)
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    await asyncio.sleep(20)
    hosted.replace(40)
    await asyncio.sleep(30)
    hosted.status = "COMPLETE"
    await watching
    assert [resync.cursor for resync in viewer.resyncs] == [0]
    assert viewer.texts() == hosted.encoded()


async def test_a_page_is_given_as_soon_as_it_is_read() -> None:
    host, hosted, gateway = opened(1000, status="COMPLETE")
    await gateway.view(caller(), "9", "1")

    async def slow(operation: str) -> None:
        if operation == "log" and host.calls["log"] > 1:
            await asyncio.sleep(40)

    host.before = slow
    viewer = await shown(gateway)
    assert viewer.texts() == hosted.encoded()
    assert viewer.arrivals[100] < 1
    assert viewer.arrivals[101] > 40


# -- what is too much -------------------------------------------------------------------------------------------------

TOO_MUCH = [AnswerTooLong, AnswerCut, UpstreamTimeout, UpstreamError, UpstreamUnreachable, Rejected]
"""However a host, or what stands before it, answers what is too much."""


class Times(FakeHost):
    """Notes how much was asked for in vain."""

    def __init__(self, heaviest: int, fault: Callable[[], GatewayError]) -> None:
        super().__init__()
        self.heaviest = heaviest
        self.failed: list[int] = []
        self.asked: list[int] = []
        self._fault = fault

    async def read_log(
        self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        self.asked.append(limit)
        self.too_heavy = lambda: self._fail(limit)
        return await super().read_log(credential, ref, after, limit, newest_first=newest_first)

    def _fail(self, limit: int) -> GatewayError:
        self.failed.append(limit)
        return self._fault()


@pytest.mark.wire("fault-too-much")
@pytest.mark.parametrize("fault", TOO_MUCH)
@pytest.mark.parametrize("cursor", [0, 130])
async def test_a_stretch_that_does_not_come_whole_is_asked_for_in_smaller_pieces(
    fault: Callable[[], GatewayError], cursor: int
) -> None:
    host = Times(20_000, fault)
    hosted = host.add(status="COMPLETE", length=40)
    hosted.append(300, text="x" * 1_000)
    gateway = in_front_of(host)
    viewer = Viewer(cursor=cursor, log={n: host_json(hosted, n) for n in range(1, cursor + 1)})
    await viewer.watch(gateway)
    assert viewer.texts() == hosted.encoded()
    assert viewer.ends == [340]
    assert len(host.failed) < 24  # without knowing how much is too much, each of twenty pages would fail three times
    assert not any("UNREADABLE" in text for text in viewer.texts())


@pytest.mark.wire("fault-too-much", "json-always-valid")
@pytest.mark.parametrize("fault", TOO_MUCH)
@pytest.mark.parametrize("places", [(1,), (55,), (55, 56, 57), (130,), (1, 2, 130)], ids=str)
async def test_an_entry_that_does_not_come_alone_has_a_placeholder_in_its_place(
    fault: Callable[[], GatewayError], places: tuple[int, ...]
) -> None:
    host = Times(20_000, fault)
    hosted = host.add(status="COMPLETE", length=130)
    for place in places:
        hosted.amend(place, text="x" * 30_000)
    gateway = in_front_of(host)
    viewer = await shown(gateway, until=1_000)
    assert viewer.ends == [130]
    expected = hosted.encoded()
    for place in places:
        expected[place - 1] = '{"type":"UNREADABLE"}'
    assert viewer.texts() == expected
    page = await gateway.read_log(caller(), "9", "1", 0, 100, newest_first=False)
    assert [entry.json.decode() for entry in page.entries] == expected[:100]


@pytest.mark.wire("fault-too-much", "stream-amended")
async def test_a_placeholder_is_amended_when_the_entry_can_be_had() -> None:
    host = Times(20_000, AnswerCut)
    hosted = host.add(length=30)
    hosted.amend(20, text="x" * 30_000)
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    await asyncio.sleep(200)
    assert viewer.log[20] == b'{"type":"UNREADABLE"}'
    vain = len(host.failed)
    await asyncio.sleep(200)
    assert len(host.failed) == vain  # it is not asked for at each look
    host.heaviest = 10**9
    hosted.status = "COMPLETE"
    await watching
    assert viewer.texts() == hosted.encoded()
    assert 20 in viewer.amended


@pytest.mark.wire("fault-too-much")
@pytest.mark.parametrize("fault", [UpstreamError, UpstreamUnreachable, UpstreamTimeout, AnswerCut])
@pytest.mark.parametrize("heavy", [False, True])
async def test_an_outage_is_not_taken_for_entries_that_cannot_be_had(fault: type[GatewayError], heavy: bool) -> None:
    host = Times(20_000 if heavy else 10**9, AnswerCut)
    hosted = host.add()
    hosted.append(150, text="x" * 15_000 if heavy else "x")
    gateway = in_front_of(host)
    await gateway.view(caller(), "9", "1")

    async def fail(operation: str) -> None:
        raise fault

    host.before, calm = fail, host.before
    viewer, watching = watched(gateway)
    await asyncio.sleep(300)
    assert viewer.cursor == 0
    host.before = calm
    await asyncio.sleep(250 if heavy else 10)
    assert viewer.texts() == hosted.encoded()
    hosted.status = "COMPLETE"
    await watching


@pytest.mark.wire("fault-too-much")
@pytest.mark.parametrize("fault", [UpstreamError, UpstreamUnreachable])
async def test_a_host_that_fails_now_and_then_gives_every_entry_and_soon_full_pages_again(
    fault: type[GatewayError],
) -> None:
    host = Times(10**9, fault)
    hosted = host.add(length=300)
    gateway = in_front_of(host, turns=ReadQueue(limit=600))
    rng = random.Random(7)

    async def fail(operation: str) -> None:
        if operation == "log" and rng.random() < 0.4:
            raise fault

    viewer, watching = watched(gateway)
    await asyncio.sleep(1)
    host.before, calm = fail, host.before
    for _ in range(40):
        hosted.append(10)
        await asyncio.sleep(10)
    host.before = calm
    await asyncio.sleep(120)
    hosted.append(500)
    host.asked.clear()
    hosted.status = "COMPLETE"
    await watching
    assert viewer.texts() == hosted.encoded()
    assert not viewer.amended
    assert max(host.asked) == 100


@pytest.mark.wire("fault-too-much")
async def test_after_an_outage_full_pages_are_asked_for() -> None:
    host = Times(10**9, UpstreamError)
    hosted = host.add(length=10)
    gateway = in_front_of(host)
    viewer, watching = watched(gateway)
    await asyncio.sleep(20)

    async def fail(operation: str) -> None:
        raise UpstreamError

    host.before, calm = fail, host.before
    hosted.append(500)
    await asyncio.sleep(300)
    host.before = calm
    host.asked.clear()
    await asyncio.sleep(60)
    assert [amount for amount in host.asked if amount > 1][:5] == [100] * 5
    assert viewer.texts() == hosted.encoded()
    hosted.status = "COMPLETE"
    await watching


async def test_a_log_that_the_host_never_shows_gets_no_placeholders() -> None:
    class Deaf(FakeHost):
        async def read_log(
            self, credential: Credential, ref: RunRef, after: Cursor, limit: int, *, newest_first: bool = False
        ) -> LogPage:
            page = await super().read_log(credential, ref, after, limit, newest_first=newest_first)
            if ref.id == "1":
                raise UpstreamTimeout
            return page

    host = Deaf()
    for number in "12":
        host.add(number).append(5)
    gateway = in_front_of(host)
    deaf, other = Viewer(), Viewer()
    await asyncio.gather(deaf.watch(gateway, until=300), other.watch(gateway, run="2", until=300))
    assert (deaf.cursor, other.cursor) == (0, 5)
    assert "upstream_unavailable" in deaf.notices


async def test_what_is_asked_for_at_once_shrinks_by_half_and_grows_again_slowly_where_that_was_too_much() -> None:
    portion = Portion(100)
    sizes = []
    for position in range(0, 100_000, 10):
        asked = portion.of(position, 100)
        sizes.append(asked)
        (portion.failed(asked) if asked > 25 else portion.came(position, asked))
    vain = [index for index, asked in enumerate(sizes) if asked > 25]
    assert sizes[:3] == [100, 50, 25]
    gaps = [later - earlier for earlier, later in itertools.pairwise(vain[1:])]
    assert gaps[0] < gaps[1] < gaps[2]
    assert max(gaps) == gaps[-1] == LESS_STEADY + 1
    while portion.size < 100:
        portion.came(0, portion.of(0, 100))
    portion.came(0, 100)
    assert portion.size == 100


async def test_of_what_cannot_be_had_only_so_much_is_remembered() -> None:
    portion = Portion(100, fixed=True)
    for position in range(MISSING + 1):
        portion.give_up(position)
    assert portion.of(0, 10) == 1  # the first of them is tried again
    assert portion.of(1, 10) == 0
    await asyncio.sleep(GIVEN_UP)
    assert portion.of(1, 10) == 10


def host_json(hosted: Any, position: int) -> bytes:
    text: str = hosted.encoded()[position - 1]
    return text.encode()
