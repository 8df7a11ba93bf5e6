"""Idempotency-Key: what is asked for again is done once, whatever happened to it the first time."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import (
    GatewayError,
    IdempotencyKeyReused,
    InProgress,
    InsufficientScope,
    InvalidIdempotencyKey,
    InvalidToken,
    NotFound,
    OutcomeUnknown,
    QuotaExhausted,
    UpstreamError,
    UpstreamFailure,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from codegen_api.gateway import Gateway
from codegen_api.gateway.ownership import Ownership
from codegen_api.gateway.run_lists import SEARCHED_PAGES
from codegen_api.idempotency import ELSEWHERE, Idempotency, Outcome
from codegen_api.idempotency.lookup import CUT_GRACE, SILENT_GRACE, find_said
from codegen_api.idempotency.records import MemoryRecords
from codegen_api.identity import ALL, READ, WRITE, Caller, Credential, Principal
from codegen_api.runs import Run, RunRef
from codegen_api.upstreams import NewRun
from tests.fakehost import FakeHost, Hosted, Sequence, caller
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

SECRET = "a key that is long enough to be one"
KEY = "the client's choice"


def now() -> float:
    """The wall clock of a simulation."""
    return 1e9 + asyncio.get_running_loop().time()


class Faulty(FakeHost):
    """A host that acts, or not, and then fails to say so: ``faults`` are what happens to the next creates and resumes.

    Each is the error to raise, and how long after it the host acts nevertheless; None for never, 0 for before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[tuple[BaseException, float | None]] = []
        self.acted = 0
        self.late: list[asyncio.Task[None]] = []

    async def _disturbed(self, act: Callable[[], Any]) -> Run:
        if not self.faults:
            found: Run = await act()
            self.acted += 1
            return found
        error, delay = self.faults.pop(0)
        if delay == 0:
            await act()
            self.acted += 1
        elif delay is not None:
            self.late.append(asyncio.ensure_future(self._later(delay, act)))
        raise error

    async def _later(self, delay: float, act: Callable[[], Any]) -> None:
        await asyncio.sleep(delay)
        await act()
        self.acted += 1

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        return await self._disturbed(lambda: super(Faulty, self).create_run(credential, organization, new))

    async def resume_run(
        self, credential: Credential, ref: Any, prompt: str, images: Any, *, key: str | None = None
    ) -> Run:
        return await self._disturbed(lambda: super(Faulty, self).resume_run(credential, ref, prompt, images))


class Dated(Faulty):
    """A host that says when a run was created."""

    def _run(self, hosted: Hosted, **more: Any) -> Run:
        if (created := self.created.get(hosted.ref.id)) is None:
            created = self.created[hosted.ref.id] = now()
        return super()._run(hosted, created_at=datetime.fromtimestamp(created, UTC).isoformat(), **more)

    def __init__(self) -> None:
        super().__init__()
        self.created: dict[str, float] = {}


class Site:
    """A gateway in front of a faulty host, and a user of it."""

    def __init__(self, who: Caller | None = None, host: Faulty | None = None, *keys: str) -> None:
        keys = keys or (SECRET,)
        self.host = host or Faulty()
        self.gateway = Gateway(self.host, MemoryBroker(), ownership=Ownership(keys))
        self.idempotency = Idempotency(self.gateway, MemoryRecords(), keys, clock=now)
        self.who = who or caller()

    async def create(self, prompt: str = "Say hello", key: str | None = KEY, who: Caller | None = None) -> Outcome:
        return await self.idempotency.create(who or self.who, "9", NewRun(prompt), key)

    async def resume(self, prompt: str = "Go on now", key: str | None = KEY, who: Caller | None = None) -> Outcome:
        return await self.idempotency.resume(who or self.who, "9", "1", prompt, None, key)


