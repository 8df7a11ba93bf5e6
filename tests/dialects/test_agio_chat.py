"""Chat, as the clients in this API's documents do it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from codegen_api import errors
from codegen_api.auth.keys import new_key
from tests.dialects.agio import (
    Reading,
    chat_begun,
    chatting,
    eventually,
    finish,
    following,
    latest,
    prompts,
    said,
    speaking,
    status_of,
)
from tests.dialects.site import Site, run
from tests.fakehost import Sequence

METRICS = {"duration", "tool_calls_count", "total_steps", "total_tokens"}


async def test_a_run_is_told_before_its_agent_has_said_anything() -> None:
    async with speaking() as site:
        reading = chatting(site)
        started = (await reading.until(len))[0]
        assert (started.name, set(started.data)) == ("run_started", {"run_id", "session_id", "query"})
        assert started.data["query"] == "Say hello"
        assert [len(hosted.entries) for hosted in site.host.runs.values()] == [1]
        finish(latest(site))
        await reading.end()
        headers = reading.connection.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["location"] == f"/api/runs/{started.data['run_id']}"
        assert headers["x-accel-buffering"] == "no"


async def test_what_the_agent_says_and_does_is_told_as_it_comes() -> None:
    async with chat_begun() as (site, reading, run_id):
        hosted = latest(site)
        hosted.append(text="I think.")
        delta = await reading.event("content_delta")
        assert delta.data == {"content": "I think.", "step": 2, "kind": "thought"}
        position = hosted.act()
        started = await reading.event("tool_call_started")
        assert started.data["tool_name"] == "look"
        hosted.amend(position, output={"seen": 1})
        completed = await reading.event("tool_call_completed")
        assert completed.data["tool_call_id"] == started.data["tool_call_id"]
        assert (completed.data["result"], completed.data["is_success"]) == ('{"seen":1}', True)
        finish(hosted)
        events = await reading.end()
        last = events[-1]
        assert (last.name, last.data["status"], last.data["run_id"]) == ("run_completed", "completed", run_id)
        assert last.data["response"] == "I think.\n\nHello!"
        assert set(last.data["metrics"]) == METRICS
        assert (last.data["metrics"]["tool_calls_count"], last.data["metrics"]["total_steps"]) == (1, 4)
        contents = [event.data["content"] for event in events if event.name == "content_delta"]
        assert "".join(contents) == last.data["response"]
        ends = [event.name for event in events if event.name in ("run_completed", "run_cancelled", "error")]
        assert ends == ["run_completed"]


async def test_each_frame_is_a_name_and_a_line_of_data() -> None:
    async with speaking() as site:
        reading = chatting(site)
        await reading.run_id()
        finish(latest(site), "Two\nlines, ünd möre")
        await reading.end()
        frames = [frame for frame in reading.text.split("\n\n") if frame and not frame.startswith(":")]
        assert len(frames) == 3
        for frame in frames:
            name, data, *rest = frame.split("\n")
            assert name.startswith("event: ")
            assert isinstance(json.loads(data.removeprefix("data: ")), dict)
            assert all(line.startswith("id: ") for line in rest)
            assert "\r" not in frame


async def test_without_a_stream_the_whole_answer_comes_at_once() -> None:
    async with speaking() as site:
        asking = asyncio.ensure_future(
            site.post("/api/chat", {"agent_id": "assistant", "message": "Say hello", "stream": False})
        )
        await eventually(lambda: begun(site), True)
        latest(site).append(text="I think.")
        finish(latest(site))
        answer = await asking
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert body["response"] == "I think.\n\nHello!"
        assert body["status"] == "completed"
        assert set(body) == {"run_id", "session_id", "status", "response", "metrics"}
        assert answer.headers["location"] == f"/api/runs/{body['run_id']}"
        events = await following(site, body["run_id"]).end()
        assert events[-1].data == body
        assert answer.text.lstrip().startswith("{")


async def begun(site: Site) -> bool:
    return bool(site.host.runs)


async def test_an_answer_that_only_the_run_has_is_told_last() -> None:
    async with speaking() as site:
        reading = chatting(site)
        await reading.run_id()
        hosted = latest(site)
        hosted.result, hosted.status = "By the way.", "COMPLETE"
        events = await reading.end()
        assert [event.name for event in events] == ["run_started", "content_delta", "run_completed"]
        assert events[-1].data["response"] == "By the way."


@pytest.mark.parametrize("stream", [True, False, None])
async def test_what_cannot_begin_is_an_error_before_any_stream(stream: bool | None) -> None:
    async with speaking() as site:
        more = {} if stream is None else {"stream": stream}
        for body, status in (
            ({"agent_id": "unheard-of", "message": "Hello!"}, 404),
            ({"agent_id": "assistant"}, 422),
            ({"message": "Hello!"}, 422),
            ({"agent_id": "assistant", "message": ""}, 422),
            ({"agent_id": "assistant", "message": "  \n"}, 422),
            ({"agent_id": "assistant", "message": "a\0b"}, 422),
            ({"agent_id": "assistant", "message": "Hello!", "session_id": "s" * 200}, 422),
            ({"agent_id": "assistant", "message": "Hello!", "session_id": "a\0b"}, 422),
        ):
            answer = await site.post("/api/chat", {**body, **more})
            assert answer.status_code == status, answer.text
            assert answer.headers["content-type"] == "application/json"
            assert "detail" in answer.json()
        assert not site.host.runs
        missing = (await site.post("/api/chat", {"agent_id": "unheard-of", "message": "Hello!"})).json()
        assert missing["detail"] == missing["error"] == "Agent 'unheard-of' not found"


@pytest.mark.parametrize("given", [{"headers": {"Last-Event-ID": "3"}}, {"params": {"lastEventId": "3"}}])
def test_who_asks_for_a_chat_again_because_its_stream_was_cut_begins_no_other_run(given: dict[str, Any]) -> None:
    async def main() -> None:
        async with speaking() as site:
            answer = await site.ask("POST", "/api/chat", json={"agent_id": "assistant", "message": "Hello!"}, **given)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
            assert not site.host.runs

    run(main())


@pytest.mark.parametrize(
    ("error", "status"),
    [(errors.QuotaExhausted(), 402), (errors.Rejected(), 422), (errors.UpstreamRateLimited(), 429)],
)
async def test_what_the_host_refuses_is_refused_before_any_stream(error: errors.GatewayError, status: int) -> None:
    async with speaking() as site:
        site.host.before = Sequence("create", error)
        answer = await site.post("/api/chat", {"agent_id": "assistant", "message": "Hello!"})
        assert (answer.status_code, answer.json()["code"]) == (status, error.code)
        (failed,) = (await site.get("/api/runs")).json()["items"]
        assert (failed["status"], failed["error"]) == ("failed", error.message)


@pytest.mark.parametrize(("status", "name"), [("ERROR", "error"), ("CANCELLED", "run_cancelled")])
async def test_a_run_that_fails_has_one_end_that_says_so(status: str, name: str) -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="I tried.")
        latest(site).status = status
        events = await reading.end()
        assert [event.name for event in events] == ["run_started", "content_delta", name]
        assert events[-1].data["response"] == "I tried."
        assert events[-1].data["status"] == await status_of(site, run_id)
        if name == "error":
            assert events[-1].data["code"] == "run_failed"
            assert events[-1].data["error"] == "The run ended as ERROR."


async def test_a_host_that_is_gone_ends_the_stream_with_an_error_and_the_run_goes_on() -> None:
    async with chat_begun() as (site, reading, run_id):
        site.host.barred.add(("alice", "1"))
        events = await reading.end()
        assert (events[-1].name, events[-1].data["code"]) == ("error", "forbidden")
        assert events[-1].data["status"] == "running"
        site.host.barred.clear()
        finish(latest(site))
        assert (await following(site, run_id, events[0].id).end())[-1].data["response"] == "Hello!"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_does_not_end_its_run(stream: bool) -> None:
    async with speaking() as site:
        reading = chatting(site, stream=stream)
        if stream:
            await reading.run_id()
        await reading.connection.received(1)
        run_id = reading.connection.headers["location"].rpartition("/")[2]
        await reading.leave()
        assert site.host.calls["cancel"] == 0
        assert await status_of(site, run_id) == "running"
        finish(latest(site))
        assert (await following(site, run_id).end())[-1].name == "run_completed"
        assert await status_of(site, run_id) == "completed"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_a_chat_cannot_be_begun_by_looking(method: str) -> None:
    async with speaking() as site:
        answer = await site.ask(method, "/api/chat", params={"agent_id": "assistant", "message": "Hello!"})
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        assert "fetch" in answer.json()["detail"]
        assert answer.json()["code"] == "method_not_allowed"
        assert not site.host.runs


# -- sessions ---------------------------------------------------------------------------------------------------------


async def test_a_session_goes_on_in_one_run_of_the_host() -> None:
    async with speaking() as site:
        first = await said(site, "My name is Ann.", session_id="mine")
        assert first["session_id"] == "mine"
        second = await said(site, "What is my name?", "Ann.", session_id="mine")
        assert second["run_id"] != first["run_id"]
        assert second["response"] == "Ann."
        assert [prompts(hosted) for hosted in site.host.runs.values()] == [["My name is Ann.", "What is my name?"]]


async def test_without_one_a_session_is_made() -> None:
    async with speaking() as site:
        first, second = await said(site), await said(site, session_id="")
        assert first["session_id"] != second["session_id"]
        assert len(site.host.runs) == 2


async def test_a_session_in_which_a_run_is_under_way_is_busy() -> None:
    async with speaking() as site:
        reading = chatting(site, session_id="mine")
        await reading.run_id()
        answer = await site.post("/api/chat", {"agent_id": "assistant", "message": "And?", "session_id": "mine"})
        assert (answer.status_code, answer.json()["code"]) == (409, "conversation_busy")
        finish(latest(site))
        await reading.end()


async def test_another_agent_in_a_session_has_a_run_of_its_own_and_is_told_what_was_said() -> None:
    async with speaking() as site:
        await said(site, "My name is Ann.", "Hello Ann!", session_id="mine")
        await said(site, "Who am I?", "Ann.", agent_id="customer_support", session_id="mine")
        await said(site, "Sure?", "Yes.", agent_id="customer_support", session_id="mine")
        first, second = (prompts(hosted) for hosted in site.host.runs.values())
        assert first == ["My name is Ann."]
        assert "You are a friendly customer support agent." in second[0]
        assert "User: My name is Ann.\n\nAssistant: Hello Ann!" in second[0]
        assert second[0].endswith("Who am I?")
        assert second[1:] == ["Sure?"]


async def test_fields_that_nobody_knows_are_passed_over_and_those_that_are_known_kept() -> None:
    async with speaking() as site:
        more: dict[str, Any] = {"user_id": "u1", "metadata": {"scenario": "quick"}, "temperature": 0}
        done = await said(site, **more)
        assert site.host.created[0].metadata == {"scenario": "quick"}
        shown = (await site.get(f"/api/runs/{done['run_id']}")).json()
        assert (shown["user_id"], shown["agent_id"], shown["input_query"]) == ("u1", "assistant", "Say hello")


async def test_a_run_whose_outcome_is_not_known_is_found_again() -> None:
    async with speaking() as site:
        site.host.before = Lost(site.host)
        reading = chatting(site)
        run_id = await reading.run_id()
        finish(latest(site))
        assert (await reading.end())[-1].data["response"] == "Hello!"
        assert await status_of(site, run_id) == "completed"
        assert len(site.host.runs) == 1


class Lost:
    """The host makes a run, and its answer does not come."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.lost = False

    async def __call__(self, operation: str) -> None:
        if operation == "create" and not self.lost:
            self.lost = True
            new = self.host.created[-1]
            self.host.add("1", marks=new.marks).append(prompt=new.prompt)
            raise errors.UpstreamUnreachable


