"""A run of a thread in which another one is under way: it waits, and can be seen, joined and cancelled meanwhile."""

import asyncio
from typing import Any

import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError

from codegen_api.conversations import queueing
from tests.dialects.sdk import client_of, say, speaking
from tests.dialects.site import Site
from tests.leaks import WATCH


def says(text: str, **more: Any) -> dict[str, Any]:
    WATCH.secret("a prompt", text)
    return {"messages": [{"type": "human", "content": text, **more}]}


async def busy(site: Site, client: LangGraphClient, thread: str = "t") -> Any:
    """The host's run of a thread in which something is under way."""
    await client.threads.create(thread_id=thread)
    turn = await say(site, thread, "Count to a million")
    assert turn.run is not None
    return site.host.runs[turn.run.id]


def finish(hosted: Any, text: str) -> None:
    hosted.append(type="ANSWER", text=text)
    hosted.status = "COMPLETE"


async def until(look: Any, holds: Any) -> Any:
    while not holds(found := await look()):  # noqa: ASYNC110 - nobody tells a client
        await asyncio.sleep(0.02)
    return found


def prompts(hosted: Any) -> list[str]:
    return [entry["prompt"] for entry in hosted.entries if "prompt" in entry]


@pytest.mark.parametrize("strategy", [None, "enqueue"])
async def test_a_run_waits_unless_it_says_otherwise_and_is_pending_until_its_turn_comes(strategy: Any) -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client)
        made = await client.runs.create("t", "agent", input=says("And on"), multitask_strategy=strategy)
        assert (made["status"], made["multitask_strategy"]) == ("pending", "enqueue")
        assert (await client.runs.list("t"))[0] == made
        assert (await client.runs.get("t", made["run_id"]))["status"] == "pending"
        assert [each["run_id"] for each in await client.runs.list("t", status="pending")] == [made["run_id"]]
        assert (await client.threads.get("t"))["status"] == "busy"
        assert [each["thread_id"] for each in await client.threads.search(status="busy")] == ["t"]
        assert "And on" not in str((await client.threads.get_state("t"))["values"])
        finish(hosted, "a million")
        await until(lambda: client.runs.get("t", made["run_id"]), lambda it: it["status"] == "running")
        assert (await client.threads.get("t"))["status"] == "busy"
        finish(hosted, "that is done")
        found = await client.runs.join("t", made["run_id"])
        assert [each["content"] for each in found["messages"]] == [
            "Count to a million",
            "a million",
            "And on",
            "that is done",
        ]
        assert prompts(hosted)[-1:] == ["And on"]


@pytest.mark.parametrize("strategy", ["reject", "rollback", "interrupt"])
async def test_what_is_not_to_wait_is_refused_or_takes_its_place(strategy: str) -> None:
    async with speaking() as site, client_of(site) as client:
        await busy(site, client)
        waiting = await client.runs.create("t", "agent", input=says("And on"))
        answer = await site.post(
            "/threads/t/runs",
            {"assistant_id": "agent", "input": says("At once"), "multitask_strategy": strategy},
        )
        status = {"reject": 409, "rollback": 422, "interrupt": 200}[strategy]
        assert answer.status_code == status, answer.text
        expected = "interrupted" if strategy == "interrupt" else "pending"
        assert (await client.runs.get("t", waiting["run_id"]))["status"] == expected


