"""Many live logs that are opened at once: they wait in line, and nobody sees anything before their right is proved."""

import asyncio
from typing import Any

import pytest

from codegen_api.errors import (
    Forbidden,
    GatewayError,
    NotFound,
    ShuttingDown,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from codegen_api.following import Leaving, Notice, Patrol, Position, Quiet, ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.gateway.ownership import Ownership
from codegen_api.identity import READ, Caller, Credential, Principal
from codegen_api.runs import Changed, Run
from codegen_api.upstreams import NewRun
from tests.fakehost import FakeHost, caller, in_front_of
from tests.following.strict import StrictHost
from tests.following.viewing import Viewer

pytestmark = pytest.mark.virtual_time


async def open_all(gateway: Gateway, runs: int, until: float) -> tuple[list[Viewer], dict[int, float]]:
    """Open them all within a second; the viewers, and when each heard something first."""
    loop = asyncio.get_running_loop()
    viewers = [Viewer() for _ in range(runs)]
    heard: dict[int, float] = {}

    async def view(number: int) -> None:
        await asyncio.sleep(number / runs)
        opened = loop.time()
        stream = await gateway.follow(caller(), "9", str(number + 1), Position(0))
        assert stream is not None
        try:
            async with asyncio.timeout(until - loop.time()):
                async for update in stream:
                    heard.setdefault(number, loop.time() - opened)
                    viewers[number].take(update)
        except TimeoutError:
            pass
        finally:
            await stream.aclose()

    await asyncio.gather(*(view(number) for number in range(runs)))
    return viewers, heard


@pytest.mark.wire("right-asked-first", "budget-kept", "stream-waits-in-line")
async def test_two_hundred_runs_that_are_opened_in_a_second_are_all_shown_in_time_and_nobody_is_refused() -> None:
    host = StrictHost()
    for number in range(1, 201):
        host.add(str(number)).append(5)
    gateway = in_front_of(host, max_streams_each=200)
    viewers, heard = await open_all(gateway, 200, 450)
    assert not host.refused
    assert len(heard) == 200
    assert max(heard.values()) < 3
    assert all(viewer.cursor == 5 for viewer in viewers)
    assert max(viewer.arrivals[1] for viewer in viewers) < 300
    waited = [viewer for viewer in viewers if viewer.notices]
    assert len(waited) > 100
    assert all(viewer.notices == ["rate_limited", "recovered"] for viewer in waited)
    gaps = [host.longest_gap(str(number), 0, 450) for number in range(1, 201)]
    assert max(gaps) < 350


@pytest.mark.parametrize("length", [30, 300])
async def test_ended_runs_that_are_opened_at_once_are_given_page_by_page_and_end(length: int) -> None:
    host = StrictHost()
    for number in range(1, 61):
        host.add(str(number), status="COMPLETE", result="done").append(length)
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=3000))
    viewers, _ = await open_all(gateway, 60, 1_000)
    assert not host.refused
    assert all(viewer.ends == [length] for viewer in viewers)
    assert all(viewer.last_run.fields["summary"] == "whole" for viewer in viewers)  # type: ignore[attr-defined]
    first = [viewer.arrivals[min(length, 100)] for viewer in viewers]
    assert max(first) < 100


def busy(host: FakeHost, **more: Any) -> Gateway:
    """A gateway with a budget of which nothing is left for the next minute."""
    turns = ReadQueue()
    gateway = in_front_of(host, turns=turns, **more)
    for name in ("alice", "bob", "a-shared-token"):
        budget = turns.queue(caller(name).credential.digest).budget
        for _ in range(60):
            budget.asking()
            budget.asked(0.0)
    return gateway


async def told(gateway: Gateway, who: Caller, seconds: float, position: Position | None = None) -> list[Any]:
    """What somebody is told in so many seconds, errors included."""
    found: list[Any] = []
    loop = asyncio.get_running_loop()
    opened = loop.time()
    stream = await gateway.follow(who, "9", "1", position or Position(0))
    assert stream is not None
    try:
        async with asyncio.timeout(seconds):
            async for update in stream:
                found.append((round(loop.time() - opened), update))  # noqa: PERF401 - what was found so far counts
    except TimeoutError:
        pass
    except GatewayError as error:
        found.append((round(loop.time() - opened), error))
    finally:
        await stream.aclose()
    return found


