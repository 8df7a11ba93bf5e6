"""The Agent Protocol 0.1.6 and LangGraph's server 0.16.7, as their documents publish them: each operation is served, or
is told to be none, and each name that clients may send is known.
"""

import re
from typing import Any

import pytest

from tests.dialects.documented import chapter
from tests.dialects.published import Operation, bare, declared, operations, served
from tests.dialects.sdk import speaking
from tests.dialects.site import Site

CHAPTER = chapter("The Agent Protocol")

ASSISTANT = "assistant_id graph_id config created_at updated_at metadata"
MADE = "assistant_id graph_id config context metadata if_exists name description"
AGENT = "agent_id name capabilities"
THREAD = "thread_id created_at updated_at metadata status"
FOUND = "ids metadata values status limit offset sort_by sort_order select extract order_by"
STATE = "values next checkpoint metadata created_at"
RUN = "run_id thread_id assistant_id created_at updated_at status metadata kwargs multitask_strategy"
ITEM = "namespace key value created_at updated_at"
STARTS = "agent_id assistant_id input messages command metadata config context webhook stream_mode stream_subgraphs"
STARTS += " stream_resumable feedback_keys after_seconds checkpoint_during durability multitask_strategy"
IN_THREAD = f"{STARTS} checkpoint interrupt_before interrupt_after if_not_exists"
ALONE = f"{STARTS} thread_id on_completion if_not_exists"
THREADS = "/threads/{thread_id}"
RUNS = f"{THREADS}/runs/{{run_id}}"

SERVED = operations(
    f"""
    POST /assistants | | {MADE} | {ASSISTANT}
    POST /assistants/search | | metadata graph_id name limit offset sort_by sort_order select | {ASSISTANT}
    POST /assistants/count | | metadata graph_id name
    GET /assistants/{{assistant_id}} | | | {ASSISTANT}
    DELETE /assistants/{{assistant_id}} | delete_threads
    PATCH /assistants/{{assistant_id}} | | graph_id config context metadata name description | {ASSISTANT}
    GET /assistants/{{assistant_id}}/graph | xray
    GET /assistants/{{assistant_id}}/subgraphs | recurse
    GET /assistants/{{assistant_id}}/subgraphs/{{namespace}} | recurse
    GET /assistants/{{assistant_id}}/schemas | | | graph_id state_schema
    POST /assistants/{{assistant_id}}/versions | | metadata limit offset | {ASSISTANT}
    POST /assistants/{{assistant_id}}/latest | | version | {ASSISTANT}
    POST /agents/search | | name metadata limit offset | {AGENT}
    GET /agents/{{agent_id}} | | | {AGENT}
    GET /agents/{{agent_id}}/schemas | | | agent_id input_schema output_schema
    POST /threads | | thread_id metadata if_exists ttl supersteps | {THREAD}
    POST /threads/search | | {FOUND} | {THREAD}
    POST /threads/count | | metadata values status
    POST /threads/prune | | thread_ids strategy | pruned_count
    GET {THREADS} | include | | {THREAD}
    DELETE {THREADS}
    PATCH {THREADS} | | metadata ttl values messages checkpoint | {THREAD}
    GET {THREADS}/state | subgraphs | | {STATE}
    GET {THREADS}/state/{{checkpoint_id}} | subgraphs | | {STATE}
    POST {THREADS}/state/checkpoint | | checkpoint subgraphs | {STATE}
    GET {THREADS}/history | limit before | | {STATE}
    POST {THREADS}/history | | limit before metadata checkpoint | {STATE}
    GET {THREADS}/runs | limit offset status select | | {RUN}
    POST {THREADS}/runs | | {IN_THREAD} | {RUN}
    POST {THREADS}/runs/stream | | {IN_THREAD} on_disconnect
    POST {THREADS}/runs/wait | | {IN_THREAD} on_disconnect | messages
    GET {RUNS} | | | {RUN}
    DELETE {RUNS}
    GET {RUNS}/join | cancel_on_disconnect | | messages
    GET {RUNS}/stream | stream_mode cancel_on_disconnect
    POST {RUNS}/cancel | wait action | | {RUN}
    POST /runs | | {ALONE} | {RUN}
    POST /runs/stream | | {ALONE} on_disconnect
    POST /runs/wait | | {ALONE} on_disconnect | messages
    POST /runs/batch | | {ALONE} | {RUN}
    POST /runs/cancel | action | status thread_id run_ids
    POST /runs/search | | metadata status thread_id agent_id limit offset | {RUN}
    GET /runs/{{run_id}} | | | {RUN}
    DELETE /runs/{{run_id}}
    GET /runs/{{run_id}}/wait | | | messages
    GET /runs/{{run_id}}/stream
    POST /runs/{{run_id}}/cancel | wait action | | {RUN}
    PUT /store/items | | namespace key value index ttl
    DELETE /store/items | | namespace key
    GET /store/items | key namespace refresh_ttl | | {ITEM}
    POST /store/items/search | | namespace_prefix filter limit offset query refresh_ttl | items
    POST /store/namespaces | | prefix suffix max_depth limit offset
    GET /info | | | version langgraph_py_version flags metadata
    GET /ok | check_db | | ok
    """
)