async def test_whoever_waits_for_or_follows_a_run_that_waits_gets_their_own_and_nothing_before() -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client)

        async def follow(text: str, modes: Any) -> list[Any]:
            given: Any = {"input": says(text), "stream_mode": modes}
            return [event async for event in client.runs.stream("t", "agent", **given)]

        streaming = asyncio.ensure_future(follow("Second wish", ["values", "updates", "custom"]))
        await until(lambda: client.runs.list("t"), lambda runs: len(runs) == 2)
        waiting = asyncio.ensure_future(client.runs.wait("t", "agent", input=says("Third wish")))
        await until(lambda: client.runs.list("t"), lambda runs: len(runs) == 3)
        third, second, _ = await client.runs.list("t")

        async def rejoin() -> list[Any]:
            return [event async for event in client.runs.join_stream("t", second["run_id"])]

        rejoining = asyncio.ensure_future(rejoin())
        for text in ("the first came true", "the second came true", "the third came true"):
            await until(lambda: asyncio.sleep(0, hosted.status), lambda status: status == "ACTIVE")
            finish(hosted, text)
            await asyncio.sleep(0.1)
        events = await streaming
        assert events[0].data["run_id"] == second["run_id"]
        states = [event.data["messages"] for event in events if event.event == "values"]
        assert [each["content"] for each in states[0]] == [
            "Count to a million",
            "the first came true",
            "Second wish",
        ]
        assert [each["content"] for each in states[-1]][-1] == "the second came true"
        assert events[-1].data == {"status": "success"}
        assert [(each.event, each.data) for each in await rejoining] == [(e.event, e.data) for e in events]
        outcome: Any = await waiting
        assert [each["content"] for each in outcome["messages"]][-3:] == [
            "the second came true",
            "Third wish",
            "the third came true",
        ]
        assert (await client.runs.join("t", third["run_id"])) == outcome
        history = await client.threads.get_history("t", limit=100)
        assert {state["metadata"]["run_id"] for state in history} >= {second["run_id"], third["run_id"]}


async def test_more_runs_than_can_be_cancelled_at_once_are_refused_and_none_is_stopped() -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client)
        (run,) = await client.runs.list("t")
        answer = await site.ask("POST", "/runs/cancel", json={"thread_id": "t", "run_ids": [run["run_id"]] * 101})
        assert (answer.status_code, answer.json()["details"][0]["loc"]) == (422, ["body", "run_ids"])
        assert hosted.status == "ACTIVE"
        answer = await site.ask("POST", "/runs/cancel", json={"thread_id": "t", "run_ids": [run["run_id"]] * 100})
        assert answer.status_code == 204
        assert hosted.status != "ACTIVE"


@pytest.mark.parametrize("how", ["cancel", "cancel many", "cancel pending", "delete", "leave"])
async def test_a_run_that_waits_is_cancelled_in_every_way_and_never_begins(how: str) -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client)
        given: Any = {"input": says("Never said"), "stream_mode": "values"}
        gone = "cancel" if how == "leave" else "continue"

        async def follow() -> list[Any]:
            return [e async for e in client.runs.stream("t", "agent", **given, on_disconnect=gone)]

        following = asyncio.ensure_future(follow())
        (waiting, first) = await until(lambda: client.runs.list("t"), lambda runs: len(runs) == 2)
        run_id = waiting["run_id"]
        if how == "cancel":
            await client.runs.cancel("t", run_id, wait=True)
        elif how == "cancel many":
            await client.runs.cancel_many(thread_id="t", run_ids=[run_id])
        elif how == "cancel pending":
            await client.runs.cancel_many(status="pending")
        elif how == "delete":
            with pytest.raises(ConflictError):
                await client.runs.delete("t", run_id)
            assert (await site.ask("DELETE", f"/threads/t/runs/{run_id}?force=1")).status_code == 204
        else:
            following.cancel()
            await until(lambda: client.runs.get("t", run_id), lambda it: it["status"] == "interrupted")
        if how != "leave":
            events = await following
            assert [(each.event, each.data) for each in events[1:]] == [("end", {"status": "interrupted"})]
        if how == "delete":
            with pytest.raises(NotFoundError):
                await client.runs.get("t", run_id)
        else:
            assert (await client.runs.get("t", run_id))["status"] == "interrupted"
            joined: Any = await client.runs.join("t", run_id)
            assert [each["content"] for each in joined["messages"]] == ["Count to a million"]
            assert [e.event async for e in client.runs.join_stream("t", run_id)] == ["metadata", "end"]
        assert (await client.threads.get("t"))["status"] == "busy"
        assert hosted.status == "ACTIVE"
        finish(hosted, "a million")
        await until(lambda: client.runs.get("t", first["run_id"]), lambda it: it["status"] == "success")
        assert (await client.threads.get("t"))["status"] == "idle"
        # what was never said is new when it comes again
        message_id = waiting["input"]["messages"][0]["id"]
        again = await client.runs.create("t", "agent", input=says("Never said", id=message_id))
        assert prompts(hosted)[-1:] == ["Never said"]
        assert again["status"] == "running"


