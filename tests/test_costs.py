"""How many calls to the host one request costs at most, whatever route of whatever dialect it is for.

The routes come from the application's own table, so one that is added is asked here without anybody thinking of it.
"""

import uuid
from typing import Any

import pytest

from codegen_api.conversations.starting import Starting
from codegen_api.errors import OutcomeUnknown
from codegen_api.following import ReadQueue
from codegen_api.gateway.ownership import Ownership
from codegen_api.gateway.run_lists import SEARCHED_PAGES
from codegen_api.idempotency import Idempotency
from codegen_api.idempotency.lookup import find_marked
from codegen_api.idempotency.records import MemoryRecords
from codegen_api.identity import Credential
from codegen_api.runs import Paging, Run
from codegen_api.stores import Turn
from codegen_api.upstreams import Listing, NewRun, Organization, RunFilter
from tests.dialects import routes as runs
from tests.dialects.people import CONVERSATIONS, ROUTES, SERVED, Person
from tests.dialects.site import Site, gateway_app, lifespan, serving
from tests.dialects.test_conversation_strangers import ask
from tests.fakehost import FakeHost, Hosted, caller, in_front_of
from tests.stores.model import ModelStore
from tests.test_ownership import SECRET, user

pytestmark = pytest.mark.virtual_time

PAGE = 100
SOME = 12
"""Calls beside those for the log: who is asking, the run, what goes on, and the order itself."""

FOLLOWING = ("/stream", "/sse", "/wait", "/join", "/chat", "/responses", "/completions")
"""What is followed is read for as long as somebody follows it, once for all of them, at the pace of the budget."""

RUNS = 3_000
ENTRIES = 2_000
HURRY: dict[str, Any] = {"upstream_requests_per_minute": 1_000_000, "stream_max_age_seconds": 5}


class Quick(FakeHost):
    """Its runs say much, and are over at once, if it is in a ``hurry``."""

    hurry = False

    async def create_run(self, *args: Any) -> Run:
        return self._over(await super().create_run(*args))

    async def resume_run(self, *args: Any, **more: Any) -> Run:
        return self._over(await super().resume_run(*args))

    def _over(self, run: Run) -> Run:
        if self.hurry:
            self.finish(self.runs[run.ref.id])
        return run

    def finish(self, hosted: Hosted) -> None:
        hosted.complete(ENTRIES, text="A step.")


def spent(host: FakeHost) -> int:
    """Calls since the last time."""
    calls = sum(host.calls.values())
    host.calls.clear()
    return calls


@pytest.mark.wire("calls-bounded")
async def test_a_request_about_a_conversation_costs_a_call_for_each_hundred_entries_and_a_few() -> None:
    host, store = Quick(), ModelStore()
    host.latency = 0
    app = gateway_app(host, store=store, dialects=CONVERSATIONS, org_id="9", **HURRY)
    async with lifespan(app):
        SERVED.state = app.state
        site = Site(SERVED, host)
        costs = {}
        for method, path in sorted(ROUTES):
            if path.endswith(FOLLOWING):
                continue
            person = Person("alice", "marmalade")
            await person.settle(app, host, str(uuid.uuid4()), str(uuid.uuid4()))
            for hosted in [*host.runs.values()][-3:]:
                host.finish(hosted)
            host.hurry = True
            spent(host)
            await ask(site, method, path, person.names, {"Authorization": "Bearer alice"})
            costs[method, path] = spent(host)
            host.hurry = False
            for hosted in host.runs.values():
                hosted.entries.clear()
        told = 3 * ENTRIES // PAGE  # two turns in the session, and one that is begun
        assert {route: cost for route, cost in costs.items() if cost > told + SOME} == {}
        assert max(costs.values()) > ENTRIES // PAGE  # some of them did read a log