@pytest.mark.wire("stream-waits-in-line", "right-asked-first")
async def test_who_waits_in_line_hears_that_and_nothing_of_the_run_until_the_host_has_shown_it() -> None:
    host = FakeHost()
    host.add().append(3)
    gateway = busy(host)
    found = await told(gateway, caller(), 80)
    kinds = [type(update) for _, update in found]
    (moment, notice) = found[0]
    assert (moment, notice.code) == (2, "rate_limited")
    assert notice.retry_in >= 0
    shown = kinds.index(Changed)
    assert set(kinds[1:shown]) <= {Quiet, Notice}
    assert found[shown - 1][1] == Notice("recovered")
    assert found[shown][0] >= 55
    assert kinds.count(Quiet) >= 3
    assert (host.log[0][1], host.log[0][2]) == ("log", "alice")  # the page that proves the right


@pytest.mark.wire("stream-waits-in-line")
async def test_who_is_refused_after_a_wait_is_told_so_and_sees_nothing() -> None:
    host = FakeHost()
    host.add().append(3)
    host.barred.add(("bob", "1"))
    gateway = busy(host)
    alice, bob = await asyncio.gather(told(gateway, caller(), 80), told(gateway, caller("bob"), 80))
    assert isinstance(bob[-1][1], Forbidden)
    assert all(isinstance(update, Notice | Quiet | Forbidden) for _, update in bob)
    assert any(isinstance(update, Changed) for _, update in alice)


@pytest.mark.wire("right-asked-first")
async def test_a_refusal_that_comes_soon_is_an_ordinary_answer_though_there_is_no_room() -> None:
    host = FakeHost()
    turns = ReadQueue()
    gateway = in_front_of(host, turns=turns)
    budget = turns.queue(caller().credential.digest).budget
    for _ in range(30):  # half of the limit
        budget.asking()
        budget.asked(0.0)
    with pytest.raises(NotFound):
        await gateway.follow(caller(), "9", "1", Position(0))
    assert host.calls == {"log": 1}


@pytest.mark.wire("owner-checked")
async def test_where_callers_share_a_credential_the_owner_is_known_before_anything_is_given() -> None:
    def shared(name: str) -> Caller:
        return Caller(
            Principal("key", name), Credential.of("a-shared-token", b"key"), None, frozenset({READ}), shared=True
        )

    host = FakeHost()
    host.tokens["a-shared-token"] = "3"
    ownership = Ownership(["a secret"])
    host.add(marks=ownership.marks(shared("ann")), length=3)
    gateway = busy(host, ownership=ownership)
    ann, ben = await asyncio.gather(told(gateway, shared("ann"), 90), told(gateway, shared("ben"), 90))
    assert any(isinstance(update, Changed) for _, update in ann)
    assert isinstance(ben[-1][1], NotFound)
    assert all(isinstance(update, Notice | Quiet | NotFound) for _, update in ben)
    assert host.log[0][1] == "get"
    with pytest.raises(NotFound):  # it is known now
        await gateway.follow(shared("ben"), "9", "1", Position(0))


async def test_all_who_wait_for_one_run_with_one_token_are_let_in_by_one_page() -> None:
    host = FakeHost()
    host.add().append(3)
    gateway = busy(host)
    found = await asyncio.gather(*(told(gateway, caller(), 62) for _ in range(50)))
    assert all(any(isinstance(update, Changed) for _, update in each) for each in found)
    assert host.calls["log"] <= 3


