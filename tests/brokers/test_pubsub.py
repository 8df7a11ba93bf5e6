"""The connection on which an instance hears the others, where Redis itself says nothing that helps."""

import asyncio
from typing import Any

import pytest

from codegen_api.brokers.redis.pubsub import PING, SILENT, PubSub

pytestmark = pytest.mark.virtual_time


class Connection:
    """Confirms what it subscribes to, and answers signs of life for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._until = asyncio.get_running_loop().time() + seconds
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.closed = False

    async def subscribe(self, *channels: str) -> None:
        for channel in channels:
            self._said.put_nowait({"type": "subscribe", "channel": channel.encode()})

    async def ping(self) -> None:
        if asyncio.get_running_loop().time() < self._until:
            self._said.put_nowait({"type": "pong", "channel": None})

    async def get_message(self, timeout: float) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(timeout):
                return await self._said.get()
        except TimeoutError:
            return None

    async def aclose(self) -> None:
        self.closed = True


class Link:
    """A link whose connections fall silent after so many seconds."""

    usable = True

    def __init__(self, *seconds: float) -> None:
        self.listeners: list[Any] = []
        self.made: list[Connection] = []
        self._seconds = iter(seconds)

    def subscriber(self) -> Any:
        return self

    def pubsub(self) -> Connection:
        self.made.append(Connection(next(self._seconds)))
        return self.made[-1]

    async def aclose(self) -> None: ...


async def test_a_connection_that_answers_no_sign_of_life_is_replaced() -> None:
    link: Any = Link(20.0, 3600.0)
    joined: list[float] = []
    left: list[float] = []

    async def heard(channel: str, data: bytes) -> None:
        raise AssertionError("nobody has published anything")

    time = asyncio.get_running_loop().time
    pubsub = PubSub(link, heard, lambda channel: joined.append(time()), lambda: left.append(time()))
    began = time()
    await pubsub.subscribe("news")
    await asyncio.sleep(600)
    assert [each.closed for each in link.made] == [True, False]
    (gone,) = left
    assert 20 < gone - began < 20 + 2 * PING + SILENT
    assert len(joined) == 2
    await pubsub.aclose()
    assert link.made[-1].closed