ABSENT = operations(
    """
    POST /threads/{t}/copy
    POST /threads/{t}/state
    GET /threads/{t}/storage
    GET,POST /threads/{t}/stream
    POST /threads/{t}/stream/events
    POST /threads/{t}/commands
    POST /threads/{t}/runs/crons
    POST /runs/crons
    POST /runs/crons/search
    POST /runs/crons/count
    GET,PATCH,DELETE /runs/crons/{c}
    """
)
"""501 by name. ``/a2a`` and ``/mcp/`` are 404, and outside of what this dialect answers."""

ROUTES = served("agent_protocol")
SAID: dict[str, Any] = {"messages": [{"role": "user", "content": "Count the boats"}]}
BODIES: dict[str, Any] = {
    "POST /assistants": {"graph_id": "agent"},
    "POST /assistants/{assistant_id}/latest": {"version": 2},  # it was changed before
    "POST /threads/prune": {"thread_ids": []},
    "POST /threads/{thread_id}/state/checkpoint": {"checkpoint": {}},
    "POST /runs/batch": [SAID],
    "PUT /store/items": {"namespace": ["a"], "key": "other", "value": {}},
    "DELETE /store/items": {"namespace": ["a"], "key": "k"},
    **{f"POST {path}": SAID for path in ("/runs", "/runs/stream", "/runs/wait")},
    **{f"POST {THREADS}{path}": SAID for path in ("/runs", "/runs/stream", "/runs/wait")},
}


@pytest.mark.parametrize("operation", SERVED, ids=str)
def test_each_operation_is_served_and_knows_what_it_may_be_sent(operation: Operation) -> None:
    route = ROUTES.get((operation.method, bare(operation.path)))
    assert route is not None
    query, body = declared(route)
    assert set(operation.query) - query == set()
    if operation.path != "/runs/batch":  # a list
        assert set(operation.body) - body == set()
    assert f"`{operation}`" in CHAPTER


async def test_each_answer_has_what_clients_cannot_do_without() -> None:
    async with speaking() as site:
        names = await filled(site)
        lacking = {}
        for operation in (each for each in SERVED if each.answer):
            path = re.sub("{([^}]*)}", lambda found: names[found[1]], operation.path)
            if operation.path == "/store/items":
                path += "?key=k&namespace=a"
            body = BODIES.get(str(operation), {})
            sent = {} if operation.method == "GET" or path.endswith("/cancel") else {"json": body}
            answer = await site.ask(operation.method, path, **sent)
            assert answer.status_code == 200, (operation, answer.text)
            told = answer.json()
            many = told if isinstance(told, list) else [told]
            assert many, operation
            lacking[str(operation)] = {name for each in many for name in operation.answer if name not in each}
        assert {operation: names for operation, names in lacking.items() if names} == {}


