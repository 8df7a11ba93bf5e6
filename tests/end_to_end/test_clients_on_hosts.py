"""Every dialect, with the client that its users have, in front of real agent hosts; each test is a row of the table in
docs/clients.md, and sees to it that what stands there is what happens.
"""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import agents
import codegen_api_client
import httpx
import openai
import pytest
from codegen_api_client.exceptions import ApiException
from everruns_sdk import Everruns
from everruns_sdk.errors import NotFoundError
from everruns_sdk.sse import EventStream, StreamOptions
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError as NoThread

from codegen_api.auth.keys import new_key
from codegen_api.build_parts import DIALECTS
from tests import tour
from tests.dialects.ai_sdk import Shown, shown, user_message
from tests.dialects.documented import chapter
from tests.end_to_end import sdk, test_everruns
from tests.end_to_end.mcp_clients import NEWER, McpClient, called, followed, mcp_client, refused
from tests.end_to_end.processes import WAIT, Server, eventually, gateway
from tests.end_to_end.sdk import named, says, texts
from tests.end_to_end.test_everruns import heard, ids, kinds
from tests.end_to_end.viewing import Viewer
from tests.leaks import WATCH
from tests.upstreams.hosts.langgraph import LangGraph
from tests.upstreams.hosts.opencode import OpenCode
from tests.upstreams.hosts.running import RealHost, serving

(ALICE, ALICE_LINE), (BOB, BOB_LINE) = (new_key(name, ["runs:read", "runs:write"]) for name in ("alice", "bob"))
HOSTS: list[type[RealHost]] = [OpenCode, LangGraph]
ENDED = ("completed", "failed", "cancelled")
ANSWER = "The answer after 1 calls"
SELDOM = 0.2
"""Seconds between two looks at a host to which an answer is work."""

ROWS: dict[str, tuple[str, str]] = {}
"""The dialect, and what its client does, by the name of the test."""

Story = Callable[..., Any]


def row(dialect: str, does: str) -> Callable[[Story], Story]:
    """The test is what the table says of that."""

    def claim(story: Story) -> Story:
        ROWS[story.__name__] = (dialect, does)
        return story

    return claim


def table() -> tuple[list[str], dict[tuple[str, str], list[str]]]:
    """Which hosts the table has, and what it says of them, by dialect and what a client does."""
    lines = re.findall(r"^\| (.*) \|$", chapter("What works on which host"), re.MULTILINE)
    (_, _, *hosts), *rows = ([cell.strip() for cell in line.split(" | ")] for line in lines)
    return [host.strip("`") for host in hosts], {(each[0].strip("`"), each[1]): each[2:] for each in rows}


@dataclass
class Place:
    """A host, and the gateway in front of it."""

    host: RealHost
    server: Server

    def ask(self, method: str, path: str, body: object = None, key: str = ALICE) -> httpx.Response:
        return self.server.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})

    def got(self, method: str, path: str, body: object = None) -> Any:
        answer = self.ask(method, path, body)
        assert answer.is_success, answer.text
        return answer.json()

    def hidden(self, path: str) -> None:
        """It is there for one user, and not for the other."""
        assert self.ask("GET", path).status_code == 200
        assert self.ask("GET", path, key=BOB).status_code == 404

    def create(self, prompt: str) -> str:
        return str(self.got("POST", "/agent-runs", {"prompt": prompt})["id"])

    def until(self, run: str, *statuses: str) -> None:
        eventually(
            lambda: self.got("GET", f"/agent-runs/{run}")["run_status"], lambda status: status in statuses, every=SELDOM
        )

    def shows(self, story: Story, cell: str) -> None:
        """This is what the table has to say of the host."""
        hosts, rows = table()
        assert rows[ROWS[story.__name__]][hosts.index(self.host.name)] == cell


