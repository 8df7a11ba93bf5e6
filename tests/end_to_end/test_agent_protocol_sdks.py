"""The SDKs of the Agent Protocol as clients: every method that they have, and what people do with them."""

import asyncio
import json
import os
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    UnprocessableEntityError,
)

from tests.commands import completed
from tests.end_to_end.conftest import TALKING
from tests.end_to_end.processes import ROOT, WAIT, Sandbox, Server, gateway, program
from tests.end_to_end.sdk import (
    ENDLESS,
    PAUSES,
    QUICK,
    Methods,
    client_of,
    grown,
    named,
    prompts,
    run,
    run_of,
    says,
    status_at,
    stream,
    texts,
    until,
)

JAVASCRIPT = ROOT / "tests" / "javascript"
AGENT = "fe096781-5601-53d2-b2f6-0d3403f7e9ca"
"""The id under which every server of this protocol has the graph ``agent``."""
NIGHTLY = "0 0 * * *"

# -- every method -----------------------------------------------------------------------------------------------------


async def every_method(call: Methods) -> None:
    """What each method gives, or how it is refused: docs/clients.md says the same in words."""
    await assistants(call)
    thread = await threads(call)
    await runs(call, thread)
    await store(call)
    await crons(call, thread)
    assert await call("threads.delete", thread) is None
    await call.refused(404, "threads.get", thread)
    assert call.called == call.there, "the SDK has methods that nobody has looked at, or some no more"


async def assistants(call: Methods) -> None:
    made = await call("assistants.create", "agent", name="Poet", metadata={"kind": "poet"})
    id = made["assistant_id"]  # noqa: A001 - the wire's own word
    assert await call("assistants.get", id) == made
    assert (await call("assistants.get", "agent"))["assistant_id"] == AGENT
    assert (await call("assistants.update", id, name="A poet"))["version"] == 2
    assert [each["name"] for each in await call("assistants.search", metadata={"kind": "poet"})] == ["A poet"]
    assert await call("assistants.count", metadata={"kind": "poet"}) == 1
    nodes = (await call("assistants.get_graph", id))["nodes"]
    assert {node["id"] for node in nodes} == {"__start__", "agent", "__end__"}
    assert (await call("assistants.get_schemas", id))["graph_id"] == "agent"
    assert await call("assistants.get_subgraphs", id) == {}
    assert [each["version"] for each in await call("assistants.get_versions", id)] == [2]
    assert (await call("assistants.set_latest", id, 2))["version"] == 2
    await call.refused(404, "assistants.set_latest", id, 1)
    await call.refused(403, "assistants.delete", AGENT)
    assert await call("assistants.delete", id) is None
    await call.refused(404, "assistants.get", id)


async def threads(call: Methods) -> str:
    made = await call("threads.create", metadata={"project": "poems"})
    thread: str = made["thread_id"]
    assert await call("threads.get", thread) == made
    await call.refused(409, "threads.create", thread_id=thread)
    changed = await call("threads.update", thread, metadata={"mood": thread})
    assert changed["metadata"] == {"project": "poems", "mood": thread}
    assert [each["thread_id"] for each in await call("threads.search", metadata={"mood": thread})] == [thread]
    assert await call("threads.count", metadata={"mood": thread}) == 1
    state = await call("threads.get_state", thread)
    assert (state["values"], state["next"], state["checkpoint"]) == ({}, [], None)
    assert await call("threads.get_history", thread) == []
    more = await call("threads.create")
    assert await call("threads.prune", [more["thread_id"]]) == {"pruned_count": 1}
    assert "copied" in (await call.refused(501, "threads.copy", thread)).message
    assert "changed" in (await call.refused(501, "threads.update_state", thread, {"messages": []})).message
    assert "followed" in (await call.refused(501, "threads.join_stream", thread)).message
    await commands(await call("threads.stream", assistant_id="agent"))
    return thread


async def commands(session: Any) -> None:
    """The newest way to start runs is not spoken here."""
    given = says("Write a haiku about logs")
    if hasattr(session, "__aenter__"):
        async with session:
            with pytest.raises(httpx.HTTPStatusError, match="501"):
                await session.run.start(input=given)
    else:
        with session, pytest.raises(httpx.HTTPStatusError, match="501"):
            session.run.start(input=given)


