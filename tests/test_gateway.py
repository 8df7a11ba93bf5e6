import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import (
    Detail,
    Forbidden,
    GatewayError,
    InvalidToken,
    NotFound,
    OrganizationRequired,
    QuotaExhausted,
    Rejected,
    RunEnded,
    ShuttingDown,
    Unsupported,
    UpstreamError,
    UpstreamFailure,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.following import Ended, Patrol, Position, ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.gateway.run_lists import FoundRuns
from codegen_api.identity import Credential
from codegen_api.runs import Changed, Paging, RunStatus, to_json
from codegen_api.upstreams import LARGEST_METADATA, Listing, NewRun, Organization, RunFilter
from tests.fakehost import FakeHost, caller, in_front_of, opened
from tests.following.viewing import Viewer, watched
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

PASSING = [UpstreamError(), UpstreamUnreachable()]
LASTING = [
    UpstreamTimeout(),
    UpstreamRateLimited(retry_after=1),
    InvalidToken(),
    Forbidden(),
    NotFound(),
    QuotaExhausted(),
    Rejected(),
]

Ask = Callable[[Gateway], Any]
READS: dict[str, Ask] = {
    "identify": lambda gateway: gateway.accounts.identify(caller().credential),
    "organizations": lambda gateway: gateway.accounts.organizations(caller(), 0, 100),
    "get": lambda gateway: gateway.get(caller(), "9", "1"),
    "list": lambda gateway: gateway.list(caller(), "9", 0, 100, RunFilter(), None),
    "log": lambda gateway: gateway.read_log(caller(), "9", "1", 0, 100, newest_first=False),
    "users": lambda gateway: gateway.accounts.users(caller(), "9", 0, 100),
    "user": lambda gateway: gateway.accounts.user(caller(), "9", "2"),
    "repositories": lambda gateway: gateway.accounts.repositories(caller(), "9", 0, 100),
}
LISTED = {"organizations", "list", "log", "users", "repositories"}
WRITES: dict[str, Ask] = {
    "create": lambda gateway: gateway.create(caller(), "9", NewRun("Say hello")),
    "resume": lambda gateway: gateway.resume(caller(), "9", "1", "Go on", None),
    "cancel": lambda gateway: gateway.cancel(caller(), "9", "1"),
    "uncancel": lambda gateway: gateway.uncancel(caller(), "9", "1"),
}


class Failing:
    """Raises ``error`` for the first ``times`` calls."""

    def __init__(self, error: GatewayError, times: int) -> None:
        self.error = error
        self.times = times

    async def __call__(self, _: str) -> None:
        if self.times:
            self.times -= 1
            raise self.error


# -- what is asked when -----------------------------------------------------------------------------------------------


class CountedTurns(ReadQueue):
    """Counts who waits for a turn."""

    taken = 0

    async def take(self, credential: Credential, *, order: bool = False) -> None:
        self.taken += 1
        await super().take(credential, order=order)


@pytest.mark.parametrize("operation", sorted({*READS} - {"identify"}))
async def test_every_read_waits_until_its_caller_may_ask_one_thing_more(operation: str) -> None:
    host, turns = FakeHost(), CountedTurns()
    host.add().append(1)
    gateway = in_front_of(host, turns=turns)
    await READS[operation](gateway)
    assert turns.taken == host.calls[operation] == 1


# -- what is asked again ----------------------------------------------------------------------------------------------


@pytest.mark.wire("reads-retried")
@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("operation", sorted(READS))
@pytest.mark.parametrize("times", [1, 2])
async def test_a_read_that_met_a_passing_fault_is_asked_again(operation: str, error: GatewayError, times: int) -> None:
    host, _, gateway = opened(1)
    host.before = Failing(error, times)
    await READS[operation](gateway)
    # of what has parts one is asked for first, and then what is behind it
    assert times < host.calls[operation] <= (times + 3 if operation in LISTED else times + 1)
    assert asyncio.get_running_loop().time() < 10


@pytest.mark.wire("reads-retried")
@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("operation", sorted(READS))
async def test_a_read_is_asked_three_times_at_most(operation: str, error: GatewayError) -> None:
    host, _, gateway = opened()
    host.before = Failing(error, 99)
    with pytest.raises(type(error)):
        await READS[operation](gateway)
    assert host.calls == {operation: 3}


@pytest.mark.wire("reads-retried")
@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (operation, error)
        for operation in sorted(READS)
        for error in LASTING
        if not (operation in LISTED and isinstance(error, Rejected | UpstreamTimeout))  # which may be for too much
    ],
)
async def test_a_read_that_was_answered_or_timed_out_is_not_asked_again(operation: str, error: GatewayError) -> None:
    host, _, gateway = opened()
    host.before = Failing(error, 1)
    with pytest.raises(type(error)):
        await READS[operation](gateway)
    assert host.calls == {operation: 1}


