"""Real hosts start, do what a prompt says, and start again on the same port with what they have stored."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.end_to_end.processes import eventually
from tests.upstreams.hosts.a2a import A2A
from tests.upstreams.hosts.aegra import Aegra
from tests.upstreams.hosts.gemini import Gemini
from tests.upstreams.hosts.langgraph import LangGraph
from tests.upstreams.hosts.opencode import OpenCode
from tests.upstreams.hosts.openhands import OpenHands
from tests.upstreams.hosts.running import RealHost, is_here, serving

PROMPT, STEPS, ANSWER = "steps 2", ["step 0", "step 1"], "The answer after 2 calls"

Read = Callable[[], str]
"""The log of a run, as the host has it now, in JSON."""


def on_opencode(host: Any, client: httpx.Client) -> Read:
    place = {"directory": str(host.project)}
    session = post(client, "/api/session", {"model": {"providerID": "fake", "id": "fake"}, "location": place})["data"]
    post(client, f"/api/session/{session['id']}/prompt", {"prompt": {"text": PROMPT}})
    return lambda: client.get(f"/api/session/{session['id']}/history").text


def on_langgraph(_: Any, client: httpx.Client) -> Read:
    thread = post(client, "/threads", {})["thread_id"]
    asked = {"messages": [{"role": "user", "content": PROMPT}]}
    post(client, f"/threads/{thread}/runs", {"assistant_id": "agent", "input": asked})
    return lambda: client.get(f"/threads/{thread}/state").text


def on_a2a(_: Any, client: httpx.Client) -> Read:
    client.headers["A2A-Version"] = "1.0"
    message = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": PROMPT}]}
    at_once = {"returnImmediately": True}
    task = post(client, "/rest/message:send", {"message": message, "configuration": at_once})["task"]
    return lambda: client.get(f"/rest/tasks/{task['id']}").text


def on_gemini(host: Any, client: httpx.Client) -> Read:
    part = {"kind": "text", "text": PROMPT}
    message = {"kind": "message", "messageId": "1", "role": "user", "parts": [part], "metadata": host.agent_settings()}
    call = {"jsonrpc": "2.0", "id": 1, "method": "message/stream", "params": {"message": message}}
    log = client.post("/", json=call).text  # it exists nowhere but on the wire
    return lambda: log


def on_openhands(host: Any, client: httpx.Client) -> Read:
    first = {"role": "user", "content": [{"type": "text", "text": PROMPT}], "run": True}
    made = post(client, "/api/conversations", {**host.conversation, "initial_message": first})
    return lambda: client.get(f"/api/conversations/{made['id']}/events/search", params={"limit": 100}).text


def post(client: httpx.Client, path: str, body: object) -> Any:
    answer = client.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


BEGIN: dict[type[RealHost], Callable[[Any, httpx.Client], Read]] = {
    OpenCode: on_opencode,
    LangGraph: on_langgraph,
    A2A: on_a2a,
    Aegra: on_langgraph,
    Gemini: on_gemini,
    OpenHands: on_openhands,
}


@pytest.fixture(scope="module", params=[kind for kind in BEGIN if is_here(kind)], ids=lambda kind: kind.name)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    yield from serving(request.param, tmp_path_factory)


def test_a_host_does_what_the_prompt_says_and_keeps_it_when_it_starts_again(host: RealHost) -> None:
    with host.client() as client:
        read = BEGIN[type(host)](host, client)
        log = eventually(read, lambda log: ANSWER in log)
        assert all(step in log for step in STEPS)
        host.restart()
        if host.keeps:
            assert ANSWER in read()
