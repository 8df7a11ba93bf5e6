"""Live logs per caller, counted over instances."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from codegen_api.errors import RateLimited
from codegen_api.gateway.viewing import StreamLimits
from codegen_api.identity import Principal
from codegen_api.in_redis import InRedis
from tests.in_redis.linking import instances, until, usable
from tests.redis_servers import RedisServer

ALICE, BOB = Principal("codegen", "1"), Principal("codegen", "2")


def limits(made: list[InRedis], each: int = 3) -> list[StreamLimits]:
    return [StreamLimits(100, each, one.open_streams) for one in made]


async def take(opened: AsyncExitStack, limit: StreamLimits, principal: Principal = ALICE) -> None:
    await opened.enter_async_context(limit.take(principal))


async def refused(limit: StreamLimits, principal: Principal = ALICE) -> bool:
    try:
        async with limit.take(principal):
            return False
    except RateLimited:
        return True


async def becomes_free(limit: StreamLimits) -> None:
    async with asyncio.timeout(10):
        while await refused(limit):  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.05)


async def test_a_caller_has_so_many_in_all_instances_together(server: RedisServer) -> None:
    async with instances(server.url, 3) as made, AsyncExitStack() as opened:
        one, two, three = limits(made)
        for limit in (one, two, three):
            await take(opened, limit)
        assert [await refused(limit) for limit in (one, two, three)] == [True] * 3
        await take(opened, one, BOB)
        assert not await refused(two, BOB)
        assert (one.taken, two.taken, three.taken) == (2, 1, 1)
        await opened.aclose()
        assert not await refused(one)
        await until(lambda: not server.ask("KEYS", "*streams*"))
        assert all(each.link.usable for each in made)


async def test_of_many_at_once_no_more_than_so_many_are_let_in(server: RedisServer) -> None:
    async with instances(server.url, 3) as made, AsyncExitStack() as opened:
        three = limits(made, 10)
        done = await asyncio.gather(*(take(opened, three[number % 3]) for number in range(60)), return_exceptions=True)
        assert sum(each is None for each in done) == 10
        assert all(each is None or isinstance(each, RateLimited) for each in done)
        assert sum(limit.taken for limit in three) == 10


async def test_what_a_dead_instance_held_lapses(server: RedisServer) -> None:
    async with instances(server.url, 2) as made, AsyncExitStack() as opened:
        dead, alive = limits(made, 1)
        await take(opened, dead)
        assert await refused(alive)
        (key,) = server.ask("KEYS", "*streams*")
        name, value = server.ask("HGETALL", key)
        server.ask("HSET", key, name, value.split()[0] + b" 1")  # it has said nothing since 1970
        assert not await refused(alive)


async def test_while_redis_is_away_each_instance_counts_and_behind_it_all_are_known_again(server: RedisServer) -> None:
    async with instances(server.url, 2) as made, AsyncExitStack() as opened:
        one, two = limits(made, 2)
        await take(opened, one)
        server.kill()
        await usable(made, so=False)
        await take(opened, one)
        with pytest.raises(RateLimited):
            await take(opened, one)
        await take(opened, two)  # nobody knows of the others
        server.start()
        await usable(made)
        await until(lambda: len(server.ask("HKEYS", (server.ask("KEYS", "*streams*") or [b"x"])[0])) == 2)
        assert await refused(one)
        assert await refused(two)
        await opened.aclose()
        await becomes_free(two)
