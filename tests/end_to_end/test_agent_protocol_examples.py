"""The examples that Aegra documents, against ``python run_server.py --sandbox``, without an account or a key.

Where something comes otherwise than it is documented, the test says so; docs/clients.md says why.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph_sdk import get_client

from tests.end_to_end.processes import WAIT, Server, gateway
from tests.end_to_end.sdk import PAUSES, QUICK, named, run, says, texts
from tests.leaks import WATCH
from tests.test_examples import program

WEATHER = "What is the weather in San Francisco?"


@pytest.fixture(scope="module")
def front() -> Iterator[Server]:
    with gateway(None, "--sandbox") as server:
        yield server


def payload(text: str = WEATHER, **more: Any) -> dict[str, Any]:
    """The documented body; with ``metadata`` by which the sandbox hurries."""
    WATCH.secret("a prompt", text)
    return {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": text}]},
        "stream_mode": ["values", "messages"],
        "metadata": QUICK,
        **more,
    }


def post(front: Server, path: str, body: object, status: int = 200) -> Any:
    answer = front.request("POST", path, json=body, headers={})
    assert answer.status_code == status, answer.text
    return answer.json()


def curl(*arguments: str) -> list[dict[str, Any]]:
    """The events that curl prints."""
    command = [program("curl"), "-sS", "-N", "--max-time", str(WAIT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT, check=True)
    blocks = [block.split("\n") for block in done.stdout.strip("\n").split("\n\n")]
    events = [dict(line.split(": ", 1) for line in block if line[0] != ":") for block in blocks]
    return [{**event, "data": json.loads(event["data"])} for event in events]


def test_a_run_is_created_streamed_and_described_and_its_stream_is_told_again(front: Server) -> None:
    place = "/threads/example-thread-123/runs"
    made = post(front, place, payload())
    documented = {"run_id", "thread_id", "assistant_id", "status", "created_at", "input", "output", "error_message"}
    assert documented <= made.keys()
    assert made["thread_id"] == "example-thread-123"
    assert made["status"] in ("pending", "running")
    assert made["output"] is made["error_message"] is None
    assert made["assistant_id"] == "fe096781-5601-53d2-b2f6-0d3403f7e9ca", "not the name that was sent"

    run_id, url = made["run_id"], f"{front.url}{place}/{made['run_id']}"
    events = curl(f"{url}/stream")
    assert (events[0]["event"], events[0]["data"]["run_id"]) == ("metadata", run_id)
    assert events[0]["id"] == f"{run_id}_event_2", "numbers do not begin at 0, and have gaps"
    assert events[1]["event"] == "values"
    (asked,) = events[1]["data"]["messages"]
    assert (asked["type"], asked["content"]) == ("human", WEATHER), "LangChain's own form, not role and content"
    assert {event["event"] for event in events[2:-1]} == {
        "values",
        "messages/metadata",
        "messages/partial",
        "messages/complete",
    }, "pieces of messages come as `messages` for the mode messages-tuple"
    assert (events[-1]["event"], events[-1]["data"]) == ("end", {"status": "success"})

    told = front.get(f"{place}/{run_id}", {}).json()
    assert told["status"] == "success", "`completed` with CODEGEN_AGENT_PROTOCOL_STATUSES=documented"
    assert told["output"] == events[-2]["data"]
    assert told["updated_at"] > told["created_at"] == made["created_at"]

    assert curl("-H", f"Last-Event-ID: {run_id}_event_0", f"{url}/stream") == events
    assert curl(f"{url}/stream") == events, "also without: nothing is empty because the run is over"
    behind = curl("-H", f"Last-Event-ID: {run_id}_event_5", f"{url}/stream")
    assert behind == [event for event in events if int(event["id"].rpartition("_")[2]) > 5]
    assert 0 < len(behind) < len(events)
    assert front.request("POST", f"/runs/{run_id}/stream", headers={}).text.count("\nid: ") == len(events)


def test_the_documented_stream_modes_can_be_asked_for(front: Server) -> None:
    thread = post(front, "/threads", {})["thread_id"]
    modes = ["values", "messages", "updates", "debug"]
    answer = front.request("POST", f"/threads/{thread}/runs/stream", json=payload(stream_mode=modes), headers={})
    names = {line.removeprefix("event: ") for line in answer.text.split("\n") if line.startswith("event: ")}
    messages = {"messages/metadata", "messages/partial", "messages/complete"}
    assert names == {"metadata", "values", "updates", "debug", "end", *messages}


def test_an_interrupt_is_resumed_and_a_checkpoint_started_from(front: Server) -> None:
    thread = post(front, "/threads", {})["thread_id"]
    refused = post(front, f"/threads/{thread}/runs", payload(interrupt_before=["human_review_node"]), 422)
    assert "interrupt_before" in refused["message"], "the host stops where it wants to"

    waited = post(front, f"/threads/{thread}/runs/wait", payload("Ask me before", metadata=PAUSES))
    assert waited["__interrupt__"]
    resume = {"assistant_id": "agent", "command": {"resume": {"approved": True}}}
    done = post(front, f"/threads/{thread}/runs/wait", resume)
    assert texts(done)[-1][1].startswith("Thank you. With your answer I finished")

    states = front.get(f"/threads/{thread}/history", {}).json()
    checkpoint = next(state["checkpoint"] for state in reversed(states) if state["values"].get("messages"))
    assert checkpoint.keys() == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    forked = post(front, f"/threads/{thread}/runs/wait", payload("Do something else", checkpoint=checkpoint))
    assert [text for who, text in texts(forked) if who == "human"] == ["Ask me before", "Do something else"]


def test_the_sdk_needs_nothing_but_the_address(front: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGGRAPH_API_KEY", "LANGSMITH_API_KEY", "LANGCHAIN_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    async def main() -> None:
        async with get_client(url=front.url) as client:
            given: Any = {"input": says(WEATHER), "metadata": QUICK, "stream_mode": ["values", "messages-tuple"]}
            events = [event async for event in client.runs.stream(None, "agent", **given)]
            assert [event.event for event in events[:2]] == ["metadata", "values"]
            assert named(events, "messages"), "which is what this mode's events are called"
            assert events[-1].data == {"status": "success"}, "not None, which browsers cannot read"

    run(main())


def test_every_documented_endpoint_is_there(front: Server) -> None:
    made = post(front, "/assistants", {"graph_id": "agent"})
    listed = front.get("/assistants", {}).json()
    assert made["assistant_id"] in [each["assistant_id"] for each in listed["assistants"]]
    assert front.get(f"/assistants/{made['assistant_id']}", {}).json() == made
    thread = post(front, "/threads", {})["thread_id"]
    assert front.get(f"/threads/{thread}/state", {}).json()["values"] == {}
    item = {"namespace": ["notes"], "key": "first", "value": {"text": "Buy bread"}}
    for path in ("/store", "/store/items"):
        assert front.request("PUT", path, json=item, headers={}).status_code == 204
    for path in ("/store/search", "/store/items/search"):
        found = post(front, path, {"namespace_prefix": ["notes"], "query": "bread"})
        assert [each["key"] for each in found["items"]] == ["first"]
    health = front.get("/health", {}).json()
    assert health["status"] == "healthy"
    assert health["redis"] == "not configured", "and so neither of the documented words"
