"""Agent Chat UI in a browser, call by call: what its hook sends and needs, with the preflights of another origin."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.end_to_end.conftest import PAGE
from tests.end_to_end.processes import WAIT, Sandbox, Server, eventually
from tests.end_to_end.sdk import ENDLESS, PAUSES, QUICK, prompts, run_of, status_at, texts
from tests.leaks import WATCH

MODES = ["values", "messages-tuple", "custom"]


@dataclass
class Page:
    """What a page at ``PAGE`` can do. Before each kind of request the browser asks whether it may."""

    url: str
    key: str = "sandbox-alice"
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=WAIT, trust_env=False))

    def _headers(self, body: object, more: dict[str, str]) -> dict[str, str]:
        WATCH.secret("a token", self.key)
        kind = {} if body is None else {"content-type": "application/json"}
        return {"x-api-key": self.key, "x-auth-scheme": "langsmith-api-key", **kind, **more}

    def _preflight(self, method: str, path: str, headers: dict[str, str]) -> None:
        wanted = sorted(headers)
        asking = {
            "Origin": PAGE,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": ",".join(wanted),
        }
        answer = self.client.options(self.url + path, headers=asking)
        assert answer.status_code == 200, answer.text
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert method in answer.headers["access-control-allow-methods"].split(", ")
        allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
        assert set(wanted) <= set(allowed)
        assert int(answer.headers["access-control-max-age"]) > 0

    @contextmanager
    def stream(self, method: str, path: str, body: object = None, **more: str) -> Iterator[httpx.Response]:
        """The answer to a request whose body is still to be read."""
        headers = self._headers(body, {name.replace("_", "-"): value for name, value in more.items()})
        self._preflight(method, path, headers)
        content = None if body is None else json.dumps(body)
        with self.client.stream(
            method, self.url + path, content=content, headers={"Origin": PAGE, **headers}
        ) as answer:
            assert answer.headers["access-control-allow-origin"] == PAGE
            yield answer

    def ask(self, method: str, path: str, body: object = None, *, status: int = 200, **more: str) -> Any:
        with self.stream(method, path, body, **more) as answer:
            text = answer.read().decode()
            WATCH.answer(answer.status_code, text)
            assert answer.status_code == status, text
            return json.loads(text) if text else None


@dataclass
class Hook:
    """The hook that keeps a thread on the screen: what it sends, and what becomes of the events."""

    page: Page
    thread: str | None = None
    run_id: str = ""
    history: list[Any] = field(default_factory=list)
    values: Any = None
    pieces: dict[str, list[Any]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    ended: Any = None

    def submit(self, **given: Any) -> "Hook":
        """Send, read to the end, and ask what the thread has become."""
        with self.submitting(**given) as answer:
            self.take(answer)
        self.look()
        return self

    @contextmanager
    def submitting(self, **given: Any) -> Iterator[httpx.Response]:
        if self.thread is None:
            self.thread = self.page.ask("POST", "/threads", {})["thread_id"]
        for message in (given.get("input") or {}).get("messages", []):
            WATCH.secret("a prompt", message["content"][0]["text"])
        body = {
            "assistant_id": "agent",
            "metadata": QUICK,
            "stream_mode": MODES,
            "stream_subgraphs": True,
            "stream_resumable": True,
            "on_disconnect": "continue",
            **given,
        }
        with self.page.stream("POST", f"/threads/{self.thread}/runs/stream", body) as answer:
            assert answer.status_code == 200, answer.read()
            shown = answer.headers["access-control-expose-headers"].lower().split(", ")
            assert {"content-location", "location"} <= set(shown), "the page cannot tell which run it is"
            where, _, self.run_id = answer.headers["content-location"].rpartition("/")
            assert where == f"/threads/{self.thread}/runs"
            assert answer.headers["location"] == f"{where}/{self.run_id}/stream"
            yield answer

    def take(self, answer: httpx.Response, until: int | None = None) -> None:
        """What the hook does with each event, up to so many of them."""
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if not line.startswith("data: "):
                continue
            self.names.append(name)
            data = json.loads(line.removeprefix("data: "))
            if name == "values":
                self.values = data
            elif name == "messages":
                message, metadata = data
                assert metadata["langgraph_node"] in ("agent", "tools")
                self.pieces.setdefault(message["id"], []).append(message)
            elif name == "end":
                self.ended = data
            else:
                assert name in ("metadata", "custom"), name
            if until is not None and len(self.names) >= until:
                return

    def look(self) -> None:
        self.history = self.page.ask("POST", f"/threads/{self.thread}/history", {"limit": 10})

    def first_seen(self, message_id: str) -> Any:
        """Of the states that the page has, the earliest one with a message."""
        return next(
            state
            for state in reversed(self.history)
            if any(message["id"] == message_id for message in state["values"].get("messages", []))
        )

    def before(self, message_id: str) -> Any:
        """The checkpoint before a message, as it is sent: without the thread, which stands in the path."""
        checkpoint = self.first_seen(message_id)["parent_checkpoint"]
        return {name: value for name, value in checkpoint.items() if name != "thread_id"}

    def shows(self) -> list[tuple[str, Any]]:
        return texts(self.history[0]["values"])


def human(text: str, id: str) -> dict[str, Any]:  # noqa: A002 - the wire's own word
    return {"messages": [{"id": id, "type": "human", "content": [{"type": "text", "text": text}]}]}


@pytest.fixture
def page(talking: Server) -> Iterator[Page]:
    page = Page(talking.url)
    with page.client:
        yield page


def test_a_conversation_from_the_first_call_to_the_last(page: Page, host: Sandbox) -> None:
    assert page.ask("GET", "/info")["flags"]["assistants"]
    wanted = {"metadata": {"graph_id": "agent"}, "limit": 100, "offset": 0}
    there = {thread["thread_id"] for thread in page.ask("POST", "/threads/search", wanted)}

    hook = Hook(page).submit(input=human("Plant a tree", "h1"))
    assert hook.thread not in there
    assert hook.names[0] == "metadata"
    assert hook.names[-1] == "end"
    assert hook.ended == {"status": "success"}
    assert hook.values == hook.history[0]["values"], "what was streamed is not what the thread has become"
    assert hook.shows()[0] == ("human", "Plant a tree")
    assert hook.values["messages"][0]["id"] == "h1"
    # pieces are put together by their ids: none must come twice
    said = {message["id"]: message["content"] for message in hook.values["messages"] if message["id"] != "h1"}
    assert {id: "".join(each["content"] for each in pieces) for id, pieces in hook.pieces.items()} == said  # noqa: A001
    assert {each[0]["type"] for each in hook.pieces.values()} == {"AIMessageChunk", "tool"}

    (listed,) = [thread for thread in page.ask("POST", "/threads/search", wanted) if thread["thread_id"] == hook.thread]
    assert listed["values"]["messages"][0]["content"] == "Plant a tree"

    hook.submit(input=human("And water it", "h2"))
    assert [text for who, text in hook.shows() if who == "human"] == ["Plant a tree", "And water it"]
    assert prompts(host, run_of(host, "Plant a tree")) == ["Plant a tree", "And water it"]

    # the thread is in the URL of a page that is loaded again
    again = Hook(page, hook.thread)
    again.look()
    assert again.history == hook.history
    assert page.ask("GET", f"/threads/{hook.thread}/state")["values"] == hook.history[0]["values"]


def test_an_answer_is_regenerated_and_the_first_message_edited(page: Page, host: Sandbox) -> None:
    hook = Hook(page).submit(input=human("Fold a boat", "h1"))
    answer = hook.history[0]["values"]["messages"][-1]["id"]
    asked = hook.history[0]["values"]["messages"][1]["id"]

    hook.submit(checkpoint=hook.before(asked))
    assert hook.shows()[0] == ("human", "Fold a boat")
    assert answer not in [message["id"] for message in hook.history[0]["values"]["messages"]]
    assert prompts(host, run_of(host, "Fold a boat")) == ["Fold a boat"]
    answers = {str(state["parent_checkpoint"]) for state in hook.history if state["metadata"]["step"] == 0}
    assert len(answers) == 2, "the page sees no branches"

    hook.submit(input=human("Fold a hat", "h3"), checkpoint=hook.before("h1"))
    assert hook.shows()[0] == ("human", "Fold a hat")
    assert "Fold a boat" not in str(hook.history[0])
    assert prompts(host, run_of(host, "Fold a hat")) == ["Fold a hat"]


def test_an_interrupt_waits_on_the_screen_and_is_answered(page: Page) -> None:
    hook = Hook(page).submit(input=human("Paint the door", "h1"), metadata=PAUSES)
    assert hook.ended == {"status": "interrupted"}
    (interrupt,) = hook.values["__interrupt__"]
    assert hook.history[0]["next"] == ["agent"]
    assert hook.history[0]["tasks"][-1]["interrupts"] == [interrupt]
    assert hook.history[0]["tasks"][-1]["error"] is None
    hook.submit(command={"resume": {"decisions": [{"type": "approve"}]}})
    assert hook.ended == {"status": "success"}
    assert "__interrupt__" not in hook.values
    assert hook.history[0]["next"] == []
    assert hook.history[0]["tasks"] == []


def test_a_run_goes_on_when_the_page_is_left_and_is_there_when_it_comes_back(page: Page, host: Sandbox) -> None:
    hook = Hook(page)
    with hook.submitting(input=human("Watch the clock", "h1"), metadata=ENDLESS) as answer:
        hook.take(answer, until=5)
    watched = run_of(host, "Watch the clock")
    eventually(lambda: len(host.log(watched)), lambda length: length > 10)
    assert status_at(host, watched) == "ACTIVE"

    again = Hook(page, hook.thread, hook.run_id)
    place = f"/threads/{hook.thread}/runs/{hook.run_id}"
    with page.stream("GET", f"{place}/stream", last_event_id="-1") as answer:
        again.take(answer, until=30)
    assert again.names[:5] == hook.names
    assert again.values["messages"][0]["content"] == "Watch the clock"
    assert page.ask("POST", f"{place}/cancel?wait=0&action=interrupt")["run_id"] == hook.run_id
    with page.stream("GET", f"{place}/stream", last_event_id="-1") as answer:
        again.take(answer)
    assert again.ended == {"status": "interrupted"}
    assert status_at(host, watched) == "CANCELLED"


def test_after_its_cancel_button_the_page_sends_on_and_is_answered_when_the_agent_has_come_to_an_end(
    page: Page, host: Sandbox
) -> None:
    """The button closes the stream, and that is all: the run goes on, and the next message waits for it."""
    hook = Hook(page)
    with hook.submitting(input=human("Water the garden", "h1"), metadata=ENDLESS) as answer:
        hook.take(answer, until=3)
    watered, first = run_of(host, "Water the garden"), hook.run_id
    assert status_at(host, watered) == "ACTIVE", "it was to go on"

    def ends(count: int) -> None:
        """The host has heard so many messages, does something about the last one, and comes to an end."""

        def is_at_work(log: list[Any]) -> bool:
            said = [place for place, each in enumerate(log) if each["message_type"] == "USER_MESSAGE"]
            return len(said) == count and len(log) > said[-1] + 3

        eventually(lambda: host.log(watered), is_at_work)
        host.patch(watered, status="COMPLETE")

    with hook.submitting(input=human("And close the gate", "h2")) as answer:
        assert hook.run_id != first
        assert prompts(host, watered) == ["Water the garden"]
        ends(1)
        hook.take(answer, until=6)
    # pressed again, and now there is a message in between for which the page does not wait either
    with hook.submitting(input=human("And feed the cat", "h3")):
        pass
    with hook.submitting(input=human("And the dog", "h4")) as answer:
        ends(2)
        ends(3)
        ends(4)
        hook.take(answer)
    hook.look()
    said = ["Water the garden", "And close the gate", "And feed the cat", "And the dog"]
    assert prompts(host, watered) == said
    assert [text for who, text in hook.shows() if who == "human"] == said
    assert hook.ended == {"status": "success"}
    assert hook.values == hook.history[0]["values"]


def test_a_page_whose_agent_does_not_come_to_an_end_can_stop_it_or_what_waits(page: Page, host: Sandbox) -> None:
    hook = Hook(page)
    with hook.submitting(input=human("Count the waves", "h1"), metadata=ENDLESS) as answer:
        hook.take(answer, until=3)
    counted, first = run_of(host, "Count the waves"), hook.run_id
    with hook.submitting(input=human("Stop counting", "h2")):
        waiting = hook.run_id
    (pending, running) = page.ask("GET", f"/threads/{hook.thread}/runs")
    assert (pending["run_id"], pending["status"]) == (waiting, "pending")
    assert (running["run_id"], running["status"]) == (first, "running")
    assert page.ask("GET", f"/threads/{hook.thread}")["status"] == "busy"
    place = f"/threads/{hook.thread}/runs/{waiting}"
    assert page.ask("POST", f"{place}/cancel?wait=0&action=interrupt")["status"] == "interrupted"
    with hook.submitting(input=human("Count the clouds", "h3"), multitask_strategy="interrupt") as answer:
        hook.take(answer, until=3)
    assert prompts(host, counted) == ["Count the waves", "Count the clouds"]
    hook.page.ask("POST", f"/threads/{hook.thread}/runs/{hook.run_id}/cancel?wait=1")
    statuses = [each["status"] for each in page.ask("GET", f"/threads/{hook.thread}/runs")]
    assert statuses == ["interrupted"] * 3


def test_what_is_refused_can_be_read_by_the_page(page: Page) -> None:
    assert page.ask("GET", "/threads/not-there/state", status=404)["detail"] == "Thread 'not-there' not found"
    assert page.ask("POST", "/threads/not-there/history", {"limit": 10}, status=404)["error"] == "not_found"
    page.key = "sandbox-mallory"
    assert page.ask("POST", "/threads/search", {}, status=401)["code"] == "invalid_token"


def test_a_page_of_another_origin_is_not_let_in(talking: Server) -> None:
    asking = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    answer = talking.request("OPTIONS", "/threads/search", headers=asking)
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers
