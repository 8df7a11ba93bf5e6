"""The adapter for LangGraph servers and Aegra, over answers as both give them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import LogPage, Run, RunRef, RunStatus, StepKind, WaitReason
from codegen_api.upstreams import Approves, Cancels, Decision, InvalidOption, NewRun, RunFilter, TakesKeys, Upstream
from codegen_api.upstreams.langgraph import LangGraphUpstream

T = TypeVar("T")

TOKEN = "lsv2-of-tests"
CREDENTIAL = Credential.of(TOKEN, b"key")
THREAD = "30ce1f7f-0f3b-4d2a-9d55-2d3f6a9f2a11"
REF = RunRef("default", THREAD)
ASSISTANT = "fe096781-5601-53d2-b2f6-0d3403f7e9ca"
QUESTION = {"id": "b32cf065421fa0c82f291a934bf1ac9b", "value": {"question": "may I?"}}
CALL = {"name": "send", "args": {"to": "bob"}, "description": "Tool execution requires approval"}
REVIEW = {"action_name": "send", "allowed_decisions": ["approve", "reject"]}
APPROVAL = {
    "id": "a960fa867ad82470bd50aeb1162f87d8",
    "value": {"action_requests": [CALL], "review_configs": [REVIEW]},
}
CANCELLED = {"error": "UserInterrupt", "message": "interrupt requested"}
MESSAGES: list[Any] = [
    {"type": "human", "id": "m1", "content": "Do it"},
    {"type": "ai", "id": "m2", "content": "step 0", "tool_calls": [{"name": "echo", "args": {"n": 0}, "id": "c1"}]},
    {"type": "tool", "id": "m3", "content": "echoed 0", "name": "echo", "tool_call_id": "c1", "status": "success"},
    {"type": "ai", "id": "m4", "content": [{"type": "text", "text": "Done"}], "tool_calls": []},
]

Answer = tuple[int, Any] | httpx.Response


def run(status: str, **more: Any) -> dict[str, Any]:
    return {"run_id": "01a22621-0000-7000-8000-000000000001", "assistant_id": ASSISTANT, "status": status, **more}


def thread(status: str = "idle", **more: Any) -> dict[str, Any]:
    times = {"created_at": "2026-11-30T00:35:45.118728+00:00", "updated_at": "2026-11-30T00:35:45.118728+00:00"}
    return {"thread_id": THREAD, **times, "metadata": {"graph_id": "agent"}, "status": status, **more}


def state(messages: Any = MESSAGES, following: tuple[str, ...] = (), *interrupts: Any) -> dict[str, Any]:
    tasks = [{"id": "t", "name": each, "interrupts": list(interrupts), "error": None} for each in following]
    metadata = {"run_id": run("")["run_id"], "step": 3}
    checkpoint = {"checkpoint_id": "1f1ec55f-c382-6972-8003-08c84051e917", "thread_id": THREAD}
    values = {"messages": messages}
    return {"values": values, "next": list(following), "tasks": tasks, "metadata": metadata, "checkpoint": checkpoint}


class Host:
    """Answers by method and path below the thread, in order and the last one again; what it was sent."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.sent: list[tuple[str, Any]] = []
        self.headers = httpx.Headers()
        for name, given in answers.items():
            self.on(name.replace("_", " ", 1), *(given if isinstance(given, list) else [given]))

    def on(self, route: str, *answers: Any) -> "Host":
        """``route`` is "GET", "GET runs", "POST runs" and so on; what is no answer is the JSON of a good one."""
        self.answers[route] = [each if isinstance(each, tuple | httpx.Response) else (200, each) for each in answers]
        return self

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/threads").removeprefix(f"/{THREAD}")
        last = path.rsplit("/", 1)[-1]
        route = f"{request.method} {last}".strip()
        body = json.loads(request.content) if request.content else None
        self.sent.append((route, body))
        self.headers = request.headers
        answers = self.answers[route]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(answer[0], json=answer[1])

    def ask(self, ask: Callable[[LangGraphUpstream], Awaitable[T]], **options: str) -> T:
        async def asked() -> T:
            upstream = LangGraphUpstream("http://host/", transport=httpx.MockTransport(self), options=options)
            try:
                return await ask(upstream)
            finally:
                await upstream.aclose()

        return asyncio.run(asked())

    def body_of(self, route: str) -> Any:
        return next(body for sent, body in self.sent if sent == route)

    @property
    def routes(self) -> list[str]:
        return [route for route, _ in self.sent]