@pytest.mark.wire("writes-once")
@pytest.mark.parametrize("error", [*PASSING, *LASTING])
@pytest.mark.parametrize("operation", sorted(WRITES))
async def test_what_does_something_is_sent_once(operation: str, error: GatewayError) -> None:
    host = FakeHost()
    host.add()
    failing = Failing(error, 1)

    async def before(asked: str) -> None:
        if asked == operation:  # not the look that a resume takes before it
            await failing(asked)

    host.before = before
    gateway = in_front_of(host)
    with pytest.raises(type(error)):
        await WRITES[operation](gateway)
    assert host.calls[operation] == 1


# -- organizations ----------------------------------------------------------------------------------------------------


class Organizations(FakeHost):
    """A host whose callers belong to ``ids``."""

    def __init__(self, *ids: int) -> None:
        super().__init__()
        self.ids = ids

    async def organizations(self, credential: Any, skip: int, limit: int) -> Listing[Organization]:
        await self._called("organizations", credential)
        items = tuple(Organization(str(number), {"id": number, "name": f"o{number}"}) for number in self.ids)
        return Listing(items, Paging(len(items), 1, limit, 1), at_end=True)


@pytest.mark.wire("org-choice")
async def test_the_organization_is_the_one_named_else_the_deployment_s_else_the_only_one() -> None:
    host = Organizations(7)
    with_default, without = in_front_of(host, organization="5"), in_front_of(host)
    assert await with_default.accounts.organization(caller(), "3") == "3"
    assert await with_default.accounts.organization(caller(), None) == "5"
    assert await without.accounts.organization(caller(), "3") == "3"
    assert not host.calls
    assert await without.accounts.organization(caller(), None) == "7"
    await with_default.aclose()
    await without.aclose()


@pytest.mark.wire("org-required")
@pytest.mark.parametrize("ids", [(), (3, 4)])
async def test_where_there_are_none_or_several_somebody_has_to_choose(ids: tuple[int, ...]) -> None:
    gateway = in_front_of(Organizations(*ids))
    with pytest.raises(OrganizationRequired) as raised:
        await gateway.accounts.organization(caller(), None)
    assert raised.value.details == tuple({"id": number, "name": f"o{number}"} for number in ids)


async def test_the_only_organization_is_remembered_for_a_minute_for_each_caller() -> None:
    host = Organizations(7)
    gateway = in_front_of(host)
    for who in ("alice", "bob", "alice", "bob"):
        assert await gateway.accounts.organization(caller(who), None) == "7"
    assert host.calls["organizations"] == 2
    host.ids = (8,)
    await asyncio.sleep(61)
    assert await gateway.accounts.organization(caller(), None) == "8"


@pytest.mark.wire("id-form")
@pytest.mark.parametrize("text", ["", "abc", "1/2", "-1", "1.0", "../1"])
async def test_an_id_that_cannot_be_one_never_reaches_the_host(text: str) -> None:
    host = FakeHost()
    gateway = in_front_of(host)
    for ask in (
        gateway.accounts.organization(caller(), text),
        gateway.get(caller(), "9", text),
        gateway.resume(caller(), "9", text, "Go on", None),
        gateway.cancel(caller(), "9", text),
        gateway.uncancel(caller(), "9", text),
        gateway.accounts.user(caller(), "9", text),
        gateway.read_log(caller(), "9", text, 0, 1, newest_first=True),
        gateway.follow(caller(), "9", text, Position(0)),
    ):
        with pytest.raises(Rejected):
            await ask
    assert not host.calls


