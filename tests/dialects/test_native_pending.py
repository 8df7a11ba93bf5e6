"""Runs that wait for somebody, and hosts whose ids are no numbers."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from codegen_api.dialects.native.wire import EVENTS, LINES, Frames, Writer
from codegen_api.following import Patrol, Position
from codegen_api.gateway import Gateway
from codegen_api.runs import RunStatus, WaitReason
from codegen_api.upstreams import Decision
from tests.dialects.eventsource import parse
from tests.dialects.rich import RichHost, TextHost
from tests.dialects.site import serving
from tests.fakehost import FakeHost, Hosted, caller, in_front_of

PENDING = "/agent-runs/1/pending"
APPROVAL = {"code": "waiting", "retry_in": None, "reason": "approval"}


class SilentHost(RichHost):
    """A host that does not say what a run waits for."""

    pending = None  # type: ignore[assignment]
    decide = None  # type: ignore[assignment]


def a_waiting_host() -> RichHost:
    host = RichHost()
    host.add().append(2)
    host.runs["1"].wait("a b", tool="bash", input={"command": "ls"}, fields={"unheard_of": [1]})
    host.runs["1"].wait("q", WaitReason.QUESTION, text="Which one?", choices=("this", "that"))
    return host


# -- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.wire("pending", "run-waiting-for")
async def test_what_a_run_waits_for_is_listed_and_the_run_says_so_everywhere() -> None:
    async with serving(a_waiting_host()) as site:
        assert (await site.get(PENDING)).json() == {
            "items": [
                {
                    "id": "a b", "reason": "approval", "text": "May I?", "tool": "bash", "input": {"command": "ls"},
                    "choices": [], "fields": {"unheard_of": [1]},
                },
                {
                    "id": "q", "reason": "question", "text": "Which one?", "tool": None, "input": None,
                    "choices": ["this", "that"], "fields": {},
                },
            ]
        }  # fmt: skip
        for path in ("/agent-runs/1", "/agent-runs/1/logs"):
            body = (await site.get(path)).json()
            assert (body["run_status"], body["ended"], body["waiting_for"]) == ("waiting", False, "approval")
        assert (await site.get("/agent-runs")).json()["items"][0]["waiting_for"] == "approval"


@pytest.mark.wire("pending", "run-waiting-for", "run-final")
async def test_a_run_that_does_not_wait_has_nothing_of_it() -> None:
    host = RichHost()
    host.add()
    async with serving(host) as site:
        assert (await site.get(PENDING)).json() == {"items": []}
        assert not {"waiting_for", "final"} & (await site.get("/agent-runs/1")).json().keys()


@pytest.mark.wire("decide")
async def test_what_was_decided_reaches_the_host_and_the_run_is_the_answer() -> None:
    host = a_waiting_host()
    async with serving(host) as site:
        answer = await site.post(f"{PENDING}/a%20b", {"decision": "reject", "text": "Not that"})
        assert (answer.status_code, answer.json()["waiting_for"]) == (200, "question")
        answer = await site.post(f"{PENDING}/q", {"decision": "answer", "text": "this"})
        assert (answer.status_code, answer.json()["run_status"]) == (200, "running")
        assert "waiting_for" not in answer.json()
    assert host.decisions == [("a b", Decision("reject", "Not that")), ("q", Decision("answer", "this"))]


@pytest.mark.wire("decide")
async def test_what_is_not_pending_any_more_is_not_found() -> None:
    async with serving(a_waiting_host()) as site:
        for status in (200, 404):
            answer = await site.post(f"{PENDING}/q", {"decision": "answer", "text": "this"})
            assert answer.status_code == status
        assert answer.json()["code"] == "not_found"
        assert (await site.post("/agent-runs/2/pending/q", {"decision": "approve"})).status_code == 404


@pytest.mark.wire("decide", "error-validation")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "decision"),
        ({"decision": "maybe"}, "decision"),
        ({"decision": "answer"}, "text"),
        ({"decision": "answer", "text": None}, "text"),
        ({"decision": "answer", "text": " \n"}, "text"),
        ({"decision": "reject", "text": 1}, "text"),
    ],
)
async def test_a_decision_that_is_none_is_422_and_decides_nothing(body: Any, field: str) -> None:
    host = a_waiting_host()
    async with serving(host) as site:
        answer = await site.post(f"{PENDING}/q", body)
    assert (answer.status_code, answer.json()["details"][0]["loc"]) == (422, ["body", field])
    assert host.decisions == []


@pytest.mark.wire("pending-unsupported")
async def test_a_host_that_does_not_say_what_a_run_waits_for_is_501() -> None:
    host = SilentHost()
    host.add(status="WAITING")
    async with serving(host) as site:
        for answer in (await site.get(PENDING), await site.post(f"{PENDING}/1", {"decision": "approve"})):
            assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
        body = (await site.get("/agent-runs/1")).json()
        assert (body["run_status"], "waiting_for" in body) == ("waiting", False)


@pytest.mark.wire("run-final", "resume", "error-codes")
async def test_a_run_that_has_ended_for_good_says_so_and_is_not_resumed() -> None:
    host = RichHost()
    host.add(status="COMPLETE", final=True)
    async with serving(host, dialects=("codegen",)) as site:
        assert (await site.get("/agent-runs/1")).json()["final"] is True
        order = {"prompt": "Go on", "agent_run_id": 1}
        for path in ("/agent-runs/1/resume", "/v1/organizations/9/agent/run/resume"):
            answer = await site.post(path, order)
            assert (answer.status_code, answer.json()["code"]) == (409, "run_final")
        assert "final" not in (await site.get("/v1/organizations/9/agent/run/1")).json()
    assert host.resumed == []


@pytest.mark.wire("idempotency-replayed", "run-waiting-for")
async def test_a_repeat_is_told_what_the_first_was() -> None:
    class Waiting(RichHost):
        async def resume_run(self, *args: Any, **more: Any) -> Any:
            run = await super().resume_run(*args, **more)
            return replace(run, status=RunStatus.WAITING, reason=WaitReason.QUESTION, final=True)

    host = Waiting()
    host.add()
    async with serving(host) as site:
        first, again = [
            await site.post("/agent-runs/1/resume", {"prompt": "Go on"}, headers={"Idempotency-Key": "k"})
            for _ in range(2)
        ]
    assert again.headers["idempotent-replayed"] == "true"
    assert first.json() == again.json()
    assert (again.json()["waiting_for"], again.json()["final"]) == ("question", True)


# -- in the live log --------------------------------------------------------------------------------------------------


async def told(gateway: Gateway, writer: Writer, seconds: float) -> list[Any]:
    """The data of every ``status`` and ``notice`` that comes within so many seconds, as runs' statuses and notices."""
    stream = await gateway.follow(caller(), "9", "1", Position(0))
    assert stream is not None
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in Frames(stream, writer):
                body += piece
    except TimeoutError:
        pass
    events = (
        [(line["event"], line["data"]) for line in map(json.loads, body.splitlines()) if "data" in line]
        if writer is LINES
        else [(event.type, json.loads(event.data)) for event in parse(bytes(body))]
    )
    return [data.get("run_status", data) for name, data in events if name in ("status", "notice")]


