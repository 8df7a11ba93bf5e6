"""Whose a run is, where all callers share the deployment's own credential: through the gateway, on a host in memory."""

import asyncio
import inspect
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.errors import (
    Forbidden,
    GatewayError,
    InsufficientScope,
    InvalidToken,
    NotFound,
    UpstreamError,
)
from codegen_api.following import Position, ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.gateway.ownership import OWNER, SEALABLE, Ownership
from codegen_api.gateway.run_lists import Bookmark, RunIndex
from codegen_api.identity import ALL, READ, SCOPES, WRITE, Caller, Credential, Principal
from codegen_api.runs import Paging, Run, RunRef, RunStatus
from codegen_api.upstreams import Decision, Listing, NewRun, RunFilter
from tests.dialects.rich import RichHost
from tests.fakehost import FakeHost, caller, in_front_of
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

SECRET = "a key that is long enough to be one"
OTHER_SECRET = "another key, long enough to be one"
SHARED = Credential.of("alice", b"key")
OWN = frozenset({READ, WRITE})

Ask = Callable[[Gateway, Caller], Any]
ON_A_RUN: dict[str, Ask] = {
    "get": lambda gateway, who: gateway.get(who, "9", "1"),
    "resume": lambda gateway, who: gateway.resume(who, "9", "1", "Go on", None),
    "cancel": lambda gateway, who: gateway.cancel(who, "9", "1"),
    "uncancel": lambda gateway, who: gateway.uncancel(who, "9", "1"),
    "pending": lambda gateway, who: gateway.pending(who, "9", "1"),
    "decide": lambda gateway, who: gateway.decide(who, "9", "1", "1", Decision("approve")),
    "read_log": lambda gateway, who: gateway.read_log(who, "9", "1", 0, 100, newest_first=False),
    "view": lambda gateway, who: gateway.view(who, "9", "1"),
    "follow": lambda gateway, who: gateway.follow(who, "9", "1", Position(0)),
}


def user(name: str, scopes: frozenset[str] = OWN, **more: Any) -> Caller:
    return Caller(
        Principal("jwt:https://issuer.example", name), SHARED, f"shown-by-{name}", scopes, shared=True, **more
    )


def gateway_to(host: FakeHost, *secrets: str, **more: Any) -> Gateway:
    more.setdefault("turns", ReadQueue(limit=1_000_000))
    return in_front_of(host, ownership=Ownership(secrets or (SECRET,)), **more)


async def finish(answer: Any) -> None:
    if hasattr(answer, "aclose"):
        await answer.aclose()


def test_every_call_that_takes_a_run_is_covered_here() -> None:
    takes_a_run = {
        name
        for name, method in inspect.getmembers(Gateway, inspect.iscoroutinefunction)
        if "run_id" in inspect.signature(method).parameters and not name.startswith("_")
    }
    assert takes_a_run == set(ON_A_RUN)


@pytest.mark.wire("owner-checked")
@pytest.mark.parametrize("call", sorted(ON_A_RUN))
@pytest.mark.parametrize("fresh", [False, True], ids=["the same process", "another process"])
async def test_the_owner_reaches_their_run_and_a_stranger_does_not(call: str, fresh: bool) -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    await gateway.create(user("ann"), "9", NewRun("Say hello"))
    host.runs["1"].wait()
    host.runs["1"].status = "ACTIVE" if call == "cancel" else "COMPLETE"
    if fresh:
        gateway = gateway_to(host)
    with pytest.raises(NotFound) as strange:
        await ON_A_RUN[call](gateway, user("eve"))
    kept = host.runs.pop("1")
    with pytest.raises(NotFound) as missing:
        await ON_A_RUN[call](gateway_to(host), user("eve"))
    assert (strange.value.message, strange.value.details) == (missing.value.message, missing.value.details)
    host.runs["1"] = kept
    await finish(await ON_A_RUN[call](gateway, user("ann")))


@pytest.mark.wire("owner-checked")
@pytest.mark.parametrize("call", sorted(ON_A_RUN))
async def test_a_run_without_an_owner_is_for_those_who_may_reach_all(call: str) -> None:
    host = FakeHost()
    host.add().wait()
    host.runs["1"].status = "ACTIVE" if call == "cancel" else "COMPLETE"
    gateway = gateway_to(host)
    with pytest.raises(NotFound):
        await ON_A_RUN[call](gateway, user("ann"))
    await finish(await ON_A_RUN[call](gateway, user("ann", SCOPES)))


