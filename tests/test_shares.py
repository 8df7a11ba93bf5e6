"""What one caller asks of the host does not use up what all share."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.errors import RateLimited
from codegen_api.following import ReadQueue
from codegen_api.following.shared_budgets import LONE_SHARE, FairShares
from codegen_api.gateway import Gateway
from codegen_api.gateway.ownership import Ownership
from codegen_api.pace import LIMIT, WINDOW
from codegen_api.runs import Run
from codegen_api.upstreams import NewRun, RunFilter
from tests.fakehost import caller, in_front_of
from tests.following.strict import StrictHost
from tests.following.viewing import Viewer
from tests.test_ownership import SECRET, user

pytestmark = pytest.mark.virtual_time


def gateway_to(host: StrictHost) -> Gateway:
    return in_front_of(host, ownership=Ownership([SECRET]))


async def runs_of(host: StrictHost, gateway: Gateway, name: str, count: int) -> list[str]:
    marks = gateway._ownership.marks(user(name))
    ids = [str(len(host.runs) + 1 + number) for number in range(count)]
    for each in ids:
        host.add(each, status="COMPLETE", marks=marks).append(3)
    return ids


@pytest.mark.wire("budget-fair")
@pytest.mark.parametrize("followed", [0, 30])
async def test_whatever_one_asks_at_once_another_may_create_at_once(followed: int) -> None:
    loop = asyncio.get_running_loop()
    host = StrictHost()
    gateway = gateway_to(host)
    bobs = await runs_of(host, gateway, "bob", 300)
    for number in range(800):
        host.add(f"9{number}")
    for id_ in await runs_of(host, gateway, "kim", followed):
        host.runs[id_].status = "ACTIVE"
    watching = [
        asyncio.create_task(Viewer().watch(gateway, who=user("kim"), run=number, until=100))
        for number in list(host.runs)[-followed:]
        if followed
    ]
    await asyncio.sleep(70 if followed else 0)
    began = loop.time()
    worst = [
        *(gateway.get(user("bob"), "9", number) for number in bobs),
        *(gateway.list(user("bob"), "9", number, 50, RunFilter(), None) for number in range(10)),
        *(gateway.read_log(user("bob"), "9", number, 0, 10, newest_first=False) for number in bobs),
    ]
    asked = [asyncio.ensure_future(each) for each in worst]
    for moment in (0.0, 0.2, 1.0, 5.0, 9.0):
        await asyncio.sleep(began + moment - loop.time())
        created = loop.time()
        await gateway.create(user("alice"), "9", NewRun("Say hello"))
        assert loop.time() - created <= host.latency + 0.001
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert not host.refused
    assert loop.time() - began <= 15
    waits = [answer.retry_after for answer in answers if isinstance(answer, RateLimited)]
    assert len(waits) > 500
    assert all(wait is not None and 0 < wait <= WINDOW for wait in waits)
    assert sum(not isinstance(answer, BaseException) for answer in answers) >= (6 if followed else 20)
    await asyncio.gather(*watching)


@pytest.mark.wire("budget-fair")
async def test_who_comes_back_when_they_are_told_gets_it() -> None:
    host = StrictHost()
    gateway = gateway_to(host)
    bobs = await runs_of(host, gateway, "bob", 100)

    async def insist(number: str) -> Run:
        while True:
            try:
                return await gateway.get(user("bob"), "9", number)
            except RateLimited as error:
                await asyncio.sleep(error.retry_after or 1)

    found = await asyncio.gather(*map(insist, bobs))
    assert [each.ref.id for each in found] == bobs
    assert not host.refused
    assert asyncio.get_running_loop().time() < 240


async def test_who_has_a_token_of_their_own_has_its_limit_for_themselves() -> None:
    host = StrictHost()
    gateway = in_front_of(host)
    for number in range(LIMIT_RUNS):
        host.add(str(number))
    await asyncio.gather(*(gateway.get(caller(), "9", str(number)) for number in range(LIMIT_RUNS)))
    assert asyncio.get_running_loop().time() < 1


LIMIT_RUNS = int(LIMIT)


@pytest.mark.wire("budget-fair")
async def test_where_the_host_counts_by_address_tokens_of_their_own_share_as_well() -> None:
    host = StrictHost(together=True)
    gateway = in_front_of(host, turns=ReadQueue(together=True))
    for number in range(200):
        host.add(str(number))
    asked = [asyncio.ensure_future(gateway.get(caller("bob"), "9", str(number))) for number in range(200)]
    await asyncio.sleep(1)
    await gateway.create(caller("alice"), "9", NewRun("Say hello"))
    await asyncio.gather(*asked, return_exceptions=True)
    assert not host.refused


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=300))
def test_nobody_has_more_than_their_share_in_any_minute(asks: list[tuple[str, float]]) -> None:
    shares, now = FairShares(), 0.0
    given_: list[tuple[str, float]] = []
    for who, pause in asks:
        now += pause
        wait = shares.wait(who, now, LIMIT)
        assert 0 <= wait <= WINDOW + 1
        if wait == 0:
            shares.used(who, now)
            given_.append((who, now))
        lately = [name for name, moment in given_ if moment > now - WINDOW]
        assert lately.count(who) <= LONE_SHARE * LIMIT
