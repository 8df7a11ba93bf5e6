"""MCP's own clients, in both eras of the protocol, in front of a gateway that serves."""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from codegen_api.auth.keys import new_key
from codegen_api.dialects.mcp.tools import TOOLS
from tests.end_to_end.mcp_clients import (
    CLIENTS,
    NEWER,
    TASKS,
    McpClient,
    McpFailure,
    called,
    followed,
    mcp_client,
    refused,
)
from tests.end_to_end.processes import Sandbox, Server, eventually, gateway, held_port, kill, sandbox
from tests.end_to_end.sdk import prompts, run_of
from tests.leaks import WATCH
from tests.upstreams.hosts.opencode import OpenCode

(ALICE, ALICE_LINE), (BOB, BOB_LINE) = (new_key(name, ["runs:read", "runs:write"]) for name in ("alice", "bob"))
SETTINGS: dict[str, Any] = {
    "dialects": "native,mcp",
    "auth": "key",
    "api_keys": f"{ALICE_LINE};{BOB_LINE}",
    "api_token": "sandbox-alice",
    "secret_key": "0123456789abcdef" * 2,
    "upstream_requests_per_minute": 100_000,
    "follower_linger_seconds": 0.3,
}


@pytest.fixture(scope="module")
def swift() -> Iterator[Sandbox]:
    """A host whose runs take a third of a second, but for those that a test begins itself."""
    with sandbox("--speed", "40") as host:
        yield host


