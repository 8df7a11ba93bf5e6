"""Checkpoints: where they are, and what the host is told when a run goes on from one."""

from typing import Any

import pytest

from tests.dialects.agio import (
    chat_begun,
    chatting,
    checkpoints,
    ended,
    finish,
    following,
    go_on,
    latest,
    prompts,
    said,
    speaking,
    status_of,
    two_steps,
)

# -- where they are ---------------------------------------------------------------------------------------------------


async def test_there_is_one_behind_each_step() -> None:
    async with speaking() as site:
        run_id = await two_steps(site)
        listed = await checkpoints(site, run_id)
        assert (listed["total"], listed["limit"], listed["offset"]) == (5, 20, 0)
        items = listed["items"]
        assert [item["id"] for item in items] == [f"{run_id}.{n}" for n in range(5)]
        assert [item["step_num"] for item in items] == [0, 1, 2, 3, 4]
        assert [item["message_count"] for item in items] == [1, 1, 2, 4, 5]
        names = {"id", "run_id", "step_num", "description", "created_at", "message_count", "total_tokens"}
        assert set(items[0]) == {*names, "tags"}
        for item in items:
            assert (await site.get(f"/api/checkpoints/{item['id']}")).json() == item
        part = await checkpoints(site, run_id, limit=2, offset=3)
        assert part == {"items": items[3:], "total": 5, "limit": 2, "offset": 3}


@pytest.mark.parametrize("checkpoint", ["{run}.5", "{run}.input", "{run}", "nothing.1", "{run}.x", "{run}.-1"])
async def test_a_checkpoint_that_is_none_is_not_found(checkpoint: str) -> None:
    async with speaking() as site:
        run_id = await two_steps(site)
        path = "/api/checkpoints/" + checkpoint.format(run=run_id)
        assert (await site.get(path)).status_code == 404
        for how in ("restore", "fork"):
            answer = await site.post(f"{path}/{how}", {})
            assert answer.status_code == 404
        assert len(site.host.runs) == 1


async def test_the_checkpoints_of_a_run_that_is_none_are_not_found() -> None:
    async with speaking() as site:
        for method in ("GET", "POST"):
            answer = await site.ask(method, "/api/checkpoints/runs/nothing/checkpoints")
            assert (answer.status_code, answer.json()["detail"]) == (404, "Run 'nothing' not found")


async def test_making_one_names_the_place_where_the_run_is() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="I think.")
        await reading.event("content_delta")
        path = f"/api/checkpoints/runs/{run_id}/checkpoints"
        answer = await site.post(path)
        assert (answer.status_code, answer.json()["id"]) == (201, f"{run_id}.2")
        done = {"success": True, "message": f"Checkpoint '{run_id}.2' created successfully"}
        assert answer.json() == {**done, **(await checkpoints(site, run_id))["items"][-1]}
        made = (await site.post(path, {"description": "Before it goes wrong", "tags": ["a"]})).json()
        assert (made["description"], made["tags"]) == ("Before it goes wrong", ["a"])
        finish(latest(site))
        await reading.end()
        items = (await checkpoints(site, run_id))["items"]
        assert [item["description"] for item in items] == [None, None, "Before it goes wrong", None]
        assert await status_of(site, run_id) == "completed"


async def test_a_run_that_was_paused_has_its_checkpoints_in_one_row() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="First.")
        await reading.event("content_delta")
        for what in ("pause", "resume"):
            assert (await site.post(f"/api/runs/{run_id}/{what}")).status_code == 200
        finish(latest(site), "Second.")
        await reading.end()
        items = (await checkpoints(site, run_id))["items"]
        assert [item["step_num"] for item in items] == [0, 1, 2, 3, 4]
        assert {item["run_id"] for item in items} == {run_id}
        for item in items:
            assert (await site.get(f"/api/checkpoints/{item['id']}")).json() == item
        new = await go_on(site, items[3]["id"], "fork")
        assert prompts(latest(site))[0].endswith("Go on.")
        assert "First." in prompts(latest(site))[0]
        await ended(site, new["run_id"])


# -- restore ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1])
async def test_where_nothing_had_come_another_query_takes_the_place_of_the_first(step: int) -> None:
    async with speaking() as site:
        old = await two_steps(site)
        body = {"create_new_run": True, "modifications": {"modified_query": "New query"}}
        done = await go_on(site, f"{old}.{step}", "restore", body)
        assert done["new_run_id"] == done["run_id"] != old
        assert prompts(latest(site)) == ["New query"]
        assert (await ended(site, done["run_id"]))["response"] == "Done."
        shown = (await site.get(f"/api/runs/{done['run_id']}")).json()
        assert (shown["input_query"], shown["agent_id"], shown["status"]) == ("New query", "assistant", "completed")
        assert len(site.host.runs) == 2
        assert prompts(site.host.runs["1"]) == ["What is there?"]


async def test_in_the_middle_the_host_is_told_what_had_been_said_and_done() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        body = {"modifications": {"modified_query": "And behind it?"}}
        done = await go_on(site, f"{old}.3", "restore", body)
        (prompt,) = prompts(latest(site))
        assert "User: What is there?\n\nAssistant: I think.\n\nTool look: {} -> a tree" in prompt
        assert "A tree." not in prompt
        assert prompt.endswith("And behind it?")
        await ended(site, done["run_id"])