@pytest.mark.wire("owner-checked")
@pytest.mark.parametrize("call", ["resume", "cancel", "decide"])
async def test_who_may_only_see_all_runs_is_told_what_they_lack_to_touch_them(call: str) -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    await gateway.create(user("ann"), "9", NewRun("Say hello"))
    with pytest.raises(InsufficientScope) as raised:
        await ON_A_RUN[call](gateway, user("eve", OWN | {READ + ALL}))
    assert raised.value.scope == WRITE + ALL


@pytest.mark.wire("owner-signed")
@pytest.mark.parametrize("call", sorted(ON_A_RUN))
async def test_a_mark_that_was_not_made_with_the_key_is_no_owner(call: str) -> None:
    forged = gateway_to(FakeHost(), OTHER_SECRET)._ownership.marks(user("eve"))[OWNER]
    for mark in ("", "eve", "jwt:https://issuer.example|eve", forged, "\udcff", "é"):
        host = FakeHost()
        host.add(status="COMPLETE", marks={OWNER: mark})
        gateway = gateway_to(host)
        with pytest.raises(NotFound):
            await ON_A_RUN[call](gateway, user("eve"))


@pytest.mark.wire("owner-signed")
async def test_a_new_key_in_front_leaves_everybody_their_runs_as_long_as_the_old_one_is_kept() -> None:
    host = FakeHost()
    await gateway_to(host, SECRET).create(user("ann"), "9", NewRun("Say hello"))
    both = gateway_to(host, OTHER_SECRET, SECRET)
    assert (await both.get(user("ann"), "9", "1")).ref == RunRef("9", "1")
    await both.create(user("ann"), "9", NewRun("Say hello again"))
    new = gateway_to(host, OTHER_SECRET)
    assert (await new.get(user("ann"), "9", "2")).ref == RunRef("9", "2")
    with pytest.raises(NotFound):
        await new.get(user("ann"), "9", "1")


NAMES = st.text(max_size=5)


@pytest.mark.wire("owner-signed")
@given(NAMES, NAMES, NAMES, NAMES)
def test_two_users_never_share_a_mark(authority: str, name: str, other_authority: str, other: str) -> None:
    rules = Ownership([SECRET])
    one, two = (
        Caller(Principal(*who), SHARED, "shown", OWN, shared=True)
        for who in [(authority, name), (other_authority, other)]
    )
    assert (rules.marks(one) == rules.marks(two)) == (one.principal == two.principal)
    assert not name or len(name) < 3 or name not in rules.marks(one)[OWNER]


async def test_with_a_credential_of_their_own_everything_is_for_the_host_to_say() -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    await gateway.create(user("ann"), "9", NewRun("Say hello"))
    assert (await gateway.get(caller("bob"), "9", "1")).ref.id == "1"
    assert (await gateway.create(caller("bob"), "9", NewRun("Mine"))).marks == {}
    assert len((await gateway.list(caller("bob"), "9", 0, 100, RunFilter(), None)).listing.items) == 2


async def test_the_host_is_asked_once_for_the_owner_of_a_run() -> None:
    host = FakeHost()
    host.add(marks=Ownership([SECRET]).marks(user("ann")))
    gateway = gateway_to(host)
    for _ in range(20):
        with pytest.raises(NotFound):
            await gateway.get(user("eve"), "9", "1")
    assert host.calls == {"get": 1}
    for _ in range(3):
        await gateway.read_log(user("ann"), "9", "1", 0, 100, newest_first=False)
    assert host.calls == {"get": 1, "log": 3}
    await gateway.get(user("ann"), "9", "1")  # fresh, every time
    assert host.calls["get"] == 2


async def test_getting_a_run_that_nobody_knows_yet_takes_one_call() -> None:
    host = FakeHost()
    host.add(marks=Ownership([SECRET]).marks(user("ann")))
    gateway = gateway_to(host)
    await gateway.get(user("ann"), "9", "1")
    assert host.calls == {"get": 1}


async def test_a_host_that_forgets_the_owner_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    create = host.create_run

    async def forgetful(credential: Credential, organization: str, new: NewRun) -> Run:
        return await create(credential, organization, replace(new, marks={}))

    host.create_run = forgetful  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        await gateway.create(user("ann"), "9", NewRun("Say hello"))
    assert "has not kept the owner" in caplog.text
    with pytest.raises(NotFound):
        await gateway_to(host).get(user("ann"), "9", "1")
    assert (await gateway.read_log(user("ann"), "9", "1", 0, 9, newest_first=False)).run.ref.id == "1"  # still known