async def filled(site: Site) -> dict[str, str]:
    """A gateway with one of each kind, and their names."""
    await site.post("/assistants", {"graph_id": "agent", "assistant_id": "mine"})
    made = (await site.post("/threads/t/runs", SAID)).json()
    finish(site)
    await site.get(f"/runs/{made['run_id']}/wait")
    await site.ask("PUT", "/store/items", json={"namespace": ["a"], "key": "k", "value": {}})
    state = (await site.get("/threads/t/state")).json()
    finishing(site)
    return {
        "assistant_id": "mine",
        "agent_id": "mine",
        "thread_id": "t",
        "run_id": made["run_id"],
        "checkpoint_id": state["checkpoint"]["checkpoint_id"],
    }


def finish(site: Site) -> None:
    for made in site.host.runs.values():
        made.append(type="ANSWER", text="Twelve")
        made.status = "COMPLETE"


def finishing(site: Site) -> None:
    """From now on the host ends whatever it begins at once."""
    create, resume = site.host.create_run, site.host.resume_run

    async def created(*given: Any) -> Any:
        begun = await create(*given)
        finish(site)
        return begun

    async def resumed(*given: Any, **more: Any) -> Any:
        begun = await resume(*given, **more)
        finish(site)
        return begun

    site.host.create_run, site.host.resume_run = created, resumed


async def test_what_is_not_offered_is_said_by_name_and_listed() -> None:
    refused = CHAPTER.split("\n**Refused by name.**")[1].split("\n**", maxsplit=1)[0]
    listed = {"copy": "copying a thread", "state": "changing its state", "crons": "crons"}

    async with speaking() as site:
        await site.post("/threads", {"thread_id": "t"})
        for operation in ABSENT:
            path = operation.path.format(t="t", c="c")
            answer = await site.ask(operation.method, path)
            assert answer.status_code == 501, operation
            assert (answer.json()["error"], answer.json()["code"]) == ("not_implemented", "unsupported")
            last = "crons" if "crons" in path else path.rpartition("/")[2]
            named = operation.path.replace("{t}", "{thread_id}")
            assert listed.get(last, f"`{named}`") in refused, operation
        for path in ("/a2a/agent", "/mcp/"):
            assert (await site.post(path, {})).status_code == 404
            assert f"`{path.replace('agent', '{assistant_id}')}`" in CHAPTER


@pytest.mark.parametrize("name", ["values", "messages", "checkpoint", "ttl"])
async def test_what_would_change_a_thread_otherwise_is_refused_by_name(name: str) -> None:
    async with speaking() as site:
        await site.post("/threads", {"thread_id": "t"})
        answer = await site.ask("PATCH", "/threads/t", json={"metadata": {"a": 1}, name: {"b": 2}})
        assert (answer.status_code, answer.json()["code"]) == (422, "unsupported")
        assert f"`{name}`" in answer.json()["message"]
        assert (await site.get("/threads/t")).json()["metadata"] == {}


async def test_a_run_goes_into_the_thread_that_its_body_names_and_nowhere_else() -> None:
    async with speaking() as site:
        await filled(site)
        answer = await site.post("/runs/wait", {**SAID, "thread_id": "t"})
        assert len([each for each in answer.json()["messages"] if each["type"] == "human"]) == 2
        assert (await site.get("/threads/t")).status_code == 200
        assert (await site.post("/runs", {**SAID, "thread_id": "new"})).json()["thread_id"] == "new"
        refused = await site.post("/threads/t/runs", {**SAID, "thread_id": "other"})
        assert refused.status_code == 422
        assert (await site.get("/threads/other")).status_code == 404


async def test_a_list_of_runs_has_the_fields_that_are_asked_for() -> None:
    async with speaking() as site:
        made = (await site.post("/threads/t/runs", SAID)).json()
        found = (await site.get("/threads/t/runs?select=run_id&select=thread_id")).json()
        assert found == [{"run_id": made["run_id"], "thread_id": "t"}]
