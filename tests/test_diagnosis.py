"""What an operator finds in the log when something outside is wrong: one line, with the cause, and nothing secret."""

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from codegen_api import create_app
from codegen_api.build_parts import DIALECTS
from codegen_api.errors import Forbidden, UpstreamError
from tests.auth.issuer import AUDIENCE, Issuer
from tests.dialects.mcp import called
from tests.dialects.site import Site, lifespan, run, serving, settings
from tests.fakehost import FakeHost, Sequence
from tests.upstreams.rawhost import Conversation, Script, answer, raw_host, saying, unused_port

TOKEN = "sk-a-token-of-somebody"
ME = b'{"id":7,"github_user_id":"7","github_username":"somebody"}'
RUN = b'{"id":41894,"organization_id":323,"status":"ACTIVE"}'
REASON = "GET http://host/v1/x/{id}: status 502, text/html, which is no JSON"


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def lines(caplog: pytest.LogCaptureFixture, begin: str) -> list[tuple[int, str]]:
    records = [each for each in caplog.records if each.name == "codegen_api"]
    return [(each.levelno, each.getMessage()) for each in records if each.getMessage().startswith(begin)]


def well_but_for(script: Script) -> Script:
    """A host that knows the caller, and whatever else it is asked plays ``script``."""

    async def play(conversation: Conversation) -> object:
        if "/users/me " in conversation.request.line:
            await conversation.say(answer(ME))
            return False
        return await script(conversation)

    return play


@asynccontextmanager
async def before(url: str, **more: Any) -> AsyncIterator[Site]:
    app = create_app(settings(base_url=url, org_id="323", upstream_read_timeout_seconds=0.2, **more))
    async with lifespan(app):
        yield Site(app, None)


async def silence(_: Conversation) -> None:
    await asyncio.Event().wait()


