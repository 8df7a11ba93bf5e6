"""Every route of every dialect that keeps conversations, asked by everybody who may not know of what somebody has: no
answer tells that it is there, and nothing happens to it.

The routes come from the application's own table, so one that is added is asked here without anybody thinking of it.
"""

import os
import re
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from codegen_api.auth.keys import new_key
from codegen_api.identity import SCOPES
from tests.dialects.people import CONVERSATIONS, KINDS, OPENAI, ROUTES, SERVED, Person
from tests.dialects.site import Site, gateway_app, lifespan
from tests.dialects.test_fuzz_conversations import GOOD, MESSAGES
from tests.dialects.test_strangers import INTRUDERS, ISSUER, Intruder, keys_of, users_of
from tests.fakehost import FakeHost
from tests.leaks import WATCH
from tests.stores.model import ModelStore

pytestmark = pytest.mark.virtual_time

ITSELF = re.compile(f"{{({'|'.join(KINDS)})}}")
FIRST, SECOND = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
WORD = "marmalade"
EVERY_WAY = os.environ.get("WAYS") == "every"
"""Whether each route is asked by everybody in each way to show a token; that is for the night."""
NEVER_MISSING = {
    ("PUT", "/v1/agents/{agent_id}"),
    ("GET", "/ui/chat/{chat_id}"),
    ("GET", "/ui/chat/{chat_id}/stream"),
}
"""These make what is not there, or say that it is empty: for whoever asks, whatever others have under that id."""


def presenting(path: str, token: str | None) -> list[dict[str, str]]:
    """How the clients of a route show a token."""
    if token is None:
        return [{}]
    ways = [{"Authorization": f"Bearer {token}"}]
    if path.startswith("/v1/") and not path.startswith(OPENAI):
        ways += [{"Authorization": f"ApiKey {token}"}, {"Authorization": token}]
    elif not path.startswith(("/api/", "/ui/", *OPENAI)):
        ways += [{"x-api-key": token}]
    return ways


def missing() -> dict[str, str]:
    """Names for what is not there, in the form of those that are."""
    new = {kind: str(uuid.uuid4()) for kind in ("agent", "session", "turn")}
    return {**new, "checkpoint": f"{new['turn']}.1", "event": f"event_{uuid.uuid4().hex}"}


def filled(path: str, names: dict[str, str]) -> str:
    return re.sub(r"{(\w+)}", lambda found: names.get(KINDS.get(found[1], ""), "x"), path)


async def ask(site: Site, method: str, path: str, names: dict[str, str], headers: dict[str, str]) -> httpx.Response:
    """Ask a route about what has these names, wherever it listens to them."""
    told = {name: names[kind] for name, kind in KINDS.items()}
    own = next(message for prefix, message in MESSAGES.items() if path.startswith(prefix))
    body = {**GOOD, **own, **told, "run_ids": [names["turn"]], "thread_ids": [names["session"]]}
    body |= {"if_not_exists": "reject", "version": 1, "checkpoint": {"checkpoint_id": names["checkpoint"]}}
    more: dict[str, Any] = {"json": body} if method in ("POST", "PUT", "PATCH") else {}
    return await site.ask(method, filled(path, names), token=None, headers=headers, params=told, **more)


def told(answer: httpx.Response, names: dict[str, str]) -> tuple[int, str, dict[str, str]]:
    """What an answer tells, but for what is new each time, and for what it was asked about."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "content-length")}
    text = answer.text.replace(answer.headers["x-request-id"], "")
    for value in sorted(names.values(), key=len, reverse=True):
        text = text.replace(value, "")
    return answer.status_code, text, headers


def expected(intruder: Intruder) -> int:
    """An organization matters only where a run is begun: what is somebody's is not there for others anywhere."""
    return 404 if intruder.organization is not None else intruder.status


def forget(store: ModelStore, owner: str) -> None:
    """Leave nothing of anybody else's."""
    everything: list[dict[Any, Any]] = [store._agents, store._conversations, store._turns, store._items]
    for kept in everything:
        for name in [name for name in kept if name[0] != owner]:
            del kept[name]


async def nothing_is_told(
    site: Site, store: ModelStore, owner: Person, intruder: Intruder, token: str | None, shift: int = 0
) -> None:
    before = owner.has(store, site.host)
    for number, (method, path) in enumerate(sorted(ROUTES)):
        ways = presenting(path, token)
        # how a token is shown has nothing to do with whose it is: over all who ask, each route is asked in each way
        for way in ways if EVERY_WAY else [ways[(number + shift) % len(ways)]]:
            headers = way if intruder.organization is None else {**way, "X-Organization-ID": intruder.organization}
            for turn in ("turn", "running") if expected(intruder) == 404 else ("turn",):
                names, none = {**owner.names, "turn": owner.names[turn]}, missing()
                there = await ask(site, method, path, names, headers)
                forget(store, owner.owner)
                not_there = await ask(site, method, path, none, headers)
                forget(store, owner.owner)
                assert there.status_code == not_there.status_code, (method, path, way, there.text, not_there.text)
                if method == "GET" or there.status_code >= 400:
                    assert told(there, names) == told(not_there, none), (method, path, way)
                if expected(intruder) != 404:
                    assert there.status_code == expected(intruder), (method, path, way, there.text)
                elif ITSELF.search(path) and (method, path) not in NEVER_MISSING:
                    assert there.status_code in (404, 501), (method, path, way, there.text)
                assert WORD not in there.text, (method, path)
    assert owner.has(store, site.host) == before


