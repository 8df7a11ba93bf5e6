"""Every route of the Everruns API that takes an agent or a session, asked by somebody whose it is not: nothing tells
that there is one.

The routes come from the application's own table, so one that is added is asked here without anybody thinking of it.
"""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from tests.auth.issuer import AUDIENCE, Issuer
from tests.dialects.everruns import NOBODY, a_talk, an_agent, speaking
from tests.dialects.routes import methods, routes
from tests.dialects.site import Site, gateway_app

ID = re.compile("{(agent_id|session_id)}")
ISSUER = Issuer()
MODES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "token": ("alice", "bob", {}),
    "jwt": (
        ISSUER.token("ann", exp=timedelta(days=1)),  # it is made before the first of all tests
        ISSUER.token("eve", exp=timedelta(days=1)),
        {
            "auth": ("jwt",),
            "api_token": "alice",
            "secret_key": "a key that is long enough to be one",
            "jwt_issuer": ISSUER.name,
            "jwt_audience": AUDIENCE,
            "jwt_key": ISSUER.public_pem,
        },
    ),
}
BODY = {
    "name": "theirs",
    "system_prompt": "theirs",
    "title": "theirs",
    "message": {"content": [{"type": "text", "text": "Go on with it"}]},
}


def taking_an_id() -> list[tuple[str, str]]:
    """All but that which makes what is not there: for whoever asks, whatever others have under that id."""
    found = routes(gateway_app(dialects=("everruns",)))
    asked = [(method, route.path) for route in found for method in methods(route) if ID.search(route.path)]
    return sorted(each for each in asked if each != ("PUT", "/v1/agents/{agent_id}"))


async def ask(site: Site, method: str, path: str, agent: str, session: str, token: str) -> tuple[int, Any]:
    filled = path.replace("{agent_id}", agent).replace("{session_id}", session)
    answer = await site.ask(method, filled, token=token, **({} if method == "GET" else {"json": BODY}))
    told = json.loads(answer.text.replace(session, "it").replace(agent, "it"))  # whatever was asked for, it is named
    return answer.status_code, {**told, "request_id": ""}


def test_there_are_routes_to_ask() -> None:
    assert len(taking_an_id()) > 20


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize(("method", "path"), taking_an_id())
async def test_nothing_tells_a_stranger_that_there_is_an_agent_or_a_session(method: str, path: str, mode: str) -> None:
    owner, stranger, more = MODES[mode]
    async with speaking(**more) as site:
        talk = await a_talk(site, owner)
        await talk.answered()
        before = [await talk.get(), await talk.get("/messages"), await talk.get("/events")]
        calls = {name: count for name, count in site.host.calls.items() if name != "identify"}
        own = await an_agent(site, stranger)
        there = await ask(site, method, path, talk.agent, talk.id, stranger)
        assert there == await ask(site, method, path, NOBODY, NOBODY, stranger)
        assert there[0] == 404
        if "{session_id}" in path:  # below an agent of their own it is not there either
            assert await ask(site, method, path, own["id"], talk.id, stranger) == there
        assert {name: count for name, count in site.host.calls.items() if name != "identify"} == calls
        assert [await talk.get(), await talk.get("/messages"), await talk.get("/events")] == before
        assert (await site.get("/v1/sessions", token=stranger)).json()["data"] == []
        assert [each["id"] for each in (await site.get("/v1/agents", token=stranger)).json()["data"]] == [own["id"]]


async def test_an_agent_of_somebody_else_answers_nobody() -> None:
    async with speaking() as site:
        theirs = await an_agent(site, name="helper")
        for body in ({"agent_id": theirs["id"]}, {"agent_name": "helper"}):
            assert (await site.post("/v1/sessions", body, token="bob")).status_code == 404
        assert (await site.get(f"/v1/sessions?agent_id={theirs['id']}", token="bob")).json()["data"] == []