def test_a_description_without_marks_takes_nothing_from_what_is_known() -> None:
    rules = Ownership([SECRET])
    ref = RunRef("9", "1")
    bare = Run(ref, RunStatus.RUNNING, "ACTIVE", {}, None)
    assert not rules.may_list(user("ann"), bare)
    assert rules.owner_record(ref) is None
    rules.created(user("ann"), bare)
    assert rules.may_list(user("ann"), bare)
    assert not rules.may_list(user("eve"), bare)


# -- lists ------------------------------------------------------------------------------------------------------------


async def crowd(gateway: Gateway, host: FakeHost, runs: int) -> list[str]:
    """Runs of two users and of nobody, mixed; those of ann, newest first."""
    owner = {0: "ann", 1: "bob"}
    for number in range(runs):
        name = owner.get(number % 7)
        if name is None:
            host.add(str(number + 1))
        else:
            await gateway.create(user(name), "9", NewRun("Say hello"))
    return [str(number + 1) for number in reversed(range(runs)) if number % 7 == 0]


@pytest.mark.wire("owner-lists")
async def test_a_list_holds_the_callers_run_lists_in_full_pages() -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    own = await crowd(gateway, host, 700)
    for ask, skip, limit in [
        (user("ann"), 0, 30),
        (user("ann"), 30, 30),
        (user("ann"), 95, 30),
        (user("eve"), 0, 5),
    ]:
        found = await gateway.list(ask, "9", skip, limit, RunFilter(), None)
        expected = own[skip : skip + limit] if ask == user("ann") else []
        assert [run.ref.id for run in found.listing.items] == expected
        assert (found.listing.paging.total, found.listing.paging.pages) == (None, None)
    everybody = await gateway.list(user("root", SCOPES), "9", 0, 100, RunFilter(), None)
    assert len(everybody.listing.items) == 100
    assert everybody.listing.paging.total == 700


@pytest.mark.wire("owner-lists")
async def test_a_search_that_went_far_enough_says_where_to_go_on() -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    own = await crowd(gateway, host, 2_500)
    seen: list[str] = []
    skip: int | None = 0
    rounds = 0
    while skip is not None:
        found = await gateway.list(user("ann"), "9", skip, 100, RunFilter(), None)
        seen += [run.ref.id for run in found.listing.items]
        skip, rounds = found.next_skip, rounds + 1
        assert skip is None or skip > 10**12
        assert rounds < 20
    assert seen == own


@pytest.mark.wire("owner-lists", "owner-calls")
async def test_many_who_look_for_their_run_lists_cost_what_the_first_one_costs() -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    own = await crowd(gateway, host, 950)
    lists = {
        "who owns none": (user("eve"), []),
        "and once more": (user("eve"), []),
        "who owns many": (user("ann"), own[:20]),
        "somebody else": (user("kim"), []),
    }
    costs = {}
    for name, (who, expected) in lists.items():
        before = host.calls["list"]
        found = await gateway.list(who, "9", 0, 20, RunFilter(), None)
        assert [run.ref.id for run in found.listing.items] == expected
        costs[name] = host.calls["list"] - before
    assert costs == {"who owns none": 10, "and once more": 1, "who owns many": 2, "somebody else": 1}
    host.add("951", marks=gateway._ownership.marks(user("kim")))  # by another process
    created = await gateway.create(user("eve"), "9", NewRun("Say hello"))
    found = await gateway.list(user("eve"), "9", 0, 20, RunFilter(), None)
    assert [run.ref.id for run in found.listing.items] == [created.ref.id]
    before = host.calls["list"]
    asked = [gateway.list(user("kim"), "9", 0, 20, RunFilter(), None) for _ in range(20)]
    assert [[run.ref.id for run in found.listing.items] for found in await asyncio.gather(*asked)] == [["951"]] * 20
    assert host.calls["list"] == before + 1


@pytest.mark.wire("owner-lists")
async def test_runs_that_go_behind_the_front_of_the_list_do_not_hide_older_ones() -> None:
    """What was known of the list leads to places from which one's own runs have moved up."""
    host = FakeHost()
    gateway = gateway_to(host)
    own = begin(host, "ann", 20)
    others = begin(host, None, 680)
    await gateway.list(user("ann"), "9", 0, 100, RunFilter(), None)
    for name in others[200:210]:
        del host.runs[name]
    found = await gateway.list(user("ann"), "9", 0, 100, RunFilter(), None)
    assert [run.ref.id for run in found.listing.items] == own


