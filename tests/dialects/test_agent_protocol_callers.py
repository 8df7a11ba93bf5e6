"""Who is calling the Agent Protocol: with a bearer token, with a key in a header of its own, or with nothing at all."""

import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from codegen_api import create_app
from tests.dialects.sdk import speaking
from tests.dialects.site import settings
from tests.fakehost import FakeHost
from tests.leaks import WATCH

BEARER = "Authorization"
KEY = "x-api-key"
FOREIGN = ("lsv2_pt_0123456789abcdef", "lsv2_sk_0123456789abcdef", "ls__0123456789abcdef")
WHO: list[tuple[dict[str, str], str | None]] = [
    ({BEARER: "Bearer alice"}, "alice"),
    ({KEY: "alice"}, "alice"),
    ({KEY: " bob "}, "bob"),
    ({BEARER: "Bearer alice", KEY: "bob"}, "alice"),
    ({BEARER: "Bearer alice", KEY: FOREIGN[0]}, "alice"),
    ({BEARER: "Bearer nobody", KEY: "alice"}, "invalid_token"),
    ({BEARER: "Bearer", KEY: "alice"}, "invalid_token"),
    ({BEARER: f"Bearer {FOREIGN[0]}"}, "invalid_token"),
    ({BEARER: "Basic YWxpY2U6", KEY: "alice"}, "alice"),
    ({BEARER: "Basic YWxpY2U6"}, "not_authenticated"),
    ({KEY: "nobody"}, "invalid_token"),
    ({KEY: "with a space"}, "invalid_token"),
    ({KEY: ""}, None),
    ({BEARER: ""}, None),
    ({}, None),
    *(({KEY: key}, None) for key in FOREIGN),
]
"""What comes, and whose it is, or how it is refused. None: nobody says who."""


@pytest.mark.parametrize("demo", [None, "bob"])
async def test_who_is_calling(demo: str | None) -> None:
    for name in FOREIGN:
        WATCH.secret("a key for somebody else", name)
    async with speaking(demo_token=demo) as site:
        for user in ("alice", "bob"):
            made = await site.post("/threads", {"thread_id": f"of-{user}"}, token=user)
            assert made.status_code == 200
        for headers, expected in WHO:
            told = expected or demo or "not_authenticated"
            answer = await site.post("/threads/search", {}, token=None, headers=headers)
            if told in ("alice", "bob"):
                assert [thread["thread_id"] for thread in answer.json()] == [f"of-{told}"], headers
            else:
                assert (answer.status_code, answer.json()["code"]) == (401, told), headers
                assert answer.json()["error"] == "unauthorized"
                assert answer.headers["www-authenticate"].startswith("Bearer")
        shown = {token for _, _, token in site.host.log}
        assert not shown & set(FOREIGN), "such keys are shown to no host"


async def test_the_demo_user_comes_in_nowhere_else() -> None:
    async with speaking(dialects=("codegen", "agent_protocol"), demo_token="alice") as site:
        for path in ("/users/me", "/agent-runs", "/v1/users/me"):
            answer = await site.get(path, token=None)
            assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated"), path
        for path in ("/users/me", "/v1/users/me"):
            assert (await site.get(path, token=None, headers={KEY: "alice"})).status_code == 401


async def test_what_the_demo_user_asks_is_counted() -> None:
    async with speaking(demo_token="alice", requests_per_minute=2) as site:
        statuses = [(await site.get("/assistants", token=None)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await site.get("/assistants")).json()["error"] == "rate_limited"
        assert (await site.get("/assistants", token="bob")).status_code == 200


@pytest.mark.parametrize(
    ("dialects", "demo", "warned"),
    [
        (("agent_protocol",), "sk-demo-0123456789", True),
        (("agent_protocol",), None, False),
        (("native", "codegen"), "sk-demo-0123456789", False),
    ],
)
def test_that_anybody_is_let_in_is_said_aloud_and_the_token_is_not(
    dialects: tuple[str, ...], demo: str | None, warned: bool, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    caplog.set_level(logging.INFO)
    create_app(settings(dialects=dialects, demo_token=demo, data_dir=tmp_path), upstream=FakeHost())
    lines = [record for record in caplog.records if "without credentials are accepted" in record.getMessage()]
    assert [record.levelname for record in lines] == ["WARNING"] * warned
    assert "sk-demo" not in caplog.text


async def test_whether_anybody_is_there_is_told_to_everybody() -> None:
    async with speaking(title="My Codegen API", version="2.0.0") as site:
        assert (await site.get("/ok", token=None)).json() == {"ok": True}
        info = (await site.get("/info", token=None, headers={KEY: FOREIGN[0]})).json()
        assert (info["name"], info["version"]) == ("My Codegen API", "2.0.0")
        assert info["flags"] == {"assistants": True, "crons": False, "langsmith": False}
        assert site.host.calls.total() == 0


PAGE = "https://chat.example.com"


def test_pages_may_send_what_their_sdk_sends_and_read_what_it_reads(tmp_path: Any) -> None:
    app = create_app(
        settings(dialects=("agent_protocol",), cors_origins=(PAGE,), data_dir=tmp_path), upstream=FakeHost()
    )
    sent = "authorization,cache-control,content-type,last-event-id,prefer,x-api-key,x-auth-scheme"
    with TestClient(app) as client:
        asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": sent}
        preflight = client.options("/threads/t/runs/stream", headers=asked)
        assert preflight.status_code == 200
        assert set(sent.split(",")) <= set(preflight.headers["access-control-allow-headers"].lower().split(", "))
        shown = client.get("/info", headers={"Origin": PAGE}).headers["access-control-expose-headers"].lower()
        for name in ("location", "content-location", "x-pagination-next", "x-pagination-total", "x-request-id"):
            assert name in shown.split(", ")
