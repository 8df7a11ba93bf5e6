"""The limits of the HTTP side: how often one may ask, under which name, and how much may be said."""

from typing import Any

import httpx
import pytest

from tests.auth.clock import Clock
from tests.dialects.eventsource import parse
from tests.dialects.rich import RichHost
from tests.dialects.site import Connection, serving

KEY = "k" * 32
STREAM = "/agent-runs/1/logs/stream"


def a_host() -> RichHost:
    host = RichHost()
    host.add(status="COMPLETE").append(3)
    return host


# -- how often --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def standing(answer: httpx.Response) -> tuple[str | None, str | None]:
    return answer.headers.get("ratelimit-policy"), answer.headers.get("ratelimit")


@pytest.mark.wire("rate-limit", "rate-limit-headers", "error-retry-after")
async def test_a_user_gets_so_many_requests_a_minute_whatever_comes_of_them(clock: Clock) -> None:
    asked: list[tuple[str, str, int]] = [
        ("GET", "/users/me", 200),
        ("GET", "/agent-runs/99", 404),
        ("GET", "/agent-runs?limit=0", 422),
        ("POST", "/agent-runs", 422),
        ("GET", STREAM, 200),
        ("POST", "/agent-runs/1/cancel", 409),
    ]

    clock.now += 15
    async with serving(a_host(), requests_per_minute=6, org_id="9") as site:
        for left, (method, path, status) in enumerate(reversed(asked)):
            answer = await site.ask(method, path)
            assert answer.status_code == status
            assert standing(answer) == ('"default";q=6;w=60', f'"default";r={5 - left};t=45')
        site.host.calls.clear()
        for method, path, _ in asked:
            answer = await site.ask(method, path)
            if path.endswith("limit=0") or method == "POST":
                continue
            assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
            assert answer.json()["error"] == "You have made as many requests as you may in a minute."
            assert answer.headers["retry-after"] == "45"
            assert standing(answer) == ('"default";q=6;w=60', '"default";r=0;t=45')
        assert not site.host.calls
        assert (await site.get("/users/me", token="bob")).status_code == 200
        clock.now += 45
        assert (await site.get("/users/me")).status_code == 200


@pytest.mark.wire("rate-limit", "trouble-on-connect", "trouble-on-reconnect")
async def test_a_ticket_counts_for_its_owner_and_is_told_to_come_back(clock: Clock) -> None:
    async with serving(a_host(), requests_per_minute=3, secret_key=KEY) as site:
        url = (await site.post(STREAM + "-ticket")).json()["url"]
        for left in (1, 0):
            answer = await site.get(url, token=None)
            assert standing(answer) == ('"default";q=3;w=60', f'"default";r={left};t=60')
            assert answer.text.count("event: log\n") == 3
        for headers in ({}, {"Last-Event-ID": "2"}):
            answer = await site.get(url, token=None, headers=headers)
            (event,) = parse(answer.content)
            assert (answer.status_code, event.type) == (200, "notice")
            assert '"rate_limited"' in event.data
            assert event.retry is not None
            assert event.retry >= 60_000
            assert standing(answer) == ('"default";q=3;w=60', '"default";r=0;t=60')
        assert (await site.get(STREAM)).status_code == 429
        assert (await site.get(STREAM, headers={"Last-Event-ID": "2"})).status_code == 200


@pytest.mark.wire("rate-limit-headers")
async def test_an_answer_to_nobody_in_particular_says_nothing_of_a_limit() -> None:
    async with serving(a_host(), requests_per_minute=1) as site:
        for path in ("/health", "/livez", "/metrics", "/docs", "/nothing", "/users/me"):
            for _ in range(2):
                assert standing(await site.get(path, token="sk-nobody")) == (None, None)


@pytest.mark.wire("rate-limit", "rate-limit-headers")
async def test_nothing_is_counted_unless_the_deployment_says_so() -> None:
    async with serving(a_host()) as site:
        for path in ("/users/me", STREAM, "/agent-runs/99"):
            for _ in range(20):
                answer = await site.get(path)
                assert answer.status_code in (200, 404)
                assert standing(answer) == (None, None)


@pytest.mark.wire("rate-limit-headers", "cors-headers")
async def test_pages_of_other_origins_may_read_what_is_left() -> None:
    async with serving(a_host(), requests_per_minute=9, cors_origins="https://app.example.com") as site:
        more: dict[str, Any] = {"headers": {"Origin": "https://app.example.com"}}
        exposed = (await site.get("/users/me", **more)).headers["access-control-expose-headers"]
        assert {"RateLimit", "RateLimit-Policy"} <= {name.strip() for name in exposed.split(",")}


# -- under which name -------------------------------------------------------------------------------------------------

HOSTS = "agents.example.com, *.internal.example, 10.0.0.7, [::1]"
OURS = [
    "agents.example.com", "Agents.Example.COM:8443", "agents.example.com.", "agents.example.com:", "a.internal.example",
    "a.b.INTERNAL.example:80", "10.0.0.7:8000", "[::1]", "[::1]:8000",
]  # fmt: skip
NOT_OURS = [
    "", "gateway", "internal.example", ".internal.example", "evil.example", "xagents.example.com",
    "agents.example.com.evil", "evil/agents.example.com", "evil@agents.example.com", "agents.example.com:80:80",
    "agents.example.com, evil.example", "agents.example.com evil", "x.internal.example\u00e9", "xinternal.example",
    "[::2]", "::1", "10.0.0.70", "*", "*.internal.example", "evil?.internal.example", "evil#.internal.example",
    "evil/.internal.example", "agents.example.com..",
]  # fmt: skip
PATHS = ["/health", "/users/me", STREAM, "/nothing", "/docs", "/openapi.json", "/metrics"]