def read(host: Host, after: int = 0, limit: int = 1000, *, newest_first: bool = False) -> LogPage:
    return host.ask(lambda upstream: upstream.read_log(CREDENTIAL, REF, after, limit, newest_first=newest_first))


def get(host: Host) -> Run:
    return host.ask(lambda upstream: upstream.get_run(CREDENTIAL, REF))


def test_it_is_an_upstream_with_powers() -> None:
    upstream = LangGraphUpstream("http://host")
    powers: tuple[Upstream, Cancels, Approves, TakesKeys] = (upstream, upstream, upstream, upstream)
    assert all(isinstance(upstream, power) for power in (Upstream, Cancels, Approves, TakesKeys))
    assert len(powers) == 4
    with pytest.raises(InvalidOption):
        LangGraphUpstream("http://host", options={"graph": "agent"})


def test_a_thread_whose_id_is_none_is_the_host_s_fault() -> None:
    with pytest.raises(errors.UpstreamError, match="lacks thread_id"):
        get(Host(GET={**thread(), "thread_id": "the first"}, GET_runs=[[run("running")]]))


SITUATIONS = {
    # what happened: the newest run, the thread at LangGraph, the one at Aegra, what is next, interrupts, our status
    "no run yet": (None, thread(), thread(), (), (), RunStatus.PENDING),
    "queued": (run("pending"), thread("busy"), thread("busy"), (), (), RunStatus.PENDING),
    "at work": (run("running"), thread("busy"), thread("busy"), ("think",), (), RunStatus.RUNNING),
    "answering": (run("running"), thread("busy"), thread("busy"), ("tool",), (QUESTION,), RunStatus.RUNNING),
    "finished": (run("success"), thread(), thread(), (), (), RunStatus.COMPLETED),
    "raised": (run("error"), thread("error"), thread("error"), ("tool",), (QUESTION,), RunStatus.FAILED),
    "too late": (run("timeout"), thread("error"), thread("error"), ("think",), (), RunStatus.FAILED),
    "asks, LangGraph": (run("success"), thread("interrupted"), None, ("tool",), (QUESTION,), RunStatus.WAITING),
    "asks, Aegra": (run("interrupted"), None, thread("interrupted"), ("tool",), (QUESTION,), RunStatus.WAITING),
    "breakpoint": (run("success"), thread("interrupted"), None, ("tool",), (), RunStatus.WAITING),
    "cancelled": (
        run("interrupted"),
        thread("interrupted", error=CANCELLED),
        thread(),
        ("tool",),
        (),
        RunStatus.CANCELLED,
    ),
    "cancelled while answering": (
        run("interrupted"),
        thread("interrupted", error=CANCELLED),
        thread(),
        ("tool",),
        (QUESTION,),
        RunStatus.CANCELLED,
    ),
    "a word of tomorrow": (run("dreaming"), thread("busy"), thread("busy"), (), (), RunStatus.UNKNOWN),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_one_rule_tells_the_statuses_of_both_hosts(situation: str) -> None:
    newest, *threads, following, interrupts, status = SITUATIONS[situation]
    for each in threads:
        if each is None:
            continue
        host = Host(GET=each, GET_runs=[[newest] if newest else []], GET_state=state(MESSAGES, following, *interrupts))
        assert get(host).status is status
        page = read(host)
        assert page.run.status is status
        assert page.run.raw_status == get(host).raw_status
        assert page.run.reason is (WaitReason.QUESTION if interrupts and status is RunStatus.WAITING else None)


def test_what_decides_the_end_is_read_before_the_log() -> None:
    host = Host(GET=thread(), GET_runs=[[run("success")]], GET_state=state())
    read(host)
    assert host.routes == ["GET runs", "GET state"]
    host = Host(GET=thread(), GET_runs=[[run("interrupted")]], GET_state=state())
    read(host)
    assert host.routes == ["GET runs", "GET", "GET state"]


def test_a_state_of_a_run_that_has_just_begun_is_not_taken_for_waiting() -> None:
    newer = {**state(MESSAGES, ("think",)), "metadata": {"run_id": "another"}}
    host = Host(GET_runs=[[run("success")]], GET_state=newer)
    assert read(host).run.status is RunStatus.COMPLETED


def test_messages_are_the_log() -> None:
    host = Host(GET_runs=[[run("success")]], GET_state=state())
    page = read(host)
    assert [entry.id for entry in page.entries] == ["m1", "m2", "m3", "m4"]
    assert [entry.said for entry in page.entries] == ["Do it", None, None, None]
    assert [entry.answers for entry in page.entries] == [False, False, False, True]
    assert not any(entry.open for entry in page.entries)
    assert (page.at_end, page.paging.total) == (True, 4)
    assert page.revision == "1f1ec55f-c382-6972-8003-08c84051e917"
    assert page.run.fields["result"] == "Done"
    steps = [LangGraphUpstream("http://host").step(entry) for entry in page.entries]
    assert [step.kind for step in steps] == [StepKind.USER, StepKind.THOUGHT, StepKind.ACTION, StepKind.ANSWER]
    assert [step.text for step in steps] == ["Do it", "step 0", "", "Done"]
    assert (steps[2].tool, steps[2].input, steps[2].output) == ("echo", {"n": 0}, "echoed 0")


def test_the_log_is_read_from_either_end() -> None:
    host = Host(GET_runs=[[run("success")]], GET_state=state())

    def names(after: int, limit: int, *, newest_first: bool = False) -> tuple[list[str | None], bool]:
        page = read(host, after, limit, newest_first=newest_first)
        return [entry.id for entry in page.entries], page.at_end

    assert names(1, 2) == (["m2", "m3"], False)
    assert names(2, 2) == (["m3", "m4"], True)
    assert names(9, 1) == ([], True)
    assert names(0, 3, newest_first=True) == (["m4", "m3", "m2"], False)
    assert names(3, 3, newest_first=True) == (["m1"], True)
    assert names(9, 3, newest_first=True) == ([], True)


@pytest.mark.parametrize("values", [None, {}, {"text": "done"}, [], {"messages": "none"}])
def test_a_graph_without_messages_has_an_empty_log(values: Any) -> None:
    host = Host(GET=thread(), GET_runs=[[run("success")]], GET_state={**state(), "values": values})
    page = read(host)
    assert (page.entries, page.at_end, page.run.status) == ((), True, RunStatus.COMPLETED)
    assert get(host).fields["result"] is None


def test_a_message_that_cannot_be_read_keeps_its_place() -> None:
    host = Host(GET_runs=[[run("running")]], GET_state=state([None, *MESSAGES]))
    page = read(host)
    assert [entry.absent for entry in page.entries] == [True, False, False, False, False]


def test_a_run_is_the_thread_without_its_values_and_settings() -> None:
    metadata = {"team": "a", "codegen_gateway": {"owner": "x"}}
    whole = thread(metadata=metadata, values={"messages": MESSAGES}, config={"configurable": {"key": "secret"}})
    found = get(Host(GET=whole, GET_runs=[[run("success")]], GET_state=state()))
    assert (found.ref, found.marks) == (REF, {"owner": "x"})
    assert found.fields == {
        "thread_id": THREAD,
        "id": THREAD,
        "organization_id": "default",
        "created_at": "2026-11-30T00:35:45.118728Z",
        "updated_at": "2026-11-30T00:35:45.118728Z",
        "metadata": {"team": "a"},
        "status": "completed",
        "result": "Done",
    }
    assert LangGraphUpstream("http://host").answer(found) == "Done"


@pytest.mark.parametrize("text", ["7", "", "../x", THREAD + "0"])
def test_an_id_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(errors.Rejected):
        LangGraphUpstream("http://host").run_id(text)
    assert LangGraphUpstream("http://host").run_id(THREAD.upper()) == THREAD


def test_a_credential_is_shown_in_both_ways_and_proven_by_a_search() -> None:
    host = Host(POST_search=[[]])
    user = host.ask(lambda upstream: upstream.identify(CREDENTIAL))
    assert (host.headers["authorization"], host.headers["x-api-key"]) == (f"Bearer {TOKEN}", TOKEN)
    assert TOKEN not in user.id
    with pytest.raises(errors.InvalidToken):
        Host(POST_search=(401, {"detail": "bad token"})).ask(lambda upstream: upstream.identify(CREDENTIAL))


def create(host: Host, new: NewRun, **options: str) -> Run:
    return host.ask(lambda upstream: upstream.create_run(CREDENTIAL, "default", new), **options)


def a_new_host(**more: Any) -> Host:
    return Host(**{"POST_runs": run("pending"), "POST": thread(), **more})


def test_a_new_run_is_a_thread_with_the_marks_and_a_run_of_the_host_in_it() -> None:
    host = a_new_host()
    made = create(host, NewRun("Do it", {"team": "a"}, marks={"owner": "x"}))
    assert (made.ref, made.status) == (REF, RunStatus.PENDING)
    assert host.sent[0][1]["metadata"] == {"team": "a", "codegen_gateway": {"owner": "x"}}
    sent = host.body_of("POST runs")
    assert (sent["assistant_id"], sent["input"]) == ("agent", {"messages": [{"role": "user", "content": "Do it"}]})
    host = a_new_host()
    create(host, NewRun("Do it", images=("data:image/png;base64,AA==",), agent_type="other"), assistant="mine")
    sent = host.body_of("POST runs")
    assert sent["assistant_id"] == "other"
    assert sent["input"]["messages"][0]["content"][1]["image_url"] == {"url": "data:image/png;base64,AA=="}
    host = a_new_host()
    create(host, NewRun("Do it"), assistant="mine")
    assert host.body_of("POST runs")["assistant_id"] == "mine"


@pytest.mark.parametrize("new", [NewRun("Hi", repo_id=7), NewRun("Hi", model="large")])
def test_what_the_host_has_no_word_for_is_refused(new: NewRun) -> None:
    with pytest.raises(errors.NotOffered):
        create(Host(), new)


@pytest.mark.parametrize("place", ["metadata", "config"])
def test_an_order_that_comes_again_is_known_by_its_key(place: str) -> None:
    host = a_new_host(GET_runs=[[]])
    create(host, NewRun("Do it", key="k1"))
    first, order = host.sent[0][1]["thread_id"], host.body_of("POST runs")
    kept = {"metadata": order["config"]["metadata"]}
    started = run("running", **(kept if place == "metadata" else {"config": kept}))
    again = a_new_host(GET_runs=[[started]])
    again.answers |= {"GET " + first: [(200, thread())], "GET": [(200, thread())]}
    create(again, NewRun("Do it", key="k1"))
    assert again.sent[0][1]["thread_id"] == first
    assert "POST runs" not in again.routes
    other = a_new_host(GET_runs=[[]])
    create(other, NewRun("Do it", key="k2"))
    assert other.sent[0][1]["thread_id"] != first
    assert other.body_of("POST runs")["input"]["messages"][0]["id"] != order["input"]["messages"][0]["id"]


def test_an_order_that_is_overtaken_by_its_repeat_is_not_carried_out_twice() -> None:
    busy = (409, {"detail": "Thread is already running a task."})
    host = Host(GET=thread(), GET_state=state(), POST_runs=busy)
    mine = run("running", metadata={"codegen_gateway_key": "2a1dd9a5ed1ee50b7b8c5b5fd1a2b4b5"})
    host.on("GET runs", [run("success")], [run("running")])
    with pytest.raises(errors.Conflict):
        host.ask(lambda upstream: upstream.resume_run(CREDENTIAL, REF, "Go on", None, key="k1"))
    mine["metadata"] = host.body_of("POST runs")["config"]["metadata"]
    host.on("GET runs", [run("success")], [mine])
    resumed = host.ask(lambda upstream: upstream.resume_run(CREDENTIAL, REF, "Go on", None, key="k1"))
    assert resumed.ref == REF


@pytest.mark.parametrize("refusal", [(422, {"detail": "Invalid assistant"}), (404, {"detail": "not found"})])
def test_a_thread_whose_run_is_refused_is_deleted(refusal: Answer) -> None:
    host = a_new_host(POST_runs=refusal)
    deleted: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            deleted.append(request.url.path)
            return httpx.Response(204)
        return host(request)

    async def asked() -> None:
        upstream = LangGraphUpstream("http://host", transport=httpx.MockTransport(serve))
        with pytest.raises((errors.Rejected, errors.NotFound)):
            await upstream.create_run(CREDENTIAL, "default", NewRun("Hi", agent_type="nobody"))
        await upstream.aclose()

    asyncio.run(asked())
    assert deleted == [f"/threads/{host.sent[0][1]['thread_id']}"]


def resume(host: Host, prompt: str = "Go on", images: tuple[str, ...] | None = None) -> Run:
    return host.ask(lambda upstream: upstream.resume_run(CREDENTIAL, REF, prompt, images))


def test_a_resume_is_another_message_for_the_same_assistant() -> None:
    host = Host(GET_runs=[[run("success", assistant_id="other")]], GET_state=state(), POST_runs=run("pending"))
    assert resume(host).status is RunStatus.PENDING
    sent = host.body_of("POST runs")
    assert (sent["assistant_id"], sent["multitask_strategy"]) == ("other", "reject")
    assert sent["input"] == {"messages": [{"role": "user", "content": "Go on"}]}


def test_a_resume_of_a_run_that_asks_is_the_answer() -> None:
    asking = state(MESSAGES[:2], ("tool",), QUESTION)
    host = Host(GET_runs=[[run("success")]], GET_state=asking, POST_runs=run("pending"))
    resume(host, "yes")
    sent = host.body_of("POST runs")
    assert sent["command"] == {"resume": {QUESTION["id"]: "yes"}}
    assert "input" not in sent
    with pytest.raises(errors.NotOffered):
        resume(host, "yes", ("data:image/png;base64,AA==",))


def test_a_resume_never_approves() -> None:
    asking = state(MESSAGES[:2], ("tool",), APPROVAL)
    host = Host(GET_runs=[[run("success")]], GET_state=asking, POST_runs=run("pending"))
    resume(host, "yes")
    decisions = host.body_of("POST runs")["command"]["resume"][APPROVAL["id"]]["decisions"]
    assert decisions == [{"type": "reject", "message": "yes"}]


@pytest.mark.parametrize("status", ["pending", "running"])
def test_a_run_at_work_cannot_be_resumed(status: str) -> None:
    with pytest.raises(errors.Conflict):
        resume(Host(GET_runs=[[run(status)]]))


def pending_of(host: Host) -> Any:
    return host.ask(lambda upstream: upstream.pending(CREDENTIAL, REF))


def decide(host: Host, name: str, decision: Decision) -> None:
    host.ask(lambda upstream: upstream.decide(CREDENTIAL, REF, name, decision))


def test_interrupts_are_questions_that_take_an_answer() -> None:
    asking = state(MESSAGES[:2], ("tool",), QUESTION, {"id": "b" * 32, "value": {"n": 1}}, {"value": "Which?"})
    host = Host(GET_runs=[[run("success")]], GET_state=asking, POST_runs=run("pending"))
    found = pending_of(host)
    assert [each.text for each in found] == ["may I?", '{"n":1}', "Which?"]
    assert [each.reason for each in found] == [WaitReason.QUESTION] * 3
    decide(host, "b" * 32, Decision("answer", "two"))
    assert host.body_of("POST runs")["command"] == {"resume": {"b" * 32: "two"}}
    for wrong in (Decision("approve"), Decision("reject", "no"), Decision("answer")):
        with pytest.raises(errors.Rejected):
            decide(host, "b" * 32, wrong)
    with pytest.raises(errors.NotFound):
        decide(host, "f" * 32, Decision("answer", "two"))


def test_calls_that_the_middleware_holds_back_are_approved_or_rejected_together() -> None:
    both = {**APPROVAL, "value": {"action_requests": [CALL, {"name": "pay", "args": {}}]}}
    host = Host(GET_runs=[[run("success")]], GET_state=state([], ("tool",), APPROVAL), POST_runs=run("pending"))
    (found,) = pending_of(host)
    assert (found.reason, found.tool, found.input) == (WaitReason.APPROVAL, "send", {"to": "bob"})
    assert found.text == CALL["description"]
    with pytest.raises(errors.Rejected):
        decide(host, found.id, Decision("answer", "no"))
    decide(host, found.id, Decision("approve", "why not"))
    assert host.body_of("POST runs")["command"]["resume"] == {found.id: {"decisions": [{"type": "approve"}]}}
    host = Host(GET_runs=[[run("success")]], GET_state=state([], ("tool",), both), POST_runs=run("pending"))
    (found,) = pending_of(host)
    assert (found.tool, found.input) == ("send, pay", [{"to": "bob"}, {}])
    decide(host, found.id, Decision("reject", "no"))
    rejected = {"type": "reject", "message": "no"}
    assert host.body_of("POST runs")["command"]["resume"] == {found.id: {"decisions": [rejected, rejected]}}


@pytest.mark.parametrize("newest", ["running", "error"])
def test_a_run_that_does_not_wait_has_nothing_pending_though_its_state_may_say_so(newest: str) -> None:
    host = Host(GET_runs=[[run(newest)]], GET_state=state([], ("tool",), QUESTION))
    assert pending_of(host) == ()
    with pytest.raises(errors.NotFound):
        decide(host, str(QUESTION["id"]), Decision("answer", "yes"))


def cancel(host: Host) -> None:
    host.ask(lambda upstream: upstream.cancel_run(CREDENTIAL, REF))


@pytest.mark.parametrize(
    "answer", [(200, {}), httpx.Response(202), (404, {"detail": "Run not found"})], ids=["done", "empty", "ended"]
)
def test_a_cancel_interrupts_what_is_at_work(answer: Answer) -> None:
    host = Host(GET_runs=[[run("pending"), run("running"), run("success")]], POST_cancel=answer)
    cancel(host)
    assert host.routes == ["GET runs", "POST cancel", "POST cancel"]


def test_a_run_that_waits_cannot_be_stopped() -> None:
    waiting = Host(GET=thread("interrupted"), GET_runs=[[run("success")]], GET_state=state([], ("tool",), QUESTION))
    with pytest.raises(errors.Conflict):
        cancel(waiting)
    cancel(Host(GET=thread(), GET_runs=[[run("success")]], GET_state=state()))


def listed(host: Host, limit: int = 100, only: RunFilter | None = None) -> Any:
    return host.ask(lambda upstream: upstream.list_runs(CREDENTIAL, "default", 0, limit, only or RunFilter()))


def test_a_list_is_told_by_the_threads_alone() -> None:
    new = thread(metadata={})
    asks, stopped = thread("interrupted", interrupts={"t": [QUESTION]}), thread("interrupted", interrupts={})
    host = Host(POST_search=[[new, thread("busy"), thread(), thread("error"), asks, stopped]])
    found = listed(host)
    expected = ["pending", "running", "completed", "failed", "waiting", "cancelled"]
    assert [each.status.value for each in found.items] == expected
    assert found.at_end
    assert "values" not in host.body_of("POST search")["select"]
    assert not listed(host, limit=6).at_end
    with pytest.raises(errors.NotOffered):
        listed(host, only=RunFilter(user_id="7"))


def test_a_host_that_cannot_be_asked_for_less_is_asked_for_all() -> None:
    detail = [{"type": "value_error", "loc": ["body", "select"], "msg": "select projection is not supported"}]
    host = Host(POST_search=[(422, {"detail": detail}), [thread("interrupted")]])

    async def twice(upstream: LangGraphUpstream) -> Any:
        await upstream.list_runs(CREDENTIAL, "default", 0, 10, RunFilter())
        return await upstream.list_runs(CREDENTIAL, "default", 0, 10, RunFilter())

    found = host.ask(twice)
    assert [each.status for each in found.items] == [RunStatus.WAITING]
    assert ["select" in body for _, body in host.sent] == [True, False, False]


FAULTS: dict[str, tuple[Answer, type[errors.GatewayError]]] = {
    "a page": (httpx.Response(200, html="<p>Welcome</p>"), errors.UpstreamError),
    "nothing": (httpx.Response(204), errors.UpstreamError),
    "half": (httpx.Response(200, content=b'[{"run_id":'), errors.UpstreamError),
    "another shape": ((200, {"runs": []}), errors.UpstreamError),
    "401": ((401, {"detail": "bad token"}), errors.InvalidToken),
    "403": ((403, {"detail": "no"}), errors.Forbidden),
    "404": ((404, {"detail": "Thread not found"}), errors.NotFound),
    "404 of Aegra": ((404, {"error": "not_found", "message": "Thread not found"}), errors.NotFound),
    "409": ((409, {"detail": "busy"}), errors.Conflict),
    "422": ((422, {"detail": "Invalid thread ID"}), errors.Rejected),
    "429": (httpx.Response(429, headers={"retry-after": "3"}), errors.UpstreamRateLimited),
    "503": (httpx.Response(503, text="down"), errors.UpstreamError),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_answers_are_errors_of_the_contract(fault: str) -> None:
    answer, kind = FAULTS[fault]
    with pytest.raises(kind) as caught:
        read(Host(GET_runs=answer))
    if isinstance(answer, tuple) and "not_found" in str(answer):
        assert caught.value.message == "Thread not found"
