"""What only the broker in memory promises: its bound, and one encoding for all."""

import asyncio
import gc
import weakref
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.brokers import Batch
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.brokers.memory.log import AMENDED_OVERHEAD, LOG_OVERHEAD
from codegen_api.positions import COMPARED
from codegen_api.runs import to_json
from tests.brokers.logs import REF, Host, changed, entries, page, ref, unasked
from tests.closing import closed_later
from tests.virtual import run

pytestmark = pytest.mark.virtual_time


def size(*stretches: tuple[int, int, str]) -> int:
    return LOG_OVERHEAD + sum(
        4 + entry.size for first, stop, text in stretches for entry in entries(first, stop, text=text)
    )


async def test_what_is_held_is_known_to_the_byte() -> None:
    broker = MemoryBroker()
    assert broker.held_bytes == 0
    await broker.publish(page(0, 10))
    assert broker.held_bytes == size((1, 11, ""))
    await broker.publish(page(5, 10))
    assert broker.held_bytes == size((1, 16, ""))
    await broker.publish(page(0, 3, text="longer"))  # an amendment may be larger
    changes = 3 * AMENDED_OVERHEAD
    assert broker.held_bytes == size((1, 4, "longer"), (4, 16, "")) + changes
    described = changed()
    for _ in range(2):
        await broker.publish(described)
    run_size = broker.held_bytes - size((1, 4, "longer"), (4, 16, "")) - changes
    assert run_size >= len(to_json(described.run.fields))  # only the latest is held
    await broker.publish(page(0, 1, ref=ref(2)))
    assert broker.held_bytes == size((1, 4, "longer"), (4, 16, "")) + changes + size((1, 2, "")) + run_size
    await broker.forget(REF)
    assert broker.held_bytes == size((1, 2, ""))
    await broker.aclose()
    assert broker.held_bytes == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 30), st.integers(0, 20), st.booleans()), min_size=1, max_size=40
    ),
    st.integers(1, 120_000),
)
def test_all_logs_together_stay_within_the_bound(pages: list[tuple[int, int, int, bool]], max_bytes: int) -> None:
    async def main() -> None:
        broker = MemoryBroker(max_bytes=max_bytes)
        for number, count, back, large in pages:
            tail = await broker.tail(ref(number))
            after = max(0, tail.cursor - back) if tail else 0
            await broker.publish(page(after, count, text="x" * 3000 * large, ref=ref(number)))
            # nobody watches, so only the log that was just written to is ever kept beyond the bound, without entries
            assert broker.held_bytes <= max(max_bytes, LOG_OVERHEAD + 4 * COMPARED + 200 * AMENDED_OVERHEAD)
        await broker.aclose()
        assert broker.held_bytes == 0

    run(main())


async def test_logs_that_nobody_is_at_go_first_and_the_oldest_of_them_before_the_others() -> None:
    one = size((1, 11, "x" * 1000))
    broker = closed_later(MemoryBroker(max_bytes=4 * one))
    async with aclosing(broker.subscribe(ref(1), 0, None, unasked)) as batches:
        for number in (1, 2, 3, 4):
            await broker.publish(page(0, 10, text="x" * 1000, ref=ref(number)))
        await anext(batches)
        await broker.publish(page(10, 0, ref=ref(2)))  # used again
        for number, gone in ((5, 3), (6, 4), (7, 2)):
            await broker.publish(page(0, 10, text="x" * 1000, ref=ref(number)))
            assert await broker.tail(ref(gone)) is None
            assert broker.held_bytes == 4 * one
        tail = await broker.tail(ref(1))
        assert tail is not None
        assert len(tail.recent) == 10


async def test_logs_that_are_watched_lose_their_oldest_entries_and_keep_their_viewers() -> None:
    broker = closed_later(MemoryBroker(max_bytes=100_000))
    async with AsyncExitStack() as stack:
        watched = [
            await stack.enter_async_context(aclosing(broker.subscribe(ref(number), 0, None, unasked)))
            for number in range(3)
        ]
        for number, batches in enumerate(watched):
            await broker.publish(page(0, 1, ref=ref(number)))
            await anext(batches)
        for number, batches in enumerate(watched):
            await broker.publish(page(1, 50, text="x" * 1000, ref=ref(number)))
            assert broker.held_bytes <= 100_000
            assert [event.cursor for event in (await anext(batches)).entries] == list(range(2, 52))