@pytest.fixture(scope="module", params=HOSTS, ids=lambda kind: kind.name)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    for host in serving(request.param, tmp_path_factory):
        settings: dict[str, object] = {
            "auth": "key",
            "api_keys": f"{ALICE_LINE};{BOB_LINE}",
            "secret_key": "0123456789abcdef" * 2,
            "dialects": ",".join(DIALECTS),
            "data_dir": tmp_path_factory.mktemp("data"),
            "follower_linger_seconds": 0.3,
            "api_token": host.token or "of-tests",
        }
        if isinstance(host, OpenCode):
            settings["opencode_directory"] = host.project
        with gateway(None, upstream=host.name, base_url=host.url, **settings) as server:
            yield Place(host, server)


def test_the_table_has_what_the_tests_show_and_nothing_else() -> None:
    hosts, rows = table()
    assert hosts == [kind.name for kind in HOSTS]
    assert list(rows) == list(ROWS.values())
    assert {dialect for dialect, _ in rows} == set(DIALECTS)


# -- native -----------------------------------------------------------------------------------------------------------


def in_lines(place: Place, run: str, after: str | None = None) -> list[dict[str, Any]]:
    """The events of a live log as JSON lines."""
    headers = {"Authorization": f"Bearer {ALICE}", "Accept": "application/x-ndjson"}
    headers |= {} if after is None else {"Last-Event-ID": after}
    answer = place.server.request("GET", f"/agent-runs/{run}/logs/stream", headers=headers)
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines() if line]


def logged(events: list[dict[str, Any]]) -> list[Any]:
    return [event["data"] for event in events if event["event"] == "log"]


@row("native", "starts a run, sees its log live as events and as JSON lines, reconnects in the middle, resumes it")
async def test_native_runs(place: Place) -> None:
    run = await asyncio.to_thread(place.create, "steps 1")
    viewer = Viewer(place.server.url, run, ALICE)
    lines, _ = await asyncio.gather(asyncio.to_thread(in_lines, place, run), viewer.watch())
    assert logged(lines) == viewer.entries
    assert [event.data["run_status"] for event in viewer.of("end")] == ["completed"]
    assert lines[-1]["event"] == "end"
    assert ANSWER in json.dumps(viewer.entries[-3:])
    assert logged(in_lines(place, run, "2")) == viewer.entries[2:]
    assert place.got("GET", f"/agent-runs/{run}")["result"] == ANSWER
    place.got("POST", f"/agent-runs/{run}/resume", {"prompt": "say Again"})
    again = await Viewer(place.server.url, run, ALICE, last_id=viewer.last_id, entries=viewer.entries).watch()
    assert place.got("GET", f"/agent-runs/{run}")["result"] == "Again"
    assert place.got("GET", f"/agent-runs/{run}/logs?limit=100")["logs"] == again.entries
    for path in ("", "/logs", "/logs/stream"):
        place.hidden(f"/agent-runs/{run}{path}")
    place.shows(test_native_runs, "works")


def at_work(place: Place, run: str) -> None:
    """Until the model is at its answer, by the host's own log."""
    word = "step.started" if isinstance(place.host, OpenCode) else "human"
    eventually(lambda: word in json.dumps(place.got("GET", f"/agent-runs/{run}/logs")), every=SELDOM)


@row("native", "stops a run, and resumes it")
def test_native_stops(place: Place) -> None:
    before = len(place.host.model.asked)
    silent = place.create("hold")
    eventually(lambda: len(place.host.model.asked) > before)
    place.got("POST", f"/agent-runs/{silent}/cancel")
    run = place.create("slow 60")
    at_work(place, run)
    assert place.got("POST", f"/agent-runs/{run}/cancel")["run_status"] == "cancelled"
    place.got("POST", f"/agent-runs/{run}/resume", {"prompt": "say Better"})
    place.until(run, "completed")
    assert place.got("GET", f"/agent-runs/{run}")["result"] == "Better"
    place.until(silent, *ENDED)
    status = place.got("GET", f"/agent-runs/{silent}")["run_status"]
    but = "" if status == "cancelled" else f", but one whose model has said nothing yet is `{status}` then"
    place.shows(test_native_stops, f"works{but}")


