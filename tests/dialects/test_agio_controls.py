"""Pause, resume and cancel do what they say, to the log that the host keeps."""

import pytest

from codegen_api import errors
from codegen_api.dialects.agio import streams
from tests.dialects.agio import (
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
from tests.dialects.rich import unstoppable
from tests.fakehost import Sequence


@pytest.fixture(autouse=True)
def _streams_beat_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.3)


# -- pause and resume -------------------------------------------------------------------------------------------------


async def test_a_paused_run_goes_on_as_the_same_run_and_in_the_same_stream() -> None:
    async with chat_begun() as (site, reading, run_id):
        hosted = latest(site)
        hosted.append(text="First.")
        await reading.event("content_delta")
        done = await control(site, run_id, "pause")
        assert done["message"] == f"Run '{run_id}' paused successfully"
        assert (done["status"], hosted.status) == ("paused", "CANCELLED")
        assert await status_of(site, run_id) == "paused"
        assert await control(site, run_id, "pause") == done
        await reading.until(lambda _: ": ping" in reading.text)
        assert not reading.connection.task.done()
        done = await control(site, run_id, "resume")
        assert (done["status"], hosted.status) == ("running", "ACTIVE")
        assert await status_of(site, run_id) == "running"
        assert prompts(hosted) == ["Say hello", "Go on."]
        finish(hosted, "Second.")
        events = await reading.end()
        names = ["run_started", "content_delta", "content_delta", "run_completed"]
        assert [event.name for event in events] == names
        assert events[-1].data["response"] == "First.\n\nSecond."
        assert events[-1].data["run_id"] == run_id
        shown = (await site.get(f"/api/runs/{run_id}")).json()
        assert (shown["status"], shown["response_content"]) == ("completed", "First.\n\nSecond.")
        assert shown["metrics"] == events[-1].data["metrics"]
        assert (await site.get("/api/runs")).json()["total"] == 1
        again = await following(site, run_id).end()
        assert again == events


async def test_a_resume_may_say_something() -> None:
    async with chat_begun() as (site, reading, run_id):
        await control(site, run_id, "pause")
        await control(site, run_id, "resume", {"message": "But hurry."})
        assert prompts(latest(site)) == ["Say hello", "But hurry."]
        finish(latest(site))
        assert (await reading.end())[-1].name == "run_completed"


async def test_a_run_can_be_paused_again_and_again() -> None:
    async with chat_begun() as (site, reading, run_id):
        for number in range(3):
            latest(site).append(text=f"Part {number}.")
            part = f"Part {number}."
            await reading.until(lambda _: part in reading.text)  # noqa: B023 - it is waited for here
            await control(site, run_id, "pause")
            assert await status_of(site, run_id) == "paused"
            await control(site, run_id, "resume")
        finish(latest(site), "Done.")
        events = await reading.end()
        assert events[-1].data["response"] == "Part 0.\n\nPart 1.\n\nPart 2.\n\nDone."
        assert prompts(latest(site)) == ["Say hello", *["Go on."] * 3]
        assert len({event.id for event in events[:-1]}) == len(events) - 1


async def test_a_tool_that_was_at_work_when_its_run_was_paused_does_not_answer_any_more() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).act()
        await reading.event("tool_call_started")
        await control(site, run_id, "pause")
        failed = await reading.event("tool_call_failed")
        assert failed.data["is_success"] is False
        await control(site, run_id, "resume")
        finish(latest(site))
        assert (await reading.end())[-1].name == "run_completed"


async def test_a_resume_that_the_host_refuses_leaves_the_run_paused() -> None:
    async with chat_begun() as (site, reading, run_id):
        await control(site, run_id, "pause")
        site.host.before = Sequence("resume", errors.QuotaExhausted())
        assert (await refused(site, run_id, "resume"))[0] == 402
        assert await status_of(site, run_id) == "paused"
        await control(site, run_id, "resume")
        assert prompts(latest(site)) == ["Say hello", "Go on."]
        finish(latest(site))
        assert (await reading.end())[-1].data["response"] == "Hello!"


async def test_a_pause_that_the_host_refuses_is_none() -> None:
    async with chat_begun() as (site, reading, run_id):
        site.host.before = Sequence("cancel", errors.UpstreamRateLimited())
        assert (await refused(site, run_id, "pause"))[0] == 429
        assert await status_of(site, run_id) == "running"
        latest(site).status = "CANCELLED"  # somebody else stops it: that is no pause
        assert (await reading.end())[-1].name == "run_cancelled"