ASKS: dict[str, Callable[[Site], Any]] = {"create": Site.create, "resume": Site.resume}
SHARED = Caller(Principal("jwt:https://issuer.example", "ann"), Credential.of("alice", b"key"), "x", shared=True)
USERS = {"with a token of the host": caller(), "with a JWT": replace(SHARED, scopes=frozenset({READ, WRITE}))}


def site_for(ask: str, who: Caller) -> Site:
    site = Site(who)
    if ask == "resume":
        marks = site.gateway._ownership.marks(who)
        site.host.add(status="COMPLETE", marks=marks).append(3, prompt="Go on now and before")
    return site


CASES = [pytest.param(ask, who, id=f"{ask} {name}") for ask in ASKS for name, who in USERS.items()]
each_case = pytest.mark.parametrize(("ask", "who"), CASES)


@pytest.mark.wire("idempotency-replayed")
@each_case
def test_the_first_result_is_given_again_for_a_day(ask: str, who: Caller) -> None:
    async def main() -> None:
        site = site_for(ask, who)
        first = await ASKS[ask](site)
        assert not first.replayed
        site.host.runs[first.run.ref.id].status = "COMPLETE"
        for pause in (1, 3600, 22 * 3600):
            await asyncio.sleep(pause)
            assert await ASKS[ask](site) == Outcome(first.run, replayed=True)
        assert site.host.acted == 1
        await asyncio.sleep(2 * 3600)
        assert not (await ASKS[ask](site)).replayed
        assert site.host.acted == 2
        await site.idempotency.aclose()

    run(main(), at_most=10**6)


@pytest.mark.wire("idempotency-replayed")
async def test_without_a_key_everything_is_done_as_it_comes() -> None:
    site = Site()
    assert len({(await site.create(key=None)).run.ref.id for _ in range(3)}) == 3
    await site.resume(key=None)
    await site.resume(key=None)
    assert site.host.acted == 5


@pytest.mark.wire("idempotency-reused")
@each_case
async def test_a_key_goes_with_one_request_one_route_and_one_user(ask: str, who: Caller) -> None:
    site = site_for(ask, who)
    first = await ASKS[ask](site)
    for other in ("Something else", "Say hello ", ""):
        with pytest.raises(IdempotencyKeyReused):
            await ASKS[ask](site, other)  # type: ignore[call-arg]
    assert site.host.acted == 1
    another = replace(who, principal=Principal(who.principal.authority, "another"))
    assert not (await site.create(who=another)).replayed
    if ask == "create":
        site.host.runs[first.run.ref.id].status = "COMPLETE"
        assert not (await site.resume()).replayed


@pytest.mark.wire("idempotency-under-way")
@each_case
async def test_of_two_hundred_at_once_one_is_done(ask: str, who: Caller) -> None:
    site = site_for(ask, who)
    found = await asyncio.gather(*(ASKS[ask](site) for _ in range(200)), return_exceptions=True)
    assert len([each for each in found if isinstance(each, Outcome)]) == 1
    assert len([each for each in found if isinstance(each, InProgress)]) == 199
    assert site.host.acted == 1


@pytest.mark.wire("idempotency-released")
@pytest.mark.parametrize(
    "error", [QuotaExhausted(), NotFound(), UpstreamRateLimited(retry_after=1), InvalidToken()], ids=repr
)
@each_case
async def test_a_refusal_frees_the_key(ask: str, who: Caller, error: GatewayError) -> None:
    site = site_for(ask, who)
    site.host.faults = [(error, None)]
    with pytest.raises(GatewayError):
        await ASKS[ask](site)
    assert not (await ASKS[ask](site)).replayed
    assert site.host.acted == 1


def unheard(error: UpstreamFailure) -> UpstreamFailure:
    error.may_have_acted = False
    return error