@row("native", "sees what a run waits for, and decides")
def test_native_decides(place: Place) -> None:
    for prompt in ("ask", "question please"):
        run = place.create(prompt)
        place.until(run, "waiting")
        place.hidden(f"/agent-runs/{run}/pending")
        (request,) = place.got("GET", f"/agent-runs/{run}/pending")["items"]
        decision = {"decision": "approve"} if request["reason"] == "approval" else {"decision": "answer", "text": "B"}
        place.got("POST", f"/agent-runs/{run}/pending/{request['id']}", decision)
        place.until(run, *ENDED)
        assert place.got("GET", f"/agent-runs/{run}")["result"] == ANSWER
    place.shows(test_native_decides, "works")


@row("native", "lists its own runs")
def test_native_lists(place: Place) -> None:
    runs = [place.create("say Hello") for _ in range(2)]
    found: list[str] = []
    skip: int | None = 0
    while skip is not None and len(found) < len(runs):
        page = place.got("GET", f"/agent-runs?limit=1&skip={skip}")
        found, skip = found + [item["id"] for item in page["items"]], page["next_skip"]
    assert found == runs[::-1]
    assert place.ask("GET", "/agent-runs", key=BOB).json()["items"] == []
    place.shows(test_native_lists, "works")


# -- codegen ----------------------------------------------------------------------------------------------------------


@row("codegen", "asks who it is")
def test_codegen_users(place: Place) -> None:
    assert place.got("GET", "/v1/users/me")["github_username"] == "alice"
    assert place.ask("GET", "/v1/users/me", key=BOB).json()["github_username"] == "bob"
    place.shows(test_codegen_users, "works")


@row("codegen", "starts, reads, resumes and stops runs")
def test_codegen_runs(place: Place) -> None:
    bearer = f"Bearer {ALICE}"
    configuration = codegen_api_client.Configuration(host=place.server.url)
    refused: list[tuple[int, str]] = []
    with codegen_api_client.ApiClient(configuration) as client:
        agents, organizations = codegen_api_client.AgentsApi(client), codegen_api_client.OrganizationsApi(client)
        body = codegen_api_client.CreateAgentRunInput(prompt="say Hello")
        for call in (
            lambda: organizations.get_organizations_v1_organizations_get(authorization=bearer),
            lambda: agents.create_agent_run_v1_organizations_org_id_agent_run_post(323, body, authorization=bearer),
            lambda: agents.get_agent_run_v1_organizations_org_id_agent_run_agent_run_id_get(
                agent_run_id=7, org_id=323, authorization=bearer
            ),
        ):
            with pytest.raises(ApiException) as caught:
                call()
            said = json.loads(str(caught.value.body))
            assert "ids are numbers" in said["message"]
            refused.append((int(str(caught.value.status)), said["code"]))
    for method, path in (("GET", "alpha/organizations/323/agent/run/7/logs"), ("GET", "organizations/323/agent/runs")):
        answer = place.ask(method, f"/v1/{path}")
        refused.append((answer.status_code, answer.json()["code"]))
    assert place.ask("GET", "/v1/organizations/default/agent/runs").status_code == 422
    ((status, code),) = set(refused)
    place.shows(test_codegen_runs, f"cannot: {status} `{code}`, since ids are no numbers")


# -- the Agent Protocol -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def strangers(place: Place) -> AsyncIterator[tuple[LangGraphClient, LangGraphClient]]:
    """The SDK of one user, and that of another."""
    async with sdk.client_of(place.server.url, ALICE) as client, sdk.client_of(place.server.url, BOB) as other:
        yield client, other


MODES: Any = ["values", "messages", "updates"]