@pytest.mark.parametrize("who", sorted(INTRUDERS))
async def test_nothing_tells_anybody_else_that_there_is_something(who: str, tmp_path: Path) -> None:
    intruder = INTRUDERS[who]
    if intruder.organization is not None and intruder.token() == ISSUER.token("ann"):
        intruder = replace(intruder, token=lambda: ISSUER.token("eve"))  # what is ann's is hers in any organization

    host, store, keys = FakeHost(), ModelStore(), keys_of(tmp_path)
    host.latency = 0
    app = gateway_app(host, store=store, dialects=CONVERSATIONS, **users_of(tmp_path), stream_max_age_seconds=5)
    async with lifespan(app):
        SERVED.state = app.state
        owner = Person(ISSUER.token("ann"), WORD)
        await owner.settle(app, host, FIRST, SECOND)
        token = keys[who] if intruder.key else intruder.token()
        if token is not None:
            WATCH.secret("a token", token)
        await nothing_is_told(Site(SERVED, host), store, owner, intruder, token, sorted(INTRUDERS).index(who))


async def test_nothing_tells_anybody_with_a_token_of_the_host_that_there_is_something() -> None:
    host, store = FakeHost(), ModelStore()
    host.latency = 0
    app = gateway_app(host, store=store, dialects=CONVERSATIONS, stream_max_age_seconds=5, org_id="9")
    async with lifespan(app):
        SERVED.state = app.state
        owner = Person("alice", WORD)
        await owner.settle(app, host, FIRST, SECOND)
        intruder = Intruder(lambda: "bob", status=404)
        await nothing_is_told(Site(SERVED, host), store, owner, intruder, "bob")


KEY_SETTINGS = {"auth": ("key",), "api_token": "alice", "secret_key": "a key that is long enough to be one"}


@pytest.mark.wire("org-confined")
@pytest.mark.parametrize("organization", ["8", None])
async def test_nothing_tells_a_key_of_the_same_name_what_was_said_in_another_organization(
    organization: str | None,
) -> None:
    host, store = FakeHost(), ModelStore()
    host.latency = 0
    (ours, ours_line), (theirs, theirs_line) = (new_key("ci", sorted(SCOPES), each) for each in ("9", organization))
    keys: dict[str, Any] = {"api_keys": f"{ours_line};{theirs_line}", **KEY_SETTINGS}
    app = gateway_app(host, store=store, dialects=CONVERSATIONS, **keys, stream_max_age_seconds=5)
    async with lifespan(app):
        SERVED.state = app.state
        owner = Person(ours, WORD)
        await owner.settle(app, host, FIRST, SECOND)
        await nothing_is_told(Site(SERVED, host), store, owner, Intruder(lambda: theirs, status=404), theirs)


STREAMS = [
    ("GET", "/threads/{thread_id}/runs/{run_id}/stream"),
    ("GET", "/threads/{thread_id}/runs/{run_id}/join"),
    ("POST", "/runs/{run_id}/stream"),
    ("GET", "/v1/sessions/{session_id}/sse"),
    ("GET", "/v1/agents/{agent_id}/sessions/{session_id}/events"),
    ("GET", "/api/runs/{run_id}/events"),
    ("GET", "/v1/responses/{response_id}"),
    ("GET", "/v1/responses/{response_id}?stream=true"),
    ("GET", "/v1/responses/{response_id}/input_items"),
]


@pytest.mark.wire("right-asked-first")
@pytest.mark.parametrize(("method", "path"), STREAMS)
@pytest.mark.parametrize("which", ["turn", "running"])
async def test_before_a_turn_is_told_the_host_is_asked_whether_it_may_be(method: str, path: str, which: str) -> None:
    host, store = FakeHost(), ModelStore()
    host.latency = 0
    owner = Person("alice", WORD)
    given: dict[str, Any] = {"store": store, "dialects": CONVERSATIONS, "stream_max_age_seconds": 1, "org_id": "9"}
    app = gateway_app(host, **given)
    async with lifespan(app):
        await owner.settle(app, host, FIRST, SECOND)
    host.barred |= {("alice", id_) for id_ in host.runs}
    app = gateway_app(host, **given)  # where nothing is remembered
    async with lifespan(app):
        SERVED.state = app.state
        names = {**owner.names, "turn": owner.names[which]}
        headers = {"Authorization": "Bearer alice", "Accept": "text/event-stream"}
        answer = await Site(SERVED, host).ask(method, filled(path, names), token=None, headers=headers)
        assert WORD not in answer.text
        if path.startswith("/v1/"):
            assert '"forbidden"' in answer.text
        else:
            assert answer.status_code == 403, answer.text


async def test_the_owner_is_answered(tmp_path: Path) -> None:
    """Or the strangers above were asking in vain."""

    host, store = FakeHost(), ModelStore()
    host.latency = 0
    keys_of(tmp_path)
    app = gateway_app(host, store=store, dialects=CONVERSATIONS, **users_of(tmp_path), stream_max_age_seconds=5)
    async with lifespan(app):
        SERVED.state = app.state
        owner = Person(ISSUER.token("ann"), WORD)
        await owner.settle(app, host, FIRST, SECOND)
        site, answered = Site(SERVED, host), 0
        reading = [(method, path) for method, path in sorted(ROUTES) if method == "GET" and ITSELF.search(path)]
        reading.remove(("GET", "/ui/chat/{chat_id}/stream"))  # it has no end while the turn goes on
        for method, path in reading:
            for way in presenting(path, owner.token):
                answer = await ask(site, method, path, owner.names, way)
                assert answer.status_code in (200, 404, 501), (path, answer.text)
                answered += answer.status_code == 200
        assert answered > len(reading)
