"""The adapter for opencode, over answers as the real server gives them."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import LogEntry, RunRef, RunStatus, StepKind, WaitReason
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
from codegen_api.upstreams.opencode import OpencodeUpstream

from .opencode_host import Event, OpencodeHost, called, prompted

WHO = Credential.of("a-password", b"key")
ONE = RunRef("default", "ses_one")


@pytest.fixture
def host() -> OpencodeHost:
    return OpencodeHost()


@pytest.fixture
def upstream(host: OpencodeHost) -> OpencodeUpstream:
    return connected(host)


def connected(host: OpencodeHost, **options: str) -> OpencodeUpstream:
    return OpencodeUpstream("http://host.test", transport=host.transport, options=options)


def seqs(entries: tuple[LogEntry, ...]) -> list[int]:
    return [json.loads(entry.json)["durable"]["seq"] for entry in entries]


# -- what it is -------------------------------------------------------------------------------------------------------


def test_it_has_the_powers_that_it_says(host: OpencodeHost) -> None:
    for power in (Upstream, Cancels, Approves, TakesKeys, Streams):
        assert isinstance(connected(host), power)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"folder": "/x"}, "folder"),
        ({"directory": "x"}, "directory"),
        ({"model": "x"}, "model"),
        ({"username": "a:b"}, "username"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(host: OpencodeHost, options: Mapping[str, str], name: str) -> None:
    with pytest.raises(InvalidOption) as raised:
        connected(host, **options)
    assert raised.value.name == name


async def test_the_token_is_the_password_of_the_user_in_the_options(host: OpencodeHost) -> None:
    upstream = connected(host, username="ops")
    user = await upstream.identify(WHO)
    shown = base64.b64decode(host.asked[0].headers["Authorization"].removeprefix("Basic "))
    assert shown == b"ops:a-password"
    assert "password" not in user.id


async def test_a_wrong_password_is_known_although_the_older_api_says_nothing_of_it(
    host: OpencodeHost, upstream: OpencodeUpstream
) -> None:
    host.fault = lambda _: httpx.Response(401, headers={"WWW-Authenticate": 'Basic realm="Secure Area"'})
    with pytest.raises(errors.InvalidToken):
        await upstream.identify(WHO)


@pytest.mark.parametrize("text", ["ses_", "msg_1", "ses_a/b", "ses_a?b", "12", "ses_ä", "ses_" + "a" * 65])
def test_what_cannot_be_a_session_is_no_run(host: OpencodeHost, text: str) -> None:
    with pytest.raises(errors.Rejected):
        connected(host).run_id(text)


# -- orders -----------------------------------------------------------------------------------------------------------


async def test_a_run_has_its_marks_before_its_prompt(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    run = await upstream.create_run(WHO, "default", NewRun("Go", metadata={"a": 1}, marks={"user": "bob"}))
    assert host.paths() == [
        "POST /api/session",
        f"PATCH /session/{run.ref.id}",
        f"POST /api/session/{run.ref.id}/prompt",
    ]
    assert (run.marks, run.fields["metadata"]) == ({"user": "bob"}, {"a": 1})
    assert (run.status, run.fields["status"], run.fields["id"]) == (RunStatus.PENDING, "pending", run.ref.id)
    assert str(run.fields["created_at"]).endswith("Z")
    assert upstream.run_id(run.ref.id) == run.ref.id


async def test_without_metadata_there_is_nothing_to_change(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    run = await upstream.create_run(WHO, "default", NewRun("Go"))
    assert host.paths() == ["POST /api/session", f"POST /api/session/{run.ref.id}/prompt"]
    assert run.marks == {}


async def test_the_same_key_names_the_same_session_and_prompt(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    first = await upstream.create_run(WHO, "default", NewRun("Go", key="k"))
    again = await upstream.create_run(WHO, "default", NewRun("Go", key="k"))
    other = await upstream.create_run(WHO, "default", NewRun("Go", key="l"))
    assert first.ref == again.ref != other.ref
    assert host.body(1)["id"] == host.body(3)["id"] != host.body(5)["id"]


async def test_what_the_run_asks_for_comes_before_the_settings(host: OpencodeHost) -> None:
    upstream = connected(host, directory="/work", model="a/b", agent="build")
    await upstream.create_run(WHO, "default", NewRun("Go"))
    await upstream.create_run(
        WHO, "default", NewRun("Go", model="c/d/e", agent_type="plan", images=("data:image/png;base64,AA==",))
    )
    place = {"location": {"directory": "/work"}}
    assert host.body(0) == place | {"id": host.body(0)["id"], "agent": "build", "model": {"providerID": "a", "id": "b"}}
    assert host.body(2)["model"] == {"providerID": "c", "id": "d/e"}
    assert host.body(2)["agent"] == "plan"
    assert host.body(3)["prompt"] == {"text": "Go", "files": [{"uri": "data:image/png;base64,AA=="}]}


async def test_what_the_host_has_no_word_for_is_refused(upstream: OpencodeUpstream) -> None:
    with pytest.raises(errors.NotOffered):
        await upstream.create_run(WHO, "default", NewRun("Go", repo_id=1))
    with pytest.raises(errors.Rejected):
        await upstream.create_run(WHO, "default", NewRun("Go", model="gpt"))
    with pytest.raises(errors.Rejected):
        await upstream.create_run(WHO, "default", NewRun("Go", metadata={"codegen_gateway": {}}))
    with pytest.raises(errors.NotOffered):
        await upstream.list_runs(WHO, "default", 0, 10, RunFilter(user_id="1"))


async def test_a_resume_is_heard_although_the_run_cannot_be_read(
    host: OpencodeHost, upstream: OpencodeUpstream
) -> None:
    host.session()
    host.fault = lambda request: httpx.Response(500, json={}) if request.method == "GET" else None
    run = await upstream.resume_run(WHO, ONE, "More", None, key="k")
    assert (run.ref, run.status) == (ONE, RunStatus.PENDING)


async def test_a_prompt_of_another_text_under_the_same_key_is_a_conflict(
    host: OpencodeHost, upstream: OpencodeUpstream
) -> None:
    host.session()
    host.fault = lambda _: httpx.Response(409, json={"_tag": "ConflictError", "message": "Conflict"})
    with pytest.raises(errors.Conflict):
        await upstream.resume_run(WHO, ONE, "More", None, key="k")


async def test_a_list_has_the_marks_and_says_who_works(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    for number in range(5):
        host.session(f"ses_{number}", metadata={"codegen_gateway": {"user": str(number)}})
    host.active.add("ses_3")
    listing = await upstream.list_runs(WHO, "default", 1, 2, RunFilter())
    assert [run.ref.id for run in listing.items] == ["ses_3", "ses_2"]
    assert [run.marks for run in listing.items] == [{"user": "3"}, {"user": "2"}]
    assert [run.status for run in listing.items] == [RunStatus.RUNNING, RunStatus.UNKNOWN]
    assert [run.raw_status for run in listing.items] == ["running", None]
    assert not listing.at_end
    assert (await upstream.list_runs(WHO, "default", 3, 10, RunFilter())).at_end


async def test_a_stop_is_an_interrupt(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    await upstream.cancel_run(WHO, ONE)
    assert host.paths()[0] == "POST /api/session/ses_one/interrupt"
    assert not [path for path in host.paths() if path.startswith("PATCH")]


SILENT: dict[str, list[Event]] = {
    "before anybody has begun": prompted("Go")[:1],
    "before the model speaks": prompted("Go"),
    "in its first step": [*prompted("Go"), ("step.started", {})],
    "between two steps": [*prompted("Go"), *called("c", "date"), ("step.ended", {"finish": "tool-calls"})],
}


@pytest.mark.parametrize("name", SILENT)
async def test_a_stop_that_leaves_no_trace_in_the_log_is_noted_with_the_session(
    host: OpencodeHost, upstream: OpencodeUpstream, name: str
) -> None:
    host.session(metadata={"team": "a", "codegen_gateway": {"owner": "x"}})
    host.add("ses_one", *SILENT[name])
    await upstream.cancel_run(WHO, ONE)
    run = await upstream.get_run(WHO, ONE)
    assert (run.status, (await upstream.read_log(WHO, ONE, 0, 100)).run.status) == (RunStatus.CANCELLED,) * 2
    assert (run.fields["metadata"], (run.marks or {}).get("owner")) == ({"team": "a"}, "x")
    host.add("ses_one", *prompted("On"))
    assert (await upstream.get_run(WHO, ONE)).status is RunStatus.PENDING
    host.add("ses_one", ("step.started", {}))
    assert (await upstream.get_run(WHO, ONE)).status is RunStatus.FAILED


async def test_a_stop_that_the_log_shows_is_not_noted(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    host.add("ses_one", *prompted("Go"), STARTED, ("text.ended", {"text": "ha"}), STOPPED)
    await upstream.cancel_run(WHO, ONE)
    assert not [path for path in host.paths() if path.startswith("PATCH")]


# -- the log ----------------------------------------------------------------------------------------------------------


async def test_positions_are_the_numbers_of_the_host(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    host.hide("ses_one")
    host.turn("ses_one", "Go")
    host.hide("ses_one", 2)
    host.turn("ses_one", "On")
    page = await upstream.read_log(WHO, ONE, 0, 100)
    assert seqs(page.entries) == list(range(1, 16))
    assert [json.loads(entry.json)["type"] for entry in (page.entries[0], *page.entries[7:9])] == ["gateway.hidden"] * 3
    assert page.at_end
    assert page.paging.total == 15
    assert [entry.said for entry in page.entries if entry.said] == ["Go", "On"]
    assert page.entries[1].id == "evt_2"
    assert page.entries[0].created_at is None
    assert str(page.entries[1].created_at).endswith("Z")


async def test_a_page_that_is_hidden_as_a_whole_is_not_empty(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    host.hide("ses_one", 7)
    host.turn("ses_one", "Go")
    assert seqs((await upstream.read_log(WHO, ONE, 2, 3)).entries) == [3, 4, 5]
    host.hide("ses_one", 3)  # nothing is behind them yet
    page = await upstream.read_log(WHO, ONE, 13, 10)
    assert (page.entries, page.at_end, page.run.status) == ((), True, RunStatus.COMPLETED)


async def test_pages_of_any_size_make_up_the_same_log(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    for number in range(9):
        host.turn("ses_one", f"{number}", calls=number)
        host.hide("ses_one", number)
    whole: list[LogEntry] = []
    while (page := await upstream.read_log(WHO, ONE, len(whole), 100)).entries:
        whole += page.entries
        assert page.run.status is RunStatus.COMPLETED
        assert page.paging.total == host.logs["ses_one"][-1]["durable"]["seq"]
    assert seqs(tuple(whole)) == list(range(1, len(whole) + 1))
    for limit in (1, 7, 33):
        for after in range(0, len(whole), 11):
            page = await upstream.read_log(WHO, ONE, after, limit)
            assert list(page.entries) == whole[after : after + limit]
            page = await upstream.read_log(WHO, ONE, after, limit, newest_first=True)
            assert list(page.entries) == whole[::-1][after : after + limit]
            assert page.at_end == (after + limit >= len(whole))
            assert page.position(0) == len(whole) - after


async def test_the_end_of_a_long_log_is_found_in_few_steps(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    for number in range(400):
        host.turn("ses_one", f"{number}", calls=4)
    run = await upstream.get_run(WHO, ONE)
    assert run.status is RunStatus.COMPLETED
    assert len(host.asked) < 30
    host.asked.clear()
    host.turn("ses_one", "once more", answer="Again")
    assert (await upstream.get_run(WHO, ONE)).fields["result"] == "Again"
    assert len(host.asked) == 3


async def test_a_log_that_is_shorter_than_it_was_is_found_all_the_same(
    host: OpencodeHost, upstream: OpencodeUpstream
) -> None:
    host.session()
    for _ in range(30):
        host.turn("ses_one", "Go")
    await upstream.get_run(WHO, ONE)
    del host.logs["ses_one"][3:]  # deleted, and begun anew under the same key
    assert (await upstream.get_run(WHO, ONE)).status is RunStatus.FAILED


async def test_the_result_of_a_tool_says_what_was_called(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    host.turn("ses_one", "Go", calls=1)
    page = await upstream.read_log(WHO, ONE, 0, 100)
    steps = [upstream.step(entry) for entry in page.entries]
    assert [step.kind for step in steps if step.kind is not StepKind.OTHER] == [
        StepKind.USER,
        StepKind.ACTION,
        StepKind.ANSWER,
    ]
    (action,) = (step for step in steps if step.kind is StepKind.ACTION)
    assert (action.tool, action.input) == ("bash", {"command": "echo 0"})
    assert (action.output, action.closed) == ("out\nCommand exited with code 0.", True)
    assert [entry.open for entry in page.entries] == [False] * len(page.entries)


async def test_what_was_called_long_before_is_looked_up(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    host.add("ses_one", *prompted("Go"), *called("call_x", "make"))
    host.add("ses_one", *[("tool.progress", {"callID": "call_x"})] * 250)
    host.add("ses_one", ("tool.failed", {"callID": "call_x", "error": {"type": "unknown", "message": "Broke"}}))
    page = await upstream.read_log(WHO, ONE, 256, 10)
    step = upstream.step(page.entries[0])
    assert (step.kind, step.tool, step.input, step.output) == (StepKind.ACTION, "bash", {"command": "make"}, "Broke")
    assert page.entries[0].json == (await upstream.read_log(WHO, ONE, 200, 100)).entries[56].json


def test_what_cannot_be_had_has_an_entry_in_its_place(host: OpencodeHost) -> None:
    upstream = connected(host)
    entry = upstream.placeholder(ONE)
    assert entry.absent
    assert upstream.step(entry).kind is StepKind.OTHER


# -- how a session stands ---------------------------------------------------------------------------------------------

STARTED: Event = ("step.started", {})
STOPPED = ("step.failed", {"error": {"type": "unknown", "message": "Provider turn interrupted"}})
BROKEN = ("step.failed", {"error": {"type": "unknown", "message": "Provider request failed with HTTP 400"}})
UNDONE = ("tool.failed", {"callID": "c", "error": {"type": "unknown", "message": "Tool execution interrupted"}})
CALLS_END = ("step.ended", {"finish": "tool-calls"})

ENDS: dict[str, tuple[list[Event], RunStatus]] = {
    "nothing yet": ([], RunStatus.PENDING),
    "a prompt": (prompted("Go"), RunStatus.PENDING),
    "a step that is done": ([STARTED, ("step.ended", {"finish": "stop"})], RunStatus.COMPLETED),
    "a step cut short by its length": ([STARTED, ("step.ended", {"finish": "length"})], RunStatus.COMPLETED),
    "an error at its end": ([STARTED, ("step.ended", {"finish": "error"})], RunStatus.FAILED),
    "a title after the end": (
        [STARTED, ("step.ended", {"finish": "stop"}), ("context.updated", {})],
        RunStatus.COMPLETED,
    ),
    "a stop while the model speaks": ([STARTED, ("text.ended", {"text": "ha"}), STOPPED], RunStatus.CANCELLED),
    "a fault of the model": ([STARTED, BROKEN], RunStatus.FAILED),
    "a stop while a tool works": ([*called("c", "date"), UNDONE, CALLS_END], RunStatus.CANCELLED),
    "a question that nobody answers": ([*called("c", "date"), UNDONE], RunStatus.CANCELLED),
    "a death in the middle": ([STARTED, ("text.started", {})], RunStatus.FAILED),
    "a death between two steps": ([*called("c", "date"), CALLS_END], RunStatus.FAILED),
    "a stop in a turn before this": (
        [*called("c", "date"), UNDONE, CALLS_END, *prompted("On"), STARTED],
        RunStatus.FAILED,
    ),
}


@pytest.mark.parametrize("name", ENDS)
async def test_nobody_works_on_a_session_that_ends_with(
    host: OpencodeHost, upstream: OpencodeUpstream, name: str
) -> None:
    events, status = ENDS[name]
    host.session()
    host.add("ses_one", *events)
    page = await upstream.read_log(WHO, ONE, 0, 100)
    assert (page.run.status, page.run.raw_status, page.run.fields["status"]) == (status, status, status)
    assert (await upstream.get_run(WHO, ONE)).status is status


@pytest.mark.parametrize(("kind", "patience"), [("prompt.admitted", 60), ("prompted", 10)])
async def test_a_prompt_that_nobody_works_on_is_lost(
    host: OpencodeHost, upstream: OpencodeUpstream, kind: str, patience: int
) -> None:
    host.session()
    for seconds, status in ((patience - 5, RunStatus.PENDING), (patience + 1, RunStatus.FAILED)):
        host.add("ses_one", (kind, {"timestamp": int((time.time() - seconds) * 1000)}))
        assert (await upstream.get_run(WHO, ONE)).status is status


async def test_a_session_that_works_is_asked_what_it_waits_for_only_while_a_tool_is_called(
    host: OpencodeHost, upstream: OpencodeUpstream
) -> None:
    host.session()
    host.active.add("ses_one")
    host.add("ses_one", *prompted("Go"), STARTED)
    assert (await upstream.read_log(WHO, ONE, 0, 100)).run.status is RunStatus.RUNNING
    assert len(host.asked) == 2
    host.add("ses_one", *called("c", "date"))
    assert (await upstream.read_log(WHO, ONE, 0, 100)).run.status is RunStatus.RUNNING
    host.waiting["permission"] = [{"id": "per_1", "action": "bash", "resources": ["date"]}]
    run = (await upstream.read_log(WHO, ONE, 0, 100)).run
    assert (run.status, run.reason) == (RunStatus.WAITING, WaitReason.APPROVAL)
    host.waiting = {"permission": [], "question": [{"id": "que_1", "questions": []}]}
    assert (await upstream.get_run(WHO, ONE)).reason is WaitReason.QUESTION
    host.add("ses_one", ("tool.success", {"callID": "c", "content": []}))
    assert (await upstream.get_run(WHO, ONE)).status is RunStatus.RUNNING


async def test_what_happens_between_the_two_answers_is_not_taken_for_a_death(
    host: OpencodeHost, upstream: OpencodeUpstream
) -> None:
    host.session()
    host.add("ses_one", *prompted("Go"), STARTED)

    def ends(path: str) -> None:
        if path.endswith("/active"):
            host.meanwhile = lambda _: None
            host.add("ses_one", ("text.ended", {"text": "Hi"}), ("step.ended", {"finish": "stop"}))

    host.meanwhile = ends
    page = await upstream.read_log(WHO, ONE, 0, 100)
    assert (page.run.status, page.run.fields["result"]) == (RunStatus.COMPLETED, "Hi")
    assert (page.at_end, page.length, page.paging.total) == (False, 3, 5)
    assert (await upstream.read_log(WHO, ONE, 3, 100)).length == 2


async def test_an_end_that_a_new_prompt_follows_at_once_is_none(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    host.turn("ses_one", "Go")
    host.active.add("ses_one")
    assert (await upstream.get_run(WHO, ONE)).status is RunStatus.RUNNING


# -- what a run waits for ---------------------------------------------------------------------------------------------

PERMISSION = {"id": "per_1", "action": "bash", "resources": ["date"], "source": {"type": "tool", "callID": "c"}}
OPTIONS = [{"label": "A", "description": "a"}, {"label": "B", "description": "b"}]
QUESTION = {"id": "que_1", "questions": [{"question": "Which one?", "header": "Which", "options": OPTIONS}]}
QUESTIONS = {
    "id": "que_2",
    "questions": [{"question": "First?", "options": []}, {"question": "Second?", "options": []}],
}


async def test_requests_say_what_they_are_about(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    host.waiting = {"permission": [PERMISSION], "question": [QUESTION, QUESTIONS]}
    permission, question, questions = await upstream.pending(WHO, ONE)
    assert (permission.reason, permission.text, permission.tool) == (WaitReason.APPROVAL, "bash: date", "bash")
    assert (question.reason, question.text, question.choices) == (WaitReason.QUESTION, "Which one?", ("A", "B"))
    assert (questions.text, questions.choices) == ("First?\nSecond?", ())
    assert question.fields == QUESTION


@pytest.mark.parametrize(
    ("request_id", "decision", "order", "body"),
    [
        ("per_1", Decision("approve"), "permission/per_1/reply", {"reply": "once"}),
        ("per_1", Decision("reject", "No"), "permission/per_1/reply", {"reply": "reject", "message": "No"}),
        ("que_1", Decision("answer", "B"), "question/que_1/reply", {"answers": [["B"]]}),
        ("que_2", Decision("answer", "x\n\ny\n"), "question/que_2/reply", {"answers": [["x"], ["y"]]}),
        ("que_1", Decision("reject"), "question/que_1/reject", {}),
    ],
)
async def test_a_decision_is_told(
    host: OpencodeHost, upstream: OpencodeUpstream, request_id: str, decision: Decision, order: str, body: object
) -> None:
    host.session()
    host.waiting = {"permission": [PERMISSION], "question": [QUESTION, QUESTIONS]}
    await upstream.decide(WHO, ONE, request_id, decision)
    assert host.paths()[-1] == f"POST /api/session/ses_one/{order}"
    assert host.body(-1) == body


@pytest.mark.parametrize(
    ("request_id", "decision", "kind"),
    [
        ("per_1", Decision("answer", "x"), errors.Rejected),
        ("que_1", Decision("approve"), errors.Rejected),
        ("que_1", Decision("answer", " "), errors.Rejected),
        ("que_2", Decision("answer", "only one"), errors.Rejected),
        ("per_2", Decision("approve"), errors.NotFound),
        ("que_3", Decision("answer", "x"), errors.NotFound),
        ("per_1/../x", Decision("approve"), errors.NotFound),
        ("else", Decision("approve"), errors.NotFound),
    ],
)
async def test_a_decision_that_does_not_suit_is_refused(
    host: OpencodeHost, upstream: OpencodeUpstream, request_id: str, decision: Decision, kind: type[Exception]
) -> None:
    host.session()
    host.waiting = {"permission": [PERMISSION], "question": [QUESTION, QUESTIONS]}
    with pytest.raises(kind):
        await upstream.decide(WHO, ONE, request_id, decision)
    assert host.waiting["permission"]


# -- changes ----------------------------------------------------------------------------------------------------------


async def test_listening_begins_at_the_event_that_is_known(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    host.session()
    host.turn("ses_one", "Go")
    async with asyncio.timeout(10), aclosing(upstream.changes(WHO, ONE, 4)) as changes:
        heard = [change async for change in changes]
    assert host.asked[0].url.params["after"] == "3"
    assert host.asked[0].headers["Accept"] == "text/event-stream"
    assert len(heard) == 1 + 3


async def test_what_an_event_has_led_to_is_asked_for_when_no_other_comes(host: OpencodeHost) -> None:
    host.session()
    left = asyncio.Event()

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b'data: {"type": "x"}\n\n'
            await asyncio.Event().wait()

        async def aclose(self) -> None:
            left.set()

    host.fault = lambda _: httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Body())
    upstream = connected(host)
    async with asyncio.timeout(20), aclosing(upstream.changes(WHO, ONE, 0)) as changes:
        for _ in range(4):  # the beginning, the event, and twice that there was no other
            await anext(changes)
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert left.is_set()
    await upstream.aclose()


async def test_who_may_not_listen_is_told_why(host: OpencodeHost, upstream: OpencodeUpstream) -> None:
    with pytest.raises(errors.NotFound):
        await anext(upstream.changes(WHO, RunRef("default", "ses_none"), 0))


# -- faults -----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[httpx.Response, type[errors.GatewayError]]] = {
    "HTML with 200": (httpx.Response(200, html="<p>Hello</p>"), errors.UpstreamError),
    "nothing with 204": (httpx.Response(204), errors.UpstreamError),
    "HTML with 503": (httpx.Response(503, html="<p>Sorry</p>"), errors.UpstreamError),
    "a list for an object": (httpx.Response(200, json=[]), errors.UpstreamError),
    "half an answer": (httpx.Response(200, text='{"data": [{'), errors.AnswerCut),
    "400": (httpx.Response(400, json={"_tag": "InvalidRequestError", "message": "No"}), errors.Rejected),
    "401": (httpx.Response(401, json={"_tag": "UnauthorizedError", "message": "No"}), errors.InvalidToken),
    "404": (httpx.Response(404, json={"_tag": "SessionNotFoundError", "message": "No"}), errors.NotFound),
    "429": (httpx.Response(429, headers={"Retry-After": "3"}), errors.UpstreamRateLimited),
    "500": (httpx.Response(500, json={"name": "UnknownError", "data": {"message": "No"}}), errors.UpstreamError),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_host_has_a_name(host: OpencodeHost, upstream: OpencodeUpstream, name: str) -> None:
    answer, kind = FAULTS[name]
    host.session()
    host.fault = lambda _: answer
    for ask in (upstream.read_log(WHO, ONE, 0, 10), upstream.get_run(WHO, ONE)):
        with pytest.raises(kind):
            await ask


async def test_the_older_api_has_its_sentence_elsewhere(upstream: OpencodeUpstream) -> None:
    with pytest.raises(errors.NotFound, match="No ses_none"):
        await upstream.get_run(WHO, RunRef("default", "ses_none"))
