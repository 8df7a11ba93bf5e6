"""Agio's routes as its server publishes them, those of its design included: each is served, or is told to be none, and
each name that clients may send is known.
"""

import json
import re
from typing import Any

import pytest

from tests.dialects.agio import chatting, finish, latest, said, speaking
from tests.dialects.documented import chapter, part
from tests.dialects.published import Operation, bare, declared, operations, served
from tests.dialects.site import Site

AGENT = "name model description tools system_prompt tags"
ONE_AGENT = "id name description model tools enabled tags created_at"
ONE_RUN = "id agent_id user_id session_id status input_query response_content metrics created_at"
ONE_CHECKPOINT = "id run_id step_num description created_at message_count total_tokens"
PAGE = "total items limit offset"
DONE = "success message"
CHECKPOINTS = "/api/checkpoints/runs/{run_id}/checkpoints"
ITEMS = {"/api/agents": ONE_AGENT, "/api/runs": ONE_RUN, CHECKPOINTS: ONE_CHECKPOINT}

SERVED = operations(
    f"""
    GET /api/health | | | status version timestamp
    GET /api/agents | limit offset tag | | {PAGE}
    POST /api/agents | | {AGENT} | {ONE_AGENT}
    GET /api/agents/{{agent_id}} | | | {ONE_AGENT}
    PUT /api/agents/{{agent_id}} | | enabled {AGENT} | {ONE_AGENT}
    DELETE /api/agents/{{agent_id}}
    POST /api/chat | | agent_id message user_id session_id stream | run_id response metrics
    GET /api/runs | agent_id user_id status limit offset | | {PAGE}
    GET /api/runs/{{run_id}} | | | {ONE_RUN}
    GET /api/runs/{{run_id}}/events | offset limit | | run_id total events
    POST /api/runs/{{run_id}}/pause | | | {DONE}
    POST /api/runs/{{run_id}}/resume | | | {DONE}
    POST /api/runs/{{run_id}}/cancel | | | {DONE}
    GET {CHECKPOINTS} | limit offset | | {PAGE}
    POST {CHECKPOINTS} | | description tags | {DONE}
    GET /api/checkpoints/{{checkpoint_id}} | | | {ONE_CHECKPOINT}
    POST /api/checkpoints/{{checkpoint_id}}/restore | | create_new_run modifications | {DONE}
    POST /api/checkpoints/{{checkpoint_id}}/fork | | create_new_run modifications description | {DONE}
    """
)

ABSENT = operations(
    """
    GET /api/config
    POST /api/config/reload
    GET,PUT,DELETE /api/config/{n}
    GET /api/metrics/agents/{a}
    GET /api/metrics/system
    """
)

NOT_THERE = re.findall("`(/api/[a-z]+)`", part(chapter("Agio"), "Not there"))


@pytest.mark.parametrize("operation", SERVED, ids=str)
def test_what_is_served_knows_all_that_clients_send(operation: Operation) -> None:
    query, body = declared(served("agio")[operation.method, bare(operation.path)])
    assert set(operation.query) - query == set()
    assert set(operation.body) - body == set()


async def test_what_is_not_there_is_listed_and_said_by_name() -> None:
    async with speaking() as site:
        for operation in ABSENT:
            assert any(f"{operation.path}/".startswith(f"{each}/") for each in NOT_THERE)
            answer = await site.ask(operation.method, re.sub("{.}", "x", operation.path), token=None)
            told = answer.json()
            assert (answer.status_code, told["code"]) == (404, "not_found"), operation
            assert told["detail"].removesuffix(" is not offered here.") in NOT_THERE


@pytest.mark.parametrize("operation", SERVED, ids=str)
async def test_answers_have_what_clients_cannot_do_without(operation: Operation) -> None:
    async with speaking() as site:
        made = (await site.post("/api/agents", {"name": "reviewer"})).json()
        run_id = (await said(site))["run_id"]
        if operation.path.endswith(("pause", "resume", "cancel")):
            run_id = await under_way(site)
            if operation.path.endswith("resume"):
                assert (await site.post(f"/api/runs/{run_id}/pause")).status_code == 200
        ids = {"agent_id": made["id"], "run_id": run_id, "checkpoint_id": f"{run_id}.1"}
        path = re.sub("{([a-z_]+)}", lambda found: ids[found[1]], operation.path)
        if operation.path == "/api/chat":
            told = await whole(site)
        else:
            body = {"name": "other"} if operation.path == "/api/agents" else {}
            sent = None if operation.method in ("GET", "DELETE") else body
            answer = await site.ask(operation.method, path, json=sent)
            assert answer.is_success, answer.text
            if operation.method == "DELETE":
                assert (answer.status_code, answer.content) == (204, b"")
                return
            told = answer.json()
        assert set(operation.answer) - set(told) == set()
        for item in told.get("items", []):
            assert set(ITEMS[operation.path].split()) - set(item) == set()
        if "items" in told:
            assert told["items"]


async def under_way(site: Site) -> str:
    """A run that the host is at work on."""
    reading = chatting(site, "Go on for a while")
    run_id = await reading.run_id()
    await reading.leave()
    return run_id


async def whole(site: Site) -> Any:
    """What a chat answers that asks for no stream."""
    reading = chatting(site, stream=False)
    await reading.connection.received(1)
    finish(latest(site))
    await reading.connection.task
    return json.loads(reading.text)


async def test_what_cannot_be_done_is_refused_by_name() -> None:
    async with speaking() as site:
        run_id = (await said(site))["run_id"]
        runs = (await site.get("/api/runs")).json()["total"]
        fork = await site.post(f"/api/checkpoints/{run_id}.1/fork", {"create_new_run": False})
        assert (fork.status_code, fork.json()["code"]) == (422, "unsupported")
        assert "`create_new_run`" in fork.json()["error"]
        for name in ("limit", "offset"):
            stream = await site.get(f"/api/runs/{run_id}/events?{name}=1", headers={"Accept": "text/event-stream"})
            assert (stream.status_code, stream.json()["code"]) == (422, "unsupported")
            assert f"`{name}`" in stream.json()["error"]
        assert (await site.get("/api/runs")).json()["total"] == runs
