"""What every broker promises. A new adapter adds itself to ``NAMES`` and no tests."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.brokers import BATCH_BYTES, Batch, Broker, Forgotten, ReadPage, Tail
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.positions import Missed
from codegen_api.runs import Amended, Appended, LogPage
from codegen_api.taps import Tap
from tests.brokers.logs import BIG, REF, Host, changed, entries, entry, made_page, page, ref, unasked
from tests.brokers.relayed import over_redis
from tests.closing import closed_later

pytestmark = pytest.mark.virtual_time

Make = Callable[..., Awaitable[Broker]]
NAMES = ("memory", "redis")


async def in_memory(**more: Any) -> Broker:
    return MemoryBroker(**more)


@pytest.fixture(params=NAMES)
def broker(request: pytest.FixtureRequest) -> Make:
    """Makes brokers that hold these pages, and are closed when the test is over."""
    make = in_memory if request.param == "memory" else over_redis(request.getfixturevalue("shared_redis"))

    async def with_pages(*pages: LogPage, **more: Any) -> Broker:
        it = closed_later(await make(**more))
        for each in pages:
            await it.publish(each)
        return it

    return with_pages


async def take(batches: Tap[Batch], seconds: float = 10) -> Batch:
    async with asyncio.timeout(seconds):
        return await anext(batches)


async def nothing(batches: Tap[Batch]) -> None:
    """Nothing comes, now or later. Ends the generator."""
    with pytest.raises(TimeoutError):
        await take(batches, 100)
    await batches.aclose()


async def everything(
    broker: Broker, after: int = 0, revision: int | None = None, name: Any = REF, read: ReadPage = unasked
) -> list[Any]:
    """What a subscriber at a position is given before it has to wait."""
    given: list[Any] = []
    async with aclosing(broker.subscribe(name, after, revision, read)) as batches:
        try:
            while True:
                batch = await take(batches, 1)
                given += batch.entries
                if batch.changed is not None:
                    given.append(batch.changed)
        except TimeoutError:
            return given


async def tail_of(broker: Broker) -> Tail:
    tail = await broker.tail(REF)
    assert tail is not None
    return tail


def appended(numbers: Any, version: int = 0) -> list[Appended]:
    return [Appended(number, entry(number, version)) for number in numbers]


# -- publishing -------------------------------------------------------------------------------------------------------


async def test_publishing_the_same_page_twice_does_nothing(broker: Make) -> None:
    it = await broker()
    for _ in range(3):
        await it.publish(page(0, 5))
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        first = await take(batches)
        assert list(first.entries) == appended(range(1, 6))
        for _ in range(3):
            await it.publish(page(0, 5))
            await it.publish(page(2, 2))
        await nothing(batches)
    tail = await tail_of(it)
    assert tail.cursor == 5


async def test_pages_that_overlap_are_joined(broker: Make) -> None:
    it = await broker(page(0, 5), page(3, 5), page(8, 0), page(8, 2))
    assert await everything(it) == appended(range(1, 11))


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_what_lies_in_a_gap_is_read_again_for_who_needs_it(broker: Make, count: int) -> None:
    it = await broker()
    host = Host(entries(1, 41 + count))
    await it.publish(page(0, 5))
    there = it.subscribe(REF, 0, None, host.page)
    assert (await anext(there)).cursor == 5
    await it.publish(page(40, count))
    assert [event.cursor for event in (await take(there)).entries] == list(range(6, 41 + count))
    for after in (0, 5, 39):
        assert await everything(it, after, read=host.page) == appended(range(after + 1, 41 + count))
    host.read.clear()
    await it.publish(page(40, 3))
    assert await everything(it, 40) == appended([41, 42, 43])
    tail = await tail_of(it)
    assert (tail.cursor, len(tail.recent)) == (43, 3)
    await there.aclose()


async def test_the_first_stretch_opens_the_log_wherever_it_begins(broker: Make) -> None:
    it = await broker(page(40, 3))
    assert await everything(it, 40) == appended([41, 42, 43])
    assert await everything(it, 39, read=Host(entries(1, 44)).page) == appended(range(40, 44))


async def test_an_empty_log_has_a_tail_too(broker: Make) -> None:
    it = await broker()
    assert await it.tail(REF) is None
    await it.publish(page(0, 0))
    tail = await tail_of(it)
    assert (tail.cursor, tail.recent, tail.changed) == (0, (), None)


async def test_the_tail_is_the_position_and_up_to_100_entries_that_lead_there(broker: Make) -> None:
    it = await broker(page(0, 30))
    tail = await tail_of(it)
    assert (tail.cursor, tail.recent) == (30, entries(1, 31))
    await it.publish(page(30, 220))
    await it.publish(page(200, 1, version=1))
    latest = changed(length=250)
    await it.publish(latest)
    tail = await tail_of(it)
    assert tail.cursor == 250
    assert tail.recent == (*entries(151, 201), entry(201, 1), *entries(202, 251))
    assert tail.changed == latest


async def test_runs_do_not_mix(broker: Make) -> None:
    it = await broker(page(0, 3), page(0, 2, ref=ref(2)), changed(ref=ref(2)))
    assert await everything(it) == appended(range(1, 4))
    assert await everything(it, name=ref(2)) == [*appended(range(1, 3)), changed(ref=ref(2))]


# -- subscribing ------------------------------------------------------------------------------------------------------


@pytest.mark.wire("stream-log")
@pytest.mark.parametrize("at", [0, 1, 4, 5])
async def test_what_was_there_is_followed_by_what_comes_without_a_gap_or_a_repeat(broker: Make, at: int) -> None:
    it = await broker(page(0, 5))
    seen: list[Any] = []

    async def watch() -> None:
        async with aclosing(it.subscribe(REF, at, None, unasked)) as batches:
            async for batch in batches:
                seen.extend(batch.entries)
                assert batch.cursor == at + len(seen)
                if batch.cursor == 25:
                    return

    watching = asyncio.create_task(watch())
    for after in range(5, 25, 2):
        await asyncio.sleep(0 if after % 4 else 1)
        await it.publish(page(after - 3, 5))
    await watching
    assert seen == appended(range(at + 1, 26))


async def test_who_comes_before_the_first_page_waits_for_it(broker: Make) -> None:
    it = await broker()
    batches = it.subscribe(REF, 0, None, unasked)
    waiting = asyncio.create_task(take(batches, 1000))
    await asyncio.sleep(100)
    assert not waiting.done()
    assert await it.tail(REF) is None
    await it.publish(page(0, 2))
    assert list((await waiting).entries) == appended([1, 2])
    await batches.aclose()


async def test_who_is_ahead_of_the_log_waits_until_it_has_come_so_far(broker: Make) -> None:
    it = await broker(page(0, 2))
    async with aclosing(it.subscribe(REF, 4, None, unasked)) as batches:
        waiting = asyncio.create_task(take(batches, 1000))
        await it.publish(page(2, 2))
        await asyncio.sleep(1)
        assert not waiting.done()
        await it.publish(page(4, 2))
        assert list((await waiting).entries) == appended([5, 6])


@pytest.mark.wire("stream-shared")
async def test_every_subscriber_gets_everything(broker: Make) -> None:
    it = await broker(page(0, 3))
    watching = [asyncio.create_task(everything(it)) for _ in range(5)]
    for after in (3, 6, 9):
        await asyncio.sleep(0.1)
        await it.publish(page(after, 3))
    for given in await asyncio.gather(*watching):
        assert given == appended(range(1, 13))


async def test_a_batch_holds_64_kib_at_most(broker: Make) -> None:
    it = await broker(page(0, 500, text="x" * 1000), page(410, 90, text="x" * 1000, version=1), changed())
    for after, revision in ((0, None), (500, 0)):
        sizes, copies, cursors = [], {}, []
        async with aclosing(it.subscribe(REF, after, revision, unasked)) as batches:
            batch = None
            while batch is None or batch.changed is None:
                batch = await take(batches)
                sizes.append(sum(event.entry.size for event in batch.entries))
                copies.update({event.cursor: event.entry for event in batch.entries})
                cursors += [event.cursor for event in batch.entries if isinstance(event, Appended)]
        assert len(sizes) > 1
        assert max(sizes) <= BATCH_BYTES
        assert cursors == list(range(after + 1, 501))
        for number in range(411, 501):
            assert copies[number] == entry(number, 1, "x" * 1000)


async def test_an_entry_larger_than_a_batch_comes_alone(broker: Make) -> None:
    it = await broker(page(0, 1), page(1, 2, text=BIG), page(3, 1))
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        numbers = [[event.cursor for event in (await take(batches)).entries] for _ in range(4)]
    assert numbers == [[1], [2], [3], [4]]
    await it.publish(page(1, 2, text=BIG, version=1))
    async with aclosing(it.subscribe(REF, 4, 0, unasked)) as batches:
        numbers = [[event.cursor for event in (await take(batches)).entries] for _ in range(2)]
    assert numbers == [[2], [3]]


async def test_a_subscriber_who_is_cancelled_leaves_nothing_and_disturbs_nobody(broker: Make) -> None:
    it = await broker()
    waiting = [asyncio.create_task(everything(it, name=ref(number))) for number in (2, 3, 4)]
    watching = asyncio.create_task(everything(it))
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    await it.publish(page(0, 2))
    assert await watching == appended([1, 2])
    for number in (2, 3, 4):
        assert await it.tail(ref(number)) is None


# -- amendments -------------------------------------------------------------------------------------------------------


@pytest.mark.wire("stream-amended")
async def test_an_entry_that_was_given_and_changes_is_given_again(broker: Make) -> None:
    it = await broker(page(0, 5))
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        before = await take(batches)
        await it.publish(page(2, 1, version=1))
        batch = await take(batches)
        assert batch.entries == (Amended(3, entry(3, 1)),)
        assert batch.cursor == 5
        assert batch.revision > before.revision
        await it.publish(page(2, 1, version=1))
        await nothing(batches)


async def test_an_entry_that_cannot_be_had_any_more_does_not_take_the_place_of_what_was_given(broker: Make) -> None:
    for memory in (10**6, 1):
        it = await broker(max_bytes=memory)
        await it.publish(page(0, 5))
        gone = replace(entry(3, 1), absent=True)
        await it.publish(made_page(1, (entry(2), gone, entry(4), entry(5))))
        assert await everything(it, 5, 0) == []
        await it.publish(made_page(5, (gone,)))
        await it.publish(page(5, 1))  # but what could not be had at first is told as soon as it can
        if memory > 1:
            assert await everything(it) == appended(range(1, 7))


async def test_an_entry_that_changes_before_it_is_given_is_given_once_as_it_is_now(broker: Make) -> None:
    it = await broker(page(0, 5), page(2, 1, version=1))
    expected = [*appended([1, 2]), *appended([3], 1), *appended([4, 5])]
    assert await everything(it) == expected
    assert await everything(it, 2, 0) == expected[2:]


async def test_a_page_may_amend_and_append(broker: Make) -> None:
    it = await broker(page(0, 5))
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        await take(batches)
        await it.publish(page(3, 4, version=1))
        batch = await take(batches)
        assert list(batch.entries) == [Amended(4, entry(4, 1)), Amended(5, entry(5, 1)), *appended([6, 7], 1)]


async def test_of_several_amendments_only_the_last_is_given(broker: Make) -> None:
    it = await broker(page(0, 5))
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        await take(batches)
        for version in range(1, 10):
            await it.publish(page(1, 1, version=version))
        await it.publish(page(3, 1, version=1))
        await it.publish(page(1, 1, version=10))
        assert (await take(batches)).entries == (Amended(4, entry(4, 1)), Amended(2, entry(2, 10)))


async def test_a_revision_says_which_amendments_are_known(broker: Make) -> None:
    it = await broker(page(0, 5))
    revisions = []
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        revisions.append((await take(batches)).revision)
        for position in (1, 2):
            await it.publish(page(position, 1, version=1))
            revisions.append((await take(batches)).revision)
    assert revisions == sorted(set(revisions))
    both = [Amended(2, entry(2, 1)), Amended(3, entry(3, 1))]
    assert await everything(it, 5, revisions[0]) == both
    assert await everything(it, 5, revisions[1]) == both[1:]
    assert await everything(it, 5, revisions[2]) == []


async def test_who_has_no_revision_is_given_every_amendment_that_is_known(broker: Make) -> None:
    it = await broker(page(0, 5), page(1, 2, version=1))
    assert await everything(it, 5) == [Amended(2, entry(2, 1)), Amended(3, entry(3, 1))]
    assert await everything(it, 2) == [Amended(2, entry(2, 1)), *appended([3], 1), *appended([4, 5])]


# -- the run ----------------------------------------------------------------------------------------------------------


async def test_of_several_descriptions_only_the_latest_counts(broker: Make) -> None:
    it = await broker(page(0, 1))
    for number in range(5):
        await it.publish(changed(n=number))
    assert await everything(it) == [*appended([1]), changed(n=4)]
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        await take(batches)
        for number in range(5, 9):
            await it.publish(changed(n=number))
        batch = await take(batches)
        assert (batch.entries, batch.changed) == ((), changed(n=8))
        await nothing(batches)


@pytest.mark.wire("end-complete")
async def test_a_description_comes_after_all_the_entries(broker: Make) -> None:
    it = await broker(page(0, 300, text="x" * 1000), changed(length=300))
    given = await everything(it)
    assert [event.cursor for event in given[:-1]] == list(range(1, 301))
    assert given[-1] == changed(length=300)


async def test_a_description_from_before_the_first_page_waits_for_it(broker: Make) -> None:
    it = await broker(changed())
    assert await it.tail(REF) is None
    await it.publish(page(0, 1))
    assert await everything(it) == [*appended([1]), changed()]


# -- what is no longer there ------------------------------------------------------------------------------------------


async def test_what_was_let_go_is_read_again_and_nothing_else(broker: Make) -> None:
    it = await broker(max_bytes=100_000)
    host = Host(entries(1, 251, text="x" * 500))
    await it.publish(made_page(0, tuple(host.entries)))
    given = await everything(it, read=host.page)
    assert given == [Appended(number, entry(number, text="x" * 500)) for number in range(1, 251)]
    assert host.read
    assert set(host.read) < {0, 1, 2}


@pytest.mark.parametrize("max_bytes", [1, 10**7])
async def test_a_page_that_is_not_held_is_read_once_for_all_who_need_it_at_the_same_time(
    broker: Make, max_bytes: int
) -> None:
    it = await broker(max_bytes=max_bytes)
    host = Host(entries(1, 1001))

    async def slowly(number: int) -> Any:
        await asyncio.sleep(0.01)
        return await host.page(number)

    await it.publish(page(900, 100))
    given = await asyncio.gather(*(everything(it, read=slowly) for _ in range(20)))
    assert all(each == appended(range(1, 1001)) for each in given)
    assert sorted(host.read) == list(range(10 if max_bytes == 1 else 9))


async def test_a_page_that_has_settled_is_not_read_twice_and_one_that_has_not_is_as_it_is_now(broker: Make) -> None:
    it = await broker()
    host = Host(entries(1, 451))
    await it.publish(page(430, 20))
    for _ in range(2):
        assert await everything(it, 200, read=host.page) == appended(range(201, 451))
    assert host.read == [2, 3, 4, 3, 4]
    host.entries = [*entries(1, 401), *entries(401, 431, version=1), *entries(431, 451)]
    given = await everything(it, 400, read=host.page)
    assert given == [*appended(range(401, 431), 1), *appended(range(431, 451))]


async def test_a_page_in_which_an_entry_cannot_be_had_is_read_again_by_the_next(broker: Make) -> None:
    it = await broker()
    host = Host([replace(entry(1), absent=True), *entries(2, 301)])
    await it.publish(page(200, 100))
    assert len(await everything(it, read=host.page)) == 300
    host.entries = entries(1, 301)
    assert await everything(it, read=host.page) == appended(range(1, 301))


async def test_a_page_that_was_asked_for_before_an_amendment_is_not_given_to_who_is_told_of_that(broker: Make) -> None:
    it = await broker()
    host = Host(entries(1, 301))
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slowly(number: int) -> Any:
        found = await host.page(number)
        asked.set()
        await answered.wait()
        return found

    await it.publish(page(200, 100))
    await it.publish(page(0, 10))
    first = asyncio.create_task(everything(it, read=slowly))
    await asyncio.wait_for(asked.wait(), 1)
    host.entries = [*entries(1, 6), entry(6, 1), *entries(7, 301)]
    await it.publish(page(5, 1, version=1))
    answered.set()
    given = {event.cursor: event.entry for event in await first}
    assert given == dict(enumerate(host.entries, 1))
    again = {event.cursor: event.entry for event in await everything(it, read=host.page)}
    assert again == given


@pytest.mark.wire("log-replaced")
async def test_who_waits_for_a_page_hears_that_the_log_was_forgotten_and_the_next_log_has_nothing_of_it(
    broker: Make,
) -> None:
    it = await broker()
    host = Host(entries(1, 301))
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slowly(number: int) -> Any:
        found = await host.page(number)
        asked.set()
        await answered.wait()
        return found

    await it.publish(page(200, 100))
    waiting = asyncio.create_task(everything(it, read=slowly))
    await asyncio.wait_for(asked.wait(), 1)
    await it.forget(REF)
    host.entries = entries(1, 301, version=1)
    await it.publish(page(200, 100, version=1))
    answered.set()
    with pytest.raises(Forgotten):
        await waiting
    assert await everything(it, read=host.page) == appended(range(1, 301), 1)


async def test_of_a_log_that_is_not_known_nothing_is_missed(broker: Make) -> None:
    it = await broker()
    assert await it.missed(REF, 20) == Missed()


async def test_who_reads_a_page_that_shows_less_than_there_should_be_reads_it_until_it_is_whole(broker: Make) -> None:
    it = await broker()
    host = Host(())

    async def late(number: int) -> Any:
        if len(host.read) > 3:
            host.entries = entries(1, 301)
        await asyncio.sleep(0.1)
        return await host.page(number)

    await it.publish(page(200, 100))
    assert await everything(it, read=late) == appended(range(1, 301))


async def test_a_log_of_which_nothing_is_held_any_more_goes_on_behind_its_tail(broker: Make) -> None:
    it = await broker(page(0, 10), max_bytes=1)
    assert await everything(it, 10) == []
    assert await everything(it, 8, read=Host(entries(1, 11)).page) == appended([9, 10])
    tail = await tail_of(it)
    assert tail.cursor == 10


async def test_an_amendment_of_what_is_not_held_any_more_is_told_as_it_is_now(broker: Make) -> None:
    it = await broker(page(0, 50), max_bytes=60_000)
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        seen = await take(batches)
        await it.publish(page(9, 1, version=1))
        await it.publish(page(50, 90, text="x" * 500))
        host = Host([*entries(1, 10), entry(10, 1), *entries(11, 51), *entries(51, 141, text="x" * 500)])
        given = await everything(it, seen.cursor, seen.revision, read=host.page)
        assert given[0] == Amended(10, entry(10, 1))
        assert [event.cursor for event in given[1:]] == list(range(51, 141))
        assert await everything(it, 140, (await it.missed(REF, 140)).revision) == []


@pytest.mark.wire("end-complete")
async def test_an_entry_that_was_let_go_can_still_be_amended(broker: Make) -> None:
    it = await broker(page(0, 50), page(0, 50), max_bytes=1)
    assert await everything(it, 50, 0) == []
    await it.publish(changed(length=50))
    await it.publish(page(9, 41, version=1))
    host = Host([*entries(1, 10), *entries(10, 51, version=1)])
    told = [Amended(number, entry(number, 1)) for number in range(10, 51)]
    assert await everything(it, 50, 0, read=host.page) == [*told, changed(length=50)]
    missed = await it.missed(REF, 50)
    assert [change.cursor for change in missed.changes] == list(range(10, 51))
    assert await everything(it, 50, missed.revision) == [changed(length=50)]


async def test_a_change_of_what_was_only_read_again_is_an_amendment_too(broker: Make) -> None:
    it = await broker(page(900, 100))
    async with aclosing(it.subscribe(REF, 850, None, Host(entries(1, 1001)).page)) as batches:
        while (await take(batches)).cursor < 1000:
            pass
        await it.publish(page(870, 1, version=1))
        assert (await take(batches)).entries == (Amended(871, entry(871, 1)),)


async def test_who_was_given_one_of_two_different_copies_is_told_what_it_comes_to(broker: Make) -> None:
    """Nobody knows which of them was the later one."""
    it = await broker(page(900, 60))
    given = []
    for version in (0, 1):
        host = Host(entries(1, 961, version))
        given.append((await everything(it, 880, read=host.page))[0])
    assert given == [*appended([881]), *appended([881], 1)]
    revision = (await it.missed(REF, 960)).revision
    await it.publish(page(880, 1, version=1))
    assert await everything(it, 960, revision, read=host.page) == [Amended(881, entry(881, 1))]


async def test_nothing_is_missed_at_the_start_of_the_log(broker: Make) -> None:
    it = await broker(page(0, 5), page(2, 1, version=1), max_bytes=1)
    host = Host([*entries(1, 3), entry(3, 1), *entries(4, 6)])
    assert await everything(it, 0, 0, read=host.page) == [Appended(n, e) for n, e in enumerate(host.entries, 1)]


@pytest.mark.parametrize("by", ["the follower", "a viewer"])
async def test_a_log_that_somebody_is_at_is_not_let_go_whole(broker: Make, by: str) -> None:
    it = await broker(max_bytes=20_000)
    host = Host(entries(1, 51))
    await it.publish(page(0, 50))
    there: Any = it.lead(REF) if by == "the follower" else aclosing(it.subscribe(REF, 0, None, unasked))
    async with there as batches:
        if by == "a viewer":
            await take(batches)
        revision = (await it.missed(REF, 50)).revision
        await it.publish(page(0, 10, ref=ref(2), text="x" * 2000))  # takes the place of the first
        host.entries = [*entries(1, 31), *entries(31, 51, version=1)]
        await it.publish(page(30, 20, version=1))  # the follower goes on, and finds these changed
        given = await everything(it, 50, revision, read=host.page)
        assert given == [Amended(number, entry(number, 1)) for number in range(31, 51)]


async def test_who_comes_back_with_what_was_known_of_a_log_that_was_let_go_hears_of_it(broker: Make) -> None:
    it = await broker(page(0, 50), max_bytes=20_000)
    revision = (await it.missed(REF, 50)).revision
    await it.publish(page(0, 10, ref=ref(2), text="x" * 2000))
    assert await it.tail(REF) is None
    await it.publish(page(30, 20, version=1))
    with pytest.raises(Forgotten):
        await everything(it, 50, revision)


@pytest.mark.parametrize("max_bytes", [1, 10**7])
async def test_entries_are_found_wherever_they_are(broker: Make, max_bytes: int) -> None:
    it = await broker(max_bytes=max_bytes)
    host = Host(entries(1, 1001))
    await it.publish(page(900, 100))
    wanted = [1000, 3, 450, 4, 999]
    async with aclosing(it.entries(REF, wanted, host.page)) as found:
        assert [each async for each in found] == [(number, entry(number)) for number in wanted]
    async with aclosing(it.entries(REF, wanted, host.page)) as found:
        await anext(found)
        await it.forget(REF)
        with pytest.raises(Forgotten):
            await anext(found)


async def test_what_is_doubted_is_not_shown_and_its_changes_are_noticed(broker: Make) -> None:
    it = await broker(page(0, 50))
    revision = (await it.missed(REF, 50)).revision
    waiting = asyncio.create_task(everything(it, 50, revision))
    await asyncio.sleep(0.5)
    await it.doubt(REF)
    assert await it.tail(REF) is None
    assert await waiting == []
    await it.publish(page(40, 10, version=1))
    host = Host([*entries(1, 41), *entries(41, 51, version=1)])
    told = [Amended(number, entry(number, 1)) for number in range(41, 51)]
    assert await everything(it, 50, revision) == told
    assert await everything(it, 39, read=host.page) == [*appended([40]), *appended(range(41, 51), 1)]
    assert host.read == [0]


@pytest.mark.wire("log-replaced")
async def test_who_waits_hears_that_the_log_was_forgotten(broker: Make) -> None:
    it = await broker(page(0, 5))
    waiting = [asyncio.create_task(everything(it, after)) for after in (0, 5)]
    await asyncio.sleep(0.5)
    await it.forget(REF)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Forgotten, Forgotten]
    assert await it.tail(REF) is None
    await it.publish(page(0, 2, version=7))
    assert await everything(it) == appended([1, 2], 7)


async def test_forgetting_or_doubting_what_was_never_known_does_nothing(broker: Make) -> None:
    it = await broker()
    await it.doubt(REF)
    await it.forget(REF)
    assert await it.tail(REF) is None


async def test_revisions_of_a_forgotten_log_say_nothing_of_the_next(broker: Make) -> None:
    it = await broker(page(0, 5))
    for version in (1, 2, 3):
        await it.publish(page(1, 1, version=version))
    async with aclosing(it.subscribe(REF, 0, None, unasked)) as batches:
        old = await take(batches)
    await it.forget(REF)
    await it.publish(page(0, 5))
    await it.publish(page(3, 1, version=1))
    async with aclosing(it.subscribe(REF, 5, None, unasked)) as batches:
        assert (await take(batches)).revision > old.revision


# -- leading, and the end ---------------------------------------------------------------------------------------------


async def test_a_run_has_one_leader_at_a_time(broker: Make) -> None:
    it = await broker()
    leading = 0
    turns = []

    async def lead(number: int) -> None:
        nonlocal leading
        async with it.lead(REF):
            leading += 1
            assert leading == 1
            turns.append(number)
            await asyncio.sleep(10)
            leading -= 1

    await asyncio.gather(*(lead(number) for number in range(5)))
    assert sorted(turns) == list(range(5))
    assert asyncio.get_running_loop().time() > 49.9


async def test_runs_are_led_beside_each_other(broker: Make) -> None:
    it = await broker()
    async with it.lead(REF), it.lead(ref(2)), asyncio.timeout(5), it.lead(ref(3)):
        pass


async def test_the_lead_passes_on_when_the_leader_fails_or_is_cancelled(broker: Make) -> None:
    it = await broker()
    with pytest.raises(LookupError):
        async with it.lead(REF):
            raise LookupError

    async def lead() -> None:
        async with it.lead(REF):
            await asyncio.sleep(1000)

    first, second = asyncio.create_task(lead()), asyncio.create_task(lead())
    await asyncio.sleep(1)
    second.cancel()  # while it waits
    first.cancel()
    await asyncio.wait([first, second])
    async with asyncio.timeout(60), it.lead(REF):
        pass


async def test_closing_lets_go_of_everything_and_of_everybody(broker: Make) -> None:
    it = await broker(page(0, 5))
    waiting = [asyncio.create_task(everything(it, 5)), asyncio.create_task(everything(it, name=ref(2)))]
    await asyncio.sleep(0.5)
    await it.aclose()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Forgotten, Forgotten]
