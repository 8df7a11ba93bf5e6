"""What is read for somebody who waits for the answer, of hosts that give little, or fail to give much."""

import asyncio
from typing import Any

import pytest

from codegen_api.errors import (
    AnswerCut,
    AnswerTooLong,
    Forbidden,
    GatewayError,
    InvalidToken,
    NotFound,
    OutcomeUnknown,
    Rejected,
    UpstreamError,
    UpstreamFailure,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.gateway.ownership import Ownership
from codegen_api.idempotency.lookup import find_marked
from codegen_api.identity import READ, Caller, Credential, Principal
from codegen_api.runs import Paging
from codegen_api.upstreams import Listing, NewRun, Organization, RunFilter
from tests.dialects.site import serving
from tests.fakehost import FakeHost, caller, in_front_of, opened

POSSIBLY = [UpstreamError, UpstreamUnreachable, UpstreamTimeout, Rejected]
"""What may be because too much was asked for, or because the host is down."""


def unreached(kind: type[UpstreamFailure]) -> UpstreamFailure:
    error = kind()
    error.may_have_acted = False
    return error


def texts(page: Any) -> list[str]:
    return [entry.json.decode() for entry in page.entries]


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.wire("pages-filled")
@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("total", [True, False])
@pytest.mark.parametrize("most", [100, 50, 7, 1])
@pytest.mark.virtual_time
async def test_a_page_of_a_log_is_filled_up_in_ten_pieces_at_most(most: int, total: bool, newest_first: bool) -> None:
    host = FakeHost(with_totals=total)
    host.most = most
    hosted = host.add(length=130)
    gateway = in_front_of(host)
    expected = hosted.encoded()[::-1] if newest_first else hosted.encoded()
    read: list[str] = []
    while True:
        calls = host.calls["log"]
        page = await gateway.read_log(caller(), "9", "1", len(read), 60, newest_first=newest_first)
        assert host.calls["log"] - calls <= 10
        assert len(page.entries) == min(60, 130 - len(read), 10 * most)
        if newest_first and total:
            assert page.position(0) == 130 - len(read)
        read += texts(page)
        if page.at_end or not page.entries:
            break
    assert read == expected


@pytest.mark.wire("pages-filled", "logs-page", "list-next")
@pytest.mark.parametrize("most", [50, 3])
async def test_whoever_follows_the_links_and_the_next_skips_gets_everything(most: int) -> None:
    host = FakeHost()
    host.latency = 0
    host.most = most
    for number in range(1, 131):
        host.add(str(number))
    host.runs["1"].append(130)
    async with serving(host) as site:
        for path in ("/agent-runs/1/logs", "/agent-runs/1/logs?reverse=true"):
            positions: list[int] = []
            way: str | None = path
            while way is not None:
                answer = await site.get(way)
                positions += [entry["position"] for entry in answer.json()["logs"]]
                assert answer.json()["total_logs"] == 130
                link = answer.headers.get("Link")
                way = None if link is None else link[1 : link.index(">")]
            assert sorted(positions) == list(range(1, 131))
        for query in ("", "&status=ACTIVE"):
            ids: list[int] = []
            skip: int | None = 0
            while skip is not None:
                answer = await site.get(f"/agent-runs?skip={skip}{query}")
                ids += [item["id"] for item in answer.json()["items"]]
                skip = answer.json()["next_skip"]
            assert ids == list(range(130, 0, -1))


@pytest.mark.wire("reads-retried", "fault-too-much")
@pytest.mark.parametrize("fault", [AnswerTooLong, AnswerCut])
@pytest.mark.virtual_time
async def test_a_page_that_does_not_come_whole_is_asked_for_in_pieces_and_that_is_remembered(
    fault: type[GatewayError],
) -> None:
    host = FakeHost()
    hosted = host.add()
    hosted.append(100, text="x" * 1_000)
    host.heaviest, host.too_heavy = 60_000, fault
    gateway = in_front_of(host)
    for calls in (3, 2):
        before = host.calls["log"]
        page = await gateway.read_log(caller(), "9", "1", 0, 100, newest_first=False)
        assert texts(page) == hosted.encoded()
        assert host.calls["log"] - before == calls


@pytest.mark.wire("reads-retried", "fault-too-much")
@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("fault", POSSIBLY)
@pytest.mark.virtual_time
async def test_a_page_that_fails_in_any_way_is_asked_for_in_pieces_when_a_single_entry_comes(
    fault: type[GatewayError], newest_first: bool
) -> None:
    host = FakeHost()
    hosted = host.add()
    hosted.append(100, text="x" * 1_000)
    host.heaviest, host.too_heavy = 30_000, fault
    gateway = in_front_of(host)
    expected = hosted.encoded()[::-1] if newest_first else hosted.encoded()
    for most in (13, 8):
        before = host.calls["log"]
        page = await gateway.read_log(caller(), "9", "1", 0, 100, newest_first=newest_first)
        assert texts(page) == expected
        assert host.calls["log"] - before <= most
    # how much can be had is known for the other way round as well
    before = host.calls["log"]
    await gateway.read_log(caller(), "9", "1", 0, 100, newest_first=not newest_first)
    assert host.calls["log"] - before <= 8


@pytest.mark.wire("reads-retried", "fault-too-much")
@pytest.mark.parametrize("fault", POSSIBLY)
@pytest.mark.parametrize("place", [0, 19, 38])
@pytest.mark.virtual_time
async def test_an_entry_that_never_comes_whatever_the_host_says_has_a_placeholder(
    fault: type[GatewayError], place: int
) -> None:
    host = FakeHost()
    hosted = host.add(length=39)
    hosted.amend(place + 1, text="x" * 60_000)
    host.heaviest, host.too_heavy = 50_000, fault
    gateway = in_front_of(host)
    entries: list[bool] = []
    while len(entries) < 39:
        page = await gateway.read_log(caller(), "9", "1", len(entries), 39, newest_first=False)
        entries += [entry.absent for entry in page.entries]
    assert [index for index, absent in enumerate(entries) if absent] == [place]


@pytest.mark.wire("reads-retried")
@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize(
    "fault", [*POSSIBLY, lambda: unreached(UpstreamUnreachable), lambda: unreached(UpstreamTimeout)]
)
@pytest.mark.virtual_time
async def test_a_host_that_is_down_is_asked_three_times_however_often_that_was_so(fault: Any, limit: int) -> None:
    host, _, gateway = opened(100)

    async def fail(operation: str) -> None:
        raise fault()

    host.before, calm = fail, host.before
    for _ in range(3):
        before = host.calls["log"]
        with pytest.raises(GatewayError):
            await gateway.read_log(caller(), "9", "1", 0, limit, newest_first=False)
        assert host.calls["log"] - before <= 3
    host.before = calm
    before = host.calls["log"]
    await gateway.read_log(caller(), "9", "1", 0, limit, newest_first=False)
    assert host.calls["log"] - before == 1  # an outage says nothing of how much can be had


@pytest.mark.wire("reads-retried", "fault-too-much")
@pytest.mark.parametrize(
    "fault",
    [UpstreamRateLimited, InvalidToken, Forbidden, NotFound, lambda: UpstreamError(retry_after=30)],
    ids=["429", "401", "403", "404", "503 with Retry-After"],
)
@pytest.mark.virtual_time
async def test_a_refusal_is_never_taken_for_too_much(fault: Any) -> None:
    host = FakeHost()
    host.add().append(100, text="x" * 1_000)
    host.heaviest, host.too_heavy = 30_000, fault
    gateway = in_front_of(host)
    for _ in range(2):
        with pytest.raises(GatewayError):
            await gateway.read_log(caller(), "9", "1", 0, 100, newest_first=False)
    assert host.calls["log"] == 2


@pytest.mark.wire("reads-retried")
@pytest.mark.virtual_time
async def test_a_host_that_hangs_is_not_waited_for_again_and_again() -> None:
    host, _, gateway = opened(100)

    async def hang(operation: str) -> None:
        await asyncio.sleep(60)
        raise UpstreamTimeout

    host.before = hang
    with pytest.raises(UpstreamTimeout):
        await gateway.read_log(caller(), "9", "1", 0, 100, newest_first=False)
    assert asyncio.get_running_loop().time() < 70


@pytest.mark.wire("pages-filled")
@pytest.mark.virtual_time
async def test_a_page_whose_pieces_take_long_ends_early_and_says_where_to_go_on() -> None:
    host = FakeHost()
    hosted = host.add(length=100)
    host.most, host.latency = 20, 8.0
    gateway = in_front_of(host)
    page = await gateway.read_log(caller(), "9", "1", 0, 100, newest_first=False)
    assert texts(page) == hosted.encoded()[:60]
    assert page.at_end is False


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("fault", [AnswerTooLong, AnswerCut])
@pytest.mark.parametrize("limit", [1, 20])
@pytest.mark.virtual_time
async def test_an_entry_that_cannot_be_had_has_a_placeholder_and_only_as_long_as_the_host_is_well(
    limit: int, fault: type[GatewayError], newest_first: bool
) -> None:
    host = FakeHost()
    hosted = host.add(length=39)
    hosted.amend(20, text="x" * 60_000)
    host.heaviest, host.too_heavy = 50_000, fault
    gateway = in_front_of(host)
    page = await gateway.read_log(caller(), "9", "1", 19, limit, newest_first=newest_first)
    assert page.entries[0].absent
    assert page.position(0) == 20
    assert len(page.entries) == limit
    assert page.paging.total == 39
    host.heaviest = -1  # nothing comes whole any more
    with pytest.raises(UpstreamError) as caught:
        await gateway.read_log(caller(), "9", "1", 0, limit, newest_first=newest_first)
    assert type(caught.value) is UpstreamError


@pytest.mark.virtual_time
async def test_a_fault_behind_the_first_piece_leaves_a_shorter_page() -> None:
    host, hosted, gateway = opened(100)
    host.most = 40

    async def fail(operation: str) -> None:
        if host.calls["log"] > 1:
            raise UpstreamTimeout

    host.before = fail
    page = await gateway.read_log(caller(), "9", "1", 0, 100, newest_first=False)
    assert texts(page) == hosted.encoded()[:40]
    assert page.at_end is False


@pytest.mark.wire("reads-retried")
@pytest.mark.virtual_time
async def test_an_answer_that_is_too_long_and_has_no_parts_is_asked_for_once() -> None:
    host = FakeHost()
    host.add()

    async def fail(operation: str) -> None:
        raise AnswerTooLong

    host.before = fail
    gateway = in_front_of(host)
    with pytest.raises(AnswerTooLong):
        await gateway.get(caller(), "9", "1")
    assert host.calls["get"] == 1


@pytest.mark.wire("reads-retried")
@pytest.mark.virtual_time
async def test_a_read_is_not_repeated_before_the_host_wants_it() -> None:
    host = FakeHost()
    host.add()

    async def fail(operation: str) -> None:
        raise UpstreamError(retry_after=30)

    host.before = fail
    gateway = in_front_of(host)
    with pytest.raises(UpstreamError):
        await gateway.get(caller(), "9", "1")
    assert host.calls["get"] == 1


# -- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.wire("pages-filled", "list-next")
@pytest.mark.parametrize("weights", [{5: 500}, {1: 500}, {10: 500}, {3: 500, 4: 500}, {}], ids=str)
@pytest.mark.parametrize("fault", [AnswerTooLong, *POSSIBLY])
@pytest.mark.virtual_time
async def test_a_run_that_is_too_heavy_breaks_nobody_s_list(weights: dict[int, int], fault: type[GatewayError]) -> None:
    host = FakeHost()
    host.too_heavy = fault
    for number in range(1, 11):
        host.add(str(number), weight=weights.get(number, 40))
    host.heaviest = 150
    gateway = in_front_of(host)
    ids: list[str] = []
    skip: int | None = 0
    while skip is not None:
        found = await gateway.list(caller(), "9", skip, 6, RunFilter(), None)
        ids += [each.ref.id for each in found.listing.items]
        skip = found.next_skip
    assert ids == [str(number) for number in range(10, 0, -1) if number not in weights]
    for limit in (1, 3, 10):
        ids, skip = [], 0
        while skip is not None:
            found = await gateway.list(caller(), "9", skip, limit, RunFilter(), "running")
            ids += [each.ref.id for each in found.listing.items]
            skip = found.next_skip
        assert ids == [str(number) for number in range(10, 0, -1) if number not in weights]


@pytest.mark.virtual_time
async def test_a_run_that_may_be_one_that_cannot_be_had_is_not_taken_for_one_that_is_not_there() -> None:
    host = FakeHost()
    gateway = in_front_of(host)
    for number in range(3):
        await gateway.create(caller(), "9", NewRun("go", marks={"request": str(number)}))
    assert await find_marked(gateway, caller(), "9", "request", ["9"], 0) is None
    host.runs["2"].weight, host.heaviest = 500, 150
    with pytest.raises(OutcomeUnknown):
        await find_marked(gateway, caller(), "9", "request", ["9"], 0)
    found = await find_marked(gateway, caller(), "9", "request", ["2"], 0)
    assert found is not None
    assert found.ref.id == "3"


@pytest.mark.wire("owner-lists")
@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.virtual_time
async def test_one_s_run_lists_are_found_in_the_list_of_a_host_that_gives_little(most: int) -> None:
    def shared(name: str) -> Caller:
        who = Principal("key", name)
        return Caller(who, Credential.of("alice", b"key"), None, frozenset({READ}), shared=True)

    ownership = Ownership(["a secret"])
    host = FakeHost()
    host.most = most
    for number in range(1, 31):
        host.add(str(number), marks=ownership.marks(shared("ann" if number % 3 else "ben")))
    gateway = in_front_of(host, ownership=ownership)
    ids: list[str] = []
    skip: int | None = 0
    while skip is not None:
        found = await gateway.list(shared("ben"), "9", skip, 4, RunFilter(), None)
        ids += [each.ref.id for each in found.listing.items]
        skip = found.next_skip
    assert ids == [str(number) for number in range(30, 0, -3)]


@pytest.mark.wire("org-choice", "org-required")
@pytest.mark.virtual_time
async def test_an_organization_is_the_only_one_when_the_host_has_shown_that_no_other_follows() -> None:
    class OneByOne(FakeHost):
        async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
            await self._called("organizations", credential)
            items = tuple(Organization(str(number), {"id": number}) for number in (7, 8, 9))[skip : skip + 1]
            return Listing(items, Paging(None, None, None, None), at_end=not items)

    gateway = in_front_of(OneByOne())
    with pytest.raises(GatewayError) as caught:
        await gateway.accounts.organization(caller(), None)
    assert [choice["id"] for choice in caught.value.details] == [7, 8, 9]  # type: ignore[index, call-overload]


@pytest.mark.wire("org-required")
@pytest.mark.virtual_time
async def test_an_organization_is_not_taken_for_the_only_one_while_others_may_follow() -> None:
    class First(FakeHost):
        async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
            if skip:
                raise UpstreamTimeout
            return Listing((Organization("7", {"id": 7}),), Paging(None, None, None, None), at_end=False)

    gateway = in_front_of(First())
    with pytest.raises(UpstreamError):
        await gateway.accounts.organization(caller(), None)
