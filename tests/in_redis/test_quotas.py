"""Requests per user and minute, counted over instances."""

import asyncio

from codegen_api.auth.quota import WINDOW
from codegen_api.identity import Principal
from tests.in_redis.linking import instances, usable
from tests.redis_servers import RedisServer

ALICE, BOB = Principal("codegen", "1"), Principal("codegen", "2")


async def test_a_user_has_so_many_through_all_instances_together(server: RedisServer) -> None:
    async with instances(server.url, 3) as made:
        quotas = [each.quota(20) for each in made]
        taken = await asyncio.gather(*(quotas[number % 3].take(ALICE) for number in range(60)))
        granted = [each for each in taken if each.granted]
        # a minute may begin meanwhile: what counted before it counts almost as much
        assert 20 <= len(granted) <= 21
        assert sorted(each.remaining for each in granted)[:20] == list(range(20))
        assert all(each.remaining == 0 for each in taken if not each.granted)
        assert all(1 <= each.seconds <= WINDOW and each.quota == 20 for each in taken)
        assert (await quotas[0].take(BOB)).remaining == 19
        assert all(each.link.usable for each in made)


async def test_a_minute_ago_counts_in_part(server: RedisServer) -> None:
    async with instances(server.url, 1) as (one,):
        quota = one.quota(1000)
        assert (await quota.take(ALICE)).granted
        (key,) = server.ask("KEYS", "*quota*")
        (minute,) = server.ask("HKEYS", key)
        seconds = int(server.ask("TIME")[0])
        server.ask("HSET", key, int(minute) - 1, 600, int(minute) - 2, 600)
        left = await quota.take(ALICE)
        weighted = 600 * (WINDOW - seconds % WINDOW) / WINDOW
        assert abs(left.remaining - (1000 - 2 - weighted)) <= 40
        assert len(server.ask("HKEYS", key)) == 2
        assert 0 < server.ask("TTL", key) <= 2 * WINDOW


async def test_while_redis_is_away_each_instance_counts(server: RedisServer) -> None:
    async with instances(server.url, 2) as made:
        one, two = (each.quota(2) for each in made)
        assert (await one.take(ALICE)).granted
        server.kill()
        await usable(made, so=False)
        # a minute may begin meanwhile, and then one more is granted
        for quota in (one, two):
            assert sum([(await quota.take(ALICE)).granted for _ in range(6)]) in (2, 3)
        server.start()
        await usable(made)
        assert sum([(await quota.take(ALICE)).granted for quota in (one, two) * 3]) in (2, 3)
