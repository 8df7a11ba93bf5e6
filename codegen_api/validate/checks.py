"""The table of checks, in the order in which they are run, and the checks that need no new run.

A check asks the gateway through a client and looks at the answer. It returns what it saw in a few words, or raises
``Failed`` or ``Skipped``.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from html.parser import HTMLParser

import httpx

from . import lifecycle
from .client import (
    Client,
    Skipped,
    code_of,
    described,
    error_of,
    expect,
    json_of,
    page_of,
    preflight_headers,
    run_of,
    shown,
    times_of,
)
from .lifecycle import Findings
from .options import Object

NO_RUN = 2_147_483_647
"""The id of a run that does not exist. It fits into any database column."""

LISTED = 5
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)
"""A time by RFC 3339, in UTC and with ``Z``."""
ROUTES = ("/health", "/users/me", "/organizations", "/agent-runs", "/agent-runs/{id}/logs/stream")

CheckFunction = Callable[[Client, Findings], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check. It runs only if those that it ``needs`` have passed. ``creates``: it needs a new run; ``open``: it needs
    no user.
    """

    name: str
    run: CheckFunction
    needs: tuple[str, ...] = ()
    creates: bool = False
    open: bool = False


def get(
    path: str, look: Callable[[Object, httpx.Response, Findings], str], status: int = 200, token: str | None = ""
) -> CheckFunction:
    """A check that a GET is answered with ``status`` and JSON. ``look`` checks the body, and says what it saw."""

    async def run(client: Client, found: Findings) -> str:
        answer = await client.ask("GET", path, token=token)
        body = json_of(answer) if status == 200 else error_of(answer, status)
        return look(body, answer, found)

    return run


def health(body: Object, _: httpx.Response, found: Findings) -> str:
    expect(body.get("status") in ("healthy", "degraded"), "`status` is neither healthy nor degraded")
    numbers = ("uptime_seconds", "runs_followed", "viewers")
    wrong = [name for name in ("version", "timestamp", "redis") if not isinstance(body.get(name), str)]
    wrong += [name for name in numbers if not isinstance(body.get(name), int | float)]
    upstream = body.get("upstream")
    if not (isinstance(upstream, dict) and {"name", "reachable", "checked_at"} <= upstream.keys()):
        wrong.append("upstream")
    expect(not wrong, f"wrong or not there: {', '.join(wrong)}")
    found.bodies.append(body)
    return f"{body['status']}, version {shown(body['version'])}"


async def documentation(client: Client, _: Findings) -> str:
    seen = set()
    for path in ("/docs", "/redoc"):
        page = await client.ask("GET", path, token=None)
        expect(page.status_code == 200, f"{path} answered {described(page)}")
        expect(page.headers.get("Content-Type", "").startswith("text/html"), f"{path} is not HTML")
        assets = _Assets()
        assets.feed(page.text)
        expect(assets.found, f"{path} loads nothing, so it shows nothing")
        seen |= {client.url(asset, base=str(page.url)) for asset in assets.found}
    for url in sorted(seen, key=str):
        asset = await client.ask("GET", url, token=None)
        expect(asset.status_code == 200, f"{shown(url.path)} answered {described(asset)}")
    return f"2 pages and {len(seen)} assets of the same origin"