# -- endings that are none --------------------------------------------------------------------------------------------


@asynccontextmanager
async def by_key(tmp_path: Path, expires: str | None = None, **more: Any) -> AsyncIterator[tuple[Site, str, Path]]:
    """A gateway that takes a key, the key, and the list it stands in."""
    key, line = new_key("ci", ["runs:read", "runs:write"], None, expires)
    file = tmp_path / "keys"
    file.write_text(line)
    given = {"auth": ("key",), "api_token": "alice", "secret_key": "k" * 32, "org_id": "9", "api_keys_file": file}
    async with speaking(**given, **more) as site:
        yield site, key, file


def has_begun(site: Site) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return bool(site.host.runs)

    return look


def answered_with(site: Site, key: str) -> Callable[[], Awaitable[int]]:
    async def look() -> int:
        return (await site.get("/api/agents", token=key)).status_code

    return look


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_chat_whose_key_is_good_no_longer_says_so_and_gives_no_half_answer(
    stream: bool, how: str, tmp_path: Path
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=4)).isoformat() if how == "expired" else None
    async with by_key(tmp_path, soon, stream_heartbeat_seconds=0.2) as (site, key, file):
        body = {"agent_id": "assistant", "message": "Say hello", "stream": stream}
        reading = Reading(site, "POST", "/api/chat", body, Authorization=f"Bearer {key}")
        await eventually(has_begun(site), True)
        latest(site).append(type="ANSWER", text="The first half,")
        if how == "revoked":
            file.write_text("")
            await eventually(answered_with(site, key), 401)
            finish(latest(site), "and the other.")
        await reading.connection.task
        assert reading.connection.complete
        told = reading.seen[-1].data if stream else json.loads(reading.text)
        assert (told["code"], told["status"], told["response"]) == ("invalid_token", "running", None)
        assert "and the other" not in reading.text


async def test_a_whole_answer_that_is_too_long_in_coming_says_where_it_will_be() -> None:
    async with speaking(stream_max_age_seconds=0.5) as site:
        reading = chatting(site, stream=False)
        await eventually(has_begun(site), True)
        latest(site).append(type="ANSWER", text="The first half,")
        await reading.connection.task
        assert reading.connection.complete
        told = json.loads(reading.text)
        assert (told["code"], told["status"], told["response"]) == ("unfinished", "running", None)
        assert f"/api/runs/{told['run_id']}" in told["error"]
        finish(latest(site), "and the other.")
        end = (await following(site, told["run_id"]).end())[-1].data
        assert end["response"] == "The first half,\n\nand the other."