@pytest.mark.wire("idempotency-released")
@pytest.mark.parametrize("error", [unheard(UpstreamUnreachable()), unheard(UpstreamTimeout())], ids=repr)
@each_case
async def test_a_host_that_was_not_reached_frees_the_key(ask: str, who: Caller, error: UpstreamFailure) -> None:
    site = site_for(ask, who)
    site.host.faults = [(error, None)]
    with pytest.raises(type(error)):
        await ASKS[ask](site)
    calls = site.host.calls["list"]
    assert not (await ASKS[ask](site)).replayed
    # a create looks whether another process has started it, and no further
    assert (site.host.acted, site.host.calls["list"]) == (1, calls + (ask == "create"))


async def test_what_goes_wrong_before_the_host_is_asked_for_it_frees_the_key() -> None:
    site = site_for("resume", caller())
    for operation in ("log", "get"):
        site.host.before = Sequence(operation, *[UpstreamTimeout()] * (3 if operation == "log" else 1))
        with pytest.raises(UpstreamTimeout):
            await site.resume(key=operation)
        site.host.runs["1"].status = "COMPLETE"
        assert not (await site.resume(key=operation)).replayed
    assert site.host.acted == 2


BROKEN = [UpstreamError(), UpstreamUnreachable(), UpstreamTimeout(), RuntimeError("x"), asyncio.CancelledError()]


@pytest.mark.wire("idempotency-unknown")
@pytest.mark.parametrize("error", BROKEN, ids=repr)
@each_case
async def test_what_the_host_did_and_did_not_say_is_found(ask: str, who: Caller, error: BaseException) -> None:
    site = site_for(ask, who)
    site.host.faults = [(error, 0)]
    with pytest.raises(type(error)):
        await ASKS[ask](site)
    with pytest.raises(IdempotencyKeyReused):
        await ASKS[ask](site, "Something else")  # type: ignore[call-arg]
    found = await ASKS[ask](site)
    assert found.replayed
    assert found.run.ref.id == "1"
    assert await ASKS[ask](site) == found
    assert site.host.acted == 1


@pytest.mark.wire("idempotency-unknown")
@pytest.mark.parametrize(
    ("error", "late"), [(UpstreamTimeout(), 40), (UpstreamUnreachable(), 4), (UpstreamError(), 0.5)]
)
@each_case
async def test_what_the_host_does_late_is_waited_for(ask: str, who: Caller, error: GatewayError, late: float) -> None:
    site = site_for(ask, who)
    site.host.faults = [(error, late)]
    with pytest.raises(type(error)):
        await ASKS[ask](site)
    found = await patiently(lambda: ASKS[ask](site))
    assert found.replayed
    assert site.host.acted == 1


@pytest.mark.wire("idempotency-unknown")
@pytest.mark.parametrize(
    ("error", "grace"), [(UpstreamTimeout(), SILENT_GRACE), (UpstreamUnreachable(), CUT_GRACE), (UpstreamError(), 0)]
)
@each_case
async def test_what_the_host_never_did_is_done_in_the_end(
    ask: str, who: Caller, error: GatewayError, grace: float
) -> None:
    site = site_for(ask, who)
    site.host.faults = [(error, None), (error, None)]
    for _ in range(2):
        begun = now()
        with pytest.raises(type(error)):
            await patiently(lambda: ASKS[ask](site))
    assert now() >= begun + grace
    assert not (await patiently(lambda: ASKS[ask](site))).replayed
    assert site.host.acted == 1


async def patiently(ask: Callable[[], Any]) -> Outcome:
    """Ask again for as long as it is not known what came of it."""
    async with asyncio.timeout(200):
        while True:
            try:
                found: Outcome = await ask()
            except InProgress as error:
                await asyncio.sleep(error.retry_after or 1)
            else:
                return found


