import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.pace import (
    CLOCK_MARGIN,
    FAST,
    MIN_WAIT,
    OVERDUE,
    READ_SHARE,
    RESERVE,
    RESTING,
    WINDOW,
    Budget,
    Cadence,
    Need,
    Patience,
)

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


def test_a_quiet_log_is_read_less_often_only_as_far_as_the_budget_has_no_room() -> None:
    cadence = Cadence(fast=1, slow=10)
    rooms = (0.1, 1.2, 1.5, 9, 9, 9, 0.5, math.inf)
    assert [cadence.next(news=False, room=room) for room in rooms] == [1, 1.2, 1.5, 2.25, 3.375, 5.0625, 1, 1.5]
    assert cadence.next(news=False, resting=True, room=1) == RESTING
    assert Cadence(fast=5, slow=9).next(news=False, room=1) == 5


def test_however_much_room_there_is_a_quiet_log_is_read_once_a_second_and_less_often_in_a_crowd() -> None:
    cadence = Cadence(fast=0.1)
    assert max(cadence.next(news=False, room=0) for _ in range(20)) == 1
    assert max(cadence.next(news=False, room=0, runs=2000) for _ in range(20)) == 4
    assert max(cadence.next(news=False, room=0, runs=20_000) for _ in range(20)) == 10
    cadence.notified = True
    assert max(cadence.next(news=False, room=0) for _ in range(20)) == 10


def test_quiet_logs_leave_most_of_a_budget_to_others() -> None:
    budget = Budget(480)
    for number in range(100):
        room = budget.quiet(number)
        assert room == pytest.approx(WINDOW / (0.125 * (384 - min(number, 60))), rel=0.02)
        budget.begin(number)
        budget.sent()
        budget.asking()
        budget.asked(number)
        budget.finish(number)
    budget.refused(100, 5)
    assert budget.quiet(100) == math.inf


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
    patience = Patience(first=first, longest=longest, chance=random.Random(seed).random)
    for count, retry_after in enumerate(failures):
        least = min(first * 2.0**count, longest) if retry_after is None else max(retry_after, MIN_WAIT)
        assert least * 0.999 <= patience.next(retry_after) <= least * 1.251


def test_two_who_failed_together_do_not_come_back_together() -> None:
    one, other = Patience(), Patience()
    assert one.next() != pytest.approx(other.next(), abs=1e-12)


def test_patience_is_bounded_however_long_it_goes_on() -> None:
    patience = Patience(longest=30)
    assert max(patience.next() for _ in range(5000)) <= 30 * 1.25


# -- the budget -------------------------------------------------------------------------------------------------------


class Spender:
    """Asks the host as a budget allows, and remembers when."""

    def __init__(self, limit: float, latency: float, cost: int = 1) -> None:
        self.budget = Budget(limit, cost=cost, chance=random.Random(1).random)
        self.cost = cost
        self.now = 0.0
        self.latency = latency
        self.calls: list[float] = []
        self.reads: list[float] = []
        self.loads: list[int] = []
        """How many requests of any kind there had been within the window, at each read, itself included."""

    def call(self) -> None:
        """Somebody asks who waits for the answer: at once."""
        self.calls.append(self.now)
        self.budget.asking()
        self.now += self.latency
        self.budget.asked(self.now)

    def read(self, waiting: int = 1, late: bool = False) -> None:
        """Read as soon as that is allowed."""
        while (wait := self.budget.wait(self.now, waiting=waiting, late=late)) > 0:
            assert wait < math.inf
            self.now += max(wait, 1e-6)
        self.reads.append(self.now)
        self.loads.append(sum(self.now - WINDOW < moment for moment in self.calls + self.reads))
        self.budget.begin(self.now)
        self.budget.sent()
        for _ in range(self.cost):
            self.budget.asking()
            self.now += self.latency
            self.budget.asked(self.now)
        self.budget.finish(self.now)
        self.budget.accepted(self.now)


spending = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.3, 5.0, 40.0]), st.sampled_from(["call", "read", "late"]), st.integers(1, 30)
    ),
    max_size=25,
)


@given(spending, st.sampled_from([1.0, 7.5, 60.0, 600.0]), st.sampled_from([0.0, 0.05, 2.0]))
def test_reading_takes_its_part_in_no_window_and_leaves_room(
    steps: list[tuple[float, str, int]], limit: float, latency: float
) -> None:
    spender = Spender(limit, latency)
    for pause, what, count in steps:
        spender.now += pause
        for _ in range(count):
            if what == "call":
                spender.call()
            else:
                spender.read(waiting=count, late=what == "late")
    for moment in spender.reads:
        reads = [each for each in spender.reads if moment - WINDOW < each <= moment]
        assert len(reads) <= max(1, limit * READ_SHARE)
    assert all(load <= max(1, limit * (1 - RESERVE)) for load in spender.loads)


