import asyncio
import gc
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_api.errors import InvalidCursor
from codegen_api.following import Position
from codegen_api.http.delivery import WRITE_BYTES
from codegen_api.http.sse import HEARTBEAT, EventStream, frame, line, parse_position, retry, with_heartbeats
from codegen_api.runs import to_json
from codegen_api.telemetry import Trace, note, trace
from tests.dialects.eventsource import Early, parse
from tests.test_runs import as_sent, values
from tests.virtual import run

pytestmark = pytest.mark.virtual_time

names = st.sampled_from(["status", "log", "log.amended", "notice", "resync", "failure", "end"])
ids = st.none() | st.integers(0, 10**18) | st.integers(0, 10**18).map(lambda n: f"{n}.end")


async def test_each_silence_is_said_and_nothing_is_lost_by_it() -> None:
    closed = []

    async def slow(*seconds: float) -> AsyncGenerator[float, None]:
        try:
            for each in seconds:
                await asyncio.sleep(each)
                yield each
        finally:
            closed.append(seconds)

    assert [each async for each in with_heartbeats(slow(1, 7, 2), 3)] == [1, None, None, 7, 2]
    async with aclosing(with_heartbeats(slow(1, 7, 2), 3)) as left:
        assert [await anext(left), await anext(left)] == [1, None]
    assert closed == [(1, 7, 2)] * 2


async def test_signs_of_life_that_the_source_gives_itself_are_passed_on() -> None:
    async def source() -> AsyncGenerator[int | None, None]:
        for item in (None, 1, None, 2):
            yield item

    assert [each async for each in with_heartbeats(source(), 3)] == [None, 1, None, 2]


async def test_what_goes_wrong_behind_a_silence_is_told() -> None:
    async def failing() -> AsyncGenerator[int, None]:
        await asyncio.sleep(4)
        raise InvalidCursor
        yield 1

    with pytest.raises(InvalidCursor):
        _ = [each async for each in with_heartbeats(failing(), 3)]


@pytest.mark.wire("stream-events")
@given(st.lists(st.tuples(names, values, ids), max_size=5))
def test_no_text_breaks_the_frame_it_stands_in(events: list[tuple[str, Any, Any]]) -> None:
    sent = b"".join(frame(name, to_json(value), id_) + HEARTBEAT for name, value, id_ in events)
    last = ""
    assert len(sent.decode().splitlines()) == sent.count(b"\n")
    received = parse(retry(2000) + sent)
    assert len(received) == len(events)
    for (name, value, id_), event in zip(events, received, strict=True):
        last = last if id_ is None else str(id_)
        assert event.type == name
        assert "\n" not in event.data
        assert json.loads(event.data) == as_sent(value)
        assert event.last_event_id == last
        assert event.retry == 2000


@pytest.mark.wire("ndjson")
@given(names, values, ids)
def test_no_text_breaks_the_line_it_stands_in(name: str, value: Any, id_: Any) -> None:
    sent = line(name, to_json(value), id_)
    assert len(sent.decode().splitlines()) == sent.count(b"\n") == 1
    assert sent.endswith(b"\n")
    assert b"\r" not in sent
    assert json.loads(sent) == {"event": name, "id": None if id_ is None else str(id_), "data": as_sent(value)}


@pytest.mark.wire("stream-frames")
def test_who_remembers_an_id_before_its_frame_is_whole_loses_nothing_at_a_cut() -> None:
    """But for a cut between the last two line ends: no order of lines helps there."""
    frames = [frame("log", to_json({"n": n}), n) for n in (1, 2, 3)]
    stream = b"".join(frames)
    lost = []
    for place in range(len(stream) + 1):
        client = Early()
        client.read(stream[:place])
        client.cut()
        client.read(b"".join(frames[int(client.last or 0) :]))
        if [event.last_event_id for event in client.told] != ["1", "2", "3"]:
            lost.append(place)
    assert lost == [len(b"".join(frames[: n + 1])) - 1 for n in range(3)]


