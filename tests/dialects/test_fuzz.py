"""Odd headers and parameters on every route of every dialect: no fault of ours, no shape of its own, and no header that
repeats them.
"""

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from tests.auth.issuer import AUDIENCE, Issuer
from tests.dialects.routes import EVERY, methods, routes
from tests.dialects.site import gateway_app, lifespan, refusal, request_scope
from tests.fakehost import FakeHost

ISSUER = Issuer()
MARKER = b"Zq7"
ROUTES = sorted((method, route.path) for route in routes() for method in methods(route))
NAMES = [
    b"authorization",
    b"last-event-id",
    b"x-organization-id",
    b"x-request-id",
    b"idempotency-key",
    b"traceparent",
    b"baggage",
    b"host",
    b"origin",
    b"accept",
    b"content-type",
    b"content-length",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
]
PARAMETERS = ["ticket", "last_event_id", "skip", "limit", "status", "source_type", "user_id", "reverse", "ids"]

# what a server lets through: no CR, LF or NUL; and what it should not let through, but another one may
BYTES = st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="surrogatepass"))
SHAPED = st.sampled_from(
    [
        b"Bearer ",
        b"Bearer alice",
        b"bearer  alice ",
        b"Bearer eyJhbGciOiJub25lIn0.e30.",
        b"Bearer cgk_x",
        b"Bearer " + b"x" * 9000,
        b"25.end",
        b"9",
        b"25.end\r\nSet-Cookie: x=1",
        b"-1",
        b"\xd9\xa1",
        b"1e9",
        b"9" * 400,
        b"0" * 18,
        b"true",
        b"application/x-ndjson",
        b"*/*;q=nan",
        b'{"a":1}',
        b"",
    ]
)
VALUES = st.builds(lambda before, after: before + MARKER + after, BYTES, BYTES) | SHAPED | BYTES
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=5)
QUERY = st.lists(st.tuples(st.sampled_from(PARAMETERS), VALUES), max_size=4)
ODD_IDS = [b"007", b"999", b"x", b"-1", "\N{ARABIC-INDIC DIGIT ONE}".encode(), b"1" * 30, b"1 1", b"", b"..", b"\xff"]
IDS = st.just(b"1") | st.sampled_from(ODD_IDS)


MODES: dict[str, dict[str, Any]] = {
    "token": {},
    "jwt": {
        "auth": ("jwt", "key"),
        "api_token": "alice",
        "api_keys": "",
        "jwt_issuer": ISSUER.name,
        "jwt_audience": AUDIENCE,
        "jwt_key": ISSUER.public_pem,
        "public_url": "https://agents.example",  # else clients are told the name by which they ask
    },
}
TOKENS = {"token": "alice", "jwt": ISSUER.token("ann", exp=timedelta(hours=1), scope="runs:read:all runs:write:all")}


def new_app(mode: str) -> FastAPI:
    host = FakeHost()
    host.latency = 0
    host.add(status="COMPLETE").append(3)
    key = "a key that is long enough to be one"
    return gateway_app(host, dialects=EVERY, secret_key=key, stream_max_age_seconds=0.1, **MODES[mode])


async def answered(
    app: Any, method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]]
) -> list[dict[str, Any]]:
    """What the application sends for a request as a server would hand it in, or as no server should."""
    messages: list[dict[str, Any]] = []

    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()  # a client that stays
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    async with lifespan(app), asyncio.timeout(20):
        await app(request_scope(method, path, query, headers), receive, send)
    return messages


@pytest.mark.wire("error-shape", "request-id")
@pytest.mark.parametrize("mode", sorted(MODES))
@given(route=st.sampled_from(ROUTES), run=IDS, headers=HEADERS, query=QUERY, signed=st.booleans())
def test_nothing_that_is_sent_breaks_anything_or_comes_back_in_a_header(
    mode: str,
    route: tuple[str, str],
    run: bytes,
    headers: list[tuple[bytes, bytes]],
    query: list[tuple[str, bytes]],
    signed: bool,
) -> None:
    method, template = route
    path = re.sub(rb"{\w+}", lambda _: run, template.encode())
    said = b"&".join(name.encode() + b"=" + value.replace(b"&", b"%26").replace(b"#", b"") for name, value in query)
    given = [*headers, (b"authorization", f"Bearer {TOKENS[mode]}".encode())] if signed else headers
    head, *rest = asyncio.run(answered(new_app(mode), method, path, said, given))
    status = head["status"]
    assert status < 500 or status == 501, rest  # what is never done is said so whatever else was sent
    for name, value in head["headers"]:
        assert b"\r" not in value
        assert b"\n" not in value
        assert MARKER not in value or (name == b"x-request-id" and value.isascii())
    if status >= 400 and path not in (b"/docs", b"/redoc"):
        shown = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head["headers"]}
        body = refusal(status, shown, b"".join(message["body"] for message in rest))
        assert shown["x-request-id"]
        if "param" in body or "rpc_code" in body:  # errors of these shapes have no room for more, or need none
            return
        assert {"code", "status_code", "request_id"} <= set(body)
        assert body["status_code"] == status
