"""Brokers over a real Redis in virtual time: it stands still while Redis is asked."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from codegen_api.brokers import Broker
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.brokers.redis import RedisBroker
from codegen_api.redis_link import RedisLink
from codegen_api.runs import RunRef
from tests.redis_servers import RedisServer
from tests.virtual import VirtualLoop


def _loop() -> VirtualLoop:
    return cast("VirtualLoop", asyncio.get_running_loop())


class VirtualLink(RedisLink):
    """A link whose clock is that of the loop, as is that of all others there."""

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._probe()

    async def _probe(self) -> None:
        _loop().outside(1)
        try:
            await super()._probe()
        finally:
            _loop().outside(-1)

    async def run(self, command: Callable[[Any], Awaitable[Any]], *, waits: float = 0.0) -> Any:
        _loop().outside(1)
        try:
            return await super().run(command, waits=waits)
        finally:
            _loop().outside(-1)

    def redis_time(self, loop_time: float) -> float:
        return loop_time

    def loop_time(self, redis_time: float) -> float:
        return redis_time

    def subscriber(self) -> Any:
        return _Subscriber(super().subscriber())


class _Subscriber:
    def __init__(self, client: Any) -> None:
        self._client = client

    def pubsub(self) -> Any:
        return _PubSub(self._client.pubsub())

    async def aclose(self) -> None:
        await self._client.aclose()


class _PubSub:
    """Counts what is to be answered."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub
        self._awaited = 0

    def _await(self, answers: int) -> None:
        self._awaited += answers
        _loop().outside(answers)

    async def subscribe(self, *channels: str) -> None:
        self._await(len(channels))
        await self._pubsub.subscribe(*channels)

    async def unsubscribe(self, channel: str) -> None:
        self._await(1)
        await self._pubsub.unsubscribe(channel)

    async def ping(self) -> None:
        self._await(1)
        await self._pubsub.ping()

    async def get_message(self, timeout: float | None) -> Any:
        message = await self._pubsub.get_message(timeout=timeout)
        if message is not None and message["type"] in ("subscribe", "unsubscribe", "pong"):
            self._await(-1)
        return message

    async def aclose(self) -> None:
        self._await(-self._awaited)
        await self._pubsub.aclose()


class RelayedBroker(RedisBroker):
    """One that connects when it is used first, and closes its link. It may be closed twice, as those in memory."""

    closed = False

    def __init__(self, url: str, prefix: str, *, max_bytes: int = 128 * 1024 * 1024) -> None:
        super().__init__(VirtualLink(url, prefix=prefix), MemoryBroker(max_bytes=max_bytes))

    async def open(self) -> "RelayedBroker":
        await self._link.start()
        return self

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            await super().aclose()
            await self._link.aclose()


def over_redis(server: RedisServer) -> Callable[..., Awaitable[Broker]]:
    """Makes brokers that know nothing of those before them."""
    numbers = itertools.count()
    name = secrets.token_hex(4)

    async def make(**more: Any) -> Broker:
        return await RelayedBroker(server.url, f"{name}{next(numbers)}:", **more).open()

    return make


@asynccontextmanager
async def two_over_redis(
    server: RedisServer, refs: Sequence[RunRef], **more: Any
) -> AsyncIterator[tuple[Broker, Broker]]:
    """One that leads these runs, and one that would like to."""
    prefix = f"{secrets.token_hex(8)}:"
    leading, other = [await RelayedBroker(server.url, prefix, **more).open() for _ in range(2)]

    async def wait(ref: RunRef) -> None:
        async with other.lead(ref):
            raise AssertionError("it leads")

    async with AsyncExitStack() as stack:
        for ref in refs:
            await stack.enter_async_context(leading.lead(ref))
        waiting = [asyncio.create_task(wait(ref)) for ref in refs]
        try:
            yield leading, other
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            for task in waiting:
                assert task.cancelled()
    await leading.aclose()
    await other.aclose()
