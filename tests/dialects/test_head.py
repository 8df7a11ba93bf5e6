"""HEAD, at every path in the application's table: the head of what GET answers, and nothing begun for it."""

import asyncio
import re
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from tests.dialects.people import CONVERSATIONS, KINDS, Person
from tests.dialects.rich import RichHost
from tests.dialects.routes import EVERY, RUNS
from tests.dialects.site import AUTHORIZED, Connection, gateway_app, lifespan, serving
from tests.leaks import WATCH
from tests.stores.model import ModelStore
from tests.virtual import run

APP = gateway_app(dialects=EVERY)
PATHS = sorted({route.path for route in APP.routes if isinstance(route, Route) and "GET" in (route.methods or ())})
EVERYWHERE = sorted({route.path for route in APP.routes if isinstance(route, APIRoute)} | set(PATHS))
ASSETS = "/docs/assets/{name}"
FOLLOWED = [
    "/agent-runs/{id}/logs/stream",
    "/threads/{thread_id}/runs/{run_id}/join",
    "/threads/{thread_id}/runs/{run_id}/stream",
    "/v1/sessions/{session_id}/sse",
    "/v1/agents/{agent_id}/sessions/{session_id}/sse",
]
"""Agio's looks first how its run is, as everything there does that names one."""
STREAMED = {**AUTHORIZED, "Accept": "text/event-stream"}
ASKED = [AUTHORIZED, {"X-Nothing": "at all"}, {"Authorization": "Bearer nobody"}, {**AUTHORIZED, "Last-Event-ID": "x"}]
CHANGING = ("x-request-id", "content-length", "ratelimit")


def filled(path: str, names: dict[str, str]) -> str:
    """The path of something that is there, wherever there is such a thing."""
    own = {**dict.fromkeys(RUNS, "1"), "org_id": "9", "user_id": "1", "name": "swagger-ui.css"}
    return re.sub(r"{(\w+)(:\w+)?}", lambda found: own.get(found[1]) or names.get(KINDS.get(found[1], ""), "1"), path)


async def settled() -> tuple[Any, RichHost, Person]:
    """A gateway with everything in it."""
    host = RichHost()
    app = gateway_app(host, dialects=EVERY, store=ModelStore(), org_id="9", requests_per_minute=100_000)
    host.add(status="COMPLETE").append(3)
    person = Person("alice", "marmalade")
    await person.settle(app, host, "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
    return app, host, person


async def head_of(app: Any, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """The head of an answer, and as much of its body as comes with it; then the client leaves."""
    connection = Connection(app, path, headers, method)
    await connection.received(1)
    if method == "HEAD":
        async with asyncio.timeout(60):
            await connection.task
        assert connection.complete
        assert not connection.transport.aborted
    await connection.left()
    said = {name: value for name, value in connection.headers.items() if name not in CHANGING}
    return connection.status, said, b"".join(message["body"] for message in connection.messages[1:])


@pytest.mark.wire("head")
def test_head_is_answered_with_the_head_of_what_get_answers() -> None:
    async def main() -> None:
        app, host, person = await settled()
        app.openapi()  # once, before a thread does: virtual time does not wait for one
        async with lifespan(app):
            for path in PATHS:
                if path == ASSETS:
                    continue  # it is read in a thread, for which virtual time does not wait
                asked = filled(path, person.names)
                for headers in ASKED:
                    WATCH.sent(headers, None)
                    before = person.has(app.state.parts.conversations.store, host)
                    head = await head_of(app, "HEAD", asked, headers)
                    assert person.has(app.state.parts.conversations.store, host) == before, path
                    status, said, _ = await head_of(app, "GET", asked, headers)
                    assert head == (status, said, b""), (path, headers)
                    await asyncio.sleep(100)  # whoever follows a run for the sake of that GET has gone

    run(main(), at_most=100_000)


@pytest.mark.wire("head", "error-unknown-route")
@pytest.mark.virtual_time
async def test_head_is_allowed_where_get_is_and_nowhere_else() -> None:
    app, _, person = await settled()
    async with lifespan(app):
        for path in EVERYWHERE:
            status, said, _ = await head_of(app, "TRACE", filled(path, person.names), AUTHORIZED)
            assert status == 405, path
            allowed = said["allow"].split(", ")
            assert ("HEAD" in allowed) == ("GET" in allowed) >= (path in PATHS), path
            if "GET" not in allowed:
                assert (await head_of(app, "HEAD", filled(path, person.names), AUTHORIZED))[0] == 405, path


@pytest.mark.wire("head")
def test_head_of_what_is_followed_begins_nothing_and_stops_nothing() -> None:
    async def main() -> None:
        app, host, person = await settled()
        names = {**person.names, "turn": person.names["running"]}
        async with lifespan(app):
            live = app.state.parts.conversations.store._turns[person.owner, names["turn"]].run.id
            gateway = app.state.parts.gateway
            await asyncio.sleep(100)  # what was followed to get here is followed no more
            for path in FOLLOWED:
                asked = filled(path, names).replace("/agent-runs/1/", f"/agent-runs/{live}/")
                reads = host.calls["log"]
                status, _, body = await head_of(app, "HEAD", f"{asked}?cancel_on_disconnect=1", STREAMED)
                assert (status, body) == (200, b""), path
                assert (gateway.viewers, gateway.runs_followed, gateway._stream_limits.taken) == (0, 0, 0), path
                await asyncio.sleep(30)
                assert host.calls["log"] == reads, path
                assert host.calls["cancel"] == 0, path
                assert host.runs[live].status == "ACTIVE"

    run(main(), at_most=10_000)


@pytest.mark.wire("head")
async def test_head_of_a_file_has_its_length_and_no_body() -> None:
    async with serving() as site:
        head, whole = [await site.ask(method, "/docs/assets/swagger-ui.css") for method in ("HEAD", "GET")]
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))


def test_every_dialect_is_asked() -> None:
    assert len(CONVERSATIONS) == 5
    assert len(PATHS) > 50
    assert set(FOLLOWED) <= set(PATHS)
