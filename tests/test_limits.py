"""The limits of the HTTP side: how often one may ask, under which name, and how much may be said."""

from typing import Any

import httpx
import pytest

from tests.auth.clock import Clock
from tests.dialects.eventsource import parse
from tests.dialects.rich import RichHost
from tests.dialects.site import run, serving

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
def test_a_user_gets_so_many_requests_a_minute_whatever_comes_of_them(clock: Clock) -> None:
    asked: list[tuple[str, str, int]] = [
        ("GET", "/users/me", 200),
        ("GET", "/agent-runs/99", 404),
        ("GET", "/agent-runs?limit=0", 422),
        ("POST", "/agent-runs", 422),
        ("GET", STREAM, 200),
        ("POST", "/agent-runs/1/cancel", 200),
    ]

    async def main() -> None:
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

    run(main())


@pytest.mark.wire("rate-limit", "trouble-on-connect", "trouble-on-reconnect")
def test_a_ticket_counts_for_its_owner_and_is_told_to_come_back(clock: Clock) -> None:
    async def main() -> None:
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

    run(main())


@pytest.mark.wire("rate-limit-headers")
def test_an_answer_to_nobody_in_particular_says_nothing_of_a_limit() -> None:
    async def main() -> None:
        async with serving(a_host(), requests_per_minute=1) as site:
            for path in ("/health", "/livez", "/metrics", "/docs", "/nothing", "/users/me"):
                for _ in range(2):
                    assert standing(await site.get(path, token="sk-nobody")) == (None, None)

    run(main())


@pytest.mark.wire("rate-limit", "rate-limit-headers")
def test_nothing_is_counted_unless_the_deployment_says_so() -> None:
    async def main() -> None:
        async with serving(a_host()) as site:
            for path in ("/users/me", STREAM, "/agent-runs/99"):
                for _ in range(20):
                    answer = await site.get(path)
                    assert answer.status_code in (200, 404)
                    assert standing(answer) == (None, None)

    run(main())


@pytest.mark.wire("rate-limit-headers", "cors-headers")
def test_pages_of_other_origins_may_read_what_is_left() -> None:
    async def main() -> None:
        async with serving(a_host(), requests_per_minute=9, cors_origins="https://app.example.com") as site:
            more: dict[str, Any] = {"headers": {"Origin": "https://app.example.com"}}
            exposed = (await site.get("/users/me", **more)).headers["access-control-expose-headers"]
            assert {"RateLimit", "RateLimit-Policy"} <= {name.strip() for name in exposed.split(",")}

    run(main())