async def test_viewers_at_the_same_position_are_given_the_same_object() -> None:
    broker = closed_later(MemoryBroker())
    await broker.publish(page(0, 5))
    async with AsyncExitStack() as stack:
        watching = [
            await stack.enter_async_context(aclosing(broker.subscribe(REF, 0, None, unasked))) for _ in range(10)
        ]
        for news in (page(5, 5), page(7, 1, version=1), changed()):
            given = [await anext(batches) for batches in watching]
            assert all(batch is given[0] for batch in given)
            await broker.publish(news)
        given = [await anext(batches) for batches in watching]
        assert all(batch is given[0] for batch in given)


async def test_what_one_viewer_still_holds_is_given_to_the_next_however_many_were_elsewhere_meanwhile() -> None:
    broker = closed_later(MemoryBroker())
    await broker.publish(page(0, 1000, text="x" * 1000))

    async def first(after: int) -> Batch:
        async with aclosing(broker.subscribe(REF, after, None, unasked)) as batches:
            return await anext(batches)

    held = await first(0)
    for after in range(1, 50):
        await first(after)
    assert await first(0) is held
    await broker.publish(page(999, 1, text="x" * 1000))  # read again, and the same
    assert await first(0) is held
    await broker.publish(page(1000, 1))
    assert await first(0) is held
    end = await first(990)
    await broker.publish(page(1001, 1))
    assert await first(990) is not end
    await broker.publish(page(0, 1, version=1))
    assert await first(0) is not held


@pytest.mark.wire("stream-stall")
async def test_viewers_who_have_left_a_finished_log_leave_nothing_behind() -> None:
    """Each came at a position of its own, so that no two were given the same batches."""

    broker = closed_later(MemoryBroker())
    await broker.publish(page(0, 1000, text="x" * 1000))
    await broker.publish(changed(length=1000))
    given: list[weakref.ref[Batch]] = []
    for after in range(60):
        async with aclosing(broker.subscribe(REF, after, None, unasked)) as batches:
            async for batch in batches:
                given.append(weakref.ref(batch))
                if batch.cursor == 1000:
                    break
    del batch
    gc.collect()
    alive = [there for reference in given if (there := reference()) is not None]
    held = sum(event.entry.size for there in alive for event in there.entries)
    # a batch is what encoded copies hang on: what is kept of them belongs within the bound of the broker
    assert held <= 2 * broker.held_bytes


async def test_a_log_that_nobody_ever_wrote_to_goes_with_the_last_who_waited_for_it() -> None:
    broker = closed_later(MemoryBroker())
    there = [broker.subscribe(ref(number % 3), 0, None, unasked) for number in range(9)]
    waiting = [asyncio.create_task(anext(batches)) for batches in there]
    await asyncio.sleep(1)
    assert broker.held_bytes == 3 * LOG_OVERHEAD
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    for batches in there:
        await batches.aclose()
    assert broker.held_bytes == 0


async def test_a_subscriber_who_left_is_not_woken() -> None:
    broker = closed_later(MemoryBroker())
    await broker.publish(page(0, 1))
    async with aclosing(broker.subscribe(REF, 0, None, unasked)) as batches:
        await anext(batches)
        waiting = asyncio.create_task(anext(batches))
        await asyncio.sleep(1)
        await broker.publish(page(1, 1))
        waiting.cancel()  # woken and cancelled in the same breath
        await asyncio.wait([waiting])
    async with aclosing(broker.subscribe(REF, 2, None, unasked)) as batches:
        waiting = asyncio.create_task(anext(batches))
        await asyncio.sleep(1)
        waiting.cancel()  # the other way round
        await broker.publish(page(2, 1))
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    await broker.publish(page(3, 1))