async def test_a_pause_whose_answer_is_lost_is_one_when_the_host_has_stopped() -> None:
    async with chat_begun() as (site, reading, run_id):

        async def lost(operation: str) -> None:
            if operation == "cancel":
                latest(site).status = "CANCELLED"
                raise errors.UpstreamTimeout

        site.host.before = lost
        assert (await refused(site, run_id, "pause"))[0] == 504
        await eventually(lambda: status_of(site, run_id), "paused")
        assert (await site.post(f"/api/runs/{run_id}/pause")).status_code == 200
        await reading.leave()


async def test_a_run_that_ended_before_it_could_be_paused_is_not_paused() -> None:
    async with chat_begun() as (site, reading, run_id):

        async def too_late(operation: str) -> None:
            if operation == "cancel":
                finish(latest(site))
                raise errors.Conflict

        site.host.before = too_late
        assert (await refused(site, run_id, "pause"))[0] == 409
        await reading.end()
        assert await refused(site, run_id, "pause") == (409, f"Cannot pause run '{run_id}': it is completed.")
        assert await status_of(site, run_id) == "completed"


async def test_a_run_whose_host_waits_for_its_user_is_paused_and_goes_on_when_it_is_resumed() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="Which one?")
        latest(site).status = "PAUSED"
        events = await reading.end()
        assert (events[-1].name, events[-1].data["status"]) == ("run_completed", "paused")
        assert events[-1].data["response"] == "Which one?"
        assert await status_of(site, run_id) == "paused"
        assert await control(site, run_id, "pause")
        await control(site, run_id, "resume")
        finish(latest(site), "Then both.")
        events = await following(site, run_id, events[-2].id).end()
        assert events[-1].data["response"] == "Which one?\n\nThen both."
        assert prompts(latest(site)) == ["Say hello", "Go on."]


async def test_a_question_is_answered_in_its_session() -> None:
    async with speaking() as site:
        reading = chatting(site, session_id="mine")
        run_id = await reading.run_id()
        latest(site).append(text="Which one?")
        latest(site).status = "PAUSED"
        await reading.end()
        await said(site, "The second.", session_id="mine")
        assert prompts(latest(site)) == ["Say hello", "The second."]
        assert await status_of(site, run_id) == "completed"


# -- cancel -----------------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_is_stopped_at_the_host_and_says_so() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="First.")
        await reading.event("content_delta")
        done = await control(site, run_id, "cancel")
        assert (done["status"], latest(site).status) == ("cancelled", "CANCELLED")
        events = await reading.end()
        assert (events[-1].name, events[-1].data["response"]) == ("run_cancelled", "First.")
        assert await control(site, run_id, "cancel") == done
        assert site.host.calls["cancel"] == 1
        for what in ("pause", "resume"):
            assert await refused(site, run_id, what) == (409, f"Cannot {what} run '{run_id}': it is cancelled.")


async def test_a_paused_run_can_be_cancelled() -> None:
    async with chat_begun() as (site, reading, run_id):
        await control(site, run_id, "pause")
        await control(site, run_id, "cancel")
        assert (await reading.end())[-1].name == "run_cancelled"
        assert await status_of(site, run_id) == "cancelled"
        assert (await refused(site, run_id, "resume"))[0] == 409


async def test_a_run_whose_host_waits_can_be_cancelled_there() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).status = "PAUSED"
        await reading.end()
        await control(site, run_id, "cancel")
        assert (await status_of(site, run_id), latest(site).status) == ("cancelled", "CANCELLED")


async def test_what_is_over_cannot_be_controlled_any_more() -> None:
    async with speaking() as site:
        run_id = (await said(site))["run_id"]
        for what in ("pause", "resume", "cancel"):
            assert await refused(site, run_id, what) == (409, f"Cannot {what} run '{run_id}': it is completed.")
        assert prompts(latest(site)) == ["Say hello"]


@pytest.mark.parametrize("what", ["pause", "resume", "cancel"])
async def test_a_run_that_nobody_knows_is_not_found(what: str) -> None:
    async with speaking() as site:
        assert await refused(site, "nothing", what) == (404, "Run 'nothing' not found")


@pytest.mark.parametrize("what", ["pause", "cancel"])
async def test_what_the_host_cannot_do_is_not_done(what: str) -> None:
    async with chat_begun(unstoppable()) as (site, reading, run_id):
        answer = await site.post(f"/api/runs/{run_id}/{what}")
        assert (answer.status_code, answer.json()["code"]) == (501, "unsupported")
        assert await status_of(site, run_id) == "running"
        finish(latest(site))
        await reading.end()
