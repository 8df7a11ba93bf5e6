"""Idempotency keys over several instances: one of many requests is carried out, whatever dies meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import GatewayError, InProgress
from codegen_api.gateway import Gateway
from codegen_api.idempotency import Idempotency, Outcome
from codegen_api.idempotency.lookup import SILENT_GRACE
from codegen_api.idempotency.records import MemoryRecords, Records, RequestRecord, RequestState
from codegen_api.in_redis import InRedis
from codegen_api.redis_link import RedisNews
from codegen_api.runs import Run
from codegen_api.upstreams import NewRun
from tests import test_idempotency_records as contract
from tests.fakehost import FakeHost, Hosted, caller
from tests.in_redis.linking import instances, until, usable
from tests.redis_servers import RedisServer

CONTRACT = [
    contract.test_the_first_one_is_kept_and_given_to_all_others,
    contract.test_of_many_at_once_one_is_the_first,
    contract.test_only_what_is_there_is_changed,
    contract.test_only_what_is_there_is_forgotten,
]
RECORD = RequestRecord("a", RequestState.UNDER_WAY, 1.0, 1.0)
NEW = NewRun("Tidy up")


@pytest.mark.parametrize("check", CONTRACT)
async def test_the_contract_of_records_holds(
    server: RedisServer, check: Callable[[Callable[[], Records]], Awaitable[None]]
) -> None:
    async with instances(server.url, 1) as (one,):
        await check(lambda: one.records(MemoryRecords()))
        assert one.link.usable


class Dated(FakeHost):
    """A host that says when a run was created."""

    def _run(self, hosted: Hosted, **more: Any) -> Run:
        return super()._run(hosted, created_at=datetime.now(UTC).isoformat(), **more)


def doors(host: FakeHost, made: list[InRedis]) -> list[Idempotency]:
    return [Idempotency(Gateway(host, MemoryBroker()), each.records(MemoryRecords()), ["k" * 32]) for each in made]


async def create(door: Idempotency, key: str = "the client's choice") -> Outcome | GatewayError:
    try:
        return await door.create(caller(), "9", NEW, key)
    except GatewayError as error:
        return error


async def test_of_two_hundred_creates_with_one_key_over_three_instances_one_is_carried_out(server: RedisServer) -> None:
    """Once more where Redis was taken for away meanwhile, as on a machine that is busy: each instance is alone then."""
    for attempt in range(5):
        host, news = FakeHost(), list[RedisNews]()

        async def slowly(operation: str) -> None:
            await asyncio.sleep(0.3 if operation == "create" else 0)

        host.before = slowly
        async with instances(server.url, 3, prefix=f"attempt-{attempt}:") as made:
            assert all(each.link.usable for each in made)
            for each in made:
                each.link.listeners.append(news.append)
            three = doors(host, made)
            found = await asyncio.gather(*(create(three[number % 3]) for number in range(200)))
            again = await asyncio.gather(*(create(door) for door in three))
            for door in three:
                await door.aclose()
        if RedisNews.AWAY not in news:
            break
    assert news == []
    assert host.calls["create"] == 1
    assert sum(isinstance(each, Outcome) and not each.replayed for each in found) == 1
    assert all(isinstance(each, Outcome | InProgress) for each in found), found
    assert len({each.run.ref.id for each in again if isinstance(each, Outcome) and each.replayed}) == 1
    assert len(again) == 3


async def test_a_request_whose_instance_has_died_is_looked_for_and_not_blocked_for_ever(server: RedisServer) -> None:
    async with instances(server.url, 2) as (dead, alive):
        theirs, ours = dead.records(MemoryRecords()), alive.records(MemoryRecords())
        assert await theirs.begin("x", RECORD) is None
        assert await ours.begin("x", RECORD) == RECORD  # under way, for all that is known
        await theirs.aclose()  # nothing renews it from here on
        for key in await asyncio.to_thread(server.ask, "KEYS", "*:alive"):
            await asyncio.to_thread(server.ask, "DEL", key)  # as if its time were over
        found = await ours.begin("x", RECORD)
        assert found is not None
        assert (found.state, found.grace) == (RequestState.UNKNOWN, SILENT_GRACE)
        assert found.at == pytest.approx(time.time(), abs=10)
        assert await ours.begin("x", RECORD) == found
        taken = RequestRecord("a", RequestState.UNDER_WAY, 1.0, 2.0)
        assert await ours.change("x", found, taken)
        assert not await theirs.change("x", RECORD, RequestRecord("a", RequestState.DONE, 1.0, 3.0))  # it wakes up late
        await ours.aclose()


async def test_a_create_that_died_behind_the_request_is_found_at_the_host(server: RedisServer) -> None:
    host = FakeHost()
    async with instances(server.url, 2) as made:
        one, other = doors(host, made)

        async def never_answered(operation: str) -> None:
            if operation == "create":
                host.before = nothing
                await host.create_run(caller().credential, "9", seen[0])
                await asyncio.Event().wait()

        async def nothing(_: str) -> None:
            return None

        seen: list[NewRun] = []
        original = host.create_run

        async def remembering(credential: object, organization: str, new: NewRun) -> object:
            seen.append(new)
            return await original(credential, organization, new)  # type: ignore[arg-type]

        host.create_run = remembering  # type: ignore[method-assign,assignment]
        host.before = never_answered
        dying = asyncio.create_task(create(one))
        await until(lambda: bool(host.runs))
        assert isinstance(await create(other), InProgress)
        for task in list(asyncio.all_tasks()):  # its records are not renewed any more, and it says nothing
            if task.get_coro().__qualname__.endswith("RedisRecords._renew"):  # type: ignore[union-attr]
                task.cancel()
        for key in await asyncio.to_thread(server.ask, "KEYS", "*:alive"):
            await asyncio.to_thread(server.ask, "DEL", key)
        found = await create(other)
        assert isinstance(found, Outcome), found
        assert found.replayed
        assert len(host.runs) == 1
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)


async def test_a_redis_that_dies_in_the_middle_of_a_create_loses_no_outcome(server: RedisServer) -> None:
    host, goes_on = Dated(), asyncio.Event()

    async def slowly(operation: str) -> None:
        if operation == "create":
            await goes_on.wait()

    host.before = slowly
    async with instances(server.url, 2) as made:
        one, other = doors(host, made)
        creating = asyncio.create_task(create(one))
        await until(lambda: host.calls["create"] > 0)
        server.kill()
        await usable(made, so=False)
        goes_on.set()
        first = await creating
        assert isinstance(first, Outcome)
        again = await create(one)
        assert isinstance(again, Outcome)
        assert again.replayed
        server.start()
        await usable(made)
        elsewhere = await create(other)
        assert isinstance(elsewhere, Outcome), elsewhere  # by its mark at the host
        assert {again.run.ref, elsewhere.run.ref} == {first.run.ref}
        assert len(host.runs) == 1


async def test_what_is_under_way_is_said_again_to_a_redis_that_was_emptied(server: RedisServer) -> None:
    async with instances(server.url, 2) as (one, other):
        ours, theirs = one.records(MemoryRecords()), other.records(MemoryRecords())
        assert await ours.begin("x", RECORD) is None
        server.empty()
        await until(lambda: bool(server.ask("KEYS", "*request*")))
        assert await theirs.begin("x", RECORD) == RECORD
        await ours.aclose()
