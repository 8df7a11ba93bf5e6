"""Each fault of a host, caused for real over a socket, and what it is called afterwards, over each transport."""

import asyncio
import contextlib
import gzip
import re
import socket
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from codegen_api import errors, outbound
from codegen_api.outbound import MAX_ANSWER
from codegen_api.telemetry import Observation
from codegen_api.upstreams import NewRun
from codegen_api.upstreams.codegen import CodegenUpstream

from .asking import CREDENTIAL, REF, RUN, TOKEN, Ask, ask_raw, ask_upstream, asked, create_run, fault_of, get_run
from .conftest import Connect
from .rawhost import ANSWERED, Conversation, Script, answer, raw_host, saying, silence, unused_port

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SECRET = "a secret of the host"
PAGE = f"<html><body>{SECRET}</body></html>".encode()
RATE_LIMITED = b'{"message":"Rate limit exceeded. Please try again later.","status_code":429}'


async def reset(conversation: Conversation) -> None:
    conversation.reset()


async def reset_after_headers(conversation: Conversation) -> None:
    await conversation.say(HEAD + b'Content-Length: 100\r\n\r\n{"id":')
    conversation.reset()


@pytest.mark.parametrize("ask", [get_run, create_run])
@pytest.mark.parametrize(
    "script",
    [reset, saying(), saying(b"HTTP/1.1 200 OK\r\nConte")],
    ids=["reset", "closed without a byte", "closed within the headers"],
)
def test_a_connection_that_breaks_before_an_answer_is_unreachable_and_not_repeated(
    connect: Connect, script: Script, ask: Callable[[CodegenUpstream], Awaitable[object]]
) -> None:
    error, host, upstream = fault_of(connect, script, ask)
    assert type(error) is errors.UpstreamUnreachable
    assert error.__cause__ is not None
    assert (host.connections, len(host.requests)) == (1, 1)
    assert upstream.observation is not None
    assert upstream.observation.reachable is False


@pytest.mark.parametrize("ask", [get_run, create_run])
def test_a_kept_connection_that_breaks_is_not_tried_again(
    connect: Connect, ask: Callable[[CodegenUpstream], Awaitable[object]]
) -> None:
    async def answer_once(conversation: Conversation) -> bool:
        if conversation.count == 1:
            await conversation.say(answer(RUN, close=False))
        return conversation.count == 1

    async def play() -> int:
        async with raw_host(answer_once) as host:
            upstream = connect(host.url)
            async with asyncio.timeout(ANSWERED):
                await upstream.get_run(CREDENTIAL, REF)
                with pytest.raises(errors.UpstreamUnreachable):
                    await ask(upstream)
                await upstream.aclose()
            assert host.connections == 1
            return len(host.requests)

    assert asyncio.run(play()) == 2


@pytest.mark.parametrize("where", ["http://127.0.0.1:{port}", "http://no-such-host.invalid"])
def test_a_host_that_is_not_there_is_unreachable(connect: Connect, where: str) -> None:
    upstream = connect(where.format(port=unused_port()))
    with pytest.raises(errors.UpstreamUnreachable) as caught:
        ask_upstream(upstream, get_run)
    assert caught.value.__cause__ is not None
    assert upstream.observation is not None
    assert upstream.observation.reachable is False
    assert upstream.observation.checked_at == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize("ask", [get_run, create_run])
