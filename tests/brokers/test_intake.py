"""What an instance takes from the stream of a run, and when."""

from typing import Any

import pytest

from codegen_api.brokers import Looked, News
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.brokers.redis import encoding
from codegen_api.brokers.redis.intake import Intake
from codegen_api.runs import LogEntry, LogPage
from tests.brokers.logs import REF, changed, entry, page, unasked

pytestmark = pytest.mark.virtual_time


class Clock:
    """A link of which only the clock is asked for: that of Redis is ours."""

    prefix = "codegen_api:"

    def redis_time(self, loop_time: float) -> float:
        return loop_time

    def loop_time(self, redis_time: float) -> float:
        return redis_time


class Mirror:
    """An instance that knew entries 1 to 3 itself, as they were at 10."""

    def __init__(self) -> None:
        link: Any = Clock()
        self.heard: list[News] = []
        self.memory = MemoryBroker()
        self.intake = Intake(link, self.memory, REF, self.heard.append)
        self.intake.following = True

    async def begin(self) -> None:
        await self.memory.publish(page(0, 3))
        self.intake.read_at.update(dict.fromkeys(range(1, 4), 10.0))

    async def relay(self, at: float, told: LogEntry) -> None:
        await self.intake.apply([((3, 1), encoding.encode_entry(2, at, told))])

    async def look(self, at: float) -> None:
        look = Looked(at, 0.0, True, None, None, at, (), None, 0)
        await self.intake.take_look(encoding.encode_look(look, 0.0))

    async def second(self) -> bytes:
        async for _, found in self.memory.entries(REF, [2], unasked):
            return found.json
        raise AssertionError("it is not there")


async def test_what_may_be_older_waits_until_the_leader_has_looked_since() -> None:
    mirror = Mirror()
    await mirror.begin()
    await mirror.relay(9.9, entry(2, 1))
    await mirror.look(9.95)
    assert await mirror.second() == entry(2).json
    await mirror.look(10.5)
    assert await mirror.second() == entry(2, 1).json
    assert [type(news) for news in mirror.heard] == [Looked, LogPage, Looked]


async def test_what_is_newer_replaces_what_was_held_back() -> None:
    mirror = Mirror()
    await mirror.begin()
    await mirror.relay(9.9, entry(2, 1))
    await mirror.relay(10.1, entry(2, 2))
    await mirror.look(11)
    assert await mirror.second() == entry(2, 2).json


async def test_nothing_is_held_back_beyond_the_end_that_the_leader_has_seen() -> None:
    mirror = Mirror()
    await mirror.begin()
    await mirror.relay(9.9, entry(2, 1))
    await mirror.intake.apply([((3, 2), encoding.encode_changed(changed(length=3), 9.95))])
    assert await mirror.second() == entry(2, 1).json
    assert isinstance(mirror.heard[0], LogPage)
    assert isinstance(mirror.heard[-1], type(changed()))


async def test_an_end_that_only_seems_to_be_older_is_heard() -> None:
    mirror = Mirror()
    await mirror.begin()
    mirror.intake.described_at = 10.0
    await mirror.intake.apply([((3, 1), encoding.encode_changed(changed(length=2), 8.5))])
    assert mirror.heard == []
    end = encoding.encode_changed(changed(length=3), 9.9)
    await mirror.intake.apply([((3, 2), end)])
    await mirror.intake.apply([((3, 2), end)])  # it is the last of the head as well
    (heard,) = mirror.heard
    assert isinstance(heard, type(changed()))
    assert heard.length == 3