@row("agent_protocol", "threads; runs that are created, waited for, streamed and joined; states and their history")
async def test_agent_protocol_threads(place: Place) -> None:
    async with strangers(place) as (client, other):
        thread = (await client.threads.create(metadata={"project": "poems"}))["thread_id"]
        begun = client.runs.stream(thread, "agent", input=says("steps 1"), stream_mode=MODES)
        events = [event async for event in begun]
        run = events[0].data["run_id"]
        expected = [("human", "steps 1"), ("ai", "step 0"), ("ai", ""), ("tool", "step 0"), ("ai", ANSWER)]
        shown = [(kind, text.split("\n")[0]) for kind, text in texts(named(events, "values")[-1])]
        assert [pair for pair in shown if pair != ("ai", "")] == [pair for pair in expected if pair != ("ai", "")]
        assert {key for data in named(events, "updates") for key in data} == {"agent", "tools"}
        assert len(named(events, "messages/complete")) == 1
        assert (events[-1].event, events[-1].data) == ("end", {"status": "success"})
        assert len({event.id for event in events}) == len(events)
        joined = client.runs.join_stream(thread, run, stream_mode=MODES, last_event_id=events[2].id)
        assert [event async for event in joined] == events[3:]

        made = await client.runs.create(thread, "agent", input=says("say Second"))
        whole = texts(await client.runs.join(thread, made["run_id"]))
        assert whole[-2:] == [("human", "say Second"), ("ai", "Second")]
        whole = texts(await client.runs.wait(thread, "agent", input=says("say Third")))
        assert [text for kind, text in whole if kind == "human"] == ["steps 1", "say Second", "say Third"]
        state = await client.threads.get_state(thread)
        assert (texts(state["values"]), list(state["next"])) == (whole, [])
        history = await client.threads.get_history(thread, limit=100)
        states: list[Any] = [each["values"] for each in history]
        assert texts(states[0]) == whole
        lengths = [len(values.get("messages", [])) for values in states]
        assert lengths == sorted(lengths, reverse=True)
        assert [each["status"] for each in await client.runs.list(thread)] == ["success"] * 3
        with pytest.raises(NoThread):
            await other.threads.get(thread)
        with pytest.raises(NoThread):
            await other.runs.get(thread, run)
        with pytest.raises(NoThread):
            await other.threads.get_state(thread)
        assert await other.threads.search() == []
    place.shows(test_agent_protocol_threads, "works")


async def approve(place: Place, thread: str) -> Any:
    """The state of a thread whose agent has asked for something, and was answered, or allowed to do it."""
    async with sdk.client_of(place.server.url, ALICE) as client:
        (interrupt,) = (await client.threads.get_state(thread))["interrupts"]
        approval = dict(interrupt["value"])["waiting_for"] == "approval"
        answer: Any = {"decisions": [{"type": "approve"}]} if approval else "B"
        return await client.runs.wait(thread, "agent", command={"resume": answer})


@row("agent_protocol", "an interrupt where the agent asks, and `command.resume`")
async def test_agent_protocol_interrupts(place: Place) -> None:
    async with strangers(place) as (client, _):
        for prompt in ("ask", "question please"):
            thread = (await client.threads.create())["thread_id"]
            events = [event async for event in client.runs.stream(thread, "agent", input=says(prompt))]
            assert events[-1].data == {"status": "interrupted"}
            (asked,) = named(events, "values")[-1]["__interrupt__"]
            assert (await client.threads.get(thread))["status"] == "interrupted"
            done = await approve(place, thread)
            assert texts(done)[-1] == ("ai", ANSWER)
            (result,) = [text for kind, text in texts(done) if kind == "tool"]
            assert asked["value"]["waiting_for"] == "approval" or "B" in result
    place.shows(test_agent_protocol_interrupts, "works")


# -- Everruns ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def everruns(place: Place) -> AsyncIterator[Everruns]:
    async with test_everruns.client_of(place.server, ALICE) as client:
        yield client


def said(messages: list[Any]) -> list[tuple[str, str]]:
    """Who said what."""
    return [(each.role, part.text) for each in messages for part in each.content if part.type == "text"]


async def idle(client: Everruns, session: str) -> None:
    async def probe() -> bool:
        return (await client.sessions.get(session)).status == "idle"

    await test_everruns.eventually(probe)