@pytest.mark.parametrize(
    "script",
    [
        reset_after_headers,
        saying(HEAD + b'Content-Length: 100\r\n\r\n{"id":'),
        saying(HEAD + b'Transfer-Encoding: chunked\r\n\r\n6\r\n{"id":\r\n'),
        saying(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
        saying(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
        saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        saying(HEAD + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n"),
    ],
    ids=["reset", "half a body", "half a chunk", "no chunk", "no gzip", "no HTTP", "endless header"],
)
def test_an_answer_that_breaks_off_or_makes_no_sense_is_an_error_of_the_host(
    connect: Connect, script: Script, ask: Callable[[CodegenUpstream], Awaitable[object]]
) -> None:
    error, host, upstream = fault_of(connect, script, ask)
    assert isinstance(error, errors.UpstreamError)
    assert error.__cause__ is not None
    assert len(host.requests) == 1
    assert upstream.observation is not None
    assert upstream.observation.reachable is False


@pytest.mark.parametrize("order", [CodegenUpstream.cancel_run, CodegenUpstream.uncancel_run])
@pytest.mark.parametrize(
    "script",
    [
        reset_after_headers,
        saying(HEAD + b"Content-Length: 100\r\n\r\n{"),
        saying(HEAD + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"),
        saying(b"HTTP/1.1 204 No Content\r\n\r\n"),
        saying(b"HTTP/1.1 202 Accepted\r\n\r\n"),
    ],
    ids=["reset", "half a body", "packed as nobody asked", "204", "202 and the end"],
)
def test_an_order_is_done_when_the_head_of_the_answer_says_so(
    connect: Connect, script: Script, order: Callable[..., Awaitable[None]]
) -> None:
    _, host = ask_raw(connect, script, lambda upstream: order(upstream, CREDENTIAL, REF))
    assert len(host.requests) == 1


@pytest.mark.wire("error-host-failed")
@pytest.mark.parametrize(
    "script",
    [
        reset_after_headers,
        saying(HEAD + b"Content-Length: 100\r\n\r\n{"),
        saying(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
        saying(HEAD + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"),
        saying(answer(b"\xff\xfe")),
    ],
    ids=["reset", "half a body", "no gzip", "packed as nobody asked", "no JSON"],
)
def test_a_resume_is_done_when_the_head_of_the_answer_says_so(connect: Connect, script: Script) -> None:
    run, host = ask_raw(connect, script, lambda upstream: upstream.resume_run(CREDENTIAL, REF, "Go on", None))
    assert run.ref == REF
    assert [request.line for request in host.requests if request.line.startswith("POST")] == [host.requests[0].line]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (reset, r"the connection broke before an answer: (Connection reset by peer \(errno 104\)|.*Error)"),
        (saying(), r"the connection broke before an answer: .*Error"),
        (saying(HEAD + b'Content-Length: 100\r\n\r\n{"id":'), "the answer broke off: .*Error"),
        (saying(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"), "the answer cannot be unpacked: .*"),
        (saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "what came is no HTTP: .*"),
        (silence, "no answer within 0.2 s"),
        (
            saying(answer(PAGE, status="502 No", kind="text/html; charset=utf-8")),
            "status 502, text/html, which is no JSON",
        ),
        (saying(answer(b"", kind="")), "status 200, without a Content-Type, empty"),
        (saying(answer(b"{}", kind='"a secret of the host"')), r"status 200, without a Content-Type \(.* lacks .*\)"),
        (saying(answer(b"[1]")), r"status 200, application/json \(The host's answer is not the object .*\)"),
        (saying(answer(b'{"message":"a secret of the host"}', status="500 No")), "status 500, application/json .*"),
        (saying(answer(b"", status="302 No")), "status 302, a redirect, which is not followed"),
        (saying(answer(b"", "Location: http://[", status="302 No")), "status 302, a redirect.*, which is not followed"),
        (
            saying(answer(b"", "Location: https://elsewhere.example/x?y=a secret of the host", status="301 No")),
            "status 301, a redirect to elsewhere.example, which is not followed",
        ),
        (saying(answer(RATE_LIMITED, status="429 No")), "status 429, application/json"),
        (saying(answer(b"{}", "Retry-After: 7", status="429 No")), "status 429, application/json, Retry-After 7"),
        (saying(answer(b'{"detail":"a secret of the host"}', status="401 No")), "status 401, application/json"),
    ],
)
def test_the_log_is_told_what_was_asked_and_what_came_and_nothing_secret(
    connect: Connect, script: Script, reason: str
) -> None:
    error, host, upstream = fault_of(connect, script, read_timeout=0.2)
    assert isinstance(error, errors.GatewayError)
    assert error.reason is not None
    assert re.fullmatch(rf"GET {host.url}/v1/organizations/{{id}}/agent/run/{{id}}: {reason}", error.reason)
    assert upstream.observation is not None
    if not upstream.observation.reachable:
        assert upstream.observation.trouble is not None
        assert error.reason.startswith(
            f"GET {host.url}/v1/organizations/{{id}}/agent/run/{{id}}: {upstream.observation.trouble}"
        )
    told = error.reason.removeprefix(f"GET {host.url}")  # its port may hold the digits of an id
    for secret in (TOKEN, SECRET, "41894", "323"):
        assert secret not in told


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("http://127.0.0.1:{port}", r"no connection: Connection refused \(errno 111\)"),
        ("http://no-such-host.invalid", r"no connection: the name does not resolve \(.+\)"),
    ],
)
def test_the_log_is_told_why_there_is_no_connection(where: str, reason: str) -> None:
    upstream = CodegenUpstream(where.format(port=unused_port()))
    with pytest.raises(errors.UpstreamUnreachable) as caught:
        ask_upstream(upstream, create_run)
    assert re.fullmatch(rf"POST http://[^/]+/v1/organizations/{{id}}/agent/run: {reason}", caught.value.reason or "")


def test_trouble_has_one_beginning_however_often_it_is_met_and_an_end() -> None:
    async def play() -> list[Observation]:
        seen: list[Observation] = []

        async def in_turn(conversation: Conversation) -> None:
            await conversation.say(answer(b"{}", status="500 No") if conversation.count in (1, 2, 4) else answer(RUN))

        async with raw_host(in_turn) as host:
            upstream = CodegenUpstream(host.url)
            for _ in range(4):
                with contextlib.suppress(errors.UpstreamError):
                    await upstream.get_run(CREDENTIAL, REF)
                assert upstream.observation is not None
                seen.append(upstream.observation)
            await upstream.aclose()
        return seen

    first, second, well, again = asyncio.run(play())
    assert first.since == second.since == first.checked_at <= second.checked_at
    assert (well.reachable, well.trouble, well.since) == (True, None, None)
    assert again.since == again.checked_at >= well.checked_at
    assert again.trouble == "status 500, application/json"


async def head_only(conversation: Conversation) -> None:
    await conversation.say(HEAD + b"Content-Length: 100\r\n\r\n{")
    await silence(conversation)


async def drip(conversation: Conversation) -> None:
    """Never silent for long, and never done."""
    await conversation.say(HEAD + b"Content-Length: 100000\r\n\r\n")
    while True:
        await conversation.say(b" ")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(silence(conversation), 0.02)


@pytest.mark.parametrize("script", [silence, head_only, drip])
def test_a_host_that_takes_too_long_is_a_time_out(connect: Connect, script: Script) -> None:
    started = time.monotonic()
    error, host, upstream = fault_of(connect, script, read_timeout=0.2, connect_timeout=0.2)
    assert type(error) is errors.UpstreamTimeout
    assert error.__cause__ is not None
    assert time.monotonic() - started < ANSWERED / 2
    assert len(host.requests) == 1
    assert upstream.observation is not None
    assert upstream.observation.reachable is False


def test_a_host_that_never_accepts_is_a_time_out(connect: Connect) -> None:
    with socket.socket() as listener, contextlib.ExitStack() as callers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Nobody accepts, so the queue is full after a few connections, and the next one gets no answer at all.
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        upstream = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.2, read_timeout=30.0)
        started = time.monotonic()
        with pytest.raises(errors.UpstreamTimeout):
            ask_upstream(upstream, get_run)
        assert time.monotonic() - started < 20


def test_a_host_that_never_shakes_hands_is_a_time_out(connect: Connect) -> None:
    async def play() -> None:
        async with raw_host(silence) as host:
            secure = host.url.replace("http://", "https://")
            await asked(connect(secure, connect_timeout=0.2, read_timeout=30.0), get_run)

    started = time.monotonic()
    with pytest.raises(errors.UpstreamTimeout):
        asyncio.run(play())
    assert time.monotonic() - started < 20


def test_a_chunk_that_turns_bad_half_way_does_not_hold_us(connect: Connect) -> None:
    script = saying(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{ \n\r\n", b"zz\r\nnonsense\r\n")
    error, _, _ = fault_of(connect, script, read_timeout=0.2, connect_timeout=0.2)
    assert isinstance(error, errors.UpstreamError | errors.UpstreamTimeout)


def test_a_cancelled_question_ends_as_cancelled_and_changes_no_observation(connect: Connect) -> None:
    async def play() -> CodegenUpstream:
        asked = asyncio.Event()

        async def hang(conversation: Conversation) -> None:
            asked.set()
            await silence(conversation)

        async with raw_host(hang) as host:
            upstream = connect(host.url)
            task = asyncio.ensure_future(get_run(upstream))
            async with asyncio.timeout(ANSWERED):
                await asked.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await upstream.aclose()
            return upstream

    assert asyncio.run(play()).observation is None


def test_a_question_after_the_end_is_unreachable(connect: Connect) -> None:
    async def play() -> None:
        async with raw_host(saying(answer(RUN))) as host:
            upstream = connect(host.url)
            await upstream.get_run(CREDENTIAL, REF)
            await upstream.aclose()
            await upstream.aclose()
            await upstream.get_run(CREDENTIAL, REF)

    with pytest.raises(errors.UpstreamUnreachable):
        asyncio.run(play())


def test_connections_that_are_closed_under_a_question_end_it(connect: Connect) -> None:
    async def play() -> None:
        asked = asyncio.Event()

        async def hang(conversation: Conversation) -> None:
            asked.set()
            await silence(conversation)

        async with raw_host(hang) as host:
            upstream = connect(host.url, read_timeout=1.0)
            task = asyncio.ensure_future(get_run(upstream))
            async with asyncio.timeout(ANSWERED):
                await asked.wait()
                await upstream.aclose()
                await task

    with pytest.raises(errors.UpstreamFailure):
        asyncio.run(play())


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "403 Forbidden", "404 Not Found", "422 No", "503 No"])
def test_a_page_for_people_is_an_error_of_the_host_and_is_not_quoted(connect: Connect, status: str) -> None:
    error, _, upstream = fault_of(connect, saying(answer(PAGE, status=status, kind="text/html")))
    assert type(error) is errors.UpstreamError
    assert SECRET not in str(error)
    assert status[:3] in str(error)
    assert upstream.observation is not None
    assert upstream.observation.reachable is False


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
)
@pytest.mark.parametrize("ask", [get_run, create_run])
async def test_a_redirect_is_not_followed_and_takes_no_token_elsewhere(
    connect: Connect, status: str, ask: Ask[object]
) -> None:
    async with raw_host(saying(answer(RUN))) as elsewhere:
        for location in ("/elsewhere", elsewhere.url, f"//{elsewhere.url.removeprefix('http://')}/x"):
            headers = (f"Location: {location}", f"Content-Location: {location}", f"Refresh: 0; url={location}")
            async with raw_host(saying(answer(b"{}", *headers, status=status))) as host:
                with pytest.raises(errors.UpstreamError):
                    await asked(connect(host.url), ask)
            assert len(host.requests) == 1
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 No", b'{"message":"a secret of the host","status_code":500}'),
        ("502 No", b'{"detail":"a secret of the host"}'),
        ("503 No", b"a secret of the host"),
        ("503 No", b""),
        ("400 No", b'{"message":"a secret of the host"}'),
        ("409 No", b'{"detail":"a secret of the host"}'),
        ("401 No", b""),
        ("404 No", b'"a secret of the host"'),
        ("403 No", b'["a secret of the host"]'),
        ("404 No", b"null"),
        ("204 No", b""),
        ("200 OK", b""),
        ("200 OK", b"a secret of the host"),
        ("200 OK", b'{"id":1'),
        ("200 OK", b'\xff\xfe\x00"'),
        ("200 OK", b"[" * 200_000),
        ("200 OK", b"[" * 200_000 + b"]" * 200_000),
        ("200 OK", b'{"id":1,"organization_id":2,"n":NaN,"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"),
        ("200 OK", b'{"id":' + b"9" * 3_000_000 + b',"organization_id":2}'),
    ],
)
def test_any_other_answer_is_an_error_of_the_host_and_is_not_quoted(connect: Connect, status: str, body: bytes) -> None:
    head = answer(body, status=status)
    error, _, _ = fault_of(
        connect, saying(head.replace(b"Content-Length: 0\r\n", b"") if status[:3] == "204" else head)
    )
    assert isinstance(error, errors.UpstreamError)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("status", "body", "reachable"),
    [
        ("200 OK", RUN, True),
        ("404 No", b'{"message":"Agent run not found."}', True),
        ("429 No", b"{}", True),
        ("429 No", b"<html>", False),
        ("500 No", b"{}", False),
    ],
)
def test_a_host_is_reachable_when_it_answers_json_and_no_failure(
    connect: Connect, status: str, body: bytes, reachable: bool
) -> None:
    upstreams = []

    async def quietly(upstream: CodegenUpstream) -> None:
        assert upstream.observation is None
        upstreams.append(upstream)
        with contextlib.suppress(errors.GatewayError):
            await upstream.get_run(CREDENTIAL, REF)

    ask_raw(connect, saying(answer(body, status=status)), quietly)
    assert upstreams[0].observation is not None
    assert upstreams[0].observation.reachable is reachable


@pytest.mark.parametrize("body", [RATE_LIMITED, PAGE, b""], ids=["JSON", "HTML", "empty"])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("Retry-After: 7", 7.0),
        ("Retry-After: 0", 0.0),
        ("Retry-After: 86400", 3600.0),
        ("Retry-After: " + "9" * 400, 3600.0),
        ("Retry-After: soon", None),
        ("Retry-After: -5", None),
        ("Retry-After: 1e3", None),
        ("Retry-After: nan", None),
        ("Retry-After: ", None),
        ("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Retry-After: Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("Retry-After: Fri, 31 Dec 99999999999999 23:59:59 GMT", None),
    ],
)
def test_a_rate_limit_says_when_to_come_back_if_the_host_did(
    connect: Connect, body: bytes, header: str | None, seconds: float | None
) -> None:
    error, host, _ = fault_of(connect, saying(answer(body, *([header] if header else []), status="429 Too Many")))
    assert type(error) is errors.UpstreamRateLimited
    assert error.retry_after == seconds
    assert SECRET not in str(error)
    assert len(host.requests) == 1


def test_a_rate_limit_may_name_the_time_of_day(connect: Connect) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    error, _, _ = fault_of(connect, saying(answer(RATE_LIMITED, f"Retry-After: {then}", status="429 Too Many")))
    assert isinstance(error, errors.UpstreamRateLimited)
    assert error.retry_after == pytest.approx(120, abs=30)