@pytest.mark.wire("owner-lists")
async def test_a_list_does_not_tell_how_many_runs_others_have_started() -> None:
    host = FakeHost()
    gateway, other = gateway_to(host), gateway_to(host)
    await crowd(gateway, host, 300)
    told = set()
    for _ in range(5):
        found = await gateway.list(user("ann"), "9", 0, 5, RunFilter(), None)
        assert found.next_skip is not None
        assert 2**52 <= found.next_skip < 2**53
        told.add(found.next_skip)
        again = await other.list(user("ann"), "9", found.next_skip, 5, RunFilter(), None)
        assert [run.ref.id for run in again.listing.items] == own_of_ann(host)[5:10]
    assert len(told) > 1  # and not even whether any were
    stranger = gateway_to(host, OTHER_SECRET)._ownership
    assert None in map(stranger.unseal, told)  # but for one in 64 by chance
    assert gateway_to(host, OTHER_SECRET, SECRET)._ownership.unseal(min(told)) is not None
    await gateway.aclose()
    await other.aclose()


def own_of_ann(host: FakeHost) -> list[str]:
    return [name for name in reversed(host.runs) if int(name) % 7 == 1]


@given(st.integers(0, 2**SEALABLE - 1), st.integers(0, 2**53))
def test_numbers_are_sealed_and_opened_and_nothing_else_passes_for_one(number: int, other: int) -> None:
    ownership = Ownership([SECRET])
    sealed = ownership.seal(number)
    assert 2**52 <= sealed < 2**53
    assert ownership.unseal(sealed) == number
    assert ownership.unseal(other % 2**52) is None
    assert ownership.unseal(sealed + 2**53) is None


@given(st.integers(0, 2**24 - 1), st.integers(0, 2**17 - 1))
def test_a_bookmark_is_written_down_with_a_place_that_is_hardly_before_its_own(number: int, place: int) -> None:
    written = Bookmark(number, place).encode()
    again = Bookmark.decode(written)
    assert written < 2**SEALABLE
    assert again.number == number
    assert 0 <= place - again.place <= place // 512


def begin(host: FakeHost, name: str | None, count: int = 1) -> list[str]:
    """Runs that somebody starts by way of another process, newest first."""
    marks = Ownership([SECRET]).marks(user(name)) if name else {}
    first = int(next(reversed(host.runs), "0")) + 1
    return [host.add(str(number), marks=marks).ref.id for number in range(first, first + count)][::-1]


@pytest.mark.wire("owner-lists", "calls-bounded")
@pytest.mark.parametrize("at_once", [100, 30], ids=["whole pages", "short pages"])
@pytest.mark.parametrize("fresh", [False, True], ids=["the same process", "another process"])
@pytest.mark.parametrize("started", [1, 4, 63, 64, 99, 250, 2_000])
async def test_what_others_start_between_two_pages_brings_nothing_of_ones_own_again(
    started: int, fresh: bool, at_once: int
) -> None:
    host = FakeHost()
    host.latency, host.most = 0, at_once
    gateway = gateway_to(host)
    own: list[str] = []
    for number in range(600):
        mine = begin(host, "bob" if number % 3 else "ann")
        own = own if number % 3 else mine + own
    seen: list[str] = []
    skip: int | None = 0
    pages = 0
    while skip is not None:
        host.calls.clear()
        found = await gateway.list(user("ann"), "9", skip, 50, RunFilter(), None)
        assert host.calls["list"] <= 20
        seen += [each.ref.id for each in found.listing.items]
        skip, pages = found.next_skip, pages + 1
        assert pages < 30
        begin(host, "bob", started if pages < 3 else 0)
        gateway = gateway_to(host) if fresh else gateway
    assert seen == own


