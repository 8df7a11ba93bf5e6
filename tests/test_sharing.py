"""Reads that are one for all who ask at the same time, and never older than what the asker did."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from codegen_api.errors import GatewayError, NotFound, QuotaExhausted, UpstreamTimeout
from codegen_api.gateway import Gateway
from codegen_api.runs import LogPage, Run
from codegen_api.upstreams import NewRun
from tests.fakehost import FakeHost, caller, in_front_of
from tests.test_ownership import gateway_to as owning_gateway
from tests.test_ownership import user

pytestmark = pytest.mark.virtual_time


class Distant(FakeHost):
    """A host whose answers to reads are on their way for so many seconds."""

    way = 1.0

    async def get_run(self, *more: Any) -> Run:
        answer = await super().get_run(*more)
        await asyncio.sleep(self.way)
        return answer

    async def read_log(self, *more: Any, **rest: Any) -> LogPage:
        answer = await super().read_log(*more, **rest)
        await asyncio.sleep(self.way)
        return answer


def a_host() -> Distant:
    host = Distant()
    host.add().append(3)
    host.add("2").append(3)
    return host


Read = Callable[[Gateway], Awaitable[Any]]
READS: dict[str, Read] = {
    "get": lambda gateway: gateway.get(caller(), "9", "1"),
    "log": lambda gateway: gateway.read_log(caller(), "9", "1", 0, 100, newest_first=False),
}
OTHERS: dict[str, list[Read]] = {
    "get": [
        lambda gateway: gateway.get(caller("bob"), "9", "1"),
        lambda gateway: gateway.get(caller(), "9", "2"),
    ],
    "log": [
        lambda gateway: gateway.read_log(caller("bob"), "9", "1", 0, 100, newest_first=False),
        lambda gateway: gateway.read_log(caller(), "9", "2", 0, 100, newest_first=False),
        lambda gateway: gateway.read_log(caller(), "9", "1", 1, 100, newest_first=False),
        lambda gateway: gateway.read_log(caller(), "9", "1", 0, 99, newest_first=False),
        lambda gateway: gateway.read_log(caller(), "9", "1", 0, 100, newest_first=True),
    ],
}
WRITES: dict[str, Read] = {
    "create": lambda gateway: gateway.create(caller(), "9", NewRun("Say hello")),
    "resume": lambda gateway: gateway.resume(caller(), "9", "1", "Go on", None),
    "cancel": lambda gateway: gateway.cancel(caller(), "9", "1"),
    "uncancel": lambda gateway: gateway.uncancel(caller(), "9", "1"),
}


@pytest.mark.wire("reads-shared")
@pytest.mark.parametrize("operation", sorted(READS))
async def test_who_asks_the_same_at_the_same_time_is_given_one_answer(operation: str) -> None:
    host = a_host()
    gateway = in_front_of(host)
    first, *rest = await asyncio.gather(*(READS[operation](gateway) for _ in range(50)))
    assert rest == [first] * 49
    assert host.calls == {operation: 1}
    await READS[operation](gateway)
    assert host.calls == {operation: 2}  # nothing is kept


@pytest.mark.wire("reads-shared")
@pytest.mark.parametrize("operation", sorted(READS))
async def test_who_asks_for_something_else_or_as_somebody_else_is_not(operation: str) -> None:
    host = a_host()
    gateway = in_front_of(host)
    asked = [READS[operation], *OTHERS[operation]]
    await asyncio.gather(*(ask(gateway) for ask in asked * 3))
    assert host.calls == {operation: len(asked)}


@pytest.mark.parametrize("operation", sorted(READS))
@pytest.mark.parametrize("leaving", [[0], [1], [0, 1], [0, 1, 2]])
async def test_who_leaves_does_not_take_the_answer_from_the_others(operation: str, leaving: list[int]) -> None:
    host = a_host()
    gateway = in_front_of(host)
    readers = [asyncio.ensure_future(READS[operation](gateway)) for _ in range(3)]
    await asyncio.sleep(0.5)
    for index in leaving:
        readers[index].cancel()
    await asyncio.wait(readers)
    assert [reader.cancelled() for reader in readers] == [index in leaving for index in range(3)]
    assert host.calls == {operation: 1}


@pytest.mark.parametrize("operation", sorted(READS))
async def test_an_error_is_everybody_s_and_is_not_kept(operation: str) -> None:
    host = a_host()
    gateway = in_front_of(host)
    errors: list[GatewayError] = [QuotaExhausted()]

    async def fail(_: str) -> None:
        if errors:
            raise errors.pop()

    host.before = fail
    answers = await asyncio.gather(*(READS[operation](gateway) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [QuotaExhausted] * 3
    await READS[operation](gateway)
    assert host.calls == {operation: 2}


@pytest.mark.wire("reads-shared")
@pytest.mark.parametrize("operation", sorted(READS))
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("write", sorted(WRITES))
async def test_what_was_asked_before_a_write_is_no_answer_to_who_asks_after_it(
    operation: str, write: str, fails: bool
) -> None:
    host = a_host()
    gateway = in_front_of(host)

    async def act(asked: str) -> None:
        if asked == write:
            host.runs["1"].status = "PAUSED"
            host.runs["1"].append(1)
            if fails:  # nobody learns what the host did
                raise UpstreamTimeout

    host.before = act
    before = [asyncio.ensure_future(READS[operation](gateway)) for _ in range(2)]
    await asyncio.sleep(0.1)
    host.way = 0
    writing = asyncio.ensure_future(WRITES[write](gateway))
    await asyncio.wait([writing])
    assert isinstance(writing.exception(), UpstreamTimeout) == fails
    later = await READS[operation](gateway)
    assert not before[0].done()
    old, again = await asyncio.gather(*before)
    assert old is again
    run_then, run_later = (each.run if isinstance(each, LogPage) else each for each in (old, later))
    assert (run_then.raw_status, run_later.raw_status) == ("ACTIVE", host.runs["1"].status)
    assert run_later.raw_status == "PAUSED" or not fails
    if isinstance(later, LogPage):
        assert len(old.entries) == 3
        assert len(later.entries) == len(host.runs["1"].entries) > 3


async def test_a_stranger_who_asks_at_the_same_time_is_not_given_the_owner_s_answer() -> None:
    host = Distant()
    gateway = owning_gateway(host)
    await gateway.create(user("ann"), "9", NewRun("Say hello"))
    for ask in (
        lambda who: gateway.get(who, "9", "1"),
        lambda who: gateway.read_log(who, "9", "1", 0, 100, newest_first=False),
    ):
        hers, theirs = await asyncio.gather(ask(user("ann")), ask(user("eve")), return_exceptions=True)
        assert isinstance(hers, Run | LogPage)
        assert isinstance(theirs, NotFound)


@pytest.mark.parametrize("operation", sorted(READS))
async def test_closing_ends_what_is_under_way(operation: str) -> None:
    gateway = in_front_of(a_host())
    reader = asyncio.ensure_future(READS[operation](gateway))
    await asyncio.sleep(0.5)
    await gateway.aclose()
    await asyncio.wait([reader])
    assert reader.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
