"""What a viewer of a live log costs, at the server's own connection: counts of what takes time and memory."""

import asyncio
import cProfile
import json
import pstats
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from codegen_api.dialects.native import wire
from codegen_api.http.edge import Edge
from tests.dialects.eventsource import parse
from tests.dialects.site import Site, serving
from tests.fakehost import FakeHost, Hosted
from tests.test_http1 import Transport, connected

pytestmark = pytest.mark.virtual_time

GET = b"GET /agent-runs/1%s HTTP/1.%d\r\nHost: localhost\r\nAuthorization: Bearer alice\r\n\r\n"
STREAM = GET % (b"/logs/stream", 1)
STALL = 20.0


class Socket(Transport):
    """A connection that counts what is written at once, and may take nothing for a while."""

    def __init__(self, descriptor: Any = None) -> None:
        super().__init__(descriptor)
        self.pieces: list[bytes] = []
        self.unsent = 0

    def write(self, data: Any) -> None:
        super().write(data)
        self.pieces.append(data)

    def abort(self) -> None:
        self.close()

    def get_write_buffer_size(self) -> int:
        return self.unsent

    @property
    def writes(self) -> int:
        """How many pieces with entries there were."""
        return sum(b"event: log" in piece for piece in self.pieces)

    @property
    def numbers(self) -> list[int]:
        """The positions of the entries that it has got, in order."""
        return [json.loads(event.data)["position"] for event in parse(self.body) if event.type == "log"]

    @property
    def body(self) -> bytes:
        """That of its first answer, as far as it has come."""
        head, _, rest = self.written.partition(b"\r\n\r\n")
        if b"chunked" not in head:
            return rest
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if not int(size, 16):
                break
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return body


@asynccontextmanager
async def gateway() -> AsyncIterator[tuple[Site, Hosted]]:
    host = FakeHost()
    hosted = host.add("1")
    settings: dict[str, Any] = {"stream_stall_seconds": STALL, "upstream_requests_per_minute": 100_000}
    async with serving(host, org_id="9", **settings) as site:
        yield site, hosted
        site.edge.cancel_requests()
        await asyncio.sleep(0.1)


def opened(site: Site, request: bytes = STREAM, app: Any = None) -> Socket:
    transport, feed = connected(app or site.app)
    socket = Socket()
    socket.protocol = transport.protocol
    transport.protocol.transport = socket
    transport.protocol.flow._transport = socket
    feed(request)
    return socket


async def viewers(site: Site, count: int) -> list[Socket]:
    there = [opened(site) for _ in range(count)]
    await asyncio.sleep(20)  # a first heartbeat is within
    assert site.app.state.parts.gateway.viewers == count
    return there


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not ready():  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)