@pytest.mark.wire("idempotency-unknown")
@each_case
async def test_only_one_looks_at_a_time_and_a_look_that_fails_changes_nothing(ask: str, who: Caller) -> None:
    site = site_for(ask, who)
    site.host.faults = [(UpstreamTimeout(), 0)]
    with pytest.raises(UpstreamTimeout):
        await ASKS[ask](site)

    async def fail(_: str) -> None:
        raise UpstreamRateLimited(retry_after=3)

    site.host.before = fail
    with pytest.raises(UpstreamRateLimited):
        await ASKS[ask](site)
    site.host.before = Site().host.before
    found = await asyncio.gather(*(ASKS[ask](site) for _ in range(50)), return_exceptions=True)
    assert [each.replayed for each in found if isinstance(each, Outcome)] == [True]
    assert len([each for each in found if isinstance(each, InProgress)]) == 49
    assert site.host.acted == 1


@pytest.mark.wire("idempotency-unknown")
async def test_among_many_newer_runs_an_old_one_is_found_or_nothing_is_started() -> None:
    for others, found in [(250, True), (100 * SEARCHED_PAGES + 5, False)]:
        site = Site()
        site.host.faults = [(UpstreamError(), 0)]
        with pytest.raises(UpstreamError):
            await site.create()
        for number in range(others):
            site.host.add(str(number + 2))
        if found:
            assert (await site.create()).run.ref.id == "1"
        else:
            with pytest.raises(OutcomeUnknown):
                await site.create()
        assert site.host.acted == 1


@pytest.mark.wire("idempotency-unknown")
async def test_a_log_that_has_grown_is_looked_through_as_far_as_it_was_known_and_no_further() -> None:
    for grown, found in [(350, True), (100 * SEARCHED_PAGES + 5, False)]:
        site = site_for("resume", caller())
        site.host.faults = [(UpstreamError(), 0)]
        with pytest.raises(UpstreamError):
            await site.resume()
        site.host.runs["1"].append(grown)
        if found:
            assert (await site.resume()).replayed
        else:
            with pytest.raises(OutcomeUnknown):
                await site.resume()
        assert site.host.acted == 1


@pytest.mark.wire("idempotency-unknown")
async def test_what_somebody_else_said_is_not_taken_for_ours() -> None:
    site = site_for("resume", caller())
    site.host.runs["1"].entries.clear()
    site.host.faults = [(UpstreamError(), None)]
    with pytest.raises(UpstreamError):
        await site.resume()
    site.host.runs["1"].append(prompt="Something else altogether")
    assert not (await site.resume()).replayed
    assert site.host.acted == 1


@pytest.mark.wire("idempotency-unknown")
@pytest.mark.parametrize("newest_first", [False, True])
async def test_what_may_be_in_an_entry_that_cannot_be_had_is_not_taken_for_unsaid(newest_first: bool) -> None:
    site = site_for("resume", caller())
    hosted = site.host.runs["1"]
    start = {"behind": hosted.entries[-1]["created_at"]} if newest_first else {"after": 3}
    hosted.append(3)
    assert not await find_said(site.gateway, site.who, hosted.ref, "Go on now", **start)
    hosted.amend(5, text="x" * 60_000)
    site.host.heaviest = 50_000
    with pytest.raises(OutcomeUnknown):
        await find_said(site.gateway, site.who, hosted.ref, "Go on now", **start)


async def test_what_may_be_written_may_be_looked_for() -> None:
    for scopes in ({WRITE}, {WRITE + ALL}):
        who = replace(SHARED, scopes=frozenset(scopes))
        for ask, request in ASKS.items():
            site = site_for(ask, who)
            site.host.faults = [(UpstreamError(), 0)]
            with pytest.raises(UpstreamError):
                await request(site)
            assert (await request(site)).replayed
            with pytest.raises((InsufficientScope, NotFound)):
                await site.gateway.get(who, "9", "1")


@pytest.mark.wire("idempotency-form")
@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\nb", "a\x7f"])
async def test_a_key_that_cannot_be_one_is_refused(key: str) -> None:
    site = Site()
    with pytest.raises(InvalidIdempotencyKey):
        await site.create(key=key)
    assert site.host.acted == 0