@row("everruns", "agents, sessions and messages; a stream of events, and back into it with `since_id`")
@pytest.mark.filterwarnings("ignore:.*aclose.*:pytest.PytestUnraisableExceptionWarning")
async def test_everruns_sessions(place: Place) -> None:
    async with everruns(place) as client, test_everruns.client_of(place.server, BOB) as other:
        agent = await client.agents.create("assistant", "You are concise.")
        session = await client.sessions.create(agent_name="assistant")
        WATCH.secret("a prompt", "steps 1")
        await client.messages.create(session.id, "steps 1")
        events = await heard(client.events.stream(session.id), "session.idled")
        assert kinds(events)[:3] == ["input.message", "session.activated", "turn.started"]
        assert kinds(events)[-2:] == ["turn.completed", "session.idled"]
        assert [kinds(events).count(kind) for kind in ("input.message", "tool.started", "tool.completed")] == [1, 1, 1]
        assert len(set(ids(events))) == len(events)
        back = EventStream(client, session.id, StreamOptions(since_id=events[4].id))
        assert ids(await heard(back, "session.idled")) == ids(events[5:])
        messages = await client.messages.list(session.id)
        assert said(messages) == [("user", "steps 1"), ("agent", "step 0"), ("agent", ANSWER)]
        await client.messages.create(session.id, "say Second")
        on = EventStream(client, session.id, StreamOptions(since_id=events[-1].id))
        assert kinds(await heard(on, "session.idled"))[-2:] == ["turn.completed", "session.idled"]
        assert said(await client.messages.list(session.id))[-2:] == [("user", "say Second"), ("agent", "Second")]
        listed = await client.events.list(session.id)
        kept = [event.id for event in events if event.type != "output.message.delta"]
        assert ids(listed)[: len(kept)] == kept
        with pytest.raises(NotFoundError):
            await other.sessions.get(session.id)
        with pytest.raises(NotFoundError):
            await other.agents.get(agent.id)
        with pytest.raises(NotFoundError):
            await other.messages.list(session.id)
    place.shows(test_everruns_sessions, "works")


@row("everruns", "a message where the agent asks: it answers a question, and rejects an approval")
@pytest.mark.filterwarnings("ignore:.*aclose.*:pytest.PytestUnraisableExceptionWarning")
async def test_everruns_answers(place: Place) -> None:
    told: dict[str, bool] = {}
    async with everruns(place) as client:
        for prompt in ("ask", "question please"):
            session = await client.sessions.create()
            await client.messages.create(session.id, prompt)
            await idle(client, session.id)
            await client.messages.create(session.id, "rather B")
            await idle(client, session.id)
            messages = await client.messages.list(session.id)
            assert [text for who, text in said(messages) if who == "user"] == [prompt, "rather B"]
            assert said(messages)[-1] == ("agent", ANSWER)
            told[prompt] = "rather B" in json.dumps(place.host.model.asked[-1])
        session = await client.sessions.create()
        await client.messages.create(session.id, "ask")
        await idle(client, session.id)
        await approve(place, str(uuid.UUID(session.id.removeprefix("session_"))))
        assert said(await client.messages.list(session.id))[-1] == ("agent", ANSWER)
    assert told["question please"]
    but = "" if told["ask"] else ", but the agent does not get the text of a rejection"
    place.shows(test_everruns_answers, f"works{but}")


# -- Agio -------------------------------------------------------------------------------------------------------------


def events_of(text: str) -> list[tuple[str, Any]]:
    """The names and data of server-sent events."""
    return [(event["event"], event["data"]) for event in tour.events(text)]


def chat(place: Place, message: str, **more: Any) -> httpx.Response:
    if place.ask("GET", "/api/agents/assistant").status_code == 404:
        place.got("POST", "/api/agents", {"name": "assistant"})
    answer = place.ask("POST", "/api/chat", {"agent_id": "assistant", "message": message, **more})
    assert answer.status_code == 200, answer.text
    return answer


def agio_run(place: Place, run: str, *statuses: str) -> Any:
    return eventually(
        lambda: place.got("GET", f"/api/runs/{run}"), lambda found: found["status"] in statuses, every=SELDOM
    )


