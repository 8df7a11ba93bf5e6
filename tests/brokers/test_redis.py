"""Several instances over one Redis: one of them reads a run, and the viewers of all get it."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from codegen_api import redis_link
from codegen_api.brokers.memory import MemoryBroker
from codegen_api.brokers.redis import RedisBroker
from codegen_api.brokers.redis.scripts import orders_channel
from codegen_api.errors import UpstreamError
from codegen_api.following import ReadQueue
from codegen_api.gateway import Gateway
from codegen_api.identity import Credential
from codegen_api.pace import Cadence
from codegen_api.redis_link import RedisLink
from codegen_api.runs import LogPage, RunRef
from codegen_api.telemetry import Observer
from tests.fakehost import FakeHost, Hosted, caller
from tests.following.viewing import Viewer, shown
from tests.redis_faults import FAULTS, PASSING, away, back
from tests.redis_servers import RedisServer, redis_server


@pytest.fixture(params=[False, True], ids=["single", "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(clustered=request.param) as server:
        yield server


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class CountingHost(FakeHost):
    """Knows how often each place in a log was read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[int] = Counter()

    async def read_log(
        self, credential: Credential, ref: RunRef, after: int, limit: int, *, newest_first: bool = False
    ) -> LogPage:
        self.reads[after] += 1
        return await super().read_log(credential, ref, after, limit, newest_first=newest_first)


class Notes(Observer):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.redis: list[bool] = []
        self.lags: list[float] = []
        self.taken = 0

    def connected(self, redis: bool) -> None:
        self.redis.append(redis)

    def relayed(self, lag: float) -> None:
        self.lags.append(lag)

    def taken_over(self) -> None:
        self.taken += 1


class Instance:
    """A gateway in front of a host, as one of several processes has it."""

    def __init__(self, host: FakeHost, url: str, **more: Any) -> None:
        self.host = host.elsewhere()
        self.link = RedisLink(url)
        self.notes = Notes()
        self.broker = RedisBroker(self.link, MemoryBroker(), observer=self.notes, **more)
        self.gateway = Gateway(
            self.host,
            self.broker,
            turns=ReadQueue(limit=1_000_000),
            cadence=lambda: Cadence(fast=0.1, slow=0.2, resting=0.3),
            linger=0.2,
        )

    def leads(self) -> bool:
        """Whether it reads the run."""
        return any(relay.held for relay in self.broker._relays.values())

    async def aclose(self) -> None:
        await self.gateway.aclose()
        await self.link.aclose()


@asynccontextmanager
async def instances(host: FakeHost, url: str, count: int = 2, **more: Any) -> AsyncIterator[list[Instance]]:
    host.latency = 0.01
    found = [Instance(host, url, **more) for _ in range(count)]
    for each in found:
        await each.link.start()
    try:
        yield found
    finally:
        for each in found:
            await each.aclose()


