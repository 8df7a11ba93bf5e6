"""Gateways with one Redis in front of one host, as their viewers and the host see them."""

import asyncio

import pytest

from codegen_api.brokers.memory import MemoryBroker
from codegen_api.errors import Forbidden, RateLimited
from codegen_api.following import ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.in_redis import InRedis
from codegen_api.pace import Cadence
from tests.fakehost import FakeHost, caller
from tests.following.viewing import Viewer
from tests.in_redis.linking import instances, until
from tests.redis_servers import RedisServer


def gateways(host: FakeHost, made: list[InRedis]) -> list[Gateway]:
    return [
        Gateway(
            host.elsewhere(),
            MemoryBroker(),
            turns=ReadQueue(limit=6000, common=each.budgets),
            cadence=lambda: Cadence(fast=0.2, slow=0.5, resting=0.5),
            open_streams=each.open_streams,
            common_rights=each.rights,
            max_streams_each=2,
        )
        for each in made
    ]


async def test_a_viewer_who_is_refused_at_one_gateway_is_asked_about_at_the_other(server: RedisServer) -> None:
    host = FakeHost()
    host.add("1").append(3)
    async with instances(server.url, 2) as made:
        one, two = gateways(host, made)
        watched = [Viewer() for _ in range(4)]
        watching = [
            asyncio.create_task(viewer.watch(gateway, who=caller(name)))
            for viewer, (gateway, name) in zip(
                watched, [(one, "alice"), (two, "alice"), (one, "bob"), (two, "bob")], strict=True
            )
        ]
        await until(lambda: all(viewer.cursor == 3 for viewer in watched))
        assert host.calls["get"] <= 2 + 2  # a right may be asked for before it is written
        host.barred.add(("alice", "1"))
        await until(lambda: watching[0].done() and watching[1].done(), 15)
        assert not watching[2].done()
        assert not watching[3].done()
        for task in watching:
            task.cancel()
        done = await asyncio.gather(*watching, return_exceptions=True)
        assert [type(each) for each in done] == [Forbidden, Forbidden, asyncio.CancelledError, asyncio.CancelledError]
        await one.aclose()
        await two.aclose()


async def test_what_another_gateway_has_confirmed_is_not_asked_for_again(server: RedisServer) -> None:
    host = FakeHost()
    host.add("1").append(3)
    async with instances(server.url, 2) as made:
        one, two = gateways(host, made)
        watched = Viewer()
        watching = asyncio.create_task(watched.watch(one, who=caller()))
        await until(lambda: watched.cursor == 3)
        await until(lambda: bool(server.ask("KEYS", "*right*")))
        calls = host.calls["get"]
        there = Viewer()
        watching_there = asyncio.create_task(there.watch(two, who=caller()))
        await until(lambda: there.cursor == 3)
        assert host.calls["get"] == calls
        with pytest.raises(RateLimited):  # two streams are open, one at each
            async with two.attend(caller()):
                pass
        for task in (watching, watching_there):
            task.cancel()
        await asyncio.gather(watching, watching_there, return_exceptions=True)
        await one.aclose()
        await two.aclose()