def test_an_answer_without_end_is_cut_off_even_when_it_is_compressed(connect: Connect) -> None:
    bomb = gzip.compress(b" " * (MAX_ANSWER + 1), compresslevel=9)
    error, _, _ = fault_of(connect, saying(answer(bomb, "Content-Encoding: gzip")))
    assert isinstance(error, errors.AnswerTooLong)
    assert error.__cause__ is None


def test_a_small_answer_cannot_become_a_large_one_in_memory(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "MAX_ANSWER", 1024 * 1024)
    once = gzip.compress(b" " * 64 * 1024 * 1024, compresslevel=9)
    scripts = [
        saying(answer(gzip.compress(once), "Content-Encoding: gzip, gzip")),
        saying(answer(gzip.compress(once), "Content-Encoding: gzip", "Content-Encoding: gzip")),
        saying(answer(once, "Content-Encoding: gzip")),
    ]
    for script in scripts:
        tracemalloc.start()
        try:
            error, _, _ = fault_of(connect, script)
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        finally:
            tracemalloc.stop()
        assert isinstance(error, errors.UpstreamError)


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "gzip, deflate", "x" * 1000])
def test_an_answer_that_is_packed_as_nobody_asked_is_an_error_of_the_host(connect: Connect, encoding: str) -> None:
    error, host, _ = fault_of(connect, saying(answer(RUN, f"Content-Encoding: {encoding}")))
    assert type(error) is errors.UpstreamError
    assert host.requests[0].headers["accept-encoding"] == "gzip"


