"""The adapter for OpenHands' agent server, over answers as that gives them."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import LogPage, Run, RunRef, RunStatus, StepKind, WaitReason
from codegen_api.upstreams import Approves, Cancels, Decision, InvalidOption, NewRun, RunFilter, TakesKeys, Upstream
from codegen_api.upstreams.openhands import OpenHandsUpstream
from codegen_api.upstreams.openhands.bookmarks import Bookmarks

T = TypeVar("T")

TOKEN = "session-key-of-tests"
CREDENTIAL = Credential.of(TOKEN, b"key")
RUN = "ffb0f4f3-00da-4268-960d-e439e1c29a1f"
REF = RunRef("default", RUN)
LLM = {"model": "openai/fake", "api_key": "sk-of-the-operator"}
OPTIONS = {"agent": json.dumps({"llm": LLM, "tools": [{"name": "terminal"}]})}
RECORDED = json.loads((Path(__file__).parent / "hosts/recorded/openhands.json").read_text())["exchanges"]

Event = dict[str, Any]
Answer = Callable[[httpx.Request], httpx.Response | None]


def event(kind: str, **more: Any) -> Event:
    return {"id": str(uuid.uuid4()), "timestamp": "2026-11-30T01:13:45.477443", "kind": kind, **more}


def message(source: str, text: str) -> Event:
    role = "user" if source == "user" else "assistant"
    return event("MessageEvent", source=source, llm_message={"role": role, "content": [{"type": "text", "text": text}]})


def state(key: str, value: Any) -> Event:
    return event("ConversationStateUpdateEvent", source="environment", key=key, value=value)


def standing(word: str) -> Event:
    return state("execution_status", word)


def call(command: str = "date", **more: Any) -> Event:
    action = {"kind": "TerminalAction", "command": command}
    return event(
        "ActionEvent", source="agent", tool_name="terminal", tool_call_id=f"c_{command}", action=action, **more
    )


def result(of: Event, text: str = "today") -> Event:
    observation = {"content": [{"type": "text", "text": text}], "is_error": False, "kind": "TerminalObservation"}
    named = {key: of[key] for key in ("tool_name", "tool_call_id")}
    return event("ObservationEvent", source="environment", action_id=of["id"], observation=observation, **named)


class Host:
    """An agent server with one conversation, and what it was asked. ``fault`` may answer in its place."""

    def __init__(self, word: str = "finished", events: list[Event] | None = None, **more: Any) -> None:
        self.conversation: dict[str, Any] = {**RECORDED[0]["answer"], "execution_status": word, "tags": {}, **more}
        self.events = events or []
        self.others: list[dict[str, Any]] = []
        self.asked: list[tuple[str, Any]] = []
        self.headers = httpx.Headers()
        self.fault: Answer = lambda _: None
        self.upstream = OpenHandsUpstream("http://host", transport=httpx.MockTransport(self), options=OPTIONS)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/conversations").replace(f"/{RUN}", "/it")
        route = f"{request.method} {path}"
        self.asked.append((route, json.loads(request.content) if request.content else dict(request.url.params)))
        self.headers = request.headers
        return self.fault(request) or httpx.Response(200, json=self.good(route, request.url.params))

    def good(self, route: str, asked: httpx.QueryParams) -> Any:
        match route:
            case "GET /count":
                return 1
            case "POST ":
                body = self.asked[-1][1]
                return {**self.conversation, "id": body["conversation_id"], "tags": body["tags"]}
            case "GET /it":
                return self.conversation
            case "GET /it/agent_final_response":
                return {"response": "Done"}
            case "GET /it/events/count":
                return len(self.events)
            case "GET /search":
                return page(self.others, asked)
            case "GET /it/events/search":
                return page(self.events if asked["sort_order"] == "TIMESTAMP" else self.events[::-1], asked)
        return {"success": True}

    def ask(self, ask: Callable[[OpenHandsUpstream], Awaitable[T]]) -> T:
        return asyncio.run(_within(ask(self.upstream)))

    def read(self, after: int = 0, limit: int = 100, *, newest_first: bool = False) -> LogPage:
        return self.ask(lambda upstream: upstream.read_log(CREDENTIAL, REF, after, limit, newest_first=newest_first))

    def get(self) -> Run:
        return self.ask(lambda upstream: upstream.get_run(CREDENTIAL, REF))

    def create(self, new: NewRun) -> Run:
        return self.ask(lambda upstream: upstream.create_run(CREDENTIAL, "default", new))

    def resume(self) -> Run:
        return self.ask(lambda upstream: upstream.resume_run(CREDENTIAL, REF, "Go on", None))

    def cancel(self) -> None:
        self.ask(lambda upstream: upstream.cancel_run(CREDENTIAL, REF))

    def decide(self, name: str, decision: Decision) -> None:
        self.ask(lambda upstream: upstream.decide(CREDENTIAL, REF, name, decision))

    def pending(self) -> Any:
        return self.ask(lambda upstream: upstream.pending(CREDENTIAL, REF))

    @property
    def routes(self) -> list[str]:
        return [route for route, _ in self.asked]

    @property
    def orders(self) -> list[Any]:
        return [(route.removeprefix("POST /it/"), body) for route, body in self.asked if route.startswith("POST /it")]


async def _within(asked: Awaitable[T]) -> T:
    async with asyncio.timeout(20):
        return await asked


def page(items: list[Any], asked: httpx.QueryParams) -> Any:
    """As the host pages: from the item of that id on, or from the first if it has none."""
    names = [item["id"] for item in items]
    start = names.index(asked["page_id"]) if asked.get("page_id") in names else 0
    end = start + int(asked["limit"])
    assert 0 < int(asked["limit"]) <= 100
    return {"items": items[start:end], "next_page_id": names[end] if end < len(names) else None}


def failing(*answers: httpx.Response) -> Answer:
    """Answers these, and then no more."""
    left = list(answers)
    return lambda _: left.pop(0) if left else None


# -- what it is -------------------------------------------------------------------------------------------------------


def test_it_is_an_upstream_with_powers() -> None:
    upstream = Host().upstream
    powers: tuple[Upstream, Cancels, Approves, TakesKeys] = (upstream, upstream, upstream, upstream)
    assert all(isinstance(upstream, power) for power in (Upstream, Cancels, Approves, TakesKeys))
    assert len(powers) == 4
    assert upstream.keyed == {"create"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"agent": None},
        {"agent": "{"},
        {"agent": "[" * 100_000},
        {"agent": "[1]"},
        {"agent": '{"llm": "sk-secret"}'},
        {"confirm": "sometimes"},
        {"model": "large"},
    ],
)
def test_an_option_that_cannot_be_used_is_not_quoted(wrong: dict[str, str | None]) -> None:
    options = {name: value for name, value in (OPTIONS | wrong).items() if value is not None}
    with pytest.raises(InvalidOption) as caught:
        OpenHandsUpstream("http://host", options=options)
    assert "sk-" not in str(caught.value)
    assert caught.value.name in wrong
    assert caught.value.__cause__ is None


def test_a_key_is_shown_in_the_header_of_the_host_and_proven_by_a_count() -> None:
    host = Host()
    user = host.ask(lambda upstream: upstream.identify(CREDENTIAL))
    assert host.headers["x-session-api-key"] == TOKEN
    assert "authorization" not in host.headers
    assert TOKEN not in user.id
    host.fault = failing(httpx.Response(401, json={"detail": "Unauthorized"}))
    with pytest.raises(errors.InvalidToken):
        host.ask(lambda upstream: upstream.identify(CREDENTIAL))


@pytest.mark.parametrize("text", ["7", "", "../x", RUN + "0"])
def test_an_id_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(errors.Rejected):
        Host().upstream.run_id(text)
    assert Host().upstream.run_id(RUN.replace("-", "").upper()) == RUN


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_new_run_is_a_conversation_with_the_agent_of_the_settings() -> None:
    host = Host("idle")
    made = host.create(NewRun("Do it", images=("data:image/png;base64,AA==",)))
    sent = host.asked[0][1]
    assert sent["agent"] == {"kind": "Agent", "llm": LLM, "tools": [{"name": "terminal"}]}
    assert sent["workspace"] == {"kind": "LocalWorkspace", "working_dir": "workspace/project"}
    assert sent["initial_message"] == {
        "role": "user",
        "content": [
            {"type": "text", "text": "Do it"},
            {"type": "image", "image_urls": ["data:image/png;base64,AA=="]},
        ],
        "run": True,
    }
    assert sent["tags"] == {}
    assert "confirmation_policy" not in sent
    assert (made.ref.id, made.status, made.marks) == (sent["conversation_id"], RunStatus.PENDING, {})
    transport = httpx.MockTransport(host)
    options = OPTIONS | {"directory": "/srv/work", "confirm": "always"}
    host.upstream = OpenHandsUpstream("http://host", transport=transport, options=options)
    host.create(NewRun("Do it"))
    sent = host.asked[1][1]
    assert sent["workspace"]["working_dir"] == "/srv/work"
    assert sent["confirmation_policy"] == {"kind": "AlwaysConfirm"}


def test_the_same_key_makes_the_same_conversation() -> None:
    host = Host("idle")
    made = [host.create(NewRun("Do it", key=key)).ref.id for key in ("k1", "k1", "k2", None, None)]
    assert made[0] == made[1]
    assert len(set(made)) == 4


@pytest.mark.parametrize("metadata", [None, {}, {"team": "a"}, {"ö": ["\u2028", '"' * 300, 2**70, 1.5, None, True]}])
@pytest.mark.parametrize("marks", [{}, {"user": "jwt:" + "x" * 600, "ö": "\x00\ud800"}])
def test_metadata_and_marks_are_kept_in_tags_of_the_length_that_the_host_takes(metadata: Any, marks: Any) -> None:
    host = Host("idle")
    made = host.create(NewRun("Do it", metadata, marks=marks))
    tags = host.asked[0][1]["tags"]
    assert all(key.isalnum() and key.islower() and len(value) <= 256 for key, value in tags.items())
    host.conversation["tags"] = dict(sorted(tags.items())) | {"team": "of others"}
    found = host.get()
    for run in (made, found):
        assert run.marks == marks
        assert run.fields["metadata"] == (None if marks and not metadata else metadata)
    assert found.fields["tags"] == {"team": "of others"}


@pytest.mark.parametrize("tags", [None, [], {"codegengateway0": '{"codegen_gate'}, {"codegengateway0": "7"}])
def test_tags_that_cannot_be_read_are_no_marks(tags: Any) -> None:
    assert Host(tags=tags).get().marks == {}


@pytest.mark.parametrize("new", [NewRun("Hi", repo_id=7), NewRun("Hi", model="m"), NewRun("Hi", agent_type="a")])
def test_what_the_host_has_no_word_for_is_refused(new: NewRun) -> None:
    host = Host()
    with pytest.raises(errors.NotOffered):
        host.create(new)
    with pytest.raises(errors.Rejected):
        host.create(NewRun("Hi", {"codegen_gateway": {"user": "bob"}}))
    with pytest.raises(errors.NotOffered):
        host.ask(lambda upstream: upstream.list_runs(CREDENTIAL, "default", 0, 10, RunFilter(user_id="7")))
    assert host.asked == []


def test_a_run_is_the_conversation_without_its_agent() -> None:
    found = Host(secret_registry={"secret_sources": {"K": "v"}}).get()
    assert (found.ref, found.status, found.raw_status) == (REF, RunStatus.COMPLETED, "completed")
    assert not {"agent", "secret_registry", "persistence_dir", "agent_state"} & found.fields.keys()
    shown = {key: found.fields[key] for key in ("id", "organization_id", "status", "execution_status", "result")}
    assert shown == {
        "id": RUN,
        "organization_id": "default",
        "status": "completed",
        "execution_status": "finished",
        "result": "Done",
    }
    assert found.fields["created_at"] == "2026-11-30T01:13:43.756445Z"
    assert Host().upstream.answer(found) == "Done"


def test_a_conversation_whose_id_is_none_is_the_host_s_fault() -> None:
    with pytest.raises(errors.UpstreamError, match="lacks id"):
        Host(id="the first").get()


MSG, STOP, REST = message("user", "Do it"), event("InterruptEvent"), event("PauseEvent")
SITUATIONS: dict[str, tuple[str, list[Event], RunStatus]] = {
    "nothing begun": ("idle", [MSG], RunStatus.PENDING),
    "at work": ("running", [MSG, standing("running")], RunStatus.RUNNING),
    "asks": ("waiting_for_confirmation", [call(), standing("waiting_for_confirmation")], RunStatus.WAITING),
    "done": ("finished", [standing("finished")], RunStatus.COMPLETED),
    "failed": (
        "error",
        [MSG, standing("running"), standing("error"), event("ConversationErrorEvent")],
        RunStatus.FAILED,
    ),
    "died": ("error", [MSG, standing("running"), event("AgentErrorEvent")], RunStatus.FAILED),
    "in circles": ("stuck", [standing("stuck")], RunStatus.FAILED),
    "resumed after a failure": (
        "error",
        [standing("error"), MSG, state("last_user_message_id", "")],
        RunStatus.PENDING,
    ),
    "stopped": (
        "paused",
        [MSG, standing("running"), standing("paused"), STOP, state("stats", {})],
        RunStatus.CANCELLED,
    ),
    "about to be stopped": ("paused", [MSG, standing("running"), standing("paused")], RunStatus.PAUSED),
    "resumed after a stop": ("paused", [standing("paused"), STOP, MSG], RunStatus.PENDING),
    "told to rest at work": ("paused", [MSG, standing("running"), standing("paused"), REST], RunStatus.PAUSED),
    "stopped before it began": ("paused", [MSG, standing("paused"), REST], RunStatus.CANCELLED),
    "stopped while it waited": ("paused", [standing("idle"), standing("paused"), REST], RunStatus.CANCELLED),
    "a word of tomorrow": ("dreaming", [], RunStatus.UNKNOWN),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_how_a_run_stands_is_told_by_the_word_of_the_host_and_the_last_events(situation: str) -> None:
    word, events, status = SITUATIONS[situation]
    host = Host(word, events)
    for run in (host.get(), host.read().run):
        assert (run.status, run.raw_status, run.fields["execution_status"]) == (status, status.value, word)
        assert run.reason is (WaitReason.APPROVAL if status is RunStatus.WAITING else None)
    assert [route for route in host.routes if "search" in route or route == "GET /it"][-1].endswith("search")


def test_how_a_run_stands_is_asked_before_its_log() -> None:
    host = Host()
    host.read()
    assert host.routes == ["GET /it", "GET /it/agent_final_response", "GET /it/events/search"]


def test_a_list_is_read_from_its_front() -> None:
    host = Host()
    host.others = [{**host.conversation, "id": str(uuid.UUID(int=number))} for number in range(250)]
    names = [each["id"] for each in host.others]

    def listed(skip: int, limit: int) -> Any:
        return host.ask(lambda upstream: upstream.list_runs(CREDENTIAL, "default", skip, limit, RunFilter()))

    for skip, limit in ((0, 100), (100, 100), (200, 100), (130, 20), (249, 1), (250, 10), (999, 10)):
        found = listed(skip, limit)
        assert [run.ref.id for run in found.items] == names[skip : skip + limit]
        assert found.at_end == (skip + limit >= 250)
    host.others *= 20
    with pytest.raises(errors.Unsupported):
        listed(4000, 10)


# -- orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["idle", "finished", "error", "paused", "stuck", "running"])
def test_a_resume_is_another_message(word: str) -> None:
    host = Host(word, [MSG], confirmation_policy={"kind": "NeverConfirm"})
    host.resume()
    assert host.orders == [("events", {"role": "user", "content": [{"type": "text", "text": "Go on"}], "run": True})]


@pytest.mark.parametrize("word", ["running", "waiting_for_confirmation"])
def test_a_resume_never_approves(word: str) -> None:
    host = Host(word, confirmation_policy={"kind": "ConfirmRisky"})
    with pytest.raises(errors.Conflict):
        host.resume()
    assert host.orders == []


def test_a_prompt_that_the_host_has_kept_is_not_said_again() -> None:
    """It does so where it has no room for more runs, and says 429."""
    for word in ("idle", "paused", "error"):
        host = Host(word, [standing(word), message("user", "Go on"), state("stats", {})])
        assert host.resume().status is RunStatus.PENDING
        assert [order for order, _ in host.orders] == ["run"]
        host.events.append(standing("running"))
        host.resume()
        assert host.orders[1][0] == "events"
    host = Host("idle", [message("user", "Something else")])
    full = {"detail": "Message saved, but the conversation run limit was reached. Retry POST /api/..."}
    host.fault = lambda request: httpx.Response(429, json=full) if request.method == "POST" else None
    with pytest.raises(errors.UpstreamRateLimited, match="kept the prompt"):
        host.resume()
    assert [order for order, _ in host.orders] == ["events"]


def test_a_resume_that_was_heard_succeeds_whatever_comes_after_it() -> None:
    host = Host("idle")

    def broken(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(503, text="<html>") if host.orders and request.method == "GET" else None

    host.fault = broken
    assert host.resume().status is RunStatus.PENDING
    host = Host("idle")
    host.fault = failing(httpx.Response(503, text="<html>"))
    with pytest.raises(errors.UpstreamError) as caught:
        host.resume()
    assert caught.value.may_have_acted is False


def test_a_stop_is_an_interrupt_and_rejects_what_waits() -> None:
    host = Host("running")
    host.cancel()
    assert [order for order, _ in host.orders] == ["interrupt"]
    host = Host("waiting_for_confirmation")
    host.cancel()
    assert [order for order, _ in host.orders] == ["events/respond_to_confirmation", "interrupt"]
    assert host.orders[0][1]["accept"] is False


def test_what_waits_is_one_request_on_all_calls_without_a_result() -> None:
    first, second, third = call("ls"), call("date", summary="terminal: date"), call("rm", security_risk="HIGH")
    failed = event("AgentErrorEvent", tool_name="terminal", tool_call_id="c_date", error="no")
    invalid = event("ActionEvent", source="agent", tool_name="terminal", tool_call_id="c_x")
    events = [MSG, first, result(first), second, failed, invalid, third, standing("waiting_for_confirmation")]
    host = Host("waiting_for_confirmation", events)
    (found,) = host.pending()
    assert (found.id, found.reason, found.tool) == (third["id"], WaitReason.APPROVAL, "terminal")
    assert (found.text, found.input) == ("terminal", third["action"])
    assert found.fields["actions"][0]["security_risk"] == "HIGH"
    host.events.insert(-1, call("cp", summary="terminal: cp"))
    (both,) = host.pending()
    assert (both.id, both.text, both.tool, both.input) == (third["id"], "terminal\nterminal: cp", None, None)
    assert Host("running", events).pending() == ()
    assert Host("waiting_for_confirmation", [first, result(first)]).pending() == ()


def test_a_decision_is_told_and_after_a_rejection_the_agent_goes_on() -> None:
    asked = call()
    host = Host("waiting_for_confirmation", [asked])
    host.decide(asked["id"], Decision("approve", "why not"))
    assert host.orders == [("events/respond_to_confirmation", {"accept": True})]
    for text, body in (("No", {"accept": False, "reason": "No"}), (None, {"accept": False})):
        host = Host("waiting_for_confirmation", [asked])
        host.fault = lambda request: httpx.Response(409, json={"detail": "x"}) if "run" in request.url.path else None
        host.decide(asked["id"], Decision("reject", text))
        assert host.orders[0] == ("events/respond_to_confirmation", body)
        assert [order for order, _ in host.orders] == ["events/respond_to_confirmation", "run"]
    with pytest.raises(errors.Rejected):
        host.decide(asked["id"], Decision("answer", "B"))
    with pytest.raises(errors.NotFound):
        host.decide("another", Decision("approve"))
    with pytest.raises(errors.NotFound):
        Host("running", [asked]).decide(asked["id"], Decision("approve"))


# -- the log ----------------------------------------------------------------------------------------------------------


def test_a_recorded_log_means_what_it_meant() -> None:
    host = Host(events=RECORDED[-1]["answer"]["items"])
    log = host.read()
    assert (log.at_end, log.paging.total, log.length) == (True, len(host.events), len(host.events))
    assert [entry.id for entry in log.entries] == [each["id"] for each in host.events]
    assert not any(entry.open or entry.amendable for entry in log.entries)
    steps = [step for entry in log.entries if (step := host.upstream.step(entry)).kind is not StepKind.OTHER]
    assert [(step.kind, step.text) for step in steps] == [
        (StepKind.USER, "steps 2"),
        (StepKind.THOUGHT, "step 0"),
        (StepKind.ACTION, ""),
        (StepKind.THOUGHT, "step 1"),
        (StepKind.ACTION, ""),
        (StepKind.ANSWER, "The answer after 2 calls"),
    ]
    assert (steps[2].tool, steps[2].output) == ("terminal", "step 0")
    assert isinstance(steps[2].input, dict)
    assert steps[2].input["command"] == "echo step 0"
    assert [entry.said for entry in log.entries if entry.said] == ["steps 2"]
    assert [host.upstream.step(entry).text for entry in log.entries if entry.answers] == ["The answer after 2 calls"]


def test_what_is_set_up_for_the_agent_stays_at_the_host() -> None:
    hidden = [
        event("SystemPromptEvent", system_prompt={"text": "SECRET"}, tools=["SECRET"], dynamic_context="SECRET"),
        event("LLMCompletionLogEvent", log_data="SECRET"),
        state("agent", {"llm": "SECRET"}),
        state("secret_registry", "SECRET"),
    ]
    log = Host(events=[*hidden, standing("running")]).read()
    assert not any(b"SECRET" in entry.json for entry in log.entries)
    assert b'"value":"running"' in log.entries[-1].json


STEPS: list[tuple[Event, StepKind, str]] = [
    (event("ConversationErrorEvent", code="X", detail="told to fail"), StepKind.ERROR, "told to fail"),
    (event("AgentErrorEvent", tool_name="t", error="no such tool"), StepKind.ERROR, "no such tool"),
    (event("AgentErrorEvent"), StepKind.ERROR, ""),
    (call(reasoning_content="Hm"), StepKind.THOUGHT, "Hm"),
    (event("ActionEvent", thought=[], action={"kind": "ThinkAction", "thought": "Well"}), StepKind.THOUGHT, "Well"),
    (event("ActionEvent", action={"kind": "FinishAction", "message": "Done"}), StepKind.ANSWER, "Done"),
    (event("ObservationEvent", tool_name="finish", observation={"content": []}), StepKind.OTHER, ""),
    (message("environment", "a hook"), StepKind.OTHER, ""),
    (event("MessageEvent", source="agent"), StepKind.ANSWER, ""),
    (event("PauseEvent", source="user"), StepKind.OTHER, ""),
    (event("Tomorrow"), StepKind.OTHER, ""),
]


@pytest.mark.parametrize(("said", "kind", "text"), STEPS)
def test_what_an_event_means(said: Event, kind: StepKind, text: str) -> None:
    host = Host(events=[said])
    (entry,) = host.read().entries
    step = host.upstream.step(entry)
    assert (step.kind, step.raw_kind, step.text) == (kind, said["kind"], text)
    assert entry.answers == (kind is StepKind.ANSWER)


def test_what_came_of_a_call_is_its_text_if_that_is_all() -> None:
    asked = call()
    picture = {"type": "image", "image_urls": ["data:"]}
    rejected = event("UserRejectObservation", tool_name="terminal", action_id=asked["id"], rejection_reason="No")
    outputs = [result(asked), result(asked), result(asked), rejected]
    outputs[1]["observation"]["content"].append(picture)
    outputs[2]["observation"] = {"kind": "Odd"}
    host = Host(events=[asked, *outputs])
    steps = [host.upstream.step(entry) for entry in host.read().entries[1:]]
    assert [step.output for step in steps] == [
        "today",
        [{"type": "text", "text": "today"}, picture],
        {"kind": "Odd"},
        "No",
    ]
    assert all(step.closed and step.input == asked["action"] for step in steps)


def test_a_result_is_the_same_wherever_a_page_begins() -> None:
    asked = call()
    host = Host(events=[MSG, asked, standing("running"), result(asked), result(call("lost"))])
    whole = host.read().entries
    for after in range(5):
        for other in (host, Host(events=host.events)):
            assert other.read(after, 1).entries == whole[after : after + 1]
            assert other.read(4 - after, 1, newest_first=True).entries == whole[after : after + 1]


def long_log(length: int) -> list[Event]:
    return [message("agent", str(number)) for number in range(1, length + 1)]


@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 250])
@pytest.mark.parametrize("limit", [1, 99, 100, 250])
def test_a_log_is_read_in_pages_of_any_size(length: int, limit: int) -> None:
    host = Host(events=long_log(length))
    found: list[str | None] = []
    while not (log := host.read(len(found), limit)).at_end:
        assert log.length == limit
        assert log.paging.total is None
        found += [entry.id for entry in log.entries]
    found += [entry.id for entry in log.entries]
    assert found == [each["id"] for each in host.events]
    assert log.paging.total == length
    assert (host.read(length).entries, host.read(length).at_end) == ((), True)
    assert host.read(10**15, limit).entries == ()


def test_a_log_that_grows_is_read_from_its_last_event() -> None:
    host = Host("running", events=long_log(350))
    while not host.read(0, 400).at_end:
        pass
    for grown in (1, 3, 0):
        host.events += long_log(grown)
        host.asked.clear()
        log = host.read(350 if grown != 3 else 351)
        assert [entry.id for entry in log.entries][-1:] == [host.events[-1]["id"]]
        assert len(host.asked) == 2
        assert host.asked[1][1]["page_id"] in (host.events[349]["id"], host.events[350]["id"])


def test_a_place_that_nobody_has_seen_is_looked_for_from_the_start() -> None:
    host = Host("running", events=long_log(350))
    assert [entry.id for entry in host.read(320, 10).entries] == [each["id"] for each in host.events[320:330]]
    assert host.routes.count("GET /it/events/search") == 4
    host.asked.clear()
    assert [entry.id for entry in host.read(210, 10).entries] == [each["id"] for each in host.events[210:220]]
    assert [body["page_id"] for route, body in host.asked if "search" in route] == [host.events[200]["id"]]


def test_another_log_under_the_same_name_is_noticed() -> None:
    host = Host("running", events=long_log(250))
    host.read(0, 250)
    host.events = long_log(130)
    assert [entry.id for entry in host.read(120, 100).entries] == [each["id"] for each in host.events[120:]]
    host.events = long_log(5)
    log = host.read(250)
    assert (log.entries, log.at_end, log.paging.total) == ((), True, 5)
    host.events = []
    assert (host.read(3).entries, host.read(3).paging.total) == ((), 0)


def test_a_log_that_is_another_with_each_answer_is_a_fault() -> None:
    host = Host("running", events=long_log(150))

    def shuffled(request: httpx.Request) -> None:
        if "search" in request.url.path:
            host.events = long_log(150)

    host.fault = shuffled
    with pytest.raises(errors.UpstreamError):
        host.read(0, 150)


@pytest.mark.parametrize(("skip", "limit"), [(0, 10), (0, 100), (95, 120), (249, 5), (250, 5), (10**9, 5)])
@pytest.mark.parametrize("grows", [False, True])
def test_a_log_is_read_from_its_end(skip: int, limit: int, *, grows: bool) -> None:
    host = Host("running", events=long_log(250))

    def growing(request: httpx.Request) -> None:
        if request.url.params.get("sort_order") == "TIMESTAMP_DESC" and len(host.events) == 250:
            host.events += long_log(2)

    host.fault = growing if grows else host.fault
    log = host.read(skip, limit, newest_first=True)
    assert [entry.id for entry in log.entries] == [each["id"] for each in host.events[::-1][skip : skip + limit]]
    assert (log.paging.total, log.newest_first) == (len(host.events), True)
    assert log.at_end == (skip + limit >= len(host.events))


def test_bookmarks_are_bounded_and_found_from_any_position() -> None:
    bookmarks = Bookmarks()
    for position in range(1, 20_001):
        bookmarks.keep("a", position, f"a{position}")
    assert bookmarks.before("a", 20_000) == (20_000, "a20000")
    assert bookmarks.before("a", 10**15) == (20_000, "a20000")
    assert bookmarks.before("a", 9_000) == (1, None)
    assert bookmarks.before("b", 9_000) == (1, None)
    bookmarks.forget("a")
    assert bookmarks.before("a", 20_000) == (1, None)


# -- faults -----------------------------------------------------------------------------------------------------------

FAULTS: list[tuple[httpx.Response, type[errors.GatewayError]]] = [
    (httpx.Response(200, text="<html>"), errors.UpstreamError),
    (httpx.Response(200, json=[]), errors.UpstreamError),
    (httpx.Response(200, json={"id": None, "execution_status": None}), errors.UpstreamError),
    (httpx.Response(204), errors.UpstreamError),
    (httpx.Response(401, json={"detail": "Unauthorized"}), errors.InvalidToken),
    (httpx.Response(404, json={"detail": "Not Found"}), errors.NotFound),
    (httpx.Response(404, text="<html>"), errors.UpstreamError),
    (httpx.Response(409, json={"detail": "owned by another"}), errors.Conflict),
    (httpx.Response(422, json={"detail": [{"loc": ["body"], "msg": "no", "type": "t"}]}), errors.Rejected),
    (httpx.Response(429, json={"detail": "full"}, headers={"Retry-After": "7"}), errors.UpstreamRateLimited),
    (httpx.Response(500, json={"detail": "Internal Server Error", "exception": "SECRET"}), errors.UpstreamError),
]


@pytest.mark.parametrize(("answer", "kind"), FAULTS)
def test_a_fault_is_told_for_what_it_is(answer: httpx.Response, kind: type[errors.GatewayError]) -> None:
    host = Host()
    host.fault = failing(answer)
    with pytest.raises(kind) as caught:
        host.get()
    assert "SECRET" not in str(caught.value.message) + str(caught.value.reason)


@pytest.mark.parametrize("body", [{"items": None}, {"items": {}}, {}])
def test_a_page_that_makes_no_sense_is_a_fault(body: Any) -> None:
    host = Host("running")
    host.fault = lambda request: httpx.Response(200, json=body) if "search" in request.url.path else None
    with pytest.raises(errors.UpstreamError):
        host.read()
