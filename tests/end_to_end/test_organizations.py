"""What belongs to one organization is closed to those outside of it, while somebody inside is watching it."""

import asyncio

import httpx
import pytest

from tests.end_to_end.processes import ALICE, BOB, Sandbox, Server, entry
from tests.end_to_end.viewing import Viewer

HERS = "401"
NOWHERE = 999_999_999_999
"""A run that does not exist."""

ROUTES = [
    ("GET", "/agent-runs/{run}"),
    ("GET", "/agent-runs/{run}/logs"),
    ("GET", "/agent-runs/{run}/logs?limit=10&reverse=true"),
    ("GET", "/agent-runs/{run}/logs/stream"),
    ("GET", "/agent-runs/{run}/logs/stream?skip=1"),
    ("GET", "/agent-runs/{run}/logs/stream?last_event_id=1.end"),
    ("POST", "/agent-runs/{run}/resume"),
    ("POST", "/agent-runs/{run}/cancel"),
]


@pytest.fixture(scope="module")
def secret(host: Sandbox, brisk: Server) -> int:
    """A run of alice's own organization, with a secret in its prompt."""
    return host.seed(organization_id=401, entries=[entry("SECRET-PLAN")], metadata={"name": "SECRET-NAME"})


def told(answer: httpx.Response) -> tuple[int, dict[str, str], dict[str, object]]:
    """What an answer tells, without what differs from request to request."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "date")}
    return answer.status_code, headers, {**answer.json(), "request_id": None}


def ask(server: Server, method: str, path: str, **headers: str) -> httpx.Response:
    body = {"prompt": "Tell me"} if method == "POST" else None
    return server.request(method, path, json=body, headers={**BOB, **headers})


@pytest.mark.wire("org-closed", "right-asked-first", "error-from-host")
async def test_alices_organization_is_closed_to_bob_on_every_route_while_she_is_streaming(
    host: Sandbox, brisk: Server, secret: int
) -> None:
    def try_all() -> None:
        for method, path in ROUTES:
            for more in ({}, {"Last-Event-ID": "1"}, {"Accept": "application/x-ndjson"}):
                sent = {"X-Organization-ID": HERS, **more}
                answer = ask(brisk, method, path.format(run=secret), **sent)
                assert answer.status_code == 403, (method, path, answer.text)
                assert answer.json()["code"] == "forbidden"
                assert "SECRET" not in answer.text
                assert "www-authenticate" not in answer.headers
                # neither is it told whether the run exists
                assert told(answer) == told(ask(brisk, method, path.format(run=NOWHERE), **sent))
                # in an organization of his own, it does not
                answer = ask(brisk, method, path.format(run=secret), **more)
                assert answer.status_code == 404, (method, path, answer.text)
                assert told(answer) == told(ask(brisk, method, path.format(run=NOWHERE), **more))
        for method in ("GET", "POST"):
            answer = ask(brisk, method, "/agent-runs", **{"X-Organization-ID": HERS})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert [each["id"] for each in brisk.get("/organizations", BOB).json()["items"]] == [323, 402]
        assert str(secret) not in ask(brisk, "GET", "/agent-runs").text

    alice = Viewer(brisk.url, secret, organization=401)
    watching = asyncio.create_task(alice.watch())
    await alice.until("log")
    await asyncio.to_thread(try_all)
    await asyncio.to_thread(host.append, secret, "Half of it is done, on it goes.", status="COMPLETE")
    await watching
    assert alice.entries == await asyncio.to_thread(host.log, secret, 401)
    assert len(alice.of("end")) == 1
    assert not alice.notices()


@pytest.mark.wire("id-form", "org-closed")
@pytest.mark.parametrize("spelling", ["0401", "+401", "4_01", "401.0", "401e0", "401,402", "401/../402", "0x191"])
def test_no_spelling_of_the_organization_opens_it(brisk: Server, secret: int, spelling: str) -> None:
    mine = brisk.get(f"/agent-runs/{secret}", {**ALICE, "X-Organization-ID": HERS})
    assert mine.status_code == 200
    for path in (f"/agent-runs/{secret}", f"/agent-runs/{secret}/logs/stream", "/agent-runs"):
        answer = ask(brisk, "GET", path, **{"X-Organization-ID": spelling})
        assert answer.status_code in (403, 422), answer.text
        assert "SECRET" not in answer.text


@pytest.mark.wire("auth-bearer", "auth-challenge")
@pytest.mark.parametrize(
    ("headers", "code"),
    [({}, "not_authenticated"), ({"Authorization": "Bearer sandbox-mallory"}, "invalid_token")],
    ids=["without a token", "with a bad one"],
)
def test_nobody_gets_in_without_a_good_token(brisk: Server, secret: int, headers: dict[str, str], code: str) -> None:
    for method, path in (*ROUTES, ("GET", "/agent-runs"), ("POST", "/agent-runs"), ("GET", "/users/me")):
        answer = brisk.request(method, path.format(run=secret), json={"prompt": "Mend the fence"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, code), (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")
