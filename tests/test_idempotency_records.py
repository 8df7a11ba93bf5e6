"""The contract of a records of requests, over every adapter."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from codegen_api.idempotency.records import KEPT_SECONDS, MemoryRecords, Records, RequestRecord, RequestState
from codegen_api.runs import RunRef
from tests.closing import closed_later
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

Make = Callable[[], Records]
ONE = RequestRecord("a", RequestState.UNDER_WAY, 1.0, 1.0)
TWO = RequestRecord("b", RequestState.DONE, 1.0, 2.0, 3.0, "note", result=b"result")


@pytest.fixture(params=[MemoryRecords])
def store(request: pytest.FixtureRequest) -> Make:
    make: Make = request.param
    return make


async def test_the_first_one_is_kept_and_given_to_all_others(store: Make) -> None:
    it = closed_later(store())
    assert await it.begin("x", ONE) is None
    assert await it.begin("x", TWO) == ONE
    assert await it.begin("y", TWO) is None
    assert await it.begin("x", TWO) == ONE


async def test_of_many_at_once_one_is_the_first(store: Make) -> None:
    it = closed_later(store())
    found = await asyncio.gather(*(it.begin("x", replace(ONE, note=str(number))) for number in range(100)))
    assert found.count(None) == 1
    assert len({each for each in found if each is not None}) == 1


async def test_only_what_is_there_is_changed(store: Make) -> None:
    it = closed_later(store())
    assert not await it.change("x", ONE, TWO)
    await it.begin("x", ONE)
    assert not await it.change("x", TWO, ONE)
    assert not await it.change("y", ONE, TWO)
    assert await it.change("x", ONE, TWO)
    assert not await it.change("x", ONE, TWO)
    assert await it.begin("x", ONE) == TWO


async def test_only_what_is_there_is_forgotten(store: Make) -> None:
    it = closed_later(store())
    await it.forget("x", ONE)
    await it.begin("x", ONE)
    await it.forget("x", TWO)
    await it.forget("y", ONE)
    assert await it.begin("x", TWO) == ONE
    await it.forget("x", ONE)
    assert await it.begin("x", TWO) is None


def test_what_is_kept_is_kept_for_a_day_and_not_for_ever(store: Make) -> None:
    async def main() -> None:
        it = store()
        await it.begin("x", ONE)
        await asyncio.sleep(KEPT_SECONDS - 1)
        assert await it.begin("x", TWO) == ONE
        await asyncio.sleep(2)
        assert await it.begin("x", TWO) is None
        await it.aclose()

    run(main(), at_most=10 * KEPT_SECONDS)


async def test_memory_holds_the_last_ones_only() -> None:
    it = closed_later(MemoryRecords(at_most=10))
    for number in range(11):
        await it.begin(str(number), ONE)
    assert await it.begin("10", TWO) == ONE
    assert await it.begin("0", TWO) is None


async def test_results_take_so_many_bytes_and_outcomes_outlive_them() -> None:
    it = closed_later(MemoryRecords(max_bytes=100))
    done = {str(number): replace(TWO, run=RunRef("9", str(number)), result=b"x" * 40) for number in range(5)}
    for name, outcome in done.items():
        assert await it.begin(name, ONE) is None
        assert await it.change(name, ONE, outcome)
    kept = {name: await it.begin(name, ONE) for name in done}
    results = [outcome and outcome.result for outcome in kept.values()]
    assert results == [b"", b"", b"", b"x" * 40, b"x" * 40]
    assert all(outcome == replace(done[name], result=outcome.result) for name, outcome in kept.items() if outcome)
    assert await it.change("0", done["0"], replace(done["0"], result=b"x" * 1000))
    assert await it.begin("0", ONE) == replace(done["0"], result=b"")