def test_a_compressed_answer_is_read(connect: Connect) -> None:
    run, _ = ask_raw(
        connect,
        saying(answer(gzip.compress(RUN), "Content-Encoding: gzip")),
        lambda upstream: upstream.get_run(CREDENTIAL, REF),
    )
    assert run.ref == REF


def test_a_cookie_of_one_answer_is_never_sent_with_another_request(connect: Connect) -> None:
    async def play() -> list[dict[str, str]]:
        script = saying(answer(RUN, "Set-Cookie: session=alice; Path=/", "Set-Cookie: other=1; Domain=127.0.0.1"))
        async with raw_host(script) as host:
            upstream = connect(host.url)
            async with asyncio.timeout(ANSWERED):
                for _ in range(3):
                    await upstream.get_run(CREDENTIAL, REF)
                await upstream.aclose()
            return [request.headers for request in host.requests]

    seen = asyncio.run(play())
    assert len(seen) == 3
    assert all("cookie" not in headers for headers in seen)


def test_a_large_body_is_sent_whole_with_its_length(connect: Connect) -> None:
    image = "data:image/png;base64," + "A" * 3_000_000
    _, host = ask_raw(
        connect,
        saying(answer(RUN)),
        lambda upstream: upstream.create_run(CREDENTIAL, "323", NewRun("Look", images=(image,))),
    )
    (request,) = host.requests
    assert "transfer-encoding" not in request.headers
    assert int(request.headers["content-length"]) == len(request.body) > 3_000_000