# -- users ------------------------------------------------------------------------------------------------------------


async def test_the_users_of_an_organization_are_the_host_s() -> None:
    gateway = in_front_of(FakeHost())
    listing = await gateway.accounts.users(caller(), "9", 1, 5)
    assert [(each.id, each.fields["github_username"]) for each in listing.items] == [("2", "bob")]
    assert (await gateway.accounts.user(caller("bob"), "9", "1")).fields["github_username"] == "alice"
    with pytest.raises(NotFound):
        await gateway.accounts.user(caller(), "9", "3")


# -- lists ------------------------------------------------------------------------------------------------------------

HOST_WORDS = ["ACTIVE", "COMPLETE", "PAUSED", "ERROR", "ODD"]
OURS = {"ACTIVE": "running", "COMPLETE": "completed", "PAUSED": "paused", "ERROR": "failed", "ODD": "unknown"}


def a_host_with(statuses: list[str]) -> FakeHost:
    """Newest first they are ``statuses``."""
    host = FakeHost()
    host.latency = 0
    for number, status in enumerate(reversed(statuses), 1):
        host.add(str(number), status=status)
    return host


def ids(found: FoundRuns) -> list[str]:
    return [run.ref.id for run in found.listing.items]


@pytest.mark.wire("list-status")
@settings(max_examples=150, deadline=None)
@given(
    statuses=st.lists(st.sampled_from(HOST_WORDS), max_size=60),
    runs_of_one=st.lists(
        st.tuples(st.sampled_from(HOST_WORDS), st.sampled_from([0, 1, 99, 100, 101, 400])), max_size=4
    ),
    wanted=st.sampled_from(HOST_WORDS),
    spelling=st.sampled_from(["host", "ours", "lower", "upper"]),
    skip=st.sampled_from([0, 1, 7, 100, 150]),
    limit=st.integers(1, 100),
)
def test_searching_page_after_page_gives_what_searching_the_whole_list_would(
    statuses: list[str], runs_of_one: list[tuple[str, int]], wanted: str, spelling: str, skip: int, limit: int
) -> None:
    statuses = [*statuses, *(status for status, count in runs_of_one for _ in range(count))]
    word = {"host": wanted, "ours": OURS[wanted], "lower": wanted.lower(), "upper": OURS[wanted].upper()}[spelling]
    matching = [
        str(len(statuses) - index) for index, status in enumerate(statuses) if index >= skip and status == wanted
    ]

    async def main() -> None:
        host = a_host_with(statuses)
        gateway = in_front_of(host)
        seen: list[str] = []
        position = skip
        for _ in range(len(statuses) + 3):
            before = host.calls["list"]
            found = await gateway.list(caller(), "9", position, limit, RunFilter(), word)
            assert host.calls["list"] - before <= 10
            assert len(ids(found)) <= limit
            assert found.listing.paging.total == len(statuses)
            assert found.next_skip is None or found.next_skip > position
            assert found.next_skip is not None or found.listing.at_end
            seen += ids(found)
            if found.next_skip is None:
                break
            position = found.next_skip
        else:
            raise AssertionError("the search has no end")
        assert seen == matching

    run(main())


@pytest.mark.wire("list-status")
async def test_a_search_reads_ten_pages_at_most_and_says_where_to_go_on() -> None:
    host = a_host_with(["COMPLETE"] * 1500 + ["ACTIVE"])
    gateway = in_front_of(host)
    found = await gateway.list(caller(), "9", 0, 10, RunFilter(), "running")
    assert (ids(found), found.next_skip, host.calls["list"]) == ([], 1000, 10)
    found = await gateway.list(caller(), "9", 1000, 10, RunFilter(), "running")
    assert (ids(found), found.next_skip) == (["1"], None)


async def test_a_list_without_a_status_is_the_host_s_page() -> None:
    host = a_host_with(["ACTIVE"] * 30)
    gateway = in_front_of(host)
    found = await gateway.list(caller(), "9", 10, 5, RunFilter(), None)
    assert ids(found) == ["20", "19", "18", "17", "16"]
    assert (found.next_skip, found.searched) == (15, False)
    assert (await gateway.list(caller(), "9", 25, 5, RunFilter(), None)).next_skip is None


