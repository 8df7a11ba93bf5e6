"""Stream tickets over HTTP: who gets one, what it opens, and all it does not open."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Caller, Credential, Principal
from codegen_api.runs import RunRef
from tests.auth.issuer import AUDIENCE, Issuer
from tests.dialects.eventsource import parse
from tests.dialects.rich import RichHost
from tests.dialects.site import Site, run, serving
from tests.dialects.test_native_stream import STREAM, TROUBLE, a_host, lines, summary

ISSUER = Issuer()
KEY, OTHER_KEY = "k" * 32, "o" * 32
TICKET = "/agent-runs/1/logs/stream-ticket"


async def minted(site: Site, **more: Any) -> str:
    """The URL of a new ticket."""
    answer = await site.post(TICKET, **more)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["url"])


async def opened(site: Site, url: str, **more: Any) -> httpx.Response:
    """What comes without an Authorization header."""
    return await site.get(url, token=None, **more)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# -- getting one ------------------------------------------------------------------------------------------------------


@pytest.mark.wire("ticket-mint", "ticket-life", "root-path")
@pytest.mark.filterwarnings("default:The `root_path`")
@pytest.mark.parametrize("root_path", ["", "/codegen"])
async def test_a_ticket_comes_with_its_url_and_the_time_it_expires(root_path: str) -> None:
    async with serving(a_host(), secret_key=KEY, root_path=root_path) as site:
        before = datetime.now(UTC)
        answer = await site.post(TICKET)
        assert answer.status_code == 201
        assert answer.headers["cache-control"] == "no-store"
        body = answer.json()
        assert set(body) == {"ticket", "url", "expires_at"}
        assert body["url"] == f"{root_path}/agent-runs/1/logs/stream?ticket={body['ticket']}"
        assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}Z", body["expires_at"])
        lasts = datetime.fromisoformat(body["expires_at"]) - before
        assert timedelta(hours=1) <= lasts < timedelta(hours=1, minutes=1)
        assert "alice" not in answer.text
        assert (await opened(site, body["url"])).text.count("event: log\n") == 3


@pytest.mark.wire("ticket-right-first")
@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (errors.InvalidToken(), (401, "invalid_token")),
        (errors.Forbidden(), (403, "forbidden")),
        (errors.NotFound(), (404, "not_found")),
        (errors.UpstreamTimeout(), (504, "upstream_timeout")),
    ],
)
async def test_who_may_not_see_the_run_gets_the_ordinary_answer_and_no_ticket(
    error: errors.GatewayError, refusal: tuple[int, str]
) -> None:
    host = a_host()
    async with serving(host, secret_key=KEY) as site:
        await minted(site)

        async def fail(operation: str) -> None:
            if operation == "get":
                raise error

        host.before = fail  # a right that holds already is not enough
        answer = await site.post(TICKET)
        assert code(answer) == refusal
        assert "ticket" not in answer.text


@pytest.mark.wire("ticket-right-first", "auth-challenge", "org-choice", "id-form")
async def test_a_ticket_is_asked_for_like_anything_else() -> None:
    async with serving(a_host(), secret_key=KEY) as site:
        await minted(site, headers={"X-Organization-ID": "9"})
        assert site.host.calls["organizations"] == 0
        assert code(await site.post(TICKET, token=None)) == (401, "not_authenticated")
        assert code(await site.post(TICKET, token="mallory")) == (401, "invalid_token")
        assert code(await site.post("/agent-runs/x/logs/stream-ticket")) == (422, "validation_error")
        assert code(await site.post(TICKET, headers={"X-Organization-ID": "x"})) == (422, "validation_error")


@pytest.mark.wire("ticket-not-configured")
async def test_without_a_key_there_are_no_tickets() -> None:
    async with serving(a_host()) as site:
        assert code(await site.post(TICKET)) == (501, "tickets_not_configured")
        assert code(await opened(site, f"{STREAM}?ticket=x")) == (501, "tickets_not_configured")
        assert (await site.get(f"{STREAM}?ticket=x")).status_code == 200
        assert code(await opened(site, STREAM)) == (401, "not_authenticated")


# -- using it ---------------------------------------------------------------------------------------------------------


@pytest.mark.wire("ticket-stream", "auth-own-token")
async def test_the_host_is_asked_with_the_token_of_who_got_the_ticket() -> None:
    host = a_host()
    async with serving(host, secret_key=KEY) as first:
        url = await minted(first, token="bob")
    async with serving(host, secret_key=KEY, org_id="9") as site:
        host.log.clear()
        answer = await opened(site, url)
        assert summary(parse(answer.content))[-1] == ("end", "3.end")
        assert {token for _, _, token in host.log} == {"bob"}
        assert {"identify", "get"} <= {operation for _, operation, _ in host.log}


@pytest.mark.wire("ticket-stream", "position-sources", "position-continues", "end-known")
async def test_positions_stand_beside_a_ticket() -> None:
    async with serving(a_host(), secret_key=KEY) as site:
        url = await minted(site)
        events = parse((await opened(site, url + "&last_event_id=2")).content)
        assert summary(events)[-2:] == [("log", "3"), ("end", "3.end")]
        answer = await opened(site, url + "&last_event_id=2", headers={"Last-Event-ID": "3"})
        assert "event: log\n" not in answer.text
        assert "event: end\n" in answer.text
        again = parse((await opened(site, url + "&last_event_id=0&lastEventId=2")).content)
        assert summary(again)[-2:] == [("log", "3"), ("end", "3.end")]
        assert (await opened(site, url, headers={"Last-Event-ID": "3.end"})).status_code == 204
        assert code(await opened(site, url + "&last_event_id=x")) == (400, "invalid_last_event_id")
        answer = await opened(site, url, headers={"Accept": "application/x-ndjson"})
        assert lines(answer.content)[-1]["event"] == "end"


@pytest.mark.wire("ticket-stream")
async def test_a_bearer_token_goes_before_a_ticket() -> None:
    host = a_host()
    async with serving(host, secret_key=KEY) as site:
        url = await minted(site, token="bob")
        host.log.clear()
        assert (await site.get(url, token="alice")).status_code == 200
        assert {token for _, _, token in host.log} == {"alice"}
        assert (await site.get(f"{STREAM}?ticket=x")).status_code == 200
        assert code(await site.get(url, token="mallory")) == (401, "invalid_token")
        # what a browser sends by itself to a page behind a password is none
        assert (await opened(site, url, headers={"Authorization": "Basic YTpi"})).status_code == 200


@pytest.mark.wire("ticket-stream", "auth-bearer")
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
        ("POST", TICKET),
    ],
)
async def test_a_ticket_means_nothing_anywhere_else(method: str, path: str) -> None:
    async with serving(a_host(), secret_key=KEY) as site:
        ticket = (await minted(site)).partition("?ticket=")[2]
        body = {"json": {"prompt": "x"}} if method == "POST" else {}
        answer = await site.ask(method, f"{path}?ticket={ticket}", token=None, **body)
        assert code(answer) == (401, "not_authenticated")
        answer = await site.ask(method, path, token=ticket, **body)
        assert code(answer) == (401, "invalid_token")
        assert ticket not in answer.text


# -- refused ----------------------------------------------------------------------------------------------------------


def sealed(site: Site, *, now: float | None = None, name: str = "alice", user: str = "1") -> str:
    """The URL of a ticket as this gateway would have made it."""
    caller = Caller(Principal("fake", user), Credential.of(name, b"key"), name)
    ticket, _ = site.app.state.parts.tickets.seal(RunRef("9", "1"), caller, time.time() if now is None else now)
    return f"{STREAM}?ticket={ticket}"


@pytest.mark.wire("ticket-invalid", "error-shape")
async def test_whatever_is_wrong_with_a_ticket_the_answer_is_the_same() -> None:
    host = a_host()
    host.add("2").append(1)
    async with serving(host, secret_key=KEY) as site, serving(host, secret_key=OTHER_KEY) as stranger:
        url = await minted(site)
        ticket = url.partition("=")[2]
        host.log.clear()
        wrong = {
            "expired": await opened(site, sealed(site, now=time.time() - 3601)),
            "of another key": await opened(stranger, url),
            "cut": await opened(site, url[:-1]),
            "forged": await opened(site, f"{STREAM}?ticket={'A' * 200}"),
            "for another run": await opened(site, f"/agent-runs/2/logs/stream?ticket={ticket}"),
            "for a run that is none": await opened(site, f"/agent-runs/3/logs/stream?ticket={ticket}"),
            "for no run": await opened(site, f"/agent-runs/x/logs/stream?ticket={ticket}"),
            "for another organization": await opened(site, url, headers={"X-Organization-ID": "8"}),
        }
        assert not host.log  # nobody was asked
        for answer in wrong.values():
            assert code(answer) == (401, "invalid_ticket")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"] == wrong["forged"].json()["error"]
            assert ticket[:20] not in answer.text
        assert (await opened(site, url, headers={"X-Organization-ID": "9"})).status_code == 200


@pytest.mark.wire("ticket-invalid", "logs-hold-no-secrets")
@pytest.mark.parametrize(
    "query",
    ["ticket=%ff%fe%00", "ticket=%F0%9F%8E%AB" * 50, "ticket=" + "A" * 16_000, "ticket=a&ticket=%2e%2e", "ticket=" * 9],
)
def test_no_text_is_too_odd_to_be_refused(query: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(a_host(), secret_key=KEY) as site:
            answer = await opened(site, f"{STREAM}?{query}")
            assert code(answer) == (401, "invalid_ticket")
            assert len(answer.text) < 300

    run(main())
    assert "ticket=" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.wire("ticket-checked-again")
async def test_a_ticket_is_good_only_for_as_long_as_its_owner_s_token_and_right_are() -> None:
    host = a_host()
    async with serving(host, secret_key=KEY) as site:
        url = await minted(site)

    async def answered() -> tuple[int, str]:
        async with serving(host, secret_key=KEY) as elsewhere:  # where nothing is remembered
            return code(await opened(elsewhere, url))

    host.barred.add(("alice", "1"))
    assert await answered() == (403, "forbidden")
    host.barred.clear()
    host.tokens["alice"] = "3"  # the token is somebody else's now
    assert await answered() == (401, "invalid_ticket")
    del host.tokens["alice"]
    assert await answered() == (401, "invalid_token")


# -- of people with a JWT ---------------------------------------------------------------------------------------------

PEOPLE = {
    "auth": ("jwt",), "api_token": "alice", "secret_key": KEY, "org_id": "9", "jwt_issuer": ISSUER.name,
    "jwt_audience": AUDIENCE, "jwt_key": ISSUER.public_pem,
}  # fmt: skip


@pytest.mark.wire("ticket-length", "ticket-stream", "ticket-checked-again")
async def test_the_ticket_of_a_jwt_is_short_however_long_that_is_and_opens_what_that_would() -> None:
    host = a_host()
    groups = [f"{number:08x}-9c7d-4c4e-8a57-3f1e5a7d2c11" for number in range(200)]
    token = ISSUER.token("ann", scope="runs:read:all", groups=groups)
    async with serving(host, **PEOPLE) as site:
        assert len(token) > 8192
        url = await minted(site, token=token)
        assert len(url) < 600
    async with serving(host, **PEOPLE) as site:  # where nothing is remembered
        assert summary(parse((await opened(site, url)).content))[-1] == ("end", "3.end")
        assert code(await opened(site, url.replace("/1/", "/2/"))) == (401, "invalid_ticket")
    for other in (
        {**PEOPLE, "jwt_issuer": "https://other.example"},
        {**PEOPLE, "auth": ("key",), "api_keys": "ci scopes=runs:read digest=sha256:" + "0" * 64},
    ):
        async with serving(host, **other) as site:
            assert code(await opened(site, url)) == (401, "invalid_ticket")


@pytest.mark.wire("ticket-checked-again", "owner-checked", "auth-ends")
async def test_the_ticket_of_a_jwt_opens_no_more_and_for_no_longer_than_that() -> None:
    host = a_host()
    async with serving(host, **PEOPLE) as site:
        soon = datetime.now(UTC) + timedelta(seconds=100)
        answer = await site.post(TICKET, token=ISSUER.token("ann", scope="runs:read:all", exp=soon.timestamp()))
        ends = datetime.fromisoformat(answer.json()["expires_at"])
        assert timedelta(seconds=29) <= ends - soon <= timedelta(seconds=32)  # the leeway
        who = Principal(f"jwt:{ISSUER.name}", "ann")
        for scopes, refusal in [({"runs:read"}, (404, "not_found")), (set(), (403, "insufficient_scope"))]:
            caller = Caller(who, Credential.of("alice", b"key"), None, frozenset(scopes), shared=True)
            ticket, _ = site.app.state.parts.tickets.seal(RunRef("9", "1"), caller, time.time())
            assert code(await opened(site, f"{STREAM}?ticket={ticket}")) == refusal


@pytest.mark.wire("ticket-length", "auth-token-length")
async def test_a_token_of_the_host_that_no_url_can_hold_gets_no_ticket_and_is_good_for_all_else() -> None:
    host = a_host()
    host.tokens |= {"x" * 5000: "5", "x" * 6000: "6", "x" * 32_768: "7"}
    async with serving(host, secret_key=KEY) as site:
        assert len(await minted(site, token="x" * 5000)) < 7500
        for length in (6000, 32_768):
            assert (await site.get("/users/me", token="x" * length)).status_code == 200
            assert code(await site.post(TICKET, token="x" * length)) == (431, "token_too_long")
        answer = await site.get("/users/me", token="x" * 32_769)
        assert code(answer) == (431, "token_too_long")
        assert "32768" in answer.json()["error"]


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.wire("ticket-reconnect", "trouble-on-reconnect")
@pytest.mark.parametrize(("error", "status", "notice"), TROUBLE)
@pytest.mark.parametrize("operation", ["identify", "get"])
async def test_who_comes_with_a_ticket_into_trouble_is_told_to_come_back(
    error: errors.GatewayError, status: int, notice: str, operation: str
) -> None:
    host = a_host()

    async def fail(asked: str) -> None:
        if asked == operation:
            raise error

    async with serving(host, secret_key=KEY, cors_origins="https://a.example") as site:
        host.before = fail
        answer = await opened(site, sealed(site), headers={"Origin": "https://a.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        (event,) = parse(answer.content)
        assert (event.type, json.loads(event.data)["code"]) == ("notice", notice)
        assert event.retry is not None


@pytest.mark.wire("ticket-reconnect", "drain-refuses")
async def test_while_draining_who_comes_with_a_ticket_is_sent_elsewhere() -> None:
    async with serving(a_host(), secret_key=KEY) as site:
        url = await minted(site)
        await site.app.state.parts.gateway.drain(0.01)
        (event,) = parse((await opened(site, url)).content)
        assert event.type == "notice"


async def test_the_document_describes_a_ticket_in_place_of_the_header() -> None:
    async with serving(RichHost()) as site:
        operation = (await site.get("/openapi.json")).json()["paths"]["/agent-runs/{id}/logs/stream"]["get"]
    assert {} in operation["security"]
    (ticket,) = (each for each in operation["parameters"] if each["name"] == "ticket")
    assert (ticket["in"], ticket["required"]) == ("query", False)