@row("agio", "chats with and without a stream, reconnects to it, forks at a checkpoint")
def test_agio_chats(place: Place) -> None:
    whole = events_of(chat(place, "steps 1").text)
    expected = ["run_started", "content_delta", "tool_call_started", "tool_call_completed", "content_delta"]
    assert [name for name, _ in whole] == [*expected, "run_completed"]
    run, session = (whole[0][1][name] for name in ("run_id", "session_id"))
    assert whole[-1][1]["response"] == f"step 0\n\n{ANSWER}"
    headers = {"Authorization": f"Bearer {ALICE}", "Accept": "text/event-stream"}
    path = f"/api/runs/{run}/events"
    came = place.server.request("GET", path, headers=headers).text
    assert events_of(came) == whole
    last = re.findall("^id: (.*)$", came, re.MULTILINE)[1]
    assert events_of(place.server.request("GET", path, headers={**headers, "Last-Event-ID": last}).text) == whole[2:]
    done = chat(place, "say Second", session_id=session, stream=False).json()
    assert (done["status"], done["response"]) == ("completed", "Second")
    items = place.got("GET", f"/api/checkpoints/runs/{run}/checkpoints")["items"]
    body = {"modifications": {"modified_query": "say Forked"}}
    forked = place.got("POST", f"/api/checkpoints/{items[-1]['id']}/fork", body)
    assert agio_run(place, forked["run_id"], *ENDED)["response_content"].endswith("Forked")
    place.hidden(f"/api/runs/{run}")
    place.hidden(f"/api/checkpoints/{items[-1]['id']}")
    assert place.ask("GET", "/api/runs", key=BOB).json()["total"] == 0
    place.shows(test_agio_chats, "works")


def newest(host: RealHost) -> str:
    """The history of opencode's newest session."""
    with host.client() as client:
        sessions = client.get("/session", params={"roots": "true"}).json()
        session = max(sessions, key=lambda each: each["time"]["created"])["id"]
        return client.get(f"/api/session/{session}/history").text


@row("agio", "pauses a run, and resumes it")
async def test_agio_pauses(place: Place) -> None:
    before = len(place.host.model.asked)
    chatting = asyncio.ensure_future(asyncio.to_thread(chat, place, "slow 60"))
    async with asyncio.timeout(WAIT):
        while len(place.host.model.asked) == before:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    run = place.got("GET", "/api/runs")["items"][0]["id"]
    agio_run(place, run, "running")
    if isinstance(place.host, OpenCode):  # which forgets a stop before the model has said something
        await asyncio.to_thread(eventually, lambda: "step.started" in newest(place.host))
    assert place.got("POST", f"/api/runs/{run}/pause")["status"] == "paused"
    place.got("POST", f"/api/runs/{run}/resume", {"message": "say Better"})
    name, data = events_of((await chatting).text)[-1]
    assert (name, data["run_id"]) == ("run_completed", run)
    assert data["response"].endswith("Better")
    place.shows(test_agio_pauses, "works")


@row("agio", "resumes a run where the agent asks: its message answers, or rejects")
def test_agio_answers(place: Place) -> None:
    for prompt in ("ask", "question please"):
        run = chat(place, prompt, stream=False).json()["run_id"]
        assert place.ask("POST", f"/api/runs/{run}/resume").json()["code"] == "conflict"
        place.got("POST", f"/api/runs/{run}/resume", {"message": "B"})
        assert agio_run(place, run, *ENDED)["response_content"].endswith(ANSWER)
    place.shows(test_agio_answers, "works")


# -- the AI SDK -------------------------------------------------------------------------------------------------------


def ui_chat(place: Place, body: dict[str, Any], key: str = ALICE) -> Shown:
    """The message of the agent, when it is complete."""
    answer = place.ask("POST", "/ui/chat", body, key)
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n"), answer.text
    return shown(answer.text)


def come_back(place: Place, path: str) -> Shown:
    """The message that a page sees which comes while the model has said nothing yet."""
    headers = {"Authorization": f"Bearer {ALICE}"}
    with place.server.client.stream("GET", place.server.url + path, headers=headers) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_text()
        begun = next(pieces)
        place.host.model.release()
        text = begun + "".join(pieces)
    assert '"start"' in begun
    WATCH.answer(answer.status_code, text)
    return shown(text)


