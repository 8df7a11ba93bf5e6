"""Instances in one process, each with a link of its own to a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from codegen_api.in_redis import InRedis
from codegen_api.redis_link import RedisLink

KEY = b"for all instances"
WITHIN = 10.0


@asynccontextmanager
async def instances(url: str, count: int, prefix: str = "codegen_api:") -> AsyncIterator[list[InRedis]]:
    """So many instances, which have found Redis if it is there."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(InRedis(RedisLink(url, prefix=prefix), KEY, workers=1))
            stack.push_async_callback(made[-1].aclose)
        for each in made:
            await each.link.start()
        yield made


async def until(condition: Callable[[], bool], within: float = WITHIN) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - whatever it is about
            await asyncio.sleep(0.01)


async def usable(made: list[InRedis], *, so: bool = True) -> None:
    await until(lambda: all(each.link.usable is so for each in made))
