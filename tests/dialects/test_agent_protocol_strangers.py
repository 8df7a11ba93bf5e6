"""Every route of the Agent Protocol that takes a thread or an assistant, asked by somebody whose it is not: nothing
tells that there is one.

The routes come from the application's own table, so one that is added is asked here without anybody thinking of it.
"""

import re
from typing import Any

import pytest

from tests.dialects.routes import routes
from tests.dialects.sdk import client_of, speaking
from tests.dialects.site import gateway_app, run

ID = re.compile("{(thread_id|assistant_id)}")
THEIRS, MISSING = "theirs", "nowhere"

BODY: dict[str, Any] = {
    "graph_id": "agent",
    "metadata": {"mine": "now"},
    "version": 1,
    "checkpoint": {},
    "assistant_id": "agent",
    "input": {"messages": [{"role": "user", "content": "Go on with it"}]},
}

MAKING = re.compile("/threads/{thread_id}/runs(/stream|/wait)?$")
"""These begin a thread of the caller's own, under whatever id."""
NEVER = re.compile("/threads/{thread_id}/(commands|stream/events)$")
"""These are refused before anything is looked at."""


def taking_an_id() -> list[tuple[str, str]]:
    found = routes(gateway_app(dialects=("agent_protocol",)))
    return sorted((method, route.path) for route in found for method in sorted(route.methods) if ID.search(route.path))


@pytest.mark.parametrize(("method", "path"), taking_an_id())
def test_nothing_tells_a_stranger_that_there_is_a_thread_or_an_assistant(method: str, path: str) -> None:
    async def main() -> None:
        async with speaking() as site, client_of(site) as client, client_of(site, "bob") as other:
            thread = await client.threads.create(thread_id=THEIRS, metadata={"mine": "then"})
            assistant = await client.assistants.create("agent", assistant_id=THEIRS, metadata={"mine": "then"})
            told = []
            for id in (THEIRS, MISSING):  # noqa: A001 - the wire's own word
                asked = re.sub("{.*?}", "x", ID.sub(id, path))
                body = {} if method == "GET" else {"json": BODY}
                if method == "POST" and MAKING.match(path):
                    body = {"json": {**BODY, "if_not_exists": "reject"}}
                answer = await site.ask(method, asked, token="bob", **body)
                told.append((answer.status_code, {**answer.json(), "request_id": ""}))
            assert told[0] == told[1]
            assert told[0][0] == (501 if NEVER.match(path) else 404)
            assert await client.threads.get(THEIRS) == thread
            assert await client.assistants.get(THEIRS) == assistant
            assert await other.threads.count() == 0
            assert site.host.runs == {}

    run(main())


def test_a_thread_under_the_same_id_is_the_callers_own() -> None:
    async def main() -> None:
        async with speaking() as site, client_of(site) as client, client_of(site, "bob") as other:
            mine = await client.threads.create(thread_id=THEIRS, metadata={"whose": "alice"})
            given = {"input": {"messages": [{"role": "user", "content": "Tell me of it"}]}}
            made = await other.runs.create(THEIRS, "agent", **given)
            assert made["thread_id"] == THEIRS
            assert await client.runs.list(THEIRS) == []
            assert await client.threads.get(THEIRS) == mine
            (theirs,) = await other.threads.search(metadata={"assistant_id": made["assistant_id"]})
            assert theirs["metadata"]["thread_name"] == "Tell me of it"
            await client.threads.delete(THEIRS)
            assert (await other.threads.get(THEIRS))["status"] == "busy"

    run(main())


def test_an_assistant_of_somebody_else_answers_nobody() -> None:
    async def main() -> None:
        async with speaking() as site, client_of(site) as client:
            await client.assistants.create("agent", assistant_id=THEIRS)
            told = []
            for id in (THEIRS, MISSING):  # noqa: A001
                body = {**BODY, "assistant_id": id}
                for path in ("/threads/t/runs", "/runs", "/runs/wait", "/runs/stream"):
                    answer = await site.post(path, body, token="bob")
                    told.append((answer.status_code, answer.json()["message"]))
            assert set(told) == {(404, "There is no such assistant.")}
            assert site.host.runs == {}

    run(main())
