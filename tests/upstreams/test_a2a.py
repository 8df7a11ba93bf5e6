"""The adapter for A2A, over answers in the form of those that servers of a2a-sdk 1.3.0 gave in November 2026."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import LogPage, Run, RunRef, RunStatus, StepKind, WaitReason
from codegen_api.upstreams import (
    Approves,
    Cancels,
    Decision,
    InvalidOption,
    NewRun,
    RunFilter,
    Streams,
    TakesKeys,
    Upstream,
)
from codegen_api.upstreams.a2a import MOST_PAGES, A2AUpstream

TOKEN = "a2a-token-of-tests"
CREDENTIAL = Credential.of(TOKEN, b"key")
ID = "e6f83114-5f0e-4b53-a0a4-6a1f5bd3b1de"
CONTEXT = "5606ea6e-0001-4f3e-8ed0-61907b826292"
REF = RunRef("default", ID)
BASE = "https://agent.example"
REST = {"url": "https://elsewhere.example/rest", "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"}
RPC = {"url": "http://0.0.0.0:9999/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
NEW_CARD = {"name": "steps", "supportedInterfaces": [RPC, REST]}
RPC_CARD = {"name": "steps", "supportedInterfaces": [RPC]}
OLD_CARD = {"name": "coder", "url": "http://localhost:41242/", "protocolVersion": "0.3.0"}
WORKING, DONE, ASKS = "TASK_STATE_WORKING", "TASK_STATE_COMPLETED", "TASK_STATE_INPUT_REQUIRED"


def message(name: str, text: str, role: str = "ROLE_AGENT", **more: object) -> dict[str, object]:
    return {"messageId": name, "contextId": CONTEXT, "taskId": ID, "role": role, "parts": [{"text": text}], **more}


FIRST = message("m1", "steps 2", "ROLE_USER", metadata={"codegen_gateway": {"owner": "alice"}, "ticket": "T-1"})


def task(state: str = WORKING, latest: object = None, *history: object, **more: object) -> dict[str, Any]:
    status: dict[str, object] = {"state": state, "timestamp": "2026-11-29T07:04:27.026262Z"}
    status |= {} if latest is None else {"message": latest}
    return {"id": ID, "contextId": CONTEXT, "status": status, "history": [FIRST, *history], **more}


def fault(status: int, reason: str, text: str = "no") -> httpx.Response:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "a2a-protocol.org"}]
    return httpx.Response(status, json={"error": {"code": status, "status": "X", "message": text, "details": details}})


class Agent:
    """One that gives ``card`` and then ``answers`` in turn, the last one ever again, and keeps what it was asked."""

    def __init__(self, *answers: object, card: object = NEW_CARD) -> None:
        self.answers = list(answers)
        self.card = card
        self.requests: list[httpx.Request] = []
        self.cards = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/.well-known/agent-card.json"):
            self.cards += 1
            return self.card if isinstance(self.card, httpx.Response) else httpx.Response(200, json=self.card)
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests if request.content]

    def upstream(self, base: str = BASE, **options: str) -> A2AUpstream:
        return A2AUpstream(base, transport=httpx.MockTransport(self), options=options)


async def log(*states: Mapping[str, object]) -> list[LogPage]:
    upstream = Agent(*states).upstream()
    return [await upstream.read_log(CREDENTIAL, REF, 0, 100) for _ in states]


async def run_of(**more: Any) -> Run:
    return await Agent(task(**more)).upstream().get_run(CREDENTIAL, REF)


# -- the card ---------------------------------------------------------------------------------------------------------


def test_it_is_an_upstream_that_cancels_approves_and_streams_but_takes_no_keys() -> None:
    upstream: Upstream = Agent().upstream()
    assert isinstance(upstream, Cancels)
    assert isinstance(upstream, Approves)
    assert isinstance(upstream, Streams)
    assert not isinstance(upstream, TakesKeys)


async def test_the_card_is_read_once_below_the_base_url() -> None:
    agent = Agent(task())
    upstream = agent.upstream(f"{BASE}/agents/one/")
    for _ in range(2):
        await upstream.get_run(CREDENTIAL, REF)
    assert agent.cards == 1


async def test_of_the_card_s_url_only_the_path_is_used_so_that_the_token_goes_nowhere_else() -> None:
    agent = Agent(task())
    await agent.upstream(f"{BASE}/agents/one").get_run(CREDENTIAL, REF)
    (request,) = agent.requests
    assert (request.method, str(request.url)) == ("GET", f"{BASE}/rest/tasks/{ID}")
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["A2A-Version"] == "1.0"


async def test_the_card_is_read_again_after_a_failure() -> None:
    agent = Agent(httpx.Response(503, text="<html>"), task(), task())
    upstream = agent.upstream()
    with pytest.raises(errors.UpstreamError):
        await upstream.get_run(CREDENTIAL, REF)
    for _ in range(2):
        await upstream.get_run(CREDENTIAL, REF)
    assert agent.cards == 2


@pytest.mark.parametrize(
    "card",
    [
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(404, text="<html>nothing</html>"),
        httpx.Response(200, text="<html>welcome</html>"),
        httpx.Response(204),
        {},
        {"supportedInterfaces": [{**REST, "protocolBinding": "GRPC"}]},
        {"supportedInterfaces": [{**REST, "protocolVersion": "2.0"}, {**REST, "url": None}, 7]},
        {"url": "https://[", "protocolVersion": "0.3.0"},
    ],
)
async def test_without_a_card_that_can_be_used_nothing_has_happened(card: object) -> None:
    agent = Agent(task(), card=card)
    with pytest.raises(errors.UpstreamError) as caught:
        await agent.upstream().create_run(CREDENTIAL, "default", NewRun("Say hello"))
    assert caught.value.may_have_acted is False
    assert agent.requests == []


async def test_version_0_3_may_offer_json_rpc_beside_what_it_prefers() -> None:
    others = [{"url": "https://agent.example/rest", "transport": "HTTP+JSON"}, {"url": "/rpc", "transport": "JSONRPC"}]
    card = {**OLD_CARD, "preferredTransport": "GRPC", "additionalInterfaces": others}
    agent = Agent({"result": task()}, card=card)
    await agent.upstream().get_run(CREDENTIAL, REF)
    assert agent.requests[0].url.path == "/rpc"


async def test_a_tenant_is_part_of_the_path_or_a_parameter() -> None:
    for card in ({"supportedInterfaces": [{**each, "tenant": "a/b"}]} for each in (REST, RPC)):
        agent = Agent({"result": task(), **task()}, card=card)
        await agent.upstream().get_run(CREDENTIAL, REF)
        (request,) = agent.requests
        if request.method == "GET":
            assert str(request.url) == f"{BASE}/rest/a%2Fb/tasks/{ID}"
        else:
            assert json.loads(request.content)["params"] == {"id": ID, "tenant": "a/b"}


async def test_the_credential_may_have_a_header_of_its_own() -> None:
    agent = Agent(task())
    await agent.upstream(header="X-API-Key").get_run(CREDENTIAL, REF)
    (request,) = agent.requests
    assert request.headers["X-API-Key"] == TOKEN
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("options", [{"header": "a b"}, {"header": ""}, {"directory": "/"}])
def test_other_options_are_refused_by_name(options: dict[str, str]) -> None:
    with pytest.raises(InvalidOption) as caught:
        Agent().upstream(**options)
    assert caught.value.name == next(iter(options))


@pytest.mark.parametrize(
    "base", ["agent.example", "ftp://agent.example", "https://a:b@agent.example", "https://agent:x"]
)
def test_a_base_url_that_cannot_be_used_is_a_value_error(base: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        Agent().upstream(base)


# -- runs -------------------------------------------------------------------------------------------------------------


async def test_a_task_is_a_run_without_its_log_and_without_marks() -> None:
    run = await run_of()
    assert (run.ref, run.status, run.raw_status, run.final) == (REF, RunStatus.RUNNING, WORKING, False)
    assert run.marks == {"owner": "alice"}
    assert run.fields == {
        "id": ID,
        "contextId": CONTEXT,
        "organization_id": "default",
        "status": WORKING,
        "created_at": None,
        "updated_at": "2026-11-29T07:04:27.026262Z",
        "metadata": {"ticket": "T-1"},
    }


async def test_what_a_server_keeps_for_itself_with_a_task_goes_no_further() -> None:
    run = await run_of(metadata={"__persistedState": {"workspacePath": "/home"}, "model": "m"})
    assert (run.fields["task_metadata"], run.fields["metadata"]) == ({"model": "m"}, {"ticket": "T-1"})


@pytest.mark.parametrize(
    ("word", "status", "reason"),
    [
        ("TASK_STATE_SUBMITTED", RunStatus.PENDING, None),
        ("working", RunStatus.RUNNING, None),
        (ASKS, RunStatus.WAITING, WaitReason.QUESTION),
        ("input-required", RunStatus.WAITING, WaitReason.QUESTION),
        ("TASK_STATE_AUTH_REQUIRED", RunStatus.WAITING, WaitReason.SIGN_IN),
        (DONE, RunStatus.COMPLETED, None),
        ("TASK_STATE_FAILED", RunStatus.FAILED, None),
        ("rejected", RunStatus.FAILED, None),
        ("canceled", RunStatus.CANCELLED, None),
        ("TASK_STATE_UNSPECIFIED", RunStatus.UNKNOWN, None),
        ("TASK_STATE_OF_TOMORROW", RunStatus.UNKNOWN, None),
        (None, RunStatus.UNKNOWN, None),
    ],
)
async def test_states_are_statuses_and_an_end_is_final(word: Any, status: RunStatus, reason: WaitReason | None) -> None:
    run = await run_of(state=word)
    assert (run.status, run.raw_status, run.reason, run.final) == (status, word, reason, status.ended)


async def test_a_run_is_begun_by_a_message_that_is_not_waited_for() -> None:
    agent = Agent({"task": task("TASK_STATE_SUBMITTED")})
    new = NewRun("steps 2", {"ticket": "T-1"}, ("data:image/png;base64,AAAA",), marks={"owner": "alice"})
    run = await agent.upstream().create_run(CREDENTIAL, "default", new)
    assert (run.ref, run.status) == (REF, RunStatus.PENDING)
    (body,) = agent.bodies()
    assert str(agent.requests[0].url) == f"{BASE}/rest/message:send"
    assert body["configuration"] == {"returnImmediately": True}
    assert body["message"].pop("messageId")
    assert body["message"] == {
        "role": "ROLE_USER",
        "parts": [{"text": "steps 2"}, {"raw": "AAAA", "mediaType": "image/png"}],
        "metadata": {"ticket": "T-1", "codegen_gateway": {"owner": "alice"}},
    }


@pytest.mark.parametrize("card", [NEW_CARD, OLD_CARD])
async def test_an_agent_that_answers_without_a_task_has_no_run(card: object) -> None:
    said = {"message": message("a1", "Hello")} if card is NEW_CARD else {"result": {"kind": "message"}}
    with pytest.raises(errors.Unsupported):
        await Agent(said, card=card).upstream().create_run(CREDENTIAL, "default", NewRun("Hello"))


@pytest.mark.parametrize(
    "new",
    [
        NewRun("x", repo_id=7),
        NewRun("x", model="m"),
        NewRun("x", agent_type="t"),
        NewRun("x", {"codegen_gateway": {}}),
        NewRun("x", images=("https://host.example/a.png",)),
    ],
)
async def test_what_the_protocol_has_no_word_for_is_refused(new: NewRun) -> None:
    agent = Agent({"task": task()})
    with pytest.raises(errors.Rejected):
        await agent.upstream().create_run(CREDENTIAL, "default", new)
    assert agent.requests == []


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a:cancel", "a?b", "é", "a" * 201])
def test_what_would_change_the_path_is_no_id(text: str) -> None:
    with pytest.raises(errors.Rejected):
        Agent().upstream().run_id(text)


async def test_a_message_to_a_task_names_its_context_too() -> None:
    agent = Agent(task(ASKS), {"task": task()})
    await agent.upstream().resume_run(CREDENTIAL, REF, "The second", None)
    (body,) = agent.bodies()
    assert (body["message"]["taskId"], body["message"]["contextId"]) == (ID, CONTEXT)


async def test_a_task_that_ended_meanwhile_is_final() -> None:
    with pytest.raises(errors.RunFinal):
        await Agent(task(), fault(400, "UNSUPPORTED_OPERATION")).upstream().resume_run(CREDENTIAL, REF, "On", None)


async def test_a_resume_whose_task_cannot_be_read_has_not_acted() -> None:
    with pytest.raises(errors.UpstreamError) as caught:
        await Agent(httpx.Response(502, text="")).upstream().resume_run(CREDENTIAL, REF, "On", None)
    assert caught.value.may_have_acted is False


async def test_a_task_that_has_ended_stays_as_it_is_when_it_is_cancelled() -> None:
    refused = fault(400, "TASK_NOT_CANCELABLE")
    await Agent(refused, task(DONE)).upstream().cancel_run(CREDENTIAL, REF)
    with pytest.raises(errors.Conflict):
        await Agent(refused, task(WORKING)).upstream().cancel_run(CREDENTIAL, REF)


async def test_what_it_asks_is_pending_and_is_answered_once() -> None:
    asks = task(ASKS, message("q1", "Which one?"))
    agent = Agent(asks, asks, asks, {"task": task()}, task())
    upstream = agent.upstream()
    (request,) = await upstream.pending(CREDENTIAL, REF)
    assert (request.id, request.reason, request.text) == ("q1", WaitReason.QUESTION, "Which one?")
    await upstream.decide(CREDENTIAL, REF, "q1", Decision("answer", "The second"))
    assert agent.bodies()[0]["message"]["parts"] == [{"text": "The second"}]
    assert await upstream.pending(CREDENTIAL, REF) == ()
    with pytest.raises(errors.NotFound):
        await upstream.decide(CREDENTIAL, REF, "q1", Decision("answer", "The second"))
    with pytest.raises(errors.Rejected):
        await upstream.decide(CREDENTIAL, REF, "q1", Decision("approve"))


# -- the log ----------------------------------------------------------------------------------------------------------


async def test_the_message_of_a_status_keeps_its_number_and_its_form_when_it_moves_into_the_history() -> None:
    one, two = message("s0", "step 0"), message("s1", "step 1")
    before, after, done = await log(
        task(WORKING, one), task(WORKING, two, one), task(DONE, message("d", "done"), one, two)
    )
    assert [entry.id for entry in before.entries] == ["m1", "s0"]
    assert before.entries == after.entries[:2]
    assert after.entries == done.entries[:3]
    assert done.run.status is RunStatus.COMPLETED


async def test_a_message_that_is_in_the_history_already_is_told_once() -> None:
    (page,) = await log(task(WORKING, message("s0", "step 0"), message("s0", "step 0")))
    assert [entry.id for entry in page.entries] == ["m1", "s0"]


async def test_a_question_that_was_answered_is_told_once_where_it_was_in_the_history_at_once() -> None:
    question, said = message("q", "Which?"), message("u", "B", "ROLE_USER")
    asked, answered = await log(task(ASKS, question, question), task(ASKS, question, question, said))
    assert [entry.id for entry in asked.entries] == ["m1", "q"]
    assert [entry.id for entry in answered.entries] == ["m1", "q", "u"]


async def test_the_last_message_is_the_answer_also_where_it_was_in_the_history_at_once() -> None:
    done = message("d", "It is so.")
    (page,) = await log(task(DONE, done, message("s", "step"), done))
    assert [(entry.id, entry.answers) for entry in page.entries] == [("m1", False), ("s", False), ("d", True)]


async def test_artifacts_come_last_and_only_when_they_are_whole() -> None:
    parts = [{"text": "part one. "}, {"text": "part two."}]
    artifacts = [{"artifactId": "a1", "name": "answer", "parts": parts}]
    working, done = await log(task(artifacts=artifacts), task(DONE, message("d", "done"), artifacts=artifacts))
    assert [entry.id for entry in working.entries] == ["m1"]
    assert [(entry.id, entry.answers) for entry in done.entries] == [("m1", False), ("d", False), ("a1", True)]
    upstream = Agent().upstream()
    assert upstream.step(done.entries[2]).text == "part one. part two."
    assert upstream.answer(done.run) == "part one. part two."


@pytest.mark.parametrize(("state", "kind"), [(DONE, StepKind.ANSWER), ("TASK_STATE_REJECTED", StepKind.ERROR)])
async def test_the_last_message_is_what_came_of_the_task(state: str, kind: StepKind) -> None:
    (page,) = await log(task(state, message("d", "It is so.")))
    step = Agent().upstream().step(page.entries[1])
    assert (step.kind, step.text, page.entries[1].answers) == (kind, "It is so.", kind is StepKind.ANSWER)


async def test_what_users_say_is_told_without_marks() -> None:
    (page,) = await log(task(ASKS, message("q", "Which?")))
    said, asked = page.entries
    step = Agent().upstream().step
    assert (said.said, step(said).kind, step(asked).kind) == ("steps 2", StepKind.USER, StepKind.THOUGHT)
    assert json.loads(said.json)["metadata"] == {"ticket": "T-1"}
    assert b"alice" not in said.json


async def test_data_and_files_have_a_text_too() -> None:
    parts = ({"data": {"n": 1}}, {"url": "https://host.example/a.pdf"}, {"file": {"name": "b.pdf"}}, {"raw": "AAAA"}, 7)
    (page,) = await log(task(WORKING, None, *({**message("x", ""), "parts": [part]} for part in parts)))
    step = Agent().upstream().step
    assert [step(entry).text for entry in page.entries[1:]] == [
        '{"n":1}',
        "https://host.example/a.pdf",
        "b.pdf",
        "",
        "",
    ]


async def test_what_cannot_be_read_keeps_its_place() -> None:
    (page,) = await log(task(DONE, None, 7, message("s", "step"), artifacts=[None]))
    assert [entry.absent for entry in page.entries] == [False, True, False, True]
    assert Agent().upstream().step(page.entries[1]).kind is StepKind.OTHER


async def test_the_log_is_read_in_pages_from_either_end() -> None:
    upstream = Agent(task(WORKING, None, *(message(f"s{n}", "") for n in range(4)))).upstream()

    async def page(after: int, limit: int, *, newest_first: bool) -> tuple[list[str | None], bool, int | None]:
        found = await upstream.read_log(CREDENTIAL, REF, after, limit, newest_first=newest_first)
        return [entry.id for entry in found.entries], found.at_end, found.paging.total

    assert await page(1, 2, newest_first=False) == (["s0", "s1"], False, 5)
    assert await page(3, 2, newest_first=False) == (["s2", "s3"], True, 5)
    assert await page(9, 2, newest_first=False) == ([], True, 5)
    assert await page(0, 2, newest_first=True) == (["s3", "s2"], False, 5)


async def test_where_no_history_is_kept_the_outcome_is_all_there_is() -> None:
    bare: dict[str, list[object]] = {"history": []}
    working, done = await log(
        {**task(WORKING, message("s", "step")), **bare}, {**task(DONE, message("d", "done")), **bare}
    )
    assert (working.entries, working.run.marks) == ((), None)
    assert [entry.id for entry in done.entries] == ["d"]
    with pytest.raises(errors.Unsupported, match="keeps no history"):
        await log({**task(ASKS), **bare})


# -- lists ------------------------------------------------------------------------------------------------------------


def listed(*names: str, token: str = "") -> dict[str, object]:
    return {"tasks": [{**task(DONE, message("d", "done")), "id": name} for name in names], "nextPageToken": token}


async def test_a_list_is_read_from_its_front_with_marks_where_it_is_wanted() -> None:
    agent = Agent({**listed("a", "b", token="t1"), "totalSize": 3}, listed("c"))
    page = await agent.upstream().list_runs(CREDENTIAL, "default", 2, 10, RunFilter())
    assert [run.ref.id for run in page.items] == ["c"]
    assert (page.items[0].marks, page.at_end, page.pieces) == ({"owner": "alice"}, True, 2)
    assert "result" not in page.items[0].fields
    queries = [dict(request.url.params) for request in agent.requests]
    assert queries == [{"pageSize": "2", "historyLength": "0"}, {"pageSize": "10", "pageToken": "t1"}]


async def test_behind_the_end_of_a_list_there_is_nothing() -> None:
    page = await Agent(listed("a")).upstream().list_runs(CREDENTIAL, "default", 5, 10, RunFilter())
    assert (page.items, page.at_end) == ((), True)


async def test_how_far_behind_its_front_a_list_is_read_has_a_bound() -> None:
    agent = Agent(listed("a", token="again"))
    with pytest.raises(errors.Unsupported):
        await agent.upstream().list_runs(CREDENTIAL, "default", 5000, 10, RunFilter())
    assert len(agent.requests) == MOST_PAGES


async def test_a_task_of_a_list_that_cannot_be_read_is_a_gap() -> None:
    odd = {"tasks": [{"id": 7}, *listed("b")["tasks"]]}  # type: ignore[misc]
    page = await Agent(odd).upstream().list_runs(CREDENTIAL, "default", 0, 10, RunFilter())
    assert ([run.ref.id for run in page.items], page.gaps) == (["b"], (0,))
    nothing: list[object] = [{"tasks": [7]}, {"tasks": {}}]
    for useless in nothing:
        with pytest.raises(errors.UpstreamError):
            await Agent(useless).upstream().list_runs(CREDENTIAL, "default", 0, 10, RunFilter())


@pytest.mark.parametrize("only", [RunFilter(source_type="API"), RunFilter(user_id="7")])
async def test_lists_have_no_filters(only: RunFilter) -> None:
    with pytest.raises(errors.NotOffered):
        await Agent(listed()).upstream().list_runs(CREDENTIAL, "default", 0, 10, only)


# -- JSON-RPC ---------------------------------------------------------------------------------------------------------


def result(value: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": "1", "result": value}


async def test_json_rpc_carries_the_same() -> None:
    agent = Agent(result({"task": task()}), result(task()), result(task("TASK_STATE_CANCELED")), card=RPC_CARD)
    upstream = agent.upstream()
    await upstream.create_run(CREDENTIAL, "default", NewRun("steps 2"))
    assert (await upstream.read_log(CREDENTIAL, REF, 0, 100)).length == 1
    await upstream.cancel_run(CREDENTIAL, REF)
    assert {(request.method, str(request.url)) for request in agent.requests} == {("POST", f"{BASE}/rpc")}
    assert [body["method"] for body in agent.bodies()] == ["SendMessage", "GetTask", "CancelTask"]
    assert agent.bodies()[2] == {"jsonrpc": "2.0", "id": "1", "method": "CancelTask", "params": {"id": ID}}


async def test_version_0_3_has_its_own_words_and_no_lists() -> None:
    agent = Agent(result({**task("submitted"), "kind": "task"}), card=OLD_CARD)
    upstream = agent.upstream()
    run = await upstream.create_run(CREDENTIAL, "default", NewRun("Hi", images=("data:image/png;base64,AAAA",)))
    assert run.status is RunStatus.PENDING
    (body,) = agent.bodies()
    assert body["params"]["message"].pop("messageId")
    image = {"kind": "file", "file": {"mimeType": "image/png", "bytes": "AAAA"}}
    said = {"kind": "message", "role": "user", "parts": [{"kind": "text", "text": "Hi"}, image]}
    assert (body["method"], body["params"]) == (
        "message/send",
        {"message": said, "configuration": {"blocking": False}},
    )
    assert agent.requests[0].headers["A2A-Version"] == "0.3"
    with pytest.raises(errors.Unsupported):
        await upstream.list_runs(CREDENTIAL, "default", 0, 10, RunFilter())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (-32001, errors.NotFound),
        (-32004, errors.Unsupported),
        (-32601, errors.Unsupported),
        (-32602, errors.Rejected),
        (-32603, errors.UpstreamError),
        (-32099, errors.UpstreamError),
        (None, errors.UpstreamError),
    ],
)
async def test_errors_of_json_rpc_come_with_a_good_status(code: int | None, kind: type[errors.GatewayError]) -> None:
    agent = Agent({"jsonrpc": "2.0", "id": "1", "error": {"code": code, "message": f"no, {TOKEN}"}}, card=RPC_CARD)
    with pytest.raises(kind) as caught:
        await agent.upstream().get_run(CREDENTIAL, REF)
    assert TOKEN not in caught.value.message


# -- streams ----------------------------------------------------------------------------------------------------------


def frames(*events: object) -> httpx.Response:
    text = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events)
    return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


async def heard(agent: Agent) -> int:
    return len([None async for _ in agent.upstream().changes(CREDENTIAL, REF, 0)])


async def test_each_event_of_a_task_s_stream_is_a_hint() -> None:
    agent = Agent(frames({"task": task()}, {"statusUpdate": {"taskId": ID}}))
    assert await heard(agent) == 2
    (request,) = agent.requests
    assert (request.method, request.url.path, request.content) == ("POST", f"/rest/tasks/{ID}:subscribe", b"{}")
    agent = Agent(frames(result({"task": task()})), card=RPC_CARD)
    assert await heard(agent) == 1
    assert agent.bodies()[0]["method"] == "SubscribeToTask"


async def test_an_event_that_is_too_long_is_a_hint_as_well() -> None:
    assert await heard(Agent(frames({"task": task(WORKING, message("s", "x" * 70_000))}))) == 1


@pytest.mark.parametrize(
    "agent",
    [
        Agent(fault(400, "UNSUPPORTED_OPERATION")),
        Agent(frames({"jsonrpc": "2.0", "error": {"code": -32004, "message": "ended"}}), card=RPC_CARD),
        Agent({"jsonrpc": "2.0", "id": "1", "error": {"code": -32004, "message": "ended"}}, card=RPC_CARD),
        Agent(frames(), card=OLD_CARD),
    ],
)
async def test_who_cannot_be_listened_to_says_so(agent: Agent) -> None:
    with pytest.raises(errors.Unsupported):
        await heard(agent)


# -- who asks, and faults ---------------------------------------------------------------------------------------------


async def test_a_credential_is_good_where_there_only_is_no_such_task() -> None:
    one = await Agent(fault(404, "TASK_NOT_FOUND")).upstream().identify(CREDENTIAL)
    again = await Agent(fault(404, "TASK_NOT_FOUND"), card=NEW_CARD).upstream().identify(CREDENTIAL)
    assert one == again
    assert TOKEN not in one.id
    with pytest.raises(errors.InvalidToken):
        await Agent(httpx.Response(401, json={"error": "unauthorized"})).upstream().identify(CREDENTIAL)
    with pytest.raises(errors.UpstreamError):
        await Agent(httpx.Response(404, json={"detail": "Not Found"})).upstream().identify(CREDENTIAL)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (fault(404, "TASK_NOT_FOUND"), errors.NotFound),
        (fault(400, "INVALID_PARAMS"), errors.Rejected),
        (fault(400, "VERSION_NOT_SUPPORTED"), errors.UpstreamError),
        (fault(404, "OF_TOMORROW"), errors.NotFound),
        (fault(409, "OF_TOMORROW"), errors.Conflict),
        (fault(500, "INTERNAL"), errors.UpstreamError),
        (httpx.Response(403, json={}), errors.Forbidden),
        (httpx.Response(404, text="<html>"), errors.UpstreamError),
        (httpx.Response(429, json={}, headers={"Retry-After": "7"}), errors.UpstreamRateLimited),
        (httpx.Response(200, text="<html>"), errors.UpstreamError),
        (httpx.Response(200, text='{"id": "e6'), errors.AnswerCut),
        (httpx.Response(204), errors.UpstreamError),
        ([], errors.UpstreamError),
        ({"id": 7}, errors.UpstreamError),
        ({}, errors.UpstreamError),
    ],
)
async def test_what_an_answer_that_is_no_good_means(answer: object, kind: type[errors.GatewayError]) -> None:
    with pytest.raises(kind) as caught:
        await Agent(answer).upstream().get_run(CREDENTIAL, REF)
    assert type(caught.value) is kind


@pytest.mark.parametrize("answer", [{}, {"task": None}, httpx.Response(204)])
async def test_a_new_run_of_which_the_answer_says_nothing_may_have_begun(answer: object) -> None:
    with pytest.raises(errors.UpstreamFailure) as caught:
        await Agent(answer).upstream().create_run(CREDENTIAL, "default", NewRun("Hi"))
    assert caught.value.may_have_acted is True


async def test_there_is_one_organization() -> None:
    upstream = Agent(task()).upstream()
    assert [each.id for each in (await upstream.organizations(CREDENTIAL, 0, 10)).items] == ["default"]
    for ask in (
        upstream.create_run(CREDENTIAL, "other", NewRun("Hi")),
        upstream.get_run(CREDENTIAL, RunRef("other", ID)),
        upstream.list_runs(CREDENTIAL, "other", 0, 10, RunFilter()),
    ):
        with pytest.raises(errors.Rejected):
            await ask