async def runs(call: Methods, thread: str) -> None:
    begun: list[Any] = []
    given: dict[str, Any] = {"input": says("Write a haiku about logs"), "metadata": QUICK}
    events = await call("runs.stream", thread, "agent", **given, on_run_created=begun.append)
    assert [event.event for event in events] == ["metadata", *["values"] * (len(events) - 2), "end"]
    assert events[-1].data == {"status": "success"}
    (first,) = begun
    assert first == {"thread_id": thread, "run_id": events[0].data["run_id"]}
    assert texts(events[-2].data)[0] == ("human", "Write a haiku about logs")
    assert texts(events[-2].data)[-1] == ("ai", "Done: Write a haiku about logs")

    made = await call("runs.create", thread, "agent", **given, on_run_created=begun.append)
    assert begun[1] == {"thread_id": thread, "run_id": made["run_id"]}
    assert (made["assistant_id"], made["status"]) == (AGENT, "running")
    assert texts(await call("runs.join", thread, made["run_id"]))[-1] == ("ai", "Done: Write a haiku about logs")
    done = await call("runs.get", thread, made["run_id"])
    assert (done["status"], len(done["output"]["messages"])) == ("success", 2 * len(events[-2].data["messages"]))
    assert [each["run_id"] for each in await call("runs.list", thread)] == [made["run_id"], first["run_id"]]
    assert await call("runs.list", thread, status="error") == []
    joined = await call("runs.join_stream", thread, first["run_id"])
    assert joined[-2:] == events[-2:]
    assert await call("runs.join_stream", thread, first["run_id"], last_event_id=events[-2].id) == events[-1:]
    await call("runs.cancel", thread, made["run_id"])
    assert (await call("runs.get", thread, made["run_id"]))["status"] == "success"

    waited = await call("runs.wait", None, "agent", **given)
    assert texts(waited)[-1] == ("ai", "Done: Write a haiku about logs")
    batch = await call("runs.create_batch", [{"assistant_id": "agent", **given, "metadata": ENDLESS}] * 2)
    assert len({each["thread_id"] for each in batch}) == 2
    for each in batch:
        assert await call("runs.cancel_many", thread_id=each["thread_id"], run_ids=[each["run_id"]]) is None
        assert await call("runs.join", each["thread_id"], each["run_id"])
        assert (await call("runs.get", each["thread_id"], each["run_id"]))["status"] == "interrupted"
    await call.refused(404, "runs.get", thread, batch[0]["run_id"])
    assert await call("runs.delete", thread, made["run_id"]) is None
    await call.refused(404, "runs.get", thread, made["run_id"])


async def store(call: Methods) -> None:
    assert await call("store.put_item", ["poems", "short"], key="haiku", value={"lines": 3}) is None
    item = await call("store.get_item", ["poems", "short"], key="haiku")
    assert (item["namespace"], item["key"], item["value"]) == (["poems", "short"], "haiku", {"lines": 3})
    assert await call("store.search_items", ["poems"], filter={"lines": 3}) == {"items": [item]}
    assert await call("store.list_namespaces", prefix=["poems"]) == {"namespaces": [["poems", "short"]]}
    assert await call("store.delete_item", ["poems", "short"], key="haiku") is None
    assert await call("store.get_item", ["poems", "short"], key="haiku") is None


async def crons(call: Methods, thread: str) -> None:
    asked: list[tuple[str, list[Any], dict[str, Any]]] = [
        ("crons.create", ["agent"], {"schedule": NIGHTLY}),
        ("crons.create_for_thread", [thread, "agent"], {"schedule": NIGHTLY}),
        ("crons.update", ["7"], {"schedule": NIGHTLY}),
        ("crons.search", [], {}),
        ("crons.count", [], {}),
        ("crons.delete", ["7"], {}),
    ]
    for name, positional, given in asked:
        assert (await call.refused(501, name, *positional, **given)).message == "Nothing is run by the clock here."


async def test_every_method_of_the_python_sdk_works_or_is_refused_by_name(talking: Server) -> None:
    async with client_of(talking.url) as client:
        await every_method(Methods(client))


async def test_every_method_of_its_synchronous_kind_does_the_same(talking: Server) -> None:
    with get_sync_client(url=talking.url, api_key="sandbox-bob") as client:
        await every_method(Methods(client))


REFUSED = {
    "threads.copy",
    "threads.updateState",
    "threads.patchState",
    "threads.joinStream",
    "threads.stream",
    "crons.create",
    "crons.createForThread",
    "crons.update",
    "crons.search",
    "crons.count",
    "crons.delete",
}


