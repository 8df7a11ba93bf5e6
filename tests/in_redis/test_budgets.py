"""One budget for all instances: reads ask for permission everywhere, the rest is only counted.

``LONGER`` (1) in the environment says how many times as long the instances are watched.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from codegen_api.following import ReadQueue, loop_time
from codegen_api.identity import Credential
from codegen_api.in_redis import InRedis
from codegen_api.pace import BURST, READ_SHARE, WINDOW, Need
from codegen_api.telemetry import Allowance, Exchange
from tests.in_redis.linking import instances, until, usable
from tests.redis_servers import RedisServer

LONGER = float(os.environ.get("LONGER", "1"))
ALICE, BOB = Credential.of("alice", b"key"), Credential.of("bob", b"key")


def nothing() -> None:
    return None


def queues(made: list[InRedis], limit: float) -> list[ReadQueue]:
    return [ReadQueue(limit=limit, common=each.budgets) for each in made]


class Reading:
    """Readers that want to read always: when each instance did."""

    def __init__(self) -> None:
        self.times: list[tuple[float, int]] = []

    def between(self, start: float, end: float) -> Counter[int]:
        return Counter(who for at, who in self.times if start <= at < end)

    async def read(self, queue: ReadQueue, who: int, credential: Credential) -> None:
        since = loop_time()
        while True:
            with closing(queue.want(Need(since, 1.25), nothing)) as turn:
                turn.offer((credential, since))
                await turn.granted()
                turn.begun()
                queue.asking(credential.digest, "read_log")
                await asyncio.sleep(0.01)
                queue.asked(Exchange(credential.digest, "read_log", "ok", 0.01))
                turn.accepted()
                since = loop_time()
                self.times.append((since, who))


@asynccontextmanager
async def reading(made: list[ReadQueue], each: int = 3) -> AsyncIterator[Reading]:
    seen = Reading()
    tasks = [asyncio.create_task(seen.read(queue, who, ALICE)) for who, queue in enumerate(made) for _ in range(each)]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in done), done


def ask(queue: ReadQueue, count: int, credential: Credential = ALICE) -> None:
    """Something that waits for nobody."""
    for _ in range(count):
        queue.asking(credential.digest, "create_run")
        queue.asked(Exchange(credential.digest, "create_run", "ok", 0.01))


async def granted(queue: ReadQueue, within: float, credential: Credential = ALICE) -> bool:
    with closing(queue.want(Need(loop_time(), 1.25), nothing)) as turn:
        turn.offer((credential, loop_time()))
        try:
            async with asyncio.timeout(within):
                await turn.granted()
        except TimeoutError:
            return False
        return True


async def test_six_instances_read_no_more_than_one_would(server: RedisServer) -> None:
    seconds = 5.0 * LONGER
    async with instances(server.url, 6) as made, reading(queues(made, 60)) as seen:
        await asyncio.sleep(seconds)
        at_once, rest = 60 * BURST, seconds / WINDOW * 60 * READ_SHARE
        assert at_once <= len(seen.times) <= at_once + rest + 1
        assert len({who for _, who in seen.times}) > 3  # it is not one that takes all
        assert all(each.link.usable for each in made)


async def test_what_waits_for_nobody_is_counted_by_all(server: RedisServer) -> None:
    async with instances(server.url, 2) as made:
        one, two = queues(made, 60)
        began = time.monotonic()
        ask(one, 57)
        assert time.monotonic() < began + 0.2
        await until(lambda: bool(server.ask("KEYS", "*budget*:all")))
        await until(lambda: server.ask("LLEN", server.ask("KEYS", "*budget*:all")[0]) == 57)
        assert not await granted(two, 2)
        assert await granted(two, 2, BOB)
        with two.room(ALICE) as room:
            assert not room


async def test_a_request_under_way_is_counted_until_its_instance_must_have_died(server: RedisServer) -> None:
    async with instances(server.url, 2) as made:
        one, two = queues(made, 60)
        for _ in range(57):
            one.asking(ALICE.digest, "create_run")
        await until(lambda: bool(server.ask("KEYS", "*budget*")))
        await asyncio.sleep(0.2)
        assert not await granted(two, 1.5)
        (key,) = [each for each in server.ask("KEYS", "*budget*") if not each.endswith((b":all", b":reads"))]
        fields = dict(zip(*[iter(server.ask("HGETALL", key))] * 2, strict=True))
        (theirs,) = [name for name, value in fields.items() if name[:2] == b"i:" and value.startswith(b"57 ")]
        server.ask("HSET", key, theirs, "57 0 0 1.0")  # it has said nothing since 1970
        assert await granted(two, 5)


async def test_a_refusal_and_what_the_host_says_is_left_are_known_to_all(server: RedisServer) -> None:
    async with instances(server.url, 2) as made:
        one, two = queues(made, 60)
        with closing(one.want(Need(loop_time(), 1.25), nothing)) as turn:
            turn.offer((ALICE, loop_time()))
            await turn.granted()
            turn.begun()
            one.asking(ALICE.digest, "read_log")
            one.asked(Exchange(ALICE.digest, "read_log", "upstream_rate_limited", 0.01))
            turn.refused(30.0)
        await asyncio.sleep(0.3)
        assert not await granted(two, 0.5)
        assert 20 < two.closed(ALICE) < 40
        one.asking(BOB.digest, "read_log")
        one.asked(Exchange(BOB.digest, "read_log", "ok", 0.01, allowance=Allowance(0, 45.0)))
        await asyncio.sleep(0.3)
        assert not await granted(two, 0.5, BOB)
        assert 35 < two.closed(BOB) < 50


async def test_a_redis_that_dies_and_comes_back_empty_leaves_each_its_part(server: RedisServer) -> None:
    limit, seconds = 1200, 3.0 * LONGER
    async with instances(server.url, 3) as made:
        await until(lambda: all(each.budgets.instances == 3 for each in made))
        async with reading(queues(made, limit)) as seen:
            await asyncio.sleep(1)
            server.kill()
            await usable(made, so=False)
            await asyncio.sleep(0.2)
            began = loop_time()
            await asyncio.sleep(seconds)
            alone = seen.between(began, loop_time())
            part = seconds / WINDOW * limit / 3 * READ_SHARE
            assert set(alone) == {0, 1, 2}  # none waits for another
            assert all(part * 0.5 <= count <= part + 2 for count in alone.values()), (alone, part)
            server.start()
            await usable(made)
            began = loop_time()
            await asyncio.sleep(seconds)
            again = seen.between(began, loop_time())
            assert part <= again.total() <= 3 * part + 6, again  # all of what came before is unknown
            assert all(each.link.usable for each in made)


async def test_a_redis_that_was_emptied_gives_nobody_a_second_burst(server: RedisServer) -> None:
    async with instances(server.url, 3) as made:
        await until(lambda: all(each.budgets.instances == 3 for each in made))
        async with reading(queues(made, 60)) as seen:
            await until(lambda: len(seen.times) >= 60 * BURST)
            server.empty()
            await asyncio.sleep(4 * LONGER)
            assert len(seen.times) <= 60 * BURST + (2 + 4 * LONGER) / WINDOW * 60 * READ_SHARE + 3


async def test_an_instance_without_redis_reads_from_the_start(server: RedisServer) -> None:
    server.kill()
    async with instances(server.url, 1) as made:
        (one,) = queues(made, 60)
        assert await granted(one, 1)
        server.start()
        await usable(made)
        assert await granted(one, 5)


@pytest.mark.parametrize("count", [1, 3])
async def test_the_number_of_instances_is_known(server: RedisServer, count: int) -> None:
    async with instances(server.url, 1) as (one,):
        async with instances(server.url, count):
            await until(lambda: one.budgets.instances == count + 1)
        await until(lambda: one.budgets.instances == 1)  # they have taken their leave
