"""The front door's part in a request, before the application is asked. As a process it is in tests/end_to_end."""

import asyncio
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from codegen_api.serve import HEAD_SECONDS, MOST_UNREAD, START_SECONDS, Requests, _announce, _options
from tests import virtual
from tests.dialects.site import settings

FORGED = [(b"x-forwarded-for", b"192.0.2.9"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"evil.example")]


def seen(client: str, **more: Any) -> dict[str, Any]:
    """What an application sees of a request from ``client`` with forged headers, served as the front door serves it."""
    scopes = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    config = uvicorn.Config(look, **{**_options(settings(**more)), "log_config": None})
    config.load()
    scope = {"type": "http", "scheme": "http", "client": (client, 4711), "headers": FORGED}
    asyncio.run(config.loaded_app(scope, None, None))
    (scope,) = scopes
    return scope


@pytest.mark.parametrize(
    ("proxies", "client"),
    [("", "127.0.0.1"), ("", "10.0.0.1"), ("10.0.0.1", "127.0.0.1"), ("10.0.0.0/24,::1", "10.0.1.1")],
)
def test_what_a_stranger_says_was_forwarded_changes_nothing(
    proxies: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # which uvicorn reads by itself
    scope = seen(client, trusted_proxies=proxies)
    assert (scope["client"], scope["scheme"]) == ((client, 4711), "http")


@pytest.mark.parametrize(("proxies", "client"), [("10.0.0.1", "10.0.0.1"), ("::1,10.0.0.0/24", "10.0.0.77")])
def test_what_a_trusted_proxy_says_was_forwarded_is_believed(proxies: str, client: str) -> None:
    scope = seen(client, trusted_proxies=proxies)
    assert (scope["client"], scope["scheme"]) == (("192.0.2.9", 0), "https")


# -- slow starts ------------------------------------------------------------------------------------------------------


def test_a_worker_that_starts_slowly_is_not_taken_for_dead() -> None:
    config = uvicorn.Config("codegen_api:create_app", **{**_options(settings(workers=4)), "log_config": None})
    assert config.timeout_worker_healthcheck == START_SECONDS
    assert START_SECONDS >= 20


def test_where_it_serves_is_said_however_long_the_start_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Livez, bind_and_activate=False)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) > 40 and not serving.is_alive():
            server.server_activate()
            serving.start()

    with server:
        server.server_bind()
        monkeypatch.setattr("codegen_api.serve.time.sleep", sleep)
        _announce(f"http://127.0.0.1:{server.server_port}", [])
        server.shutdown()
        serving.join()
    assert capsys.readouterr().out == f"codegen_api is at http://127.0.0.1:{server.server_port}\n"


class Livez(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


# -- heads that do not end --------------------------------------------------------------------------------------------


class Transport(asyncio.Transport):
    """A connection that takes everything, and knows whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
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


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads all of a request, and takes a while for /slow."""
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(1000)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def connected() -> tuple[Transport, Callable[[bytes], None]]:
    config = uvicorn.Config(answer, **{**_options(settings()), "log_config": None})
    config.load()
    transport = Transport()
    transport.protocol = Requests(config, ServerState(), {}, asyncio.get_running_loop())
    transport.protocol.connection_made(transport)
    return transport, transport.protocol.data_received


HEAD = b"GET / HTTP/1.1\r\nHost: gateway\r\n"
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
def test_a_head_that_does_not_end_is_refused_and_the_connection_closed(begun: bytes, more: bytes, status: int) -> None:
    async def main() -> None:
        transport, feed = connected()
        feed(begun)
        fed = len(begun)
        while not transport.is_closing():
            feed(more)
            fed += len(more)
            assert fed <= MOST_UNREAD + 8192
        head, _, body = transport.written.decode().partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        assert int(headers["content-length"]) == len(body)
        said = json.loads(body)
        assert (said["status_code"], said["request_id"]) == (status, headers["x-request-id"])
        assert said["code"] == {431: "headers_too_large", 400: "invalid_request"}[status]

    virtual.run(main())


@pytest.mark.parametrize("more", [b"x-a: b\r\n" * 1024, b"x-long: " + b"v" * 8192])
def test_trailers_that_do_not_end_close_the_connection(more: bytes) -> None:
    async def main() -> None:
        transport, feed = connected()
        feed(CHUNKED + b"1\r\na\r\n0\r\n")
        for _ in range(MOST_UNREAD // len(more) + 1):
            assert not transport.is_closing()
            feed(more)
        assert transport.is_closing()
        assert not transport.written
        await asyncio.sleep(1)

    virtual.run(main())


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
def test_a_head_that_takes_too_long_closes_the_connection(before: int) -> None:
    async def main() -> None:
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

    virtual.run(main())


def test_a_connection_on_which_nothing_comes_is_closed() -> None:
    async def main() -> None:
        transport, _ = connected()
        await asyncio.sleep(HEAD_SECONDS + 1)
        assert transport.closed_at == HEAD_SECONDS
        assert not transport.written

    virtual.run(main())


def test_an_answer_may_take_as_long_as_it_likes() -> None:
    async def main() -> None:
        transport, feed = connected()
        feed(b"GET /slow HTTP/1.1\r\nHost: gateway\r\n\r\n")
        await asyncio.sleep(500)
        assert not transport.is_closing()
        await asyncio.sleep(501)
        assert transport.written.endswith(b"\r\n\r\nok")
        transport.close()

    virtual.run(main())


def test_garbage_behind_a_request_does_not_disturb_its_answer_with_another() -> None:
    async def main() -> None:
        transport, feed = connected()
        feed(b"GET /slow HTTP/1.1\r\nHost: gateway\r\n\r\n")
        await asyncio.sleep(1)
        feed(b"\x00garbage\r\n\r\n")
        assert transport.is_closing()
        assert not transport.written
        await asyncio.sleep(1001)

    virtual.run(main())
