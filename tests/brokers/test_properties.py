"""Whatever is published, and however little of it is kept: every viewer has the whole log."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen_api.brokers import PAGE, Batch, Broker, Forgotten
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.runs import Amended, Appended, LogEntry, RunRef
from codegen_api.taps import Tap
from tests.brokers.logs import changed, entry, made_page, ref
from tests.brokers.relayed import two_over_redis
from tests.redis_servers import RedisServer
from tests.virtual import run

AMENDABLE = 100  # how far from the tail a log changes


@dataclass
class Log:
    """A run's log as the host has it, published page by page."""

    broker: Broker
    viewed: Broker
    ref: RunRef
    entries: list[LogEntry] = field(default_factory=list)
    descriptions: int = 0

    async def publish(self, back: int, amended: list[int], grown: int, text: str) -> None:
        """A page from ``back`` entries before the tail on, some of them changed, and ``grown`` new ones."""
        after = max(0, len(self.entries) - back)
        for offset in amended:
            if after + offset < len(self.entries):
                number = after + offset + 1
                self.descriptions += 1  # any number that was not there before
                self.entries[number - 1] = entry(number, self.descriptions, text)
        self.entries += [
            entry(number, 0, text) for number in range(len(self.entries) + 1, len(self.entries) + grown + 1)
        ]
        await self.broker.publish(made_page(after, tuple(self.entries[after:]), self.ref))

    async def page(self, number: int) -> list[LogEntry]:
        """As it is when it is asked for; the answer takes a while."""
        found = self.entries[number * PAGE : (number + 1) * PAGE]
        await asyncio.sleep(0.01)
        return found

    async def describe(self) -> None:
        self.descriptions += 1
        await self.broker.publish(changed(ref=self.ref, n=self.descriptions))


@dataclass
class Viewer:
    """Somebody who keeps a copy, one step at a time."""

    log: Log
    copy: dict[int, LogEntry] = field(default_factory=dict)
    cursor: int = 0
    revision: int | None = None
    described: Any = None
    _batches: Tap[Batch] | None = None

    async def step(self) -> bool:
        """One batch; whether there was any."""
        self._batches = self._batches or self.log.viewed.subscribe(
            self.log.ref, self.cursor, self.revision, self.log.page
        )
        try:
            async with asyncio.timeout(1):
                batch = await anext(self._batches)
        except TimeoutError:
            self._batches = None
            return False
        except Forgotten:  # what was known of the log was let go while nobody was at it
            self._batches, self.cursor, self.revision = None, 0, None
            self.copy.clear()
            return True
        self._take(batch)
        return True

    def _take(self, batch: Batch) -> None:
        for event in batch.entries:
            if isinstance(event, Appended):
                assert event.cursor == self.cursor + 1
                self.cursor = event.cursor
            else:
                assert isinstance(event, Amended)
                assert event.cursor <= self.cursor
            self.copy[event.cursor] = event.entry
        assert batch.cursor == self.cursor
        if batch.changed is not None:
            assert not self.described or batch.changed.run.fields["n"] >= self.described
            self.described = batch.changed.run.fields["n"]
        self.revision = batch.revision

    async def go(self) -> None:
        if self._batches is not None:
            await self._batches.aclose()
            self._batches = None

    async def catch_up(self) -> None:
        while await self.step():
            pass


numbers = st.integers(0, 1)
publishing = st.tuples(
    st.just("publish"),
    numbers,
    st.integers(0, AMENDABLE),
    st.lists(st.integers(0, AMENDABLE - 1), max_size=3),
    st.sampled_from([0, 1, 1, 3, 30, 150]),
    st.sampled_from(["", "", "x" * 1000]),
)
steps = st.one_of(
    publishing,
    publishing,
    st.tuples(st.just("describe"), numbers),
    st.tuples(st.just("step"), st.integers(0, 3)),
    st.tuples(st.just("step"), st.integers(0, 3)),
    st.tuples(st.just("catch up"), st.integers(0, 3)),
    st.tuples(st.just("go"), st.integers(0, 3)),
)


@pytest.mark.wire("stream-same-for-all")
@settings(max_examples=3 * settings().max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(steps, max_size=40), max_bytes=st.sampled_from([1, 9_000, 20_000, 60_000, 10**7]))
def test_fast_and_slow_viewers_end_with_the_log_that_was_published(script: list[Any], max_bytes: int) -> None:
    async def main() -> None:
        broker = MemoryBroker(max_bytes=max_bytes)
        await play(script, broker, broker)
        await broker.aclose()

    run(main(), at_most=100_000)


@settings(
    max_examples=max(20, settings().max_examples // 4),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(script=st.lists(steps, max_size=40), max_bytes=st.sampled_from([1, 60_000, 10**7]))
def test_so_do_those_at_another_instance(shared_redis: RedisServer, script: list[Any], max_bytes: int) -> None:
    async def main() -> None:
        async with two_over_redis(shared_redis, [ref(1), ref(2)], max_bytes=max_bytes) as (leading, other):
            await play(script, leading, other)

    run(main(), at_most=100_000)


async def play(script: list[Any], broker: Broker, viewed: Broker) -> None:
    logs = [Log(broker, viewed, ref(1)), Log(broker, viewed, ref(2))]
    viewers = [Viewer(logs[number % 2]) for number in range(4)]
    for what, number, *more in script:
        match what:
            case "publish":
                await logs[number].publish(*more)
            case "describe":
                await logs[number].describe()
            case "step":
                await viewers[number].step()
            case "catch up":
                await viewers[number].catch_up()
            case "go":
                await viewers[number].go()
    for log in logs:  # every log goes on, so that what was let go whole is there again
        await log.publish(0, [], 0, "")
        for viewer in viewers:
            if viewer.log is log:
                await viewer.catch_up()
                assert viewer.copy == dict(enumerate(log.entries, 1))
                await viewer.go()
