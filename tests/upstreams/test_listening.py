"""Listening to an answer that lasts, over every transport that an adapter can be given."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from codegen_api import errors
from codegen_api.outbound import LONGEST_LINE
from codegen_api.upstreams.over_http import HttpUpstream

from .asking import CREDENTIAL
from .conftest import Connect
from .rawhost import ANSWERED, Conversation, RawHost, Script, answer, raw_host, saying, silence, unused_port

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def listening(upstream: HttpUpstream) -> AsyncGenerator[bytes, None]:
    return upstream.listen(CREDENTIAL, "changes", "/events", {"after": 3})


def with_host(
    connect: Connect, script: Script, test: Callable[[HttpUpstream, RawHost], Awaitable[None]], **more: float
) -> None:
    async def play() -> None:
        async with asyncio.timeout(ANSWERED), raw_host(script) as host:
            upstream = connect(host.url, **more)
            try:
                await test(upstream, host)
            finally:
                await upstream.aclose()

    asyncio.run(play())


def test_the_data_of_each_event_is_heard_however_it_is_cut(connect: Connect) -> None:
    pieces = (b"data: o", b"ne\r\nid: 1\n\n: sign of life\n\ndata", b": two\n", b"\ndata:three\n\n")

    async def test(upstream: HttpUpstream, host: RawHost) -> None:
        assert [line async for line in listening(upstream)] == [b"", b"one", b"two", b"three"]
        (request,) = host.requests
        assert request.line == "GET /v1/events?after=3 HTTP/1.1"
        assert request.headers["accept"] == "text/event-stream"
        assert request.headers["accept-encoding"] == "identity"

    with_host(connect, saying(HEAD, *map(chunk, pieces), LAST), test)


def test_silence_between_two_events_is_no_fault(connect: Connect) -> None:
    async def slow(conversation: Conversation) -> None:
        await asyncio.sleep(0.5)
        await conversation.say(HEAD, chunk(b"data: 1\n\n"))
        await asyncio.sleep(0.5)
        await conversation.say(chunk(b"data: 2\n\n"), LAST)

    async def test(upstream: HttpUpstream, _: RawHost) -> None:
        assert [line async for line in listening(upstream)] == [b"", b"1", b"2"]

    with_host(connect, slow, test, connect_timeout=0.1, read_timeout=0.1)


def test_of_a_long_line_only_the_beginning_is_kept(connect: Connect) -> None:
    long = b"data: " + b"x" * (3 * LONGEST_LINE) + b"\n\ndata: next\n\n"

    async def test(upstream: HttpUpstream, _: RawHost) -> None:
        lines = [line async for line in listening(upstream)]
        assert [len(line) for line in lines] == [0, LONGEST_LINE - len(b"data: "), 4]

    with_host(connect, saying(HEAD, chunk(long), LAST), test)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (saying(answer(b'{"detail":"No"}', status="404 Not Found")), errors.NotFound),
        (saying(answer(b'{"detail":"No"}', status="401 Unauthorized")), errors.InvalidToken),
        (saying(answer(b"<p>Sorry</p>", status="503 Unavailable", kind="text/html")), errors.UpstreamError),
        (saying(answer(b"<p>Hello</p>", kind="text/html")), errors.UpstreamError),
        (saying(b""), errors.UpstreamUnreachable),
    ],
)
def test_an_answer_that_is_no_stream_is_a_fault(
    connect: Connect, script: Script, kind: type[errors.GatewayError]
) -> None:
    async def test(upstream: HttpUpstream, _: RawHost) -> None:
        with pytest.raises(kind) as raised:
            await anext(listening(upstream))
        assert "GET http://127.0.0.1" in str(raised.value.reason)
        assert upstream.observation is not None
        assert upstream.observation.reachable == (kind in (errors.NotFound, errors.InvalidToken))

    with_host(connect, script, test)


def test_a_stream_that_breaks_off_says_so(connect: Connect) -> None:
    async def test(upstream: HttpUpstream, _: RawHost) -> None:
        lines = listening(upstream)
        assert [await anext(lines), await anext(lines)] == [b"", b"1"]
        with pytest.raises(errors.AnswerCut):
            await anext(lines)

    with_host(connect, saying(HEAD, chunk(b"data: 1\n\n")), test)


def test_nobody_listens_at_a_host_that_is_not_there(connect: Connect) -> None:
    async def test(_: HttpUpstream, __: RawHost) -> None:
        upstream = connect(f"http://127.0.0.1:{unused_port()}")
        with pytest.raises(errors.UpstreamUnreachable) as raised:
            await anext(listening(upstream))
        assert not raised.value.may_have_acted
        await upstream.aclose()
        with pytest.raises(errors.UpstreamUnreachable):
            await anext(listening(upstream))

    with_host(connect, silence, test)


@pytest.mark.parametrize("begun", [False, True])
def test_who_stops_listening_closes_the_connection(connect: Connect, *, begun: bool) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def watch(conversation: Conversation) -> None:
        asked.set()
        if begun:
            await conversation.say(HEAD, chunk(b"data: 1\n\n"))
        await conversation.reader.read()
        closed.set()

    async def test(upstream: HttpUpstream, _: RawHost) -> None:
        async with aclosing(listening(upstream)) as lines:
            if begun:
                assert [await anext(lines), await anext(lines)] == [b"", b"1"]
            waiting = asyncio.ensure_future(anext(lines))
            await asked.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await closed.wait()

    with_host(connect, watch, test)


def test_listening_takes_no_connection_from_those_who_ask(connect: Connect) -> None:
    async def script(conversation: Conversation) -> None:
        if "/events" in conversation.request.line:
            await conversation.say(HEAD, chunk(b"data: 1\n\n"))
            await silence(conversation)
        await conversation.say(answer(b'{"id":7}'))

    async def test(upstream: HttpUpstream, host: RawHost) -> None:
        async with aclosing(listening(upstream)) as lines:
            await anext(lines)
            assert await upstream.ask(CREDENTIAL, "x", "GET", "/x", lambda said: said) == {"id": 7}
        assert host.connections == 2

    with_host(connect, script, test)