@row("ai_sdk", "chats, reconnects to an active message, and reads the chat")
async def test_ai_sdk_chats(place: Place) -> None:
    chat = uuid.uuid4().hex
    path = f"/ui/chat/{chat}"
    first = await asyncio.to_thread(ui_chat, place, {"id": chat, "messages": [user_message("steps 1")]})
    assert first.status == "ready"
    assert [part["text"] for part in first.parts if part["type"] == "text"][-1].endswith(ANSWER)
    (tool,) = [part for part in first.parts if part["type"] == "dynamic-tool"]
    assert (tool["state"], "step 0" in json.dumps(tool["output"])) == ("output-available", True)
    assert place.ask("GET", f"{path}/stream").status_code == 204

    before = len(place.host.model.asked)
    body = {"id": chat, "messages": [user_message("hold", "m2")]}
    saying = asyncio.ensure_future(asyncio.to_thread(ui_chat, place, body))
    async with asyncio.timeout(WAIT):
        while len(place.host.model.asked) == before:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    assert (await asyncio.to_thread(place.ask, "GET", f"{path}/stream", None, BOB)).status_code == 204
    resumed = await asyncio.to_thread(come_back, place, f"{path}/stream")
    second = await saying
    assert second.status == "ready"
    assert (resumed.id, resumed.parts, resumed.status) == (second.id, second.parts, "ready")

    kept = place.got("GET", path)["messages"]
    assert [message["id"] for message in kept if message["role"] == "user"] == ["m1", "m2"]
    answers = [message for message in kept if message["role"] == "assistant"]
    assert [message["id"] for message in answers] == [first.id, second.id]
    assert [message["parts"] for message in answers] == [first.parts, second.parts]
    assert place.ask("GET", path, key=BOB).json()["messages"] == []
    assert place.ask("POST", f"{path}/stop", key=BOB).status_code == 404
    place.shows(test_ai_sdk_chats, "works")


# -- OpenAI's API -----------------------------------------------------------------------------------------------------


def openai_client(place: Place, key: str = ALICE) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{place.server.url}/v1", api_key=key, timeout=WAIT)