def test_every_awkward_character_survives_the_way() -> None:
    text = "a\rb\nc\r\nd\0e\u2028f\u2029g\x85h\ufeffi\ud800j\U0001f600: data: x\n\nevent: y"
    (event,) = parse(frame("log", to_json({"t": text}), 1))
    assert json.loads(event.data) == {"t": text}


@pytest.mark.wire("position-form")
@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("0", Position(0)),
        ("25", Position(25)),
        ("025", Position(25)),
        ("25.end", Position(25, over=True)),
        ("0.end", Position(0, over=True)),
        (" 25 ", Position(25)),
        ("9" * 18, Position(10**18 - 1)),
    ],
)
def test_a_position_is_a_number_with_or_without_its_end(text: str, position: Position) -> None:
    assert parse_position(text) == position


@pytest.mark.wire("position-form")
@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "+1", "1.5", "25.END", "25.", ".end", "25.end.end", "0x1", "1_0", "٢٥", "²", "9" * 19, "a", "2 5"],
)
def test_anything_else_is_no_position(text: str) -> None:
    with pytest.raises(InvalidCursor):
        parse_position(text)


@given(st.text(max_size=25))
def test_no_text_at_all_makes_the_reading_of_a_position_fail_otherwise(text: str) -> None:
    try:
        position = parse_position(text)
    except InvalidCursor:
        return
    assert 0 <= position.cursor < 10**18