def test_every_method_of_the_javascript_sdk_works_or_is_refused_by_name(talking: Server) -> None:
    """Between two events there is time for signs of life, after which no event must seem to have come."""
    node = program("node")
    said = completed([node, "--version"], timeout=WAIT, check=True).stdout
    if tuple(map(int, said.strip("v\n").split("."))) < (20, 19):
        pytest.skip("the SDK in JavaScript needs Node 20.19 or newer")
    if not (JAVASCRIPT / "node_modules" / "@langchain" / "langgraph-sdk").is_dir():
        pytest.skip("the SDK in JavaScript is not there: npm ci --prefix tests/javascript")
    command = [node, str(JAVASCRIPT / "every_method.mjs"), talking.url, "sandbox-alice"]
    done = completed(command, timeout=2 * WAIT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["uncalled"] == [], "the SDK has methods that nobody has looked at"
    assert {name: came for name, came in told["results"].items() if came != "ok"} == dict.fromkeys(REFUSED, 501)
    (begun,) = told["begun"]
    assert told["joined"] == told["streamed"]
    names = [name for name, _ in told["streamed"]]
    assert names[0] == "metadata"
    assert names[-4:] == ["values", "checkpoints", "debug", "end"]
    assert {*names} > {"messages", "messages/partial", "messages/complete", "updates", "custom", "tasks", "debug"}
    assert "" not in names
    numbers = [int(id.removeprefix(f"{begun['run_id']}_event_")) for _, id in told["streamed"]]  # noqa: A001
    assert numbers == sorted(set(numbers))
    assert told["answer"] == "Done: Write a haiku about logs"
    assert told["counts"] == [2, 1]


# -- what people do with them -----------------------------------------------------------------------------------------


async def test_an_interrupt_is_told_and_answered(host: Sandbox, talking: Server) -> None:
    async with client_of(talking.url) as client:
        thread = (await client.threads.create())["thread_id"]
        modes = ["values", "updates"]
        events = await stream(client, thread, "Bring it out", metadata=PAUSES, stream_mode=modes)
        (told,) = named(events, "updates")[-1]["__interrupt__"]
        assert named(events, "values")[-1]["__interrupt__"] == [told]
        assert events[-1].data == {"status": "interrupted"}
        state = await client.threads.get_state(thread)
        assert (state["next"], state["interrupts"], state["tasks"][0]["interrupts"]) == (["agent"], [told], [told])
        (waiting,) = await client.threads.search(ids=[thread], status="interrupted")
        assert [*waiting["interrupts"].values()] == [[told]]
        with pytest.raises(UnprocessableEntityError, match="not both"):
            await stream(client, thread, "Now", command={"resume": "now"})

        answer = {"decisions": [{"type": "approve"}]}
        events = await stream(client, thread, None, command={"resume": answer})
        assert events[-1].data == {"status": "success"}
        assert texts(named(events, "values")[-1])[-1][1].startswith("Thank you. With your answer I finished")
        assert prompts(host, run_of(host, "Bring it out")) == ["Bring it out", json.dumps(answer).replace(" ", "")]
        assert (await client.threads.get_state(thread))["next"] == []
        with pytest.raises(BadRequestError, match="not interrupted"):
            await stream(client, thread, None, command={"resume": answer})


def spoken(history: list[Any], text: str) -> Any:
    """The first state in which the user has said this."""
    return next(state for state in reversed(history) if texts(state["values"])[-1:] == [("human", text)])


async def test_an_answer_is_made_anew_and_what_was_asked_first_is_said_otherwise(
    host: Sandbox, talking: Server
) -> None:
    async with client_of(talking.url) as client:
        thread = (await client.threads.create())["thread_id"]
        await stream(client, thread, "Name a bird of the north")
        await stream(client, thread, "And one of the south")
        one_way = await client.threads.get_history(thread)
        first, second = spoken(one_way, "Name a bird of the north"), spoken(one_way, "And one of the south")

        # once more from where the user had spoken: what came of that is left behind
        again = await stream(client, thread, None, checkpoint=second["checkpoint"])
        said = texts(named(again, "values")[-1])
        assert [text for who, text in said if who == "human"] == [
            "Name a bird of the north",
            "And one of the south",
        ]
        (told,) = prompts(host, run_of(host, "And one of the south"))
        assert "Assistant: Done: Name a bird of the north" in told

        # otherwise from before the user had spoken
        edited = await stream(client, thread, "Name a fish", checkpoint=first["parent_checkpoint"])
        assert texts(named(edited, "values")[-1])[0] == ("human", "Name a fish")
        assert prompts(host, run_of(host, "Name a fish")) == ["Name a fish"]

        history = await client.threads.get_history(thread, limit=100)
        assert history[-len(one_way) :] == one_way
        begun = [state for state in history if (state["metadata"] or {})["step"] == 0]
        assert [texts(state["values"])[-1][1] for state in begun] == [
            "Name a fish",
            "And one of the south",
            "And one of the south",
            "Name a bird of the north",
        ]
        assert (await client.threads.get_state(thread))["values"] == history[0]["values"]
        mine = {"run_id": edited[0].data["run_id"], "step": 0}
        assert await client.threads.get_history(thread, metadata=mine) == begun[:1]
        assert await client.threads.get_history(thread, before=one_way[0]["checkpoint"], limit=1) == one_way[1:2]
        assert await client.threads.get_state(thread, checkpoint=second["checkpoint"]) == second
        assert await client.threads.get_state(thread, checkpoint_id=first["checkpoint_id"]) == first
        with pytest.raises(NotFoundError):
            await stream(client, thread, "And on", checkpoint_id="not-a-checkpoint")


async def test_a_run_while_another_is_under_way_waits_is_refused_or_takes_its_place(
    host: Sandbox, talking: Server
) -> None:
    async with client_of(talking.url) as client:
        thread = (await client.threads.create())["thread_id"]
        first = await client.runs.create(thread, "agent", input=says("Count the stars"), metadata=ENDLESS)
        assert (await client.threads.get(thread))["status"] == "busy"
        with pytest.raises(ConflictError):
            await stream(client, thread, "Count the clouds", multitask_strategy="reject")
        with pytest.raises(UnprocessableEntityError, match="rollback"):
            await stream(client, thread, "Count the clouds", multitask_strategy="rollback")
        with pytest.raises(ConflictError):
            await client.runs.delete(thread, first["run_id"])
        waiting = await client.runs.create(thread, "agent", input=says("Count the drops"))
        assert [each["run_id"] for each in await client.runs.list(thread)] == [waiting["run_id"], first["run_id"]]
        assert waiting["status"] == "pending"
        second = await client.runs.create(
            thread, "agent", input=says("Count the clouds"), multitask_strategy="interrupt"
        )
        found = {each["run_id"]: each["status"] for each in await client.runs.list(thread)}
        assert found == {
            second["run_id"]: "running",
            waiting["run_id"]: "interrupted",
            first["run_id"]: "interrupted",
        }
        counted = run_of(host, "Count the stars")
        assert prompts(host, counted) == ["Count the stars", "Count the clouds"]
        await grown(host, counted)
        await client.runs.cancel(thread, second["run_id"], wait=True)


@pytest.mark.parametrize("on_disconnect", ["cancel", "continue", None])
async def test_a_client_that_leaves_stops_its_run_only_where_it_said_so(
    host: Sandbox, talking: Server, on_disconnect: Any
) -> None:
    async with client_of(talking.url) as client:
        thread, text = (await client.threads.create())["thread_id"], f"Watch the sky, {on_disconnect}"
        given: Any = {"input": says(text), "metadata": ENDLESS, "stream_mode": "custom"}
        stream: Any = client.runs.stream(thread, "agent", **given, on_disconnect=on_disconnect)
        async with aclosing(stream) as events:
            async for event in events:
                if event.event == "custom" and event.data["position"] > 2:
                    break
        watched, (made,) = run_of(host, text), await client.runs.list(thread)
        if on_disconnect != "cancel":
            await grown(host, watched)
            assert (await client.runs.get(thread, made["run_id"]))["status"] == "running"
            # who joins may say so, too
            join: Any = client.runs.join_stream(
                thread, made["run_id"], cancel_on_disconnect=on_disconnect == "continue"
            )
            async with aclosing(join) as events:
                assert (await anext(events)).event == "metadata"
        if on_disconnect is None:
            assert (await client.runs.get(thread, made["run_id"]))["status"] == "running"
            await client.runs.cancel(thread, made["run_id"])
        await until(lambda: client.runs.get(thread, made["run_id"]), lambda it: it["status"] == "interrupted")
        assert status_at(host, watched) == "CANCELLED"


async def test_a_run_is_stopped_for_whoever_waits_and_the_thread_goes_on(host: Sandbox, talking: Server) -> None:
    async with client_of(talking.url) as client:
        thread = (await client.threads.create())["thread_id"]
        made = await client.runs.create(thread, "agent", input=says("Rake the leaves"), metadata=ENDLESS)
        run_of(host, "Rake the leaves")  # a run that is stopped at once has no word of the user in its log
        joining = asyncio.ensure_future(client.runs.join(thread, made["run_id"]))
        reading = asyncio.ensure_future(Methods(client)("runs.join_stream", thread, made["run_id"]))
        with pytest.raises(UnprocessableEntityError, match="rollback"):
            await client.runs.cancel(thread, made["run_id"], action="rollback")
        await client.runs.cancel(thread, made["run_id"], wait=True)
        assert (await client.runs.get(thread, made["run_id"]))["status"] == "interrupted"
        assert status_at(host, run_of(host, "Rake the leaves")) == "CANCELLED"
        assert texts(await joining)[0] == ("human", "Rake the leaves")
        assert (await reading)[-1].data == {"status": "interrupted"}
        assert (await client.threads.get(thread))["status"] == "idle"
        await client.runs.cancel(thread, made["run_id"], wait=True)
        going_on = await client.runs.create(thread, "agent", input=says("And the twigs"), metadata=ENDLESS)
        assert (await client.runs.get(thread, going_on["run_id"]))["status"] == "running"
        await grown(host, run_of(host, "Rake the leaves"))
        place = f"/threads/{thread}/runs/{going_on['run_id']}"
        assert (await asyncio.to_thread(talking.request, "DELETE", f"{place}?force=1")).status_code == 204
        assert status_at(host, run_of(host, "Rake the leaves")) == "CANCELLED"
        assert [each["run_id"] for each in await client.runs.list(thread)] == [made["run_id"]]


async def test_a_run_that_fails_says_so_to_everybody(talking: Server) -> None:
    async with client_of(talking.url) as client:
        thread = (await client.threads.create())["thread_id"]
        fails = {"scenario": "fails", "speed": 10}
        events = await stream(client, thread, "Build the shed", metadata=fails)
        failure, end = events[-2:]
        assert (failure.event, failure.data["error"]) == ("error", "RunFailed")
        assert (end.event, end.data) == ("end", {"status": "error"})
        run_id = events[0].data["run_id"]
        assert (await client.runs.join(thread, run_id))["__error__"] == failure.data
        told: Any = await client.runs.get(thread, run_id)
        assert told["error_message"] == failure.data["message"]
        assert (await client.threads.get(thread))["status"] == "error"
        (task,) = (await client.threads.get_state(thread))["tasks"]
        assert task["error"] == failure.data["message"]
        with pytest.raises(Exception, match="RunFailed"):
            await client.runs.wait(thread, "agent", input=says("Build it all the same"))


async def test_a_stateless_run_leaves_nothing_unless_it_is_to_be_kept(talking: Server) -> None:
    async with client_of(talking.url) as client:
        begun: list[Any] = []
        for keep, left in (({}, 0), ({"on_completion": "delete"}, 0), ({"on_completion": "keep"}, 1)):
            events = await stream(client, None, "Sing a song", on_run_created=begun.append, **keep)
            assert events[-1].data == {"status": "success"}
            assert len(await client.threads.search(ids=[begun[-1]["thread_id"]])) == left, keep
        await client.runs.wait(None, "agent", input=says("Sing it"), metadata=QUICK, on_run_created=begun.append)
        assert await client.threads.search(ids=[begun[-1]["thread_id"]]) == []
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            await client.runs.join(begun[-1]["thread_id"], begun[-1]["run_id"])
        assert len({each["thread_id"] for each in begun}) == 4


def test_who_waits_gets_signs_of_life_before_the_outcome(talking: Server) -> None:
    thread = talking.request("POST", "/threads", json={}).json()["thread_id"]
    body = {"assistant_id": "agent", "input": says("Boil an egg"), "metadata": {"scenario": "quick"}}
    answer = talking.request("POST", f"/threads/{thread}/runs/wait", json=body)
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.startswith("\n")
    assert answer.text.strip("\n")[0] == "{"
    assert texts(answer.json())[-1] == ("ai", "Done: Boil an egg")
    place = answer.headers["content-location"]
    assert answer.headers["location"] == f"{place}/join"
    assert talking.get(answer.headers["location"]).json() == answer.json()
    streamed = talking.request("POST", f"/threads/{thread}/runs/stream", json=body)
    assert streamed.headers["content-type"] == "text/event-stream"
    assert "\n: heartbeat\n" in streamed.text
    assert "heartbeat\n\n" not in streamed.text, "after a blank line clients in JavaScript believe in an event"


# -- who asks ---------------------------------------------------------------------------------------------------------


async def test_two_users_have_threads_of_the_same_name_and_know_nothing_of_each_other(talking: Server) -> None:
    async with client_of(talking.url) as alice, client_of(talking.url, "sandbox-bob") as bob:
        thread = f"diary-{os.urandom(4).hex()}"
        hers, his = await asyncio.gather(*(stream(client, thread, "Dear diary") for client in (alice, bob)))
        run_ids = [events[0].data["run_id"] for events in (hers, his)]
        for client, (mine, other) in ((alice, run_ids), (bob, run_ids[::-1])):
            assert [each["run_id"] for each in await client.runs.list(thread)] == [mine]
            assert [each["thread_id"] for each in await client.threads.search(ids=[thread])] == [thread]
            for refused in (
                client.runs.get(thread, other),
                client.runs.join(thread, other),
                client.runs.cancel(thread, other),
                client.runs.delete(thread, other),
                Methods(client)("runs.join_stream", thread, other),
                client.threads.get_state(thread, checkpoint_id=f"{other}.0"),
            ):
                with pytest.raises((NotFoundError, httpx.HTTPStatusError), match=r"404|not found"):
                    await refused
        await bob.threads.delete(thread)
        assert (await alice.threads.get(thread))["status"] == "idle"


LANGSMITH = "lsv2_pt_0123456789abcdef0123456789abcdef_0123456789"


async def test_a_token_may_come_in_either_header_and_keys_for_others_are_shown_to_no_host(
    host: Sandbox, talking: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = os.urandom(4).hex()
    async with client_of(talking.url) as client:
        thread = (await client.threads.create(metadata={"mark": mark}))["thread_id"]
    good: list[tuple[str | None, dict[str, str]]] = [
        ("sandbox-alice", {}),
        (None, {"Authorization": "Bearer sandbox-alice"}),
        ("sandbox-bob", {"Authorization": "Bearer sandbox-alice"}),
        (LANGSMITH, {"Authorization": "Bearer sandbox-alice"}),
    ]
    for token, headers in good:
        async with client_of(talking.url, token, **headers) as client:
            assert [each["thread_id"] for each in await client.threads.search(metadata={"mark": mark})] == [thread]
    host.forget_requests()
    foreign: list[tuple[str | None, dict[str, str]]] = [
        (None, {}),
        (LANGSMITH, {}),
        ("ls__0123456789abcdef", {}),
        (None, {"Authorization": f"Bearer {LANGSMITH}"}),
        ("sandbox-alice", {"Authorization": f"Bearer {LANGSMITH}"}),
    ]
    for token, headers in foreign:
        async with client_of(talking.url, token, **headers) as client:
            with pytest.raises(AuthenticationError):
                await client.threads.search(metadata={"mark": mark})
    monkeypatch.setenv("LANGSMITH_API_KEY", LANGSMITH)
    async with get_client(url=talking.url) as client:
        with pytest.raises(AuthenticationError):
            await stream(client, None, "Tell me everything")
    strangers = [row for row in host.admin("GET", "requests")["by_user"] if row["user"] is None]
    assert strangers == [], "the host was shown a key that is not for it"
    async with client_of(talking.url, "sandbox-mallory") as client:
        with pytest.raises(AuthenticationError):
            await client.threads.search()


def test_the_words_of_older_documents_are_spoken_where_the_deployment_says_so(host: Sandbox) -> None:
    async def main(server: Server) -> None:
        async with client_of(server.url) as client:
            fails = {"scenario": "fails", "speed": 10}
            for metadata, word in ((QUICK, "completed"), (fails, "failed"), (PAUSES, "interrupted")):
                events = await stream(client, None, "Say it in your words", metadata=metadata, on_completion="keep")
                assert events[-1].data == {"status": word}
            thread = (await client.threads.create())["thread_id"]
            made = await client.runs.create(thread, "agent", input=says("Never end"), metadata=ENDLESS)
            assert made["status"] == "running"
            await client.runs.cancel(thread, made["run_id"], wait=True)
            cancelled: Any = "cancelled"
            assert [each["status"] for each in await client.runs.list(thread, status=cancelled)] == [cancelled]
            assert await client.runs.list(thread, status="interrupted") == []

    with gateway(host, **TALKING, agent_protocol_statuses="documented") as server:
        run(main(server))