@pytest.mark.wire("trace-travels", "logs-hold-no-secrets")
@pytest.mark.parametrize(
    ("script", "status", "told"),
    [
        (
            saying(answer(b"<html>", status="503 No", kind="text/html")),
            502,
            "upstream_error (%s: status 503, text/html, which is no JSON)",
        ),
        (
            saying(answer(b"<html>", kind="text/html")),
            502,
            "upstream_error (%s: status 200, text/html, which is no JSON)",
        ),
        (
            saying(answer(b"", "Location: https://else.example/?secret=1", status="302 No")),
            502,
            "upstream_error (%s: status 302, a redirect to else.example, which is not followed)",
        ),
        (saying(answer(RUN)[:-5]), 502, "upstream_error (%s: the answer broke off: ClientPayloadError)"),
        (silence, 504, "upstream_timeout (%s: no answer within 0.2 s)"),
        (
            saying(answer(b'{"message":"Agent run not found."}', status="404 No")),
            404,
            "not_found (%s: status 404, application/json)",
        ),
        (saying(answer(b"{}", status="429 No")), 429, "upstream_rate_limited (%s: status 429, application/json)"),
    ],
)
def test_one_line_says_what_was_asked_and_what_came(
    script: Script, status: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> str:
        async with raw_host(well_but_for(script)) as host, before(host.url) as site:
            given = await site.post("/agent-runs?x=a-secret-query", {"prompt": "a secret prompt"}, token=TOKEN)
            assert given.status_code == status
            assert host.url not in given.text
            return host.url

    with caplog.at_level(logging.INFO, "codegen_api"):
        url = run(main())
    ((level, line),) = lines(caplog, "POST ")
    told = told % f"POST {url}/v1/organizations/{{id}}/agent/run"
    assert re.fullmatch(rf"POST /agent-runs {status} [0-9]+ ms {re.escape(told)}", line)
    assert level == (logging.WARNING if status >= 500 else logging.INFO)
    assert "secret" not in line
    assert TOKEN not in caplog.text


@pytest.mark.wire("health")
def test_a_host_that_is_not_there_is_told_in_the_log_and_in_health(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> dict[str, Any]:
        async with before(f"http://127.0.0.1:{unused_port()}") as site:
            assert (await site.get("/agent-runs/1/logs/stream", token=TOKEN, headers={"Last-Event-ID": "3"})).is_success
            health: dict[str, Any] = (await site.get("/health", token=None)).json()
            return health

    with caplog.at_level(logging.INFO, "codegen_api"):
        health = run(main())
    trouble = health["upstream"]["trouble"]
    assert (health["status"], trouble.partition(":")[0]) == ("degraded", "no connection")
    assert health["upstream"]["since"] <= health["upstream"]["checked_at"]
    ((level, line),) = lines(caplog, "GET /agent-runs")
    assert level == logging.WARNING
    assert line.endswith(f"/v1/users/me: {trouble}))")
    assert " 200 " in line
    assert " auth_unavailable (host: it cannot be asked whose a token is (GET http://" in line


def test_what_is_well_and_what_the_caller_did_wrong_is_told_in_few_words(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(FakeHost()) as site:
            site.host.add()
            await site.get("/agent-runs/1")
            await site.post("/agent-runs", {"prompt": 7})
            await site.get("/agent-runs/1", token=None)
            await site.get("/nowhere")

    with caplog.at_level(logging.INFO, "codegen_api"):
        run(main())
    shown = [re.sub(r"[0-9]+ ms", "N ms", line) for level, line in lines(caplog, "") if " ms" in line]
    assert shown == [
        "GET /agent-runs/1 200 N ms",
        "POST /agent-runs 422 N ms validation_error",
        "GET /agent-runs/1 401 N ms not_authenticated",
        "GET /nowhere 404 N ms not_found",
    ]


CREATES: dict[str, tuple[str, dict[str, Any]]] = {
    "native": ("/agent-runs", {"prompt": "Say hello"}),
    "codegen": ("/v1/organizations/9/agent/run", {"prompt": "Say hello"}),
    "agent_protocol": (
        "/runs/wait",
        {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": "Say hello"}]}},
    ),
    "everruns": ("/v1/sessions/{session}/messages", {"message": {"content": [{"type": "text", "text": "Say hello"}]}}),
    "agio": ("/api/chat", {"message": "Say hello"}),
    "openai": ("/v1/responses", {"input": "Say hello", "background": True}),
    "ai_sdk": (
        "/ui/chat",
        {"id": "c1", "messages": [{"role": "user", "parts": [{"type": "text", "text": "Say hello"}]}]},
    ),
    "mcp": ("/mcp", called("start_run", prompt="Say hello")),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_cause_is_told_whatever_the_client_speaks(dialect: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        path, body = CREATES[dialect]
        async with serving(FakeHost(), dialects=(dialect,)) as site:
            agents = {"everruns": "/v1/agents", "agio": "/api/agents"}
            if dialect in agents:
                given = {"name": "a", "system_prompt": "Be brief.", "display_name": "A"}
                agent = (await site.post(agents[dialect], given)).json()["id"]
                body = {**body, **({"agent_id": agent} if dialect == "agio" else {})}
                if dialect == "everruns":
                    session = (await site.post(f"/v1/agents/{agent}/sessions", {})).json()["id"]
                    path = path.format(session=session)
            site.host.before = Sequence("create", *[UpstreamError(reason=REASON)] * 3)
            assert (await site.post(path, body)).status_code in (200, 502), path

    with caplog.at_level(logging.INFO, "codegen_api"):
        run(main())
    ((level, line),) = [each for each in lines(caplog, "POST ") if "upstream_error" in each[1]]
    assert (level, line.partition(" ms ")[2]) == (logging.WARNING, f"upstream_error ({REASON})")


def test_a_stream_that_fails_says_in_its_line_why(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(FakeHost()) as site:
            site.host.add().append(3)
            site.host.before = Sequence("log", *[Forbidden(reason=REASON)] * 3)
            assert "event: failure" in (await site.get("/agent-runs/1/logs/stream")).text

    with caplog.at_level(logging.INFO, "codegen_api"):
        run(main())
    ((level, line),) = lines(caplog, "GET ")
    assert (level, line.partition(" ms ")[2]) == (logging.WARNING, f"forbidden ({REASON})")


def test_a_reason_stays_on_one_line_and_is_not_endless(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(FakeHost()) as site:
            site.host.add()
            site.host.before = Sequence("get", *[UpstreamError(reason="a\nb\x1b[31m\u2028" + "c" * 10_000)] * 3)
            await site.get("/agent-runs/1")

    with caplog.at_level(logging.INFO, "codegen_api"):
        run(main())
    ((_, line),) = lines(caplog, "GET ")
    assert r"upstream_error (a\nb\x1b[31m\u2028ccc" in line
    assert len(line) < 700


def test_the_start_says_which_proxies_are_in_the_way(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:hunter2@proxy.example:3128/")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    with caplog.at_level(logging.INFO, "codegen_api"):
        create_app(settings(base_url="http://host.example"))
        create_app(settings(base_url="http://10.1.2.3"))
    said = "requests to the host go through the proxy http://proxy.example:3128"
    assert lines(caplog, "requests ") == [(logging.INFO, said)]
    assert "hunter2" not in caplog.text


async def test_an_issuer_in_an_excepted_network_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer()

    async def publish(conversation: Conversation) -> None:
        await conversation.say(answer(json.dumps(issuer.jwks).encode()))

    async with raw_host(publish) as keys, raw_host(saying()) as proxy, raw_host(saying(answer(RUN))) as host:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,127.0.0.0/8")
        known = {"jwt_issuer": issuer.name, "jwt_audience": AUDIENCE, "jwt_jwks_url": f"{keys.url}/keys"}
        more = {"auth": ("jwt",), "api_token": "sk-of-the-deployment", "secret_key": "0" * 64, **known}
        async with before(host.url, **more) as site:
            assert (await site.get("/users/me", token=issuer.token("ann"))).status_code == 200
        assert (len(keys.requests) > 0, proxy.connections) == (True, 0)