class Client:
    """The other end of a connection: takes what is sent, unless ``stuck``, and may leave."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.aborted = 0
        self.waiting: list[int | None] = []
        self.stuck = asyncio.Event()
        self.stuck.set()
        self.gone = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.stuck.wait()
        self.sent.append(message)

    async def receive(self) -> Any:
        if self.gone.is_set():
            return {"type": "http.disconnect"}
        await self.gone.wait()
        return {"type": "http.request"}  # whatever comes first, it is not a goodbye

    def abort(self) -> None:
        self.aborted += 1

    def unsent(self) -> int | None:
        """How much waits, by a script: it shrinks for as long as there is some of it left."""
        return self.waiting.pop(0) if self.waiting else 0

    def limit_kernel_buffer(self) -> None:
        pass

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


class Source:
    """Frames, and whether their generator was closed."""

    def __init__(self, make: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        self._make = make
        self.closed = False

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._make()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.closed = True

    async def aclose(self) -> None:
        self.closed = True


async def answer(source: Source, client: Client, stall_seconds: float = 30) -> None:
    headers = {"Cache-Control": "no-cache"}
    response = EventStream(source.frames(), "text/event-stream", headers, stall_seconds, source)
    await response({"connection": client}, client.receive, client.send)


async def two() -> AsyncGenerator[bytes, None]:
    yield b"one"
    await asyncio.sleep(5)
    yield b"two"


async def endless() -> AsyncGenerator[bytes, None]:
    while True:
        yield b"x" * 1000
        await asyncio.sleep(1)


async def test_a_stream_goes_out_piece_by_piece_and_is_then_complete() -> None:
    client, source = Client(), Source(two)
    answering = asyncio.create_task(answer(source, client))
    await asyncio.sleep(1)
    assert client.sent[0]["status"] == 200
    assert (b"content-type", b"text/event-stream") in [
        (name, value.split(b";")[0]) for name, value in client.sent[0]["headers"]
    ]
    assert b"content-length" not in dict(client.sent[0]["headers"])
    assert client.body == b"one"
    await answering
    assert client.body == b"onetwo"
    assert [message["more_body"] for message in client.sent[1:]] == [True, True, False]
    assert source.closed
    assert not client.aborted


@pytest.mark.wire("stream-stall")
async def test_nothing_larger_than_64_kib_is_written_at_once() -> None:
    async def large() -> AsyncGenerator[bytes, None]:
        yield b"ab" * (3 * WRITE_BYTES // 2) + b"!"

    client, source = Client(), Source(large)
    await answer(source, client)
    assert [len(message["body"]) for message in client.sent[1:]] == [WRITE_BYTES] * 3 + [1, 0]
    assert client.body == b"ab" * (3 * WRITE_BYTES // 2) + b"!"


@pytest.mark.wire("stream-stall")
async def test_a_client_who_takes_nothing_is_cut_after_the_time_given_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    client, source = Client(), Source(endless)
    answering = asyncio.create_task(answer(source, client, stall_seconds=30))
    await asyncio.sleep(10.5)
    client.stuck.clear()
    stuck_at = loop.time()
    await answering
    assert client.aborted == 1
    assert 30 <= loop.time() - stuck_at <= 31
    assert source.closed


@pytest.mark.wire("stream-stall")
def test_a_client_who_does_not_even_take_the_head_is_cut() -> None:
    async def main() -> None:
        client, source = Client(), Source(endless)
        client.stuck.clear()
        await answer(source, client, stall_seconds=30)
        assert client.aborted == 1
        assert source.closed

    run(main(), at_most=120)


async def test_a_client_who_takes_a_little_now_and_then_is_not_cut() -> None:
    client, source = Client(), Source(endless)
    answering = asyncio.create_task(answer(source, client, stall_seconds=30))
    for _ in range(10):
        client.stuck.clear()
        await asyncio.sleep(25)
        client.stuck.set()
        await asyncio.sleep(2)
    assert not client.aborted
    client.gone.set()
    await answering


async def test_when_the_client_leaves_the_source_is_closed_at_once() -> None:
    client, source = Client(), Source(endless)
    answering = asyncio.create_task(answer(source, client))
    await asyncio.sleep(3.5)
    client.gone.set()
    await answering
    assert asyncio.get_running_loop().time() == pytest.approx(3.5)
    assert source.closed
    assert not client.aborted


@pytest.mark.parametrize(("noted", "ending"), [(None, "cut"), ("store_unavailable", "store_unavailable")])
async def test_when_the_source_fails_it_is_closed_and_the_error_comes_out(noted: str | None, ending: str) -> None:
    async def failing() -> AsyncGenerator[bytes, None]:
        yield b"one"
        if noted is not None:
            note(noted, None)
        raise LookupError("broken")

    client, source, current = Client(), Source(failing), Trace("1")
    trace.set(current)
    with pytest.raises(LookupError):
        await answer(source, client)
    assert source.closed
    assert client.sent[-1]["more_body"]
    assert current.ending == ending


async def test_when_the_server_cancels_the_answer_the_source_is_closed() -> None:
    client, source = Client(), Source(endless)
    answering = asyncio.create_task(answer(source, client))
    await asyncio.sleep(3.5)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert source.closed


async def test_a_source_that_was_never_asked_is_closed_as_well() -> None:
    client, source = Client(), Source(two)
    client.gone.set()
    client.stuck.clear()
    await answer(source, client)
    del source
    gc.collect()  # a generator left open would complain here


@pytest.mark.wire("stream-stall")
async def test_a_client_who_takes_little_at_a_time_is_not_cut() -> None:
    client, source = Client(), Source(two)
    client.stuck.clear()
    client.waiting = [500, 400, 400, 300, 300, 200]  # seen at the start and at the end of each wait
    answering = asyncio.create_task(answer(source, client, stall_seconds=30))
    await asyncio.sleep(80)
    assert not client.aborted
    client.stuck.set()
    await answering
    assert client.body == b"onetwo"


@pytest.mark.wire("stream-stall")
async def test_where_nobody_can_tell_what_a_client_takes_the_time_alone_counts() -> None:
    client, source = Client(), Source(endless)
    client.waiting = [None, None]
    client.stuck.clear()
    await answer(source, client, stall_seconds=30)
    assert client.aborted == 1