async def test_all_runs_of_a_thread_are_stopped_and_none_of_them_begins_meanwhile() -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client)
        for text in ("Second wish", "Third wish"):
            await client.runs.create("t", "agent", input=says(text))
        await client.runs.cancel_many(status="all")
        await until(lambda: client.threads.get("t"), lambda it: it["status"] == "idle")
        assert [each["status"] for each in await client.runs.list("t")] == ["interrupted"] * 3
        assert not {"Second wish", "Third wish"} & set(prompts(hosted))


async def test_a_thread_that_is_deleted_takes_along_what_waits() -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client)
        made = await client.runs.create("t", "agent", input=says("Second wish"))
        await client.threads.delete("t")
        assert hosted.status == "CANCELLED"
        await asyncio.sleep(0.1)
        assert "Second wish" not in prompts(hosted)
        with pytest.raises(NotFoundError):
            await client.runs.get("t", made["run_id"])


async def test_so_many_runs_wait_in_a_thread_and_the_next_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueing, "MOST_QUEUED", 2)

    async with speaking() as site, client_of(site) as client:
        await busy(site, client)
        for text in ("Second wish", "Third wish"):
            await client.runs.create("t", "agent", input=says(text))
        answer = await site.post("/threads/t/runs", {"assistant_id": "agent", "input": says("Fourth wish")})
        assert (answer.status_code, answer.json()["code"]) == (409, "queue_full")
        assert "Retry-After" in answer.headers
        assert len(await client.runs.list("t")) == 3


async def test_an_answer_to_an_interrupt_does_not_wait_for_there_is_none() -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client)
        waiting = await client.runs.create("t", "agent", input=says("Second wish"))
        with pytest.raises(BadRequestError, match="not interrupted"):
            await client.runs.create("t", "agent", command={"resume": "yes, do so"})
        await client.runs.cancel("t", waiting["run_id"])
        hosted.append(type="NOTE", text="well, shall I?")
        hosted.status = "PAUSED"
        await until(lambda: client.threads.get("t"), lambda it: it["status"] == "interrupted")
        await client.runs.create("t", "agent", command={"resume": "yes, do so"})
        assert prompts(hosted)[-1] == "yes, do so"


async def test_other_dialects_show_what_waits_as_under_way_and_take_nothing_meanwhile() -> None:
    dialects = ("agent_protocol", "everruns", "agio")
    async with speaking(dialects=dialects) as site, client_of(site) as client:
        session = (await site.post("/v1/sessions", {})).json()["id"]
        message = {"message": {"content": [{"type": "text", "text": "Count to a million"}]}}
        assert (await site.post(f"/v1/sessions/{session}/messages", message)).status_code == 201
        (found,) = await client.threads.search()
        made = await client.runs.create(found["thread_id"], "agent", input=says("And on"))
        assert made["status"] == "pending"
        assert (await site.get(f"/v1/sessions/{session}")).json()["status"] == "active"
        refused = await site.post(f"/v1/sessions/{session}/messages", message)
        assert (refused.status_code, refused.json()["code"]) == (409, "conversation_busy")
        (queued, first) = (await site.get("/api/runs")).json()["items"]
        assert (queued["status"], first["status"]) == ("starting", "running")
        answer = await site.post(f"/api/runs/{made['run_id']}/pause")
        assert answer.status_code == 409
        assert (await site.post(f"/api/runs/{made['run_id']}/cancel")).json()["status"] == "cancelled"
        assert (await client.runs.get(found["thread_id"], made["run_id"]))["status"] == "interrupted"
        await client.runs.create(found["thread_id"], "agent", input=says("And on"))
        assert (await site.post(f"/v1/sessions/{session}/cancel")).json()["status"] == "cancelled"
        statuses = [each["status"] for each in await client.runs.list(found["thread_id"])]
        assert statuses[:2] == ["interrupted", "interrupted"]
