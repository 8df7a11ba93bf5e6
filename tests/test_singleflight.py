import asyncio
from functools import partial

import pytest

from codegen_api.singleflight import Singleflight

pytestmark = pytest.mark.virtual_time


async def test_all_who_ask_at_the_same_time_share_one_call() -> None:
    flights: Singleflight[str, int] = Singleflight()
    calls = 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)
        return calls

    assert await asyncio.gather(*(flights.share("a", call) for _ in range(1000))) == [1] * 1000
    assert await flights.share("a", call) == 2


async def test_different_questions_are_asked_beside_each_other() -> None:
    flights: Singleflight[int, int] = Singleflight()

    async def call(number: int) -> int:
        await asyncio.sleep(1)
        return number

    answers = await asyncio.gather(*(flights.share(n, partial(call, n)) for n in range(10)))
    assert answers == list(range(10))
    assert asyncio.get_running_loop().time() == pytest.approx(1)


async def test_an_error_is_shared_and_not_remembered() -> None:
    flights: Singleflight[str, int] = Singleflight()

    async def fail() -> int:
        await asyncio.sleep(1)
        raise LookupError("no")

    async def answer() -> int:
        return 7

    outcomes = await asyncio.gather(*(flights.share("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LookupError] * 3
    assert await flights.share("a", answer) == 7


async def test_a_caller_who_leaves_does_not_take_the_call_from_the_others() -> None:
    flights: Singleflight[str, str] = Singleflight()

    async def call() -> str:
        await asyncio.sleep(1)
        return "here"

    first, second = (asyncio.create_task(flights.share("a", call)) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert await second == "here"
    assert first.cancelled()


async def test_an_error_that_nobody_waits_for_any_more_disturbs_nobody() -> None:
    flights: Singleflight[str, str] = Singleflight()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fail() -> str:
        await asyncio.sleep(1)
        raise LookupError

    only = asyncio.create_task(flights.share("a", fail))
    await asyncio.sleep(0.5)
    only.cancel()
    await asyncio.sleep(1)
    assert not complaints


async def test_closing_ends_what_is_under_way() -> None:
    flights: Singleflight[str, str] = Singleflight()

    async def call() -> str:
        await asyncio.sleep(1000)
        return "never"

    waiting = asyncio.create_task(flights.share("a", call))
    await asyncio.sleep(1)
    await flights.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.get_running_loop().time() == pytest.approx(1)


async def test_closing_waits_as_long_as_it_is_told_to() -> None:
    flights: Singleflight[str, str] = Singleflight()

    async def call(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "here"

    soon, late = (asyncio.create_task(flights.share(str(each), partial(call, each))) for each in (5, 20))
    await asyncio.sleep(1)
    assert not await flights.wait_for("another", within=1000)
    assert await flights.wait_for("20", within=1)
    await flights.aclose(within=10)
    assert await soon == "here"
    with pytest.raises(asyncio.CancelledError):
        await late
    assert asyncio.get_running_loop().time() == pytest.approx(12)
