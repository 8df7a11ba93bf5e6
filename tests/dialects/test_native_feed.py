"""The feed on the wire. What it says and when is settled in tests/following; here it is how, and who may ask."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from codegen_api import errors
from tests.auth.issuer import Issuer
from tests.dialects.eventsource import Event, parse
from tests.dialects.site import AUTHORIZED, Connection, Site, serving
from tests.dialects.test_native_tickets import KEY, OTHER_KEY, code, opened
from tests.dialects.test_strangers import ISSUER, users_of
from tests.fakehost import FakeHost

FEED = "/agent-runs/stream"
TICKET = "/agent-runs/stream-ticket"


def a_host(count: int = 3) -> FakeHost:
    host = FakeHost()
    for number in range(1, count + 1):
        host.add(str(number), status="COMPLETE")
    return host


async def events_of(site: Site, path: str = FEED, count: int = 4, **headers: str) -> list[Event]:
    """The first ``count`` events, which end the watching."""
    connection = Connection(site.app, path, {**AUTHORIZED, **headers})
    async with asyncio.timeout(60):
        await connection.received(2)
        while connection.body.count(b"event: ") < count:
            await connection.received(len(connection.messages) + 1)
    await connection.left()
    assert connection.body.startswith(b"retry: 2000\n")
    return parse(connection.body)


def names(events: list[Event]) -> list[str]:
    return [event.type for event in events]


@pytest.mark.wire("feed-head", "feed-list", "feed-run", "feed-position", "host-fields-kept", "run-status")
async def test_a_feed_is_a_list_and_its_runs() -> None:
    async with serving(a_host()) as site:
        connection = Connection(site.app, FEED)
        await connection.received(5)
        await connection.left()
        assert connection.status == 200
        assert connection.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert connection.headers["cache-control"] == "no-cache, no-transform"
        assert connection.headers["x-accel-buffering"] == "no"
        assert connection.body.startswith(b"retry: 2000\nevent: list\ndata: ")
        events = parse(connection.body)
        assert names(events) == ["list", "run", "run", "run"]
        data = [json.loads(event.data) for event in events]
        assert data[0] == {"ids": [3, 2, 1]}
        assert data[1] == {"id": 3, "status": "COMPLETE", "result": None, "run_status": "completed", "ended": True}
        assert events[0].last_event_id == "0"
        assert [len(event.last_event_id) for event in events[1:]] == [8, 16, 24]
        again = await events_of(site, count=1, **{"Last-Event-ID": events[-1].last_event_id})
        assert [(event.type, event.last_event_id) for event in again] == [("list", events[-1].last_event_id)]
        rest = await events_of(site, f"{FEED}?lastEventId={events[1].last_event_id}", count=3)
        assert [json.loads(event.data).get("id") for event in rest] == [None, 2, 1]


@pytest.mark.wire("feed-lines", "ndjson", "feed-removed", "feed-at-once")
async def test_the_same_comes_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    host = a_host(2)
    async with serving(host, upstream_read_interval_seconds=0.1) as site:
        connection = Connection(site.app, FEED + "?limit=2", {**AUTHORIZED, "Accept": "application/x-ndjson"})
        await connection.received(4)
        assert connection.headers["content-type"] == "application/x-ndjson"
        assert (await site.post("/agent-runs", {"prompt": "Say hello"})).status_code == 201
        await connection.received(6)
        await connection.left()
        lines = [json.loads(line) for line in connection.body.splitlines()]
        assert [(line["event"], line["data"].get("id")) for line in lines] == [
            ("list", None), ("run", 2), ("run", 1), ("removed", 1), ("run", 3),
        ]  # fmt: skip
        assert all(set(line) == {"event", "id", "data"} for line in lines)
        assert len(lines[-1]["id"]) == 16


@pytest.mark.wire("feed-limit", "feed-ids", "query-empty")
@pytest.mark.parametrize(
    ("query", "ids"),
    [("", [3, 2, 1]), ("?limit=2", [3, 2]), ("?ids=1,3,", [1, 3]), ("?ids=", [3, 2, 1]), ("?ids=2&limit=1", [2])],
)
async def test_the_runs_are_the_newest_or_those_that_are_named(query: str, ids: list[int]) -> None:
    async with serving(a_host()) as site:
        events = await events_of(site, FEED + query, count=1 + len(ids))
        assert json.loads(events[0].data) == {"ids": ids}
        assert [json.loads(event.data)["id"] for event in events[1:]] == ids


@pytest.mark.wire("feed-limit", "feed-ids", "feed-position", "error-validation")
@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        ("?limit=0", (422, "validation_error")),
        ("?limit=101", (422, "validation_error")),
        ("?ids=x", (422, "validation_error")),
        ("?ids=" + ",".join(map(str, range(101))), (422, "validation_error")),
        ("?last_event_id=25", (400, "invalid_last_event_id")),
        ("?lastEventId=3.end", (400, "invalid_last_event_id")),
    ],
)
async def test_what_cannot_be_meant_is_refused_without_asking_the_host(query: str, refusal: tuple[int, str]) -> None:
    host = a_host()
    async with serving(host, org_id="9") as site:
        answer = await site.get(FEED + query)
        assert code(answer) == refusal
        assert set(host.calls) <= {"identify"}


TROUBLE = [
    (errors.UpstreamError(), 502, "upstream_unavailable"),
    (errors.UpstreamRateLimited(retry_after=9), 429, "rate_limited"),
]


@pytest.mark.wire("feed-trouble", "feed-rights", "feed-unsupported")
@pytest.mark.parametrize(("error", "status", "notice"), TROUBLE)
async def test_trouble_on_connect_is_an_error_and_on_reconnect_a_notice(
    error: errors.GatewayError, status: int, notice: str
) -> None:
    host = a_host()

    async def fail(operation: str) -> None:
        if operation == "list":
            raise error

    async with serving(host, secret_key=KEY) as site:
        url = (await site.post(TICKET)).json()["url"]
        host.before = fail
        assert (await site.get(FEED)).status_code == status
        for answer in (await opened(site, url), await site.get(FEED, headers={"Last-Event-ID": "0"})):
            assert answer.status_code == 200
            (event,) = parse(answer.content)
            assert (event.type, json.loads(event.data)["code"]) == ("notice", notice)
            assert re.match(rb"retry: [0-9]{4,5}\n", answer.content)
        for refused, expected in [(errors.Forbidden(), 403), (errors.Unsupported(), 501)]:
            error = refused
            for headers in ({}, {"Last-Event-ID": "0"}):
                assert (await site.get(FEED, headers=headers)).status_code == expected
                assert (await site.ask("HEAD", FEED, headers=headers)).status_code == expected


@pytest.mark.wire("feed-ticket", "ticket-mint", "ticket-right-first", "root-path")
@pytest.mark.filterwarnings("default:The `root_path`")
async def test_a_ticket_opens_the_feed_of_one_organization_and_no_log() -> None:
    host = a_host()
    async with serving(host, secret_key=KEY, root_path="/codegen") as site:
        answer = await site.post(TICKET, token="bob", headers={"X-Organization-ID": "9"})
        assert answer.status_code == 201
        assert answer.headers["cache-control"] == "no-store"
        body = answer.json()
        assert body["url"] == f"/codegen{FEED}?ticket={body['ticket']}"
        path = f"{FEED}?ticket={body['ticket']}"
        host.log.clear()
        events = await events_of(site, f"{path}&ids=1,2", count=3, Authorization="Basic x")
        assert names(events) == ["list", "run", "run"]
        assert {token for _, _, token in host.log} == {"bob"}
        of_run = (await site.post("/agent-runs/1/logs/stream-ticket")).json()["ticket"]
        assert code(await opened(site, f"{FEED}?ticket={of_run}")) == (401, "invalid_ticket")
        assert code(await opened(site, f"/agent-runs/1/logs/stream?ticket={body['ticket']}")) == (401, "invalid_ticket")
        assert code(await opened(site, path, headers={"X-Organization-ID": "8"})) == (401, "invalid_ticket")
        assert code(await opened(site, "/agent-runs?ticket=" + body["ticket"])) == (401, "not_authenticated")
        host.before = lambda _: _refuse()
        assert code(await site.post(TICKET)) == (403, "forbidden")
        host.before = lambda _: asyncio.sleep(0)
    async with serving(host, secret_key=OTHER_KEY) as site:
        assert code(await opened(site, path)) == (401, "invalid_ticket")
    async with serving(host) as site:
        assert code(await site.post(TICKET)) == (501, "tickets_not_configured")
        assert code(await opened(site, path)) == (501, "tickets_not_configured")


async def _refuse() -> None:
    raise errors.Forbidden


@pytest.mark.wire("feed-rights", "owner-checked", "scopes", "feed-ticket")
async def test_nothing_tells_a_stranger_of_runs(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    async with serving(a_host(), **users_of(tmp_path)) as site:
        assert (await site.post("/agent-runs", {"prompt": "Say hello"}, token=ISSUER.token("ann"))).status_code == 201
        ann = await events_of(site, count=2, **_bearer(ISSUER.token("ann")))
        assert [json.loads(event.data).get("id") for event in ann] == [None, 4]
        ids = ann[-1].last_event_id
        for token in (ISSUER.token("eve"), ISSUER.token("eve", scope="runs:read runs:write:all")):
            for query in ("", "?ids=4", "?ids=1,999", f"?last_event_id={ids}"):
                connection = Connection(site.app, FEED + query, _bearer(token))
                await connection.received(2)
                await connection.left()
                assert connection.body == b'retry: 2000\nevent: list\ndata: {"ids":[]}\nid: 0\n\n', query
        boss = await events_of(site, count=5, **_bearer(ISSUER.token("boss", scope="runs:read:all")))
        assert names(boss) == ["list", *["run"] * 4]
        assert "codegen_gateway" not in str(boss)
        assert "owner" not in str(boss)
        url = (await site.post(TICKET, token=ISSUER.token("ann"))).json()["url"]
        mine = await events_of(site, url, count=2, Authorization="Basic x")
        assert json.loads(mine[0].data) == {"ids": [4]}
        assert code(await site.get(FEED, token=ISSUER.token("ann", scope="openid"))) == (403, "insufficient_scope")
        assert code(await site.get(FEED, token=Issuer("second").token("ann"))) == (401, "invalid_token")
        assert code(await site.get(FEED, token=None)) == (401, "not_authenticated")


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.wire("feed-rights")
async def test_a_refusal_in_the_middle_is_a_failure() -> None:
    host = a_host(1)
    async with serving(host, upstream_read_interval_seconds=0.1, upstream_requests_per_minute=60_000) as site:
        site.app.state.parts.gateway.feeds.every = 0.1
        connection = Connection(site.app, FEED)
        await connection.received(3)
        host.tokens.clear()
        async with asyncio.timeout(60):
            await connection.task
        assert connection.complete
        last = parse(connection.body)[-1]
        data: Any = json.loads(last.data)
        assert (last.type, data["code"], data["status_code"]) == ("failure", "invalid_token", 401)