@pytest.mark.wire("owner-lists")
@given(st.integers(0, 10**9))
@settings(max_examples=25, deadline=None)
def test_everybody_gets_each_of_their_own_once_whatever_is_started_ended_and_removed_meanwhile(seed: int) -> None:
    draw = random.Random(seed)

    async def main() -> None:
        host = FakeHost()
        host.latency, host.most = 0, draw.choice([7, 40, 100])
        gateways = [gateway_to(host), gateway_to(host)]
        for _ in range(draw.randint(1, 12)):
            begin(host, draw.choice(["ann", "bob", None]), draw.choice([1, 2, 5, 90, 130, 400]))
        limit, status = draw.choice([1, 3, 20, 100]), draw.choice([None, "running"])
        own = {name for name in host.runs if host.runs[name].marks == Ownership([SECRET]).marks(user("ann"))}
        there, seen = set(own), list[str]()
        skip: int | None = 0
        pages = 0
        while skip is not None:
            found = await draw.choice(gateways).list(user("ann"), "9", skip, limit, RunFilter(), status)
            seen += [each.ref.id for each in found.listing.items]
            skip, pages = found.next_skip, pages + 1
            assert pages < len(own) + 100
            if pages > 12:
                continue
            begin(host, draw.choice(["ann", "bob"]), draw.choice([0, 0, 1, 70, 300]))
            names = list(host.runs)
            first = draw.randrange(len(names))
            for name in names[first : first + draw.choice([0, 0, 1, 30, 200, 900])]:
                if name != names[-1] and draw.random() < 0.5:  # the newest stays, so that no id is given twice
                    there.discard(name)
                    del host.runs[name]
        assert len(seen) == len(set(seen))
        assert there <= set(seen) <= own
        for gateway in gateways:
            await gateway.aclose()

    run(main())


@given(st.data())
def test_an_index_leads_to_all_runs_however_the_list_moves_on(data: st.DataObject) -> None:
    draw = data.draw
    owners = draw(st.lists(st.sampled_from(["ann", "bob", None]), min_size=1, max_size=60))
    runs = [listed(number, owner) for number, owner in enumerate(owners)]
    size, index = draw(st.integers(1, 12)), RunIndex(owner_of, at_most=draw(st.sampled_from([5, 1000])))
    for _ in range(draw(st.integers(1, 4))):
        expected = {run.ref.id for run in runs if owner_of(run) in (None, "ann")}
        seen: set[str] = set()
        place: int | None = 0
        while place is not None:
            given = runs[::-1][place : place + draw(st.integers(1, size))]  # a host may give less than it is asked for
            listing = Listing(tuple(given), Paging(None, None, None, None), place + len(given) >= len(runs))
            index.add_page(place, listing)
            seen |= {run.ref.id for run in given}
            place = None if listing.at_end else index.next(place + len(given), {None, "ann"}.__contains__)
            if draw(st.booleans()):
                runs.append(listed(len(runs), draw(st.sampled_from(["ann", "bob"]))))
        assert expected <= seen


def listed(number: int, owner: str | None) -> Run:
    return Run(RunRef("9", str(number)), RunStatus.RUNNING, "ACTIVE", {}, None if owner is None else {OWNER: owner})


def owner_of(run: Run) -> str | None:
    return Ownership().owner_of(run)


@pytest.mark.wire("owner-lists")
async def test_a_status_narrows_a_list_of_ones_own() -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    own = await crowd(gateway, host, 70)
    host.runs[own[3]].status = "COMPLETE"
    host.runs["2"].status = "COMPLETE"
    found = await gateway.list(user("ann"), "9", 0, 100, RunFilter(), "completed")
    assert [run.ref.id for run in found.listing.items] == [own[3]]


@pytest.mark.wire("owner-lists")
@pytest.mark.parametrize("scopes", [OWN, SCOPES, frozenset({READ + ALL})])
async def test_a_shared_caller_s_own_number_means_their_run_lists(scopes: frozenset[str]) -> None:
    host = RichHost()
    gateway = gateway_to(host)
    own = await crowd(gateway, host, 70)
    ann = user("ann", scopes)
    found = await gateway.list(ann, "9", 0, 100, RunFilter("API", str(ann.principal.number)), None)
    assert [run.ref.id for run in found.listing.items] == own
    assert host.filters == [RunFilter("API", None)]
    for asker, number in [(ann, 7), (user("eve"), ann.principal.number), (caller(), caller().principal.number)]:
        await gateway.list(asker, "9", 0, 100, RunFilter(None, str(number)), None)
        assert host.filters[-1] == RunFilter(None, str(number))


@given(*[st.text()] * 4)
def test_the_number_of_a_user_is_theirs_alone_and_no_host_s(one: str, name: str, other: str, another: str) -> None:
    first, second = Principal(one, name), Principal(other, another)
    assert (first.number == second.number) == (first == second)
    assert 2**52 <= first.number < 2**53
    assert Principal("key", "ci").number == 5039340423043151


# -- users ------------------------------------------------------------------------------------------------------------


