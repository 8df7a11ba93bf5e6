"""Every route of every dialect that takes a run, asked by everybody who may not know of it: nothing tells that there is
such a run.
"""

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from codegen_api.auth.keys import new_key
from codegen_api.http.web import SCOPE
from codegen_api.identity import SCOPES
from tests.auth.issuer import AUDIENCE, Issuer
from tests.dialects.routes import EVERY, ON_A_RUN, ask, methods, routes, wants_caller
from tests.dialects.site import Site, refused, serving
from tests.fakehost import FakeHost

ISSUER = Issuer()
MISSING = "999"
READ_SHARE = re.compile(
    "/(stream-ticket|search|count|versions|namespaces|history|state/checkpoint|stream/events)$|^/(runs/{run_id}|threads/{thread_id})/stream$"
)
"""What is asked with POST, and changes nothing."""


@dataclass(frozen=True)
class Intruder:
    """Who asks, with what, and what they may hear."""

    token: Callable[[], str | None]
    organization: str | None = None
    status: int = 401
    key: bool = False


def signed(user: str, **more: Any) -> Callable[[], str]:
    return lambda: ISSUER.token(user, **more)


OTHER = Issuer("second")
INTRUDERS = {
    "a stranger": Intruder(signed("eve"), status=404),
    "a stranger who calls himself the owner elsewhere": Intruder(signed("ann "), status=404),
    "the owner for another organization": Intruder(signed("ann"), "8", 403),
    "a stranger for another organization": Intruder(signed("eve"), "8", 403),
    "the owner without a scope": Intruder(signed("ann", scope=None), status=403),
    "the owner with scopes of something else": Intruder(signed("ann", scope="openid runs:readall runs"), status=403),
    "the owner's expired token": Intruder(signed("ann", exp=timedelta(seconds=-120))),
    "the owner's token that is not good yet": Intruder(signed("ann", nbf=timedelta(seconds=3600))),
    "the owner's token without an end": Intruder(signed("ann", exp=None)),
    "the owner's token for another audience": Intruder(signed("ann", aud="billing")),
    "the owner's token for no audience": Intruder(signed("ann", aud=None)),
    "the owner's token of another issuer": Intruder(signed("ann", iss="https://other.example/")),
    "a token signed with another key": Intruder(lambda: Issuer(given=OTHER.private).token("ann")),
    "a token signed with an unknown key": Intruder(lambda: OTHER.token("ann")),
    "a token that nobody signed": Intruder(lambda: ISSUER.unsigned("ann")),
    "a token that Nobody signed": Intruder(lambda: ISSUER.unsigned("ann", "nOnE")),
    "a token signed with the public key": Intruder(lambda: ISSUER.signed_with_public_key("ann")),
    "a token with a critical header": Intruder(signed("ann", headers={"crit": ["exp"], "exp": 1})),
    "a token with an unknown critical header": Intruder(signed("ann", headers={"crit": ["urn:x"], "urn:x": True})),
    "a token that was cut short": Intruder(lambda: ISSUER.token("ann")[:-5]),
    "the deployment's own token": Intruder(lambda: "alice"),
    "somebody without a token": Intruder(lambda: None),
    "another key": Intruder(lambda: "", key=True, status=404),
    "another key, with another organization": Intruder(lambda: "", "9", key=True, status=403),
    "a revoked key": Intruder(lambda: "", key=True),
    "an expired key": Intruder(lambda: "", key=True),
}
ASKED = [
    {},
    {"Last-Event-ID": "1"},
    {"Last-Event-ID": "1.end"},
    {"Accept": "application/x-ndjson"},
    {"Idempotency-Key": "again"},
]


def keys_of(tmp_path: Path) -> dict[str, str]:
    """The keys of the machines above, of which the operator's file has all but the revoked one."""
    scopes = sorted(SCOPES)
    keys = {
        "another key": new_key("ci", ["runs:read", "runs:write"]),
        "another key, with another organization": new_key("elsewhere", scopes, "8"),
        "a revoked key": new_key("ann", scopes),
        "an expired key": new_key("ann", scopes, None, "2020-01-01"),
    }
    lines = "\n".join(line for name, (_, line) in keys.items() if "revoked" not in name)
    (tmp_path / "keys").write_text(lines)
    return {name: key for name, (key, _) in keys.items()}


def users_of(tmp_path: Path) -> dict[str, Any]:
    """The settings of a gateway with users of its own."""
    return {
        "auth": ("jwt", "key"),
        "api_token": "alice",
        "secret_key": "a key that is long enough to be one",
        "org_id": "9",
        "jwt_issuer": ISSUER.name,
        "jwt_audience": AUDIENCE,
        "jwt_key": ISSUER.public_pem,
        "api_keys_file": tmp_path / "keys",
    }


@asynccontextmanager
async def place(tmp_path: Path) -> AsyncIterator[tuple[Site, dict[str, str]]]:
    """A gateway with users of its own, a run of ann's, and the keys of the machines above."""
    keys = keys_of(tmp_path)
    async with serving(
        FakeHost(), dialects=EVERY, upstream_requests_per_minute=1_000_000, **users_of(tmp_path)
    ) as site:
        created = await site.post("/agent-runs", {"prompt": "Say hello"}, token=ISSUER.token("ann"))
        assert created.status_code == 201, created.text
        site.host.runs["1"].status = "COMPLETE"
        yield site, keys