@row(
    "openai",
    "responses that are streamed, waited for and retrieved; reconnects after an event, follows up in three ways,"
    " cancels",
)
async def test_openai_responds(place: Place) -> None:
    async with openai_client(place) as client, openai_client(place, BOB) as bob:
        async with client.responses.stream(model="default", input="steps 1") as stream:
            numbers = [event.sequence_number async for event in stream]
            first = await stream.get_final_response()
        assert first.output_text.endswith(ANSWER)
        (call,) = [item for item in first.output if item.type == "mcp_call"]
        assert (call.status, "step 0" in str(call.output)) == ("completed", True)
        for number in (numbers[0], numbers[len(numbers) // 2], numbers[-2]):
            rest = await client.responses.retrieve(first.id, stream=True, starting_after=number)
            assert [event.sequence_number async for event in rest] == [each for each in numbers if each > number]

        second = await client.responses.create(input="say Again", previous_response_id=first.id)
        assert second.output_text == "Again"
        said: Any = [{"role": "user", "content": "steps 1"}, *(item.to_dict() for item in second.output)]
        third = await client.responses.create(input=[*said, {"role": "user", "content": "say Third"}])
        assert (third.output_text, third.previous_response_id) == ("Third", second.id)
        assert third.conversation is not None
        before = len(place.host.model.asked)
        fourth = await client.responses.create(input="hold", conversation=third.conversation.id, background=True)
        async with asyncio.timeout(WAIT):
            while len(place.host.model.asked) == before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert (await client.responses.retrieve(fourth.id)).status == "in_progress"
        place.host.model.release()
        async with asyncio.timeout(WAIT):
            while fourth.status == "in_progress":  # as clients do
                await asyncio.sleep(0.1)
                fourth = await client.responses.retrieve(fourth.id)
        assert (fourth.status, fourth.conversation) == ("completed", first.conversation)

        slow = await client.responses.create(input="slow 60", background=True)
        assert slow.metadata is not None
        await asyncio.to_thread(at_work, place, slow.metadata["codegen_run"])
        assert (await client.responses.cancel(slow.id)).status == "cancelled"
        for asked in (bob.responses.retrieve(first.id), bob.responses.create(input="x", previous_response_id=first.id)):
            with pytest.raises(openai.NotFoundError):
                await asked
    place.shows(test_openai_responds, "works")


@row(
    "openai",
    "an agent of the Agents SDK that continues its session, by responses and by Chat Completions, and answers a"
    " question",
)
async def test_openai_agents(place: Place) -> None:
    agents.set_tracing_disabled(True)
    async with openai_client(place) as client:
        runs: list[str] = []
        for model in (agents.OpenAIResponsesModel, agents.OpenAIChatCompletionsModel):
            agent = agents.Agent(name="Builder", model=model("default", openai_client=client))
            session = agents.SQLiteSession(model.__name__)
            streamed = agents.Runner.run_streamed(agent, "steps 1", session=session)
            kinds = [each.data.type async for each in streamed.stream_events() if each.type == "raw_response_event"]
            assert "response.output_text.delta" in kinds
            assert streamed.final_output.endswith(ANSWER)
            again = await agents.Runner.run(agent, "say Again", session=session)
            assert again.final_output == "Again"
            asked = await agents.Runner.run(agent, "question please", session=session)
            assert asked.final_output
            answered = await agents.Runner.run(agent, "B", session=session)
            assert answered.final_output.endswith(ANSWER)
            (run, *_) = (each["id"] for each in place.got("GET", "/agent-runs")["items"])
            runs.append(run)
            assert place.got("GET", f"/agent-runs/{run}")["result"] == answered.final_output
        assert len(set(runs)) == len(runs)
    place.shows(test_openai_agents, "works")


# -- MCP --------------------------------------------------------------------------------------------------------------


@contextmanager
def mcp_host(place: Place, key: str = ALICE) -> Iterator[McpClient]:
    with mcp_client("mcp", NEWER, f"{place.server.url}/mcp") as client:
        client.do("connect", token=key)
        yield client


@row("mcp", "starts a run, follows it with progress, reads its log, resumes it; runs an agent as a task")
def test_mcp_runs(place: Place) -> None:
    with mcp_host(place) as client, mcp_host(place, BOB) as other:
        WATCH.secret("a prompt", "steps 1")
        run = called(client, "start_run", prompt="steps 1")["run_id"]
        now, entries = followed(client, run)
        assert (now["run_status"], now["answer"]) == ("completed", ANSWER)
        assert [entry["position"] for entry in entries] == list(range(1, now["length"] + 1))
        assert called(client, "read_log", run_id=run)["entries"] == entries
        came = client.do("call", name="follow_run", arguments={"run_id": run, "after": 1}, progress=True)
        assert [each["progress"] for each in came["progress"]] == [entry["position"] for entry in entries[1:]]
        called(client, "resume_run", run_id=run, prompt="say Again")
        assert followed(client, run, now["next_after"])[0]["answer"] == "Again"
        done = client.do("task", name="run_agent", arguments={"prompt": "say Hello"})
        assert (done["kind"], done["result"]["structuredContent"]["answer"]) == ("task", "Hello")
        for tool in ("get_run", "read_log", "follow_run", "cancel_run"):
            assert refused(other, tool, run_id=run).startswith("not_found: ")
        assert called(other, "list_runs")["runs"] == []
    place.shows(test_mcp_runs, "works")


@row("mcp", "answers a question and approves, with `resume_run` and by polling a task")
def test_mcp_answers(place: Place) -> None:
    decisions = {"approval": {"decision": "approve"}, "question": {"prompt": "B"}}
    with mcp_host(place) as client:
        for prompt in ("ask", "question please"):
            WATCH.secret("a prompt", prompt)
            run = called(client, "start_run", prompt=prompt)["run_id"]
            now, _ = followed(client, run)
            (asked,) = now["waiting_for"]
            called(client, "resume_run", run_id=run, request_id=asked["request_id"], **decisions[asked["reason"]])
            now, _ = followed(client, run, now["next_after"])
            assert (now["run_status"], now["answer"]) == ("completed", ANSWER)
            either = {"approve": True, "answer": "B"}  # whichever is asked for
            done = client.do("task", name="run_agent", arguments={"prompt": prompt}, answer=either)
            assert "input_required" in done["states"]
            assert done["states"][-1] == "completed"
            assert done["result"]["structuredContent"]["answer"] == ANSWER
    place.shows(test_mcp_answers, "works")
