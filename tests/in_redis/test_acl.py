"""The user of docs/operating.md can do all that the gateway does in Redis, and nothing else is needed."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from codegen_api.brokers import News, RunCancelled
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.brokers.redis import RedisBroker
from codegen_api.following import Right
from codegen_api.following.shared_budgets import Usage
from codegen_api.gateway.viewing import StreamLimits
from codegen_api.idempotency.records import MemoryRecords, RequestRecord, RequestState
from codegen_api.identity import Principal
from codegen_api.in_redis import InRedis
from codegen_api.in_redis.records import RENEW
from codegen_api.runs import Run, RunRef, RunStatus
from tests.brokers.logs import page
from tests.in_redis.linking import instances, until
from tests.redis_servers import redis_server

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
ALICE = Principal("codegen", "1")
REF = RunRef("9", "1")


async def budgets(made: InRedis) -> None:
    usage = Usage(answered=2, read=1, told=(5, 30.0), refused=True, retry_after=1.0, wanted=True, waiting=1)
    for _ in range(2):
        assert await made.budgets.tell("digest", usage, limit=60, cost=1) is not None
    await made.link.run(lambda redis: redis.zrem(f"{made.link.prefix}instances", "nobody"))


async def windows_that_move_on(made: InRedis) -> None:
    key = f"{made.link.prefix}budget:{{old}}"
    await made.link.run(lambda redis: redis.rpush(f"{key}:all", "1000"))
    await made.link.run(lambda redis: redis.hset(key, "i:dead", "1 0 0 1.0"))
    assert await made.budgets.tell("old", Usage(), limit=60, cost=1) is not None


async def full_windows(made: InRedis) -> None:
    assert await made.budgets.tell("lost", Usage(known=True), limit=60, cost=1) is not None
    assert await made.budgets.tell("full", Usage(answered=60, wanted=True, waiting=1), limit=60, cost=1) is not None


async def records(made: InRedis) -> None:
    kept = made.records(MemoryRecords())
    begun = RequestRecord("a", RequestState.UNDER_WAY, 1.0, 1.0)
    assert await kept.begin("x", begun) is None
    assert await kept.begin("x", begun) == begun
    await made.link.run_script(RENEW, kept._keys("x"), [kept._me])
    done = replace(begun, state=RequestState.DONE, run=REF, result=b"{}")
    assert await kept.change("x", begun, done)
    assert await kept.change("x", done, replace(done, result=b""))
    await kept.forget("x", done)
    await kept.aclose()


async def open_streams(made: InRedis) -> None:
    limits = StreamLimits(10, 2, made.open_streams)
    async with limits.take(ALICE):
        pass


async def quota(made: InRedis) -> None:
    requests = made.quota(5)
    await made.link.run(lambda redis: redis.hset(requests._names.of("quota", repr(ALICE)), "1", "1"))
    assert (await requests.take(ALICE)).granted


async def rights(made: InRedis) -> None:
    shown = Run(REF, RunStatus.RUNNING, "ACTIVE", {})
    loop = asyncio.get_running_loop()
    made.rights.keep("digest", REF, Right(shown, loop.time(), loop.time()))
    async with asyncio.timeout(5):
        while await made.rights.find("digest", REF) is None:  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.01)
    heard = asyncio.Event()
    made.rights.revoked = lambda *_: heard.set()
    made.rights.revoke("digest", REF)
    async with asyncio.timeout(5):
        await heard.wait()


async def logs(made: InRedis) -> None:
    leader, other = (RedisBroker(made.link, MemoryBroker()) for _ in range(2))
    heard: list[News] = []
    other.listen(lambda _, news: heard.append(news))

    async def take_over() -> None:
        async with other.lead(REF):
            assert await other.tail(REF) is not None

    async with leader.lead(REF):
        await leader.publish(page(0, 3, ref=REF))
        taking_over = asyncio.create_task(take_over())
        await until(lambda: len(heard) > 0)
        await leader.publish(page(3, 1, ref=REF))
        await until(lambda: len(heard) > 1)
    await taking_over
    await made.link.run(lambda redis: redis.ping())  # as is asked where nothing is heard for a while
    await leader.tell(REF, RunCancelled(asyncio.get_running_loop().time()))
    await leader.aclose()
    await other.aclose()


EXERCISES: list[Callable[[InRedis], Awaitable[None]]] = [
    budgets,
    windows_that_move_on,
    full_windows,
    records,
    open_streams,
    quota,
    rights,
    logs,
]
"""All that is done in Redis."""


def documented() -> list[str]:
    """The words of the command that makes the user."""
    found = re.search(r"^ACL SETUSER gateway (.*)$", DOCUMENT, re.MULTILINE)
    assert found is not None
    return found[1].split()


@pytest.mark.parametrize("clustered", [False, True], ids=["single", "cluster"])
async def test_the_documented_user_may_do_what_is_done_and_no_more(*, clustered: bool) -> None:
    more = ["+cluster|slots", "+command"] if clustered else []
    if clustered:
        assert f"`{' '.join(more)}`" in DOCUMENT
    with redis_server(clustered=clustered) as server:
        server.ask("ACL", "SETUSER", "gateway", *documented(), *more)
        server.ask("ACL", "LOG", "RESET")
        server.ask("CONFIG", "RESETSTAT")
        async with instances(server.url_of("gateway", "a-long-random-password"), 1) as (made,):
            for exercise in EXERCISES:
                await exercise(made)
                assert made.link.usable, exercise.__name__
            await until(lambda: b"zcard" in server.ask("INFO", "commandstats"))
        assert server.ask("ACL", "LOG") == []
        used = set(re.findall(r"cmdstat_(\w+)", server.ask("INFO", "commandstats").decode()))
        allowed = {word[1:] for word in documented() if word.startswith("+")}
        assert allowed - used == set(), "nothing needs these"