class _Assets(HTMLParser):
    """Collects what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        for name in {"script": ("src",), "img": ("src",), "link": ("href",), "redoc": ("spec-url",)}.get(tag, ()):
            asset = attributes.get(name) or ""
            if asset and not asset.startswith("data:"):
                self.found.add(asset)


def openapi(body: Object, _: httpx.Response, __: Findings) -> str:
    expect(str(body.get("openapi")).startswith("3."), "this is no OpenAPI document of version 3")
    paths = body.get("paths")
    absent = [path for path in ROUTES if not isinstance(paths, dict) or path not in paths]
    expect(not absent, f"not described: {', '.join(absent)}")
    return f"OpenAPI {shown(body['openapi'])}, {len(paths or ())} paths"


def no_token(_: Object, answer: httpx.Response, __: Findings) -> str:
    challenge = answer.headers.get("WWW-Authenticate", "")
    expect(challenge.lower().startswith("bearer"), "there is no WWW-Authenticate: Bearer")
    expect("error=" not in challenge, "WWW-Authenticate names an error although no credentials came")
    return f"401, WWW-Authenticate: {shown(challenge)}"


def bad_token(_: Object, answer: httpx.Response, __: Findings) -> str:
    challenge = answer.headers.get("WWW-Authenticate", "")
    good = challenge.lower().startswith("bearer ") and 'error="invalid_token"' in challenge
    expect(good, 'there is no WWW-Authenticate: Bearer with error="invalid_token"')
    return "401, invalid_token"


def not_found(body: Object, _: httpx.Response, __: Findings) -> str:
    return f"404 ({body['code']})"


CAUSES = {
    "invalid_token": "the token is not good here",
    "auth_unavailable": "the gateway cannot find out whether the token is good",
    "upstream_unreachable": "the gateway cannot reach its host",
    "upstream_timeout": "the gateway's host does not answer in time",
    "upstream_error": "the gateway's host answers with errors",
    "upstream_rate_limited": "the gateway's host asks for patience",
    "rate_limited": "this user has asked as often as they may",
}
"""Why no check that needs a user can pass, by the code of the error."""


async def me(client: Client, found: Findings) -> str:
    answer = await client.ask("GET", "/users/me")
    if answer.status_code >= 400:
        found.cause = CAUSES.get(code_of(answer), "")
        expect(not found.cause, f"{found.cause}: {described(answer)}")
    body = json_of(answer)
    expect(body.get("id") is not None, "the user has no `id`")
    return f"user {shown(body['id'])}"


def organizations(_: Object, answer: httpx.Response, __: Findings) -> str:
    items = page_of(answer, 100)
    expect(all("id" in item and "name" in item for item in items), "an organization lacks its `id` or `name`")
    return f"{len(items)} of them"


def runs(_: Object, answer: httpx.Response, found: Findings) -> str:
    found.runs = [run_of(item) for item in page_of(answer, LISTED)]
    found.bodies += found.runs
    return f"the newest {len(found.runs)}"


async def run(client: Client, found: Findings) -> str:
    if not found.runs:
        raise Skipped("there are no runs yet")
    run_id = found.runs[0]["id"]
    body = run_of(json_of(await client.ask("GET", f"/agent-runs/{run_id}")), run_id)
    found.bodies.append(body)
    return f"run {run_id} is {shown(body['run_status'])}"


async def times(client: Client, found: Findings) -> str:
    if found.runs:
        found.bodies.append(json_of(await client.ask("GET", f"/agent-runs/{found.runs[0]['id']}/logs?limit=10")))
    seen = [time for body in found.bodies for time in times_of(body)]
    if not seen:
        raise Skipped("no answer had a time in it")
    odd = [time for time in seen if not TIME.fullmatch(str(time))]
    expect(not odd, f"{len(odd)} of {len(seen)} are not RFC 3339 in UTC with Z")
    return f"{len(seen)} times, all in UTC with Z"


async def preflight(client: Client, _: Findings) -> str:
    origin = client.options.origin
    answer = await client.ask("OPTIONS", "/agent-runs", token=None, headers=preflight_headers(origin))
    if answer.status_code >= 400:
        error_of(answer, answer.status_code)
        raise Skipped(f"not configured: pages of {origin} may not call this gateway (see --origin)")
    allowed = {name.strip().lower() for name in answer.headers.get("Access-Control-Allow-Headers", "").split(",")}
    absent = {"authorization", "last-event-id"} - allowed
    expect(not absent, f"it does not allow {' and '.join(sorted(absent))}")
    refusal = await client.ask("GET", "/users/me", token=None, headers={"Origin": origin})
    for which, response in (("the preflight", answer), ("an error", refusal)):
        expect(response.headers.get("Access-Control-Allow-Origin") == origin, f"{which} does not allow the origin")
    return f"pages of {origin} may send Authorization and Last-Event-ID"


CHECKS = (
    Check("health", get("/health", health, token=None), open=True),
    Check("documentation", documentation, open=True),
    Check("openapi", get("/openapi.json", openapi, token=None), open=True),
    Check("no token", get("/users/me", no_token, 401, token=None), open=True),
    Check("bad token", get("/users/me", bad_token, 401, token="not-a-token-of-anybody"), open=True),  # noqa: S106
    Check("user", me),
    Check("organizations", get("/organizations?limit=100", organizations)),
    Check("list of runs", get(f"/agent-runs?limit={LISTED}", runs)),
    Check("one run", run, needs=("list of runs",)),
    Check("times", times),
    Check("unknown run", get(f"/agent-runs/{NO_RUN}", not_found, 404)),
    Check("unknown route", get("/there-is-no-such-route", not_found, 404), open=True),
    Check("preflight", preflight, open=True),
    Check("create", lifecycle.create, creates=True),
    Check("stream", lifecycle.stream, needs=("create",), creates=True),
    Check("live", lifecycle.live, needs=("stream",), creates=True),
    Check("cut and reconnect", lifecycle.unbroken, needs=("stream",), creates=True),
    Check("end", lifecycle.end, needs=("stream",), creates=True),
    Check("log by pages", lifecycle.pages, needs=("cut and reconnect", "end"), creates=True),
    Check("nothing after the end", lifecycle.told, needs=("end",), creates=True),
    Check("ticket", lifecycle.ticket, needs=("end",), creates=True),
    Check("resume", lifecycle.resume, needs=("end",), creates=True),
)
