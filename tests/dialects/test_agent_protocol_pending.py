"""Runs that wait for somebody, at a host that says for what and takes decisions; and hosts whose ids are no numbers."""

import asyncio
from typing import Any

import pytest
from langgraph_sdk.errors import BadRequestError, UnprocessableEntityError

from codegen_api.errors import Rejected, UpstreamError
from codegen_api.runs import WaitReason
from codegen_api.upstreams import Decision
from tests.dialects.rich import TextHost
from tests.dialects.sdk import client_of, speaking
from tests.dialects.site import Site
from tests.dialects.test_agent_protocol_queue import busy, finish, prompts, says, until

COMMAND = {"tool": "bash", "input": {"command": "rm -r build"}, "text": "Run `rm -r build`?"}


async def interrupted(site: Any, client: Any, *requests: str, reason: WaitReason = WaitReason.APPROVAL) -> Any:
    """The host's run of a thread that waits for these."""
    hosted = await busy(site, client)
    for each in requests:
        hosted.wait(each, reason, **COMMAND)
    hosted.append()
    await until(lambda: client.threads.get("t"), lambda it: it["status"] == "interrupted")
    return hosted


async def test_what_a_run_waits_for_is_an_interrupt_wherever_there_are_interrupts() -> None:
    async with speaking() as site, client_of(site) as client:
        await interrupted(site, client, "per_1")
        thread = await client.threads.get("t")
        ((expected,),) = thread["interrupts"].values()
        (run,) = await client.runs.list("t")
        assert (expected["id"], run["status"]) == ("per_1", "interrupted")
        assert expected["value"] == {
            "reason": "Run `rm -r build`?",
            "run_id": run["run_id"],
            "waiting_for": "approval",
            "tool": "bash",
            "input": {"command": "rm -r build"},
            "choices": [],
            "action_requests": [
                {"name": "bash", "args": {"command": "rm -r build"}, "description": "Run `rm -r build`?"}
            ],
            "review_configs": [{"action_name": "bash", "allowed_decisions": ["approve", "reject"]}],
        }
        (newest, *_) = await client.threads.get_history("t")
        again = await client.threads.get_state("t", checkpoint_id=newest["checkpoint"]["checkpoint_id"])
        for state in (await client.threads.get_state("t"), newest, again):
            assert state["interrupts"] == state["tasks"][0]["interrupts"] == [expected]
            assert state["values"]["__interrupt__"] == [expected]
        assert (await client.runs.join("t", run["run_id"]))["__interrupt__"] == [expected]
        events = [each async for each in client.runs.join_stream("t", run["run_id"], stream_mode=["values", "updates"])]
        told = [each.event for each in events if each.data and each.data.get("__interrupt__") == [expected]]
        assert told == ["values", "updates", "values"]


@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        (True, Decision("approve")),
        ("approve", Decision("approve")),
        ({"decisions": [{"type": "approve"}]}, Decision("approve")),
        ({"per_1": {"decisions": [{"type": "approve"}]}}, Decision("approve")),
        ({"type": "accept"}, Decision("approve")),
        (False, Decision("reject")),
        ("reject", Decision("reject")),
        ({"decisions": [{"type": "reject", "message": "Not that"}]}, Decision("reject", "Not that")),
        ({"per_1": False}, Decision("reject")),
        ("Only the cache", Decision("answer", "Only the cache")),
    ],
)
async def test_a_resume_decides_and_the_run_goes_on_as_another_turn(answer: Any, decision: Decision) -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await interrupted(site, client, "per_1")
        made = await client.runs.create("t", "agent", command={"resume": answer})
        assert site.host.decisions == [("per_1", decision)]
        assert prompts(hosted) == ["Count to a million"]
        finish(hosted, "done")
        found = await client.runs.join("t", made["run_id"])
        assert found["messages"][-1]["content"] == "done"
        assert "__interrupt__" not in found
        assert (await client.threads.get("t"))["status"] == "idle"


async def test_a_question_is_answered_with_whatever_is_said() -> None:
    async with speaking() as site, client_of(site) as client:
        await interrupted(site, client, "q", reason=WaitReason.QUESTION)
        ((shown,),) = (await client.threads.get("t"))["interrupts"].values()
        assert "action_requests" not in shown["value"]
        await client.runs.create("t", "agent", command={"resume": "approve"})
        assert site.host.decisions == [("q", Decision("answer", "approve"))]


@pytest.mark.parametrize("answer", [True, "yes", {"decisions": [{"type": "approve"}]}, {"a": True, "z": True}])
async def test_of_several_none_is_guessed(answer: Any) -> None:
    async with speaking() as site, client_of(site) as client:
        await interrupted(site, client, "a", "b")
        with pytest.raises(UnprocessableEntityError):
            await client.runs.create("t", "agent", command={"resume": answer})
        assert site.host.decisions == []
        assert (await client.threads.get("t"))["status"] == "interrupted"


