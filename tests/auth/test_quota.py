import asyncio
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.auth.quota import WINDOW, Quota, QuotaState
from codegen_api.identity import Principal
from tests.auth.clock import BEGINNING, Clock

ALICE, BOB = Principal("codegen", "1"), Principal("codegen", "2")


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    with pytest.MonkeyPatch.context() as patch:
        yield Clock(patch)


async def test_so_many_are_granted_and_the_next_is_not(clock: Clock) -> None:
    quota = Quota(3)
    clock.now = BEGINNING + 20
    assert [await quota.take(ALICE) for _ in range(5)] == [
        QuotaState(True, 3, 2, 40),
        QuotaState(True, 3, 1, 40),
        QuotaState(True, 3, 0, 40),
        QuotaState(False, 3, 0, 40),
        QuotaState(False, 3, 0, 40),
    ]
    assert (await quota.take(BOB)).remaining == 2


async def test_people_of_different_authorities_are_different_people(clock: Clock) -> None:
    quota = Quota(1)
    for principal in (
        ALICE,
        Principal("key", "1"),
        Principal("jwt:https://a", "b/c"),
        Principal("jwt:https://a/b", "c"),
        Principal("jwt:https:", "/a/b/c"),
    ):
        assert (await quota.take(principal)).granted
        assert not (await quota.take(principal)).granted


steps = st.lists(st.floats(0, 90) | st.sampled_from([0.0, 0.0, 0.0, 1.0, 60.0]), max_size=60)


@given(st.integers(1, 20), steps)
def test_a_minute_holds_so_many_and_whoever_waits_as_told_gets_in(clock: Clock, limit: int, waits: list[float]) -> None:
    async def main() -> None:
        clock.now = BEGINNING
        quota, granted = Quota(limit), []
        for wait in waits:
            clock.now += wait
            left = await quota.take(ALICE)
            assert 0 <= left.remaining < limit + (not left.granted)
            assert 1 <= left.seconds <= WINDOW
            if left.granted:
                granted.append(clock.now)
            else:
                assert left.remaining == 0
                clock.now += left.seconds
                assert (await quota.take(ALICE)).granted
                granted.append(clock.now)
        for start in granted:
            # in a minute of the clock so many, in one that lies across two of them twice as many at the very most
            assert sum(1 for at in granted if start <= at < start + WINDOW) <= 2 * limit
            minute = start // WINDOW
            assert sum(1 for at in granted if at // WINDOW == minute) <= limit

    asyncio.run(main())


async def test_somebody_who_has_gone_is_forgotten(clock: Clock) -> None:
    quota = Quota(5)
    storage = quota._limiter.storage
    for user in range(100):
        await quota.take(Principal("codegen", str(user)))
    assert len(storage.storage) == 100  # type: ignore[attr-defined]
    clock.now += 2 * WINDOW
    for _ in range(2):
        await quota.take(ALICE)
        await asyncio.sleep(0)
    for kept in ("storage", "locks", "expirations"):
        assert len(getattr(storage, kept)) == 1


@pytest.mark.virtual_time
async def test_counting_leaves_neither_tasks_nor_threads(clock: Clock) -> None:
    threads = threading.active_count()

    quota = Quota(5)
    for user in range(50):
        await quota.take(Principal("codegen", str(user)))
    assert threading.active_count() == threads
    await asyncio.sleep(0)