@pytest.mark.wire("calls-bounded")
@pytest.mark.parametrize("at_once", [PAGE, 7], ids=["whole pages", "short pages"])
@pytest.mark.parametrize("query", ["", "?status=foo", "?limit=1&status=paused", "?user_id=1", "?skip=2000&status=foo"])
async def test_a_list_costs_ten_pages_however_long_it_is(query: str, at_once: int) -> None:
    host = FakeHost()
    host.latency, host.most = 0, at_once
    for number in range(RUNS):
        host.add(str(number))
    async with serving(host, dialects=("codegen",), org_id="9", **HURRY) as site:
        for path in ("/agent-runs", "/v1/organizations/9/agent/runs"):
            spent(host)
            answer = await site.get(path + query)
            assert answer.status_code == 200
            # a page that is given in pieces is read to its end
            assert spent(host) <= 2 * SEARCHED_PAGES


@pytest.mark.wire("calls-bounded")
@pytest.mark.parametrize("at_once", [PAGE, 7], ids=["whole pages", "short pages"])
async def test_what_users_who_share_a_token_have_of_their_own_costs_no_more(at_once: int) -> None:
    host = FakeHost()
    host.latency, host.most = 0, at_once
    gateway = in_front_of(host, ownership=Ownership([SECRET]), turns=ReadQueue(limit=1_000_000))
    idempotency = Idempotency(gateway, MemoryRecords(), [SECRET])
    for number in range(RUNS):
        host.add(str(number))
    for status in (None, "paused"):
        found = await gateway.list(user("bob"), "9", 0, PAGE, RunFilter(), status)
        assert found.next_skip is not None
        assert spent(host) <= 2 * SEARCHED_PAGES
    await idempotency.create(user("bob"), "9", NewRun("Say hello"), "a key")
    assert spent(host) <= 2 * SEARCHED_PAGES + SOME
    await idempotency.aclose()


class Crowded(FakeHost):
    """Its tokens open many organizations."""

    async def organizations(self, credential: Credential, skip: int, limit: int) -> Listing[Organization]:
        await self._called("organizations", credential)
        numbers = range(100, RUNS)[skip : skip + min(limit, self.most)]
        items = tuple(Organization(str(number), {"id": number}) for number in numbers)
        return Listing(items, Paging(RUNS, None, limit, None), at_end=not items)


@pytest.mark.wire("calls-bounded")
@pytest.mark.parametrize("at_once", [PAGE, 7], ids=["whole pages", "short pages"])
async def test_what_is_looked_for_is_looked_for_on_ten_pages(at_once: int) -> None:
    host = Crowded()
    host.latency, host.most = 0, at_once
    for number in range(1, RUNS):
        host.add(str(number))
    gateway = in_front_of(host, ownership=Ownership([SECRET]), turns=ReadQueue(limit=1_000_000))
    with pytest.raises(OutcomeUnknown):
        await find_marked(gateway, user("bob"), "9", "a mark", ["its value"], since=0)
    assert spent(host) <= 2 * SEARCHED_PAGES
    assert (await gateway.accounts.organizations(user("bob", organization="8"), 0, PAGE)).items == ()
    assert spent(host) <= 2 * SEARCHED_PAGES

    hosted = host.runs["1"]
    hosted.append(RUNS)
    starting = Starting(gateway, clock=lambda: 0.0)
    turn = Turn("t", "c", 0.0, 0.0, resumes=True, prompt="Go on", organization="9", run=hosted.ref)
    with pytest.raises(OutcomeUnknown):
        await starting._find_run(caller(), turn)
    assert spent(host) <= SEARCHED_PAGES * -(-PAGE // at_once) + SOME
    await starting.aclose()


@pytest.mark.wire("calls-bounded")
@pytest.mark.parametrize("at_once", [PAGE, 7], ids=["whole pages", "short pages"])
async def test_a_request_about_a_run_costs_a_few_calls_however_long_its_log_is(at_once: int) -> None:
    host = FakeHost()
    host.latency, host.most = 0, at_once
    secret = "a key that is long enough to be one"
    async with serving(host, dialects=("codegen",), org_id="9", secret_key=secret, **HURRY) as site:
        for method, path in runs.ON_A_RUN:
            if path.endswith(FOLLOWING):
                continue
            hosted = host.add()
            hosted.append(ENTRIES)
            hosted.wait()
            hosted.status = "ACTIVE"
            spent(host)
            answer = await runs.ask(site, method, path, hosted.ref.id, "alice")
            assert answer.status_code < 300, path
            assert spent(host) <= SEARCHED_PAGES + SOME, path