async def test_without_another_query_the_old_one_is_said_again_or_the_agent_goes_on() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        again = await go_on(site, f"{old}.0", "restore")
        assert prompts(latest(site)) == ["What is there?"]
        await ended(site, again["run_id"])
        assert (await site.get(f"/api/runs/{again['run_id']}")).json()["input_query"] == "What is there?"
        further = await go_on(site, f"{old}.2", "restore", {})
        assert prompts(latest(site))[0].endswith("Go on.")
        await ended(site, further["run_id"])


async def test_the_session_goes_on_from_where_it_was_taken_back_to() -> None:
    async with speaking() as site:
        old = await two_steps(site, session_id="mine")
        done = await go_on(site, f"{old}.2", "restore", {"modifications": {"modified_query": "Look again."}})
        assert done["session_id"] == "mine"
        await ended(site, done["run_id"], "A house.")
        await said(site, "Sure?", session_id="mine")
        assert prompts(latest(site))[1:] == ["Sure?"]
        assert prompts(site.host.runs["1"]) == ["What is there?"]


async def test_a_system_prompt_is_told_in_place_of_the_agents_and_in_a_new_run() -> None:
    async with speaking() as site:
        old = await two_steps(site, agent_id="customer_support")
        for create_new_run in (True, False):
            body = {"create_new_run": create_new_run, "modifications": {"system_prompt": "Answer in rhymes."}}
            last = (await checkpoints(site, old))["items"][-1]["id"]
            done = await go_on(site, last, "restore", body)
            (prompt,) = prompts(latest(site))
            assert "Answer in rhymes." in prompt
            assert "customer support" not in prompt
            await ended(site, done["run_id"])
        assert len(site.host.runs) == 3


async def test_other_messages_take_the_place_of_all_that_was_said() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        messages: list[Any] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is red?"},
            {"role": "assistant", "content": "A rose."},
            {"role": "user", "content": [{"type": "text", "text": "And blue?"}]},
        ]
        done = await go_on(site, f"{old}.4", "restore", {"modifications": {"modified_messages": messages}})
        (prompt,) = prompts(latest(site))
        assert "Be brief." in prompt
        assert "User: What is red?\n\nAssistant: A rose." in prompt
        assert prompt.endswith("And blue?")
        assert "tree" not in prompt
        await ended(site, done["run_id"])
        shown = (await site.get(f"/api/runs/{done['run_id']}")).json()
        assert shown["input_query"] == "And blue?"
        both = {"modified_messages": messages[1:3], "modified_query": "And green?"}
        done = await go_on(site, f"{old}.4", "fork", {"modifications": both})
        (prompt,) = prompts(latest(site))
        assert prompt.endswith("And green?")
        assert "A rose." in prompt
        await ended(site, done["run_id"])


async def test_without_a_new_run_the_same_one_goes_on_from_its_end() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        body = {"create_new_run": False, "modifications": {"modified_query": "And behind it?"}}
        done = await go_on(site, f"{old}.4", "restore", body)
        assert (done["run_id"], done["new_run_id"]) == (old, None)
        assert await status_of(site, old) == "running"
        assert prompts(latest(site)) == ["What is there?", "And behind it?"]
        assert (await ended(site, old, "A hill."))["response"] == "I think.\n\nA tree.\n\nA hill."
        assert (await site.get("/api/runs")).json()["total"] == 1
        assert [item["step_num"] for item in (await checkpoints(site, old))["items"]] == list(range(7))


async def test_without_a_new_run_the_same_one_goes_on_from_its_middle() -> None:
    async with speaking() as site:
        old = await two_steps(site)
        done = await go_on(site, f"{old}.2", "restore", {"create_new_run": False})
        assert done["run_id"] == old
        assert prompts(latest(site))[0].endswith("Go on.")
        assert len(site.host.runs) == 2
        assert (await ended(site, old, "A house."))["response"] == "I think.\n\nA house."
        assert [item["step_num"] for item in (await checkpoints(site, old))["items"]] == [0, 1, 2, 3, 4]
        assert (await site.get(f"/api/checkpoints/{old}.4")).json()["step_num"] == 4  # of what was left


async def test_a_session_that_is_busy_is_not_taken_back() -> None:
    async with chat_begun() as (site, reading, run_id):
        answer = await site.post(f"/api/checkpoints/{run_id}.0/restore", {})
        assert (answer.status_code, answer.json()["code"]) == (409, "conversation_busy")
        finish(latest(site))
        await reading.end()


async def test_a_run_that_was_taken_back_while_it_was_paused_is_read_anew() -> None:
    async with chat_begun() as (site, reading, run_id):
        latest(site).append(text="First.")
        await reading.event("content_delta")
        assert (await site.post(f"/api/runs/{run_id}/pause")).status_code == 200
        await go_on(site, f"{run_id}.0", "restore", {"create_new_run": False})
        events = await reading.end()
        assert (events[-1].name, events[-1].data["code"]) == ("error", "conflict")
        assert (await ended(site, run_id, "Anew."))["response"] == "Anew."


@pytest.mark.parametrize("step", [99, 100, 101, 200, 250])
async def test_a_long_run_goes_on_from_any_of_its_steps(step: int) -> None:
    async with speaking() as site:
        reading = chatting(site, "Count the stars.")
        run_id = await reading.run_id()
        latest(site).append(249)
        finish(latest(site), "Many.")
        events = await reading.end()
        await go_on(site, f"{run_id}.{step}", "restore", {"create_new_run": False})
        finish(latest(site), "More.")
        again = await following(site, run_id).end()
        assert again[:step] == events[:step]  # the first step is the user's, and the first event the beginning
        assert [event.data.get("content") for event in again[step:]] == ["\n\nMore.", None]
