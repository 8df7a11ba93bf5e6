"""Streams of runs that are paused: they are silent until the run goes on, and nothing is told twice or wrongly."""

import asyncio
from typing import Any

import pytest

from codegen_api import errors
from codegen_api.dialects.agio import streams
from tests.dialects.agio import (
    Reading,
    chat_begun,
    chatting,
    control,
    eventually,
    finish,
    following,
    latest,
    prompts,
    refused,
    said,
    speaking,
    status_of,
)
from tests.dialects.site import Site


@pytest.fixture(autouse=True)
def _streams_beat_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.3)


async def paused(site: Site, **more: Any) -> tuple[Reading, str]:
    """A chat whose run is paused when its agent has said something, and that run."""
    reading = chatting(site, **more)
    run_id = await reading.run_id()
    latest(site).append(text="First.")
    await reading.event("content_delta")
    await control(site, run_id, "pause")
    return reading, run_id


async def a_beat(reading: Reading) -> None:
    """Until there has been a sign of life more."""
    pings = reading.text.count(": ping")
    await reading.until(lambda _: reading.text.count(": ping") > pings)


async def test_who_comes_back_during_a_pause_waits_with_the_others() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="First.")
        delta = await reading.event("content_delta")
        await reading.leave()
        await control(site, run_id, "pause")
        back = following(site, run_id, delta.id)
        await back.until(lambda _: ": ping" in back.text)
        await control(site, run_id, "resume")
        finish(latest(site), "Second.")
        events = await back.end()
        assert [event.name for event in events] == ["content_delta", "run_completed"]
        assert events[0].data["content"] == "\n\nSecond."
        assert events[-1].data["response"] == "First.\n\nSecond."


async def test_what_was_said_in_a_session_since_takes_the_place_of_a_paused_run() -> None:
    async with speaking() as site:
        reading = chatting(site, session_id="mine")
        run_id = await reading.run_id()
        await control(site, run_id, "pause")
        await said(site, "Something else.", session_id="mine")
        assert (await reading.end())[-1].name == "run_cancelled"
        assert await refused(site, run_id, "resume") == (409, f"Cannot resume run '{run_id}': it is cancelled.")


async def test_a_message_that_the_host_refuses_takes_no_place() -> None:
    """While the host is being asked nobody knows yet, and afterwards the run is paused as before."""

    async with speaking() as site:
        reading, run_id = await paused(site, session_id="mine")
        answer = asyncio.Event()

        async def slow(operation: str) -> None:
            if operation == "resume":
                await answer.wait()
                raise errors.QuotaExhausted

        site.host.before = slow
        body = {"agent_id": "assistant", "message": "Something else.", "session_id": "mine"}
        asking = asyncio.ensure_future(site.post("/api/chat", body))
        await eventually(lambda: count_of(site), 2)
        await a_beat(reading)
        await a_beat(reading)
        assert await status_of(site, run_id) == "paused"
        answer.set()
        assert (await asking).status_code == 402
        site.host.before = nothing
        await control(site, run_id, "resume")
        finish(latest(site), "Second.")
        events = await reading.end()
        assert (events[-1].name, events[-1].data["response"]) == ("run_completed", "First.\n\nSecond.")
        assert prompts(latest(site)) == ["Say hello", "Go on."]


async def test_a_resume_that_the_host_refuses_is_not_told_to_who_waits() -> None:
    async with speaking() as site:
        reading, run_id = await paused(site)
        answer = asyncio.Event()

        async def slow(operation: str) -> None:
            if operation == "resume":
                await answer.wait()
                raise errors.QuotaExhausted

        site.host.before = slow
        asking = asyncio.ensure_future(refused(site, run_id, "resume"))
        await a_beat(reading)
        await a_beat(reading)
        answer.set()
        assert (await asking)[0] == 402
        site.host.before = nothing
        await a_beat(reading)
        await control(site, run_id, "resume")
        finish(latest(site), "Second.")
        events = await reading.end()
        assert [event.name for event in events] == ["run_started", *["content_delta"] * 2, "run_completed"]


async def test_who_waits_for_what_came_before_a_pause_hears_signs_of_life() -> None:
    async with speaking() as site:
        reading, run_id = await paused(site)
        await control(site, run_id, "resume")
        finish(latest(site), "Second.")
        events = await reading.end()
        answer = asyncio.Event()

        async def slow(operation: str) -> None:
            if operation == "log":
                await answer.wait()

        site.host.before = slow
        again = following(site, run_id)
        await a_beat(again)
        answer.set()
        assert await again.end() == events


@pytest.mark.parametrize("pauses", [1, 2])
async def test_who_takes_nothing_for_a_while_is_told_each_thing_once_whatever_has_happened_meanwhile(
    pauses: int,
) -> None:
    async with chat_begun() as (site, reading, run_id):
        reading.connection.blocked = asyncio.Event()
        latest(site).append(text="First.")
        latest(site).act()
        for number in range(pauses):
            await control(site, run_id, "pause")
            await control(site, run_id, "resume")
            latest(site).append(text=f"Part {number}.")
            await eventually(lambda: said_in(site, run_id), number + 2)
        finish(latest(site), "Second.")
        await eventually(lambda: status_of(site, run_id), "completed")
        reading.connection.blocked.set()
        events = await reading.end()
        again = await following(site, run_id).end()
        assert events == again
        assert [event.name for event in events].count("content_delta") == pauses + 2


async def test_the_stream_of_a_paused_run_has_its_time() -> None:
    async with chat_begun(stream_max_age_seconds=1.0) as (site, reading, run_id):
        await control(site, run_id, "pause")
        assert [event.name for event in await reading.cut()] == ["run_started"]


async def test_a_process_that_is_about_to_stop_cuts_the_streams_of_paused_runs() -> None:
    async with speaking() as site:
        reading, _ = await paused(site)
        await a_beat(reading)
        await site.app.state.parts.gateway.drain(10)
        assert [event.name for event in await reading.cut()] == ["run_started", "content_delta"]


async def test_a_stream_that_would_go_on_in_a_process_about_to_stop_is_cut_and_tells_no_end() -> None:
    async with speaking() as site:
        first, run_id = await paused(site)
        await first.leave()
        await site.app.state.parts.gateway.drain(0)
        reading = following(site, run_id)
        assert [event.name for event in await reading.cut()] == ["run_started", "content_delta"]


async def test_who_waits_for_a_paused_run_has_a_stream_of_those_that_they_may_have() -> None:
    async with speaking(streams_per_caller=2) as site:
        reading, run_id = await paused(site)
        second = following(site, run_id)
        for each in (reading, second):
            await a_beat(each)
        events = await following(site, run_id).end()
        assert (events[-1].name, events[-1].data["code"]) == ("error", "rate_limited")
        assert events[-1].data["status"] == "paused"
        await control(site, run_id, "cancel")
        for each in (reading, second):
            assert (await each.end())[-1].name == "run_cancelled"


async def count_of(site: Site) -> int:
    return int((await site.get("/api/runs")).json()["total"])


async def said_in(site: Site, run_id: str) -> int:
    """How many things the agent has said in a run by now."""
    events = (await site.get(f"/api/runs/{run_id}/events")).json()["events"]
    return sum(event["type"] == "content_delta" for event in events)


async def nothing(operation: str) -> None:
    """The host does what it does."""
