"""The checks, in the order in which they are made, and the simple ones of them: one request, one look at the answer.

A check takes the gateway and what was found so far, and gives back what it saw in a few words. It raises ``Failed`` or
``Skipped`` instead.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from html.parser import HTMLParser

from codegen_api.validate import life
from codegen_api.validate.life import Findings
from codegen_api.validate.remote import (
    Remote,
    Skipped,
    code_of,
    described,
    error_of,
    expect,
    is_time,
    json_of,
    page_of,
    run_of,
    shown,
    times_of,
)

NO_RUN = 2_147_483_647
"""The id of a run that does not exist, one that fits into any column."""

LISTED = 5
ROUTES = ("/health", "/users/me", "/organizations", "/agent-runs", "/agent-runs/{id}/logs/stream")


@dataclass(frozen=True, slots=True)
class Check:
    """A check. ``needs`` names those without which it would say nothing; ``creates``: it is about a new run; ``open``:
    it needs no user.
    """

    name: str
    run: Callable[[Remote, Findings], Awaitable[str]]
    needs: tuple[str, ...] = ()
    creates: bool = False
    open: bool = False


async def health(remote: Remote, found: Findings) -> str:
    body = json_of(await remote.ask("GET", "/health", token=None))
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


async def documentation(remote: Remote, _: Findings) -> str:
    seen = set()
    for path in ("/docs", "/redoc"):
        page = await remote.ask("GET", path, token=None)
        expect(page.status_code == 200, f"{path} answered {described(page)}")
        expect(page.headers.get("Content-Type", "").startswith("text/html"), f"{path} is not HTML")
        assets = _Assets()
        assets.feed(page.text)
        expect(assets.found, f"{path} loads nothing, so it shows nothing")
        seen |= {remote.url(asset, base=str(page.url)) for asset in assets.found}
    for url in sorted(seen, key=str):
        asset = await remote.ask("GET", url, token=None)
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


async def openapi(remote: Remote, _: Findings) -> str:
    body = json_of(await remote.ask("GET", "/openapi.json", token=None))
    expect(str(body.get("openapi")).startswith("3."), "this is no OpenAPI document of version 3")
    paths = body.get("paths")
    absent = [path for path in ROUTES if not isinstance(paths, dict) or path not in paths]
    expect(not absent, f"not described: {', '.join(absent)}")
    return f"OpenAPI {shown(body['openapi'])}, {len(paths or ())} paths"


async def no_token(remote: Remote, _: Findings) -> str:
    answer = await remote.ask("GET", "/users/me", token=None)
    error_of(answer, 401)
    challenge = answer.headers.get("WWW-Authenticate", "")
    expect(challenge.lower().startswith("bearer"), "there is no WWW-Authenticate: Bearer")
    expect("error=" not in challenge, "WWW-Authenticate names an error although no credentials came")
    return f"401, WWW-Authenticate: {shown(challenge)}"


async def bad_token(remote: Remote, _: Findings) -> str:
    answer = await remote.ask("GET", "/users/me", token="not-a-token-of-anybody")  # noqa: S106 - as it says
    error_of(answer, 401)
    challenge = answer.headers.get("WWW-Authenticate", "")
    good = challenge.lower().startswith("bearer ") and 'error="invalid_token"' in challenge
    expect(good, 'there is no WWW-Authenticate: Bearer with error="invalid_token"')
    return "401, invalid_token"


CAUSES = {
    "invalid_token": "the token is not good here",
    "auth_unavailable": "the gateway cannot find out whether the token is good",
    "upstream_unreachable": "the gateway cannot reach its host",
    "upstream_timeout": "the gateway's host does not answer in time",
    "upstream_error": "the gateway's host answers with errors",
    "upstream_rate_limited": "the gateway's host asks for patience",
    "rate_limited": "this user has asked as often as they may",
}
"""What keeps everything from going well that needs a user, by the code of the error."""


async def me(remote: Remote, found: Findings) -> str:
    answer = await remote.ask("GET", "/users/me")
    if answer.status_code >= 400:
        found.cause = CAUSES.get(code_of(answer), "")
        expect(not found.cause, f"{found.cause}: {described(answer)}")
    body = json_of(answer)
    expect(body.get("id") is not None, "the user has no `id`")
    return f"user {shown(body['id'])}"


async def organizations(remote: Remote, _: Findings) -> str:
    items = page_of(await remote.ask("GET", "/organizations?limit=100"), 100)
    expect(all("id" in item and "name" in item for item in items), "an organization lacks its `id` or `name`")
    return f"{len(items)} of them"


async def runs(remote: Remote, found: Findings) -> str:
    items = page_of(await remote.ask("GET", f"/agent-runs?limit={LISTED}"), LISTED)
    found.runs = [run_of(item) for item in items]
    found.bodies += found.runs
    return f"the newest {len(items)}"


async def run(remote: Remote, found: Findings) -> str:
    if not found.runs:
        raise Skipped("there are no runs yet")
    run_id = found.runs[0]["id"]
    body = run_of(json_of(await remote.ask("GET", f"/agent-runs/{run_id}")), run_id)
    found.bodies.append(body)
    return f"run {run_id} is {shown(body['run_status'])}"


async def times(remote: Remote, found: Findings) -> str:
    if found.runs:
        found.bodies.append(json_of(await remote.ask("GET", f"/agent-runs/{found.runs[0]['id']}/logs?limit=10")))
    seen = [time for body in found.bodies for time in times_of(body)]
    if not seen:
        raise Skipped("no answer had a time in it")
    odd = [time for time in seen if not is_time(time)]
    expect(not odd, f"{len(odd)} of {len(seen)} are not RFC 3339 in UTC with Z")
    return f"{len(seen)} times, all in UTC with Z"


async def unknown_run(remote: Remote, _: Findings) -> str:
    body = error_of(await remote.ask("GET", f"/agent-runs/{NO_RUN}"), 404)
    return f"404 ({body['code']})"


async def unknown_route(remote: Remote, _: Findings) -> str:
    body = error_of(await remote.ask("GET", "/there-is-no-such-route"), 404)
    return f"404 ({body['code']})"


async def preflight(remote: Remote, _: Findings) -> str:
    origin = remote.options.origin
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization,last-event-id",
    }
    answer = await remote.ask("OPTIONS", "/agent-runs", token=None, headers=asked)
    if answer.status_code >= 400:
        error_of(answer, answer.status_code)
        raise Skipped(f"not configured: pages of {origin} may not call this gateway (see --origin)")
    allowed = {name.strip().lower() for name in answer.headers.get("Access-Control-Allow-Headers", "").split(",")}
    absent = {"authorization", "last-event-id"} - allowed
    expect(not absent, f"it does not allow {' and '.join(sorted(absent))}")
    refusal = await remote.ask("GET", "/users/me", token=None, headers={"Origin": origin})
    for which, response in (("the preflight", answer), ("an error", refusal)):
        expect(response.headers.get("Access-Control-Allow-Origin") == origin, f"{which} does not allow the origin")
    return f"pages of {origin} may send Authorization and Last-Event-ID"


CHECKS = (
    Check("health", health, open=True),
    Check("documentation", documentation, open=True),
    Check("openapi", openapi, open=True),
    Check("no token", no_token, open=True),
    Check("bad token", bad_token, open=True),
    Check("user", me),
    Check("organizations", organizations),
    Check("list of runs", runs),
    Check("one run", run, needs=("list of runs",)),
    Check("times", times),
    Check("unknown run", unknown_run),
    Check("unknown route", unknown_route, open=True),
    Check("preflight", preflight, open=True),
    Check("create", life.create, creates=True),
    Check("stream", life.stream, needs=("create",), creates=True),
    Check("live", life.live, needs=("stream",), creates=True),
    Check("cut and reconnect", life.unbroken, needs=("stream",), creates=True),
    Check("end", life.end, needs=("stream",), creates=True),
    Check("log by pages", life.pages, needs=("cut and reconnect", "end"), creates=True),
    Check("nothing after the end", life.told, needs=("end",), creates=True),
    Check("ticket", life.ticket, needs=("end",), creates=True),
    Check("resume", life.resume, needs=("end",), creates=True),
)