def test_a_burst_is_read_at_once_and_what_follows_at_an_even_pace() -> None:
    spender = Spender(60, 0.0)
    for _ in range(96):
        spender.read()
    at_once = spender.reads.count(0)
    assert 10 <= at_once <= 15
    assert spender.reads[48] >= WINDOW
    pauses = [later - earlier for earlier, later in itertools.pairwise(spender.reads[at_once:])]
    assert max(pauses) < 2


@pytest.mark.parametrize("cost", [2, 3, 8])
def test_reads_that_take_several_requests_each_keep_an_even_pace_as_well(cost: int) -> None:
    spender = Spender(60, 0.0, cost)
    for _ in range(5 * 48 // cost):
        spender.read()
    at_once = spender.reads.count(0)
    assert 1 <= at_once <= max(2, 15 // cost)
    pauses = [later - earlier for earlier, later in itertools.pairwise(spender.reads[at_once:])]
    assert max(pauses) < 1.5 * cost * WINDOW / 48
    assert max(sum(at - WINDOW < each <= at for each in spender.reads) for at in spender.reads) * cost <= 48


@pytest.mark.parametrize("limit", [1, 5, 60])
def test_a_read_that_takes_more_than_the_host_is_believed_to_allow_is_tried_all_the_same(limit: float) -> None:
    spender = Spender(limit, 0.0, 8)
    for _ in range(20):  # by which only a tenth is believed of it
        spender.budget.refused(spender.now, 1)
        spender.now += 2
    for _ in range(3):
        spender.read()
    assert spender.reads[-1] <= 3 * (WINDOW + 5)


def test_reads_under_way_are_counted_with_all_their_requests() -> None:
    budget = Budget(60, cost=8)
    for _ in range(40):
        budget.asking()
        budget.asked(0)
    for now in (10, 20):
        assert budget.wait(now, late=True) == 0
        budget.begin(now)
        budget.sent()
        budget.asking()
    assert budget.wait(30, late=True) > 0


def test_what_calls_have_left_is_spread_over_the_window() -> None:
    spender = Spender(60, 0.0)
    for _ in range(52):
        spender.call()
    for _ in range(5):
        spender.read(waiting=20)
    assert spender.reads[0] == 0
    assert spender.reads == pytest.approx([0, 12, 24, 36, 48])
    spender.read(waiting=20)
    assert spender.reads[5] >= WINDOW


def test_a_budget_remembers_no_more_requests_than_the_limit_and_waits_for_the_same_one() -> None:
    budget = Budget(60)
    for number in range(10_000):
        budget.asking()
        budget.asked(number / 1000)
    assert len(budget._all) <= 61
    # 57 of the last have to be gone
    assert budget.wait(10) == pytest.approx(9.943 + WINDOW + CLOCK_MARGIN - 10)


def test_who_is_late_keeps_half_the_distance_and_only_that() -> None:
    spender = Spender(60, 0.0)
    for _ in range(48):
        spender.read(waiting=50, late=True)
    pauses = [later - earlier for earlier, later in itertools.pairwise(spender.reads)]
    assert pauses == pytest.approx([WINDOW / 48 / 2] * 47)
    spender.read(late=True)
    assert spender.reads[-1] >= WINDOW


def test_a_read_that_is_under_way_counts_once() -> None:
    budget = Budget(60)
    for number in range(40):
        now = 10.0 * number
        assert budget.wait(now) == 0
        budget.begin(now)
        budget.sent()
        budget.asking()
    assert budget.left(400) == 8


def test_while_answers_are_under_way_a_read_waits_for_them_where_they_decide() -> None:
    budget = Budget(2)
    budget.asking()
    assert budget.wait(0) == math.inf
    budget.asked(1)
    assert budget.wait(1) == pytest.approx(WINDOW, abs=0.1)
    assert budget.wait(62) == 0


def test_a_refusal_closes_the_budget_for_as_long_as_the_host_says_and_is_remembered() -> None:
    budget = Budget(60, chance=random.Random(1).random)
    before = budget.left(0)
    budget.refused(0, 7)
    assert 7 <= budget.closed(0) <= 7 * 1.25
    assert budget.wait(0) == budget.closed(0)
    assert budget.left(0) == 0
    assert not budget.idle(0)
    budget.refused(0.1, None)  # it was under way at the same time
    assert budget.closed(0) <= 7 * 1.25
    budget.refused(0.2, 30)  # and so was this one, but it says more
    assert 30 <= budget.closed(0.2) <= 30 * 1.25
    assert 0.5 * before < budget.left(60) < 0.9 * before
    for now in range(60, 240):
        budget.accepted(now)
    assert budget.left(240) == before
    assert budget.idle(240)


def test_refusals_that_say_nothing_are_waited_for_longer_and_longer_until_it_goes_well() -> None:
    budget = Budget(60, chance=random.Random(1).random)
    waits, now = [], 0.0
    for _ in range(5):
        budget.refused(now, None)
        waits.append(budget.closed(now))
        now += waits[-1]
    assert [10 * 2**n <= wait <= 10 * 2**n * 1.25 for n, wait in enumerate(waits[:3])] == [True] * 3
    assert max(waits) <= 75
    budget.accepted(now)
    budget.refused(now, None)
    assert budget.closed(now) <= 12.5


def test_a_limit_never_falls_below_a_tenth() -> None:
    budget, now = Budget(60), 0.0
    for _ in range(50):
        budget.refused(now, 1)
        now += 2
    assert budget.left(now) >= 4


def test_what_is_believed_of_a_limit_grows_again_although_nothing_is_read() -> None:
    budget = Budget(60)
    budget.refused(0, 1)
    budget.refused(2, 1)
    lowered = budget.allowed(2)
    assert lowered == 60 * 0.75**2
    assert budget.allowed(62) == pytest.approx(lowered + 6)
    assert budget.allowed(602) == 60
    budget.refused(602, 1)
    assert budget.allowed(602) == 60 * 0.75**3  # it was not that long ago that it was found too much, and nobody tried


@pytest.mark.parametrize(("others", "tried"), [(40, True), (56, True), (57, False)])
def test_a_late_read_is_tried_once_a_minute_where_others_get_all_that_is_believed_of_the_limit(
    others: int, tried: bool
) -> None:
    budget = Budget(60)
    for now in (0, 2, 4, 6, 8):
        budget.refused(now, 1)
    for _ in range(others):
        budget.asking()
        budget.asked(60)
    assert budget.wait(61) > 0
    assert (budget.wait(61, late=True) == 0) == tried  # but never beyond the limit itself
    budget.begin(61)
    budget.sent()
    budget.finish(61)
    assert budget.wait(62, late=True) > 0
    assert budget.wait(100, late=True) > 0


def test_what_the_host_says_is_left_holds_as_far_as_it_is_less() -> None:
    budget = Budget(60)
    budget.reported(0, 100, 60)
    assert budget.wait(0) == 0
    budget.reported(0, 3, 30)
    assert budget.wait(0) == 0
    budget.reported(0, 1, 30)
    assert budget.wait(0) == budget.closed(0) == pytest.approx(30, abs=0.1)
    assert budget.wait(31) == 0
    budget.asking()
    assert budget.wait(31) == math.inf  # its answer will tell
    budget.asked(31)
    assert budget.wait(31) == 0
    assert budget.wait(31 + WINDOW) == 0


def test_what_was_not_read_for_long_comes_first_and_then_what_is_latest_by_its_own_measure() -> None:
    now = 100.0
    busy, quiet, long_ago = Need(now - 5, 1.25), Need(now - 20, 10), Need(now - OVERDUE, 20)
    assert sorted([busy, quiet, long_ago], key=lambda need: need.urgency(now)) == [quiet, busy, long_ago]
    assert Need(now - OVERDUE - 1, 1.25).urgency(now) > long_ago.urgency(now)


def test_a_host_that_says_that_nothing_is_left_for_an_hour_is_asked_again_before() -> None:
    budget = Budget(60)
    budget.reported(0, 0, 3600)
    assert 200 < budget.wait(0) < 400


def spend(budget: Budget, reads: int, others: int) -> None:
    """All in one moment."""
    for number in range(reads + others):
        if number < reads:
            budget.begin(0)
        else:
            budget.promise()
        budget.sent()
        budget.asking()
        budget.asked(0)
        if number < reads:
            budget.finish(0)


@pytest.mark.parametrize(
    ("reads", "others", "spare"),
    [
        (0, 0, 27),  # half of the limit stays free for reading
        (10, 0, 17),
        (30, 0, 12),  # the part that reading leaves
        (30, 8, 4),
        (48, 8, 1),
        (48, 9, 0),
        (0, 30, -3),
    ],
)
def test_calls_of_who_waits_have_the_part_that_reading_leaves_and_more_while_half_is_free(
    reads: int, others: int, spare: int
) -> None:
    budget = Budget()
    spend(budget, reads, others)
    assert budget.spare(0) == spare
    assert budget.spare(61) == 27
    budget.promise()
    assert budget.spare(61) == 26
    budget.refused(61, 10)
    assert budget.spare(61) == 0


def test_what_is_unspent_is_a_share_of_the_limit_and_nothing_while_the_host_refuses() -> None:
    budget = Budget(10, chance=lambda: 0.0)
    assert budget.unspent(0) == 1
    budget.asking()
    assert budget.unspent(0) == 0.9
    budget.asked(1)
    assert budget.unspent(1) == 0.9
    budget.reported(2, 5, 30)
    assert budget.unspent(2) == 0.5
    assert budget.unspent(40) == 0.9  # what the host said was for thirty seconds
    budget.begin(41)
    budget.sent()
    budget.refused(41, 20)
    assert budget.unspent(42) == 0
