"""The edge: what every answer has, whatever is inside."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.responses import Response

from codegen_api import errors
from codegen_api.app import dialect_of
from codegen_api.dialects import Dialect
from codegen_api.http.delivery import ServerConnection
from codegen_api.http.edge import EXPOSED_HEADERS, MAX_PREFLIGHT
from codegen_api.http.web import MethodNotAllowed, PayloadTooLarge, as_gateway_error
from codegen_api.telemetry import trace
from tests.dialects.rich import RichHost
from tests.dialects.routes import EVERY
from tests.dialects.site import AUTHORIZED, Connection, run, serving, settings

APP = "https://app.example.com"
OTHER = "https://other.example.com"


# -- request ids ------------------------------------------------------------------------------------------------------


@pytest.mark.wire("request-id")
@pytest.mark.parametrize("given", ["a", "5f0c-0f2a", "x" * 128, "!~{}\"'", "%0d%0a"])
def test_a_sane_request_id_comes_back(given: str) -> None:
    async def main() -> None:
        async with serving() as site:
            for path in ("/health", "/nothing", "/users/me"):
                assert (await site.get(path, headers={"X-Request-ID": given})).headers["x-request-id"] == given

    run(main())


@pytest.mark.wire("request-id")
@pytest.mark.parametrize(
    "given", [None, "", " ", "x" * 129, "a b", "a\tb", "ü".encode(), b"a\x00b", b"a\x0bb", b"\x7f", b"\xff"]
)
def test_a_request_id_that_is_not_is_replaced(given: Any) -> None:
    async def main() -> None:
        async with serving() as site:
            headers = [] if given is None else [("X-Request-ID", given)]
            ids = {(await site.get("/health", headers=headers)).headers["x-request-id"] for _ in range(2)}
        assert len(ids) == 2
        for made_up in ids:
            assert 16 <= len(made_up) <= 128
            assert made_up.isascii()
            assert made_up.isprintable()
            assert made_up != given

    run(main())


@pytest.mark.wire("trace-travels")
def test_the_request_id_and_the_tracing_headers_are_there_for_the_host_and_gone_afterwards() -> None:
    seen = []

    async def main() -> None:
        host = RichHost()

        async def look(_: str) -> None:
            seen.append(trace.get())

        host.before = look
        async with serving(host) as site:
            await site.get(
                "/users/me",
                headers={
                    "X-Request-ID": "abc",
                    "traceparent": "00-1",
                    "tracestate": "a=b",
                    "baggage": "c=d",
                    "other": "e",
                },
            )
            await site.get("/users/me", token="bob")
        assert trace.get() is None

    run(main())
    first, second = seen[0], seen[-1]
    assert first is not None
    assert second is not None
    assert first.request_id == "abc"
    assert dict(first.passed_on) == {"traceparent": "00-1", "tracestate": "a=b", "baggage": "c=d"}
    assert second.request_id != "abc"
    assert second.passed_on == ()


@pytest.mark.wire("trace-travels", "logs-hold-no-secrets")
def test_there_is_one_line_a_request_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        host = RichHost()
        host.add()
        async with serving(host) as site:
            await site.get("/agent-runs/1/logs?skip=3&hunter2=prompt", headers={"X-Request-ID": "abc"})
            await site.post("/agent-runs", {"prompt": "a-hunter2-prompt", "metadata": {"k": "hunter2"}})
            await site.get("/line%0Abreak" + "x" * 5000)
            await site.get("/x%20200%201%20ms%C2%A0%E2%80%A8%7F%09request_id=forged")

    run(main())
    lines = [record.getMessage() for record in caplog.records if record.name == "codegen_api"][1:]
    assert [line.split(" ")[:3] for line in lines[:2]] == [
        ["GET", "/agent-runs/1/logs", "200"],
        ["POST", "/agent-runs", "201"],
    ]
    assert len(lines) == 4
    assert "\n" not in lines[2]
    assert len(lines[2]) < 500
    assert re.fullmatch(r"GET /x\S+forged 404 \d+ ms not_found", lines[3])
    assert lines[3].isascii()
    everything = "\n".join(record.getMessage() for record in caplog.records if record.name == "codegen_api")
    for secret in ("hunter2", "alice"):
        assert secret not in everything


# -- origins ----------------------------------------------------------------------------------------------------------


def preflight(origin: str, method: str = "GET", headers: str | None = None) -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return asked if headers is None else {**asked, "Access-Control-Request-Headers": headers}


@pytest.mark.wire("cors-origins", "cors-every-answer", "cors-headers")
@pytest.mark.parametrize(
    "path", ["/health", "/users/me", "/nothing", "/agent-runs/1/logs/stream", "/agent-runs/7", "/docs"]
)
@pytest.mark.parametrize("origin", [APP, OTHER, "null", "http://localhost:3000", None])
async def test_only_the_origins_of_the_deployment_may_read_an_answer(path: str, origin: str | None) -> None:
    host = RichHost()
    host.add(status="COMPLETE").append(1)
    async with serving(host, cors_origins=f"{APP},https://second.example.com") as site:
        answer = await site.get(path, headers={} if origin is None else {"Origin": origin})
    assert answer.headers.get("access-control-allow-origin") == (APP if origin == APP else None)
    assert "origin" in answer.headers["vary"].lower()
    assert answer.headers["vary"].lower().count("origin") == 1
    assert "access-control-allow-credentials" not in answer.headers
    if origin == APP:
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed == set(EXPOSED_HEADERS) >= {"X-Request-ID", "Retry-After", "Location", "Link"}


SENT_BY_PAGES = [
    "authorization,content-type,cache-control,idempotency-key,last-event-id,x-organization-id,x-request-id",
    "baggage,sentry-trace,traceparent,tracestate",
    "x-datadog-origin,x-datadog-parent-id,x-datadog-sampling-priority,x-datadog-trace-id",
    "request-context,request-id",
    "b3, x-b3-traceid ,x-requested-with, pragma",
    "x-unheard-of",
]


@pytest.mark.wire("cors-preflight", "cors-headers", "request-id")
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
@pytest.mark.parametrize("path", ["/agent-runs", "/nothing"])
@pytest.mark.parametrize("wanted", SENT_BY_PAGES)
async def test_a_preflight_needs_no_token_and_is_kept_for_ten_minutes(method: str, path: str, wanted: str) -> None:
    async with serving(cors_origins=APP) as site:
        answer = await site.ask("OPTIONS", path, token=None, headers=preflight(APP, method, wanted))
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-max-age"] == "600"
    assert method in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers
    assert "origin" in answer.headers["vary"].lower()
    assert answer.headers["x-request-id"]
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert allowed == [name.strip() for name in wanted.split(",")]
    assert "access-control-allow-private-network" not in answer.headers


@pytest.mark.wire("cors-preflight", "error-shape")
@pytest.mark.parametrize(
    "headers",
    [
        preflight(OTHER),
        preflight("null"),
        preflight(APP + "/"),
        preflight(APP.upper()),
        preflight(APP + ":8443"),
        preflight(APP, "TRACE"),
        preflight(APP, "GET", "x unheard of"),
        preflight(APP, "GET", "a\u00e9"),
        preflight(APP, "GET", "a:b"),
        preflight(APP, "GET", "a," * (MAX_PREFLIGHT // 2) + "b"),
        {**preflight(OTHER, "GET", "authorization"), "Access-Control-Request-Private-Network": "true"},
    ],
)
async def test_a_preflight_that_is_refused_is_refused_in_the_shape_of_every_error(headers: dict[str, str]) -> None:
    async with serving(cors_origins=APP) as site:
        raw = [(name, value.encode()) for name, value in headers.items()]
        answer = await site.ask("OPTIONS", "/agent-runs", token=None, headers=raw)
    assert (answer.status_code, answer.json()["code"]) == (400, "cors_refused")
    assert "access-control-allow-headers" not in answer.headers
    assert "access-control-allow-private-network" not in answer.headers
    assert len(answer.content) < 1000
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["vary"].lower().startswith("origin")
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == (APP if headers["Origin"] == APP else None)


@pytest.mark.wire("cors-headers")
@pytest.mark.parametrize("origins", [APP, "*"])
async def test_a_page_that_is_let_in_may_come_from_outside_of_the_private_network(origins: str) -> None:
    asked = {**preflight(APP, "GET", "authorization"), "Access-Control-Request-Private-Network": "true"}
    async with serving(cors_origins=origins) as site:
        answer = await site.ask("OPTIONS", "/agent-runs", token=None, headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert answer.headers["access-control-allow-origin"] == origins


@pytest.mark.wire("cors-origins")
@pytest.mark.parametrize(
    ("named", "let_in", "not_let_in"),
    [
        ("HTTPS://App.example.com:443", "https://app.example.com", "https://app.example.com:443"),
        ("https://*.example.com", "https://a.example.com", "https://example.com"),
        ("https://*.example.com", "https://a-1.b.example.com", "https://a.example.com.evil.example"),
        ("https://*.example.com", "https://xn--bcher-kva.example.com", "https://evilexample.com"),
        ("https://*.example.com", "https://a.example.com", "http://a.example.com"),
        ("https://*.example.com", "https://a.example.com", "https://a.example.com:8443"),
        ("https://*.example.com", "https://a.example.com", "https://evil.example/a.example.com"),
        ("https://*.example.com", "https://a.example.com", "https://.example.com"),
        ("https://*.example.com:8443", "https://a.example.com:8443", "https://a.example.com"),
        ("capacitor://localhost", "capacitor://localhost", "http://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", "chrome-extension://abcde"),
        ("https://a.example.com", "https://a.example.com", "https://aXexample.com"),
    ],
)
async def test_an_origin_is_let_in_as_browsers_write_it(named: str, let_in: str, not_let_in: str) -> None:
    async with serving(cors_origins=f"{APP},{named}") as site:
        for origin, expected in ((let_in, let_in), (not_let_in, None)):
            answer = await site.get("/health", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == expected


LOCAL = [
    "http://localhost", "http://localhost:1", "http://localhost:3000", "http://127.0.0.1:65535", "http://127.0.0.1",
    "https://localhost:3000", "http://[::1]:3000",
]  # fmt: skip
NOT_LOCAL = [
    "capacitor://localhost", "http://localhost.evil.example", "http://localhost:3000.evil.example", "http://127.0.0.1evil",
    "http://127a0a0a1:3000", "http://evil.example/http://localhost", "http://localhost:", "http://localhost:123456",
    "http://user@localhost", "http://0.0.0.0:3000", "null", "http://localhost:3000\u00b9",
]  # fmt: skip


@pytest.mark.wire("cors-origins")
@pytest.mark.parametrize("origin", [*LOCAL, *NOT_LOCAL])
@pytest.mark.parametrize("sandbox", [True, False])
async def test_pages_of_this_machine_may_ask_the_sandbox(origin: str, sandbox: bool) -> None:
    async with serving(sandbox=sandbox) as site:
        answer = await site.get("/health", headers=[(b"Origin", origin.encode())])
    expected = origin if sandbox and origin in LOCAL else None
    assert answer.headers.get("access-control-allow-origin") == expected


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_no_other_origin_is_ever_let_in(origin: str) -> None:
    async def main() -> None:
        async with serving(cors_origins=APP, sandbox=True) as site:
            answer = await site.get("/livez", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") in (None, APP, *LOCAL, origin)
        if origin not in (APP, *LOCAL) and not re.match(r"https?://(localhost|127\.0\.0\.1|\[::1\]):", origin):
            assert "access-control-allow-origin" not in answer.headers

    run(main())


@pytest.mark.wire("cors-every-answer")
async def test_a_204_and_a_stream_carry_the_permission_too() -> None:
    host = RichHost()
    host.add(status="COMPLETE").append(3)
    async with serving(host, cors_origins=APP) as site:
        for last, status in (("3.end", 204), ("3", 200), ("1", 200)):
            answer = await site.get("/agent-runs/1/logs/stream", headers={"Origin": APP, "Last-Event-ID": last})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == APP
            assert answer.headers["x-request-id"]
            assert "origin" in answer.headers["vary"].lower()


# -- caches -----------------------------------------------------------------------------------------------------------


@pytest.mark.wire("not-stored")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users/me"),
        ("GET", "/agent-runs/1"),
        ("GET", "/agent-runs/1/logs"),
        ("POST", "/agent-runs"),
        ("GET", "/agent-runs/2"),
        ("GET", "/threads/1"),
        ("GET", "/v1/users/me"),
        ("GET", "/api/agents"),
        ("POST", "/agent-runs/1/logs/stream-ticket"),
        ("GET", "/agent-runs/1/logs/stream"),
    ],
)
@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
async def test_no_cache_keeps_what_needs_credentials(method: str, path: str, header: str) -> None:
    host = RichHost()
    host.add(status="COMPLETE").append(3)
    async with serving(host, dialects=EVERY, secret_key="0123456789abcdef" * 2) as site:
        for token in ("alice", "nobody"):
            shown = {header: f"Bearer {token}" if header == "Authorization" else token, "Last-Event-ID": "3.end"}
            more = {"json": {"prompt": "Say hello"}} if method == "POST" else {}
            answer = await site.ask(method, path, token=None, headers=shown, **more)
            assert answer.headers["cache-control"] == "no-store", answer.status_code


# -- pages that nobody has let in -------------------------------------------------------------------------------------

UNASKED = [
    (None, b""),
    ("text/plain", b"{}"),
    ("TEXT/plain; charset=utf-8", b"{}"),
    ("application/x-www-form-urlencoded", b"a=b"),
    ("multipart/form-data; boundary=x", b"--x--"),
]
FOREIGN = [
    {"Origin": OTHER},
    {"Origin": "null"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost.evil.example"},
]
OURS = [{}, {"Origin": "http://localhost"}, {"Origin": APP}, {"Origin": "null", "Sec-Fetch-Site": "same-origin"}]
BEGINNINGS = ["/threads", "/v1/sessions", "/api/agents"]
"""Where something is made, for each dialect that lets people try it."""


@pytest.mark.wire("pages-not-let-in")
@pytest.mark.parametrize(("kind", "body"), UNASKED)
@pytest.mark.parametrize("path", BEGINNINGS)
async def test_a_page_that_is_not_let_in_begins_nothing_with_the_demo_token(
    path: str, kind: str | None, body: bytes
) -> None:
    async with serving(RichHost(), dialects=EVERY, demo_token="alice", cors_origins=APP) as site:
        sent = {} if kind is None else {"Content-Type": kind}
        for page in FOREIGN:
            answer = await site.ask("POST", path, token=None, headers={**sent, **page}, content=body)
            assert (answer.status_code, answer.json().get("code")) == (400, "cors_refused"), page
        for page in OURS:
            answer = await site.ask("POST", path, token=None, headers={**sent, **page}, content=body)
            assert answer.json().get("code") != "cors_refused", page


@pytest.mark.wire("pages-not-let-in")
@pytest.mark.parametrize("page", FOREIGN)
async def test_what_no_page_can_send_without_being_asked_is_let_through(page: dict[str, str]) -> None:
    async with serving(RichHost(), dialects=EVERY, demo_token="alice") as site:
        answer = await site.post("/threads", {}, token=None, headers=page)
        assert answer.status_code == 200
        assert (await site.ask("POST", "/threads", headers=page)).status_code == 200  # with credentials
        assert (await site.get(f"/threads/{answer.json()['thread_id']}", token=None, headers=page)).is_success


REBOUND = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "10.0.0.1", "[::2]", "0.0.0.0"]
OWN = ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"]


@pytest.mark.wire("trusted-hosts")
@pytest.mark.parametrize("more", [{"sandbox": True}, {"demo_token": "alice"}])
async def test_what_anybody_may_use_is_not_reached_by_a_name_that_leads_here(more: dict[str, Any]) -> None:
    async with serving(RichHost(), dialects=EVERY, **more) as site:
        for name in (*REBOUND, *OWN):
            for path in ("/users/me", "/threads/search", "/docs"):
                answer = await site.ask("GET", path, headers={"Host": name, "Origin": f"http://{name}"})
                assert (answer.status_code == 400) == (name in REBOUND), name
            assert (await site.get("/livez", headers={"Host": name})).status_code == 200


@pytest.mark.wire("trusted-hosts")
@pytest.mark.parametrize(
    ("more", "trusted"),
    [
        ({}, ("localhost", "127.0.0.1", "[::1]", "127.0.0.1")),
        ({"host": "::1"}, ("localhost", "127.0.0.1", "[::1]", "[::1]")),
        ({"host": "127.0.0.2"}, ("localhost", "127.0.0.1", "[::1]", "127.0.0.2")),
        ({"trusted_hosts": "agents.example"}, ("agents.example",)),
        ({"trusted_hosts": "*"}, ("*",)),
        ({"host": "0.0.0.0"}, ("*",)),
        ({"host": "10.0.0.7"}, ("*",)),
        ({"sandbox": False}, ("*",)),
    ],
)
def test_other_names_lead_there_where_the_operator_says_so(more: dict[str, Any], trusted: tuple[str, ...]) -> None:
    assert settings(**{"sandbox": True, **more}).trusted_names == trusted


# -- who may not ask --------------------------------------------------------------------------------------------------


@pytest.mark.wire("auth-not-in-url")
@pytest.mark.parametrize("path", ["/users/me", "/agent-runs/1/logs/stream", "/health", "/nothing", "/docs"])
@pytest.mark.parametrize("query", ["access_token=sk-secret", "a=b&access_token=sk-secret", "access_token="])
def test_a_token_in_the_url_is_refused(path: str, query: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        host = RichHost()
        async with serving(host, cors_origins=APP) as site:
            answer = await site.get(f"{path}?{query}", headers={"Origin": APP})
        assert (answer.status_code, answer.json()["code"]) == (400, "token_in_url")
        assert answer.headers["access-control-allow-origin"] == APP
        assert "sk-secret" not in answer.text
        assert not host.calls

    run(main())
    assert "sk-secret" not in caplog.text.replace(f"{path}?{query}", "")


@pytest.mark.wire("loop-refused")
async def test_a_request_that_this_deployment_forwarded_is_refused() -> None:
    host = RichHost()
    async with (
        serving(host, base_url="https://one.example") as site,
        serving(base_url="https://two.example") as other,
    ):
        via = site.edge.via
        assert via != other.edge.via
        for sent in (f"1.1 {via}", f"1.0 fred, 1.1 {via} (codegen_api)", f"1.1 x,1.1 {via}"):
            answer = await site.get("/users/me", headers={"Via": sent})
            assert (answer.status_code, answer.json()["code"]) == (508, "loop_detected")
        answer = await site.get("/users/me", headers=[("Via", "1.1 a"), ("Via", f"1.1 {via}")])
        assert answer.status_code == 508
        assert not host.calls
        for sent in ("1.1 fred", f"1.1 {other.edge.via}", ""):
            assert (await site.get("/users/me", headers={"Via": sent})).status_code == 200


CREDENTIALS: list[tuple[Any, str, str]] = [
    (None, "not_authenticated", "Bearer"),
    ("", "not_authenticated", "Bearer"),
    ("Basic YTpi", "not_authenticated", "Bearer"),
    ("alice", "not_authenticated", "Bearer"),
    ("Bearer sk-nobody", "invalid_token", 'Bearer error="invalid_token"'),
    ("Bearer a b", "invalid_token", 'Bearer error="invalid_token"'),
    ("Bearer " + "x" * 5000, "invalid_token", 'Bearer error="invalid_token"'),
    (b"Bearer \xff\xfe", "invalid_token", 'Bearer error="invalid_token"'),
    (b"Bearer a\x01b", "invalid_token", 'Bearer error="invalid_token"'),
]


@pytest.mark.wire("auth-bearer", "auth-challenge", "error-shape")
@pytest.mark.parametrize(("sent", "code", "challenge"), CREDENTIALS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users/me"),
        ("GET", "/organizations"),
        ("GET", "/agent-runs"),
        ("POST", "/agent-runs"),
        ("GET", "/agent-runs/1"),
        ("POST", "/agent-runs/1/resume"),
        ("POST", "/agent-runs/1/cancel"),
        ("GET", "/agent-runs/1/logs"),
        ("GET", "/agent-runs/1/logs/stream"),
    ],
)
async def test_nobody_is_let_in_without_a_good_token(
    method: str, path: str, sent: Any, code: str, challenge: str
) -> None:
    host = RichHost()
    host.add()
    async with serving(host) as site:
        headers = [] if sent is None else [("Authorization", sent)]
        more = {"json": {"prompt": "Say hello"}} if method == "POST" else {}
        answer = await site.ask(method, path, token=None, headers=headers, **more)
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == challenge
    assert set(host.calls) <= {"identify"}


@pytest.mark.wire("auth-bearer")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_good_token_is_taken_whatever_the_case_of_its_scheme(scheme: str) -> None:
    async with serving(RichHost()) as site:
        assert (await site.get("/users/me", headers={"Authorization": f"{scheme} alice"})).status_code == 200


@pytest.mark.wire("auth-bearer", "health")
@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json"])
async def test_some_pages_are_for_everybody(path: str) -> None:
    host = RichHost()
    async with serving(host) as site:
        for headers in ({}, {"Authorization": "Bearer sk-nobody"}):
            assert (await site.get(path, token=None, headers=headers)).status_code == 200
    assert not host.calls


@pytest.mark.wire("auth-own-token")
async def test_the_host_is_called_with_the_caller_s_own_token_always() -> None:
    host = RichHost()
    host.add(status="COMPLETE").append(1)
    async with serving(host, api_token="sk-of-the-deployment") as site:
        for path in (
            "/users/me",
            "/organizations",
            "/agent-runs",
            "/agent-runs/1/logs",
            "/agent-runs/1/logs/stream",
        ):
            await site.get(path, token="bob")
    assert host.calls.total() > 5
    assert {token for _, _, token in host.log} == {"bob"}


@pytest.mark.wire("auth-outage")
@pytest.mark.parametrize(
    ("error", "status", "code", "wait"),
    [
        (errors.UpstreamTimeout(), 503, "auth_unavailable", "5"),
        (errors.UpstreamRateLimited(retry_after=17), 429, "upstream_rate_limited", "17"),
    ],
)
async def test_a_token_that_cannot_be_checked_is_nobody_s_fault(
    error: errors.GatewayError, status: int, code: str, wait: str
) -> None:
    host = RichHost()

    async def fail(_: str) -> None:
        raise error

    host.before = fail
    async with serving(host) as site:
        answer = await site.get("/users/me")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["retry-after"] == wait
    assert "www-authenticate" not in answer.headers


# -- what the framework says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.Forbidden(), errors.Forbidden),
        (HTTPException(404), errors.NotFound),
        (HTTPException(405), MethodNotAllowed),
        (HTTPException(413), PayloadTooLarge),
        (HTTPException(400, "secret"), errors.InvalidRequest),
        (HTTPException(418, "secret"), errors.InvalidRequest),
        (HTTPException(503, "secret"), errors.GatewayError),
        (RuntimeError("secret"), errors.GatewayError),
        (RequestValidationError([{"loc": ("a",), "msg": "Bad", "type": "t", "input": "secret"}]), errors.Rejected),
    ],
)
def test_what_the_framework_raises_is_said_in_our_words(error: Exception, kind: type[errors.GatewayError]) -> None:
    ours = as_gateway_error(error)
    assert type(ours) is kind
    assert "secret" not in f"{ours.message}{ours.details}"


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/users", b"users"),
        ("/v1/users/", b"users"),
        ("/v1/users/me", b"users"),
        ("/v1/usersx", b"v1"),
        ("/v1/user", b"v1"),
        ("/v1", b"v1"),
        ("/v2", b"else"),
        ("/", b"else"),
        ("", b"else"),
        ("*", b"else"),
        ("//v1/users", b"else"),
        ("/x/v1/users", b"else"),
    ],
)
@pytest.mark.parametrize("root", [None, "", "/codegen", "/v1"])
def test_an_error_has_the_shape_of_the_longest_prefix_of_its_path(path: str, shape: bytes, root: str | None) -> None:
    def saying(what: str, *prefixes: str) -> Dialect:
        return Dialect(routes=(), render_error=lambda _: Response(what.encode()), prefixes=prefixes)

    dialects = {"native": saying("else"), "one": saying("v1", "/v1"), "other": saying("users", "/v1/users")}
    scope = {"path": path} if root is None else {"path": f"{root}{path}", "root_path": root}
    assert dialect_of(scope, dialects).render_error(errors.NotFound()).body == shape
    if root == "/codegen":  # a proxy may have cut it off
        assert dialect_of({**scope, "path": path}, dialects).render_error(errors.NotFound()).body == shape


@pytest.mark.parametrize(
    ("prefixes", "said"),
    [
        (("toy",), "the prefix 'toy' is not a path such as /toy"),
        (("/toy/",), "the prefix '/toy/' is not a path such as /toy"),
        (("",), "the prefix '' is not a path such as /toy"),
        (("/to", "/toy/runs/x"), "/toy/runs lies below none of the prefixes /to, /toy/runs/x"),
    ],
)
def test_a_dialect_whose_errors_another_would_render_is_refused(prefixes: tuple[str, ...], said: str) -> None:
    async def listed() -> None: ...

    route = APIRoute("/toy/runs", listed)
    assert Dialect(routes=[route], render_error=lambda _: Response(), prefixes=("/toy",)).paths == {"/toy/runs"}
    with pytest.raises(ValueError, match=re.escape(said)):
        Dialect(routes=[route], render_error=lambda _: Response(), prefixes=prefixes)


# -- connections ------------------------------------------------------------------------------------------------------


def test_a_client_who_leaves_before_the_first_byte_of_a_stream_is_no_fault() -> None:
    async def main() -> None:
        left = asyncio.Event()
        made: list[asyncio.Transport] = []

        class Serving(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                made.append(transport)

            def connection_lost(self, error: Exception | None) -> None:
                left.set()

        server = await asyncio.get_running_loop().create_server(Serving, "127.0.0.1", 0)
        async with server:
            _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
            client.close()
            await left.wait()
            ServerConnection(made[0]).limit_kernel_buffer()

    asyncio.run(asyncio.wait_for(main(), 30))


async def test_an_answer_that_is_whole_does_not_cost_the_connection() -> None:
    host = RichHost()
    host.unexpected = RuntimeError("secret")
    async with serving(host, org_id="9") as site:
        for path in ("/agent-runs/1", "/users/me", "/nothing", "/agent-runs/x", "/agent-runs?limit=0"):
            connection = Connection(site.app, path)
            await connection.task
            assert connection.complete
            assert not connection.transport.aborted, path


@pytest.mark.wire("error-internal")
async def test_an_answer_that_broke_off_is_cut_so_that_nobody_takes_it_for_the_whole() -> None:
    async with serving(RichHost()) as site:
        cut = []

        async def broken(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise RuntimeError("secret")

        site.app.mount("/broken", broken)
        connection = Connection(site.app, "/broken/x", AUTHORIZED)
        await connection.task
        cut.append(connection.transport.aborted)
        assert connection.status == 200
        assert not connection.complete
        assert cut == [True]


async def test_only_connections_that_have_not_taken_everything_are_cut_at_the_end() -> None:
    async with serving(RichHost()) as site:
        idle, stuck = (Connection(site.app, "/health") for _ in range(2))
        await asyncio.gather(idle.task, stuck.task)
        stuck.transport.waiting = 1
        site.edge.abort_stuck()
        assert (idle.transport.aborted, stuck.transport.aborted) == (False, True)


@pytest.mark.wire("drain-streams", "error-shape")
async def test_who_still_waits_when_the_process_stops_is_told_so() -> None:
    host = RichHost()
    waiting = asyncio.Event()

    async def hang(_: str) -> None:
        waiting.set()
        await asyncio.Event().wait()

    host.before = hang
    async with serving(host, cors_origins=APP) as site:
        connection = Connection(site.app, "/users/me", {**AUTHORIZED, "Origin": APP, "X-Request-ID": "abc"})
        await waiting.wait()
        site.edge.cancel_requests()
        await asyncio.wait([connection.task])
        assert (connection.status, connection.complete) == (503, True)
        body = json.loads(connection.body)
        assert (body["code"], body["request_id"]) == ("shutting_down", "abc")
        assert connection.headers["access-control-allow-origin"] == APP
        assert int(connection.headers["retry-after"]) >= 1
        assert not connection.transport.aborted


@pytest.mark.wire("drain-requests", "error-shape")
async def test_a_create_that_the_process_does_not_wait_for_is_not_told_as_the_hosts_silence() -> None:
    host = RichHost()
    waiting = asyncio.Event()

    async def hang(operation: str) -> None:
        if operation == "create":
            waiting.set()
            await asyncio.Event().wait()

    host.before = hang
    async with serving(host, org_id="9") as site:
        create = asyncio.create_task(site.post("/agent-runs", {"prompt": "Say hello"}))
        await waiting.wait()
        site.edge.cancel_requests()
        answer = await create
        assert (answer.status_code, answer.json()["code"]) == (504, "interrupted")
        assert "whether the host acted is unknown" in answer.json()["error"]


async def test_what_is_no_http_passes_the_edge_untouched() -> None:
    async with serving(RichHost()) as site:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/x", "headers": [], "query_string": b"", "subprotocols": []}
        await site.app(scope, receive, send)
        assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.wire("body-limit")
@pytest.mark.parametrize("says_its_length", [True, False])
@pytest.mark.parametrize(("size", "status"), [(1024 * 1024 - 1, 201), (1024 * 1024 + 1, 413)])
async def test_a_request_that_is_too_large_is_refused(says_its_length: bool, size: int, status: int) -> None:
    content = b'{"prompt":"' + b"x" * (size - 13) + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    async with serving(max_body_mib=1) as site:
        answer = await site.ask(
            "POST",
            "/agent-runs",
            content=content if says_its_length else pieces(),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == status
        if status == 413:
            assert answer.json()["code"] == "payload_too_large"
            assert answer.json()["error"] == "The request is too large: its body may have 1 MiB."
            assert not site.host.calls["create"]