async def test_what_is_kept_tells_neither_the_key_nor_the_prompt() -> None:
    records = MemoryRecords()
    site = Site()
    await Idempotency(site.gateway, records).create(site.who, "9", NewRun("a prompt of its own"), "a-key-of-its-own")
    kept = json.dumps([(name, str(record)) for name, record in records._kept.items()])
    assert "of-its-own" not in kept
    assert "of its own" not in kept


FAULTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([QuotaExhausted(), UpstreamRateLimited(retry_after=1)]), st.none()),
        st.tuples(st.just(UpstreamTimeout()), st.sampled_from([None, 0, 1, 30, 55])),
        st.tuples(st.just(UpstreamUnreachable()), st.sampled_from([None, 0, 1, 4])),
        st.tuples(st.just(UpstreamError()), st.sampled_from([None, 0, 0.5])),
        st.tuples(st.just(asyncio.CancelledError()), st.sampled_from([None, 0, 30])),
    ),
    max_size=4,
)
PAUSES = st.lists(st.sampled_from([0.0, 0.02, 0.1, 1.0, 3.0, 20.0]), min_size=1, max_size=12)


@pytest.mark.wire("idempotency-unknown", "idempotency-replayed")
@settings(deadline=None)
@given(st.sampled_from(sorted(ASKS)), st.sampled_from(list(USERS.values())), FAULTS, PAUSES)
def test_whatever_goes_wrong_it_is_done_once(ask: str, who: Caller, faults: Any, pauses: list[float]) -> None:
    async def main() -> None:
        site = site_for(ask, who)
        site.host.faults = list(faults)
        asking: list[asyncio.Task[Outcome]] = []
        for pause in pauses:
            asking.append(asyncio.ensure_future(ASKS[ask](site)))
            await asyncio.sleep(pause)
        heard = [each for each in await asyncio.gather(*asking, return_exceptions=True) if isinstance(each, Outcome)]
        for _ in range(100):
            try:
                heard.append(await ASKS[ask](site))
                break
            except (GatewayError, asyncio.CancelledError):
                await asyncio.sleep(3)
        await asyncio.sleep(100)
        heard.append(await ASKS[ask](site))
        assert site.host.acted == 1
        assert len({each.run.ref for each in heard}) == 1

    run(main())


# -- after a restart, and in another process --------------------------------------------------------------------------


@pytest.mark.wire("idempotency-reach")
@pytest.mark.parametrize("who", USERS.values(), ids=list(USERS))
@pytest.mark.parametrize("broken", [None, UpstreamTimeout(), UpstreamUnreachable()])
def test_a_create_that_another_process_had_is_not_done_again(who: Caller, broken: GatewayError | None) -> None:
    async def main() -> None:
        host = Dated()
        before = Site(who, host)
        if broken is not None:
            host.faults = [(broken, 0)]
            with pytest.raises(type(broken)):
                await before.create()
        else:
            assert not (await before.create()).replayed
        await asyncio.sleep(ELSEWHERE - 60)
        after = Site(who, host)
        for _ in range(2):
            done = await after.create()
            assert (done.replayed, done.run.ref.id, host.acted) == (True, "1", 1)
        with pytest.raises(IdempotencyKeyReused):
            await Site(who, host).create("Something else")
        assert not (await Site(who, host).create(key="another key")).replayed
        for site in (before, after):
            await site.idempotency.aclose()

    run(main(), at_most=10**6)


@pytest.mark.wire("idempotency-reach")
def test_a_create_of_long_ago_or_of_somebody_else_is_not_taken_for_a_repeat() -> None:
    async def main() -> None:
        host = Dated()
        ann = USERS["with a JWT"]
        assert not (await Site(ann, host).create()).replayed
        stranger = replace(ann, principal=Principal("jwt:https://issuer.example", "bob"))
        assert not (await Site(stranger, host).create()).replayed
        assert not (await Site(caller(), host).create()).replayed
        await asyncio.sleep(2 * ELSEWHERE)
        assert not (await Site(ann, host).create()).replayed
        assert host.acted == 4

    run(main(), at_most=10**6)