# -- resume and cancel ------------------------------------------------------------------------------------------------


class Powerless:
    """A host that can neither stop a run nor tell who and what is in an organization."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        if name in ("cancel_run", "users", "repositories"):
            raise AttributeError(name)
        return getattr(self._host, name)


@pytest.mark.wire("cancel")
@pytest.mark.parametrize("operation", ["cancel", "uncancel", "users", "user", "repositories"])
async def test_what_the_host_cannot_do_nobody_can(operation: str) -> None:
    host = FakeHost()
    host.add()
    gateway = in_front_of(Powerless(host))
    with pytest.raises(Unsupported):
        await {**READS, **WRITES}[operation](gateway)
    assert not host.calls


@pytest.mark.wire("cancel")
@pytest.mark.parametrize("status", ["COMPLETE", "ERROR"])
async def test_what_has_come_of_a_run_is_not_rewritten_by_a_cancel(status: str) -> None:
    host, _, gateway = opened(2, status=status)
    for _ in range(2):
        with pytest.raises(RunEnded):
            await gateway.cancel(caller(), "9", "1")
    assert (host.runs["1"].status, host.calls["cancel"]) == (status, 0)
    # a dialect in the host's own place asks for what else its ban does
    assert (await gateway.cancel(caller(), "9", "1", anyway=True)).status is RunStatus.CANCELLED


@pytest.mark.wire("cancel")
@pytest.mark.parametrize("status", ["ACTIVE", "PAUSED", "WAITING_FOR_INPUT", "SOMETHING_NEW"])
async def test_what_is_not_over_can_be_cancelled_as_often_as_one_likes(status: str) -> None:
    _, _, gateway = opened(2, status=status)
    for _ in range(2):
        assert (await gateway.cancel(caller(), "9", "1")).status is RunStatus.CANCELLED


@pytest.mark.wire("cancel")
async def test_a_run_that_ends_by_itself_at_the_moment_of_its_cancel_is_told_to_be_over() -> None:
    host = FakeHost()
    host.add().append(2)

    async def late(called: str) -> None:
        if called == "cancel":
            host.runs["1"].status = "COMPLETE"

    host.before = late
    host.cancel_run = lambda credential, ref: host._called("cancel", credential)  # type: ignore[method-assign]
    gateway = in_front_of(host)
    with pytest.raises(RunEnded):
        await gateway.cancel(caller(), "9", "1")


@pytest.mark.wire("cancel")
async def test_the_old_end_that_a_host_tells_just_after_a_resume_keeps_nobody_from_cancelling() -> None:
    host, _, gateway = opened(2, status="COMPLETE")
    await gateway.resume(caller(), "9", "1", "Go on", None)
    host.runs["1"].status = "COMPLETE"  # as the host has it for a moment yet
    assert (await gateway.cancel(caller(), "9", "1")).status is RunStatus.CANCELLED
    host.runs["1"].status = "COMPLETE"
    await asyncio.sleep(60)
    with pytest.raises(RunEnded):
        await gateway.cancel(caller(), "9", "1")
    assert host.calls["cancel"] == 1


@pytest.mark.parametrize("error", [UpstreamError(), UpstreamTimeout()])
async def test_a_cancel_before_which_the_run_could_not_be_seen_has_surely_done_nothing(error: UpstreamFailure) -> None:
    host, _, gateway = opened()
    host.before = Failing(error, 3)
    with pytest.raises(type(error)) as raised:
        await gateway.cancel(caller(), "9", "1")
    assert (raised.value.may_have_acted, host.calls["cancel"]) == (False, 0)


# -- what is stored where others read it ------------------------------------------------------------------------------


@pytest.mark.wire("create")
@pytest.mark.parametrize("room", [-1, 0, 1])
@pytest.mark.parametrize("letter", ["x", "\u00fc", "\u2028"])
async def test_metadata_has_a_largest_size_in_bytes(room: int, letter: str) -> None:
    host = FakeHost()
    gateway = in_front_of(host)
    each = len(to_json(letter)) - 2
    whole, rest = divmod(LARGEST_METADATA - len(to_json({"a": ""})), each)
    metadata = {"a": letter * (whole - 1) + "y" * (each + rest - room)}
    assert len(to_json(metadata)) == LARGEST_METADATA - room
    if room < 0:
        with pytest.raises(Rejected) as raised:
            await gateway.create(caller(), "9", NewRun("Say hello", metadata))
        (detail,) = raised.value.details
        assert isinstance(detail, Detail)
        assert (detail.loc, detail.type) == (("body", "metadata"), "too_long")
        assert not host.calls
    else:
        await gateway.create(caller(), "9", NewRun("Say hello", metadata))


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("operation", ["resume", "cancel", "uncancel"])
async def test_who_views_a_run_sees_at_once_what_was_done_to_it(operation: str, failing: bool) -> None:
    """Even when the answer was lost: the host may have acted all the same."""

    host, _, gateway = opened(1)
    viewer, watching = watched(gateway)
    await asyncio.sleep(120)  # it is read every ten seconds by now
    host.runs["1"].append(1)

    async def lost(called: str) -> None:
        if failing and called == operation:
            raise UpstreamTimeout

    host.before = lost
    last_read = max(at for at, called, _ in host.log if called == "log")
    await asyncio.sleep(max(0, last_read + 4 - asyncio.get_running_loop().time()))
    asked = asyncio.get_running_loop().time()
    try:
        await WRITES[operation](gateway)
    except UpstreamTimeout:
        assert failing
    await asyncio.sleep(1)
    assert viewer.arrivals[2] - asked < 0.5
    host.runs["1"].status = "COMPLETE"
    await watching


# -- following --------------------------------------------------------------------------------------------------------


@pytest.mark.wire("end-known")
@pytest.mark.parametrize("status", ["COMPLETE", "ERROR", "CANCELLED"])
async def test_who_knows_the_end_is_told_that_it_still_is(status: str) -> None:
    _, _, gateway = opened(25, status=status)
    for _ in range(3):
        assert await gateway.follow(caller(), "9", "1", Position(25, over=True)) is None
    assert gateway.viewers == 0


@pytest.mark.wire("end-known")
async def test_who_knows_the_end_is_told_so_although_the_run_was_held_from_before_it() -> None:
    host, hosted, gateway = opened(25)
    stream = await gateway.follow(caller(), "9", "1", Position(0))
    assert stream is not None
    await anext(stream)
    hosted.status = "COMPLETE"
    assert [type(update) async for update in stream][-1] is Ended
    await stream.aclose()
    await asyncio.sleep(20)
    assert gateway.runs_followed == 0  # so that nothing but the right, which still holds, tells of the run
    asked = host.calls["log"]
    assert await gateway.follow(caller(), "9", "1", Position(25, over=True)) is None
    assert host.calls["log"] > asked
    hosted.status = "ACTIVE"
    await asyncio.sleep(20)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    stream = await gateway.follow(caller(), "9", "1", Position(25, over=True))
    assert stream is not None
    assert loop.time() - begun < 3
    await stream.aclose()


@pytest.mark.wire("end-known")
async def test_who_has_seen_everything_but_not_the_end_is_given_the_end() -> None:
    _, _, gateway = opened(25, status="COMPLETE")
    stream = await gateway.follow(caller(), "9", "1", Position(25))
    assert stream is not None
    updates = [update async for update in stream]
    assert isinstance(updates[0], Changed)
    assert isinstance(updates[-1], Ended)
    await stream.aclose()


@pytest.mark.wire("resumed-streams-on")
@pytest.mark.parametrize("known", [3, 24, 30])
async def test_who_knows_another_end_than_there_is_gets_a_stream(known: int) -> None:
    _, _, gateway = opened(25, status="COMPLETE")
    stream = await gateway.follow(caller(), "9", "1", Position(known, over=True))
    assert stream is not None
    updates = [update async for update in stream]
    assert isinstance(updates[0], Changed)
    assert isinstance(updates[-1], Ended)
    assert updates[-1].length == 25
    await stream.aclose()


async def test_who_knows_an_end_that_is_past_gets_a_stream_when_there_is_something_to_say() -> None:
    _, _, gateway = opened(25, status="ACTIVE", patrol=lambda: Patrol(heartbeat=15))
    loop = asyncio.get_running_loop()
    stream = await gateway.follow(caller(), "9", "1", Position(25, over=True))
    assert loop.time() < 0.1  # the run is active again: that is worth saying
    assert stream is not None
    assert type(await anext(stream)) is Changed
    await stream.aclose()
    assert gateway.viewers == 0


async def test_who_knows_an_end_does_not_wait_long_for_the_word_that_it_is_still_the_end() -> None:
    host, _, gateway = opened(25, status="COMPLETE")

    async def slow_log(operation: str) -> None:
        await asyncio.sleep(20 if operation == "log" else 0)

    host.before = slow_log
    loop = asyncio.get_running_loop()
    stream = await gateway.follow(caller(), "9", "1", Position(25, over=True))
    assert loop.time() < 3
    assert stream is not None
    kinds = [type(update) async for update in stream]
    assert kinds[0] is Changed
    assert kinds[-1] is Ended
    await stream.aclose()
    await asyncio.sleep(30)
    leaving = asyncio.create_task(gateway.follow(caller(), "9", "1", Position(25, over=True)))
    await asyncio.sleep(1)
    leaving.cancel()
    await asyncio.wait({leaving})
    assert gateway.viewers == 0


@pytest.mark.parametrize("over", [False, True])
async def test_a_caller_who_leaves_while_the_stream_is_being_opened_leaves_nothing(over: bool) -> None:
    _, _, gateway = opened(25)
    for patience in (0.01, 0.06, 0.2, 5):
        try:
            async with asyncio.timeout(patience):
                stream = await gateway.follow(caller(), "9", "1", Position(25, over))
                assert stream is not None
                await stream.aclose()
        except TimeoutError:
            pass
        await asyncio.sleep(0)
        assert gateway.viewers == 0
    await asyncio.sleep(30)
    assert gateway.runs_followed == 0


@pytest.mark.wire("right-asked-first", "org-closed")
async def test_who_may_not_see_a_run_is_told_so_before_the_first_byte_while_others_watch() -> None:
    host = FakeHost()
    host.add().append(5)
    host.barred.add(("bob", "1"))
    gateway = in_front_of(host)
    watching = asyncio.create_task(Viewer().watch(gateway, until=30))
    await asyncio.sleep(5)
    with pytest.raises(Forbidden):
        await gateway.follow(caller("bob"), "9", "1", Position(0))
    with pytest.raises(InvalidToken):
        await gateway.follow(caller("mallory"), "9", "1", Position(0))
    with pytest.raises(NotFound):
        await gateway.follow(caller(), "9", "2", Position(0))
    assert gateway.viewers == 1
    await watching


@pytest.mark.wire("right-asked-first")
async def test_a_right_holds_for_a_minute() -> None:
    host, _, gateway = opened(5, status="COMPLETE")
    await Viewer().watch(gateway)
    await asyncio.sleep(50)
    gets = host.calls["get"]
    host.barred.add(("alice", "1"))
    host.before = Failing(UpstreamTimeout(), 0)
    await asyncio.sleep(15)
    with pytest.raises(Forbidden):
        await Viewer().watch(gateway)
    assert host.calls["get"] == gets + 1


@pytest.mark.wire("drain-refuses")
async def test_nobody_is_let_in_while_the_process_is_about_to_stop() -> None:
    _, _, gateway = opened()
    await gateway.drain(1)
    with pytest.raises(ShuttingDown):
        await gateway.follow(caller(), "9", "1", Position(0))
    assert gateway.viewers == 0


async def test_closing_closes_the_parts() -> None:
    host = FakeHost()
    host.add().append(1)
    broker = MemoryBroker()
    gateway = Gateway(host, broker)
    await Viewer().watch(gateway, until=5)
    await gateway.aclose()
    assert host.closed
    assert broker.held_bytes == 0
    assert gateway.runs_followed == 0
    assert gateway.upstream_name == "fake"
    assert gateway.observation is None
