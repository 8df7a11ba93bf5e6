"""Every route of Agio's API that takes something of somebody's, asked by everybody who may not know of it."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from codegen_api.http.web import SCOPE
from tests.dialects.routes import methods, routes
from tests.dialects.site import Site, gateway_app
from tests.dialects.test_strangers import INTRUDERS, ISSUER, place

MISSING = "there-is-none"
TAKEN = ("{run_id}", "{checkpoint_id}", "{agent_id}")
BODIES: dict[str, Any] = {"PUT": {"description": "Mine now."}, "POST": {}}
ROUTES = sorted(
    (method, route.path)
    for route in routes(gateway_app(dialects=("agio",)))
    for method in methods(route)
    if route.path.startswith("/api/") and any(name in route.path for name in TAKEN)
)


async def ask(site: Site, method: str, path: str, names: dict[str, str], token: str | None, organization: Any) -> Any:
    for name, value in names.items():
        path = path.replace(name, value)
    headers = {} if organization is None else {"X-Organization-ID": organization}
    body = {"json": BODIES[method]} if method in BODIES else {}
    return await site.ask(method, path, token=token, headers=headers, **body)


def told(answer: httpx.Response, names: dict[str, str]) -> tuple[int, str, dict[str, str]]:
    """What an answer tells, but for what is new each time, and for what it was asked about."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "content-length")}
    text = answer.text.replace(answer.headers["x-request-id"], "")
    for value in names.values():
        text = text.replace(f"'{value}'", "''")
    return answer.status_code, text, headers


async def state(site: Site, names: dict[str, str]) -> Any:
    """What there is of ann's."""
    paths = (f"/api/runs/{names['{run_id}']}", f"/api/agents/{names['{agent_id}']}", "/api/runs", "/api/agents")
    return [(await site.get(path, token=ISSUER.token("ann"))).json() for path in paths], site.host.runs.keys()


async def settle(site: Site) -> dict[str, str]:
    """Something of ann's that is over."""
    token = ISSUER.token("ann")
    assert (await site.post("/api/agents", {"name": "anns"}, token=token)).status_code == 201
    chat = {"agent_id": "anns", "message": "Say hello"}
    site.host.before = Ending(site.host)
    answer = await site.post("/api/chat", {**chat, "stream": False}, token=token)
    assert answer.status_code == 200, answer.text
    run_id = answer.json()["run_id"]
    return {"{run_id}": run_id, "{checkpoint_id}": f"{run_id}.1", "{agent_id}": "anns"}


class Ending:
    """Lets every run be over as soon as somebody looks."""

    def __init__(self, host: Any) -> None:
        self.host = host

    async def __call__(self, operation: str) -> None:
        if operation == "log":
            for hosted in self.host.runs.values():
                hosted.status = "COMPLETE"


def test_the_routes_are_there() -> None:
    assert len(ROUTES) == 13


@pytest.mark.parametrize("who", sorted(INTRUDERS))
async def test_nothing_tells_a_stranger_that_there_is_such_a_thing(who: str, tmp_path: Path) -> None:
    async with place(tmp_path) as (site, keys):
        there = await settle(site)
        before = await state(site, there)
        intruder = INTRUDERS[who]
        token = keys[who] if intruder.key else intruder.token()
        run_id = there["{run_id}"]
        for method, path in ROUTES:
            # an organization is looked at only where a run is begun; what is somebody's is theirs anywhere
            if intruder.organization is not None and intruder.status == 403:
                continue
            missing = {**dict.fromkeys(TAKEN, MISSING), "{checkpoint_id}": f"{MISSING}.1"}
            answer = await ask(site, method, path, there, token, intruder.organization)
            nothing = await ask(site, method, path, missing, token, intruder.organization)
            assert answer.status_code == intruder.status, (method, path, answer.text)
            assert told(answer, there) == told(nothing, missing), (method, path)
            assert "Say hello" not in answer.text
            assert run_id not in answer.text.replace(f"'{run_id}'", "").replace(f"'{run_id}.1'", "")
        assert await state(site, there) == before


async def test_the_owner_gets_an_answer(tmp_path: Path) -> None:
    async with place(tmp_path) as (site, _):
        there = await settle(site)
        for method, path in ROUTES:
            if path.endswith(("/pause", "/resume", "/cancel")) or method == "DELETE":
                continue
            answer = await ask(site, method, path, there, ISSUER.token("ann"), None)
            assert answer.status_code in (200, 201), (method, path, answer.text)
            assert "codegen_gateway" not in answer.text


async def test_whoever_may_read_all_runs_of_the_host_does_not_see_what_others_have_here(tmp_path: Path) -> None:
    async with place(tmp_path) as (site, _):
        there = await settle(site)
        everything = ISSUER.token("eve", scope="runs:read runs:write runs:read:all runs:write:all")
        for method, path in ROUTES:
            answer = await ask(site, method, path, there, everything, None)
            assert answer.status_code == 404, (method, path)
        assert (await site.get("/api/runs", token=everything)).json()["total"] == 0


def test_reading_needs_the_one_scope_and_all_else_the_other() -> None:
    for route in routes(gateway_app(dialects=("agio",))):
        if route.path.startswith("/api/") and route.path != "/api/health":
            (method,) = methods(route)
            scope = (route.openapi_extra or {}).get(SCOPE)
            assert scope == ("runs:read" if method == "GET" else "runs:write"), (method, route.path)