@pytest.mark.wire("idempotency-reach")
async def test_a_mark_is_known_by_each_of_the_deployments_keys() -> None:
    host = Dated()
    ann = USERS["with a JWT"]
    await Site(ann, host, "old" + SECRET).create()
    assert (await Site(ann, host, "new" + SECRET, "old" + SECRET).create()).replayed
    assert not (await Site(ann, host, "new" + SECRET).create()).replayed


async def test_a_host_that_does_not_show_its_runs_is_asked_to_start_nothing() -> None:
    site = Site(host=Dated())
    site.host.before = Sequence("list", *[UpstreamRateLimited(retry_after=7)])
    with pytest.raises(UpstreamRateLimited):
        await site.create()
    assert site.host.acted == 0
    assert not (await site.create()).replayed


@pytest.mark.wire("idempotency-replayed")
async def test_what_is_too_much_to_keep_is_read_again_for_a_repeat() -> None:
    site = Site()
    site.idempotency = Idempotency(site.gateway, MemoryRecords(max_bytes=1000), [SECRET], clock=now)
    first = await site.create(key="0")
    for number in range(1, 10):
        await site.create(key=str(number))
    site.host.runs["1"].status = "COMPLETE"
    again = await site.create(key="0")
    assert (again.replayed, again.run.ref, again.run.raw_status) == (True, first.run.ref, "COMPLETE")
    assert site.host.acted == 10


class Keyed(Faulty):
    """A host that carries out each order once, by its key."""

    keyed = frozenset({"create", "resume"})

    def __init__(self) -> None:
        super().__init__()
        self.done: dict[str | None, Run] = {}
        self.keys: list[str | None] = []

    async def create_run(self, credential: Credential, organization: str, new: NewRun) -> Run:
        return await self._disturbed(lambda: self._once(new.key, FakeHost.create_run, credential, organization, new))

    async def resume_run(
        self, credential: Credential, ref: Any, prompt: str, images: Any, *, key: str | None = None
    ) -> Run:
        return await self._disturbed(lambda: self._once(key, FakeHost.resume_run, credential, ref, prompt, images))

    async def _once(self, key: str | None, do: Callable[..., Any], *what: Any) -> Run:
        self.keys.append(key)
        if key not in self.done:
            self.done[key] = await do(self, *what)
        return self.done[key]


@pytest.mark.parametrize("delay", [None, 0, 5.0])
@each_case
async def test_a_host_that_knows_repeats_is_asked_again_at_once(ask: str, who: Caller, delay: float | None) -> None:
    host = Keyed()
    site = Site(who, host)
    if ask == "resume":
        host.add(status="COMPLETE", marks=site.gateway._ownership.marks(who)).append(3)
    host.faults.append((UpstreamTimeout(), delay))
    with pytest.raises(UpstreamTimeout):
        await ASKS[ask](site)
    began, lists = asyncio.get_running_loop().time(), host.calls["list"]
    outcome = await ASKS[ask](site)
    assert asyncio.get_running_loop().time() - began < 1
    await asyncio.sleep(20)
    assert host.calls[ask] == 1
    assert outcome.run.ref == RunRef("9", "1")
    assert host.calls["list"] == lists
    assert len(set(host.keys)) == 1
    assert host.keys[0] is not None


async def test_the_key_for_the_host_is_that_of_one_user_one_route_and_one_request() -> None:
    host = Keyed()
    site = Site(None, host)
    await site.create()
    await site.resume()
    await site.create(key="another")
    await site.create(who=caller("bob"))
    assert len(set(host.keys)) == 4
    await site.idempotency.create(site.who, "9", NewRun("Say hello"), None)
    assert host.keys[-1] is None
