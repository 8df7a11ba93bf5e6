"""What is read of a connection and written to it, below the application. As a process it is in tests/end_to_end."""

import asyncio
import http.client
import io
import json
import re
import resource
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from fastapi.routing import APIRoute
from uvicorn.server import ServerState

from codegen_api.program.http1 import HEAD_SECONDS, MAX_UNREAD, RESERVE, StrictHttpProtocol
from codegen_api.program.serve import _uvicorn_options
from tests import virtual
from tests.dialects.routes import EVERY, filled, methods, routes
from tests.dialects.site import gateway_app, refusal, settings
from tests.fakehost import FakeHost

# -- heads that do not end --------------------------------------------------------------------------------------------


class Transport(asyncio.Transport):
    """A connection that takes everything, and knows whether it was closed."""

    def __init__(self, descriptor: Any = None) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.written = b""
        self.closed_at: float | None = None
        self.protocol: Any = None

    def get_protocol(self) -> Any:
        return self.protocol

    def write(self, data: Any) -> None:
        assert self.closed_at is None
        self.written += data

    def close(self) -> None:
        if self.closed_at is None:
            loop = asyncio.get_running_loop()
            self.closed_at = loop.time()
            loop.call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closed_at is not None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.descriptor if name == "socket" else default


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads all of a request, and takes a while for /slow."""
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(1000)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def connected(app: Any = answer, descriptor: Any = None, **given: Any) -> tuple[Transport, Callable[[bytes], None]]:
    config = uvicorn.Config(app, **{**_uvicorn_options(settings(**given)), "log_config": None})
    config.load()
    transport = Transport(descriptor)
    transport.protocol = StrictHttpProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    transport.protocol.connection_made(transport)
    return transport, transport.protocol.data_received


async def answers(transport: Transport) -> list[tuple[int, dict[str, str], Any]]:
    """All that was answered, once the connection is closed: status, headers, and the body, or what an error tells."""
    while not transport.is_closing():  # noqa: ASYNC110 - bounded by `run`
        await asyncio.sleep(0.001)
    found, rest = [], io.BytesIO(transport.written)
    while line := rest.readline():
        if line.startswith(b"HTTP/1.1 100"):
            rest.readline()
            continue
        headers = {name.lower(): value for name, value in http.client.parse_headers(rest).items()}
        body = rest.read(int(headers["content-length"]))
        status = int(line.split()[1])
        found.append((status, headers, json.loads(body) if status < 400 else refusal(status, headers, body)))
    return found


HEAD = b"GET / HTTP/1.1\r\nHost: gateway\r\n"
CREATE = (
    b"POST /agent-runs HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer alice\r\nContent-Type: application/json\r\n"
    b"X-Organization-ID: 9\r\n"
)
CHUNKED = b"POST / HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.wire("head-limit", "error-shape", "request-id")
@pytest.mark.parametrize(
    ("begun", "more", "status"),
    [
        (b"GET /", b"u" * 8192, 431),
        (HEAD, b"n" * 8192, 431),
        (HEAD + b"X-Long: ", b"v" * 8192, 431),
        (HEAD, b"x-a: b\r\n" * 1024, 431),
        (b"", b"\r\n" * 4096, 431),
        (b"", b"M" * 8192, 400),
        (HEAD + b"Content-Length: x\r\n\r\n", b"", 400),
    ],
)
@pytest.mark.virtual_time
async def test_a_head_that_does_not_end_is_refused_and_the_connection_closed(
    begun: bytes, more: bytes, status: int
) -> None:
    transport, feed = connected()
    feed(begun)
    fed = len(begun)
    while not transport.is_closing():
        feed(more)
        fed += len(more)
        assert fed <= MAX_UNREAD + 8192
    head, _, body = transport.written.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    said = json.loads(body)
    assert (said["status_code"], said["request_id"]) == (status, headers["x-request-id"])
    assert said["code"] == {431: "headers_too_large", 400: "invalid_request"}[status]


@pytest.mark.parametrize("more", [b"x-a: b\r\n" * 1024, b"x-long: " + b"v" * 8192])
async def test_trailers_that_do_not_end_are_refused_and_the_connection_closed(more: bytes) -> None:
    transport, feed = connected(gateway_app())
    feed(CREATE + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n")
    for _ in range(MAX_UNREAD // len(more) + 1):
        assert not transport.is_closing()
        feed(more)
    ((status, headers, body),) = await answers(transport)
    assert (status, headers["connection"], body["code"]) == (400, "close", "invalid_request")


def test_a_body_may_be_as_long_as_the_application_takes_it() -> None:
    async def main() -> None:
        transport, feed = connected()
        feed(CHUNKED)
        for _ in range(100):
            feed(b"2000\r\n" + b"x" * 8192 + b"\r\n")
            await asyncio.sleep(HEAD_SECONDS)
        feed(b"0\r\n\r\n")
        await asyncio.sleep(1)
        assert transport.written.endswith(b"\r\n\r\nok")
        transport.close()

    virtual.run(main(), at_most=4000)


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.virtual_time
async def test_a_head_that_takes_too_long_closes_the_connection(before: int) -> None:
    transport, feed = connected()
    for _ in range(before):  # requests that were answered on this connection
        feed(HEAD + b"\r\n")
        await asyncio.sleep(1)
    begun = asyncio.get_running_loop().time()
    for piece in range(2 * int(HEAD_SECONDS)):
        if transport.is_closing():
            break
        feed(HEAD[piece : piece + 1] or b"x")
        await asyncio.sleep(1)
    assert transport.written.count(b"200 OK") == before
    assert transport.closed_at == begun + HEAD_SECONDS


@pytest.mark.parametrize(("given", "seconds"), [({}, 75), ({"keep_alive_seconds": 620}, 620)])
def test_a_connection_may_be_idle_for_longer_than_balancers_keep_one(given: dict[str, Any], seconds: float) -> None:
    async def main() -> None:
        for before in (0, 1, 2):  # requests that were answered on this connection
            transport, feed = connected(**given)
            for _ in range(before):
                feed(HEAD + b"\r\n")
                await asyncio.sleep(60)
            idle = asyncio.get_running_loop().time() - 60 * bool(before)
            await asyncio.sleep(seconds - 60 * bool(before) - 1)
            assert not transport.is_closing()
            await asyncio.sleep(2)
            assert transport.closed_at == idle + seconds
            assert transport.written.count(b"200 OK") == before

    virtual.run(main())


@pytest.mark.virtual_time
async def test_an_answer_may_take_as_long_as_it_likes() -> None:
    transport, feed = connected()
    feed(b"GET /slow HTTP/1.1\r\nHost: gateway\r\n\r\n")
    await asyncio.sleep(500)
    assert not transport.is_closing()
    await asyncio.sleep(501)
    assert transport.written.endswith(b"\r\n\r\nok")
    transport.close()


@pytest.mark.virtual_time
async def test_garbage_behind_a_request_does_not_disturb_its_answer_with_another() -> None:
    transport, feed = connected()
    feed(b"GET /slow HTTP/1.1\r\nHost: gateway\r\n\r\n")
    await asyncio.sleep(1)
    feed(b"\x00garbage\r\n\r\n")
    assert transport.is_closing()
    assert not transport.written
    await asyncio.sleep(1001)


# -- offers to upgrade ------------------------------------------------------------------------------------------------

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
OFFERS = {
    "HTTP/2, as Java offers it": H2C,
    "TLS": b"Upgrade: TLS/1.3\r\nConnection: upgrade\r\n",
    "a WebSocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "several at once": b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\nUpgrade: IRC/6.9\r\n",
}
BODY = b'{"prompt":"Say hello"}'
WITH_LENGTH = b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:])
CLOSING = b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"


@pytest.mark.wire("upgrade-passed-over")
@pytest.mark.parametrize("at_once", [1, 7, 10_000])
@pytest.mark.parametrize("body", [WITH_LENGTH, IN_CHUNKS])
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_an_offer_to_upgrade_is_passed_over_and_the_body_is_read(offer: bytes, body: bytes, at_once: int) -> None:
    transport, feed = connected(gateway_app())
    requests = CREATE + offer + body + CREATE + body + b"GET /users/me HTTP/1.1\r\nHost: gateway\r\n" + offer
    whole = requests + b"\r\n" + CLOSING
    for start in range(0, len(whole), at_once):
        feed(whole[start : start + at_once])
    said = await answers(transport)
    assert [status for status, _, _ in said] == [201, 201, 401, 503]
    assert said[0][2]["id"] != said[1][2]["id"]


def with_bodies() -> list[APIRoute]:
    return [route for route in routes() if route.body_field is not None]


@pytest.mark.wire("upgrade-passed-over")
async def test_every_route_of_every_dialect_reads_the_body_behind_an_offer() -> None:
    app = gateway_app(dialects=EVERY, org_id="9")
    assert len({route.path for route in with_bodies()}) > 30
    for route in with_bodies():
        (method,) = methods(route)
        told = []
        for offer in (b"", H2C):
            transport, feed = connected(app)
            path = filled(route.path, "1", "9")
            # a list is what no route takes, and says so; a body that is missing they would call missing
            feed(f"{method} {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer alice\r\n".encode())
            feed(offer + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n[]" + CLOSING)
            status, _, said = (await answers(transport))[0]
            told.append((status, re.sub("[0-9a-f]{32}", "", str(said))))
        assert told[0] == told[1], route.path
        assert "missing" not in told[1][1]


# -- heads and bodies that cannot be read, or say two things ----------------------------------------------------------

NAMED = b"Host: gateway\r\n"
SHOWN = b"Authorization: Bearer alice\r\n"
SENT = b"POST /agent-runs HTTP/1.1\r\n" + NAMED + SHOWN + b"Content-Type: application/json\r\n"
ASKED = b"GET /livez HTTP/1.1\r\n"
ODD = {
    "a chunk without a size": SENT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a second chunk without a size": SENT + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n",
    "a chunk below zero": SENT + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n",
    "a chunk of no end": SENT + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n",
    "a chunk longer than it says": SENT + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "a trailer that is none": SENT + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nno trailer\r\n\r\n",
    "a packed body": SENT + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "a packed body in chunks": SENT + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a packed body, said in two lines": SENT
    + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a body as it is": SENT + b"Transfer-Encoding: identity\r\n\r\n{}",
    "a coding that nobody knows": SENT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a packed body where none belongs": ASKED + NAMED + b"Transfer-Encoding: gzip\r\n\r\n",
    "a length and chunks": SENT + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": SENT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length twice": SENT + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": SENT + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": SENT + b"Content-Length: +2\r\n\r\n{}",
    "a length below zero": SENT + b"Content-Length: -2\r\n\r\n{}",
    "a length of two words": SENT + b"Content-Length: 1 2\r\n\r\n{}",
    "no length where one is said": SENT + b"Content-Length: \r\n\r\n{}",
    "no host": ASKED + b"\r\n",
    "two hosts": ASKED + NAMED + NAMED + b"\r\n",
    "two hosts under HTTP/1.0": b"GET /livez HTTP/1.0\r\n" + NAMED + NAMED + b"\r\n",
    "a host of two words": ASKED + b"Host: gate way\r\n\r\n",
    "a host with a user": ASKED + b"Host: alice@gateway\r\n\r\n",
    "a host with a path": ASKED + b"Host: gateway/livez\r\n\r\n",
    "a target on another host": b"GET http://evil.example/livez HTTP/1.1\r\n" + NAMED + b"\r\n",
    "a zero byte": ASKED + NAMED + b"X-A: a\x00b\r\n\r\n",
    "a folded line": ASKED + NAMED + b"X-A: a\r\n b\r\n\r\n",
    "a space before the colon": ASKED + NAMED + b"X-A : a\r\n\r\n",
    "no colon": ASKED + NAMED + b"XA\r\n\r\n",
    "a line of its own feeds": (ASKED + NAMED + b"\r\n").replace(b"\r\n", b"\n"),
    "a tunnel": b"CONNECT gateway:443 HTTP/1.1\r\n" + NAMED + b"\r\n",
    "a tunnel to a path": b"CONNECT /livez HTTP/1.1\r\n" + NAMED + b"\r\n",
    "a method of many letters": b"M" * 300 + b" /livez HTTP/1.1\r\n" + NAMED + b"\r\n",
    "a method in small letters": b"get /livez HTTP/1.1\r\n" + NAMED + b"\r\n",
    "a target that is no path": b"GET livez HTTP/1.1\r\n" + NAMED + b"\r\n",
    "a target with bytes of no text": b"GET /livez\xff HTTP/1.1\r\n" + NAMED + b"\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/1.2": b"GET /livez HTTP/1.2\r\n" + NAMED + b"\r\n",
    "HTTP/2 in words": b"GET /livez HTTP/2.0\r\n" + NAMED + b"\r\n",
    "HTTP/2 right away": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.wire("error-unreadable", "error-shape", "request-id")
@pytest.mark.parametrize("sent", ODD.values(), ids=ODD)
async def test_what_cannot_be_read_is_told_so_and_the_connection_closed(sent: bytes) -> None:
    site = FakeHost()
    transport, feed = connected(gateway_app(site, org_id="9"))
    feed(sent)
    ((status, headers, body),) = await answers(transport)
    assert (status, headers["connection"]) == (400, "close")
    assert (body["status_code"], body["code"]) == (400, "invalid_request")
    assert body["request_id"] == headers["x-request-id"]
    assert not site.calls["create"]


@pytest.mark.wire("error-unreadable")
async def test_what_is_unusual_and_clear_is_taken() -> None:
    for sent in (
        b"\r\n\r\n" + ASKED + NAMED + b"\r\n",
        ASKED + b"Host:\r\n\r\n",
        ASKED + b"Host: [::1]:8000\r\n\r\n",
        b"GET http://gateway/livez HTTP/1.1\r\n" + NAMED + b"\r\n",
        b"GET /livez HTTP/1.0\r\n\r\n",
        ASKED + NAMED + b"transfer-encoding:  Chunked \r\n\r\n1;name=value\r\nx\r\n0\r\nX-Trailer: x\r\n\r\n",
        ASKED + NAMED + b"Content-Length:  1 \r\n\r\nx",
    ):
        transport, feed = connected()
        feed(sent)
        await asyncio.sleep(0.01)
        assert transport.written.startswith(b"HTTP/1.1 200 OK"), sent
        transport.close()


@pytest.mark.wire("error-unreadable")
async def test_a_body_that_turns_bad_is_told_in_the_shape_of_the_dialect_that_it_was_for() -> None:
    shapes = {"/agent-runs": "error", "/threads": "detail", "/v1/organizations/9/agent/run": "message"}
    for path, key in shapes.items():
        transport, feed = connected(gateway_app(dialects=EVERY))
        head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer alice\r\n"
        feed(head.encode() + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.01)
        feed(b"zz\r\n")
        ((status, _, body),) = await answers(transport)
        assert (status, body[key]) == (400, "The body of the request cannot be read.")


async def test_what_comes_behind_a_body_is_no_header() -> None:
    transport, feed = connected(gateway_app())
    feed(CREATE.replace(b"alice", b"nobody") + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
    feed(b"2\r\n{}\r\n0\r\nAuthorization: Bearer alice\r\n\r\n")
    ((status, _, _),) = await answers(transport)
    assert status == 401


@pytest.mark.virtual_time
async def test_a_body_that_goes_on_after_its_answer_is_not_waited_for_for_ever() -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    transport, feed = connected(early)
    feed(HEAD + b"Content-Length: 1000000000\r\n\r\n")
    await asyncio.sleep(1)
    while not transport.is_closing():
        feed(b"x" * 8192)
        await asyncio.sleep(1)
    assert transport.closed_at == 1 + HEAD_SECONDS


# -- answers to HTTP/1.0 ----------------------------------------------------------------------------------------------


@pytest.mark.wire("http10-unchunked")
@pytest.mark.parametrize("kept", [b"", b"Connection: keep-alive\r\n"])
@pytest.mark.virtual_time
async def test_what_has_no_length_ends_with_the_connection_for_http_1_0(kept: bytes) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for piece in (b"one ", b"", b"two ", b"three"):
            await send({"type": "http.response.body", "body": piece, "more_body": piece != b"three"})

    for app, body in ((stream, b"one two three"), (answer, b"ok")):
        transport, feed = connected(app)
        feed(b"GET / HTTP/1.0\r\n" + kept + b"\r\n")
        await asyncio.sleep(1)
        head, _, rest = transport.written.partition(b"\r\n\r\n")
        assert transport.is_closing()
        assert rest == body
        assert b"transfer-encoding" not in head.lower()
    transport, feed = connected(stream)
    feed(HEAD + b"\r\n")
    await asyncio.sleep(1)
    assert transport.written.endswith(b"\r\n\r\n4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n")
    transport.close()


# -- hardly any descriptors left --------------------------------------------------------------------------------------


class Numbered:
    """A socket, of which only the number matters."""

    def __init__(self, number: int) -> None:
        self.fileno = lambda: number
        self.getsockname = self.getpeername = lambda: ("127.0.0.1", number)


@pytest.mark.wire("no-room")
@pytest.mark.parametrize(("left", "status"), [(1, 503), (RESERVE, 503), (RESERVE + 1, 200)])
async def test_who_comes_when_hardly_any_descriptors_are_left_is_told_to_come_back(
    left: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 4096
    monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))

    host = FakeHost()
    app = gateway_app(host, dialects=EVERY)
    transport, feed = connected(app, Numbered(most - left))
    feed(b"GET /users/me HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer alice\r\n")
    feed(b"Connection: close\r\n\r\n" if status == 200 else b"\r\n")
    ((told, headers, body),) = await answers(transport)
    assert told == status
    if status == 503:
        assert (body["code"], headers["retry-after"]) == ("at_capacity", "5")
        assert not host.calls
    transport, feed = connected(app, Numbered(most - left))
    feed(CLOSING)
    assert (await answers(transport))[0][2]["status"] == "starting"  # a probe is answered as ever


# -- who ends their side ----------------------------------------------------------------------------------------------


POSTED = b"POST /slow HTTP/1.1\r\nHost: gateway\r\n"


@pytest.mark.wire("half-closed")
@pytest.mark.parametrize(
    "sent",
    [
        b"GET /slow HTTP/1.1\r\nHost: gateway\r\n\r\n",
        POSTED + b"Content-Length: 2\r\n\r\n{}",
        POSTED + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"\r\n" + HEAD + b"\r\n",
    ],
    ids=["without a body", "with a body", "in chunks", "two at once"],
)
@pytest.mark.virtual_time
async def test_who_ends_their_side_behind_a_request_is_answered(sent: bytes) -> None:
    transport, feed = connected()
    feed(sent)
    assert transport.protocol.eof_received()
    await asyncio.sleep(1001)
    assert transport.written.count(b"\r\n\r\nok") == sent.count(b"HTTP/1.1")
    assert transport.is_closing()


@pytest.mark.wire("half-closed", "error-unreadable")
@pytest.mark.parametrize(
    "sent",
    [
        SENT + b"Content-Length: 500\r\n\r\n{",
        SENT + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        SENT + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        ASKED + b"Ho",
    ],
    ids=["in a body", "in a chunk", "between chunks", "in a head"],
)
async def test_a_request_that_ends_before_it_is_whole_is_refused(sent: bytes) -> None:
    site = FakeHost()
    transport, feed = connected(gateway_app(site, org_id="9"))
    feed(sent)
    transport.protocol.eof_received()
    ((status, headers, body),) = await answers(transport)
    assert (status, headers["connection"], body["code"]) == (400, "close", "invalid_request")
    assert not site.calls["create"]


@pytest.mark.virtual_time
async def test_who_has_some_of_an_answer_and_ends_their_side_has_left() -> None:
    async def stream(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    left = asyncio.Event()

    transport, feed = connected(stream)
    feed(HEAD + b"\r\n")
    await asyncio.sleep(1)
    assert not transport.protocol.eof_received()
    transport.close()  # as the loop does then
    async with asyncio.timeout(1):
        await left.wait()
