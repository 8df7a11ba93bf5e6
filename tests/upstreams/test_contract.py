"""The contract of an upstream, over every adapter, against an emulated host.

A new adapter adds itself to ``ADAPTERS`` and its emulation to ``World``; the tests stay.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Any, TypeVar

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import LogPage, RunRef, RunStatus
from codegen_api.telemetry import Trace, trace
from codegen_api.upstreams import Cancels, Members, NewRun, Repositories, RunFilter, Upstream
from codegen_api.upstreams.codegen import CodegenUpstream

from .asking import asked
from .conftest import Connect

T = TypeVar("T")

ALICE = Credential.of("sandbox-alice", b"key")
BOB = Credential.of("sandbox-bob", b"key")
NOBODY = Credential.of("sandbox-nobody", b"key")
ORGANIZATION = "323"
FOREIGN = "402"
NO_RUN = RunRef(ORGANIZATION, "999999999999999")


@dataclass
class World:
    """An adapter and the emulated host behind it."""

    url: str
    connect: Connect
    upstream: CodegenUpstream = field(init=False)

    def __post_init__(self) -> None:
        self.upstream = self.connect(self.url)

    def ask(self, ask: Callable[[Any], Awaitable[T]], **more: float) -> T:
        """Ask over new connections."""
        self.upstream = self.connect(self.url, **more)
        return asyncio.run(asked(self.upstream, ask))

    def admin(self, method: str, path: str, body: object = None) -> Any:
        return httpx.request(method, f"{self.url}/_sandbox{path}", json=body, timeout=20).raise_for_status().json()

    def seed(self, count: int = 0, entries: object = (), **more: object) -> RunRef:
        """A run whose log stays as it is."""
        run = self.admin("POST", "/runs", {"count": count, "entries": list(entries), **more})  # type: ignore[call-overload]
        return RunRef(str(run["organization_id"]), str(run["id"]))

    def arm(self, kind: str, **more: object) -> None:
        self.admin("POST", "/faults", {"kind": kind, "times": 1, **more})


@pytest.fixture
def world(connect: Connect, sandbox_url: str) -> World:
    world = World(sandbox_url, connect)
    world.admin("DELETE", "/faults")
    world.admin("DELETE", "/requests")
    return world


def test_an_adapter_is_an_upstream_with_powers() -> None:
    upstream: Upstream = CodegenUpstream("https://host.example")
    cancels: Cancels = CodegenUpstream("https://host.example")
    members: Members = CodegenUpstream("https://host.example")
    repositories: Repositories = CodegenUpstream("https://host.example")
    assert isinstance(repositories, Members)
    assert isinstance(members, Repositories)
    assert isinstance(upstream, Cancels)
    assert isinstance(cancels, Members)
    assert isinstance(members, Cancels)
    assert (upstream.name, upstream.page_size, upstream.observation) == ("codegen", 100, None)


def test_a_credential_is_somebody_s(world: World) -> None:
    alice = world.ask(lambda upstream: upstream.identify(ALICE))
    bob = world.ask(lambda upstream: upstream.identify(BOB))
    assert alice.id != bob.id
    assert alice.fields["github_username"] == "alice"


def test_an_unknown_credential_is_not_good(world: World) -> None:
    with pytest.raises(errors.InvalidToken) as caught:
        world.ask(lambda upstream: upstream.identify(NOBODY))
    assert NOBODY.token not in str(caught.value)


def test_organizations_are_those_of_the_caller_in_pages(world: World) -> None:
    whole = world.ask(lambda upstream: upstream.organizations(ALICE, 0, 100))
    assert [each.id for each in whole.items] == [ORGANIZATION, "401"]
    assert whole.at_end is True
    first = world.ask(lambda upstream: upstream.organizations(ALICE, 0, 1))
    assert ([each.id for each in first.items], first.at_end) == ([ORGANIZATION], False)
    beyond = world.ask(lambda upstream: upstream.organizations(ALICE, 2, 1))
    assert (beyond.items, beyond.at_end) == ((), True)


def test_the_users_of_an_organization_are_told_in_pages_and_one_by_one(world: World) -> None:
    whole = world.ask(lambda upstream: upstream.users(ALICE, ORGANIZATION, 0, 100))
    assert [each.fields["github_username"] for each in whole.items] == ["alice", "bob"]
    assert (whole.at_end, whole.paging.total) == (True, 2)
    first = world.ask(lambda upstream: upstream.users(ALICE, ORGANIZATION, 0, 1))
    assert ([each.id for each in first.items], first.at_end) == ([whole.items[0].id], False)
    for each in whole.items:
        assert world.ask(methodcaller("user", ALICE, ORGANIZATION, each.id)) == each
    with pytest.raises(errors.NotFound):
        world.ask(lambda upstream: upstream.user(ALICE, ORGANIZATION, "7"))
    with pytest.raises(errors.Forbidden):
        world.ask(lambda upstream: upstream.users(ALICE, FOREIGN, 0, 100))
    with pytest.raises(errors.Forbidden):
        world.ask(lambda upstream: upstream.user(ALICE, FOREIGN, whole.items[1].id))


def test_the_repositories_of_an_organization_are_told_in_pages(world: World) -> None:
    whole = world.ask(lambda upstream: upstream.repositories(ALICE, ORGANIZATION, 0, 100))
    assert [each.fields["name"] for each in whole.items] == ["example-website", "example-api"]
    assert (whole.at_end, whole.paging.total) == (True, 2)
    second = world.ask(lambda upstream: upstream.repositories(ALICE, ORGANIZATION, 1, 1))
    assert second.items == whole.items[1:]
    with pytest.raises(errors.Forbidden):
        world.ask(lambda upstream: upstream.repositories(ALICE, FOREIGN, 0, 100))


def test_a_new_run_has_a_name_and_is_found_under_it(world: World) -> None:
    run = world.ask(lambda upstream: upstream.create_run(ALICE, ORGANIZATION, NewRun("Say hello", {"team": "a"})))
    assert run.ref.organization == ORGANIZATION
    assert (run.status, run.raw_status) == (RunStatus.RUNNING, "ACTIVE")
    again = world.ask(lambda upstream: upstream.get_run(ALICE, run.ref))
    assert again.ref == run.ref
    assert again.fields["metadata"] == {"team": "a"}
    created_at = again.fields["created_at"]
    assert isinstance(created_at, str)
    assert created_at[10] == "T"
    assert created_at.endswith("Z")


@pytest.mark.parametrize(("scenario", "kind"), [("quota", errors.QuotaExhausted), ("no_repos", errors.NotFound)])
def test_a_run_that_is_refused_says_why(world: World, scenario: str, kind: type[errors.GatewayError]) -> None:
    new = NewRun("Say hello", {"scenario": scenario})
    with pytest.raises(kind) as caught:
        world.ask(lambda upstream: upstream.create_run(ALICE, ORGANIZATION, new))
    assert caught.value.message != kind.default_message


def test_a_run_of_a_wrong_shape_is_rejected_with_the_place(world: World) -> None:
    with pytest.raises(errors.Rejected) as caught:
        world.ask(lambda upstream: upstream.create_run(ALICE, ORGANIZATION, NewRun("Hi", agent_type="nobody")))
    (detail,) = caught.value.details
    assert isinstance(detail, errors.Detail)
    assert detail.loc == ("body", "agent_type")


CALLS: list[Callable[[Any, RunRef], Awaitable[object]]] = [
    lambda upstream, ref: upstream.get_run(ALICE, ref),
    lambda upstream, ref: upstream.read_log(ALICE, ref, 0, 100),
    lambda upstream, ref: upstream.resume_run(ALICE, ref, "Go on", None),
    lambda upstream, ref: upstream.cancel_run(ALICE, ref),
    lambda upstream, ref: upstream.uncancel_run(ALICE, ref),
]


@pytest.mark.parametrize("call", CALLS, ids=["get", "read", "resume", "cancel", "uncancel"])
def test_a_run_that_is_not_there_or_not_for_the_caller_is_refused(
    world: World, call: Callable[[Any, RunRef], Awaitable[object]]
) -> None:
    with pytest.raises(errors.NotFound):
        world.ask(lambda upstream: call(upstream, NO_RUN))
    with pytest.raises(errors.Forbidden):
        world.ask(lambda upstream: call(upstream, RunRef(FOREIGN, "1")))


def test_runs_are_listed_newest_first_and_by_source(world: World) -> None:
    older, newer, other = (world.seed(source_type=source) for source in ("JIRA", "JIRA", "SLACK"))
    listing = world.ask(lambda upstream: upstream.list_runs(ALICE, ORGANIZATION, 0, 3, RunFilter()))
    assert [run.ref for run in listing.items] == [other, newer, older]
    assert listing.at_end is False
    jira = world.ask(lambda upstream: upstream.list_runs(ALICE, ORGANIZATION, 0, 2, RunFilter("JIRA", "1001")))
    assert [run.ref for run in jira.items] == [newer, older]
    nobody = world.ask(lambda upstream: upstream.list_runs(ALICE, ORGANIZATION, 0, 2, RunFilter(user_id="7")))
    assert (nobody.items, nobody.at_end) == ((), True)


def test_a_log_is_read_page_by_page_in_its_own_order(world: World) -> None:
    ref = world.seed(count=250)

    async def whole(upstream: Upstream) -> list[int]:
        sizes, after = [], 0
        for _ in range(10):
            page = await upstream.read_log(ALICE, ref, after, upstream.page_size)
            assert page.run.ref == ref
            assert page.after == after
            entries = [json.loads(entry.json)["observation"] for entry in page.entries]
            assert entries == [f"entry {after + index + 1}" for index in range(len(entries))]
            sizes.append(len(entries))
            after = page.last
            if page.at_end:
                return sizes
        raise AssertionError("no end")

    assert world.ask(whole) == [100, 100, 50]


def test_the_end_of_a_log_is_a_page_that_is_not_full(world: World) -> None:
    ref = world.seed(count=100)

    async def three(upstream: Upstream) -> list[LogPage]:
        return [await upstream.read_log(ALICE, ref, after, 100) for after in (0, 100, 5000)]

    full, empty, beyond = world.ask(three)
    assert (len(full.entries), full.at_end) == (100, False)
    assert (empty.entries, empty.at_end) == ((), True)
    assert (beyond.entries, beyond.at_end) == ((), True)


def test_a_log_can_be_read_from_its_other_end(world: World) -> None:
    ref = world.seed(count=5)
    page = world.ask(lambda upstream: upstream.read_log(ALICE, ref, 1, 2, newest_first=True))
    assert [json.loads(entry.json)["observation"] for entry in page.entries] == ["entry 4", "entry 3"]
    assert [page.position(index) for index in range(2)] == [4, 3]


def test_a_tool_call_is_open_until_its_output_is_there(world: World) -> None:
    call: dict[str, object] = {
        "message_type": "ACTION",
        "tool_name": "run_command",
        "tool_input": {},
        "tool_output": None,
    }
    ref = world.seed(entries=[call, {"message_type": "FINAL_ANSWER", "observation": "done"}])
    before = world.ask(lambda upstream: upstream.read_log(ALICE, ref, 0, 100)).entries
    assert [(entry.open, entry.amendable) for entry in before] == [(True, True), (False, False)]
    world.admin("PATCH", f"/runs/{ref.id}", {"amend": [{"position": 1, "fields": {"tool_output": {"exit_code": 0}}}]})
    after = world.ask(lambda upstream: upstream.read_log(ALICE, ref, 0, 100)).entries
    assert [(entry.open, entry.amendable) for entry in after] == [(False, True), (False, False)]
    assert after[0].created_at == before[0].created_at


def test_no_oddity_costs_a_position(world: World) -> None:
    ref = world.seed(count=27)
    world.arm("odd_json")
    page = world.ask(lambda upstream: upstream.read_log(ALICE, ref, 0, 100))
    assert len(page.entries) == 27
    assert page.run.status is RunStatus.UNKNOWN
    assert all(isinstance(json.loads(entry.json), dict) for entry in page.entries)
    plain = world.ask(lambda upstream: upstream.read_log(ALICE, ref, 0, 100))
    assert plain.run.status is RunStatus.RUNNING


def test_a_cancelled_run_can_be_resumed_under_its_own_name(world: World) -> None:
    run = world.ask(lambda upstream: upstream.create_run(ALICE, ORGANIZATION, NewRun("Hi", {"scenario": "endless"})))
    world.ask(lambda upstream: upstream.cancel_run(ALICE, run.ref))
    cancelled = world.ask(lambda upstream: upstream.get_run(ALICE, run.ref))
    assert (cancelled.ref, cancelled.status) == (run.ref, RunStatus.CANCELLED)
    world.ask(lambda upstream: upstream.uncancel_run(ALICE, run.ref))
    resumed = world.ask(lambda upstream: upstream.resume_run(ALICE, run.ref, "Go on", ("data:image/png;base64,AA==",)))
    assert resumed.ref == run.ref
    operations = [request["operation"] for request in world.admin("GET", "/requests")["recent"]]
    assert operations == ["create", "ban", "get", "unban", "resume"]


def test_the_host_s_patience_is_passed_on(world: World) -> None:
    world.arm("429", retry_after=7)
    with pytest.raises(errors.UpstreamRateLimited) as caught:
        world.ask(lambda upstream: upstream.identify(ALICE))
    assert caught.value.retry_after == 7.0
    world.arm("429", retry_after=None)
    with pytest.raises(errors.UpstreamRateLimited) as caught:
        world.ask(lambda upstream: upstream.identify(ALICE))
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("500", errors.UpstreamError),
        ("503_html", errors.UpstreamError),
        ("html", errors.UpstreamError),
        ("empty", errors.UpstreamError),
        ("half_body", errors.AnswerCut),
        ("reset", errors.UpstreamUnreachable),
        ("hang", errors.UpstreamTimeout),
        ("revoked", errors.InvalidToken),
    ],
)
def test_each_fault_has_a_name_and_is_asked_for_once(world: World, fault: str, kind: type[errors.GatewayError]) -> None:
    world.arm(fault)
    with pytest.raises(kind) as caught:
        world.ask(lambda upstream: upstream.get_run(ALICE, RunRef(ORGANIZATION, "12345")), read_timeout=1.0)
    assert type(caught.value) is kind
    assert world.upstream.observation is not None
    assert world.upstream.observation.reachable is (fault == "revoked")
    assert world.admin("GET", "/requests")["total"] == 1
    world.ask(lambda upstream: upstream.identify(ALICE))
    assert world.upstream.observation is not None
    assert world.upstream.observation.reachable is True


def test_users_do_not_share_cookies(world: World) -> None:
    world.arm("cookie", times=10)

    async def both(upstream: Upstream) -> None:
        for credential in (ALICE, BOB, ALICE):
            await upstream.identify(credential)

    world.ask(both)
    assert world.admin("GET", "/requests")["with_cookie"] == 0


def test_the_host_learns_which_request_it_serves(world: World) -> None:
    async def identify(upstream: Upstream) -> None:
        trace.set(Trace("req-1", (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)))
        await upstream.identify(ALICE)

    world.ask(identify)
    (request,) = world.admin("GET", "/requests")["recent"]
    assert request["headers"]["x-request-id"] == "req-1"
    assert request["headers"]["traceparent"].startswith("00-0af7")


def test_many_questions_at_once_each_get_their_own_answer(world: World) -> None:
    refs = [world.seed(count=number) for number in range(5)]

    async def all_at_once(upstream: Upstream) -> list[tuple[RunRef, int]]:
        pages = await asyncio.gather(*(upstream.read_log(ALICE, ref, 0, 100) for ref in refs * 20))
        return [(page.run.ref, len(page.entries)) for page in pages]

    assert world.ask(all_at_once) == [(ref, number) for number, ref in enumerate(refs)] * 20


def test_ids_are_checked_before_the_host_is_asked(world: World) -> None:
    assert world.upstream.organization_id("0323") == "323"
    assert world.upstream.run_id("041894") == "41894"
    for text in ("", "abc", "-1", "1/../2"):
        with pytest.raises(errors.Rejected):
            world.upstream.organization_id(text)
        with pytest.raises(errors.Rejected):
            world.upstream.run_id(text)
    assert world.admin("GET", "/requests")["total"] == 0