@pytest.fixture(scope="module")
def site(swift: Sandbox) -> Iterator[Server]:
    for token in (ALICE, BOB):
        WATCH.secret("a token", token)
    with gateway(swift, **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module", params=CLIENTS, ids=" ".join)
def client(request: pytest.FixtureRequest, site: Server) -> Iterator[McpClient]:
    """A client of alice's."""
    with mcp_client(request.param[0], request.param[1], f"{site.url}/mcp") as client:
        client.do("connect", token=ALICE)
        yield client


def said(text: str) -> str:
    """A prompt that no other test gives."""
    prompt = f"{text}, {uuid.uuid4().hex}"
    WATCH.secret("a prompt", prompt)
    return prompt


def begun(site: Server, scenario: str, prompt: str = "Water the plants", speed: float = 1) -> str:
    """A run of alice's that goes as a test wants it, at so many times the speed of the host."""
    body = {"prompt": prompt, "metadata": {"scenario": scenario, "speed": speed}}
    answer = site.request("POST", "/agent-runs", json=body, headers={"Authorization": f"Bearer {ALICE}"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def native(site: Server, run: str) -> list[int]:
    """The positions of a log, as the gateway's own API has it."""
    answer = site.get(f"/agent-runs/{run}/logs?limit=100", {"Authorization": f"Bearer {ALICE}"})
    return [entry["position"] for entry in answer.json()["logs"]]


def test_it_finds_what_there_is(client: McpClient) -> None:
    about = client.do("connect", token=ALICE)
    assert about["version"] == client.version
    assert about["server"]["name"]
    assert "instruction" in about["instructions"]
    assert (TASKS in about["capabilities"].get("extensions", {})) == (client.version == NEWER)
    tools = client.do("tools")["tools"]
    assert [tool["name"] for tool in tools] == [tool.name for tool in TOOLS]
    assert all(tool["description"] and tool["inputSchema"]["type"] == "object" for tool in tools)
    (template,) = client.do("templates")["resourceTemplates"]
    assert template["uriTemplate"] == "codegen://runs/{run_id}/log{?after}"


def test_a_run_is_started_followed_read_and_resumed(client: McpClient, site: Server, swift: Sandbox) -> None:
    text = said("Mend the fence")
    started = called(client, "start_run", prompt=text, idempotency_key=text)
    assert started == called(client, "start_run", prompt=text, idempotency_key=text)
    run = started["run_id"]
    now, entries = followed(client, run)
    assert now["run_status"] == "completed"
    assert now["answer"] in entries[-1]["text"]
    positions = [entry["position"] for entry in entries]
    assert positions == native(site, run)

    found = called(client, "get_run", run_id=run)
    assert (found["answer"], found["length"]) == (now["answer"], len(entries))
    read, after, at_end = [], 0, False
    while not at_end:
        page = called(client, "read_log", run_id=run, after=after, limit=5)
        read += page["entries"]
        after, at_end = page["next_after"], page["at_end"]
    assert read == entries
    (content,) = client.do("read", uri=f"codegen://runs/{run}/log?after=2")["contents"]
    assert json.loads(content["text"])["entries"] == entries[2:]
    assert run in [each["run_id"] for each in called(client, "list_runs", limit=50)["runs"]]

    called(client, "resume_run", run_id=run, prompt="And now the gate")
    again, more = followed(client, run, after=after)
    assert again["ended"]
    positions += [entry["position"] for entry in more]  # an entry that changed after it was sent comes again
    assert [*dict.fromkeys(positions)] == native(site, run)
    assert prompts(swift, run_of(swift, text)) == [text, "And now the gate"]


def test_who_follows_a_run_is_told_of_each_entry_at_once(client: McpClient, site: Server) -> None:
    run = begun(site, "quick", speed=0.05)
    given = {"run_id": run, "wait_seconds": 20}
    came = client.do("call", name="follow_run", arguments=given, progress=True)
    result = came["result"]["structuredContent"]
    assert result["ended"]
    told = [each["progress"] for each in came["progress"]]
    assert told == [entry["position"] for entry in result["entries"]] == native(site, run)
    assert all(each["message"] for each in came["progress"])


def test_a_call_that_takes_the_client_too_long_leaves_the_run_at_work(client: McpClient, site: Server) -> None:
    run = begun(site, "endless", speed=0.1)
    with pytest.raises(McpFailure):
        client.do("call", name="follow_run", arguments={"run_id": run, "wait_seconds": 30}, within=0.5)
    assert not called(client, "get_run", run_id=run)["ended"]
    called(client, "cancel_run", run_id=run)
    _, entries = followed(client, run)
    assert [entry["position"] for entry in entries] == native(site, run)


def test_an_agent_that_waits_is_answered(client: McpClient, site: Server, swift: Sandbox) -> None:
    text = said("Choose a seat")
    run = begun(site, "pauses", text)
    now, entries = followed(client, run)
    assert not now["ended"]
    called(client, "resume_run", run_id=run, prompt="By the window")
    now, _ = followed(client, run, after=entries[-1]["position"])
    assert now["run_status"] == "completed"
    assert prompts(swift, run_of(swift, text)) == [text, "By the window"]


def test_a_task_that_waits_is_answered_by_who_polls_it(client: McpClient, site: Server, swift: Sandbox) -> None:
    if client.version != NEWER:
        return  # there are no tasks
    text = said("Choose a name")
    run = begun(site, "pauses", text)
    came = client.do("watch", task=run, answer={"answer": "Ada"})
    (asked,) = came["asked"]
    assert asked["message"] == "The agent waits for an answer."
    assert came["result"]["structuredContent"]["run_status"] == "completed"
    assert prompts(swift, run_of(swift, text)) == [text, "Ada"]


def test_a_run_is_stopped(client: McpClient, site: Server) -> None:
    run = begun(site, "endless")
    assert called(client, "cancel_run", run_id=run)["run_status"] == "cancelled"
    assert called(client, "get_run", run_id=run)["ended"]


def test_an_agent_is_run_to_its_end(client: McpClient, site: Server) -> None:
    came = client.do("task", name="run_agent", arguments={"prompt": "Feed the hens"})
    result = came["result"]["structuredContent"]
    assert (result["run_status"], result["ended"]) == ("completed", True)
    assert result["answer"]
    if client.version == NEWER:
        assert (came["kind"], came["states"][-1]) == ("task", "completed")
    else:
        assert came["kind"] == "immediate"
    waited = called(client, "run_agent", prompt="Feed the geese")  # who knows no tasks gets none
    assert waited["run_status"] == "completed"


def test_what_goes_wrong_is_said_to_the_model_or_to_the_client(client: McpClient) -> None:
    assert refused(client, "get_run", run_id="999999").startswith("not_found: ")
    assert refused(client, "start_run", prompt=" ").startswith("validation_error: prompt: ")
    assert "wait_seconds" in refused(client, "follow_run", run_id="1", wait_seconds=600)
    for command, given in ("call", {"name": "no_such_tool", "arguments": {}}), ("read", {"uri": "codegen://nothing"}):
        with pytest.raises(McpFailure) as caught:
            client.do(command, **given)
        assert caught.value.code in (-32602, -32002)


def test_a_host_that_starts_anew_in_the_middle_goes_on_from_a_position(client: McpClient, site: Server) -> None:
    run = begun(site, "default", speed=0.2)
    first = called(client, "follow_run", run_id=run, wait_seconds=1)
    client.do("connect", token=ALICE)
    read = called(client, "read_log", run_id=run, after=first["next_after"])
    _, rest = followed(client, run, read["next_after"])
    positions = [entry["position"] for part in (first["entries"], read["entries"], rest) for entry in part]
    assert [*dict.fromkeys(positions)] == native(site, run)


def test_the_runs_of_others_are_not_there(client: McpClient, site: Server) -> None:
    run = begun(site, "quick")
    client.do("connect", token=BOB)
    tools: dict[str, dict[str, Any]] = {
        "get_run": {},
        "read_log": {},
        "follow_run": {"wait_seconds": 1},
        "resume_run": {"prompt": "Do it for me"},
        "cancel_run": {},
    }
    for tool, given in tools.items():
        assert refused(client, tool, run_id=run, **given).startswith("not_found: ")
    assert called(client, "list_runs")["runs"] == []
    with pytest.raises(McpFailure):
        client.do("read", uri=f"codegen://runs/{run}/log")
    client.do("connect", token=ALICE)


def test_a_gateway_that_is_killed_and_comes_back_loses_nothing(swift: Sandbox) -> None:
    with held_port() as port, ExitStack() as stack:
        here = "--port", str(port)
        with gateway(swift, *here, **SETTINGS) as first:
            clients = [stack.enter_context(mcp_client(*each, f"{first.url}/mcp")) for each in CLIENTS]
            for client in clients:
                client.do("connect", token=ALICE)
            run = begun(first, "endless", speed=0.1)
            eventually(lambda: len(native(first, run)) > 2)
            before = [called(client, "read_log", run_id=run) for client in clients]
            kill(first.pid)
            for client in clients:
                with pytest.raises(McpFailure):
                    called(client, "get_run", run_id=run)
        with gateway(swift, *here, **SETTINGS) as second:
            for client in clients:
                if not client.outlasts:
                    client.do("connect", token=ALICE)
            called(clients[0], "cancel_run", run_id=run)
            for client, seen in zip(clients, before, strict=True):
                _, rest = followed(client, run, seen["next_after"])
                positions = [entry["position"] for entry in seen["entries"] + rest]
                assert [*dict.fromkeys(positions)] == native(second, run), client


def test_an_agent_has_another_one_work_for_it(site: Server, swift: Sandbox, tmp_path: Path) -> None:
    if (reason := OpenCode.missing()) is not None:
        pytest.skip(reason)
    text = said("Sweep the yard")
    opencode = OpenCode(tmp_path)
    with opencode.held:
        server = {"type": "remote", "url": f"{site.url}/mcp", "headers": {"Authorization": f"Bearer {ALICE}"}}
        assert "The answer after 1 calls" in opencode.run(f"delegate {text}", {"codegen": server})
        assert "I did what you asked" in json.dumps(opencode.model.asked[-1])
    assert prompts(swift, run_of(swift, text)) == [text]