def noted_encodings(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The positions of the entries that are encoded from now on."""
    encoded: list[int | None] = []
    entry_json = wire.entry_json

    def noting(json: bytes, position: int | None) -> bytes:
        encoded.append(position)
        return entry_json(json, position)

    monkeypatch.setattr(wire, "entry_json", noting)
    return encoded


def waiting() -> tuple[int, int]:
    """How many tasks there are, and timers."""
    loop: Any = asyncio.get_running_loop()
    return len(asyncio.all_tasks()), sum(not timer.cancelled() for timer in loop._scheduled)


@pytest.mark.parametrize("count", [2, 20])
async def test_a_viewer_to_whom_nothing_happens_has_no_task_and_no_timer(count: int) -> None:
    async with gateway() as (site, _):
        await viewers(site, 1)
        alone = waiting()
        there = [opened(site) for _ in range(count)]
        await asyncio.sleep(20)
        assert waiting() == alone
        assert all(b":\n\n" in socket.body for socket in there)


async def test_a_viewer_to_whom_nothing_happens_costs_few_calls_for_a_heartbeat_and_none_for_a_reading() -> None:
    """Counted: what calls there are beside 40 viewers more than beside 20, in the same time."""
    costs: list[tuple[int, int]] = []
    for count in (20, 40):
        async with gateway() as (site, _):
            there = await viewers(site, count)
            await asyncio.sleep(60)
            beats = -sum(len(socket.pieces) for socket in there)
            profile = cProfile.Profile()
            profile.enable()
            await asyncio.sleep(150)
            profile.disable()
            beats += sum(len(socket.pieces) for socket in there)
            costs.append((beats, pstats.Stats(profile).total_calls))  # type: ignore[attr-defined]
    (few, before), (many, after) = costs
    assert (few, many) == (200, 400)
    assert (after - before) / (many - few) < 50


async def test_an_entry_is_encoded_once_and_written_once_to_each_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = noted_encodings(monkeypatch)
    made: Counter[str] = Counter()
    async with gateway() as (site, hosted):
        there = await viewers(site, 20)
        hosted.append()
        await until(lambda: there[-1].writes == 1)
        loop: Any = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine: made.update(["task"]) or asyncio.Task(coroutine, loop=loop))
        for name in ("call_at", "create_future"):
            call = getattr(loop, name)
            monkeypatch.setattr(
                loop, name, lambda *given, call=call, name=name, **more: made.update([name]) or call(*given, **more)
            )
        quiet = Counter[str]()
        for growth in (0, 1):
            encoded.clear()
            made.clear()
            hosted.append(growth)
            await asyncio.sleep(3)
            quiet = quiet or Counter(made)
        loop.set_task_factory(None)
        assert encoded == [2]
        assert [socket.writes for socket in there] == [2] * 20
        # a read more or less of the host, and nothing for each of the twenty
        assert all(made[name] - quiet[name] < 15 for name in made)


async def test_many_entries_at_once_are_encoded_once_and_written_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway() as (site, hosted):
        there = await viewers(site, 5)
        encoded = noted_encodings(monkeypatch)
        hosted.append(100)
        await until(lambda: there[-1].writes > 0)
        assert encoded == list(range(1, 101))
        assert [socket.writes for socket in there] == [1] * 5
        assert all(socket.numbers == encoded for socket in there)


@pytest.mark.wire("stream-stall")
async def test_who_takes_nothing_gets_the_rest_in_order_once_they_do_and_is_cut_if_they_do_not() -> None:
    async with gateway() as (site, hosted):
        slow, stuck, quick = await viewers(site, 3)
        for socket in (slow, stuck):
            socket.unsent = 1000
            socket.protocol.pause_writing()
        hosted.append(30)
        await until(lambda: len(quick.numbers) == 30)
        await asyncio.sleep(STALL - 5)
        assert (len(slow.numbers), len(stuck.numbers), len(quick.numbers)) == (0, 0, 30)
        slow.unsent = 0
        slow.protocol.resume_writing()
        hosted.append(5)
        await until(lambda: len(quick.numbers) == 35)
        await asyncio.sleep(STALL)
        assert slow.numbers == quick.numbers == list(range(1, 36))
        assert stuck.is_closing()
        assert not slow.is_closing()
        assert site.app.state.parts.gateway.viewers == 2


async def test_who_takes_nothing_is_cut_whatever_is_put_around_the_application() -> None:
    async with gateway() as (site, hosted):

        async def around(scope: Any, receive: Any, send: Any) -> None:
            async def passed_on(message: Any) -> None:
                await send(message)

            await site.app(scope, receive, passed_on)

        socket = opened(site, app=around)
        await asyncio.sleep(5)
        socket.unsent = 1000
        socket.protocol.pause_writing()
        hosted.append(3)
        await asyncio.sleep(STALL + 10)
        assert socket.is_closing()
        assert site.app.state.parts.gateway.viewers == 0


@pytest.mark.parametrize("at_once", [False, True])
async def test_behind_a_stream_the_connection_serves_the_next_request(at_once: bool) -> None:
    async with gateway() as (site, hosted):
        socket = opened(site)
        hosted.append(3)
        await asyncio.sleep(5)
        if at_once:
            socket.protocol.data_received(GET % (b"", 1))
            await asyncio.sleep(5)
            assert b'"run_status"' not in socket.written.partition(b"event: end")[2]
        hosted.status = "COMPLETE"
        await asyncio.sleep(20)
        assert socket.numbers == [1, 2, 3]
        if not at_once:
            assert socket.written.endswith(b"\r\n0\r\n\r\n")
            socket.protocol.data_received(GET % (b"", 1))
            await asyncio.sleep(1)
        stream, _, answer = socket.written.partition(b"\r\n0\r\n\r\n")
        assert stream.count(b"event: end") == 1
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"}")
        assert not socket.is_closing()


async def test_a_stream_over_http_1_0_has_no_chunks_and_ends_with_the_connection() -> None:
    async with gateway() as (site, hosted):
        socket = opened(site, GET % (b"/logs/stream", 0))
        hosted.complete(3)
        await asyncio.sleep(20)
        assert socket.numbers == [1, 2, 3]
        assert parse(socket.body)[-1].type == "end"
        assert socket.is_closing()


async def test_who_leaves_is_no_viewer_any_more_and_is_logged() -> None:
    async with gateway() as (site, _):
        there = await viewers(site, 2)
        there[0].close()
        await asyncio.sleep(0.1)
        assert site.app.state.parts.gateway.viewers == 1


async def test_a_stream_that_is_still_there_when_the_process_stops_is_cut() -> None:
    async with gateway() as (site, _):
        (socket,) = await viewers(site, 1)
        edge: Edge = site.edge
        edge.cancel_requests()
        await asyncio.sleep(0.1)
        assert socket.is_closing()
        assert not socket.written.endswith(b"0\r\n\r\n")
        assert site.app.state.parts.gateway.viewers == 0
