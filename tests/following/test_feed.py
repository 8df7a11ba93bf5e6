"""The feed of runs, in virtual time: what its viewers see, when, and what it costs the host."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import (
    AtCapacity,
    Forbidden,
    GatewayError,
    InvalidCursor,
    InvalidToken,
    RateLimited,
    Rejected,
    ShuttingDown,
    Unsupported,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from codegen_api.following import FeedPosition, Patrol
from codegen_api.gateway import Gateway
from codegen_api.gateway.ownership import Ownership
from codegen_api.identity import READ, SCOPES
from codegen_api.upstreams import NewRun
from tests.closing import afterwards
from tests.fakehost import FakeHost, Sequence, caller, in_front_of
from tests.following.feeding import Onlooker
from tests.following.viewing import Viewer
from tests.test_ownership import SECRET, gateway_to, user
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

EVERY = 20
"""Seconds from one reading of the list to the next, where the host has the usual limit."""


def host_with(count: int, status: str = "COMPLETE", **more: Any) -> FakeHost:
    host = FakeHost(**more)
    for number in range(1, count + 1):
        host.add(str(number), status=status)
    return host


def newest(host: FakeHost, limit: int = 50) -> dict[Any, str]:
    return {int(hosted.ref.id): hosted.status for hosted in list(host.runs.values())[-limit:]}


def watched(gateway: Gateway, *onlookers: Onlooker, until: float | None = None) -> "asyncio.Future[Any]":
    """All watch, at most until the test is over."""
    watching = asyncio.gather(*(each.watch(gateway, until) for each in onlookers))

    async def over() -> None:
        watching.cancel()
        await asyncio.wait({watching})

    afterwards(over)
    return watching


# -- what is seen -----------------------------------------------------------------------------------------------------


@pytest.mark.wire("feed-list", "feed-run", "feed-removed")
async def test_a_viewer_has_the_newest_runs_as_the_host_has_them() -> None:
    host = host_with(60)
    gateway = in_front_of(host)
    one = Onlooker()
    watched(gateway, one)
    await one.sees(newest(host), within=1)
    assert one.order == list(range(60, 10, -1))
    host.add("61")
    host.runs["20"].status = "ERROR"
    await one.sees(newest(host), within=EVERY + 1)
    assert one.told[50:] == [(61, "ACTIVE"), (20, "ERROR")]
    assert 11 not in one.order
    del host.runs["30"]
    await one.sees(newest(host), within=EVERY + 1)
    assert one.told[52:] == [(11, "COMPLETE")]
    assert host.calls == {"list": 3}


@pytest.mark.wire("feed-list")
async def test_an_empty_feed_says_so_at_once() -> None:
    host = FakeHost()
    gateway = in_front_of(host)
    one = Onlooker()
    await one.watch(gateway, updates=1)
    assert (one.order, one.told, str(one.position)) == ([], [], "0")


@pytest.mark.wire("feed-shared")
async def test_two_hundred_viewers_of_fifty_runs_cost_the_host_one_list_per_interval() -> None:
    host = host_with(50, "ACTIVE")
    gateway = in_front_of(host, max_streams_each=200)
    everybody = [Onlooker() for _ in range(200)]
    watched(gateway, *everybody)
    await asyncio.gather(*(each.sees(newest(host), within=1) for each in everybody))
    for number in range(10):
        host.runs[str(number + 1)].status = "COMPLETE"
        await asyncio.sleep(EVERY)
    for each in everybody:
        await each.sees(newest(host), within=EVERY + 1)
        assert len(each.told) == 60
    assert host.calls == {"list": 11}


@pytest.mark.wire("feed-shared")
async def test_each_credential_has_a_reading_of_its_own() -> None:
    host = host_with(3)
    gateway = in_front_of(host)
    alice, bob = Onlooker(), Onlooker(caller("bob"))
    watching = watched(gateway, alice, bob)
    await asyncio.sleep(EVERY * 1.5)
    assert sorted(token for _, _, token in host.log) == ["alice", "alice", "bob", "bob"]
    watching.cancel()
    watching = watched(gateway, bob)
    await asyncio.sleep(10 * EVERY)
    assert sorted(token for _, _, token in host.log) == ["alice", "alice", *["bob"] * 12]


@pytest.mark.wire("feed-shared")
async def test_who_leaves_and_comes_back_soon_costs_nothing_and_nobody_is_read_for() -> None:
    host = host_with(3)
    gateway = in_front_of(host)
    one = Onlooker()
    for _ in range(10):
        await one.watch(gateway, updates=1)
        await asyncio.sleep(1)
    assert host.calls["list"] == 1
    await asyncio.sleep(500)
    assert host.calls["list"] == 1
    assert gateway.viewers == 0


@pytest.mark.wire("feed-ids")
async def test_named_runs_are_had_wherever_they_are_and_others_are_not() -> None:
    host = host_with(150)
    host.barred.add(("alice", "4"))
    gateway = in_front_of(host)
    one = Onlooker(ids=("3", "4", "149", "999"))
    watched(gateway, one)
    await one.sees({3: "COMPLETE", 149: "COMPLETE"}, within=3)
    host.runs["3"].status, host.runs["149"].status = "ACTIVE", "ERROR"
    await one.sees({3: "ACTIVE", 149: "ERROR"}, within=14 * EVERY)  # it had ended, so it is looked at less often
    host.runs["3"].status = "PAUSED"
    await one.sees({3: "PAUSED", 149: "ERROR"}, within=5 * EVERY)
    del host.runs["3"]
    await one.sees({149: "ERROR"}, within=5 * EVERY)
    host.barred.clear()
    await one.sees({4: "COMPLETE", 149: "ERROR"}, within=14 * EVERY)
    calls = sum(host.calls.values())
    await asyncio.sleep(100 * EVERY)
    assert sum(host.calls.values()) - calls <= 2 * 100 + 2


@pytest.mark.wire("feed-run")
async def test_who_takes_what_comes_slowly_gets_how_it_is_then() -> None:
    host = host_with(100, "ACTIVE")
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=5000))
    slow = Onlooker(limit=100)
    stream = gateway.feeds.updates(caller(), "9", None, 100, FeedPosition())
    slow.take(await anext(stream))
    for status in ["PAUSED", "ACTIVE", "WAITING", "PAUSED", "ACTIVE", "ERROR", "COMPLETE"]:
        for hosted in host.runs.values():
            hosted.status = status
        if len(slow.told) < 100:
            slow.take(await anext(stream))
        await asyncio.sleep(EVERY + 1)
    async with asyncio.timeout(1):
        while each_status(slow) != newest(host, 100):
            slow.take(await anext(stream))
    assert len(slow.told) <= 110
    await stream.aclose()


# -- what the gateway knows by itself ---------------------------------------------------------------------------------


@pytest.mark.wire("feed-at-once")
async def test_what_passes_through_the_gateway_is_seen_at_once() -> None:
    host = host_with(2)
    gateway = in_front_of(host)
    one, other = Onlooker(), Onlooker(caller("bob"))
    watched(gateway, one, other)
    await one.sees(newest(host), within=1)
    lists = host.calls["list"]
    await gateway.create(caller(), "9", NewRun("Say hello"))
    await one.sees({1: "COMPLETE", 2: "COMPLETE", 3: "ACTIVE"}, within=1)
    assert one.order[0] == 3
    assert 3 not in other.runs  # the host has not shown it with that token
    await gateway.get(caller(), "9", "3")
    assert 3 not in other.runs
    await gateway.resume(caller(), "9", "1", "Go on", None)
    for each in (one, other):
        await each.sees({**each_status(each), 1: "ACTIVE"}, within=1)
    await gateway.cancel(caller("bob"), "9", "1")
    for each in (one, other):
        await each.sees({**each_status(each), 1: "CANCELLED"}, within=1)
    host.runs["2"].status = "ERROR"
    await gateway.get(caller("bob"), "9", "2")
    for each in (one, other):
        await each.sees({**each_status(each), 2: "ERROR"}, within=1)
    assert host.calls["list"] == lists
    await other.sees(newest(host), within=EVERY + 1)


def each_status(onlooker: Onlooker) -> dict[Any, str]:
    return {name: run["status"] for name, run in onlooker.runs.items()}


@pytest.mark.wire("feed-at-once")
async def test_what_is_read_of_a_followed_run_is_seen_at_once() -> None:
    host = host_with(3)
    host.add("1", status="ACTIVE").append(2)
    gateway = in_front_of(host)
    one, viewer = Onlooker(caller("bob")), Viewer()
    watched(gateway, one)
    following = asyncio.ensure_future(viewer.watch(gateway))
    await one.sees(newest(host), within=1)
    lists = host.calls["list"]
    host.runs["1"].status = "PAUSED"
    await one.sees(newest(host), within=5)
    host.runs["1"].status = "COMPLETE"
    await one.sees(newest(host), within=EVERY)
    assert host.calls["list"] == lists
    await following


@pytest.mark.wire("resume-doubt", "feed-at-once")
async def test_an_old_end_is_not_told_after_a_resume() -> None:
    host = host_with(2)
    gateway = in_front_of(host)
    one = Onlooker()
    watched(gateway, one)
    await one.sees(newest(host), within=1)
    await gateway.resume(caller(), "9", "1", "Go on", None)
    host.runs["1"].status = "COMPLETE"  # as the host's list has it, which is behind
    await one.sees({1: "ACTIVE", 2: "COMPLETE"}, within=1)
    await asyncio.sleep(29)
    assert one.runs[1]["status"] == "ACTIVE"
    assert host.calls["list"] == 2
    await one.sees(newest(host), within=EVERY)


@pytest.mark.wire("feed-rights")
async def test_what_others_learn_of_a_run_is_not_told_to_who_was_not_shown_it_lately() -> None:
    host = host_with(150)
    host.add("1").append(1)
    gateway = in_front_of(host)
    bob, alice = Onlooker(caller("bob"), ids=("1",)), Viewer()
    watched(gateway, bob)
    following = asyncio.ensure_future(alice.watch(gateway))
    await bob.sees({1: "ACTIVE"}, within=5)
    host.latency = 0.5

    async def down_for_bob(operation: str) -> None:
        if operation == "get":
            raise UpstreamError

    host.before = down_for_bob  # so nobody is shown it any more
    await asyncio.sleep(65)
    host.barred.add(("bob", "1"))
    host.runs["1"].status = "WAITING"
    await asyncio.sleep(30)
    assert "WAITING" in alice.statuses
    assert bob.told == [(1, "ACTIVE")]

    async def up_again(_: str) -> None: ...

    host.before = up_again
    await bob.sees({}, within=2 * EVERY)
    assert bob.told == [(1, "ACTIVE")]
    following.cancel()


# -- coming back ------------------------------------------------------------------------------------------------------


@pytest.mark.wire("feed-position")
async def test_who_comes_back_gets_what_has_changed_and_nothing_else() -> None:
    host = host_with(10)
    gateway = in_front_of(host)
    one = Onlooker()
    await one.watch(gateway, 1)
    assert len(one.told) == 10
    await one.watch(gateway, 1)
    assert len(one.told) == 10
    await gateway.aclose()
    host.runs["4"].status = "ERROR"
    del host.runs["7"]
    host.add("11")
    for _ in range(2):  # a restart, and another
        gateway = Gateway(host, MemoryBroker())
        await one.watch(gateway, 1)
        await gateway.aclose()
        assert one.told[10:] == [(11, "ACTIVE"), (4, "ERROR")]
        assert each_status(one) == newest(host)
        assert one.order == [11, 10, 9, 8, 6, 5, 4, 3, 2, 1]


@pytest.mark.wire("feed-position")
async def test_a_viewer_who_is_cut_off_after_each_event_gets_on() -> None:
    host = host_with(5)
    one = Onlooker()
    for number in range(1, 6):
        gateway = Gateway(host, MemoryBroker())
        await one.watch(gateway, updates=2)  # the list, and a run
        await gateway.aclose()
        assert len(one.runs) == number
    assert each_status(one) == newest(host)


@pytest.mark.wire("feed-position")
async def test_nobody_gets_an_older_state_than_they_have_from_a_process_that_knows_less() -> None:
    host = host_with(3, "ACTIVE")
    behind, ahead = in_front_of(host), in_front_of(host)
    one, other = Onlooker(), Onlooker()
    watched(behind, other)
    await other.sees(newest(host), within=1)
    host.runs["2"].status = "COMPLETE"
    await one.watch(ahead, 1)
    assert each_status(one) == newest(host)
    told = len(one.told)
    await one.watch(behind, 5)
    assert len(one.told) == told
    assert one.quiet >= 1
    host.runs["1"].status = "COMPLETE"
    await one.watch(behind, EVERY)
    assert one.told[told:] == [(1, "COMPLETE")]


@pytest.mark.wire("feed-position")
@pytest.mark.parametrize("text", ["25", "3.end", "x", "0" * 8 + "é", "A" * 7, "A" * 808, "", "00"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        FeedPosition.parse(text)


@pytest.mark.wire("feed-position", "feed-run", "feed-removed", "owner-lists")
@given(st.integers(0, 10**9))
@example(109)  # runs in the front of the list go while the rest of it is searched
@example(1258)  # runs behind the front go, and so the index leads too far
@settings(max_examples=15, deadline=None)
def test_whatever_happens_everybody_has_in_the_end_what_the_host_has(seed: int) -> None:
    """Runs are started, changed, removed and pushed out by those of others; viewers and gateways come and go."""
    draw = random.Random(seed)
    host = host_with(0)
    shared = draw.random() < 0.5
    names = ["ann", "eve", None]

    def start(count: int) -> None:
        for _ in range(count):
            name = draw.choice(names)
            marks = Ownership([SECRET]).marks(user(name)) if name else {}
            host.add(str(len(host.log) + int(max(host.runs, key=int, default="0")) + 1), marks=marks)

    def own(each: Onlooker) -> dict[Any, str]:
        marks = Ownership([SECRET]).marks(each.who)
        mine = [hosted for hosted in host.runs.values() if not shared or hosted.marks == marks]
        return {int(hosted.ref.id): hosted.status for hosted in mine[-each.limit :]}

    async def main() -> None:
        start(draw.choice([0, 3, 90, 130]))
        everybody = [
            Onlooker(user(draw.choice(["ann", "eve"])) if shared else caller(), limit=draw.choice([1, 7, 50]))
            for _ in range(4)
        ]
        gateways = [gateway_to(host) for _ in range(2)]
        for _ in range(draw.randint(1, 8)):
            await asyncio.gather(*(each.watch(draw.choice(gateways), draw.choice([0.01, 3, 45])) for each in everybody))
            for _ in range(draw.randint(0, 3)):
                start(draw.choice([1, 2, 40]))
            for name in list(host.runs):
                if draw.random() < 0.1:
                    host.runs[name].status = draw.choice(["ACTIVE", "COMPLETE", "ERROR"])
                if draw.random() < 0.02:
                    del host.runs[name]
            if draw.random() < 0.3:
                await gateways[0].aclose()
                gateways[0] = gateway_to(host)
        longest = EVERY * (len(host.runs) + 15 if shared else 3)  # what is far down the list is looked at one by one
        await asyncio.gather(*(each.watch(draw.choice(gateways), longest) for each in everybody))
        for each in everybody:
            assert each_status(each) == own(each)
        for gateway in gateways:
            await gateway.aclose()

    run(main(), at_most=10**6)


# -- whose ------------------------------------------------------------------------------------------------------------


@pytest.mark.wire("feed-rights", "owner-checked", "owner-all")
async def test_shared_callers_see_their_own_and_strangers_nothing() -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    ann, eve = Onlooker(user("ann")), Onlooker(user("eve"))
    boss, named = Onlooker(user("boss", SCOPES)), Onlooker(user("eve"), ids=("1", "2", "999"))
    watched(gateway, ann, eve, boss, named)
    await gateway.create(user("ann"), "9", NewRun("Say hello"))
    await ann.sees({1: "ACTIVE"}, within=1)
    await boss.sees({1: "ACTIVE"}, within=1)
    host.add("2")
    await boss.sees({1: "ACTIVE", 2: "ACTIVE"}, within=EVERY + 1)
    host.runs["1"].status = "ERROR"
    await ann.sees({1: "ERROR"}, within=EVERY + 1)
    assert (eve.order, eve.told, named.order, named.told) == ([], [], [], [])
    assert (eve.position, named.position) == (FeedPosition(), FeedPosition())
    with pytest.raises(Forbidden):
        await gateway.accounts.organization(user("ann", organization="8"), "9")


@pytest.mark.wire("feed-rights", "owner-lists", "feed-shared")
async def test_own_runs_are_found_behind_those_of_others_and_kept_when_these_push_them_out() -> None:
    host = FakeHost()
    marks = Ownership([SECRET]).marks(user("ann"))
    host.add("1", marks=marks)
    for number in range(2, 300):
        host.add(str(number))
    gateway = gateway_to(host)
    ann = Onlooker(user("ann"))
    watched(gateway, ann)
    await ann.sees({1: "ACTIVE"}, within=3)
    host.runs["1"].status = "COMPLETE"
    await ann.sees({1: "COMPLETE"}, within=2 * EVERY)
    host.add("300", marks=marks)
    await ann.sees({1: "COMPLETE", 300: "ACTIVE"}, within=EVERY + 1)
    for number in range(301, 390):  # it is still in the front
        host.add(str(number))
    await asyncio.sleep(EVERY + 1)
    for number in range(390, 700):  # nothing that was in the front is there any more
        host.add(str(number), marks=marks if number == 450 else {})
    await ann.sees({1: "COMPLETE", 300: "ACTIVE", 450: "ACTIVE"}, within=EVERY + 2)
    host.runs["300"].status = "ERROR"
    await ann.sees({1: "COMPLETE", 300: "ERROR", 450: "ACTIVE"}, within=4 * EVERY)
    del host.runs["300"]
    await ann.sees({1: "COMPLETE", 450: "ACTIVE"}, within=12 * EVERY)


@pytest.mark.wire("feed-run", "feed-at-once")
async def test_what_a_search_finds_is_no_newer_than_the_page_it_shares_with_another_search() -> None:
    host = FakeHost()
    host.add("1", marks=Ownership([SECRET]).marks(user("ann")))
    for number in range(2, 150):
        host.add(str(number))
    gateway, slow = gateway_to(host), [0.0]
    list_runs = host.list_runs

    async def listing(credential: Any, organization: str, skip: int, *rest: Any) -> Any:
        listed = await list_runs(credential, organization, skip, *rest)
        await asyncio.sleep(slow[0] if skip else 0)
        return listed

    host.list_runs = listing  # type: ignore[method-assign, assignment]
    first, second, third = (Onlooker(user("ann")) for _ in range(3))
    watched(gateway, first)
    await first.sees({1: "ACTIVE"}, within=3)
    slow[0] = 5
    watched(gateway, second)
    await asyncio.sleep(1)
    host.runs["1"].status = "COMPLETE"
    await gateway.get(user("ann"), "9", "1")
    await asyncio.sleep(1)
    watched(gateway, third)  # joins the search of the second
    await asyncio.sleep(10)
    assert first.told == [(1, "ACTIVE"), (1, "ACTIVE"), (1, "COMPLETE")]  # in the list, as a whole, and changed
    assert [each_status(each) for each in (second, third)] == [{1: "COMPLETE"}] * 2


@pytest.mark.wire("feed-shared")
async def test_two_hundred_users_who_share_a_token_cost_the_host_one_list_per_interval() -> None:
    host = FakeHost()
    people = [user(f"user {number}") for number in range(200)]
    for number in range(1, 51):
        host.add(str(number), marks=Ownership([SECRET]).marks(people[number]))
    gateway = gateway_to(host)
    everybody = [Onlooker(each) for each in people]
    watched(gateway, *everybody)
    await asyncio.sleep(10 * EVERY - 1)
    assert host.calls == {"list": 10}
    assert [len(each.runs) for each in everybody] == [0] + [1] * 50 + [0] * 149


@pytest.mark.wire("feed-rights", "right-asked-first")
async def test_a_run_that_was_shown_long_ago_is_asked_for_again_for_who_comes() -> None:
    host = host_with(150)
    gateway = in_front_of(host)
    first, second = Onlooker(ids=("1",)), Onlooker(ids=("1",))
    watched(gateway, first)
    await first.sees({1: "COMPLETE"}, within=3)
    await asyncio.sleep(70)
    host.barred.add(("alice", "1"))
    watched(gateway, second)
    await first.sees({}, within=3)
    assert second.told == []


@pytest.mark.wire("feed-trouble", "owner-lists")
async def test_a_search_for_own_runs_that_fails_is_an_error_at_first_and_repeated_later() -> None:
    host = FakeHost()
    marks = Ownership([SECRET]).marks(user("ann"))
    host.add("1", marks=marks)
    for number in range(2, 150):
        host.add(str(number))
    gateway, failing = gateway_to(host), [True]
    list_runs = host.list_runs

    async def listing(credential: Any, organization: str, skip: int, *rest: Any) -> Any:
        if skip and failing[0]:
            raise UpstreamRateLimited
        return await list_runs(credential, organization, skip, *rest)

    host.list_runs = listing  # type: ignore[method-assign, assignment]
    with pytest.raises(UpstreamRateLimited):
        await Onlooker(user("ann")).watch(gateway)
    failing[0] = False
    ann = Onlooker(user("ann"))
    watched(gateway, ann)
    await ann.sees({1: "ACTIVE"}, within=3)
    failing[0] = True
    for number in range(150, 400):
        host.add(str(number), marks=marks if number == 200 else {})
    await asyncio.sleep(2 * EVERY)
    assert each_status(ann) == {1: "ACTIVE"}
    failing[0] = False
    host.add("400")
    await ann.sees({1: "ACTIVE", 200: "ACTIVE"}, within=EVERY + 2)


@pytest.mark.wire("feed-rights", "right-revoked")
async def test_a_token_that_the_host_refuses_ends_its_own_feeds_only() -> None:
    host = host_with(2)
    gateway = in_front_of(host)
    alice, bob = Onlooker(), Onlooker(caller("bob"))
    watched(gateway, alice)
    refused = asyncio.ensure_future(bob.watch(gateway))
    await bob.sees(newest(host), within=1)
    del host.tokens["bob"]
    with pytest.raises(InvalidToken):
        await asyncio.wait_for(refused, EVERY + 1)
    told = len(bob.told)
    with pytest.raises(InvalidToken):  # what is known is not shown them meanwhile
        await bob.watch(gateway)
    host.add("3")
    await alice.sees(newest(host), within=EVERY + 1)
    assert len(bob.told) == told


@pytest.mark.wire("feed-rights")
@pytest.mark.parametrize("error", [InvalidToken(), Forbidden(), Unsupported(), UpstreamError(), UpstreamRateLimited()])
async def test_who_is_refused_the_list_gets_the_ordinary_error_and_no_stream(error: GatewayError) -> None:
    host = host_with(2)

    async def refuse(_: str) -> None:
        raise error

    host.before = refuse
    gateway = in_front_of(host)
    with pytest.raises(type(error)):
        await Onlooker().watch(gateway)
    assert gateway.viewers == 0


# -- pace and trouble -------------------------------------------------------------------------------------------------


@pytest.mark.wire("feed-pace")
@pytest.mark.parametrize("count", [1, 60])
async def test_the_list_is_read_less_often_than_any_log_that_somebody_follows(count: int) -> None:
    host = host_with(count, "ACTIVE")
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=5000), max_streams_each=200)
    one, viewers = Onlooker(), [Viewer() for _ in range(count)]
    watching = watched(gateway, one, until=600)
    following = [
        asyncio.ensure_future(viewer.watch(gateway, run=str(number), until=600))
        for number, viewer in enumerate(viewers, 1)
    ]
    for _ in range(10):
        await asyncio.sleep(50)
        for hosted in host.runs.values():
            hosted.append()
    reads = host.calls["log"] / count
    assert 4 <= host.calls["list"] < reads
    for start in range(0, 500, 10):
        assert sum(start <= at < start + 60 for at, _, _ in host.log) <= 61
    await asyncio.gather(watching, *following)


@pytest.mark.wire("feed-waits")
async def test_without_room_for_it_the_list_is_waited_for_in_line() -> None:
    host = host_with(3)
    gateway = in_front_of(host)
    while host.calls["list"] < 60:
        await gateway.feeds.check(caller(), "9")
    one = Onlooker()
    watched(gateway, one)
    await asyncio.sleep(10)
    assert (one.notices, one.told) == (["rate_limited"], [])
    await one.sees(newest(host), within=100)
    assert one.notices == ["rate_limited", "recovered"]


@pytest.mark.wire("feed-trouble")
@pytest.mark.parametrize("error", [UpstreamError, UpstreamUnreachable, lambda: UpstreamRateLimited(retry_after=30)])
async def test_trouble_is_said_and_nothing_is_lost_by_it(error: Callable[[], GatewayError]) -> None:
    host = host_with(3)
    gateway = in_front_of(host)
    one = Onlooker()
    watched(gateway, one)
    await one.sees(newest(host), within=1)

    async def fail(_: str) -> None:
        raise error()

    async def pass_by(_: str) -> None: ...

    host.before = fail
    host.add("4")
    await asyncio.sleep(100)
    host.before = pass_by
    await one.sees(newest(host), within=60)
    assert one.notices[0] in ("upstream_unavailable", "rate_limited")
    assert one.notices[-1] == "recovered"


@pytest.mark.wire("feed-trouble")
async def test_what_cannot_be_listed_once_is_not_taken_for_removed() -> None:
    host = host_with(3)
    gateway = in_front_of(host)
    one = Onlooker()
    watched(gateway, one)
    await one.sees(newest(host), within=1)
    host.runs["2"].weight, host.heaviest = 10, 5  # one by one it cannot be had either
    await asyncio.sleep(3 * EVERY)
    assert each_status(one) == newest(host)
    assert len(one.told) == 3


@pytest.mark.wire("feed-trouble")
async def test_a_fault_in_between_is_no_end() -> None:
    host = host_with(3)
    host.before = Sequence("get", UpstreamError(), UpstreamError())
    gateway = in_front_of(host)
    one = Onlooker(ids=("1", "500"))
    watched(gateway, one)
    await one.sees({1: "COMPLETE"}, within=3)
    host.add("500")
    await one.sees({1: "COMPLETE", 500: "ACTIVE"}, within=2 * EVERY)
    assert one.notices == []


@pytest.mark.wire("feed-trouble")
async def test_a_list_that_the_host_takes_for_a_fault_of_the_request_is_asked_for_again() -> None:
    host = host_with(2)
    gateway = in_front_of(host)
    one = Onlooker()
    watched(gateway, one)
    await one.sees(newest(host), within=1)
    host.before = Sequence("list", *(Rejected() for _ in range(5)))
    host.add("3")
    await one.sees(newest(host), within=3 * EVERY)
    assert one.notices == ["upstream_unavailable", "recovered"]


@pytest.mark.wire("feed-trouble", "error-internal")
async def test_a_fault_of_ours_ends_the_feed_and_who_comes_back_has_a_new_one() -> None:
    host = host_with(2)
    gateway = in_front_of(host)
    one = Onlooker()
    watching = asyncio.ensure_future(one.watch(gateway))
    await one.sees(newest(host), within=1)

    async def break_down(_: str) -> None:
        raise ZeroDivisionError

    async def work(_: str) -> None: ...

    host.before = break_down
    with pytest.raises(GatewayError) as raised:
        await asyncio.wait_for(watching, EVERY + 1)
    assert raised.value.code == "internal_error"
    host.before = work
    host.add("3")
    await one.watch(gateway, 1)
    assert each_status(one) == newest(host)
    await asyncio.sleep(100)


@pytest.mark.wire("feed-run")
async def test_a_run_that_cannot_be_written_is_left_out() -> None:
    host = host_with(2)
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    host.runs["1"].result = nested  # type: ignore[assignment]
    gateway = in_front_of(host)
    one = Onlooker()
    await one.watch(gateway, 1)
    assert each_status(one) == {2: "COMPLETE"}
    while nested:  # or Python would take it apart all at once
        nested = nested.pop()


# -- a stream like others ---------------------------------------------------------------------------------------------


@pytest.mark.wire("feed-ends", "stream-limits")
async def test_a_feed_counts_as_a_stream() -> None:
    host = host_with(2)
    gateway = in_front_of(host, max_streams=3, max_streams_each=2)
    one, other = Onlooker(), Onlooker()
    watched(gateway, one, other)
    await one.sees(newest(host), within=1)
    assert gateway.viewers == 2
    with pytest.raises(RateLimited):
        await Onlooker().watch(gateway)
    third = watched(gateway, Onlooker(caller("bob")))
    await asyncio.sleep(1)
    with pytest.raises(AtCapacity):
        await Onlooker(caller("carol")).watch(gateway)
    third.cancel()


@pytest.mark.wire("feed-ends", "feed-heartbeat")
async def test_a_feed_ends_with_its_age_and_gives_signs_of_life() -> None:
    host = host_with(2)
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=100, heartbeat=15))
    one = Onlooker()
    await one.watch(gateway, 101)
    assert one.left
    assert one.quiet == 6
    expiring = user("ann", frozenset({READ}), expires=50.0)
    shared = gateway_to(host, clock=lambda: 0.0)
    other = Onlooker(expiring)
    await other.watch(shared, 51)
    assert other.left


@pytest.mark.wire("feed-ends", "drain-streams")
async def test_a_process_that_stops_sends_its_viewers_on() -> None:
    host = host_with(2)
    gateway = in_front_of(host)
    everybody = [Onlooker() for _ in range(5)]
    watching = watched(gateway, *everybody)
    await asyncio.gather(*(each.sees(newest(host), within=1) for each in everybody))
    draining = asyncio.ensure_future(gateway.drain(10))
    await watching
    await draining
    assert all(each.left for each in everybody)
    with pytest.raises(ShuttingDown):
        await Onlooker().watch(gateway)
    await gateway.aclose()
    host.add("3")
    gateway = in_front_of(host)
    for each in everybody:
        await each.watch(gateway, 1)
        assert len(each.told) == 3


async def test_a_key_that_is_revoked_ends_the_feed() -> None:
    host, valid = host_with(2), [True]

    def confirm() -> None:
        if not valid[0]:
            raise InvalidToken

    gateway = gateway_to(host)
    watching = asyncio.ensure_future(Onlooker(user("boss", SCOPES, confirm=confirm)).watch(gateway))
    await asyncio.sleep(1)
    valid[0] = False
    host.add("3")
    with pytest.raises(InvalidToken):
        await asyncio.wait_for(watching, EVERY + 1)