@pytest.mark.parametrize(
    "answer", [{"decisions": [{"type": "approve"}, {"type": "reject"}]}, {"a": True, "b": {"type": "reject"}}]
)
async def test_several_are_decided_together(answer: Any) -> None:
    async with speaking() as site, client_of(site) as client:
        await interrupted(site, client, "a", "b")
        await client.runs.create("t", "agent", command={"resume": answer})
        assert site.host.decisions == [("a", Decision("approve")), ("b", Decision("reject"))]


async def test_an_input_cannot_be_edited() -> None:
    async with speaking() as site, client_of(site) as client:
        await interrupted(site, client, "per_1")
        edit = {"decisions": [{"type": "edit", "edited_action": {"name": "bash", "args": {}}}]}
        answer = await site.post("/threads/t/runs", {"assistant_id": "agent", "command": {"resume": edit}})
        assert (answer.status_code, answer.json()["code"]) == (422, "unsupported")
        assert site.host.decisions == []


async def test_what_the_host_refuses_leaves_the_thread_as_it_was() -> None:
    async with speaking() as site, client_of(site) as client:
        await interrupted(site, client, "per_1")

        async def before(operation: str) -> None:
            if operation == "decide":
                raise Rejected("This is no answer.")

        site.host.before = before
        with pytest.raises(UnprocessableEntityError):
            await client.runs.create("t", "agent", command={"resume": "what?"})
        assert len(await client.runs.list("t")) == 1
        site.host.before = nothing
        await client.runs.create("t", "agent", command={"resume": True})
        assert site.host.decisions == [("per_1", Decision("approve"))]
        with pytest.raises(BadRequestError, match="not interrupted"):
            await client.runs.create("t", "agent", command={"resume": True})


async def test_a_decision_whose_answer_is_lost_is_looked_for_and_not_made_twice() -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await interrupted(site, client, "per_1")
        decide = site.host.decide

        async def lost(*args: Any) -> None:
            await decide(*args)
            raise UpstreamError

        site.host.decide = lost
        made = await client.runs.create("t", "agent", command={"resume": True})
        assert site.host.decisions == [("per_1", Decision("approve"))]
        finish(hosted, "done")
        assert (await client.runs.join("t", made["run_id"]))["messages"][-1]["content"] == "done"


async def test_a_thread_whose_run_has_ended_for_good_goes_on_in_another_run() -> None:
    async with speaking() as site, client_of(site) as client:
        hosted = await busy(site, client)
        finish(hosted, "a million")
        hosted.final = True
        (run,) = await client.runs.list("t")
        await client.runs.join("t", run["run_id"])
        await client.runs.create("t", "agent", input=says("And on"))
        assert prompts(hosted) == ["Count to a million"]
        (prompt,) = prompts(list(site.host.runs.values())[-1])
        assert "a million" in prompt
        assert prompt.endswith("And on")


async def nothing(_: str) -> None:
    return None


# -- ids --------------------------------------------------------------------------------------------------------------

IDS = ["ses_dd9e4ff29ffexjBpmvR94YVN0G", "0b5c2f2e-8f0e-4c2a-9d3c-5a1f1f2b7c11"]
SAID = {"message": {"content": [{"type": "text", "text": "Count to a million"}]}}


@pytest.mark.parametrize("id", IDS)
async def test_runs_whose_ids_are_no_numbers_pass_through_every_dialect_with_conversations(id: str) -> None:  # noqa: A002
    dialects = ("agent_protocol", "everruns", "agio")
    async with speaking(TextHost(id), dialects=dialects) as site, client_of(site) as client:
        hosted = await busy(site, client)
        assert hosted.ref.id == id
        finish(hosted, "a million")
        (run,) = await client.runs.list("t")
        assert (await client.runs.join("t", run["run_id"]))["messages"][-1]["content"] == "a million"
        again = await client.runs.create("t", "agent", input=says("And on"))
        assert prompts(hosted)[-1] == "And on"
        await client.runs.cancel("t", again["run_id"])

        session = (await site.post("/v1/sessions", {})).json()["id"]
        assert (await site.post(f"/v1/sessions/{session}/messages", SAID)).status_code == 201
        finish(list(site.host.runs.values())[-1], "a million")
        said = await until(
            lambda: site.get(f"/v1/sessions/{session}/messages"), lambda it: "a million" in it.text.split("Count")[-1]
        )
        assert said.status_code == 200

        agent = (await site.post("/api/agents", {"name": "a", "system_prompt": "Be brief."})).json()["id"]
        chat = asyncio.create_task(site.post("/api/chat", {"agent_id": agent, "message": "Say hello", "stream": False}))
        (last,) = await until(lambda: runs_of(site, 3), bool)
        finish(last, "hello")
        assert (await chat).json()["response"] == "hello"


async def runs_of(site: Site, count: int) -> list[Any]:
    """The last of so many runs, once there are as many."""
    return list(site.host.runs.values())[count - 1 :]
