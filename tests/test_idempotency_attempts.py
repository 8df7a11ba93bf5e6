"""Clients that send no key, but say how often they have sent a request: repeats are done once, and nothing else is."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.errors import (
    GatewayError,
    IdempotencyKeyReused,
    QuotaExhausted,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.idempotency import Outcome
from codegen_api.idempotency.keys import REPEATED_WITHIN, Attempt, checked_key, message_key
from codegen_api.identity import Caller, Principal
from codegen_api.upstreams import NewRun
from tests.fakehost import caller
from tests.test_idempotency import FAULTS, USERS, Dated, Site, patiently, site_for
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

FIRST, SECOND, THIRD = map(Attempt, range(3))
each_user = pytest.mark.parametrize("who", USERS.values(), ids=list(USERS))


async def create(site: Site, attempt: Attempt | None, prompt: str = "Say hello", who: Caller | None = None) -> Outcome:
    return await site.idempotency.create(who or site.who, "9", NewRun(prompt), attempt)


async def broken(site: Site, error: BaseException, late: float | None, attempt: Attempt = FIRST) -> None:
    site.host.faults = [(error, late)]
    with pytest.raises(type(error)):
        await create(site, attempt)


@each_user
async def test_two_first_attempts_are_two_requests_however_equal_they_are(who: Caller) -> None:
    site = Site(who, Dated())
    asked = [FIRST, None, FIRST, None, FIRST]
    outcomes = [await create(site, attempt) for attempt in asked]
    outcomes += await asyncio.gather(*(create(site, attempt) for attempt in asked))
    assert not any(outcome.replayed for outcome in outcomes)
    assert len({outcome.run.ref for outcome in outcomes}) == site.host.acted == 10
    assert site.host.calls["list"] == 0  # nobody looks for what a first attempt did before


@each_user
def test_a_repeat_gets_what_came_of_the_attempt_before(who: Caller) -> None:
    async def main() -> None:
        site = Site(who, Dated())
        first = await create(site, FIRST)
        for attempt in (SECOND, THIRD):
            assert await create(site, attempt) == Outcome(first.run, replayed=True)
        assert not (await create(site, SECOND, "Something else")).replayed
        stranger = replace(who, principal=Principal(who.principal.authority, "another"))
        assert not (await create(site, SECOND, who=stranger)).replayed
        await asyncio.sleep(2 * REPEATED_WITHIN)
        assert not (await create(site, SECOND)).replayed
        assert site.host.acted == 4

    run(main(), at_most=10**4)


async def test_a_repeat_waits_for_an_attempt_that_is_under_way() -> None:
    site = Site(host=Dated())
    site.host.latency = 20
    first = asyncio.ensure_future(create(site, FIRST))
    await asyncio.sleep(5)
    second = await create(site, SECOND)
    assert second == Outcome((await first).run, replayed=True)
    assert site.host.acted == 1


@each_user
@pytest.mark.parametrize(
    ("error", "late"), [(UpstreamError(), 0), (UpstreamUnreachable(), 4), (UpstreamTimeout(), 40), (OSError(), 0)]
)
async def test_a_repeat_finds_what_the_host_did_and_did_not_say(who: Caller, error: Exception, late: float) -> None:
    site = Site(who, Dated())
    await create(site, FIRST)
    await broken(site, error, late)
    number = 0

    def again() -> Any:
        nonlocal number
        number += 1
        return create(site, Attempt(number))

    outcome = await patiently(again)
    assert (outcome.replayed, outcome.run.ref.id, site.host.acted) == (True, "2", 2)


async def test_a_repeat_of_what_was_refused_is_done_and_gets_nothing_of_an_equal_request() -> None:
    site = Site(host=Dated())
    await create(site, FIRST)
    await broken(site, UpstreamRateLimited(retry_after=1), None)
    outcome = await create(site, SECOND)
    assert (outcome.replayed, site.host.acted, site.host.calls["list"]) == (False, 2, 0)


async def test_a_repeat_is_of_what_broke_off_rather_than_of_what_was_answered_refused_or_is_under_way() -> None:
    site = Site(host=Dated())
    await create(site, FIRST)
    await broken(site, UpstreamError(), 0)
    await broken(site, QuotaExhausted(), None)
    await create(site, FIRST)
    site.host.latency = 10
    under_way = asyncio.ensure_future(create(site, FIRST))
    await asyncio.sleep(1)
    assert (await create(site, SECOND)).run.ref.id == "2"
    assert (await under_way).run.ref.id == "4"


async def test_equal_requests_that_broke_off_together_are_each_done_once() -> None:
    site = Site(host=Dated())
    site.host.faults += [(UpstreamError(), late) for late in (None, 0, 0.5, None, 0)] * 2
    await asyncio.gather(*(create(site, FIRST) for _ in range(10)), return_exceptions=True)
    outcomes = await asyncio.gather(*(create(site, SECOND) for _ in range(10)))
    assert len({outcome.run.ref for outcome in outcomes}) == site.host.acted == 10


@each_user
def test_repeats_that_reach_another_process_find_the_runs_by_their_marks_and_each_its_own(who: Caller) -> None:
    async def main() -> None:
        host = Dated()
        before = Site(who, host)
        for _ in range(5):
            await broken(before, UpstreamTimeout(), 0)
        await asyncio.sleep(REPEATED_WITHIN / 2)
        after = Site(who, host)
        outcomes = await asyncio.gather(*(create(after, SECOND) for _ in range(6)))
        assert [outcome.replayed for outcome in outcomes].count(True) == 5
        assert len({outcome.run.ref for outcome in outcomes}) == host.acted == 6
        stranger = replace(who, principal=Principal(who.principal.authority, "another"))
        assert not (await create(Site(stranger, host), SECOND)).replayed
        await asyncio.sleep(3 * REPEATED_WITHIN)
        assert not (await create(Site(who, host), SECOND)).replayed

    run(main(), at_most=10**4)


async def test_a_repeat_that_missed_an_attempt_elsewhere_finds_what_came_of_that() -> None:
    host = Dated()
    here, elsewhere = Site(host=host), Site(host=host)
    await broken(here, UpstreamRateLimited(retry_after=1), None)
    await broken(elsewhere, UpstreamTimeout(), 0, SECOND)
    outcome = await create(here, THIRD)
    assert (outcome.replayed, host.acted) == (True, 1)


async def test_a_resume_is_repeated_by_its_attempts_as_well() -> None:
    site = site_for("resume", caller())

    async def resume(attempt: Attempt) -> Outcome:
        return await site.idempotency.resume(site.who, "9", "1", "Go on now", None, attempt)

    site.host.faults = [(UpstreamError(), 0)]
    with pytest.raises(UpstreamError):
        await resume(FIRST)
    assert (await resume(SECOND)).replayed
    assert (await resume(THIRD)).replayed
    assert not (await resume(FIRST)).replayed
    assert site.host.acted == 2


@settings(deadline=None)
@given(FAULTS, st.lists(st.sampled_from([0.0, 0.02, 1.0, 20.0]), min_size=2, max_size=5))
def test_whatever_goes_wrong_each_of_equal_requests_is_done_once(faults: Any, pauses: list[float]) -> None:
    async def insist(site: Site) -> Outcome:
        for number in range(200):
            try:
                return await create(site, Attempt(number))
            except (GatewayError, asyncio.CancelledError) as error:
                await asyncio.sleep(getattr(error, "retry_after", None) or 1)
        raise AssertionError

    async def main() -> None:
        site = Site(host=Dated())
        site.host.faults = list(faults)
        clients = []
        for pause in pauses:
            clients.append(asyncio.ensure_future(insist(site)))
            await asyncio.sleep(pause)
        outcomes = await asyncio.gather(*clients)
        await asyncio.sleep(100)
        assert len({outcome.run.ref for outcome in outcomes}) == site.host.acted == len(pauses)

    run(main(), at_most=10**5)


@pytest.mark.parametrize(
    ("said", "attempt"),
    [("0", FIRST), ("2", THIRD), ("", None), (None, None), ("-1", None), ("1.0", None), ("½", None), ("9" * 99, None)],
)
def test_a_retry_count_is_a_number_or_nothing_was_said(said: str | None, attempt: Attempt | None) -> None:
    assert Attempt.of(said) == attempt


async def test_the_id_of_a_message_is_a_key_whatever_it_looks_like() -> None:
    ids = ["msg_1", "msg_2", "", "é", "x" * 1000, "\ud800", "a\nb"]
    assert len({checked_key(message_key(each)) for each in ids}) == len(ids)

    site = Site()
    first = await site.create(key=message_key("é"))
    assert await site.create(key=message_key("é")) == Outcome(first.run, replayed=True)
    with pytest.raises(IdempotencyKeyReused):
        await site.create("Something else", key=message_key("é"))