@pytest.mark.wire("stream-waits-in-line", "fault-notice")
@pytest.mark.parametrize("error", [UpstreamError(), UpstreamTimeout(), UpstreamRateLimited(retry_after=5)])
async def test_who_waits_while_the_host_has_trouble_is_let_in_afterwards(error: GatewayError) -> None:
    host = FakeHost()
    host.add().append(3)
    gateway = busy(host)
    loop = asyncio.get_running_loop()

    async def fail(operation: str) -> None:
        if loop.time() < 100:
            raise error

    host.before = fail
    found = await told(gateway, caller(), 150)
    codes = [update.code for _, update in found if isinstance(update, Notice)]
    assert codes[-1] == "recovered"
    assert ("rate_limited" if isinstance(error, UpstreamRateLimited) else "upstream_unavailable") in codes
    assert any(isinstance(update, Changed) for _, update in found)


@pytest.mark.wire("stream-waits-in-line", "drain-streams", "stream-age")
@pytest.mark.parametrize("how", ["age", "drain", "close", "leave"])
async def test_a_wait_in_line_ends_as_a_stream_does(how: str) -> None:
    host = FakeHost()
    host.add().append(3)
    gateway = busy(host, patrol=lambda: Patrol(max_age=20, heartbeat=15))
    telling = asyncio.ensure_future(told(gateway, caller(), 10 if how == "leave" else 100, Position(2)))
    await asyncio.sleep(5)
    assert gateway.viewers == 1
    if how == "drain":
        await gateway.drain(10)
    if how == "close":
        await gateway.aclose()
    moment, last = (await telling)[-1]
    assert not host.calls
    assert gateway.viewers == 0
    if how in ("age", "drain"):
        assert isinstance(last, Leaving)
        assert last.position.cursor == 2
        assert moment == (20 if how == "age" else 5)
    if how == "close":
        assert isinstance(last, ShuttingDown)
    await asyncio.sleep(100)
    assert not host.calls  # nobody is there to be let in


async def test_what_a_page_says_of_a_run_is_not_taken_for_all_of_it() -> None:
    host = FakeHost()
    host.add().append(3)
    gateway = busy(host)
    found = await told(gateway, caller(), 100)
    described = [update.run for _, update in found if isinstance(update, Changed)]
    assert "summary" not in described[0].fields
    assert described[-1].fields["summary"] == "whole"
    assert (await gateway.get(caller(), "9", "1")).fields["summary"] == "whole"
    assert (await gateway.view(caller(), "9", "1")).fields["summary"] == "whole"


async def test_a_run_that_was_just_created_is_opened_without_a_question_though_there_is_no_room() -> None:
    host = FakeHost()
    gateway = busy(host)
    started = await gateway.create(caller(), "9", NewRun("go"))
    assert started.ref.id == "1"
    found = await told(gateway, caller(), 1)
    assert isinstance(found[0][1], Changed)


async def test_the_first_page_is_asked_for_in_smaller_pieces_when_it_is_too_much() -> None:
    host = FakeHost()
    hosted = host.add(status="COMPLETE")
    hosted.append(100, text="x" * 1_000)
    host.heaviest = 2_500
    gateway = busy(host, patrol=lambda: Patrol(max_age=3000))
    viewer = Viewer()
    await viewer.watch(gateway)
    assert viewer.texts() == hosted.encoded()
    await gateway.aclose()
    host.heaviest = 10
    gateway = busy(host, patrol=lambda: Patrol(max_age=3000))
    viewer = Viewer()
    await viewer.watch(gateway)
    assert viewer.texts() == ['{"type":"UNREADABLE"}'] * 100


@pytest.mark.wire("budget-kept", "right-asked-first")
async def test_rights_that_are_asked_for_without_a_stream_wait_in_the_line_as_well_for_a_while() -> None:
    host = StrictHost()
    for number in range(1, 101):
        host.add(str(number))
    gateway = in_front_of(host)
    views = await asyncio.gather(
        *(gateway.view(caller(), "9", str(number)) for number in range(1, 101)), return_exceptions=True
    )
    assert not host.refused
    shown = [view for view in views if isinstance(view, Run)]
    assert 30 <= len(shown) <= 60
    waits = [view.retry_after for view in views if isinstance(view, UpstreamRateLimited)]
    assert len(shown) + len(waits) == 100
    assert len({round(wait or 0) for wait in waits}) > 10
    assert gateway.viewers == 0
    assert (await gateway.view(caller(), "9", shown[0].ref.id)) is shown[0]