def told(answer: httpx.Response) -> tuple[int, dict[str, Any], dict[str, str]]:
    """What an answer tells, but for what is new each time."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "content-length")}
    return answer.status_code, {**answer.json(), "request_id": ""}, headers


@pytest.mark.wire("owner-checked", "scopes", "auth-jwt", "auth-keys", "org-confined")
@pytest.mark.parametrize("who", sorted(INTRUDERS))
async def test_nothing_tells_a_stranger_that_there_is_such_a_run(who: str, tmp_path: Path) -> None:
    async with place(tmp_path) as (site, keys):
        intruder = INTRUDERS[who]
        token = keys[who] if intruder.key else intruder.token()
        for (method, path), headers in product(ON_A_RUN, ASKED):
            there = await ask(site, method, path, "1", token, headers, intruder.organization)
            not_there = await ask(site, method, path, MISSING, token, headers, intruder.organization)
            assert there.status_code == intruder.status, (method, path, headers, there.text)
            assert told(there) == told(not_there), (method, path, headers)
        assert len(site.host.runs["1"].entries) == 1
        assert site.host.runs["1"].status == "COMPLETE"


@pytest.mark.wire("owner-checked", "owner-all", "scopes")
async def test_the_owner_and_who_may_reach_all_get_an_answer(tmp_path: Path) -> None:
    everything = " ".join(sorted(SCOPES))
    tokens = (ISSUER.token("ann"), ISSUER.token("eve", scope=everything), ISSUER.token("eve", scp=list(SCOPES)))
    async with place(tmp_path) as (site, _):
        for (method, path), token in product(ON_A_RUN, tokens):
            site.host.runs["1"].wait()
            site.host.runs["1"].status = "ACTIVE" if path.endswith("/cancel") else "COMPLETE"
            answer = await ask(site, method, path, "1", token)
            assert answer.status_code in (200, 201), (method, path, answer.text)
            assert "codegen_gateway" not in answer.text, (method, path)
            assert "owner" not in answer.text, (method, path)


@pytest.mark.wire("scopes")
def test_every_route_says_which_scope_it_needs() -> None:
    declared = {
        (method, route.path): (route.openapi_extra or {}).get(SCOPE, "nothing")
        for route in routes()
        for method in methods(route)
        if wants_caller(route)
    }
    assert declared
    for (method, path), scope in declared.items():
        reads = method == "GET" or (method == "POST" and READ_SHARE.search(path))
        expected = None if path.endswith(("/users/me", "/mcp")) else "runs:read" if reads else "runs:write"
        assert scope == expected, (method, path)


@pytest.mark.wire("auth-bearer")
async def test_every_route_that_says_so_wants_to_know_its_caller() -> None:
    async with serving(dialects=EVERY) as site:
        asked = [(*methods(route), route.path) for route in routes() if wants_caller(route)]
        for method, path in asked:
            answer = await ask(site, method, path, "1", None)
            assert (answer.status_code, refused(answer)["code"]) == (401, "not_authenticated"), (method, path)
        assert len(asked) > 100


@pytest.mark.wire("scopes")
@pytest.mark.parametrize("scope", ["runs:read", "runs:write"])
async def test_a_missing_scope_is_named(scope: str, tmp_path: Path) -> None:
    other = {"runs:read": "runs:write", "runs:write": "runs:read"}[scope]
    method, path = ("GET", "/agent-runs") if scope == "runs:read" else ("POST", "/agent-runs/{id}/cancel")
    async with place(tmp_path) as (site, _):
        answer = await ask(site, method, path, "1", ISSUER.token("ann", scope=other))
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
        assert answer.json()["details"] == [scope]
        assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'


@pytest.mark.wire("shared-me")
async def test_who_has_no_account_at_the_host_is_told_who_they_are_here(tmp_path: Path) -> None:
    async with place(tmp_path) as (site, keys):
        me = (await site.get("/users/me", token=ISSUER.token("ann", scope="openid"))).json()
        assert me == {"id": "ann", "authority": f"jwt:{ISSUER.name}", "scopes": []}
        machine = (await site.get("/users/me", token=keys["another key"])).json()
        assert machine == {"id": "ci", "authority": "key", "scopes": ["runs:read", "runs:write"]}
        assert site.host.calls["identify"] == 0


@pytest.mark.wire("shared-refusals")
async def test_a_deployment_whose_token_is_refused_says_that_it_is_not_the_callers(tmp_path: Path) -> None:
    async with place(tmp_path) as (site, _):
        site.host.tokens.clear()
        answer = await site.post("/agent-runs", {"prompt": "Say hello"}, token=ISSUER.token("ann"))
        assert (answer.status_code, answer.json()["code"]) == (502, "upstream_error")
        assert "www-authenticate" not in answer.headers


@pytest.mark.wire("owner-checked", "ticket-checked-again")
@pytest.mark.parametrize("headers", ASKED)
async def test_a_ticket_lets_its_owner_in_and_nobody_with_a_token_of_their_own(
    headers: dict[str, str], tmp_path: Path
) -> None:
    async with place(tmp_path) as (site, _):
        made = await site.post("/agent-runs/1/logs/stream-ticket", token=ISSUER.token("ann"))
        url = made.json()["url"]
        assert (await site.get(url, token=None, headers=headers)).status_code == 200 + 4 * ("1.end" in str(headers))
        assert (await site.get(url, token=ISSUER.token("eve"), headers=headers)).status_code == 404


@pytest.mark.wire("auth-ends")
async def test_a_ticket_is_good_no_longer_than_what_it_was_made_with(tmp_path: Path) -> None:
    async with place(tmp_path) as (site, _):
        ends = int(time.time()) + 120
        made = await site.post("/agent-runs/1/logs/stream-ticket", token=ISSUER.token("ann", exp=ends))
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends + 30))  # and the leeway
        assert made.json()["expires_at"] == expires