def named(*hosts: str) -> list[tuple[bytes, bytes]]:
    return [(b"Host", host.encode("latin-1")) for host in hosts]


@pytest.mark.wire("trusted-hosts")
@pytest.mark.parametrize("name", OURS)
async def test_the_gateway_answers_to_its_names(name: str) -> None:
    async with serving(a_host(), trusted_hosts=HOSTS) as site:
        for path in PATHS:
            assert (await site.get(path, headers=named(name))).status_code in (200, 404), path


@pytest.mark.wire("trusted-hosts", "error-shape")
@pytest.mark.parametrize("name", NOT_OURS)
async def test_the_gateway_answers_to_no_other_name(name: str) -> None:
    async with serving(a_host(), trusted_hosts=HOSTS) as site:
        for path in PATHS:
            answer = await site.get(path, headers=named(name))
            assert (answer.status_code, answer.json()["code"]) == (400, "untrusted_host")
            assert answer.json()["error"].startswith("The gateway is not called by this name")
        assert not site.host.calls


@pytest.mark.wire("trusted-hosts")
async def test_a_request_with_two_names_or_none_is_refused_and_so_is_a_preflight() -> None:
    app = "https://app.example.com"
    async with serving(a_host(), trusted_hosts=HOSTS, cors_origins=app) as site:
        both = await site.get("/health", headers=named("agents.example.com", "agents.example.com"))
        assert (both.status_code, both.json()["code"]) == (400, "untrusted_host")
        asked = [*named("evil.example"), (b"Origin", app.encode()), (b"Access-Control-Request-Method", b"GET")]
        preflight = await site.ask("OPTIONS", "/users/me", token=None, headers=asked)
        assert (preflight.status_code, preflight.json()["code"]) == (400, "untrusted_host")
        assert preflight.headers["access-control-allow-origin"] == app
        for path, status in (("/health", 400), ("/livez", 200)):
            nameless = Connection(site.app, path, {"X-Request-ID": "abc"})
            await nameless.task
            assert nameless.status == status


@pytest.mark.wire("trusted-hosts", "readiness")
@pytest.mark.parametrize("root_path", ["", "/codegen"])
@pytest.mark.filterwarnings("default:The `root_path`")
async def test_probes_may_call_it_by_its_address(root_path: str) -> None:
    async with serving(a_host(), trusted_hosts=HOSTS, root_path=root_path) as site:
        for path in ("/livez", "/readyz", f"{root_path}/livez", f"{root_path}/readyz"):
            assert (await site.get(path, headers=named("10.1.2.3:8000"))).status_code == 200
        for path in ("/livez/", "/readyz/x", "/x/livez", "/LIVEZ"):
            assert (await site.get(path, headers=named("10.1.2.3:8000"))).status_code == 400


@pytest.mark.wire("trusted-hosts")
@pytest.mark.parametrize("trusted", ["*", HOSTS])
async def test_no_answer_holds_what_the_host_header_said(trusted: str) -> None:
    async with serving(a_host(), trusted_hosts=trusted, secret_key=KEY) as site:
        headers = [
            *named("evil.example"),
            (b"X-Forwarded-Host", b"evil.example"),
            (b"Forwarded", b"host=evil.example"),
        ]
        for path in [*PATHS, "/redoc", "/agent-runs/1/logs?limit=1", "/agent-runs/", "/livez/"]:
            answer = await site.get(path, headers=headers)
            assert "evil" not in answer.text + str(answer.headers)
        for path in ("/agent-runs", STREAM + "-ticket"):
            answer = await site.post(path, {"prompt": "Say hello"}, headers=headers)
            assert "evil" not in answer.text + str(answer.headers)


# -- how much ---------------------------------------------------------------------------------------------------------

LONGEST = 16 * 1024
APP = "https://app.example.com"


def target(size: int, kind: str) -> str:
    return "/health?x=".ljust(size, "x") if kind == "query" else "/".ljust(size, "x")


@pytest.mark.wire("head-limit", "error-shape", "cors-every-answer")
@pytest.mark.parametrize(("kind", "status"), [("path", 404), ("query", 200)])
async def test_a_url_may_have_16_kib(kind: str, status: int) -> None:
    async with serving(a_host(), cors_origins=APP) as site:
        assert (await site.get(target(LONGEST, kind))).status_code == status
        for size in (LONGEST + 2, 60_000):
            answer = await site.get(target(size, kind), headers={"Origin": APP, "X-Request-ID": "abc"})
            assert (answer.status_code, answer.json()["code"]) == (414, "uri_too_long")
            assert answer.json()["request_id"] == "abc"
            assert answer.headers["access-control-allow-origin"] == APP


@pytest.mark.wire("head-limit", "error-shape", "cors-every-answer")
@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ([("X-Long", "x" * 60_000)], True),
        ([("X-Long", "x" * 65_536)], False),
        ([("x" * 65_536, "")], False),
        ([(f"X-{number}", "x" * 1000) for number in range(60)], True),
        ([(f"X-{number}", "x" * 1000) for number in range(66)], False),
        ([("X-Same", "")] * 190, True),
        ([("X-Same", "")] * 201, False),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/livez", "/users/me", "/nothing"])
async def test_headers_may_have_64_kib_and_be_200(path: str, more: list[tuple[str, str]], fits: bool) -> None:
    async with serving(a_host(), cors_origins=APP) as site:
        answer = await site.get(path, headers=[*more, ("Origin", APP)])
        assert answer.headers["access-control-allow-origin"] == APP
        if fits:
            assert answer.status_code in (200, 404)
        else:
            assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")
            assert not site.host.calls