async def test_the_users_and_repositories_of_the_account_are_not_shown_to_those_who_share_it() -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    for ask in (
        gateway.accounts.users(user("ann", SCOPES), "9", 0, 100),
        gateway.accounts.user(user("ann", SCOPES), "9", "1"),
        gateway.accounts.user(user("ann", SCOPES), "9", "777"),
        gateway.accounts.repositories(user("ann", SCOPES), "9", 0, 100),
    ):
        with pytest.raises(Forbidden):
            await ask
    assert not host.calls


# -- organizations ----------------------------------------------------------------------------------------------------


@pytest.mark.wire("org-confined")
async def test_who_shares_the_credential_stays_in_the_organization_of_the_deployment() -> None:
    gateway = gateway_to(FakeHost(), organization="9")
    assert await gateway.accounts.organization(user("ann"), None) == "9"
    assert await gateway.accounts.organization(user("ann"), "9") == "9"
    for scopes in (OWN, SCOPES):
        with pytest.raises(Forbidden):
            await gateway.accounts.organization(user("ann", scopes), "8")
    assert await gateway.accounts.organization(caller("bob"), "8") == "8"


@pytest.mark.wire("org-confined")
async def test_who_is_given_an_organization_stays_in_it() -> None:
    host = FakeHost()
    gateway = gateway_to(host, organization="9")
    assert await gateway.accounts.organization(user("ann", organization="8"), None) == "8"
    with pytest.raises(Forbidden):
        await gateway.accounts.organization(user("ann", organization="8"), "9")
    assert [each.id for each in (await gateway.accounts.organizations(user("ann"), 0, 100)).items] == ["9"]
    assert (await gateway.accounts.organizations(user("ann"), 1, 100)).items == ()
    assert (await gateway.accounts.organizations(user("ann", organization="8"), 0, 100)).items == ()


@pytest.mark.wire("org-confined", "owner-checked")
@pytest.mark.parametrize("call", sorted(ON_A_RUN))
async def test_a_run_that_turns_out_to_be_elsewhere_is_closed_to_who_is_confined(call: str) -> None:
    host = FakeHost()
    host.add(status="COMPLETE")  # which is in organization 9, whatever it is asked for as
    gateway = gateway_to(host)
    with pytest.raises(NotFound):
        await ON_A_RUN[call](gateway, user("root", SCOPES, organization="8"))


async def test_without_either_the_organization_is_the_only_one_of_the_credential() -> None:
    gateway = gateway_to(FakeHost())
    assert await gateway.accounts.organization(user("ann"), None) == "9"


# -- what the host says to the deployment's own credential ------------------------------------------------------------


def refusing(error: GatewayError) -> Callable[[str], Any]:
    async def refuse(_: str) -> None:
        raise error

    return refuse


@pytest.mark.wire("owner-checked")
@pytest.mark.parametrize("call", sorted(ON_A_RUN))
@pytest.mark.parametrize("error", [NotFound("Run 1 of Ann is gone."), Forbidden("Not in Ann's team.", details=["x"])])
async def test_what_the_host_does_not_show_is_not_there(call: str, error: GatewayError) -> None:
    host = FakeHost()
    gateway = gateway_to(host)
    await gateway.create(user("ann"), "9", NewRun("Say hello"))
    host.before = refusing(error)
    await asyncio.sleep(100)  # what the host said of the run is not good any longer
    with pytest.raises(NotFound) as raised:
        await ON_A_RUN[call](gateway, user("ann"))
    assert (raised.value.message, raised.value.details) == (NotFound.default_message, ())


@pytest.mark.parametrize("call", [*sorted(ON_A_RUN), "create", "list", "organizations"])
async def test_a_refusal_of_the_shared_credential_is_not_the_callers_fault(call: str) -> None:
    calls: dict[str, Ask] = {
        **ON_A_RUN,
        "create": lambda gateway, who: gateway.create(who, "9", NewRun("Say hello")),
        "list": lambda gateway, who: gateway.list(who, "9", 0, 100, RunFilter(), None),
        "organizations": lambda gateway, who: gateway.accounts.organizations(who, 0, 100),
    }

    host = FakeHost()
    gateway = gateway_to(host)
    await gateway.create(user("ann"), "9", NewRun("Say hello"))
    host.before = refusing(InvalidToken())
    await asyncio.sleep(100)
    with pytest.raises(UpstreamError):
        await calls[call](gateway, user("ann"))
