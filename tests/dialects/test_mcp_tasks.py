"""Runs as tasks, for clients that declare the extension."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from codegen_api.dialects.mcp.protocol import TASKS
from codegen_api.errors import Unsupported
from codegen_api.following.mirror import RESUME_DOUBT
from codegen_api.runs import WaitReason
from tests.dialects.mcp import ABLE, McpClient
from tests.dialects.site import Site, serving
from tests.fakehost import FakeHost, Sequence

NO_QUESTIONS: Mapping[str, Any] = {"extensions": {TASKS: {}}}


def gateway(host: Any = None, **more: Any) -> Any:
    return serving(host or FakeHost(), dialects=("mcp",), org_id="9", **more)


async def begun(client: McpClient) -> str:
    """A new task."""
    made = await client.call("run_agent", prompt="Say hello")
    assert (made["resultType"], made["status"], made["ttlMs"]) == ("task", "working", None)
    assert not {"result", "error", "inputRequests", "requestState", "content"} & set(made)
    assert isinstance(made["pollIntervalMs"], int)
    assert made["createdAt"] <= made["lastUpdatedAt"]
    task_id: str = made["taskId"]
    return task_id


@asynccontextmanager
async def at_work(host: Any = None) -> AsyncIterator[tuple[Site, McpClient, str]]:
    """A client that has just got a task."""
    async with gateway(host) as site:
        client = McpClient(site, ABLE)
        yield site, client, await begun(client)


async def task(client: McpClient, task_id: str) -> Any:
    found = await client.result("tasks/get", {"taskId": task_id})
    assert (found["resultType"], found["taskId"], found["ttlMs"]) == ("complete", task_id, None)
    assert "requestState" not in found
    return found


@pytest.mark.virtual_time
async def test_a_task_is_there_before_it_is_told_of_and_ends_with_the_result_of_the_tool() -> None:
    async with at_work() as (site, client, task_id):
        working = await task(client, task_id)
        assert (working["status"], working["statusMessage"]) == ("working", "ACTIVE")
        assert not {"result", "error", "inputRequests"} & set(working)
        site.host.runs[task_id].complete(type="ANSWER", text="It is done.")
        done = await task(client, task_id)
        assert done["status"] == "completed"
        got = await client.call("get_run", run_id=task_id)
        assert done["result"] == {name: value for name, value in got.items() if name != "_meta"}
        assert done["result"]["structuredContent"]["answer"] == "It is done."


@pytest.mark.virtual_time
async def test_a_run_that_fails_is_a_task_that_has_completed_with_a_failure_of_the_tool() -> None:
    async with at_work() as (site, client, task_id):
        site.host.runs[task_id].status = "ERROR"
        failed = await task(client, task_id)
        assert (failed["status"], failed["result"]["isError"]) == ("completed", True)
        assert "error" not in failed


@pytest.mark.virtual_time
async def test_a_task_can_be_cancelled_as_often_as_one_likes() -> None:
    async with at_work() as (site, client, task_id):
        for _ in range(2):
            acknowledged = await client.result("tasks/cancel", {"taskId": task_id})
            assert set(acknowledged) == {"resultType", "_meta"}
            assert (await task(client, task_id))["status"] == "cancelled"
        assert site.host.calls["cancel"] == 1
        other = await begun(client)
        site.host.runs[other].status = "COMPLETE"
        await client.result("tasks/cancel", {"taskId": other})
        assert (await task(client, other))["status"] == "completed"


@pytest.mark.virtual_time
async def test_a_host_that_cannot_stop_a_run_is_told_of() -> None:
    async with at_work() as (site, client, task_id):
        site.host.before = Sequence("cancel", *[Unsupported()] * 5)
        status, error = await client.error("tasks/cancel", {"taskId": task_id})
        assert (status, error["code"], error["data"]["code"]) == (200, -32603, "unsupported")


# -- what a run waits for ---------------------------------------------------------------------------------------------


def accepted(**content: Any) -> dict[str, Any]:
    return {"action": "accept", "content": content}


async def answer(client: McpClient, task_id: str, responses: Mapping[str, Any]) -> None:
    acknowledged = await client.result("tasks/update", {"taskId": task_id, "inputResponses": responses})
    assert set(acknowledged) == {"resultType", "_meta"}


@pytest.mark.virtual_time
async def test_a_run_that_waits_asks_and_the_answer_lets_it_go_on() -> None:
    async with at_work() as (site, client, task_id):
        site.host.runs[task_id].wait("q", WaitReason.QUESTION, text="Which?")
        waiting = await task(client, task_id)
        assert waiting["status"] == "input_required"
        assert waiting["inputRequests"] == {
            "wait-q": {
                "method": "elicitation/create",
                "params": {
                    "mode": "form",
                    "message": "Which?",
                    "requestedSchema": {
                        "type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"],
                    },
                },
            }
        }  # fmt: skip
        await answer(client, task_id, {"wait-q": accepted(answer="The first"), "wait-other": accepted(answer="x")})
        assert [(name, made.verdict, made.text) for name, made in site.host.decisions] == [("q", "answer", "The first")]
        assert (await task(client, task_id))["status"] == "working"
        await answer(client, task_id, {"wait-q": accepted(answer="The second")})  # too late
        assert len(site.host.decisions) == 1


@pytest.mark.virtual_time
async def test_several_requests_are_answered_one_by_one() -> None:
    async with at_work() as (site, client, task_id):
        run = site.host.runs[task_id]
        run.wait("a")
        run.wait("b")
        run.wait("c", WaitReason.QUESTION)
        asked = (await task(client, task_id))["inputRequests"]
        assert list(asked) == ["wait-a", "wait-b", "wait-c"]
        assert asked["wait-a"]["params"]["requestedSchema"]["required"] == ["approve"]
        await answer(client, task_id, {"wait-a": accepted(approve=True), "wait-c": {"action": "cancel"}})
        assert list((await task(client, task_id))["inputRequests"]) == ["wait-b", "wait-c"]
        await answer(client, task_id, {"wait-b": accepted(approve=False, text="Not that")})
        await answer(client, task_id, {"wait-c": {"action": "decline"}})
        assert [(name, made.verdict, made.text) for name, made in site.host.decisions] == [
            ("a", "approve", None), ("b", "reject", "Not that"), ("c", "reject", None),
        ]  # fmt: skip
        assert (await task(client, task_id))["status"] == "working"


@pytest.mark.parametrize(
    "response", [7, [], "yes", {}, {"action": "x"}, accepted(), accepted(answer=" "), accepted(approve=True)]
)
@pytest.mark.virtual_time
async def test_an_answer_of_another_form_is_refused(response: Any) -> None:
    async with at_work() as (site, client, task_id):
        site.host.runs[task_id].wait("q", WaitReason.QUESTION)
        params = {"taskId": task_id, "inputResponses": {"wait-q": response}}
        status, error = await client.error("tasks/update", params)
        assert (status, error["code"]) == (400, -32602)
        assert "wait-q" in error["message"]
        assert site.host.decisions == []


@pytest.mark.virtual_time
async def test_answers_come_in_an_object() -> None:
    async with at_work() as (_, client, task_id):
        wrong: list[Any] = [7, [], "yes"]
        for responses in wrong:
            status, error = await client.error("tasks/update", {"taskId": task_id, "inputResponses": responses})
            assert (status, error["code"]) == (400, -32602)


class SilentHost(FakeHost):
    """Does not say what a run waits for."""

    async def pending(self, credential: Any, ref: Any) -> Any:
        raise Unsupported


@pytest.mark.parametrize("with_totals", [True, False])
@pytest.mark.virtual_time
async def test_where_the_host_does_not_say_for_what_the_answer_resumes_the_run_once(with_totals: bool) -> None:
    async with at_work(SilentHost(with_totals=with_totals)) as (site, client, task_id):
        run = site.host.runs[task_id]
        keys: list[str] = []
        for answers in (["Yes"], ["No"]):
            run.append()
            run.status = "WAITING"
            if keys:  # the host may still tell of the time before the answer
                assert (await task(client, task_id))["status"] == "working"
                await asyncio.sleep(RESUME_DOUBT)
            (key,) = (await task(client, task_id))["inputRequests"]
            keys.append(key)
            sent = [answer(client, task_id, {key: accepted(answer=text)}) for text in answers * 3]
            done = await asyncio.gather(*sent, return_exceptions=True)
            assert None in done
            assert run.status == "ACTIVE"
        assert len({*keys}) == 2
        assert [entry.get("prompt") for entry in run.entries if entry.get("prompt")] == ["Say hello", "Yes", "No"]


@pytest.mark.virtual_time
async def test_a_client_that_can_ask_nobody_is_told_in_words() -> None:
    async with gateway() as site:
        client = McpClient(site, NO_QUESTIONS)
        task_id = await begun(client)
        site.host.runs[task_id].wait("q", WaitReason.QUESTION, text="Which?")
        waiting = await task(client, task_id)
        assert (waiting["status"], waiting["statusMessage"]) == ("working", "Which? (resume_run answers)")
        assert "inputRequests" not in waiting


# -- who has tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
@pytest.mark.virtual_time
async def test_tasks_are_for_clients_that_declare_the_extension(method: str) -> None:
    async with gateway() as site:
        site.host.add()
        lacking: list[dict[str, Any]] = [{}, {"extensions": {}}, {"extensions": 7}, {"tasks": {}}]
        for capabilities in lacking:
            status, error = await McpClient(site, capabilities).error(method, {"taskId": "1"})
            assert (status, error["code"]) == (400, -32021)
            assert error["data"] == {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        assert (await McpClient(site).error(method, {"taskId": "1"}))[1]["code"] == -32601


@pytest.mark.virtual_time
async def test_other_clients_never_get_a_task() -> None:
    async with gateway() as site:
        for client in (McpClient(site), McpClient(site, {})):
            result = await client.call("run_agent", prompt="Say hello", wait_seconds=1)
            assert result["structuredContent"]["run_status"] == "running"
            assert "taskId" not in result


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
@pytest.mark.parametrize("task_id", ["999", "x", "", None, 7])
@pytest.mark.virtual_time
async def test_there_is_no_other_task(method: str, task_id: Any) -> None:
    async with gateway() as site:
        site.host.add()
        status, error = await McpClient(site, ABLE).error(method, {"taskId": task_id})
        assert (status, error["code"]) == (400, -32602)


@pytest.mark.virtual_time
async def test_a_run_that_is_resumed_is_a_task_at_work_again() -> None:
    async with at_work() as (site, client, task_id):
        site.host.runs[task_id].status = "COMPLETE"
        assert (await task(client, task_id))["status"] == "completed"
        await client.told("resume_run", run_id=task_id, prompt="Go on")
        assert (await task(client, task_id))["status"] == "working"
