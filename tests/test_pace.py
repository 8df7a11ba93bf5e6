import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.pace import FAST, RESTING, Cadence, Patience

looks = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=50)


@given(looks, st.sampled_from([0.1, 1.25, 15.0, 40.0]))
def test_a_log_is_never_read_more_often_than_is_fast_nor_less_often_than_is_slow(
    seen: list[tuple[bool, bool]], fast: float
) -> None:
    cadence = Cadence(fast=fast)
    for news, resting in seen:
        delay = cadence.next(news=news, resting=resting)
        assert fast <= delay <= max(RESTING, fast)
        if news:
            assert delay == fast


def test_four_fifths_of_the_host_s_sixty_a_minute_are_for_logs() -> None:
    assert 60 / FAST == 48


def test_a_quiet_log_is_read_less_and_less_often() -> None:
    cadence = Cadence(fast=1, slow=5)
    assert [cadence.next(news=False) for _ in range(6)] == [1.5, 2.25, 3.375, 5, 5, 5]
    assert cadence.next(news=True) == 1


def test_a_run_that_waits_for_somebody_is_read_slowly_at_once() -> None:
    cadence = Cadence(fast=1, slow=5, resting=9)
    assert cadence.next(news=False, resting=True) == 9
    assert cadence.next(news=True, resting=True) == 1


def test_what_is_fast_for_a_small_share_may_be_slower_than_slow() -> None:
    cadence = Cadence(fast=10, slow=5)
    assert cadence.next(news=True) == 10
    assert cadence.next(news=False) == 10


asked = st.none() | st.floats(0, 3600, allow_nan=False)


@given(
    st.lists(asked, max_size=60),
    st.floats(0.01, 10, allow_nan=False),
    st.floats(10, 300, allow_nan=False),
    st.integers(),
)
def test_patience_stays_between_what_the_host_asked_for_and_the_longest_wait(
    failures: list[float | None], first: float, longest: float, seed: int
) -> None:
    patience = Patience(first=first, longest=longest, rng=random.Random(seed))
    for count, retry_after in enumerate(failures):
        least = min(first * 2.0**count, longest) if retry_after is None else max(retry_after, first)
        assert least * 0.999 <= patience.next(retry_after) <= least * 1.251


def test_two_who_failed_together_do_not_come_back_together() -> None:
    one, other = Patience(), Patience()
    assert one.next() != pytest.approx(other.next(), abs=1e-12)


def test_patience_is_bounded_however_long_it_goes_on() -> None:
    patience = Patience(longest=30)
    assert max(patience.next() for _ in range(5000)) <= 30 * 1.25