async def waits_twice(hosted: Hosted) -> None:
    for _ in range(2):
        await asyncio.sleep(20)
        hosted.wait()
        await asyncio.sleep(20)
        hosted.append()  # which is no other wait
        await asyncio.sleep(20)
        hosted.status, hosted.pending = "ACTIVE", {}


@pytest.mark.wire("stream-waiting", "stream-status", "ndjson")
@pytest.mark.virtual_time
@pytest.mark.parametrize("writer", [EVENTS, LINES])
async def test_each_time_that_a_run_begins_to_wait_is_told_once(writer: Writer) -> None:
    host = FakeHost()
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=1000))
    hosted = host.add()
    _, whole, late = await asyncio.gather(waits_twice(hosted), told(gateway, writer, 150), later(35, gateway, writer))
    assert whole == ["running", *["waiting", APPROVAL, "running"] * 2]
    assert late == ["waiting", APPROVAL, "running"]


async def later(seconds: float, gateway: Gateway, writer: Writer) -> list[Any]:
    await asyncio.sleep(seconds)
    return await told(gateway, writer, 44)


@pytest.mark.wire("stream-waiting")
@pytest.mark.virtual_time
async def test_a_run_that_goes_on_to_wait_for_something_else_is_told_again() -> None:
    host = FakeHost()
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=1000))
    hosted = host.add()
    hosted.wait()
    watching = asyncio.create_task(told(gateway, EVENTS, 100))
    await asyncio.sleep(20)
    hosted.pending.clear()
    hosted.wait("q", WaitReason.QUESTION)
    assert await watching == ["waiting", APPROVAL, "waiting", {**APPROVAL, "reason": "question"}]


@pytest.mark.wire("stream-waiting", "stream-waits")
@pytest.mark.virtual_time
async def test_a_run_that_waits_for_nothing_in_particular_is_only_a_status() -> None:
    host = FakeHost()
    gateway = in_front_of(host, patrol=lambda: Patrol(max_age=1000))
    host.add(status="WAITING")
    assert await told(gateway, EVENTS, 100) == ["waiting"]


# -- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.wire("id-form", "root-path", "host-fields-kept", "list-filters")
@pytest.mark.parametrize(
    ("id", "quoted"),
    [
        ("ses_dd9e4ff29ffexjBpmvR94YVN0G", "ses_dd9e4ff29ffexjBpmvR94YVN0G"),
        ("0b5c2f2e-8f0e-4c2a-9d3c-5a1f1f2b7c11", "0b5c2f2e-8f0e-4c2a-9d3c-5a1f1f2b7c11"),
        ("an odd?one#é%", "an%20odd%3Fone%23%C3%A9%25"),
    ],
)
async def test_an_id_of_any_form_passes_through(id: str, quoted: str) -> None:  # noqa: A002
    host = TextHost(id)
    async with serving(host, secret_key="k" * 32) as site:
        created = await site.post("/agent-runs", {"prompt": "Say hello"})
        assert (created.status_code, created.json()["id"]) == (201, id)
        path = created.headers["location"]
        assert path == f"/agent-runs/{quoted}"
        host.runs[id].append(2)
        assert (await site.get(path)).json()["id"] == id
        listed = await site.get("/agent-runs", params={"user_id": "usr_1"})
        assert [item["id"] for item in listed.json()["items"]] == [id]
        assert host.filters[-1].user_id == "usr_1"
        page = await site.get(f"{path}/logs?limit=1")
        assert page.links["next"]["url"].startswith(f"{path}/logs?skip=1")
        host.runs[id].wait("per_1/x")
        assert (await site.get(f"{path}/pending")).json()["items"][0]["id"] == "per_1/x"
        host.runs[id].status = "COMPLETE"
        ticket = (await site.post(f"{path}/logs/stream-ticket")).json()["url"]
        assert ticket.startswith(f"{path}/logs/stream?ticket=")
        assert parse((await site.get(ticket, token=None)).content)[-1].type == "end"
        assert (await site.post(f"{path}/resume", {"prompt": "Go on"})).json()["id"] == id
        assert (await site.post(f"{path}/cancel")).json()["run_status"] == "cancelled"