async def eventually(probe: Any, within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not probe():  # noqa: ASYNC110 - what it finds is in several places
            await asyncio.sleep(0.02)


class Crowd:
    """Viewers who stay until the end, some at each instance."""

    def __init__(self, *gateways: Gateway) -> None:
        self.viewers = [Viewer() for _ in gateways]
        self.watching = [
            asyncio.create_task(viewer.watch(gateway)) for viewer, gateway in zip(self.viewers, gateways, strict=True)
        ]

    async def have(self, count: int) -> None:
        def all_there() -> bool:
            for task in self.watching:
                if task.done():
                    task.result()
            return all(viewer.cursor == count for viewer in self.viewers)

        try:
            await eventually(all_there)
        except TimeoutError:
            raise AssertionError(f"{[viewer.cursor for viewer in self.viewers]} of {count}") from None

    async def end(self, hosted: Hosted) -> None:
        hosted.status = "COMPLETE"
        async with asyncio.timeout(30):
            await asyncio.gather(*self.watching)
        for viewer in self.viewers:
            assert viewer.texts() == hosted.encoded()
            assert viewer.ends[-1] == len(hosted.entries)
            assert not viewer.resyncs


@asynccontextmanager
async def crowded(
    length: int, url: str, count: int = 2, **more: Any
) -> AsyncIterator[tuple[FakeHost, Hosted, list[Instance], Crowd]]:
    """A host with a run of so many entries, instances in front of it, and a viewer at each, who has them all."""
    host = FakeHost()
    hosted = host.add(length=length)
    async with instances(host, url, count, **more) as them:
        crowd = Crowd(*(each.gateway for each in them))
        await crowd.have(length)
        yield host, hosted, them, crowd


async def test_one_instance_reads_and_the_viewers_of_all_get_it(server: RedisServer) -> None:
    async with crowded(30, server.url, 3) as (host, hosted, them, crowd):
        before = host.calls["log"]
        for _ in range(10):
            hosted.append(7)
            await asyncio.sleep(0.1)
        acted = hosted.act()
        await crowd.have(101)
        hosted.amend(acted, output="done")
        await eventually(lambda: all(viewer.amended == [acted] for viewer in crowd.viewers))
        assert host.calls["log"] - before < 25
        lags = [lag for each in them for lag in each.notes.lags]
        assert lags
        assert max(lags) < 5
        assert sum(each.notes.taken for each in them) == 0
        await crowd.end(hosted)


async def test_when_the_reader_hangs_another_one_reads_on_and_what_it_reads_late_is_not_published(
    redis: RedisServer,
) -> None:
    async with crowded(130, redis.url) as (_, hosted, them, crowd):
        (leading,) = [each for each in them if each.leads()]
        (other,) = [each for each in them if each is not leading]
        relay = next(iter(leading.broker._relays.values()))
        release = asyncio.Event()
        answers: Any = leading.link.run

        async def hang(command: Any, **more: Any) -> Any:
            await release.wait()
            return await answers(command, **more)

        # as if its process was stopped: it cannot say anything
        leading.link.run = hang  # type: ignore[method-assign]
        await eventually(other.leads, 10)
        assert other.notes.taken == 1
        assert not relay.held
        acted = hosted.act()
        hosted.append(3)
        await eventually(lambda: crowd.viewers[them.index(other)].cursor == 134)
        hosted.amend(acted, output="done")
        await eventually(lambda: crowd.viewers[them.index(other)].amended == [acted])
        release.set()
        await crowd.have(134)
        assert [each.leads() for each in them].count(True) == 1
        assert other.leads()
        await crowd.end(hosted)


async def test_when_the_reader_leaves_another_one_reads_on(redis: RedisServer) -> None:
    async with crowded(130, redis.url, 3) as (_, hosted, them, crowd):
        for number in range(3):
            (leading,) = [each for each in them if each.leads()]
            at = them.index(leading)
            crowd.watching[at].cancel()  # its last viewer leaves
            await asyncio.wait({crowd.watching[at]})
            hosted.append(3)
            await eventually(lambda leading=leading: any(each.leads() for each in them if each is not leading))
            hosted.append(3)
            crowd.watching[at] = asyncio.create_task(crowd.viewers[at].watch(leading.gateway))
            await crowd.have(130 + 6 * (number + 1))
        await crowd.end(hosted)


async def test_who_comes_to_a_run_that_has_ended_is_told_so_by_the_one_who_reads(redis: RedisServer) -> None:
    host = FakeHost()
    hosted = host.add(status="COMPLETE")
    hosted.append(130)
    async with instances(host, redis.url, 2) as them:
        first, second = Viewer(), Viewer()
        await first.watch(them[0].gateway)
        await second.watch(them[1].gateway)
        assert first.texts() == second.texts() == hosted.encoded()
        assert first.ends == second.ends == [130]


@pytest.mark.parametrize("through", [0, 1])
async def test_a_resume_through_one_instance_reaches_the_viewers_of_all(redis: RedisServer, through: int) -> None:
    host = FakeHost()
    hosted = host.add()
    hosted.append(20)
    async with instances(host, redis.url, 2) as them:
        host.runs["1"].status = "COMPLETE"
        viewers = [Viewer(), Viewer()]
        await asyncio.gather(*(v.watch(each.gateway) for v, each in zip(viewers, them, strict=True)))
        assert [v.ends for v in viewers] == [[20], [20]]
        await them[through].gateway.resume(caller(), "9", "1", "on", None)
        hosted.status = "COMPLETE"  # it still says so
        back = [asyncio.create_task(v.watch(each.gateway, over=False)) for v, each in zip(viewers, them, strict=True)]
        await asyncio.sleep(1)
        assert [v.ends for v in viewers] == [[20], [20]]
        hosted.status = "ACTIVE"
        hosted.append(2)
        await eventually(lambda: all(v.cursor == 23 for v in viewers))
        hosted.status = "COMPLETE"
        async with asyncio.timeout(30):
            await asyncio.gather(*back)
        assert [v.ends for v in viewers] == [[20, 23], [20, 23]]


async def test_a_page_that_is_not_held_is_read_once_for_all_instances(redis: RedisServer) -> None:
    host = CountingHost()
    hosted = host.add()
    hosted.append(3000)
    async with instances(host, redis.url, 3) as them:
        crowd = Crowd(*(each.gateway for each in them))
        for viewer in crowd.viewers:
            assert viewer.cursor == 0
        await crowd.have(3000)
        assert [host.reads[after] for after in range(0, 2800, 100)] == [1] * 28
        await crowd.end(hosted)


async def test_a_log_that_is_replaced_is_so_for_the_viewers_of_all(redis: RedisServer) -> None:
    async with crowded(20, redis.url) as (_, hosted, _, crowd):
        hosted.replace(7)
        await crowd.have(7)
        assert [len(viewer.resyncs) for viewer in crowd.viewers] == [1, 1]
        hosted.append(3)
        await crowd.have(10)
        for viewer in crowd.viewers:
            viewer.resyncs.clear()
        await crowd.end(hosted)


@pytest.mark.parametrize("how", FAULTS)
async def test_while_redis_is_away_each_reads_for_itself_and_then_one_for_all(
    redis: RedisServer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "CALL_SECONDS", 1.0)
    host = FakeHost()
    hosted = host.add()
    hosted.append(130)
    growing = True

    async def grow() -> None:
        acted = []
        while growing:
            hosted.append(2)
            acted.append(hosted.act())
            if len(acted) > 2:
                hosted.amend(acted.pop(0), output="done")
            await asyncio.sleep(0.1)

    async with instances(host, redis.url, 3) as them:
        crowd = Crowd(*(each.gateway for each in them))
        await crowd.have(130)
        growth = asyncio.create_task(grow())
        await asyncio.sleep(1)
        await asyncio.to_thread(away, redis, how)
        if how not in PASSING:
            await eventually(lambda: not any(each.link.usable for each in them))
            length = len(hosted.entries)
            await eventually(lambda: all(viewer.cursor > length for viewer in crowd.viewers), 5)
        await asyncio.sleep(2)
        await asyncio.to_thread(back, redis, how)
        await eventually(lambda: all(each.link.usable for each in them))
        await eventually(lambda: [each.leads() for each in them].count(True) == 1)
        length = len(hosted.entries)
        await eventually(lambda: all(viewer.cursor > length for viewer in crowd.viewers))
        await asyncio.sleep(1)
        assert [each.leads() for each in them].count(True) == 1
        growing = False
        await growth
        await crowd.end(hosted)


async def test_a_start_without_redis_works_for_itself_until_it_is_there(redis: RedisServer) -> None:
    redis.kill()
    async with crowded(10, redis.url) as (_, hosted, them, crowd):
        assert [each.leads() for each in them] == [True, True]
        await asyncio.to_thread(redis.start)
        await eventually(lambda: [each.leads() for each in them].count(True) == 1)
        hosted.append(10)
        await crowd.have(20)
        await crowd.end(hosted)


async def test_entries_of_any_size_come_through(redis: RedisServer) -> None:
    async with crowded(3, redis.url) as (_, hosted, them, crowd):
        hosted.append(7, text="x" * 700_000)
        hosted.append(30, text="x" * 3_000)
        await crowd.have(40)
        assert [each.leads() for each in them].count(True) == 1
        await crowd.end(hosted)


@pytest.mark.parametrize(
    "garbage",
    ["", "items", "items a 1-0", "looked  0-0 0-0\n[", "wanted\n{}", "\x00", '["them", "9", "1", "unheard of"]'],
)
async def test_what_nobody_understands_is_passed_over(redis: RedisServer, garbage: str) -> None:
    async with crowded(3, redis.url) as (_, hosted, them, crowd):
        relay = next(iter(them[0].broker._relays.values()))
        for channel in (relay.keys.news, orders_channel(them[0].link.prefix)):
            redis.ask("PUBLISH", channel, garbage)
        await asyncio.sleep(1)
        hosted.append(3)
        await crowd.have(6)
        await eventually(lambda: [each.leads() for each in them].count(True) == 1)
        await crowd.end(hosted)


async def test_who_follows_later_hears_of_a_resume_before(redis: RedisServer) -> None:
    host = FakeHost()
    hosted = host.add(status="COMPLETE")
    hosted.append(20)
    async with instances(host, redis.url, 2) as them:
        viewer = await shown(them[0].gateway)
        await asyncio.sleep(0.5)  # nobody follows it now
        await them[0].gateway.resume(caller(), "9", "1", "on", None)
        hosted.status = "COMPLETE"  # it still says so
        watching = asyncio.create_task(viewer.watch(them[1].gateway))
        await asyncio.sleep(1)
        assert viewer.ends == [20]
        hosted.status = "ACTIVE"
        hosted.append(1)
        await eventually(lambda: viewer.cursor == 22)
        hosted.status = "COMPLETE"
        async with asyncio.timeout(30):
            await watching
        assert viewer.ends == [20, 22]


async def test_trouble_with_the_host_is_told_to_the_viewers_of_all(redis: RedisServer) -> None:
    async with crowded(3, redis.url) as (host, hosted, them, crowd):
        (leading,) = [each for each in them if each.leads()]

        async def fail(operation: str) -> None:
            if operation == "log":
                raise UpstreamError

        leading.host.before = fail
        await eventually(lambda: all(viewer.notices == ["upstream_unavailable"] for viewer in crowd.viewers))
        leading.host.before = host.before
        hosted.append(3)
        await crowd.have(6)
        await eventually(lambda: all(viewer.notices[-1] == "recovered" for viewer in crowd.viewers))
        await crowd.end(hosted)


@pytest.mark.parametrize("lapses", [False, True])
async def test_nothing_of_a_log_stays_longer_than_it_may(redis: RedisServer, *, lapses: bool) -> None:
    async with crowded(30, redis.url, keep=1 if lapses else 100) as (_, hosted, _, crowd):
        await crowd.end(hosted)

        def names() -> set[bytes]:
            return {name.rpartition(b":")[2] for name in redis.ask("KEYS", "*run.1*")}

        await eventually(lambda: names() == (set() if lapses else {b"stream", b"head"}))


def documented_commands() -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    (said,) = re.findall(r"^ACL SETUSER gateway (.*)$", text, re.MULTILINE)
    return re.findall(r"\+(\w+)", said)


async def works_for(server: RedisServer, commands: list[str]) -> bool:
    """Whether a user with these rights can relay all kinds of things."""
    server.ask("ACL", "SETUSER", "relay", "reset", "on", ">relay-password", "~codegen_api:*", "&codegen_api:*")
    server.ask("ACL", "SETUSER", "relay", *(f"+{command.lower()}" for command in commands))
    server.empty()
    async with crowded(330, server.url_of("relay", "relay-password")) as (_, hosted, them, crowd):
        acted = hosted.act()
        await crowd.have(331)
        hosted.amend(acted, output="done")
        await eventually(lambda: all(viewer.amended == [acted] for viewer in crowd.viewers))
        await them[0].gateway.cancel(caller(), "9", "1")
        await them[1].gateway.resume(caller(), "9", "1", "on", None)
        hosted.append(3)
        await crowd.have(335)
        usable = all(each.link.usable for each in them) and [each.leads() for each in them].count(True) == 1
        await crowd.end(hosted)
        return usable and all(each.notes.redis == [True] for each in them)


async def test_a_user_who_may_do_what_the_documentation_says_can_relay(redis: RedisServer) -> None:
    assert await works_for(redis, documented_commands())


async def test_who_may_not_listen_reads_for_itself(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    commands = [f"+{command.lower()}" for command in documented_commands() if command != "subscribe"]
    redis.ask("ACL", "SETUSER", "deaf", "on", ">deaf-password", "~codegen_api:*", "&codegen_api:*", *commands)
    async with crowded(3, redis.url_of("deaf", "deaf-password")) as (_, hosted, them, crowd):
        hosted.append(3)
        await crowd.have(6)
        assert [each.leads() for each in them] == [True, True]
        await crowd.end(hosted)
    assert "cannot receive from other instances through Redis: NoPermissionError" in caplog.text