async def test_who_closes_while_somebody_leads_lets_the_leader_end() -> None:
    broker = MemoryBroker()
    async with broker.lead(REF):
        await broker.aclose()


async def test_who_misses_changes_of_what_was_let_go_is_told_which_and_no_others() -> None:
    broker = closed_later(MemoryBroker(max_bytes=1))
    host = Host([*entries(1, 951), *entries(951, 954, version=1), *entries(954, 1001)])
    await broker.publish(page(0, 1000))
    await broker.publish(page(950, 3, version=1))
    batch = await anext(broker.subscribe(REF, 1000, 0, host.page))
    assert [event.cursor for event in batch.entries] == [951, 952, 953]
    assert host.read == [9]


async def test_who_reads_all_of_a_long_log_takes_a_part_of_the_bound_only() -> None:
    broker = closed_later(MemoryBroker(max_bytes=400_000))
    host = Host(entries(1, 1001, text="x" * 1000))
    await broker.publish(page(0, 100, text="x" * 1000, ref=ref(2)))
    await broker.publish(page(900, 100, text="x" * 1000))
    async with aclosing(broker.subscribe(ref(2), 100, 0, unasked)), broker.lead(ref(2)):
        for _ in range(2):
            async with aclosing(broker.subscribe(REF, 0, None, host.page)) as batches:
                while (await anext(batches)).cursor < 1000:
                    assert broker.held_bytes <= 400_000
        async with aclosing(broker.subscribe(ref(2), 0, None, unasked)) as batches:
            assert (await anext(batches)).cursor > 0
    assert set(host.read) == set(range(9))


async def test_a_page_that_is_larger_than_all_that_may_be_held_pushes_nothing_out() -> None:
    broker = closed_later(MemoryBroker(max_bytes=40_000))
    host = Host(entries(1, 1001, text="x" * 1000))
    await broker.publish(page(990, 10, text="x" * 1000))
    async with aclosing(broker.subscribe(REF, 0, None, host.page)) as batches:
        while (await anext(batches)).cursor < 1000:
            pass
    assert host.read == list(range(10))
    async with aclosing(broker.subscribe(REF, 990, None, unasked)) as batches:
        assert (await anext(batches)).cursor == 1000


async def test_how_many_changes_are_remembered_is_bounded() -> None:
    broker = closed_later(MemoryBroker())
    await broker.publish(page(0, 3 * COMPARED))
    await broker.publish(page(0, 3 * COMPARED, version=1))
    known = await broker.missed(REF, 3 * COMPARED)
    assert [change.cursor for change in known.changes] == list(range(2 * COMPARED + 1, 3 * COMPARED + 1))
    all_copies, those_compared = 4 * 3 * COMPARED, 4 * COMPARED
    assert (
        broker.held_bytes == size((1, 3 * COMPARED + 1, "")) - all_copies + those_compared + COMPARED * AMENDED_OVERHEAD
    )


async def test_a_log_that_somebody_viewed_lately_stays_longer_than_one_that_was_only_written_lately() -> None:
    one = size((1, 11, "x" * 1000))
    broker = closed_later(MemoryBroker(max_bytes=2 * one))
    for number in (1, 2):
        await broker.publish(page(0, 10, text="x" * 1000, ref=ref(number)))
    async with aclosing(broker.subscribe(ref(1), 0, None, unasked)) as batches:
        await anext(batches)
    await broker.publish(page(0, 10, text="x" * 1000, ref=ref(3)))
    assert [await broker.tail(ref(number)) is not None for number in (1, 2, 3)] == [True, False, True]


async def test_a_description_that_cannot_be_written_is_held_all_the_same() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    broker = closed_later(MemoryBroker())
    described = changed()
    deep = replace(described, run=replace(described.run, fields={"metadata": nested}))  # type: ignore[dict-item]
    await broker.publish(page(0, 1))
    await broker.publish(deep)
    tail = await broker.tail(REF)
    assert tail is not None
    assert tail.changed is deep
